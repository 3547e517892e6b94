//! A node of the simulation: the driver that joins [`OwnLease`] and [`Ownership`] to the store, and a registrar reduced to one
//! binding for each address-of-record.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::{
    Rules,
    store::{HandedIn, Micros, Refusal, Reply, Request, Stored, Value},
};
use crate::{
    deferred::{Deferred, Merged, Promise, merge},
    fence::{Epoch, Incarnation},
    member::{MemberConfig, MemberOutput, OwnLease},
    ownership::{Output, Ownership, OwnershipConfig},
    roster::{Lease, NodeInfo, Roster},
};

/// A process.
pub(super) struct Node {
    pub(super) info: NodeInfo,
    pub(super) boot: u64,
    pub(super) clock: Clock,
    pub(super) lease: OwnLease,
    pub(super) own: Ownership,
    rules: Rules,
    shards: BTreeMap<u16, Shard>,
    asked: HashMap<u64, (Instant, Ask)>,
    next_id: u64,
    /// Promises of shards that were lost, until the store has them.
    hand_ins: BTreeMap<u64, HandIn>,
    next_tick: Instant,
    ticks: u64,
    draining: bool,
    pub(super) out: Vec<Said>,
}

/// Shard, address-of-record and what was promised.
type HandIn = (u16, u16, Promise<Value>);

/// What a node does in a turn.
#[derive(Debug)]
pub(super) enum Said {
    Ask(u64, Request),
    /// A 200: the record is durable.
    Durable {
        aor: u16,
        seq: u64,
    },
    /// A 200: the refresh will be written.
    Promised {
        aor: u16,
        seq: u64,
    },
    /// Drained: the process ends.
    Exit,
}

/// A clock of its own: off by an offset, and fast or slow by some parts in a million.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) base: Instant,
    pub(super) offset: Micros,
    pub(super) drift: i64,
    /// How far its wall clock is ahead, beside others.
    pub(super) wall: Micros,
}

impl Clock {
    pub(super) fn local(&self, now: Micros) -> Instant {
        let now = i128::from(now);
        let local = now + now * i128::from(self.drift) / 1_000_000;
        self.base + Duration::from_micros(self.offset + u64::try_from(local).unwrap_or(0))
    }

    /// The true time at which this clock shows `at`, or a little later.
    pub(super) fn true_time(&self, at: Instant) -> Micros {
        let local = at.saturating_duration_since(self.base).as_micros();
        let local = i128::try_from(local).unwrap_or(0) - i128::from(self.offset);
        u64::try_from(local * 1_000_000 / i128::from(1_000_000 + self.drift) + 2).unwrap_or(0)
    }
}

/// A REGISTER on its way.
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub(super) shard: u16,
    pub(super) aor: u16,
    pub(super) seq: u64,
    pub(super) call: std::sync::Arc<str>,
    pub(super) cseq: u32,
    pub(super) contact: u32,
    pub(super) sent: Micros,
}

struct Shard {
    epoch: Epoch,
    loaded: bool,
    suspended: bool,
    leaving: bool,
    stored: BTreeMap<u16, Stored>,
    deferred: Deferred<u16, Value>,
    inbox: Vec<HandedIn>,
    seen: BTreeSet<u64>,
    writes: BTreeMap<u16, Pending>,
}

struct Pending {
    epoch: Epoch,
    version: u64,
    value: Value,
    purpose: Purpose,
    /// The record is being read after a conflict.
    reading: bool,
    sent: Instant,
}

#[derive(Clone)]
enum Purpose {
    Client,
    Own(Promise<Value>),
    Merge(u64, Promise<Value>),
}

#[derive(Clone, Debug)]
enum Ask {
    Renew(u64),
    Claim(u16, Epoch),
    Release(u16, Epoch),
    Map,
    Load(u16, Epoch),
    HandedIn(u16, Epoch),
    One(u16, u16, u64),
    Write { shard: u16, aor: u16, epoch: Epoch, version: u64, seq: u64 },
    HandIn(u64),
    Other,
}

/// How long an unanswered question of the registrar waits before it is repeated.
const REPEAT: Duration = Duration::from_millis(120);

