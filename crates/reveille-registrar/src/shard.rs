//! One shard of the registrar: the bindings of its addresses-of-record, and the requests that wait for sleeping phones.
//!
//! Plain state: inputs and the time go in, outputs come out. Registration, look-up, what the push service said and what the
//! store said all meet here, one at a time, so "push sent" and "phone registered" cannot race.
//!
//! A REGISTER is applied to a *pending* copy of the record and handed to the store. Memory changes, the 200 leaves and
//! waiting requests are released when the store has said yes (S-108, P-170); look-ups see what is durable, later REGISTERs
//! build on the newest pending copy, and a write that fails takes with it whatever was built on it.

mod bucket;
mod budget;
mod commit;
mod deferred;
mod message;
mod pace;
mod redacted;
mod refresh;
mod register;
mod requests;
mod resolve;
mod spent;
mod table;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use reveille_push::{ContactPush, Outcome, PushServices, Ticket};
use reveille_runtime::deadline::DeadlineQueue;
use reveille_sip::uri::Uri;

pub use budget::PushLimits;
pub use message::{
    Amendment, BindingView, ContactUpdate, ContactsUpdate, HomeEvent, NextRequest, Now, PushOrder, RegisterError,
    RegisterRequest, ResolveRequest, ShardInput, ShardOutput, Target, WakeRequest, WorkerRef,
};
pub use pace::Pace;
pub use refresh::RefreshRules;

use self::{
    bucket::{Active, Effect},
    budget::Budgets,
    deferred::Deferred,
    refresh::Refreshes,
    register::Rules,
    resolve::{Judge, Way},
    spent::Notes,
    table::Table,
};
use crate::{
    aor::Aor,
    dead::DeadTargets,
    flow::{FlowProbe, Liveness},
    metrics::Metrics,
    record::{self, Binding, BindingKey, Fingerprint, Record},
};

/// What a shard is held to.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Bindings per address-of-record (S-112).
    pub max_bindings: usize,
    /// A phone heard on its flow within this time is awake (P-054).
    pub awake_window: Duration,
    /// Requests that may wait at one address-of-record (P-071).
    pub max_waiters: usize,
    /// Pushes per token (P-116).
    pub push_limits: PushLimits,
    /// Pushes that renew bindings (P-092).
    pub refresh: RefreshRules,
    /// A token known to be dead gets a binding without push instead of 555 (`push.unsupported = "accept"`, P-156).
    pub accept_dead_push: bool,
    /// Whether a refresh is answered from memory while the store is away, and written later; else it is refused.
    pub defers: bool,
    /// Which start of the shard this is: verdicts meant for an earlier one are told apart by it.
    pub incarnation: u32,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            max_bindings: 10,
            awake_window: Duration::from_secs(30),
            max_waiters: 16,
            push_limits: PushLimits::default(),
            refresh: RefreshRules::default(),
            accept_dead_push: false,
            defers: false,
            incarnation: 0,
        }
    }
}

/// See the module.
pub struct Shard {
    config: ShardConfig,
    services: Arc<dyn PushServices>,
    flows: Arc<dyn FlowProbe>,
    metrics: Metrics,
    table: Table,
    active: HashMap<Aor, Active>,
    /// Writes without a verdict.
    writes: HashMap<u64, Aor>,
    /// Pushes without a verdict, and their tokens: a verdict may come when nobody waits any more.
    in_flight: HashMap<u64, Fingerprint>,
    deadlines: DeadlineQueue<Aor>,
    deferred: Deferred,
    budgets: Budgets,
    refreshes: Refreshes,
    pace: Arc<Pace>,
    notes: Notes,
    dead: Arc<DeadTargets>,
    outputs: VecDeque<ShardOutput>,
    next_id: u64,
    now: Option<Now>,
    /// What this shard has added to the gauges.
    counted: Counted,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    records: i64,
    bindings: i64,
    bytes: i64,
    waiters: i64,
    deferred: i64,
    refreshing: i64,
}

/// Records visited in one turn for what is due; more wait for the next.
const VISITS_PER_TURN: usize = 256;

