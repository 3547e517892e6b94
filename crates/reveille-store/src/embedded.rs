//! The embedded store: a [`Replica`] on the local disk, for one node that needs no other service.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Reading, RecordStream, Replica, StoreError, StoreFull, Write};
use reveille_runtime::clock;

use crate::directory::{Directory, Fault, OpenError};
use crate::engine::{Engine, Put};
use crate::metrics::Metrics;
use crate::queue::{Limits, Queue};
use crate::writer::{self, Job, Shared};

/// Where and how to keep records.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// A directory of the store's own; made if it does not exist.
    pub path: PathBuf,
    /// Number of shards; fixed when the directory is made.
    pub shards: u16,
    /// Most writes that may wait for the disk.
    pub queue: usize,
    /// Most octets of keys and values that may wait for the disk.
    pub queue_bytes: usize,
    /// Most writes flushed at once.
    pub batch: usize,
    /// Octets of memory for reading; little is needed, as shards read once, at start.
    pub cache_bytes: u64,
}

impl StoreConfig {
    /// The usual sizes.
    pub fn new(path: impl Into<PathBuf>, shards: u16) -> Self {
        StoreConfig {
            path: path.into(),
            shards,
            queue: 16_384,
            queue_bytes: 64 * 1024 * 1024,
            batch: 1024,
            cache_bytes: 8 * 1024 * 1024,
        }
    }
}

/// The embedded store. Dropping it writes what is queued, and then gives the directory free.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    shards: u16,
    // Last, so that the engine has let go of its files before another process may have them.
    directory: Directory,
}

impl EmbeddedStore {
    /// Opens the store and starts its writer. Blocks: the engine reads its journal again.
    ///
    /// # Errors
    /// [`OpenError`], which says what is wrong with the directory and how to mend it.
    pub fn open(config: &StoreConfig, metrics: Metrics) -> Result<Self, OpenError> {
        let directory = Directory::claim(&config.path, config.shards)?;
        let engine = Engine::open(directory.engine(), config.cache_bytes)?;
        directory.restrict_engine()?;
        compare_marks(&directory, &engine)?;
        let limits = Limits { entries: config.queue.max(1), weight: config.queue_bytes.max(1) };
        let shared = Arc::new(Shared {
            engine,
            queue: Queue::new(limits),
            acks: Mutex::new(None),
            metrics,
            healthy: AtomicBool::new(true),
        });
        let (for_writer, most) = (shared.clone(), config.batch.max(1));
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(for_writer, most))
            .map_err(|error| OpenError::new(&config.path, Fault::Io(error)))?;
        Ok(EmbeddedStore { shared, writer: Mutex::new(Some(writer)), shards: config.shards, directory })
    }

    /// Whether writes can succeed. Once false it stays so: the disk needs an operator, and the process a restart.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Acquire)
    }

    /// Takes no more writes, writes and answers those it has, and returns when that is done. Reading still works.
    pub fn close(&self) {
        self.shared.queue.close();
        let Some(writer) = self.writer.lock().take() else { return };
        // The verdicts' receiver may hold the last handle on the store, and so drop it on the writer itself.
        if writer.thread().id() == thread::current().id() {
            return;
        }
        if writer.join().is_err() {
            tracing::error!("the store's writer had ended by a fault of its own");
        } else if self.is_healthy()
            && let Err(error) = advance_mark(&self.directory, &self.shared.engine)
        {
            tracing::warn!(%error, "the store could not be marked as complete");
        }
    }
}

/// Refuses an engine that has lost what it once had, then moves both marks on.
fn compare_marks(directory: &Directory, engine: &Engine) -> Result<(), OpenError> {
    let damaged = |detail: String| OpenError::new(directory.engine(), Fault::Damaged(detail));
    let (expected, found) = (directory.mark()?, engine.mark().map_err(|error| damaged(error.to_string()))?);
    if found < expected {
        return Err(damaged(format!("records are missing (found mark {found}, expected {expected})")));
    }
    advance_mark(directory, engine)
}

fn advance_mark(directory: &Directory, engine: &Engine) -> Result<(), OpenError> {
    let unwritable =
        |error: fjall::Error| OpenError::new(directory.engine(), Fault::Io(std::io::Error::other(error.to_string())));
    let next = engine.mark().map_err(unwritable)?.saturating_add(1);
    engine.set_mark(next).map_err(unwritable)?;
    directory.set_mark(next)
}

impl Replica for EmbeddedStore {
    fn attach(&self, acks: Arc<dyn Acks>) {
        *self.shared.acks.lock() = Some(acks);
    }

    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull> {
        let weight = write.aor.as_str().len() + write.value.as_ref().map_or(0, Bytes::len);
        let job = Job { put: Put { shard, write }, taken: clock::now() };
        match self.shared.queue.push(weight, job) {
            Ok(waiting) => {
                self.shared.metrics.queue_depth.set(i64::try_from(waiting).unwrap_or(i64::MAX));
                Ok(())
            }
            Err(_) => {
                self.shared.metrics.refusals.inc();
                Err(StoreFull)
            }
        }
    }

    /// Waits for the writes handed over before, so that a shard that starts anew reads what its predecessor wrote.
    fn load(&self, shard: u16) -> Result<RecordStream, StoreError> {
        if shard >= self.shards || !self.shared.queue.wait_for_earlier() {
            return Err(StoreError::Unavailable);
        }
        Ok(self.shared.engine.shard(shard))
    }

    fn read(&self, shard: u16, aor: &Aor) -> Reading {
        let (shared, aor) = (Arc::clone(&self.shared), aor.clone());
        let read = tokio::task::spawn_blocking(move || {
            if shared.queue.wait_for_earlier() {
                shared.engine.record(shard, &aor)
            } else {
                Err(StoreError::Unavailable)
            }
        });
        Box::pin(async { read.await.unwrap_or(Err(StoreError::Unavailable)) })
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("shards", &self.shards)
            .field("healthy", &self.is_healthy())
            .finish_non_exhaustive()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}