impl Node {
    pub(super) fn new(now: Micros, clock: Clock, info: NodeInfo, boot: u64, shards: u16, rules: Rules) -> Self {
        let local = clock.local(now);
        let mut member = super::member_config();
        if rules.no_margin {
            member = MemberConfig { margin: Duration::ZERO, ttl: member.ttl * 2, ..member };
        }
        let mut own_config = OwnershipConfig::new(shards, info.tag);
        own_config.retry = Duration::from_millis(120);
        own_config.rebalance_at_once = 3;
        own_config.settle = Duration::from_millis(300);
        own_config.gather = super::GATHER;
        own_config.read_every = super::READ_EVERY;
        let mut node = Self {
            lease: OwnLease::new(local, member, info.clone(), boot),
            own: Ownership::new(own_config),
            info,
            boot,
            clock,
            rules,
            shards: BTreeMap::new(),
            asked: HashMap::new(),
            next_id: 0,
            hand_ins: BTreeMap::new(),
            next_tick: local + REPEAT,
            ticks: 0,
            draining: false,
            out: Vec::new(),
        };
        node.obey(local);
        node
    }

    /// When the node wants its next turn, in true time.
    pub(super) fn wake_at(&self) -> Micros {
        let at = [self.lease.poll_timeout(), self.own.poll_timeout(), Some(self.next_tick)].into_iter().flatten().min();
        at.map_or(Micros::MAX, |at| self.clock.true_time(at))
    }

    pub(super) fn turn(&mut self, now: Micros) {
        let local = self.clock.local(now);
        self.lease.handle_timeout(local);
        self.own.handle_timeout(local);
        if self.next_tick <= local {
            self.next_tick = local + REPEAT;
            self.obey(local);
            self.tick(local);
        }
        self.obey(local);
    }

    pub(super) fn drain(&mut self, now: Micros) {
        let local = self.clock.local(now);
        self.draining = true;
        self.lease.describe(local, |info| info.draining = true);
        self.own.drain(local);
        self.obey(local);
    }

    pub(super) fn weigh(&mut self, now: Micros, weight: u16) {
        let local = self.clock.local(now);
        self.info.weight = weight;
        self.lease.describe(local, |info| info.weight = weight);
        self.obey(local);
    }

    pub(super) fn members_changed(&mut self, now: Micros) {
        let local = self.clock.local(now);
        self.lease.members_changed(local);
        self.obey(local);
    }

    pub(super) fn map_event(&mut self, now: Micros, shard: u16, fence: crate::fence::Fence) {
        let local = self.clock.local(now);
        self.own.map_event(local, shard, fence);
        self.obey(local);
    }

    /// The promises that end with this process: address-of-record, number of the base, number promised.
    pub(super) fn promises(&self) -> Vec<(u16, u64, u64)> {
        let told = |aor: u16, promise: &Promise<Value>| (aor, promise.base.seq, promise.binding.seq);
        let mut all: Vec<_> = self.hand_ins.values().map(|(_, aor, promise)| told(*aor, promise)).collect();
        for shard in self.shards.values() {
            let mut deferred = shard.deferred.clone();
            while let Some((aor, promise)) = deferred.pop() {
                all.push(told(aor, &promise));
            }
            for (aor, pending) in &shard.writes {
                if let Purpose::Own(promise) = &pending.purpose {
                    all.push(told(*aor, promise));
                }
            }
        }
        all
    }

    /// Whether nothing waits to be written or handed in.
    pub(super) fn is_idle(&self) -> bool {
        self.hand_ins.is_empty()
            && self.shards.values().all(|shard| shard.deferred.is_empty() && shard.writes.is_empty() && shard.loaded)
    }

    pub(super) fn register(&mut self, now: Micros, register: &Register) {
        let local = self.clock.local(now);
        let Some(shard) = self.shards.get_mut(&register.shard).filter(|shard| shard.loaded && !shard.leaving) else {
            return;
        };
        let aor = register.aor;
        if shard.writes.contains_key(&aor) {
            return;
        }
        let value = Value {
            seq: register.seq,
            call: register.call.clone(),
            cseq: register.cseq,
            at: now + self.clock.wall,
            contact: register.contact,
        };
        let promised = shard.deferred.get(&aor).map(|promise| promise.binding.clone());
        let is_promised = promised.is_some();
        let served = promised.or_else(|| shard.stored.get(&aor).map(|(_, value)| value.clone()));
        // RFC 3261 §10.3 step 7.
        if served.as_ref().is_some_and(|old| old.call == value.call && old.cseq >= value.cseq) {
            return;
        }
        if shard.suspended {
            if shard.deferred.defer(aor, served.as_ref(), value, 1).is_ok() {
                self.out.push(Said::Promised { aor, seq: register.seq });
            }
        } else if let Some(epoch) = self.own.may_write(local, register.shard).filter(|_| !is_promised) {
            if self.rules.early_ack {
                self.out.push(Said::Durable { aor, seq: register.seq });
            }
            self.write(local, register.shard, aor, epoch, value, Purpose::Client);
        }
        self.obey(local);
    }

