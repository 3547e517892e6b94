//! The store: a [`Replica`] in Redis.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Inheriting, Reading, RecordStream, Replica, StoreError, StoreFull, Write};
use reveille_runtime::clock;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::call::{Job, WriteJob};
use crate::config::RedisConfig;
use crate::error::{CommandError, ConnectError, FencedError};
use crate::gateway::Gateway;
use crate::held::{Held, Lease};
use crate::load::{LOAD_AHEAD, LOADS, load, read_through};
use crate::metrics::Metrics;
use crate::pending::{Desk, Hearer};
use crate::seal::{OpenError, Sealer};
use crate::secrets::Secrets;
use crate::standby::Standby;
use crate::writer::{self, Shared, away::Absent};

/// The store. Dropping it lets the writers finish what they have; [`RedisStore::close`] waits for that.
pub struct RedisStore {
    pub(crate) shared: Arc<Shared>,
    writers: Box<[UnboundedSender<Job>]>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    topology: JoinHandle<()>,
    pub(crate) runtime: Handle,
    /// There once it stands by.
    pub(crate) standby: OnceLock<Standby>,
    shards: u16,
    pub(crate) deferred_limit: usize,
    pub(crate) map_length: usize,
}

impl RedisStore {
    /// Finds the servers, introduces itself to one, and starts the writers on the runtime it is called on.
    ///
    /// # Errors
    /// [`ConnectError`] says which server could not be reached, or which setting is wrong.
    pub async fn connect(config: &RedisConfig, metrics: Metrics) -> Result<Self, ConnectError> {
        config.check()?;
        let gateway = Gateway::open(config, metrics.clone()).await?;
        let topology = tokio::spawn(gateway.topology.clone().keep());
        let shared = Arc::new(Shared {
            gateway,
            sealer: Sealer::new(&config.cluster, config.shards, &config.keys),
            secrets: Secrets::new(&config.cluster, &config.keys),
            held: Held::new(config.shards),
            lease: Lease::new(),
            absent: Absent::default(),
            desk: Arc::new(Desk::new(config.queue, config.queue_bytes, metrics)),
            batch: config.batch,
            in_flight: config.in_flight,
            feed_length: config.feed_length,
            write_timeout: config.write_timeout,
            loads: Semaphore::new(LOADS),
        });
        let mut writers = Vec::new();
        let mut tasks = Vec::new();
        for _ in 0..config.writers.max(1) {
            let (sender, inbox) = mpsc::unbounded_channel();
            writers.push(sender);
            tasks.push(tokio::spawn(writer::run(shared.clone(), inbox)));
        }
        Ok(RedisStore {
            shared,
            writers: writers.into(),
            tasks: Mutex::new(tasks),
            topology,
            runtime: Handle::current(),
            standby: OnceLock::new(),
            shards: config.shards,
            deferred_limit: config.deferred_limit,
            map_length: config.map_length,
        })
    }

    pub(crate) fn shards(&self) -> u16 {
        self.shards.max(1)
    }

    /// Whether the servers answer: by the newest exchange with any of them.
    pub fn is_healthy(&self) -> bool {
        self.shared.gateway.healthy.load(Ordering::Relaxed)
    }

