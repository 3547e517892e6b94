//! The store as the cluster sees it: one step per request, in the order of arrival.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reveille_registrar::flow::NodeTag;

use super::Rules;
use crate::{
    deferred::{Promise, Registration},
    fence::{Epoch, Fence, Incarnation},
    roster::Lease,
};

/// Microseconds of true time, which is also the store's clock.
pub(super) type Micros = u64;

/// A binding, with the number of the client's REGISTER that made it so: what the checker goes by, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) seq: u64,
    pub(super) call: Arc<str>,
    pub(super) cseq: u32,
    pub(super) at: u64,
    pub(super) contact: u32,
}

impl Registration for Value {
    fn call_id(&self) -> &str {
        &self.call
    }
    fn cseq(&self) -> u32 {
        self.cseq
    }
    fn registered_at(&self) -> u64 {
        self.at
    }
    fn expires_at(&self) -> u64 {
        u64::MAX
    }
    fn differs_only_in_registration(&self, other: &Self) -> bool {
        self.contact == other.contact
    }
}

/// A record and its version.
pub(super) type Stored = (u64, Value);
/// A promise handed in, under its number.
pub(super) type HandedIn = (u64, u16, Promise<Value>);

#[derive(Clone, Debug)]
pub(super) enum Request {
    Renew { tag: NodeTag, incarnation: Incarnation, ttl: Duration, description: Vec<u8> },
    Leave { tag: NodeTag, incarnation: Incarnation },
    Claim { shard: u16, expected: Epoch, epoch: Epoch, me: NodeTag },
    Release { shard: u16, epoch: Epoch, me: NodeTag },
    ReadMap,
    Load { shard: u16 },
    ReadOne { shard: u16, aor: u16 },
    ReadHandedIn { shard: u16 },
    Write { shard: u16, epoch: Epoch, me: NodeTag, aor: u16, expected: u64, version: u64, value: Value },
    HandIn { id: u64, shard: u16, aor: u16, promise: Promise<Value> },
    Clear { shard: u16, epoch: Epoch, me: NodeTag, id: u64 },
    Publish { shard: u16, fence: Fence },
    PublishMembers,
}

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Renewed(Vec<Lease>),
    LeaseOf(Incarnation),
    Fence(Result<(), Fence>),
    Map(Vec<Fence>),
    Loaded(BTreeMap<u16, Stored>, Vec<HandedIn>),
    One(Option<Stored>),
    HandedIn(Vec<HandedIn>),
    Written(Result<(), Refusal>),
    Done,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Fenced(Fence),
    Conflict,
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    rules: Rules,
    leases: BTreeMap<u32, (Incarnation, Micros, Vec<u8>)>,
    pub(super) fences: Vec<Fence>,
    records: Vec<BTreeMap<u16, Stored>>,
    handed_in: Vec<Vec<HandedIn>>,
}

impl Store {
    pub(super) fn new(shards: u16, rules: Rules) -> Self {
        let count = usize::from(shards);
        Self {
            rules,
            leases: BTreeMap::new(),
            fences: vec![Fence::default(); count],
            records: vec![BTreeMap::new(); count],
            handed_in: vec![Vec::new(); count],
        }
    }

    pub(super) fn apply(&mut self, now: Micros, request: &Request) -> Reply {
        match request {
            Request::Renew { tag, incarnation, ttl, description } => {
                self.leases.retain(|_, (_, end, _)| *end > now);
                if let Some((holder, ..)) = self.leases.get(&tag.0).filter(|(holder, ..)| holder != incarnation) {
                    return Reply::LeaseOf(*holder);
                }
                let ttl = if self.rules.short_leases { *ttl / 2 } else { *ttl };
                let end = now + u64::try_from(ttl.as_micros()).unwrap_or(0);
                self.leases.insert(tag.0, (*incarnation, end, description.clone()));
                Reply::Renewed(self.roster(now))
            }
            Request::Leave { tag, incarnation } => {
                self.leases.retain(|holder, (life, ..)| *holder != tag.0 || life != incarnation);
                Reply::Done
            }
            Request::Claim { shard, expected, epoch, me } => {
                let fence = &mut self.fences[usize::from(*shard)];
                if fence.epoch != *expected || *epoch <= fence.epoch {
                    return Reply::Fence(Err(*fence));
                }
                *fence = Fence { owner: Some(*me), epoch: *epoch };
                Reply::Fence(Ok(()))
            }
            Request::Release { shard, epoch, me } => {
                let fence = &mut self.fences[usize::from(*shard)];
                if *fence != (Fence { owner: Some(*me), epoch: *epoch }) {
                    return Reply::Fence(Err(*fence));
                }
                fence.owner = None;
                Reply::Fence(Ok(()))
            }
            Request::ReadMap => Reply::Map(self.fences.clone()),
            Request::Load { shard } => {
                let shard = usize::from(*shard);
                Reply::Loaded(self.records[shard].clone(), self.handed_in[shard].clone())
            }
            Request::ReadOne { shard, aor } => Reply::One(self.records[usize::from(*shard)].get(aor).cloned()),
            Request::ReadHandedIn { shard } => Reply::HandedIn(self.handed_in[usize::from(*shard)].clone()),
            Request::Write { shard, epoch, me, aor, expected, version, value } => {
                let fence = self.fences[usize::from(*shard)];
                if !self.rules.ignore_fence && fence != (Fence { owner: Some(*me), epoch: *epoch }) {
                    return Reply::Written(Err(Refusal::Fenced(fence)));
                }
                let records = &mut self.records[usize::from(*shard)];
                let stored = records.get(aor);
                if stored.is_some_and(|(at, stored)| at == version && stored == value) {
                    return Reply::Written(Ok(()));
                }
                if stored.map_or(0, |(version, _)| *version) != *expected && !self.rules.ignore_version {
                    return Reply::Written(Err(Refusal::Conflict));
                }
                records.insert(*aor, (*version, value.clone()));
                Reply::Written(Ok(()))
            }
            Request::HandIn { id, shard, aor, promise } => {
                let all = &mut self.handed_in[usize::from(*shard)];
                if all.iter().all(|(at, ..)| at != id) {
                    all.push((*id, *aor, promise.clone()));
                }
                Reply::Done
            }
            Request::Clear { shard, epoch, me, id } => {
                if self.fences[usize::from(*shard)] == (Fence { owner: Some(*me), epoch: *epoch }) {
                    self.handed_in[usize::from(*shard)].retain(|(at, ..)| at != id);
                }
                Reply::Done
            }
            Request::Publish { .. } | Request::PublishMembers => Reply::Done,
        }
    }

    /// The record of an address-of-record.
    pub(super) fn record(&self, shard: u16, aor: u16) -> Option<&Value> {
        self.records[usize::from(shard)].get(&aor).map(|(_, value)| value)
    }

    fn roster(&self, now: Micros) -> Vec<Lease> {
        self.leases
            .iter()
            .map(|(tag, (incarnation, end, description))| Lease {
                tag: NodeTag(*tag),
                incarnation: *incarnation,
                // Whole milliseconds, as a server tells them.
                remaining: Duration::from_millis((end - now).div_ceil(1000)),
                description: description.clone(),
            })
            .collect()
    }
}
