//! From text and environment to [`Raw`], with every fault of names and types, not only the first.
//!
//! Serde stops at the first fault. Every key has a default, though, so a faulty one can be noted, taken out and the rest read
//! again, until nothing is left to complain about.

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::{ConfigError, raw::Raw};

/// Reads `text` and, over it, the environment if `environment` says so.
pub(super) fn read(text: &str, environment: bool) -> (Raw, Vec<ConfigError>) {
    let mut figment = Figment::from(Toml::string(text));
    if environment {
        figment = figment.merge(Env::prefixed(PREFIX).split("__"));
    }
    match figment.extract::<Value>() {
        Ok(value) => collect(value),
        Err(error) => {
            let faults = error.into_iter().map(|error| {
                let key = if error.path.is_empty() { "syntax".to_owned() } else { error.path.join(".") };
                ConfigError { key, reason: one_line(&error.kind.to_string()) }
            });
            (Raw::default(), faults.collect())
        }
    }
}

fn collect(mut value: Value) -> (Raw, Vec<ConfigError>) {
    let mut faults = Vec::new();
    loop {
        match serde_path_to_error::deserialize::<_, Raw>(&value) {
            Ok(raw) => return (raw, faults),
            Err(error) => {
                let key = error.path().to_string();
                let reason = reason(&key, &error.inner().to_string());
                let removed = remove(&mut value, error.path());
                faults.push(ConfigError { key, reason });
                if !removed || faults.len() >= MOST_FAULTS {
                    return (Raw::default(), faults);
                }
            }
        }
    }
}

fn reason(key: &str, message: &str) -> String {
    let Some((_, expected)) = message.split_once("unknown field").and_then(|(_, rest)| rest.split_once(", ")) else {
        return one_line(message);
    };
    if NOT_YET.contains(&key) {
        return super::NOT_YET.to_owned();
    }
    format!("unknown key, {expected}")
}

/// Takes the value at `path` out. Of a list of plain values the whole list goes, so that no index moves.
fn remove(value: &mut Value, path: &Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some(last_name) = segments.iter().rposition(|segment| matches!(segment, Segment::Map { .. })) else {
        return false;
    };
    let Some((Segment::Map { key }, parents)) = segments.get(..=last_name).and_then(|path| path.split_last()) else {
        return false;
    };
    let mut place = value;
    for parent in parents {
        let next = match parent {
            Segment::Map { key } => place.get_mut(key),
            Segment::Seq { index } => place.get_mut(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        match next {
            Some(next) => place = next,
            None => return false,
        }
    }
    place.as_object_mut().is_some_and(|object| object.remove(key).is_some())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What environment variables that override keys begin with; sections are parted by two underscores.
const PREFIX: &str = "REVEILLE__";

/// Sections of the design that this version does not have; said plainly, so that nobody looks for a misspelling.
const NOT_YET: &[&str] =
    &["relay", "auth.bearer", "auth.users.redis", "auth.users.http", "telemetry.otlp", "telemetry.otlp_endpoint"];

/// Nobody reads more.
const MOST_FAULTS: usize = 200;