    pub(super) fn reply(&mut self, now: Micros, id: u64, reply: Reply) {
        let local = self.clock.local(now);
        let Some((sent, ask)) = self.asked.get(&id).cloned() else { return };
        match (ask, reply) {
            (Ask::Renew(attempt), Reply::Renewed(leases)) => self.lease.renewed(local, attempt, leases),
            (Ask::Renew(attempt), Reply::LeaseOf(holder)) => self.lease.refused(local, attempt, holder),
            (Ask::Claim(shard, epoch), Reply::Fence(result)) => self.own.claimed(local, sent, shard, epoch, result),
            (Ask::Release(shard, epoch), Reply::Fence(result)) => self.own.released(local, sent, shard, epoch, result),
            (Ask::Map, Reply::Map(fences)) => self.own.map_read(local, sent, (0..).zip(fences)),
            (Ask::Load(shard, epoch), Reply::Loaded(records, handed_in)) => {
                if let Some(shard) = self.shards.get_mut(&shard).filter(|shard| shard.epoch == epoch && !shard.loaded) {
                    shard.loaded = true;
                    shard.stored = records;
                    shard.take_in(handed_in);
                }
            }
            (Ask::HandedIn(shard, epoch), Reply::HandedIn(handed_in)) => {
                if let Some(shard) = self.shards.get_mut(&shard).filter(|shard| shard.epoch == epoch && shard.loaded) {
                    shard.take_in(handed_in);
                }
            }
            (Ask::One(shard, aor, version), Reply::One(stored)) => self.read_again(shard, aor, version, stored),
            (Ask::Write { shard, aor, epoch, version, seq }, Reply::Written(result)) => {
                self.written(local, sent, (shard, aor, epoch, version, seq), result);
            }
            (Ask::HandIn(key), Reply::Done) => {
                self.hand_ins.remove(&key);
            }
            _ => {}
        }
        self.obey(local);
    }

    fn written(
        &mut self,
        local: Instant,
        sent: Instant,
        (number, aor, epoch, version, seq): (u16, u16, Epoch, u64, u64),
        result: Result<(), Refusal>,
    ) {
        if let Err(Refusal::Fenced(fence)) = result {
            self.own.fenced(local, sent, number, epoch, fence);
            return;
        }
        let Some(shard) = self.shards.get_mut(&number) else { return };
        let Some(pending) = shard.writes.get_mut(&aor) else { return };
        if (pending.epoch, pending.version, pending.value.seq) != (epoch, version, seq) {
            return;
        }
        if result.is_err() {
            pending.reading = true;
            self.ask(local, Ask::One(number, aor, version), Request::ReadOne { shard: number, aor });
            return;
        }
        let Some(pending) = shard.writes.remove(&aor) else { return };
        shard.stored.insert(aor, (version, pending.value));
        match pending.purpose {
            Purpose::Client => {
                if self.own.may_write(local, number) == Some(epoch) || self.rules.ack_lapsed {
                    self.out.push(Said::Durable { aor, seq });
                }
            }
            Purpose::Own(_) => {}
            Purpose::Merge(id, _) => self.clear(local, number, epoch, id),
        }
    }

    /// A conflict: the store knows a version that we do not, since an earlier write took effect unheard.
    fn read_again(&mut self, number: u16, aor: u16, version: u64, stored: Option<Stored>) {
        let Some(shard) = self.shards.get_mut(&number) else { return };
        if !shard.writes.get(&aor).is_some_and(|pending| pending.reading && pending.version == version) {
            return;
        }
        match stored {
            Some(stored) => shard.stored.insert(aor, stored),
            None => shard.stored.remove(&aor),
        };
        if let Some(pending) = shard.writes.remove(&aor) {
            shard.keep(aor, pending);
        }
    }

    fn write(&mut self, local: Instant, number: u16, aor: u16, epoch: Epoch, value: Value, purpose: Purpose) {
        let Some(shard) = self.shards.get_mut(&number) else { return };
        let expected = shard.stored.get(&aor).map_or(0, |(version, _)| *version);
        let version = expected + 1;
        let pending = Pending { epoch, version, value, purpose, reading: false, sent: local };
        shard.writes.insert(aor, pending);
        self.send_write(local, number, aor);
    }

