//! A node of the simulation: the driver that joins [`OwnLease`] and [`Ownership`] to the store, and a registrar reduced to one
//! binding for each address-of-record.

mod registrar;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    Rules,
    store::{Micros, Reply, Request, Value},
};
use crate::{
    deferred::Promise,
    fence::{Epoch, Incarnation},
    member::{MemberConfig, MemberOutput, OwnLease},
    ownership::{Output, Ownership, OwnershipConfig},
    roster::{Lease, NodeInfo, Roster},
};

use registrar::Shard;

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
                        if let Some(seq) = shard.promise(aor, &pending) {
                            self.out.push(Said::Promised { aor, seq });
                        }
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

    fn ask(&mut self, local: Instant, ask: Ask, request: Request) {
        self.next_id += 1;
        self.asked.insert(self.next_id, (local, ask));
        self.out.push(Said::Ask(self.next_id, request));
    }
}
