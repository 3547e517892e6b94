//! The configuration: one TOML file, the environment over it, checked whole before any port opens.
//!
//! Two steps. `read` deserialises into plain sections and notes every unknown key and wrong type; `check` turns those into
//! [`Config`], whose types cannot hold nonsense, and notes every fault within and across keys. Either all is well or all the
//! faults come back at once, as `key: reason`, and the process ends with [`EX_CONFIG`].

mod check;
mod describe;
mod model;
mod raw;
mod read;

use std::path::{Path, PathBuf};

pub use describe::Key;
pub use model::*;

/// The exit code for a bad configuration (sysexits.h).
pub const EX_CONFIG: u8 = 78;

/// One fault of a configuration: `registrar.shards: must be a power of two, got 48`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// The key with its sections.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// All the faults of a configuration; never empty. Displayed one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<ConfigError>);

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Reads and checks the file at `path`, with overrides from the environment (`REVEILLE__SECTION__KEY`).
///
/// # Errors
/// With every fault found, or the one that the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Faults(vec![ConfigError { key: path.display().to_string(), reason: format!("cannot be read: {error}") }])
    })?;
    from_text(&text, &folder_of(path), true)
}

/// Checks a configuration given as text; relative paths in it start at `base`. The environment plays no part.
///
/// # Errors
/// With every fault found.
pub fn parse(text: &str, base: &Path) -> Result<Config, Faults> {
    from_text(text, base, false)
}

/// Every key there is, with its default and meaning.
pub fn keys() -> Vec<Key> {
    raw::keys()
}

fn from_text(text: &str, base: &Path, environment: bool) -> Result<Config, Faults> {
    let (raw, mut faults) = read::read(text, environment);
    let (config, found) = check::check(&raw, base);
    // A key whose type is wrong was taken out, and then seems to be missing: one fault, not two.
    let known: Vec<String> = faults.iter().map(|fault| fault.key.clone()).collect();
    faults.extend(found.into_iter().filter(|fault| !known.iter().any(|key| is_within(key, &fault.key))));
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(Faults(faults)),
    }
}

/// Whether one of two keys is the other or lies within it; a syntax fault lies within everything.
fn is_within(one: &str, other: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    one == "syntax" || inside(one, other) || inside(other, one)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What is said of a feature of the design that this version has not got.
pub(crate) const NOT_YET: &str = "not yet supported in this version";

#[cfg(test)]
mod tests;
