//! A writer: group commit toward Redis.
//!
//! It takes whatever has gathered and sends it as one pipeline to each server, waits for no timer, and sends the next while
//! up to a bounded number await their replies. Of one shard only one call is under way at a time; what a shard hands over
//! meanwhile goes with its next call, as one. That keeps order without numbering what is on the wire, and makes it safe to repeat a
//! call whose reply was lost: the fence tells whether it took effect, since nothing of the shard can have come after it.

pub(crate) mod away;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBackoff;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use reveille_runtime::clock;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::backoff;
use crate::call::{Call, Job, Line, next_call};
use crate::config::Endpoint;
use crate::gateway::{Gateway, MOST_REDIRECTIONS, Outcome, Round};
use crate::held::{Held, Lease};
use crate::keys::shard_slot;
use crate::link::Pool;
use crate::pending::{Desk, Fate};
use crate::reply::refusal;
use crate::seal::Sealer;
use crate::secrets::Secrets;
use crate::topology::Table;
use away::{Absent, Away};

/// What a store and its writers share.
pub(crate) struct Shared {
    pub(crate) gateway: Gateway,
    pub(crate) sealer: Sealer,
    pub(crate) secrets: Secrets,
    pub(crate) held: Held,
    pub(crate) lease: Lease,
    pub(crate) absent: Absent,
    pub(crate) desk: Arc<Desk>,
    pub(crate) batch: usize,
    pub(crate) in_flight: usize,
    pub(crate) feed_length: usize,
    pub(crate) write_timeout: Duration,
    /// Places for shards that are being read: each uses a connection of its own.
    pub(crate) loads: Semaphore,
}

/// One server, as this writer sees it.
struct Server {
    endpoint: Endpoint,
    ready: VecDeque<u16>,
    again: VecDeque<Call>,
    in_flight: usize,
    /// It gave no replies: until then it is left in peace.
    rests_until: Option<Instant>,
    pauses: ExponentialBackoff,
    /// A write was given up here, and none has been answered since.
    away: Option<Away>,
}

impl Server {
    fn new(endpoint: Endpoint) -> Self {
        let (ready, again) = (VecDeque::new(), VecDeque::new());
        Server { endpoint, ready, again, in_flight: 0, rests_until: None, pauses: backoff::pauses(), away: None }
    }

    fn has_work(&self) -> bool {
        !(self.ready.is_empty() && self.again.is_empty())
    }

    /// A batch came back, with replies or without.
    fn returned(&mut self, lost: bool, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if !lost {
            (self.rests_until, self.pauses) = (None, backoff::pauses());
        } else if self.rests_until.is_none() {
            // Batches that were lost together count once.
            self.rests_until = Some(now + self.pauses.next().unwrap_or(backoff::LONGEST));
        }
    }
}

/// A batch whose replies came, or will not.
struct Done {
    endpoint: Endpoint,
    /// None: it was only asked whether it is back.
    calls: Vec<Call>,
    round: Round,
    began: Instant,
}

/// Most jobs taken from the queue before something is sent.
const MOST_JOBS: usize = 4096;

/// Runs until it is told to close and has answered everything.
pub(crate) async fn run(shared: Arc<Shared>, inbox: UnboundedReceiver<Job>) {
    let pool = Arc::new(Pool::new(shared.gateway.connector.clone(), shared.desk.metrics.clone()));
    let table = shared.gateway.topology.table();
    let writer = Writer {
        shared,
        pool,
        lines: HashMap::new(),
        servers: Vec::new(),
        table,
        resting: Vec::new(),
        running: FuturesUnordered::new(),
    };
    writer.run(inbox).await;
}

