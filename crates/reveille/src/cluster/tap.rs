//! Between the registrar and the store: hears which writes were refused because the shard is another node's.

use std::sync::Arc;

use reveille_redis::RedisStore;
use reveille_registrar::{
    aor::Aor,
    replica::{Acks, Reading, RecordStream, Replica, StoreError, StoreFull, Write},
};
use tokio::sync::mpsc;

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

    fn read(&self, shard: u16, aor: &Aor) -> Reading {
        self.store.read(shard, aor)
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
