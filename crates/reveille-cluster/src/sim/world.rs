//! The world of a history: its queue of events, its network, its nodes, edges and clients.

mod cast;
mod network;
mod rest;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::{
    Rules, SHARDS, Stats,
    check::{Broken, Checker, Process, Violation},
    faults::{self, Fault},
    node::{Node, Register, Said},
    random::Random,
    store::{Micros, Refusal, Reply, Request, Store},
};
use crate::{fence::Fence, shard_map::ShardMap};

use cast::call;

const CLIENTS: u16 = 8;
/// From here on nothing more goes wrong.
const QUIET: Micros = 7_000_000;
/// By here everything is to have come to rest.
const REST: Micros = QUIET + 8_000_000;
/// So long after a last change everything is to be at rest again.
const SETTLED: Micros = 5_000_000;
const MOST_EVENTS: u64 = 400_000;

pub(super) struct World {
    seed: u64,
    rules: Rules,
    random: Random,
    now: Micros,
    queue: BinaryHeap<Reverse<(Micros, u64, u64)>>,
    events: std::collections::HashMap<u64, Event>,
    next_event: u64,
    store: Store,
    store_away_until: Micros,
    /// The store as it will be after the failover under way.
    replica: Option<Store>,
    /// Whether replies wait for the replica: a failover loses nothing that was acknowledged.
    waits: bool,
    failed_over: bool,
    storm_until: Micros,
    slots: Vec<Slot>,
    edges: Vec<ShardMap>,
    clients: Vec<Client>,
    checker: Checker,
    last_claim: Micros,
    stats: Stats,
}

struct Slot {
    tag: u32,
    node: Option<Node>,
    start: u64,
    paused_until: Micros,
    cut_until: Micros,
    wake_at: Micros,
}

struct Client {
    seq: u64,
    call: Arc<str>,
    cseq: u32,
    contact: u32,
    /// It starts anew before its next REGISTER.
    anew: bool,
    /// When it falls silent, so that whatever it was told last has to last.
    until: Micros,
}

#[derive(Clone)]
enum Event {
    Wake { slot: usize, start: u64 },
    ToStore { slot: usize, start: u64, id: u64, sent: Micros, request: Request },
    ToNode { slot: usize, start: u64, id: u64, sent: Micros, reply: Reply, renewal: bool },
    MapNews { slot: usize, start: u64, shard: u16, fence: Fence },
    MembersNews { slot: usize, start: u64 },
    Client(u16),
    ToHome { slot: usize, start: u64, register: Register },
    EdgeAsks(usize),
    EdgeReads { edge: usize, sent: Micros, fences: Vec<Fence> },
    EdgeNews { edge: usize, shard: u16, fence: Fence },
    Fault(Fault),
    FailoverDone,
    Start { slot: usize },
}