struct Writer {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    lines: HashMap<u16, Line>,
    servers: Vec<Server>,
    table: Arc<Table>,
    /// Calls that wait a little before they are sent again.
    resting: Vec<(Instant, Call)>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Writer {
    async fn run(mut self, mut inbox: UnboundedReceiver<Job>) {
        let mut jobs = Vec::new();
        let mut open = true;
        loop {
            self.send();
            let waiting = || self.servers.iter().filter(|server| server.has_work());
            if !open && self.running.is_empty() && self.resting.is_empty() && waiting().next().is_none() {
                return;
            }
            let rested = waiting().filter_map(|server| server.rests_until);
            let rested = rested.chain(self.servers.iter().filter_map(|server| server.away.as_ref()?.due()));
            let wake = self.resting.iter().map(|(at, _)| *at).chain(rested).min();
            tokio::select! {
                count = inbox.recv_many(&mut jobs, MOST_JOBS), if open => {
                    open = count > 0;
                    for job in jobs.drain(..) {
                        match job {
                            Job::Close => inbox.close(),
                            job => self.take(job),
                        }
                    }
                }
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                () = clock::sleep_until(wake) => self.rouse(),
            }
        }
    }

    fn take(&mut self, job: Job) {
        let shard = match &job {
            Job::Write(write) => write.shard,
            Job::Barrier(shard, _) => *shard,
            Job::Close => return,
        };
        self.lines.entry(shard).or_default().waiting.push_back(job);
        self.list(shard);
    }

    /// Puts a shard on its server's list, where it has something to send and may.
    fn list(&mut self, shard: u16) {
        let Some(line) = self.lines.get_mut(&shard) else { return };
        if line.busy || line.listed || line.waiting.is_empty() {
            return;
        }
        line.listed = true;
        let endpoint = self.table.of(shard_slot(shard)).clone();
        self.server(endpoint).ready.push_back(shard);
    }

    fn server(&mut self, endpoint: Endpoint) -> &mut Server {
        let at = self.servers.iter().position(|server| server.endpoint == endpoint).unwrap_or_else(|| {
            self.servers.push(Server::new(endpoint));
            self.servers.len() - 1
        });
        &mut self.servers[at]
    }

    /// Sends to every server that has room for another batch.
    fn send(&mut self) {
        self.follow_topology();
        let now = clock::now();
        for at in 0..self.servers.len() {
            if self.is_away(at, now) {
                self.decide_without(at, now);
                continue;
            }
            if self.servers[at].rests_until.is_some_and(|until| now < until) {
                continue;
            }
            self.servers[at].rests_until = None;
            while self.servers[at].in_flight < self.shared.in_flight.max(1) {
                let calls = self.gather(at, now);
                if calls.is_empty() {
                    break;
                }
                self.servers[at].in_flight += 1;
                let endpoint = self.servers[at].endpoint.clone();
                self.running.push(Box::pin(exchange(self.shared.clone(), self.pool.clone(), endpoint, calls)));
            }
        }
    }

    /// When slots have moved, so do the shards that are about to send.
    fn follow_topology(&mut self) {
        let table = self.shared.gateway.topology.table();
        if Arc::ptr_eq(&table, &self.table) {
            return;
        }
        self.table = table;
        let mut ready = Vec::new();
        let mut again = Vec::new();
        for server in &mut self.servers {
            ready.extend(server.ready.drain(..));
            again.extend(server.again.drain(..));
        }
        self.servers.retain(|server| server.in_flight > 0 || server.rests_until.is_some());
        for shard in ready {
            if let Some(line) = self.lines.get_mut(&shard) {
                line.listed = false;
            }
            self.list(shard);
        }
        for call in again {
            self.send_again(call);
        }
    }

    /// The next batch for a server: first what has to be sent again.
    fn gather(&mut self, at: usize, now: Instant) -> Vec<Call> {
        let (mut calls, mut records) = (Vec::new(), 0);
        while records < self.shared.batch.max(1) {
            let Some(call) = self.servers[at].again.pop_front() else { break };
            if self.may_go(&call, now) {
                records += call.writes.len();
                calls.push(call);
            } else if now >= call.give_up {
                self.give_up(call, now);
                return calls;
            } else {
                self.end(call, now, |_| Fate::Unknown);
            }
        }
        while records < self.shared.batch.max(1) {
            let Some(shard) = self.servers[at].ready.pop_front() else { break };
            let Some(line) = self.lines.get_mut(&shard) else { continue };
            line.listed = false;
            match next_call(&self.shared, shard, line) {
                // What it leaves waiting goes with the next, once this one has ended.
                Some(call) => {
                    line.busy = true;
                    records += call.writes.len();
                    calls.push(call);
                }
                None if line.waiting.is_empty() => {}
                None => {
                    line.listed = true;
                    self.servers[at].ready.push_back(shard);
                }
            }
        }
        calls
    }

    /// Whether a call may be sent once more. Its fate is not known otherwise: it may have happened before.
    fn may_go(&self, call: &Call, now: Instant) -> bool {
        let held = &self.shared.held;
        now < call.give_up
            && self.shared.lease.runs(now)
            && held.epoch(call.shard) == call.epoch
            && !held.is_paused(call.shard)
    }

    fn finish(&mut self, done: Done) {
        let Done { endpoint, calls, round, began } = done;
        let now = clock::now();
        self.look_at(&endpoint, &round, calls.is_empty(), now);
        if calls.is_empty() {
            return;
        }
        self.shared.desk.metrics.batch_duration.observe(now.saturating_duration_since(began).as_secs_f64());
        if let Some(server) = self.servers.iter_mut().find(|server| server.endpoint == endpoint) {
            server.returned(round.lost, now);
        }
        self.follow_topology();
        let wanted = self.shared.gateway.wait.map_or(0, |wait| wait.count);
        let enough = round.held.is_none_or(|held| held >= wanted);
        for (mut call, outcome) in calls.into_iter().zip(round.outcomes) {
            match outcome {
                Outcome::Answer(value) => self.conclude(call, value, enough, now),
                Outcome::Refused(reason) => {
                    tracing::error!(shard = call.shard, reason, "Redis refuses a write");
                    self.end(call, now, |_| Fate::Unknown);
                }
                Outcome::Redirected if call.redirections < MOST_REDIRECTIONS => {
                    call.redirections += 1;
                    self.shared.desk.metrics.retries.inc();
                    self.send_again(call);
                }
                Outcome::Later if round.lost => {
                    self.shared.desk.metrics.retries.inc();
                    self.send_again(call);
                }
                Outcome::Redirected | Outcome::Later if now < call.give_up => {
                    self.shared.desk.metrics.retries.inc();
                    let pause = call.pauses.next().unwrap_or(backoff::LONGEST);
                    let at = (now + pause).min(call.give_up);
                    self.resting.push((at, call));
                }
                Outcome::Redirected | Outcome::Later => self.give_up(call, now),
            }
        }
    }

    /// A call was answered.
    fn conclude(&mut self, call: Call, value: Value, enough: bool, now: Instant) {
        let (shard, epoch) = (call.shard, call.epoch);
        match refusal(value) {
            Ok(Ok(_)) if enough && self.shared.lease.runs(now) => self.end(call, now, Fate::Written),
            Ok(Ok(_)) => self.end(call, now, |_| Fate::Unknown),
            Ok(Err(refused)) => match refused.name.as_str() {
                "FENCED" => {
                    self.shared.held.lost(shard, epoch);
                    self.end(call, now, |_| Fate::Fenced(refused.number));
                }
                "CONFLICT" => self.end(call, now, |_| Fate::Conflict(refused.number)),
                name => {
                    // Nothing but a second process that uses our claim could have written a newer version.
                    tracing::error!(shard, epoch, name, seq = refused.number, "a write came out of turn");
                    self.shared.held.seen(shard, refused.number);
                    self.end(call, now, |_| Fate::Unknown);
                }
            },
            Err(error) => {
                tracing::error!(shard, %error, "a write was answered strangely");
                self.end(call, now, |_| Fate::Unknown);
            }
        }
    }

    /// Tells the verdicts, and lets the shard send what gathered meanwhile.
    fn end(&mut self, call: Call, now: Instant, fate: impl Fn(u64) -> Fate) {
        for (pending, version) in call.writes {
            pending.answer(fate(version), now);
        }
        if let Some(line) = self.lines.get_mut(&call.shard) {
            line.busy = false;
        }
        self.list(call.shard);
    }

    fn send_again(&mut self, call: Call) {
        let endpoint = match &call.request.ask {
            Some(endpoint) => endpoint.clone(),
            None => self.table.of(call.request.slot).clone(),
        };
        self.server(endpoint).again.push_back(call);
    }

    /// Calls that have rested go on.
    fn rouse(&mut self) {
        let now = clock::now();
        let (due, resting) = std::mem::take(&mut self.resting).into_iter().partition(|(at, _)| *at <= now);
        self.resting = resting;
        for (_, call) in due {
            self.send_again(call);
        }
    }
}

async fn exchange(shared: Arc<Shared>, pool: Arc<Pool>, endpoint: Endpoint, mut calls: Vec<Call>) -> Done {
    let records: usize = calls.iter().map(|call| call.writes.len()).sum();
    shared.desk.metrics.batch_size.observe(records as f64);
    let began = clock::now();
    let mut requests: Vec<_> = calls.iter_mut().map(|call| &mut call.request).collect();
    let round = shared.gateway.round(&pool, &endpoint, &mut requests, shared.gateway.wait).await;
    Done { endpoint, calls, round, began }
}
