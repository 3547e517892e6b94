//! Who may authenticate: the port to a user store, and the one that is a file.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use smallvec::SmallVec;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Algorithm, digest::lower_hex};

/// Knows the users. Asked on the request path: it must answer from memory.
pub trait Users: Send + Sync {
    /// H(user:realm:password) of this user under this algorithm, if there is one.
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1>;

    /// Whether the user exists in any realm.
    fn exists(&self, user: &str) -> bool;
}

/// H(user:realm:password): as good as the password for its realm, and treated so.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Ha1 {
    octets: [u8; 32],
    length: u8,
}

impl Ha1 {
    /// Reads the hexadecimal form; `None` if its length does not fit the algorithm.
    pub fn from_hex(text: &str, algorithm: Algorithm) -> Option<Self> {
        let length = length(algorithm);
        let mut ha1 = Self { octets: [0; 32], length: length as u8 };
        hex::decode_to_slice(text, ha1.octets.get_mut(..length)?).ok()?;
        Some(ha1)
    }

    /// Stands in for the secret of a user who does not exist.
    pub(super) fn nobody(algorithm: Algorithm) -> Self {
        Self { octets: [0; 32], length: length(algorithm) as u8 }
    }

    pub(super) fn to_hex(&self) -> zeroize::Zeroizing<String> {
        zeroize::Zeroizing::new(lower_hex(self.octets.get(..usize::from(self.length)).unwrap_or_default()))
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ha1(..)")
    }
}

fn length(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::Sha256 | Algorithm::Sha512_256 => 32,
        Algorithm::Md5 => 16,
    }
}

/// Users from a file, read whole; a reload replaces them in one step.
///
/// One user per line: `user:realm:ALGORITHM:ha1`, with ALGORITHM one of `SHA-256`, `SHA-512-256` and `MD5`, and `ha1` the hash of
/// `user:realm:password` in hexadecimal. A user has one line per algorithm. Blank lines, and lines that begin with `#`, do not count.
///
/// ```text
/// # alice, password "wonderland"
/// alice:example.com:SHA-256:f5e1…
/// ```
pub struct FileUsers {
    path: PathBuf,
    table: ArcSwap<Table>,
}

impl FileUsers {
    /// Reads the file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds lines that cannot be understood: all of them are named.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, UsersError> {
        let path = path.into();
        let table = Table::read(&path)?;
        Ok(Self { path, table: ArcSwap::from_pointee(table) })
    }

    /// Reads the file again; returns how many users there are now. On an error the users stay as they were.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn reload(&self) -> Result<usize, UsersError> {
        let table = Table::read(&self.path)?;
        let users = table.users.len();
        self.table.store(Arc::new(table));
        Ok(users)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.table.load().users.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether anybody on the machine could read the file when it was loaded. An operator is to hear of that.
    pub fn is_world_readable(&self) -> bool {
        self.table.load().world_readable
    }
}

impl Users for FileUsers {
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        let table = self.table.load();
        let entries = table.users.get(user)?;
        let entry = entries.iter().find(|entry| entry.algorithm == algorithm && &*entry.realm == realm)?;
        Some(entry.ha1.clone())
    }

    fn exists(&self, user: &str) -> bool {
        self.table.load().users.contains_key(user)
    }
}

impl fmt::Debug for FileUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileUsers").field("path", &self.path).field("users", &self.len()).finish()
    }
}

/// Why a users file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file cannot be read.
    #[error("cannot read the users file: {0}")]
    Read(#[from] io::Error),
    /// Lines that cannot be understood, all of them.
    #[error("the users file has faults: {}", list(.0))]
    Faults(Vec<Fault>),
}

/// A line that cannot be understood. It does not repeat what the line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: &'static str,
}

fn list(faults: &[Fault]) -> String {
    let texts: Vec<_> = faults.iter().map(|fault| format!("line {}: {}", fault.line, fault.reason)).collect();
    texts.join("; ")
}

#[derive(Default)]
struct Table {
    users: HashMap<Box<str>, SmallVec<[Entry; 1]>>,
    world_readable: bool,
}

struct Entry {
    /// Shared by all its users.
    realm: Arc<str>,
    algorithm: Algorithm,
    ha1: Ha1,
}

impl Table {
    fn read(path: &Path) -> Result<Self, UsersError> {
        let mut octets = fs::read(path)?;
        let table = Self::parse(&octets);
        octets.zeroize();
        let mut table = table.map_err(UsersError::Faults)?;
        table.world_readable = is_world_readable(path);
        if table.world_readable {
            tracing::warn!(path = %path.display(), "the users file is readable by everybody");
        }
        Ok(table)
    }

    fn parse(octets: &[u8]) -> Result<Self, Vec<Fault>> {
        let mut table = Self::default();
        let mut realms = HashSet::new();
        let mut faults = Vec::new();
        for (index, line) in octets.split(|&octet| octet == b'\n').enumerate() {
            if let Err(reason) = table.add(line, &mut realms) {
                faults.push(Fault { line: index + 1, reason });
            }
        }
        if faults.is_empty() { Ok(table) } else { Err(faults) }
    }

