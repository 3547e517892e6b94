//! The port through which shards keep their records: what a store has to offer a registrar.
//!
//! A shard never waits for the store. It hands a record over, goes on, and hears the verdict later as
//! [`Acks::written`]; the 200 of the REGISTER leaves then and not before (S-108, P-170).

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    aor::Aor,
    record::{self, DecodeError, Record},
};

/// Keeps the records of all shards.
pub trait Replica: Send + Sync {
    /// Says where verdicts go. Called once, before the first write.
    fn attach(&self, acks: Arc<dyn Acks>);

    /// Takes a write; never waits. Every accepted write is answered exactly once through [`Acks::written`], and the
    /// writes of one address-of-record take effect, and are answered, in the order in which they were handed over.
    ///
    /// # Errors
    /// [`StoreFull`] when the writer's queue has no room: nothing was taken and no verdict follows.
    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull>;

    /// Every record of a shard, in any order. May block: it is read on a thread made for that.
    ///
    /// # Errors
    /// [`StoreError`] when the shard cannot be read now, or an item of the iterator when reading fails on the way.
    fn load(&self, shard: u16) -> Result<RecordStream, StoreError>;

    /// One record; `None` where there is none. A shard that is still being filled asks for those that are wanted now.
    ///
    /// The future fails with [`StoreError`] when the record cannot be read now.
    fn read(&self, shard: u16, aor: &Aor) -> Reading;

    /// Whether this node had followed a shard that it takes over now, so that nothing of it need be read. Asked once, when the shard
    /// begins; what is given is given away. `None` where nobody followed it.
    fn inherit(&self, shard: u16) -> Option<Inheriting> {
        let _ = shard;
        None
    }

    /// Leaves a note for whoever owns the shard next, in place of the last. It holds fingerprints of push tokens. Takes a second at most,
    /// and may be lost. `None` from a store that nobody shares.
    fn leave_note(&self, shard: u16, note: Vec<u8>) -> Option<Leaving> {
        let _ = (shard, note);
        None
    }

    /// The note that the last owner left, and how long ago.
    fn find_note(&self, shard: u16) -> Option<Finding> {
        let _ = shard;
        None
    }

    /// Leaves for the present owner of a shard what was promised here while the store was away, and could not be written before the
    /// shard was lost. A store that nobody shares is never asked to.
    fn hand_in(&self, shard: u16, aor: &Aor, promise: Promise) {
        let _ = (shard, aor, promise);
    }
}

/// A refresh that was answered 200 and is not in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The record as the store was last known to hold it.
    pub base: Record,
    /// The record as it was promised to be.
    pub record: Record,
}

impl Promise {
    /// The promise as octets: the length of the base, the base, the record. Holds push tokens, like every record.
    pub fn encode(&self) -> Vec<u8> {
        let base = self.base.encode();
        let mut out = u32::try_from(base.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        out.extend_from_slice(&base);
        out.extend_from_slice(&self.record.encode());
        out
    }

    /// Whether [`Promise::encode`] of a later version wrote this: it is to be left to a node that knows that version.
    pub fn is_later(bytes: &[u8]) -> bool {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return false };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        rest.split_at_checked(length).is_some_and(|(base, record)| record::is_later(base) || record::is_later(record))
    }

    /// Reads what [`Promise::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| DecodeError)?;
        let (base, record) = rest.split_at_checked(length).ok_or(DecodeError)?;
        Ok(Self { base: Record::decode(base)?, record: Record::decode(record)? })
    }
}

/// The records of a shard that another node owned, as they were at the moment of the claim.
pub trait Inherited: Send + Sync {
    /// One record; `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError`] for one that the store has to be asked for after all.
    fn get(&self, aor: &Aor) -> Result<Option<Bytes>, StoreError>;

    /// Every record, in any order. An error says that the shard has to be read after all.
    fn records(self: Arc<Self>) -> RecordStream;
}

/// An inheritance whose last changes are being read; `None` where something of it is missing.
pub type Inheriting = Pin<Box<dyn Future<Output = Option<Arc<dyn Inherited>>> + Send>>;

/// A note on its way to the store.
pub type Leaving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A note on its way from the store, and how long the store has had it.
pub type Finding = Pin<Box<dyn Future<Output = Option<(Vec<u8>, Duration)>> + Send>>;

/// A record on its way from the store.
pub type Reading = Pin<Box<dyn Future<Output = Result<Option<Bytes>, StoreError>> + Send>>;

/// The records of a shard, one at a time: address-of-record and value.
pub type RecordStream = Box<dyn Iterator<Item = Result<(Aor, Bytes), StoreError>> + Send>;

/// Hears the verdict of each write.
pub trait Acks: Send + Sync {
    /// `write` is durable to the agreed level, or failed. Never blocks.
    fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>);
}

/// One record to keep.
///
/// The value holds push tokens; the store treats it as a secret (P-109) and `Debug` shows its length alone.
#[derive(Clone)]
pub struct Write {
    /// Names the write in its verdict; unique per shard for the life of the process.
    pub id: u64,
    /// Whose record.
    pub aor: Aor,
    /// The new value, whole; `None` deletes.
    pub value: Option<Bytes>,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write")
            .field("id", &self.id)
            .field("aor", &self.aor)
            .field("bytes", &self.value.as_ref().map(Bytes::len))
            .finish()
    }
}

/// The writer's queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store's queue is full")]
pub struct StoreFull;

/// Why a record could not be kept or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The write never reached the store: its queue was full.
    #[error("the store's queue is full")]
    Full,
    /// The store failed or is out of reach; whether the write took effect is not known.
    #[error("the store is unavailable")]
    Unavailable,
    /// Another node owns the shard by now; nothing was written.
    #[error("the shard is owned elsewhere")]
    Fenced,
}
