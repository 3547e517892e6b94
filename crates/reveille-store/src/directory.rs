//! The data directory: who may use it, which format it holds, and what to tell the operator when it does not fit.
//!
//! ```text
//! DIR/           0700, this process's own
//!   lock         held while a process uses the directory
//!   format       text: format version and shard count; written before the first record
//!   mark         a number that the engine must know too, renewed at every start and stop
//!   engine/      the engine's files
//! ```
//!
//! The mark shows what the engine cannot see by itself: after a crash it takes whatever it cannot read at the end of its
//! journal for a torn write, and would call a journal that lost its head an empty one. A mark newer than the engine's says
//! that records which were reported as written are gone.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Version of the layout: of the key's form and of the files around the engine. Values carry a version of their own.
pub const FORMAT: u32 = 1;

/// As much of a small file as is worth reading; ours have some fifty octets.
const MAX_SMALL_FILE: u64 = 4096;

/// The store cannot be opened. Prints as path, reason, and what to do about it.
#[derive(Debug)]
pub struct OpenError {
    /// The file or directory at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a data directory.
#[derive(Debug)]
pub enum Fault {
    /// The operating system refused an operation.
    Io(io::Error),
    /// Another process holds the directory.
    Locked,
    /// The directory holds engine files but no format file, or the format file is not ours.
    NotOurs,
    /// The format is of a version that this program does not know.
    Version(u32),
    /// The directory was made for another number of shards.
    Shards {
        /// What the directory was made for.
        stored: u16,
        /// What the configuration asks for.
        configured: u16,
    },
    /// The engine cannot make sense of its files.
    Damaged(String),
}

impl OpenError {
    pub(crate) fn new(path: &Path, fault: Fault) -> Self {
        OpenError { path: path.to_owned(), fault }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |error| OpenError::new(path, Fault::Io(error))
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.fault {
            Fault::Io(error) => {
                write!(f, "{error}; the directory must exist or be creatable, and belong to the user the program runs as")
            }
            Fault::Locked => f.write_str("in use by another process; stop it, or give this one a data directory of its own"),
            Fault::NotOurs => f.write_str(
                "holds files that are no store of ours; point the configuration at an empty directory, or restore this one",
            ),
            Fault::Version(found) => write!(
                f,
                "holds format {found}, this program knows {FORMAT}; run the version that wrote it, or start with an empty directory"
            ),
            Fault::Shards { stored, configured } => write!(
                f,
                "was made for {stored} shards, the configuration says {configured}; \
                 set registrar.shards = {stored}, or start with an empty directory"
            ),
            Fault::Damaged(detail) => write!(
                f,
                "damaged: {detail}; restore the directory from a backup, or move it away and start empty: \
                 phones are known again once they register anew"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A data directory that is ours as long as this value lives.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    engine: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, takes its lock, and checks or writes its format.
    pub(crate) fn claim(path: &Path, shards: u16) -> Result<Self, OpenError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(OpenError::io(path))?;
        // One made by somebody else may be open to others, and the records hold push tokens (P-109).
        restrict(path, 0o700)?;

        let lock_path = path.join("lock");
        let lock = private().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(OpenError::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::new(path, Fault::Locked)),
            Err(TryLockError::Error(error)) => return Err(OpenError::io(&lock_path)(error)),
        }

        let (format, engine) = (path.join("format"), path.join("engine"));
        match File::open(&format) {
            Ok(file) => check_format(&format, file, path, shards)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::io(&format)(error)),
            Err(_) if engine.exists() => return Err(OpenError::new(path, Fault::NotOurs)),
            Err(_) => replace(path, "format", &format!("reveille-store\nformat {FORMAT}\nshards {shards}\n"))?,
        }
        Ok(Directory { path: path.to_owned(), engine, _lock: lock })
    }

    /// Where the engine's files are.
    pub(crate) fn engine(&self) -> &Path {
        &self.engine
    }

