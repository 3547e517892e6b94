//! Between the registrar and the store: hears which writes were refused because the shard is another node's.

use std::{sync::Arc, time::Duration};

use reveille_redis::RedisStore;
use reveille_registrar::{
    aor::Aor,
    replica::{
        Acks, Finding, Inheriting, Leaving, Promise, Reading, RecordStream, Replica, StoreError, StoreFull, Write,
    },
};
use reveille_runtime::clock;
use tokio::sync::mpsc;

use super::watch::HANDED_IN;

/// The store as the registrar sees it.
pub struct Tapped {
    store: Arc<RedisStore>,
    fenced: mpsc::UnboundedSender<u16>,
}

impl Tapped {
    /// The store, and the shards of refused writes.
    pub fn new(store: Arc<RedisStore>) -> (Self, mpsc::UnboundedReceiver<u16>) {
        let (fenced, heard) = mpsc::unbounded_channel();
        (Self { store, fenced }, heard)
    }
}

impl Replica for Tapped {
    fn attach(&self, acks: Arc<dyn Acks>) {
        self.store.attach(Arc::new(Ear { acks, fenced: self.fenced.clone() }));
    }

    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull> {
        self.store.write(shard, write)
    }

    fn load(&self, shard: u16) -> Result<RecordStream, StoreError> {
        self.store.load(shard)
    }

    fn inherit(&self, shard: u16) -> Option<Inheriting> {
        self.store.inherit(shard)
    }

    fn read(&self, shard: u16, aor: &Aor) -> Reading {
        self.store.read(shard, aor)
    }

    fn leave_note(&self, shard: u16, note: Vec<u8>) -> Option<Leaving> {
        let store = Arc::clone(&self.store);
        Some(Box::pin(async move {
            // While Redis is away no handover waits for a note: the next owner begins with full budgets.
            if store.is_healthy()
                && let Err(error) = store.note(shard, &note, clock::now() + NOTE_PATIENCE).await
            {
                tracing::debug!(shard, %error, "the next owner of a shard is not told what was spent");
            }
        }))
    }

    fn find_note(&self, shard: u16) -> Option<Finding> {
        let store = Arc::clone(&self.store);
        Some(Box::pin(async move {
            store.noted(shard, clock::now() + PATIENCE).await.unwrap_or_else(|error| {
                tracing::debug!(shard, %error, "what the last owner of a shard had spent is not known");
                None
            })
        }))
    }

    fn hand_in(&self, shard: u16, aor: &Aor, promise: Promise) {
        let (store, aor) = (Arc::clone(&self.store), aor.clone());
        tokio::spawn(async move {
            // The store may still be away; a promise outlives that, though not this process.
            let value = promise.encode();
            while let Err(error) = store.defer(shard, &aor, Some(&value), clock::now() + PATIENCE).await {
                tracing::debug!(shard, %error, "a promise cannot be handed in yet");
                tokio::time::sleep(PATIENCE).await;
            }
            announce(&store, shard).await;
        });
    }
}

/// How long a note may take.
const NOTE_PATIENCE: Duration = Duration::from_millis(500);

/// How long handing in may take before it is tried again, and the pause before that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells the owner of a shard that something was handed in for it.
async fn announce(store: &RedisStore, shard: u16) {
    let news = reveille_redis::Ownership { shard: HANDED_IN, tag: shard.to_string(), epoch: clock::unix_now_millis() };
    if let Err(error) = store.announce(&[news], clock::now() + PATIENCE).await {
        tracing::debug!(%error, "the owner was not told and finds what was handed in when it looks");
    }
}

struct Ear {
    acks: Arc<dyn Acks>,
    fenced: mpsc::UnboundedSender<u16>,
}

impl Acks for Ear {
    fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>) {
        if result == Err(StoreError::Fenced) {
            let _ = self.fenced.send(shard); // nobody listens any more: the node stops
        }
        self.acks.written(shard, write, result);
    }
}