impl Shard {
    /// An empty shard. What it learns of dead tokens it shares with all that have the same table.
    pub fn new(
        config: ShardConfig,
        services: Arc<dyn PushServices>,
        flows: Arc<dyn FlowProbe>,
        metrics: Metrics,
        dead: Arc<DeadTargets>,
    ) -> Self {
        Self {
            config,
            services,
            flows,
            metrics,
            table: Table::default(),
            active: HashMap::new(),
            writes: HashMap::new(),
            in_flight: HashMap::new(),
            deadlines: DeadlineQueue::new(),
            deferred: Deferred::default(),
            budgets: Budgets::new(config.push_limits),
            refreshes: Refreshes::default(),
            pace: Arc::new(Pace::new(config.refresh.per_second)),
            notes: Notes::default(),
            dead,
            outputs: VecDeque::new(),
            next_id: u64::from(config.incarnation) << 40,
            now: None,
            counted: Counted::default(),
        }
    }

    /// Keeps to a pace that other shards keep to as well.
    pub fn share_pace(&mut self, pace: Arc<Pace>) {
        self.pace = pace;
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Now, input: ShardInput) {
        self.now = Some(now);
        match input {
            ShardInput::Register(request) => self.register(now, &request),
            ShardInput::Resolve(request) => self.resolve(now, &request),
            ShardInput::Wake(request) => self.wake(now, &request),
            ShardInput::Next(request) => self.next_way(now, &request),
            ShardInput::Leave { aor, waiter } => {
                if let Some(active) = self.active.get_mut(&aor) {
                    let left = active.leave(now, waiter);
                    self.counted.waiters -= left as i64;
                    self.metrics.waiters.sub(left as i64);
                    self.settle(now, &aor);
                }
            }
            ShardInput::RegisterRejected { aor, contacts } => {
                self.rejected(now, &aor, contacts.iter().map(String::as_str))
            }
            ShardInput::Written { write, result } => self.written(now, write, result),
            ShardInput::PushAnswered { aor, push, outcome, .. } => self.push_answered(now, &aor, push, outcome),
            ShardInput::FlowUnusable { aor, key } => self.flow_unusable(now, &aor, key),
            // Whoever asked may have gone; one that is not answered knows that nothing was changed.
            ShardInput::Amend(Amendment { aor, change, done }) if !self.is_later(&aor) => {
                self.mutate(now, &aor, change);
                let _ = done.send(());
            }
            ShardInput::Amend(_) => {}
            ShardInput::Loaded(records) => self.load(now, records),
            ShardInput::NoteLeft => self.note_left(now),
            ShardInput::NoteFound { note, age } => self.note_found(now, &note, age),
        }
        self.count();
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<ShardOutput> {
        self.outputs.pop_front()
    }

    /// When [`Shard::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let visit = self
            .now
            .zip(self.table.next_visit())
            .map(|(now, unix)| now.mono + Duration::from_secs(unix.saturating_sub(now.unix)));
        self.deadlines.next().into_iter().chain(visit).chain(self.deferred.poll_timeout()).min()
    }

