//! One source for a configuration key: its name, type, default and meaning stand together in [`super::raw`], and the struct,
//! its defaults and the reference table of the documentation are all made from there.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A configuration key as the documentation shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key with its sections: `push.apns.NAME.team_id`; a section that repeats has `[]`.
    pub path: String,
    /// The default in TOML notation; none where the key is required or absent means "off".
    pub default: Option<String>,
    /// What it does.
    pub meaning: String,
}

impl Key {
    /// The key's row in the reference table.
    pub fn row(&self) -> String {
        let default = self.default.as_ref().map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
        format!("| `{}` | {default} | {} |", self.path, self.meaning)
    }
}

/// Something that can list the keys within it.
pub(super) trait Describe {
    /// Adds the keys at and below `path`; `meaning` is used where this is a single key.
    fn describe(&self, path: &str, meaning: &str, keys: &mut Vec<Key>);
}

/// Declares a section: a struct that refuses unknown keys, whose fields have defaults and say what they mean.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub(super) $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl Describe for $name {
            fn describe(&self, path: &str, _: &str, keys: &mut Vec<Key>) {
                $(self.$field.describe(&join(path, stringify!($field)), concat!($($doc),+).trim(), keys);)+
            }
        }
    };
}
pub(super) use section;

/// Lists of tables: described by what one entry may hold.
macro_rules! tables {
    ($($name:ident),+) => {
        $(impl Describe for Vec<$name> {
            fn describe(&self, path: &str, _: &str, keys: &mut Vec<Key>) {
                $name::default().describe(&format!("{path}[]"), "", keys);
            }
        })+
    };
}
pub(super) use tables;

/// Single values: their default is written as TOML writes it.
macro_rules! values {
    ($($type:ty),+ $(,)?) => {
        $(impl Describe for $type {
            fn describe(&self, path: &str, meaning: &str, keys: &mut Vec<Key>) {
                let default = serde_json::to_string(self).ok().filter(|text| !matches!(text.as_str(), "null" | "\"\""));
                keys.push(Key { path: path.to_owned(), default, meaning: meaning.to_owned() });
            }
        })+
    };
}

values!(
    bool,
    u8,
    u16,
    u32,
    usize,
    String,
    Span,
    PathBuf,
    SocketAddr,
    Vec<String>,
    Vec<PathBuf>,
    Vec<IpNet>,
    Option<String>,
    Option<u16>,
    Option<PathBuf>,
    Option<SocketAddr>,
);

impl<T: Describe + Default> Describe for BTreeMap<String, T> {
    fn describe(&self, path: &str, meaning: &str, keys: &mut Vec<Key>) {
        T::default().describe(&join(path, "NAME"), meaning, keys);
    }
}

/// Appends one more part to a dotted path.
pub(super) fn join(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") }
}

/// A duration written as people write it: `"30s"`, `"5m"`, `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    pub(super) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(super) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as \"500ms\", \"30s\", \"5m\" or \"7d\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                humantime::parse_duration(text)
                    .map(Span)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}
