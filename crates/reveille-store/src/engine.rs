//! All that is known here of the storage engine, fjall: a log-structured merge tree behind a journal.
//!
//! Keys are the shard in two octets, big-endian, then the address-of-record: one shard is one range of keys. There are at
//! most 65535 shards, so none has the number 65535; what the store notes for itself is kept there.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{RecordStream, StoreError, Write};

use crate::directory::{Fault, OpenError};

/// The open engine.
pub(crate) struct Engine {
    database: Database,
    records: Keyspace,
}

/// One write on its way.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) shard: u16,
    pub(crate) write: Write,
}

const MARK: &[u8] = b"\xff\xffmark";

/// Octets in memory before the engine sorts them into a file; small, since every record is in its shard's memory anyway.
const MEMTABLE: u64 = 16 * 1024 * 1024;
/// Octets of journal kept: what a start has to read again.
const JOURNAL: u64 = 128 * 1024 * 1024;

impl Engine {
    /// Opens or makes the engine's files at `path`. A torn end of the journal, as a crash leaves it, is cut off: nothing
    /// in it was ever reported as written.
    pub(crate) fn open(path: &Path, cache: u64) -> Result<Self, OpenError> {
        let open = || -> fjall::Result<Self> {
            let database = Database::builder(path)
                .cache_size(cache)
                .worker_threads(1)
                .max_journaling_size(JOURNAL)
                // A batch says by itself when it goes to the disk.
                .manual_journal_persist(true)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE);
            let records = database.keyspace("records", options)?;
            Ok(Engine { database, records })
        };
        // Files damaged in ways the engine did not foresee must still end in a message that helps.
        let opened = catch_unwind(AssertUnwindSafe(open));
        let fault = match opened {
            Ok(Ok(engine)) => return Ok(engine),
            Ok(Err(fjall::Error::Locked)) => Fault::Locked,
            Ok(Err(fjall::Error::Io(error))) if is_environment(&error) => Fault::Io(error),
            Ok(Err(error)) => Fault::Damaged(error.to_string()),
            Err(_) => Fault::Damaged("the engine cannot read its files".to_owned()),
        };
        Err(OpenError::new(path, fault))
    }

    /// Writes a batch and returns when it is on the disk. Of several writes to one key the last holds.
    pub(crate) fn commit(&self, puts: &[Put]) -> fjall::Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        // The engine gives all writes of a batch the same age, so a key may occur in it once only.
        let mut seen = HashSet::with_capacity(puts.len());
        for Put { shard, write } in puts.iter().rev() {
            if !seen.insert((*shard, write.aor.as_str())) {
                continue;
            }
            let key = key(*shard, &write.aor);
            match &write.value {
                Some(value) => batch.insert(&self.records, key, value.as_ref()),
                None => batch.remove(&self.records, key),
            }
        }
        batch.commit()
    }

    /// The newest mark the engine knows; 0 before the first.
    pub(crate) fn mark(&self) -> fjall::Result<u64> {
        let stored = self.records.get(MARK)?;
        Ok(stored.and_then(|octets| octets.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    /// Sets the mark, behind every write before it, and returns when it is on the disk.
    pub(crate) fn set_mark(&self, mark: u64) -> fjall::Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.records, MARK, mark.to_be_bytes());
        batch.commit()
    }

    /// One record.
    pub(crate) fn record(&self, shard: u16, aor: &Aor) -> Result<Option<Bytes>, StoreError> {
        let value = self.records.get(key(shard, aor)).map_err(|error| {
            tracing::error!(%error, "record cannot be read from the store");
            StoreError::Unavailable
        })?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// The records of a shard as they are now; later writes do not show.
    pub(crate) fn shard(&self, shard: u16) -> RecordStream {
        Box::new(self.records.prefix(shard.to_be_bytes()).map(|entry| {
            let (key, value) = entry.into_inner().map_err(|error| {
                tracing::error!(%error, "record cannot be read from the store");
                StoreError::Unavailable
            })?;
            let aor = key.get(2..).and_then(|aor| std::str::from_utf8(aor).ok()).ok_or(StoreError::Unavailable)?;
            Ok((Aor::from_canonical(aor), Bytes::copy_from_slice(&value)))
        }))
    }
}

fn key(shard: u16, aor: &Aor) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + aor.as_str().len());
    key.extend_from_slice(&shard.to_be_bytes());
    key.extend_from_slice(aor.as_str().as_bytes());
    key
}

/// Whether an error is the environment's and not that of the files' content.
fn is_environment(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}