    fn send_write(&mut self, local: Instant, number: u16, aor: u16) {
        let Some(pending) = self.shards.get_mut(&number).and_then(|shard| shard.writes.get_mut(&aor)) else { return };
        pending.sent = local;
        let (epoch, version, value) = (pending.epoch, pending.version, pending.value.clone());
        let ask = Ask::Write { shard: number, aor, epoch, version, seq: value.seq };
        let (me, expected) = (self.info.tag, version - 1);
        self.ask(local, ask, Request::Write { shard: number, epoch, me, aor, expected, version, value });
    }

    fn clear(&mut self, local: Instant, shard: u16, epoch: Epoch, id: u64) {
        let me = self.info.tag;
        self.ask(local, Ask::Other, Request::Clear { shard, epoch, me, id });
    }

    /// Does what the machines say until they say no more.
    fn obey(&mut self, local: Instant) {
        let me = self.info.tag;
        loop {
            if let Some(output) = self.lease.poll_output() {
                match output {
                    MemberOutput::Renew { attempt, incarnation, ttl, description } => {
                        let ttl = if self.rules.no_margin { ttl / 2 } else { ttl };
                        let request = Request::Renew { tag: me, incarnation, ttl, description };
                        self.ask(local, Ask::Renew(attempt), request);
                    }
                    MemberOutput::Leave { incarnation } => {
                        self.ask(local, Ask::Other, Request::Leave { tag: me, incarnation });
                    }
                    MemberOutput::AnnounceMembers => self.ask(local, Ask::Other, Request::PublishMembers),
                    MemberOutput::RosterChanged if self.rules.claim_the_living => {
                        let mut alone = Roster::default();
                        let description = self.lease.info().encode();
                        let incarnation = Incarnation::default();
                        let remaining = Duration::from_secs(1);
                        alone.update(local, vec![Lease { tag: me, incarnation, remaining, description }]);
                        self.own.roster_changed(local, &alone);
                    }
                    MemberOutput::RosterChanged => self.own.roster_changed(local, self.lease.roster()),
                    MemberOutput::Leased { sent, until, incarnation } => {
                        self.own.leased(local, sent, until, incarnation);
                    }
                    MemberOutput::Lapsed(_) => self.own.lapsed(),
                }
                continue;
            }
            let Some(output) = self.own.poll_output() else { break };
            self.own_output(local, output);
        }
        self.pump(local);
        if self.draining && self.own.is_drained() && self.hand_ins.is_empty() {
            self.draining = false;
            self.lease.leave(local);
            self.obey(local);
            self.out.push(Said::Exit);
        }
    }

    fn own_output(&mut self, local: Instant, output: Output) {
        let me = self.info.tag;
        match output {
            Output::Claim { shard, expected, epoch } => {
                self.ask(local, Ask::Claim(shard, epoch), Request::Claim { shard, expected, epoch, me });
            }
            Output::Release { shard, epoch } => {
                self.ask(local, Ask::Release(shard, epoch), Request::Release { shard, epoch, me });
            }
            Output::Look => self.lease.members_changed(local),
            Output::ReadMap => self.ask(local, Ask::Map, Request::ReadMap),
            Output::Start { shard, epoch } => {
                self.shards.insert(shard, Shard::new(epoch));
                self.ask(local, Ask::Load(shard, epoch), Request::Load { shard });
            }
            Output::Suspend { shard } => {
                if let Some(shard) = self.shards.get_mut(&shard) {
                    shard.suspended = true;
                    shard.leaving = false;
                    for (aor, pending) in std::mem::take(&mut shard.writes) {
                        shard.keep(aor, pending);
                    }
                }
            }
            Output::Resume { shard, epoch } => {
                if let Some(shard) = self.shards.get_mut(&shard) {
                    shard.suspended = false;
                    shard.epoch = epoch;
                }
            }
            Output::HandOver { shard, .. } => {
                if let Some(shard) = self.shards.get_mut(&shard) {
                    shard.leaving = true;
                }
            }
            Output::Drop { shard: number } => {
                let Some(mut shard) = self.shards.remove(&number) else { return };
                for (aor, pending) in std::mem::take(&mut shard.writes) {
                    shard.keep(aor, pending);
                }
                while let Some((aor, promise)) = shard.deferred.pop() {
                    if !self.rules.forget_promises {
                        self.next_id += 1;
                        self.hand_ins.insert(self.next_id, (number, aor, promise));
                    }
                }
                self.hand_in(local);
            }
            Output::Announce { shard, fence } => self.ask(local, Ask::Other, Request::Publish { shard, fence }),
        }
    }

