//! The task that follows: fills shards, reads their feeds, and gives them up when they are claimed or no longer wanted.
//!
//! The feeds of all shards that lie on one server are read by one connection, with one command that waits; in a Redis Cluster, where
//! one command cannot wait for streams of several slots, by one command each, in one go. Between two readings of a server lies a
//! pause: many entries are read at once then, and what standing by costs does not grow with every write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use reveille_runtime::clock;
use tokio::sync::mpsc;

use super::fill::{FillError, Filled, fill};
use super::heir::{Claimed, Told, forsake, succeed};
use super::metrics::StandbyMetrics;
use super::shard::{Followed, State};
use super::word::{StandbyStatus, Words};
use crate::backoff;
use crate::config::Endpoint;
use crate::error::CommandError;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::writer::Shared;

/// What the follower is told.
pub(crate) enum Order {
    /// These shards are to be followed, and no others.
    Follow(BTreeSet<u16>),
    /// This node has claimed a shard.
    Succeed { shard: u16, epoch: u64, told: Told },
}

/// Shards filled at the same time: nobody waits for them, and Redis has other work.
const FILLS: usize = 2;
/// Entries of one shard read at once.
const STEP: usize = 256;
/// How long a reading waits for entries, at most; a shard that is new waits so long to be read with the others.
const WAIT: Duration = Duration::from_millis(250);
/// How often a server is asked while there are entries. Each question names every feed, so it is this and not the number of writes that
/// standing by costs; a takeover reads the rest.
const PACE: Duration = Duration::from_millis(250);
/// The pause before a shard is tried again that could not be read, or found no room.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    metrics: StandbyMetrics,
    words: Words,
    /// Octets that the records may take.
    limit: usize,
    shards: BTreeMap<u16, Followed>,
    servers: Vec<Server>,
    fills: usize,
    /// Connections for reading feeds; for reading records and everything else.
    feeds: Arc<Pool>,
    others: Arc<Pool>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    generation: u64,
}

struct Server {
    endpoint: Endpoint,
    busy: bool,
    rests_until: Option<Instant>,
    pauses: ExponentialBackoff,
    /// Entries that its last reading brought.
    brought: usize,
}