    /// Takes no more writes, waits until those it has are answered, and tells no more verdicts.
    pub async fn close(&self) {
        self.shut();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("a writer had ended by a fault of its own");
            }
        }
        self.shared.desk.detach();
    }

    fn shut(&self) {
        self.shared.desk.close();
        for writer in &self.writers {
            let _ = writer.send(Job::Close);
        }
    }

    /// Waits until every write of a shard that was handed over before has its verdict.
    pub async fn flush(&self, shard: u16) {
        let (done, flushed) = oneshot::channel();
        if self.writer(shard).send(Job::Barrier(shard, done)).is_ok() {
            let _ = flushed.await;
        }
    }

    /// One record and its version, straight from the store.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where it does not open.
    pub async fn read_through(
        &self,
        shard: u16,
        aor: &Aor,
        deadline: Instant,
    ) -> Result<Option<(u64, Bytes)>, CommandError> {
        read_through(&self.shared, shard, aor, deadline).await
    }

    /// Writes a record if it is still at the version the caller saw; 0 where it saw none. Returns the new version.
    ///
    /// # Errors
    /// [`FencedError`]: not ours, at another version, or not known.
    pub async fn write_if(
        &self,
        shard: u16,
        aor: &Aor,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<u64, FencedError> {
        let (sender, verdict) = oneshot::channel();
        let unavailable = || FencedError::Command(CommandError::Unavailable);
        self.hand_over(shard, aor.clone(), value, Some(expected), Hearer::Caller(sender)).map_err(|_| unavailable())?;
        verdict.await.unwrap_or_else(|_| Err(unavailable()))
    }

    fn writer(&self, shard: u16) -> &UnboundedSender<Job> {
        &self.writers[usize::from(shard) % self.writers.len()]
    }

    fn hand_over(
        &self,
        shard: u16,
        aor: Aor,
        value: Option<Bytes>,
        expected: Option<u64>,
        to: Hearer,
    ) -> Result<(), StoreFull> {
        let weight = aor.as_str().len() + value.as_ref().map_or(0, Bytes::len);
        let pending = self.shared.desk.admit(weight, shard, to).ok_or(StoreFull)?;
        let epoch = self.shared.held.epoch(shard);
        let job = Job::Write(WriteJob { shard, epoch, aor, value, expected, pending });
        // A writer that is gone drops the job, which answers it.
        let _ = self.writer(shard).send(job);
        Ok(())
    }
}

/// How long one record may take to be read before whoever wants it asks again.
const READ_PATIENCE: Duration = Duration::from_secs(2);

impl Replica for RedisStore {
    fn attach(&self, acks: Arc<dyn Acks>) {
        self.shared.desk.attach(acks);
    }

    /// A write to a shard that this node does not hold is taken and answered as fenced.
    fn write(&self, shard: u16, write: Write) -> Result<(), StoreFull> {
        self.hand_over(shard, write.aor, write.value, None, Hearer::Shard(write.id))
    }

    /// Waits for the writes handed over before, then reads the shard bit by bit while the caller takes records out. Must not be
    /// called on a thread that runs asynchronous tasks. A record that is written meanwhile may come in either shape, or twice.
    fn load(&self, shard: u16) -> Result<RecordStream, StoreError> {
        if shard >= self.shards {
            return Err(StoreError::Unavailable);
        }
        let (sender, mut records) = mpsc::channel(LOAD_AHEAD);
        let (shared, writer) = (self.shared.clone(), self.writer(shard).clone());
        self.runtime.spawn(async move {
            let (done, flushed) = oneshot::channel();
            if writer.send(Job::Barrier(shard, done)).is_ok() {
                let _ = flushed.await;
            }
            if let Err(error) = load(&shared, shard, &sender).await {
                tracing::error!(shard, %error, "the shard cannot be read from Redis");
                let _ = sender.send(Err(StoreError::Unavailable)).await;
            }
        });
        // The first tells whether the shard can be read at all.
        match records.blocking_recv() {
            Some(Err(error)) => Err(error),
            None => Ok(Box::new(std::iter::empty())),
            Some(first) => {
                Ok(Box::new(std::iter::once(first).chain(std::iter::from_fn(move || records.blocking_recv()))))
            }
        }
    }

    fn inherit(&self, shard: u16) -> Option<Inheriting> {
        self.inheritance(shard)
    }

    fn read(&self, shard: u16, aor: &Aor) -> Reading {
        let (shared, aor) = (Arc::clone(&self.shared), aor.clone());
        Box::pin(async move {
            match read_through(&shared, shard, &aor, clock::now() + READ_PATIENCE).await {
                Ok(record) => Ok(record.map(|(_, value)| value)),
                // As where the whole shard is read: one spoilt record must not keep its phone from registering anew.
                Err(CommandError::Record(OpenError::Damaged)) => {
                    shared.desk.metrics.damaged.inc();
                    tracing::error!(shard, "a record is damaged and left out");
                    Ok(None)
                }
                Err(_) => Err(StoreError::Unavailable),
            }
        })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("node", &self.shared.gateway.node)
            .field("shards", &self.shards)
            .field("healthy", &self.is_healthy())
            .finish_non_exhaustive()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.shut();
        self.topology.abort();
    }
}
