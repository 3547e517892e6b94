//! The store: a [`Replica`] in Redis, and the claims that go with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::Value;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, RecordStream, Replica, StoreError, StoreFull, Write};
use reveille_runtime::clock;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::backoff;
use crate::config::{Endpoint, RedisConfig};
use crate::error::{ClaimError, CommandError, ConnectError, DeferError, FencedError};
use crate::functions::Function;
use crate::gateway::{Gateway, Request};
use crate::held::Held;
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::metrics::Metrics;
use crate::pending::{Desk, Hearer};
use crate::reply::{Refusal, Shape, refusal};
use crate::seal::{OpenError, Opened, Sealer};
use crate::writer::{self, Job, Shared, WriteJob};

/// The store. Dropping it lets the writers finish what they have; [`RedisStore::close`] waits for that.
pub struct RedisStore {
    pub(crate) shared: Arc<Shared>,
    writers: Box<[UnboundedSender<Job>]>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    topology: JoinHandle<()>,
    runtime: Handle,
    shards: u16,
    deferred_limit: usize,
    pub(crate) map_length: usize,
}

/// Who may write to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Raised by each claim; 0 before the first.
    pub epoch: u64,
    /// The owner's tag; empty where the shard was released or never claimed.
    pub owner: String,
}

/// A record that another node had promised to write when it lost the shard.
#[derive(Clone, PartialEq, Eq)]
pub struct Deferred {
    /// Names it, for [`RedisStore::take_deferred`].
    pub id: Vec<u8>,
    /// Whose record.
    pub aor: Aor,
    /// The record as that node had it; `None` where it had been deleted.
    pub value: Option<Bytes>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred")
            .field("aor", &self.aor)
            .field("bytes", &self.value.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
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
            held: Held::new(config.shards),
            desk: Arc::new(Desk::new(config.queue, config.queue_bytes, metrics)),
            batch: config.batch,
            in_flight: config.in_flight,
            feed_length: config.feed_length,
            write_timeout: config.write_timeout,
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
            shards: config.shards,
            deferred_limit: config.deferred_limit,
            map_length: config.map_length,
        })
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

    /// Claims shards: each pair is a shard and the epoch at which the caller saw it. Where nobody was faster the epoch
    /// goes up by one, the new one is returned, and from then on [`Replica::write`] writes under it.
    pub async fn claim(&self, shards: &[(u16, u64)], deadline: Instant) -> Vec<Result<u64, ClaimError>> {
        let mut nonce = [0; 16];
        if SystemRandom::new().fill(&mut nonce).is_err() {
            return shards.iter().map(|_| Err(CommandError::Unavailable.into())).collect();
        }
        // Names this attempt: a repetition after a lost reply is told from a claim by somebody else.
        let nonce = hex::encode(nonce);
        let gateway = &self.shared.gateway;
        let request = |(shard, expected): &(u16, u64)| {
            let keys = gateway.keys.shard(*shard);
            let mut cmd = gateway.call(Function::Claim, &[&keys.fence, &keys.feed]);
            cmd.arg(&gateway.node).arg(*expected).arg(&nonce).arg(self.shared.feed_length);
            Request::new(shard_slot(*shard), cmd)
        };
        let answers = gateway.ask_all(shards.iter().map(request).collect(), deadline, true).await;
        shards.iter().zip(answers).map(|((shard, _), answer)| self.claimed(*shard, answer)).collect()
    }

    fn claimed(&self, shard: u16, answer: Result<Value, CommandError>) -> Result<u64, ClaimError> {
        match refusal(answer?)? {
            Ok(answer) => {
                let mut parts = answer.array()?.into_iter();
                let (epoch, seq) = (parts.next().number()?, parts.next().number()?);
                self.shared.held.claimed(shard, epoch, seq);
                Ok(epoch)
            }
            Err(Refusal { number, text, .. }) => Err(ClaimError::Claimed { epoch: number, owner: text }),
        }
    }

    /// Gives a shard up: takes no more writes for it, waits for those taken before, and leaves the fence without an owner.
    ///
    /// # Errors
    /// [`FencedError::Fenced`] where it was not ours any more.
    pub async fn release(&self, shard: u16, deadline: Instant) -> Result<(), FencedError> {
        let epoch = self.shared.held.epoch(shard);
        if epoch == 0 {
            return Err(FencedError::Fenced { epoch: 0 });
        }
        // Writes that come now are fenced by their epoch; those before the barrier are finished under it.
        let flushed = tokio::time::timeout_at(deadline.into(), self.flush(shard)).await;
        self.shared.held.lost(shard, epoch);
        flushed.map_err(|_| CommandError::Unavailable)?;
        let gateway = &self.shared.gateway;
        let mut cmd = gateway.call(Function::Release, &[&gateway.keys.shard(shard).fence]);
        cmd.arg(&gateway.node).arg(epoch);
        fenced(gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?)
    }

    /// Stops writing to a shard at once, without asking anybody: for an owner that could not renew its lease in time. What is
    /// queued is answered as fenced, unless it is on its way already.
    pub fn disown(&self, shard: u16) {
        self.shared.held.lost(shard, self.shared.held.epoch(shard));
    }

    /// The epoch at which this node holds a shard, as far as it knows.
    pub fn epoch(&self, shard: u16) -> Option<u64> {
        Some(self.shared.held.epoch(shard)).filter(|epoch| *epoch > 0)
    }

    /// Waits until every write of a shard that was handed over before has its verdict.
    pub async fn flush(&self, shard: u16) {
        let (done, flushed) = oneshot::channel();
        if self.writer(shard).send(Job::Barrier(shard, done)).is_ok() {
            let _ = flushed.await;
        }
    }

    /// The fences of shards, in the order asked.
    ///
    /// # Errors
    /// [`CommandError`] where one of them could not be read.
    pub async fn fences(&self, shards: &[u16], deadline: Instant) -> Result<Vec<Fence>, CommandError> {
        let gateway = &self.shared.gateway;
        let request = |shard: &u16| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(gateway.keys.shard(*shard).fence).arg("epoch").arg("owner");
            Request::new(shard_slot(*shard), cmd)
        };
        let answers = gateway.ask_all(shards.iter().map(request).collect(), deadline, false).await;
        let fence = |answer: Result<Value, CommandError>| {
            let mut parts = answer?.array()?.into_iter();
            let epoch = match parts.next() {
                Some(Value::Nil) => 0,
                some => some.number()?,
            };
            let owner = match parts.next() {
                Some(Value::Nil) => String::new(),
                some => some.text()?,
            };
            Ok(Fence { epoch, owner })
        };
        answers.into_iter().map(fence).collect()
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
        let field = self.shared.sealer.field(aor);
        let mut cmd = redis::cmd("HGET");
        cmd.arg(self.shared.gateway.keys.shard(shard).records).arg(&field[..]);
        let blob = match self.shared.gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await? {
            Value::Nil => return Ok(None),
            value => value.octets()?,
        };
        let opened = self.shared.sealer.open(shard, &field, blob)?;
        Ok(opened.value.map(|value| (opened.version, value)))
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

    /// Leaves a record for the owner of a shard to merge: for a node that lost the shard before it wrote what it had promised.
    ///
    /// # Errors
    /// [`DeferError::Full`] where too many wait already.
    pub async fn defer(
        &self,
        shard: u16,
        aor: &Aor,
        value: Option<&[u8]>,
        deadline: Instant,
    ) -> Result<(), DeferError> {
        let mut id = [0; 24];
        id[..16].copy_from_slice(&self.shared.sealer.field(aor));
        SystemRandom::new().fill(&mut id[16..]).map_err(|_| CommandError::Unavailable)?;
        let sealed = self.shared.sealer.seal(shard, &id, 0, aor, value).map_err(|_| CommandError::Unavailable)?;
        let (gateway, keys) = (&self.shared.gateway, self.shared.gateway.keys.shard(shard));
        let mut cmd = gateway.call(Function::Defer, &[&keys.fence, &keys.deferred, &keys.feed]);
        cmd.arg(self.shared.feed_length).arg(self.deferred_limit).arg(&id[..]).arg(sealed);
        let mut answers = gateway.ask_all(vec![Request::new(shard_slot(shard), cmd)], deadline, true).await;
        match refusal(answers.pop().unwrap_or(Err(CommandError::Answer))?)? {
            Ok(_) => Ok(()),
            Err(refused) => Err(DeferError::Full { length: refused.number }),
        }
    }

    /// What others left for the owner of a shard. It stays until [`RedisStore::take_deferred`], so that an owner that dies
    /// before it has merged a record loses nothing.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where one does not open.
    pub async fn deferred(&self, shard: u16, deadline: Instant) -> Result<Vec<Deferred>, CommandError> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.shared.gateway.keys.shard(shard).deferred);
        let answer = self.shared.gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?;
        let mut found = Vec::new();
        let mut parts = answer.array()?.into_iter();
        while let Some(id) = parts.next() {
            let (id, blob) = (id.octets()?, parts.next().octets()?);
            let Opened { aor, value, .. } = self.shared.sealer.open(shard, &id, blob)?;
            found.push(Deferred { id, aor, value });
        }
        Ok(found)
    }

    /// Removes what the owner of a shard has merged and written.
    ///
    /// # Errors
    /// [`FencedError::Fenced`] where the shard is not ours.
    pub async fn take_deferred(&self, shard: u16, ids: &[Vec<u8>], deadline: Instant) -> Result<(), FencedError> {
        let epoch = self.shared.held.epoch(shard);
        if epoch == 0 {
            return Err(FencedError::Fenced { epoch: 0 });
        }
        let (gateway, keys) = (&self.shared.gateway, self.shared.gateway.keys.shard(shard));
        let mut cmd = gateway.call(Function::Settle, &[&keys.fence, &keys.deferred]);
        cmd.arg(epoch).arg(&gateway.node);
        for id in ids {
            cmd.arg(&id[..]);
        }
        fenced(gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?)
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

fn fenced(answer: Value) -> Result<(), FencedError> {
    match refusal(answer)? {
        Ok(_) => Ok(()),
        Err(refused) => Err(FencedError::Fenced { epoch: refused.number }),
    }
}

impl From<OpenError> for FencedError {
    fn from(error: OpenError) -> Self {
        FencedError::Command(error.into())
    }
}

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
            if let Err(error) = scan(&shared, shard, &sender).await {
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
}

type Loaded = Result<(Aor, Bytes), StoreError>;

/// Records read before somebody takes them.
const LOAD_AHEAD: usize = 512;
/// Records that one step of reading a shard returns, about.
const LOAD_STEP: usize = 256;

/// Reads all records of a shard. A cursor means something only to the server process that gave it: while that answers it is
/// asked again, and when a step fails the scan begins anew.
async fn scan(shared: &Shared, shard: u16, out: &mpsc::Sender<Loaded>) -> Result<(), CommandError> {
    let gateway = &shared.gateway;
    let key = gateway.keys.shard(shard).records;
    let pool = Pool::new(gateway.connector.clone(), gateway.metrics.clone());
    let (mut cursor, mut pauses) = ("0".to_owned(), backoff::pauses());
    let (mut give_up, mut ask) = (clock::now() + shared.write_timeout, None::<Endpoint>);
    loop {
        let mut cmd = redis::cmd("HSCAN");
        cmd.arg(&key).arg(&cursor).arg("COUNT").arg(LOAD_STEP);
        let mut requests = [Request { ask: ask.clone(), ..Request::new(shard_slot(shard), cmd) }];
        let mut answers = [None];
        gateway.ask_round(&pool, &mut requests, &mut answers, false).await;
        let ([request], [answer]) = (requests, answers);
        let Some(answer) = answer else {
            ask = request.ask;
            if clock::now() >= give_up {
                return Err(CommandError::Unavailable);
            }
            tokio::time::sleep(pauses.next().unwrap_or(backoff::LONGEST)).await;
            cursor = "0".to_owned();
            continue;
        };
        let mut parts = answer?.array()?.into_iter();
        cursor = parts.next().text()?;
        if !pass_on(shared, shard, parts.next().array()?, out).await? || cursor == "0" {
            return Ok(());
        }
        give_up = clock::now() + shared.write_timeout;
    }
}

/// Opens records and passes them on. `false` when nobody wants them any more.
async fn pass_on(
    shared: &Shared,
    shard: u16,
    items: Vec<Value>,
    out: &mpsc::Sender<Loaded>,
) -> Result<bool, CommandError> {
    let mut items = items.into_iter();
    while let Some(field) = items.next() {
        let (field, blob) = (field.octets()?, items.next().octets()?);
        match shared.sealer.open(shard, &field, blob) {
            Ok(Opened { aor, value: Some(value), .. }) => {
                if out.send(Ok((aor, value))).await.is_err() {
                    return Ok(false);
                }
            }
            // One record that somebody spoilt must not keep a whole shard from being served.
            Ok(_) | Err(OpenError::Damaged) => {
                shared.desk.metrics.damaged.inc();
                tracing::error!(shard, field = hex::encode(&field), "a record is damaged and left out");
            }
            // Here it is we who lack something: to go on would forget phones.
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
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