    fn add(&mut self, line: &[u8], realms: &mut HashSet<Arc<str>>) -> Result<(), &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        // A realm may hold a colon, a user name may not (RFC 7616 §3.4.2).
        let (user, rest) = line.split_once(':').ok_or(SHAPE)?;
        let (rest, ha1) = rest.rsplit_once(':').ok_or(SHAPE)?;
        let (realm, algorithm) = rest.rsplit_once(':').ok_or(SHAPE)?;
        if user.is_empty() || realm.is_empty() {
            return Err("user and realm must not be empty");
        }
        let algorithm = Algorithm::from_token(algorithm).ok_or("the algorithm must be SHA-256, SHA-512-256 or MD5")?;
        let ha1 = Ha1::from_hex(ha1, algorithm)
            .ok_or("the hash must be hexadecimal and as long as the algorithm makes it")?;
        let realm = match realms.get(realm) {
            Some(known) => known.clone(),
            None => {
                let realm: Arc<str> = realm.into();
                realms.insert(realm.clone());
                realm
            }
        };
        if !self.users.contains_key(user) {
            self.users.insert(user.into(), SmallVec::new());
        }
        let Some(entries) = self.users.get_mut(user) else { return Ok(()) };
        if entries.iter().any(|entry| entry.algorithm == algorithm && entry.realm == realm) {
            return Err("the user has a line with this realm and algorithm already");
        }
        entries.push(Entry { realm, algorithm, ha1 });
        Ok(())
    }
}

const SHAPE: &str = "expected user:realm:algorithm:hash";

#[cfg(unix)]
fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_world_readable(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::auth::ha1;

    fn line(user: &str, algorithm: Algorithm) -> String {
        format!("{user}:example.com:{algorithm}:{}\n", ha1(user, "example.com", "secret", algorithm))
    }

    #[test]
    fn users_are_found_by_name_realm_and_algorithm() {
        let text = format!("# two lines\n\n{}{}", line("alice", Algorithm::Sha256), line("alice", Algorithm::Md5));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let users = FileUsers::load(file.path()).unwrap();
        assert_eq!(users.len(), 1);
        let found = users.ha1("alice", "example.com", Algorithm::Md5).unwrap();
        assert_eq!(*found.to_hex(), ha1("alice", "example.com", "secret", Algorithm::Md5));
        assert!(users.ha1("alice", "example.com", Algorithm::Sha256).is_some());
        assert!(users.ha1("alice", "example.com", Algorithm::Sha512_256).is_none());
        assert!(users.ha1("alice", "other.com", Algorithm::Md5).is_none());
        assert!(users.ha1("Alice", "example.com", Algorithm::Md5).is_none());
        assert!(users.exists("alice") && !users.exists("bob"));
    }

    #[test]
    fn all_faults_are_told_and_none_repeats_the_secret() {
        let good = line("alice", Algorithm::Sha256);
        let secret = ha1("bob", "example.com", "secret", Algorithm::Md5);
        let text =
            format!("{good}bob\n:r:MD5:{secret}\n# fine\nbob:r:SHA-1:{secret}\nbob:r:SHA-256:{secret}\n{good}\u{0}");
        let mut octets = text.into_bytes();
        octets.extend_from_slice(b"\nbad\xff:r:MD5:00\n");
        let faults = Table::parse(&octets).err().unwrap();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3, 5, 6, 7, 8, 9]);
        let shown = UsersError::Faults(faults).to_string();
        assert!(shown.contains("line 2: expected user:realm:algorithm:hash") && !shown.contains(&secret));
    }

    #[test]
    fn failed_reload_keeps_the_users_and_a_good_one_replaces_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), line("alice", Algorithm::Sha256)).unwrap();
        let users = FileUsers::load(file.path()).unwrap();
        fs::write(file.path(), "nonsense").unwrap();
        assert!(matches!(users.reload(), Err(UsersError::Faults(faults)) if faults.len() == 1));
        assert!(users.exists("alice"));
        fs::write(file.path(), line("bob", Algorithm::Sha256)).unwrap();
        assert_eq!(users.reload().unwrap(), 1);
        assert!(users.exists("bob") && !users.exists("alice"));
        assert!(matches!(FileUsers::load(file.path().join("absent")), Err(UsersError::Read(_))));
    }

    #[test]
    fn many_users_load() {
        let mut text = String::new();
        let hash = ha1("any", "example.com", "secret", Algorithm::Sha256);
        for number in 0..20_000 {
            writeln!(text, "user{number}:example.com:SHA-256:{hash}").unwrap();
        }
        let table = Table::parse(text.as_bytes()).ok().unwrap();
        assert_eq!(table.users.len(), 20_000);
    }

    #[cfg(unix)]
    #[test]
    fn world_readable_file_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), line("alice", Algorithm::Sha256)).unwrap();
        for (mode, readable) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(FileUsers::load(file.path()).unwrap().is_world_readable(), readable);
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let text = ha1("alice", "example.com", "secret", Algorithm::Sha256);
        assert_eq!(format!("{:?}", Ha1::from_hex(&text, Algorithm::Sha256).unwrap()), "Ha1(..)");
        assert!(Ha1::from_hex(&text, Algorithm::Md5).is_none());
    }
}