    /// Does what time asks for: Bucket Timers (P-066), expiries (S-116), refresh pushes (P-093).
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = Some(now);
        while let Some(aor) = self.deadlines.pop_due(now.mono) {
            if let Some(active) = self.active.get_mut(&aor) {
                active.handle_timeout(now);
                self.settle(now, &aor);
            }
        }
        for aor in self.table.take_due(now.unix, VISITS_PER_TURN) {
            self.visit(now, &aor);
        }
        self.pay(now);
        self.count();
    }

    /// The shard is about to stop: whoever waits is told now, while there is still somebody to tell it (S-139).
    pub fn give_up(&mut self, now: Now) {
        self.now = Some(now);
        let waited_for: Vec<Aor> = self.active.keys().cloned().collect();
        for aor in waited_for {
            if let Some(active) = self.active.get_mut(&aor) {
                active.give_up();
                self.settle(now, &aor);
            }
        }
        self.count();
    }

    /// The shard goes to another node: whoever waits is told to ask there. Writes that have no verdict yet still get theirs; once
    /// they have, [`Shard::hand_in`] ends it.
    pub fn hand_over(&mut self, now: Now) {
        self.now = Some(now);
        let waited_for: Vec<Aor> = self.active.keys().cloned().collect();
        for aor in waited_for {
            let waiters = self.active.get(&aor).map(Active::waiters).unwrap_or_default();
            for waiter in waiters {
                self.handle(now, ShardInput::Leave { aor: aor.clone(), waiter });
                self.reply(waiter, HomeEvent::Moved);
            }
        }
        self.count();
    }

    /// Whether every write has its verdict.
    pub fn is_settled(&self) -> bool {
        self.writes.is_empty()
    }

    /// The number of bindings, expired ones until they were visited.
    pub fn bindings(&self) -> u64 {
        self.table.bindings()
    }

    /// The number of requests waiting.
    pub fn waiting(&self) -> usize {
        self.active.values().map(Active::waiting).sum()
    }

    /// The durable record of an address-of-record, for operators and tests.
    pub fn record(&self, aor: &Aor) -> Option<Record> {
        self.table.get(aor).and_then(|value| Record::decode(value).ok())
    }

    /// Whether the record is of a later version of this software, which serves it where it runs already.
    fn is_later(&self, aor: &Aor) -> bool {
        self.table.get(aor).is_some_and(record::is_later)
    }

    fn register(&mut self, now: Now, request: &RegisterRequest) {
        if self.is_later(&request.aor) {
            let error = RegisterError::LaterVersion;
            return self.registered(request.reply, Err(error), error.as_str());
        }
        let durable = self.record(&request.aor);
        if matches!(request.contacts, ContactsUpdate::Fetch) {
            // S-103. What is not durable yet is not told.
            let views = durable.map(|record| views(&record, now, &[])).unwrap_or_default();
            self.registered(request.reply, Ok(views), "fetched");
            return;
        }
        let newest = self.active.get(&request.aor).and_then(|active| active.pending.back());
        let is_settled = newest.is_none();
        let base = newest.map(|pending| pending.record.clone()).or(durable);
        // Sixteen keys for each write of this second: more than one REGISTER can use.
        let base = base.unwrap_or_else(|| Record::new((now.unix << 16) | ((self.next_id & 0xfff) << 4)));
        let (max_bindings, accept_dead_push) = (self.config.max_bindings, self.config.accept_dead_push);
        let rules = Rules { max_bindings, accept_dead_push, dead: &self.dead };
        match register::apply(&base, request, now.unix, rules) {
            Err(error) => {
                self.registered(request.reply, Err(error), error.as_str());
                // P-064. Out of order is not refused for good: the phone registers again with a higher CSeq.
                if error != RegisterError::OutOfOrder
                    && let ContactsUpdate::Update(contacts) = &request.contacts
                {
                    let uris: Vec<&str> = contacts.iter().map(|contact| contact.uri.as_str()).collect();
                    self.rejected(now, &request.aor, uris.into_iter());
                }
            }
            Ok(applied) if !applied.changed && is_settled => {
                self.registered(request.reply, Ok(views(&applied.record, now, &applied.touched)), "unchanged");
            }
            Ok(applied) => self.submit_register(now, request, applied),
        }
    }

    fn registered(&mut self, to: WorkerRef, result: Result<Vec<BindingView>, RegisterError>, outcome: &str) {
        self.metrics.registers.with_label_values(&[outcome]).inc();
        self.reply(to, HomeEvent::Registered(result));
    }

    fn rejected<'a>(&mut self, now: Now, aor: &Aor, contacts: impl Iterator<Item = &'a str>) {
        let Some(active) = self.active.get_mut(aor) else { return };
        for contact in contacts {
            // P-006, P-007: the push parameters are what a rejected Contact and a sleeper have in common, and knowing them is
            // what entitles a REGISTER to be heard here at all.
            let Ok(uri) = Uri::parse(contact) else { continue };
            if let ContactPush::Target(target) = reveille_push::target::from_params(uri.params()) {
                active.rejected(now, &target);
            }
        }
        self.settle(now, aor);
    }

    fn push_answered(&mut self, now: Now, aor: &Aor, push: u64, outcome: Outcome) {
        let Some(target) = self.in_flight.remove(&push) else { return };
        if let Outcome::Unregistered { since } = outcome {
            self.bury(now, aor, target, since);
        }
        if let Some(active) = self.active.get_mut(aor) {
            active.answered(now, push, outcome);
            self.settle(now, aor);
        }
    }

    /// S-132: the way over this flow is closed. A phone that can be woken sleeps from now on; one that cannot, and whose
    /// connection is gone, has lost its binding. Mere silence takes no binding away.
    fn flow_unusable(&mut self, now: Now, aor: &Aor, key: BindingKey) {
        let record = self.record(aor).unwrap_or_default();
        let Some((binding, flow)) = record.get(key).and_then(|binding| binding.flow.map(|flow| (binding, flow))) else {
            return;
        };
        let liveness = self.flows.liveness(&flow);
        // What its own node has reported is not to be asked again.
        let is_gone = matches!(liveness, Liveness::Gone | Liveness::Elsewhere);
        // Heard just now: this is not the flow that failed, the phone has come back meanwhile.
        let is_awake = matches!(liveness, Liveness::Open { last_heard }
            if now.mono.saturating_duration_since(last_heard) <= self.config.awake_window);
        // A push binding on a lost connection is suspended as it is.
        if is_awake || binding.push.is_some() == is_gone {
            return;
        }
        // A REGISTER on its way to the store may have brought a new flow: that one is not meant.
        self.mutate(now, aor, |record| {
            let meant = |binding: &Binding| binding.key == key && binding.flow == Some(flow);
            let Some(at) = record.bindings.iter().position(meant) else { return false };
            if is_gone {
                record.bindings.remove(at);
            } else if let Some(binding) = record.bindings.get_mut(at) {
                binding.flow = None;
            }
            true
        });
        self.settle(now, aor);
    }

    /// Lets the bucket of `aor` say what it has to say, and plans its next deadline.
    fn settle(&mut self, now: Now, aor: &Aor) {
        let Some(mut active) = self.active.remove(aor) else { return };
        while let Some(effect) = active.poll(now) {
            match effect {
                Effect::Tell { to, event, waited } => {
                    let outcome = match &event {
                        HomeEvent::WakeFailed { why, .. } => why.as_str(),
                        _ => "woken",
                    };
                    self.counted.waiters -= 1;
                    self.metrics.waiters.dec();
                    self.metrics.wakeups.with_label_values(&[outcome]).observe(waited.as_secs_f64());
                    self.reply(to, event);
                }
                Effect::Coalesced => self.metrics.pushes_coalesced.inc(),
                Effect::Push { key, target, fingerprint, class, deadline } => {
                    let is_within = self.budgets.take(fingerprint, class, now.mono);
                    if self.budgets.has_news() {
                        self.note_spending(now);
                    }
                    if !is_within {
                        self.metrics.pushes_limited.inc();
                        active.push_forbidden(now, key);
                        continue;
                    }
                    self.metrics.pushes.with_label_values(&[class.as_str()]).inc();
                    let (push, ticket) = (self.take_id(), Ticket::new());
                    active.pushed(key, push, class, deadline, ticket.clone());
                    self.in_flight.insert(push, fingerprint);
                    self.refreshes.outdone(aor, key);
                    let (aor, keep_until, repeat) = (aor.clone(), deadline, 0);
                    let order = PushOrder { aor, key, push, target, class, deadline, keep_until, repeat, ticket };
                    self.outputs.push_back(ShardOutput::Push(Box::new(order)));
                }
            }
        }
        self.deadlines.update(aor.clone(), active.poll_timeout(now));
        if !active.is_idle() {
            self.active.insert(aor.clone(), active);
        }
    }

    fn reply(&mut self, to: WorkerRef, event: HomeEvent) {
        self.outputs.push_back(ShardOutput::Reply { to, event });
    }

    fn judge(&self) -> Judge<'_> {
        Judge { flows: &*self.flows, services: &*self.services, awake_window: self.config.awake_window }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Brings the gauges, which all shards share, up to date.
    fn count(&mut self) {
        let table = Counted {
            records: self.table.len() as i64,
            bindings: self.table.bindings() as i64,
            bytes: self.table.bytes() as i64,
            deferred: self.deferred.len() as i64,
            refreshing: self.refreshes.len() as i64,
            ..self.counted
        };
        self.metrics.records.add(table.records - self.counted.records);
        self.metrics.bindings.add(table.bindings - self.counted.bindings);
        self.metrics.record_bytes.add(table.bytes - self.counted.bytes);
        self.metrics.deferred.add(table.deferred - self.counted.deferred);
        self.metrics.refreshing.add(table.refreshing - self.counted.refreshing);
        self.counted = table;
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // A shard that is started again counts from nothing.
        self.metrics.records.sub(self.counted.records);
        self.metrics.bindings.sub(self.counted.bindings);
        self.metrics.record_bytes.sub(self.counted.bytes);
        self.metrics.waiters.sub(self.counted.waiters);
        self.metrics.deferred.sub(self.counted.deferred);
        self.metrics.refreshing.sub(self.counted.refreshing);
    }
}

/// S-109: every binding, as the 200 lists it.
fn views(record: &Record, now: Now, touched: &[BindingKey]) -> Vec<BindingView> {
    record.live(now.unix).map(|binding| BindingView::of(binding, now.unix, touched.contains(&binding.key))).collect()
}

#[cfg(test)]
mod tests;