    /// Keeps promises, own and handed in, and finishes handovers.
    fn pump(&mut self, local: Instant) {
        let numbers: Vec<u16> = self.shards.keys().copied().collect();
        for number in numbers {
            let Some(epoch) = self.own.may_write(local, number) else { continue };
            while let Some(shard) = self.shards.get_mut(&number).filter(|shard| shard.loaded && !shard.suspended) {
                let (aor, promise, id) = if let Some((aor, promise)) = shard.deferred.pop() {
                    (aor, promise, None)
                } else if let Some((id, aor, promise)) = shard.inbox.pop() {
                    (aor, promise, Some(id))
                } else {
                    break;
                };
                if shard.writes.contains_key(&aor) {
                    match id {
                        Some(id) => shard.inbox.push((id, aor, promise)),
                        None => shard.deferred.put_back(aor, promise),
                    }
                    break;
                }
                let stored = shard.stored.get(&aor).map(|(_, value)| value);
                let merged = if self.rules.merge_by_arrival { Merged::Take } else { merge(stored, &promise, 1) };
                match (merged, id) {
                    (Merged::Take, _) => {
                        let value = promise.binding.clone();
                        let purpose = id.map_or(Purpose::Own(promise.clone()), |id| Purpose::Merge(id, promise));
                        self.write(local, number, aor, epoch, value, purpose);
                    }
                    (_, Some(id)) => self.clear(local, number, epoch, id),
                    (_, None) => {}
                }
            }
            let flushed = self.shards.get(&number).is_some_and(|shard| {
                shard.leaving && shard.writes.is_empty() && (shard.deferred.is_empty() || !shard.loaded)
            });
            if flushed {
                self.own.flushed(local, number, epoch);
                while let Some(output) = self.own.poll_output() {
                    self.own_output(local, output);
                }
            }
        }
    }

    /// Repeats what was not answered, and looks for what was handed in.
    fn tick(&mut self, local: Instant) {
        self.ticks += 1;
        self.asked.retain(|_, (sent, _)| local.saturating_duration_since(*sent) < Duration::from_secs(8));
        self.hand_in(local);
        let numbers: Vec<u16> = self.shards.keys().copied().collect();
        for number in numbers {
            let Some(epoch) = self.own.may_write(local, number) else { continue };
            let Some(shard) = self.shards.get_mut(&number) else { continue };
            if !shard.loaded {
                self.ask(local, Ask::Load(number, epoch), Request::Load { shard: number });
                continue;
            }
            let stale: Vec<(u16, bool, u64)> = shard
                .writes
                .iter()
                .filter(|(_, pending)| local.saturating_duration_since(pending.sent) >= REPEAT)
                .map(|(aor, pending)| (*aor, pending.reading, pending.version))
                .collect();
            for (aor, reading, version) in stale {
                if reading {
                    self.ask(local, Ask::One(number, aor, version), Request::ReadOne { shard: number, aor });
                } else {
                    self.send_write(local, number, aor);
                }
            }
            if self.ticks.is_multiple_of(4) {
                self.ask(local, Ask::HandedIn(number, epoch), Request::ReadHandedIn { shard: number });
            }
        }
    }

    fn hand_in(&mut self, local: Instant) {
        let waiting: Vec<(u64, HandIn)> = self.hand_ins.iter().map(|(key, one)| (*key, one.clone())).collect();
        for (key, (shard, aor, promise)) in waiting {
            self.ask(local, Ask::HandIn(key), Request::HandIn { id: self.boot << 20 | key, shard, aor, promise });
        }
    }

    fn ask(&mut self, local: Instant, ask: Ask, request: Request) {
        self.next_id += 1;
        self.asked.insert(self.next_id, (local, ask));
        self.out.push(Said::Ask(self.next_id, request));
    }
}

impl Shard {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            loaded: false,
            suspended: false,
            leaving: false,
            stored: BTreeMap::new(),
            deferred: Deferred::new(64),
            inbox: Vec::new(),
            seen: BTreeSet::new(),
            writes: BTreeMap::new(),
        }
    }

    fn take_in(&mut self, handed_in: Vec<HandedIn>) {
        for one in handed_in {
            if self.seen.insert(one.0) {
                self.inbox.push(one);
            }
        }
    }

    /// Gives up a write whose fate is unknown. What a client asked for is not answered; a promise stays one.
    fn keep(&mut self, aor: u16, pending: Pending) {
        match pending.purpose {
            Purpose::Client => {}
            Purpose::Own(promise) => self.deferred.put_back(aor, promise),
            // The store still has it.
            Purpose::Merge(id, promise) => self.inbox.push((id, aor, promise)),
        }
    }
}