impl World {
    pub(super) fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Random::new(seed);
        let homes = 3 + random.index(6);
        let mut world = Self {
            seed,
            rules,
            now: 0,
            queue: BinaryHeap::new(),
            events: std::collections::HashMap::new(),
            next_event: 0,
            store: Store::new(SHARDS, rules),
            store_away_until: 0,
            replica: None,
            waits: !random.one_in(4),
            failed_over: false,
            storm_until: 0,
            slots: Vec::new(),
            edges: vec![ShardMap::new(SHARDS); 2],
            clients: Vec::new(),
            checker: Checker::default(),
            last_claim: 0,
            stats: Stats { histories: 1, ..Stats::default() },
            random,
        };
        for tag in 1..=u32::try_from(homes).unwrap_or(3) {
            let slot = world.slot(tag);
            let at = world.random.range(0, 300_000);
            world.push(at, Event::Start { slot });
        }
        for number in 0..CLIENTS {
            let until = world.random.range(1_000_000, QUIET + 1_500_000);
            world.clients.push(Client { seq: 0, call: call(number, 0), cseq: 0, contact: 0, anew: false, until });
            world.push(500_000 + u64::from(number) * 10_000, Event::Client(number));
        }
        world.push(100_000, Event::EdgeAsks(0));
        world.push(200_000, Event::EdgeAsks(1));
        for (at, fault) in faults::plan(&mut world.random, homes, QUIET - 300_000) {
            world.stats.faults += 1;
            world.push(at, Event::Fault(fault));
        }
        world
    }

    pub(super) fn run(mut self) -> Result<Stats, Violation> {
        self.history().map_err(|broken| Violation { seed: self.seed, at: self.now, broken })?;
        Ok(self.stats)
    }

    fn history(&mut self) -> Result<(), Broken> {
        self.run_until(QUIET)?;
        for slot in 0..self.slots.len() {
            let tag = self.slots[slot].tag;
            let has_twin = self.slots[slot + 1..].iter().any(|other| other.tag == tag && other.node.is_some());
            if has_twin {
                self.kill(slot);
            }
        }
        if self.homes().is_empty() {
            self.start(0);
        }
        self.run_until(REST)?;
        self.check_rest()?;
        self.check_records()?;
        self.last_change()
    }

    fn run_until(&mut self, end: Micros) -> Result<(), Broken> {
        while let Some(&Reverse((at, _, number))) = self.queue.peek() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.stats.events += 1;
            if self.stats.events > MOST_EVENTS {
                return Err(Broken::Endless);
            }
            if let Some(event) = self.events.remove(&number) {
                self.handle(event)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        if let Some((slot, start)) = event.process() {
            let at = &self.slots[slot];
            if at.start != start || at.node.is_none() {
                return Ok(());
            }
            if at.paused_until > self.now {
                let until = at.paused_until;
                self.push(until, event);
                return Ok(());
            }
        }
        match event {
            Event::Wake { slot, .. } => {
                self.slots[slot].wake_at = Micros::MAX;
                self.turn(slot, Node::turn)
            }
            Event::ToStore { slot, start, id, sent, request } => self.at_store((slot, start), id, sent, &request),
            Event::ToNode { slot, start, id, sent, reply, renewal } => {
                if renewal && matches!(reply, Reply::Renewed(_)) {
                    self.checker.renewed((slot, start), sent);
                }
                self.turn(slot, |node, now| node.reply(now, id, reply))
            }
            Event::MapNews { slot, shard, fence, .. } => self.turn(slot, |node, now| node.map_event(now, shard, fence)),
            Event::MembersNews { slot, .. } => self.turn(slot, Node::members_changed),
            Event::Client(number) => {
                self.client(number);
                Ok(())
            }
            Event::ToHome { slot, register, .. } => {
                if self.now > register.sent + 400_000 {
                    return Ok(());
                }
                self.turn(slot, |node, now| node.register(now, &register))
            }
            Event::EdgeAsks(edge) => {
                self.push(self.now + 1_500_000, Event::EdgeAsks(edge));
                if self.store_away_until <= self.now && self.replica.is_none() {
                    let fences = self.store.fences.clone();
                    let (sent, at) = (self.now, self.now + self.delay());
                    self.push(at, Event::EdgeReads { edge, sent, fences });
                }
                Ok(())
            }
            Event::EdgeReads { edge, sent, fences } => {
                let (now, sent) = (instant(self.now), instant(sent));
                for (shard, fence) in (0..).zip(fences) {
                    self.edges[edge].read(now, sent, shard, fence);
                }
                Ok(())
            }
            Event::EdgeNews { edge, shard, fence } => {
                self.edges[edge].event(instant(self.now), shard, fence);
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::FailoverDone => {
                if let Some(replica) = self.replica.take() {
                    self.store = replica;
                    self.failed_over = true;
                    self.stats.lossy += u64::from(!self.waits);
                    self.store_away_until = self.now + self.random.range(1_000, 1_500_000).min(QUIET - self.now);
                }
                Ok(())
            }
            Event::Start { slot } => {
                // In quiet times no node has a twin.
                let tag = self.slots[slot].tag;
                let twin = self.slots.iter().any(|other| other.tag == tag && other.node.is_some());
                if self.slots[slot].node.is_none() && !(twin && self.now >= QUIET) {
                    self.start(slot);
                }
                Ok(())
            }
        }
    }

    fn at_store(&mut self, by: Process, id: u64, sent: Micros, request: &Request) -> Result<(), Broken> {
        if self.store_away_until > self.now || self.slots[by.0].cut_until > self.now {
            return Ok(());
        }
        let before = match request {
            Request::Claim { shard, .. } => Some((*shard, self.store.fences[usize::from(*shard)])),
            _ => None,
        };
        let reply = self.store.apply(self.now, request);
        match (request, &reply) {
            (Request::Claim { epoch, me, .. }, Reply::Fence(result)) => {
                let refused_own = result.is_err_and(|fence| fence == Fence { owner: Some(*me), epoch: *epoch });
                self.stats.claims += u64::from(result.is_ok());
                self.stats.claims_refused += u64::from(result.is_err());
                self.stats.claims_known_again += u64::from(refused_own);
                if let (Ok(()), Some((shard, old))) = (result, before) {
                    self.last_claim = self.now;
                    self.check_claim(shard, old)?;
                }
            }
            (Request::Write { shard, aor, value, .. }, Reply::Written(result)) => match result {
                Ok(()) => {
                    self.checker.wrote(*shard, self.store.fences[usize::from(*shard)].epoch, by)?;
                    if !self.may_have_lost() && self.store.record(*shard, *aor) == Some(value) {
                        self.checker.stored(*aor, value.seq)?;
                    }
                }
                Err(Refusal::Fenced(_)) => self.stats.fenced += 1,
                Err(Refusal::Conflict) => self.stats.conflicts += 1,
            },
            (Request::HandIn { .. }, _) => self.stats.handed_in += 1,
            (Request::Publish { shard, fence }, _) => self.publish(*shard, *fence),
            (Request::PublishMembers, _) => {
                for slot in 0..self.slots.len() {
                    let start = self.slots[slot].start;
                    self.send(Event::MembersNews { slot, start });
                }
            }
            _ => {}
        }
        // A store that waits for its replica answers nothing that the replica does not have.
        if self.replica.is_none() || !self.waits {
            let renewal = matches!(request, Request::Renew { .. });
            self.send(Event::ToNode { slot: by.0, start: by.1, id, sent, reply, renewal });
        }
        Ok(())
    }

    fn publish(&mut self, shard: u16, fence: Fence) {
        for slot in 0..self.slots.len() {
            let start = self.slots[slot].start;
            self.send(Event::MapNews { slot, start, shard, fence });
        }
        for edge in 0..self.edges.len() {
            self.send(Event::EdgeNews { edge, shard, fence });
        }
    }

    /// Rule (2): at the moment at which a claim is granted, nobody may write under the epoch that it ends.
    fn check_claim(&self, shard: u16, old: Fence) -> Result<(), Broken> {
        // A store that forgot leases lets a shard be claimed from a node that does not know; the fence stops it.
        if self.may_have_lost() {
            return Ok(());
        }
        for slot in &self.slots {
            if let Some(node) = &slot.node
                && node.own.may_write(node.clock.local(self.now), shard) == Some(old.epoch)
            {
                return Err(Broken::TakenFromTheLiving { shard, from: slot.tag, epoch: old.epoch });
            }
        }
        Ok(())
    }

    /// Lets a node do something, and does what it says.
    fn turn(&mut self, slot: usize, act: impl FnOnce(&mut Node, Micros)) -> Result<(), Broken> {
        let now = self.now;
        let Some(node) = self.slots[slot].node.as_mut() else { return Ok(()) };
        act(node, now);
        let said = std::mem::take(&mut node.out);
        let by = (slot, self.slots[slot].start);
        for one in said {
            match one {
                Said::Ask(id, request) => {
                    self.send(Event::ToStore { slot, start: by.1, id, sent: now, request });
                }
                Said::Durable { aor, seq } => {
                    self.stats.durable += 1;
                    self.checker.durable(now, by, self.slots[slot].tag, aor, seq)?;
                }
                Said::Promised { aor, seq } => {
                    self.stats.promised += 1;
                    self.checker.promised(by, aor, seq);
                }
                Said::Exit => {
                    self.kill(slot);
                    if self.now < QUIET && self.random.one_in(2) {
                        let at = self.now + self.random.range(100_000, 2_000_000);
                        self.push(at, Event::Start { slot });
                    }
                    return Ok(());
                }
            }
        }
        if let Some(node) = &self.slots[slot].node {
            let at = node.wake_at().max(now + 50);
            if at < self.slots[slot].wake_at {
                self.slots[slot].wake_at = at;
                self.push(at, Event::Wake { slot, start: by.1 });
            }
        }
        Ok(())
    }

    /// Whether the store may have lost what it acknowledged.
    fn may_have_lost(&self) -> bool {
        self.failed_over && !self.waits
    }
}

impl Event {
    /// The process that hears of it.
    fn process(&self) -> Option<Process> {
        match self {
            Event::Wake { slot, start }
            | Event::ToNode { slot, start, .. }
            | Event::MapNews { slot, start, .. }
            | Event::MembersNews { slot, start }
            | Event::ToHome { slot, start, .. } => Some((*slot, *start)),
            _ => None,
        }
    }
}

fn instant(at: Micros) -> Instant {
    epoch() + std::time::Duration::from_micros(at)
}

/// The moment from which all instants of all histories are counted; only differences matter.
#[allow(clippy::disallowed_methods, reason = "an Instant can be had no other way; histories move on from this one")]
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
