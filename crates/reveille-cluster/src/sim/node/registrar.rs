//! The registrar of a node, reduced to one binding for each address-of-record: what it writes, promises and merges.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Ask, HandIn, Node, REPEAT, Register, Said};
use crate::{
    deferred::{Deferred, Merged, Promise, merge},
    fence::Epoch,
    sim::store::{HandedIn, Micros, Refusal, Request, Stored, Value},
};

pub(super) struct Shard {
    pub(super) epoch: Epoch,
    pub(super) loaded: bool,
    pub(super) suspended: bool,
    pub(super) leaving: bool,
    pub(super) stored: BTreeMap<u16, Stored>,
    pub(super) deferred: Deferred<u16, Value>,
    pub(super) inbox: Vec<HandedIn>,
    pub(super) seen: BTreeSet<u64>,
    pub(super) writes: BTreeMap<u16, Pending>,
}

pub(super) struct Pending {
    pub(super) epoch: Epoch,
    pub(super) version: u64,
    pub(super) value: Value,
    pub(super) purpose: Purpose,
    /// The record is being read after a conflict.
    pub(super) reading: bool,
    pub(super) sent: Instant,
}

#[derive(Clone)]
pub(super) enum Purpose {
    Client,
    Own(Promise<Value>),
    Merge(u64, Promise<Value>),
}

impl Node {
    /// The promises that end with this process: address-of-record, number of the base, number promised.
    pub(in crate::sim) fn promises(&self) -> Vec<(u16, u64, u64)> {
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
    pub(in crate::sim) fn is_idle(&self) -> bool {
        self.hand_ins.is_empty()
            && self.shards.values().all(|shard| shard.deferred.is_empty() && shard.writes.is_empty() && shard.loaded)
    }

    pub(in crate::sim) fn register(&mut self, now: Micros, register: &Register) {
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

    pub(super) fn written(
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
    pub(super) fn read_again(&mut self, number: u16, aor: u16, version: u64, stored: Option<Stored>) {
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

    pub(super) fn write(
        &mut self,
        local: Instant,
        number: u16,
        aor: u16,
        epoch: Epoch,
        value: Value,
        purpose: Purpose,
    ) {
        let Some(shard) = self.shards.get_mut(&number) else { return };
        let expected = shard.stored.get(&aor).map_or(0, |(version, _)| *version);
        let version = expected + 1;
        let pending = Pending { epoch, version, value, purpose, reading: false, sent: local };
        shard.writes.insert(aor, pending);
        self.send_write(local, number, aor);
    }

    pub(super) fn send_write(&mut self, local: Instant, number: u16, aor: u16) {
        let Some(pending) = self.shards.get_mut(&number).and_then(|shard| shard.writes.get_mut(&aor)) else { return };
        pending.sent = local;
        let (epoch, version, value) = (pending.epoch, pending.version, pending.value.clone());
        let ask = Ask::Write { shard: number, aor, epoch, version, seq: value.seq };
        let (me, expected) = (self.info.tag, version - 1);
        self.ask(local, ask, Request::Write { shard: number, epoch, me, aor, expected, version, value });
    }

    pub(super) fn clear(&mut self, local: Instant, shard: u16, epoch: Epoch, id: u64) {
        let me = self.info.tag;
        self.ask(local, Ask::Other, Request::Clear { shard, epoch, me, id });
    }

    /// Keeps promises, own and handed in, and finishes handovers.
    pub(super) fn pump(&mut self, local: Instant) {
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
    pub(super) fn tick(&mut self, local: Instant) {
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

    pub(super) fn hand_in(&mut self, local: Instant) {
        let waiting: Vec<(u64, HandIn)> = self.hand_ins.iter().map(|(key, one)| (*key, one.clone())).collect();
        for (key, (shard, aor, promise)) in waiting {
            self.ask(local, Ask::HandIn(key), Request::HandIn { id: self.boot << 20 | key, shard, aor, promise });
        }
    }
}

impl Shard {
    pub(super) fn new(epoch: Epoch) -> Self {
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

    pub(super) fn take_in(&mut self, handed_in: Vec<HandedIn>) {
        for one in handed_in {
            if self.seen.insert(one.0) {
                self.inbox.push(one);
            }
        }
    }

    /// Promises a write whose fate is unknown, if a client waits for it and it may be deferred. Returns its number.
    pub(super) fn promise(&mut self, aor: u16, pending: &Pending) -> Option<u64> {
        if !matches!(pending.purpose, Purpose::Client) {
            return None;
        }
        let old = self.stored.get(&aor).map(|(_, value)| value.clone());
        self.deferred.defer(aor, old.as_ref(), pending.value.clone(), 1).ok().map(|()| pending.value.seq)
    }

    /// Gives up a write whose fate is unknown. What a client asked for is not answered; a promise stays one.
    pub(super) fn keep(&mut self, aor: u16, pending: Pending) {
        match pending.purpose {
            Purpose::Client => {}
            Purpose::Own(promise) => self.deferred.put_back(aor, promise),
            // The store still has it.
            Purpose::Merge(id, promise) => self.inbox.push((id, aor, promise)),
        }
    }
}