enum Done {
    Read {
        endpoint: Endpoint,
        sent: Instant,
        shards: Vec<(u16, u64)>,
        answers: Vec<Option<Result<Value, CommandError>>>,
    },
    Filled {
        shard: u16,
        generation: u64,
        result: Result<Filled, FillError>,
    },
    Said,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>, metrics: StandbyMetrics, words: Words, limit: usize) -> Self {
        let pool = || Arc::new(Pool::new(shared.gateway.connector.clone(), shared.gateway.metrics.clone()));
        let (feeds, others) = (pool(), pool());
        Self {
            shared,
            metrics,
            words,
            limit,
            shards: BTreeMap::new(),
            servers: Vec::new(),
            fills: 0,
            feeds,
            others,
            running: FuturesUnordered::new(),
            generation: 0,
        }
    }

    /// Runs until nobody is there to give orders.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let mut orders = Vec::new();
        loop {
            let now = clock::now();
            self.fill(now);
            self.read(now);
            self.report(now);
            let due = self.due();
            tokio::select! {
                count = inbox.recv_many(&mut orders, usize::MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.obey(std::mem::take(&mut orders));
                }
                Some(done) = self.running.next(), if !self.running.is_empty() => self.hear(clock::now(), done),
                () = clock::sleep_until(due) => {}
            }
        }
    }

    fn obey(&mut self, orders: Vec<Order>) {
        let now = clock::now();
        let mut claimed = Vec::new();
        for order in orders {
            match order {
                Order::Follow(wanted) => {
                    self.shards.retain(|shard, _| wanted.contains(shard));
                    for shard in wanted {
                        let key = || self.shared.gateway.keys.shard(shard).feed;
                        let generation = &mut self.generation;
                        self.shards.entry(shard).or_insert_with(|| {
                            // Never that of an earlier time: answers to it may be on their way.
                            *generation += 1 << 32;
                            Followed::new(shard_slot(shard), key(), *generation, now)
                        });
                    }
                }
                Order::Succeed { shard, epoch, told } => match self.shards.remove(&shard) {
                    Some(followed) if followed.follows() => claimed.push(Claimed { shard, epoch, followed, told }),
                    Some(followed) => forsake(&self.metrics, Claimed { shard, epoch, followed, told }),
                    None => {
                        self.metrics.successions.with_label_values(&["cold"]).inc();
                        let _ = told.send(None);
                    }
                },
            }
        }
        if !claimed.is_empty() {
            tokio::spawn(succeed(self.shared.clone(), self.others.clone(), self.metrics.clone(), claimed));
        }
    }

    fn hear(&mut self, now: Instant, done: Done) {
        match done {
            Done::Read { endpoint, sent, shards, answers } => self.heard(now, &endpoint, sent, &shards, answers),
            Done::Filled { shard, generation, result } => {
                self.fills -= 1;
                let held = self.held();
                let Some(followed) = self.shards.get_mut(&shard).filter(|of| of.generation == generation) else {
                    return;
                };
                match result {
                    Ok(Filled { table, from, until }) if held + table.bytes() <= self.limit => {
                        self.metrics.fills.inc();
                        followed.filled(table, from, until, now);
                    }
                    Ok(_) | Err(FillError::Full) => {
                        tracing::warn!(shard, limit = self.limit, "no memory is left to stand by for a shard");
                        followed.state = State::Waiting(now + PAUSE);
                    }
                    Err(FillError::Command(error)) => {
                        tracing::debug!(shard, %error, "a shard cannot be read to stand by for it");
                        followed.state = State::Waiting(now + PAUSE);
                    }
                }
            }
            Done::Said => {}
        }
    }

    fn heard(
        &mut self,
        now: Instant,
        endpoint: &Endpoint,
        sent: Instant,
        shards: &[(u16, u64)],
        answers: Vec<Option<Result<Value, CommandError>>>,
    ) {
        for (shard, _) in shards {
            if let Some(followed) = self.shards.get_mut(shard) {
                followed.reading = false;
            }
        }
        let apart = self.shared.gateway.topology.is_cluster();
        let (mut brought, mut lost, mut more) = (0, false, false);
        let mut known: BTreeMap<u16, u64> = shards.iter().copied().collect();
        for (at, answer) in answers.into_iter().enumerate() {
            let asked = if apart { shards.get(at..=at).unwrap_or_default() } else { shards };
            match answer.map(|answer| answer.and_then(super::streams)) {
                Some(Ok(streams)) => {
                    for (key, entries) in streams {
                        let Some(shard) = shard_of(&key) else { continue };
                        let Some(generation) = known.remove(&shard) else { continue };
                        let taken = self.take(now, shard, generation, entries);
                        brought += taken;
                        more |= taken >= STEP;
                        if taken < STEP {
                            self.caught_up(shard, generation, sent);
                        }
                    }
                    for (shard, _) in asked {
                        if let Some(generation) = known.remove(shard) {
                            self.caught_up(*shard, generation, sent);
                        }
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(server = %endpoint, %error, "feeds cannot be followed");
                    lost = true;
                }
                None => lost = true,
            }
        }
        let Some(server) = self.servers.iter_mut().find(|server| server.endpoint == *endpoint) else { return };
        (server.busy, server.brought) = (false, brought);
        server.rests_until = match (lost, more) {
            (true, _) => Some(now + server.pauses.next().unwrap_or(backoff::LONGEST)),
            // It is behind: it goes on at once.
            (false, true) => None,
            (false, false) => Some(sent + PACE),
        };
        if !lost {
            server.pauses = backoff::pauses();
        }
    }

    /// Takes in what was read of a shard; returns how many entries it was.
    fn take(&mut self, now: Instant, shard: u16, generation: u64, entries: Value) -> usize {
        let Some(followed) = self.shards.get_mut(&shard).filter(|of| of.generation == generation) else { return 0 };
        match followed.apply(entries, now) {
            Ok(Ok(count)) => {
                self.metrics.entries.inc_by(count as u64);
                return count;
            }
            Ok(Err(_)) => tracing::debug!(shard, "entries of a feed are missing; the shard is read anew"),
            Err(error) => tracing::warn!(shard, %error, "a feed cannot be followed; the shard is read anew"),
        }
        self.metrics.gaps.inc();
        followed.start_over(now);
        0
    }

    fn caught_up(&mut self, shard: u16, generation: u64, at: Instant) {
        if let Some(followed) = self.shards.get_mut(&shard).filter(|of| of.generation == generation) {
            followed.caught_up = at;
        }
    }

    /// Begins to read records of shards whose time has come.
    fn fill(&mut self, now: Instant) {
        let held = self.held();
        for (&shard, followed) in &mut self.shards {
            if self.fills >= FILLS {
                return;
            }
            if !matches!(followed.state, State::Waiting(from) if from <= now) {
                continue;
            }
            followed.state = State::Filling;
            self.fills += 1;
            let generation = followed.generation;
            let filling = fill(self.shared.clone(), self.others.clone(), shard, self.limit.saturating_sub(held));
            self.running.push(Box::pin(async move { Done::Filled { shard, generation, result: filling.await } }));
        }
    }

    /// Asks every server that is not asked already, and has rested.
    fn read(&mut self, now: Instant) {
        let table = self.shared.gateway.topology.table();
        let mut groups: Vec<(&Endpoint, Vec<u16>)> = Vec::new();
        for (&shard, followed) in self.shards.iter().filter(|(_, followed)| followed.follows() && !followed.reading) {
            let endpoint = table.of(followed.slot);
            match groups.iter_mut().find(|(known, _)| *known == endpoint) {
                Some((_, shards)) => shards.push(shard),
                None => groups.push((endpoint, vec![shard])),
            }
        }
        self.servers.retain(|server| server.busy || groups.iter().any(|(endpoint, _)| **endpoint == server.endpoint));
        for (endpoint, shards) in groups {
            let at = self.servers.iter().position(|server| server.endpoint == *endpoint).unwrap_or_else(|| {
                let (endpoint, pauses) = (endpoint.clone(), backoff::pauses());
                self.servers.push(Server { endpoint, busy: false, rests_until: None, pauses, brought: 0 });
                self.servers.len() - 1
            });
            if self.servers[at].busy || self.servers[at].rests_until.is_some_and(|until| now < until) {
                continue;
            }
            self.servers[at].busy = true;
            let reading = self.reading(now, endpoint.clone(), shards);
            self.running.push(reading);
        }
    }

    fn reading(&mut self, sent: Instant, endpoint: Endpoint, shards: Vec<u16>) -> BoxFuture<'static, Done> {
        let gateway = &self.shared.gateway;
        let apart = gateway.topology.is_cluster();
        let wait = WAIT.min(gateway.within / 2).as_millis().max(1);
        let mut asked = Vec::with_capacity(shards.len());
        let (mut keys, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for shard in shards {
            let Some(followed) = self.shards.get_mut(&shard) else { continue };
            followed.reading = true;
            asked.push((shard, followed.generation));
            keys.push(followed.key.clone());
            positions.push(if followed.position.is_empty() { "0-0".to_owned() } else { followed.position.clone() });
            slots.push(followed.slot);
        }
        let xread = |places: std::ops::Range<usize>| {
            let mut cmd = redis::cmd("XREAD");
            cmd.arg("COUNT").arg(STEP);
            if !apart {
                cmd.arg("BLOCK").arg(u64::try_from(wait).unwrap_or(1));
            }
            cmd.arg("STREAMS").arg(&keys[places.clone()]).arg(&positions[places.clone()]);
            Request::new(slots[places.start], cmd)
        };
        let mut requests: Vec<Request> = match apart {
            true => (0..keys.len()).map(|at| xread(at..at + 1)).collect(),
            false => vec![xread(0..keys.len())],
        };
        let (shared, pool) = (self.shared.clone(), self.feeds.clone());
        Box::pin(async move {
            let mut answers: Vec<_> = requests.iter().map(|_| None).collect();
            shared.gateway.ask_redirected(&pool, &mut requests, &mut answers).await;
            Done::Read { endpoint, sent, shards: asked, answers }
        })
    }

    fn held(&self) -> usize {
        self.shards.values().map(|followed| followed.table.bytes()).sum()
    }

    /// Says how it stands: to the metrics, to whoever asks here, and now and then to the other nodes.
    fn report(&mut self, now: Instant) {
        let follow = || self.shards.values().filter(|followed| followed.follows());
        let status = StandbyStatus {
            shards: self.shards.len() as u64,
            warm: self.shards.values().filter(|followed| matches!(followed.state, State::Warm(_))).count() as u64,
            records: self.shards.values().map(|followed| followed.table.len() as u64).sum(),
            bytes: self.held() as u64,
            lag_ms: follow()
                .map(|followed| now.saturating_duration_since(followed.caught_up))
                .max()
                .map_or(0, |lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            behind: self.servers.iter().map(|server| server.brought as u64).sum(),
        };
        let level = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.shards.set(level(status.shards));
        self.metrics.warm.set(level(status.warm));
        self.metrics.records.set(level(status.records));
        self.metrics.bytes.set(level(status.bytes));
        self.metrics.lag.set(level(status.lag_ms));
        self.metrics.behind.set(level(status.behind));
        if let Some(said) = self.words.note(now, status, &self.shared, &self.others) {
            self.running.push(Box::pin(async move {
                said.await;
                Done::Said
            }));
        }
    }

    fn due(&self) -> Option<Instant> {
        let resting = self.servers.iter().filter(|server| !server.busy).filter_map(|server| server.rests_until);
        let waiting = self.shards.values().filter_map(|followed| match followed.state {
            State::Waiting(from) if self.fills < FILLS => Some(from),
            _ => None,
        });
        resting.chain(waiting).chain(self.words.due()).min()
    }
}

/// The shard in the name of a key: `rv:<cluster>:{<shard>}:feed`.
fn shard_of(key: &str) -> Option<u16> {
    key.rsplit_once('{')?.1.split_once('}')?.0.parse().ok()
}