    /// The mark the engine must have reached; 0 in a new directory.
    pub(crate) fn mark(&self) -> Result<u64, OpenError> {
        let path = self.path.join("mark");
        match File::open(&path) {
            Ok(file) => {
                let text = read_text(file).map_err(OpenError::io(&path))?;
                let mark = text.trim_end().parse();
                mark.map_err(|_| OpenError::new(&path, Fault::Damaged("is not a number".to_owned())))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(OpenError::io(&path)(error)),
        }
    }

    /// Notes a mark, once the engine has it on the disk.
    pub(crate) fn set_mark(&self, mark: u64) -> Result<(), OpenError> {
        replace(&self.path, "mark", &format!("{mark}\n"))
    }

    /// Takes from group and others whatever access the engine's files give them. Files made later are covered by the
    /// directory's own mode.
    pub(crate) fn restrict_engine(&self) -> Result<(), OpenError> {
        let mut pending = vec![self.engine.clone()];
        while let Some(directory) = pending.pop() {
            restrict(&directory, 0o700)?;
            for entry in fs::read_dir(&directory).map_err(OpenError::io(&directory))? {
                let entry = entry.map_err(OpenError::io(&directory))?;
                let kind = entry.file_type().map_err(OpenError::io(&directory))?;
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() {
                    restrict(&entry.path(), 0o600)?;
                }
            }
        }
        Ok(())
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Narrows a mode that is wider than `mode`.
fn restrict(path: &Path, mode: u32) -> Result<(), OpenError> {
    let found = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode(),
        // The engine removes files of its own accord.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::io(path)(error)),
    };
    if found & 0o7777 & !mode == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(OpenError::io(path)),
    }
}

/// Replaces a small file such that a crash leaves the old one or the new one.
fn replace(directory: &Path, name: &str, text: &str) -> Result<(), OpenError> {
    let (path, draft) = (directory.join(name), directory.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = private().write(true).create(true).truncate(true).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(OpenError::io(&path))
}

fn read_text(file: File) -> io::Result<String> {
    let mut octets = Vec::new();
    file.take(MAX_SMALL_FILE).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

fn check_format(format: &Path, file: File, path: &Path, shards: u16) -> Result<(), OpenError> {
    let text = read_text(file).map_err(OpenError::io(format))?;
    let not_ours = || OpenError::new(path, Fault::NotOurs);
    let mut lines = text.lines();
    if lines.next() != Some("reveille-store") {
        return Err(not_ours());
    }
    let mut number = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ')?.parse::<u32>().ok();
    let version = number("format").ok_or_else(not_ours)?;
    if version != FORMAT {
        return Err(OpenError::new(path, Fault::Version(version)));
    }
    let stored = number("shards").and_then(|n| u16::try_from(n).ok()).ok_or_else(not_ours)?;
    if stored != shards {
        return Err(OpenError::new(path, Fault::Shards { stored, configured: shards }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// P-109: nobody but the owner gets in, even where the directory was made with wider access.
    #[test]
    fn access_is_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let made = parent.path().join("deep/store");
        let directory = Directory::claim(&made, 8).unwrap();
        assert_eq!((mode(&made), mode(&made.join("lock")), mode(&made.join("format"))), (0o700, 0o600, 0o600));

        fs::create_dir(directory.engine()).unwrap();
        fs::write(directory.engine().join("table"), "x").unwrap();
        fs::set_permissions(directory.engine().join("table"), Permissions::from_mode(0o644)).unwrap();
        directory.restrict_engine().unwrap();
        assert_eq!((mode(directory.engine()), mode(&directory.engine().join("table"))), (0o700, 0o600));

        let found = parent.path().join("found");
        fs::create_dir(&found).unwrap();
        fs::set_permissions(&found, Permissions::from_mode(0o755)).unwrap();
        Directory::claim(&found, 8).unwrap();
        assert_eq!(mode(&found), 0o700);
    }

    #[test]
    fn one_process_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let first = Directory::claim(parent.path(), 8).unwrap();
        let error = Directory::claim(parent.path(), 8).unwrap_err();
        assert!(matches!(error.fault, Fault::Locked), "{error}");
        drop(first);
        Directory::claim(parent.path(), 8).unwrap();
    }

    /// Every fault names the path and the mend.
    #[test]
    fn foreign_formats_are_refused() {
        let cases = [
            ("reveille-store\nformat 1\nshards 16\n", "set registrar.shards = 16"),
            ("reveille-store\nformat 7\n", "holds format 7"),
            ("something else", "no store of ours"),
            ("reveille-store\nformat x\n", "no store of ours"),
            ("reveille-store\nformat 1\nshards 99999\n", "no store of ours"),
            ("reveille-store\nformat 1\n", "no store of ours"),
            ("", "no store of ours"),
        ];
        for (text, expected) in cases {
            let parent = tempfile::tempdir().unwrap();
            fs::write(parent.path().join("format"), text).unwrap();
            let shown = Directory::claim(parent.path(), 8).unwrap_err().to_string();
            assert!(shown.contains(expected) && shown.contains(parent.path().to_str().unwrap()), "{text:?}: {shown}");
        }
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("engine")).unwrap();
        let error = Directory::claim(parent.path(), 8).unwrap_err();
        assert!(matches!(error.fault, Fault::NotOurs), "{error}");
    }

    #[test]
    fn marks_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::claim(parent.path(), 8).unwrap();
        assert_eq!(directory.mark().unwrap(), 0);
        directory.set_mark(u64::MAX).unwrap();
        assert_eq!(directory.mark().unwrap(), u64::MAX);
        assert_eq!(mode(&parent.path().join("mark")), 0o600);
        fs::write(parent.path().join("mark"), [0xff]).unwrap();
        assert!(directory.mark().unwrap_err().to_string().contains("is not a number"));
    }

    #[test]
    fn a_file_in_the_way_is_reported() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        let shown = Directory::claim(&path, 8).unwrap_err().to_string();
        assert!(shown.contains(path.to_str().unwrap()) && shown.contains("belong to the user"), "{shown}");
    }
}
