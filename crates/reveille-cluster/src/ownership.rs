//! Which shards this home owns, and how it comes to own them and lets go of them.
//!
//! ```text
//!                       claim                granted
//!        Foreign ─────────────────▶ Claiming ───────▶ Owned ───────────────▶ HandingOver
//!         ▲  ▲ │ named in a fence        │ refused      │ ▲  belongs elsewhere,    │ flushed, released
//!         │  │ └────────▶ Clearing       │              │ │  or the node drains    │
//!         │  └─────────────┴─────────────┘     lapsed   ▼ │ claimed again          │
//!         │                                          Suspended ◀───── lapsed ──────┤
//!         └─── fenced, or claimed by another (lost) ────┴──────────────────────────┘
//! ```
//!
//! The rules, and `docs/cluster.md` says why they suffice:
//!
//! * A shard is claimed where its fence names nobody, a node whose lease is gone, or this node itself; never where it names
//!   another node that lives. The claim says which epoch it expects, so that of two claimants one is refused.
//! * Once the lease has lapsed, nothing is written under an old epoch any more: a suspended shard resumes only by a new claim
//!   from the epoch it was held under. If that is granted, nobody else had the shard meanwhile and what is in memory holds.
//! * An epoch is written only under the lease under which its claim was sent, and a node counts as gone only by a roster that was
//!   asked for after its fence was heard of. So whoever is found gone had its epoch under a lease that is over.
//! * Whatever a fence turns out to be, the next claim goes above every epoch ever heard of.

mod state;
mod terms;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use crate::{
    fence::{Epoch, Fence, Incarnation},
    placement::Placement,
    roster::Roster,
    shard_map::ShardMap,
};
use state::{Flow, State};
pub use terms::{Output, OwnershipConfig};

/// The shards of a home. See the module's description.
#[derive(Debug)]
pub struct Ownership {
    config: OwnershipConfig,
    states: Vec<State>,
    map: ShardMap,
    placement: Placement,
    /// Tags of the nodes alive by the last roster, in order.
    live: Vec<u32>,
    /// When the roster was asked for.
    roster_asked: Option<Instant>,
    /// A newer roster is wanted.
    looking: bool,
    incarnation: Incarnation,
    /// The self-fencing deadline; `None` while there is no lease.
    leased_until: Option<Instant>,
    /// What shards of nobody wait for before they are claimed.
    hold: Hold,
    /// From when on shards may be moved for balance.
    settled_at: Option<Instant>,
    /// When the map is to be read next.
    read_at: Option<Instant>,
    draining: bool,
    handing_over: usize,
    /// When which shard's claim or release is to be repeated.
    retries: BTreeSet<(Instant, u16)>,
    outputs: VecDeque<Output>,
}

impl Ownership {
    /// A home that owns nothing yet.
    pub fn new(config: OwnershipConfig) -> Self {
        Self {
            states: vec![State::Foreign; usize::from(config.shards)],
            map: ShardMap::new(config.shards),
            placement: Placement::default(),
            live: Vec::new(),
            roster_asked: None,
            looking: false,
            incarnation: Incarnation::default(),
            leased_until: None,
            hold: Hold::UntilRead,
            settled_at: None,
            read_at: None,
            draining: false,
            handing_over: 0,
            retries: BTreeSet::new(),
            outputs: VecDeque::new(),
            config,
        }
    }

    /// What is known of all shards.
    pub fn map(&self) -> &ShardMap {
        &self.map
    }

    /// Where shards belong by the last roster.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The epoch to write a shard under at this moment, if the node may write it at all. To be asked with a clock read just
    /// before the write is handed over, and again before its success is acknowledged.
    pub fn may_write(&self, now: Instant, shard: u16) -> Option<Epoch> {
        match self.state(shard) {
            State::Owned { epoch, .. } | State::HandingOver { epoch, flow: Flow::Flushing, .. } => {
                self.has_lease(now).then_some(epoch)
            }
            _ => None,
        }
    }

    /// Whether the shard is in this node's memory: owned, or suspended.
    pub fn serves(&self, shard: u16) -> bool {
        self.state(shard).in_memory()
    }

    /// How many shards are in this node's memory.
    pub fn count(&self) -> usize {
        self.states.iter().filter(|state| state.in_memory()).count()
    }

    /// Whether a drain is complete: no shard is held and no fence is being cleared.
    pub fn is_drained(&self) -> bool {
        self.draining && self.states.iter().all(|state| matches!(state, State::Foreign))
    }

    /// The lease was renewed, and the roster read, by a request sent at `sent`: the node may write until then.
    pub fn leased(&mut self, now: Instant, sent: Instant, until: Instant, incarnation: Incarnation) {
        self.advance(now);
        self.roster_asked = self.roster_asked.max(Some(sent));
        if std::mem::take(&mut self.looking) {
            self.decide_all(now);
        }
        let regained = self.leased_until.is_none();
        self.incarnation = incarnation;
        self.leased_until = Some(until).filter(|until| *until > now);
        if regained && self.leased_until.is_some() {
            self.hold = Hold::UntilRead;
            self.settled_at = Some(now + self.config.settle);
            self.read_map(now);
            self.decide_all(now);
        }
    }

    /// The lease is lost, before its time.
    pub fn lapsed(&mut self) {
        self.leased_until = None;
        self.suspend_all();
    }

    /// The roster has changed.
    pub fn roster_changed(&mut self, now: Instant, roster: &Roster) {
        self.advance(now);
        self.live = roster.members().iter().map(|member| member.tag.0).collect();
        let placement = Placement::new(self.config.shards, roster.candidates());
        if placement != self.placement {
            self.placement = placement;
            self.settled_at = Some(now + self.config.settle);
        }
        self.decide_all(now);
    }

    /// Give every shard away, and claim none any more. Begins when the roster shows the node as draining.
    pub fn drain(&mut self, now: Instant) {
        self.advance(now);
        self.draining = true;
        self.decide_all(now);
    }

    /// The store answered a claim that was sent at `sent`: granted, or refused with the fence as it is.
    pub fn claimed(&mut self, now: Instant, sent: Instant, shard: u16, asked: Epoch, result: Result<(), Fence>) {
        self.advance(now);
        let mine = Fence { owner: Some(self.config.me), epoch: asked };
        // A refusal that names our own claim is the answer to a repetition: the first one was granted.
        let granted = match result {
            Ok(()) => true,
            Err(fence) => fence == mine,
        };
        match result {
            Ok(()) => self.map.event(now, shard, mine),
            Err(fence) => self.map.read(now, sent, shard, fence),
        };
        match self.state(shard) {
            State::Claiming { asked: ours, fresh: false, .. } if ours == asked && granted => {
                self.set(shard, State::Suspended { epoch: asked, asked: None });
            }
            State::Claiming { asked: ours, kept, .. } if ours == asked && granted => {
                self.set(shard, State::Owned { epoch: asked, since: now });
                let epoch = asked;
                self.outputs.push_back(if kept {
                    Output::Resume { shard, epoch }
                } else {
                    Output::Start { shard, epoch }
                });
                self.outputs.push_back(Output::Announce { shard, fence: mine });
            }
            State::Claiming { asked: ours, .. } if ours == asked => self.lose(shard),
            // The lease lapsed while the claim was on its way; it will be claimed again, from here.
            State::Suspended { asked: Some(ours), .. } if ours == asked && granted => {
                self.set(shard, State::Suspended { epoch: asked, asked: None });
            }
            _ => {}
        }
        self.decide(now, shard);
        self.rebalance(now);
    }

    /// The store answered a release that was sent at `sent`: done, or refused with the fence as it is.
    pub fn released(&mut self, now: Instant, sent: Instant, shard: u16, epoch: Epoch, result: Result<(), Fence>) {
        self.advance(now);
        let fence = Fence { owner: None, epoch };
        match result {
            Ok(()) => self.map.event(now, shard, fence),
            Err(fence) => self.map.read(now, sent, shard, fence),
        };
        match self.state(shard) {
            State::HandingOver { epoch: ours, flow: Flow::Releasing { .. }, .. } if ours == epoch => self.lose(shard),
            State::Clearing { epoch: ours, .. } if ours == epoch => self.set(shard, State::Foreign),
            _ => return,
        }
        if result.is_ok() {
            self.outputs.push_back(Output::Announce { shard, fence });
        }
        self.decide(now, shard);
        self.rebalance(now);
    }

    /// What [`Output::HandOver`] asked for is done.
    pub fn flushed(&mut self, now: Instant, shard: u16, epoch: Epoch) {
        self.advance(now);
        if let State::HandingOver { epoch: ours, flow: Flow::Flushing, since } = self.state(shard)
            && ours == epoch
        {
            let flow = Flow::Releasing { retry_at: now + self.config.retry };
            self.set(shard, State::HandingOver { epoch, flow, since });
            self.outputs.push_back(Output::Release { shard, epoch });
        }
    }

    /// The store refused a write under `epoch` that was sent at `sent`: the fence is another.
    pub fn fenced(&mut self, now: Instant, sent: Instant, shard: u16, epoch: Epoch, fence: Fence) {
        self.advance(now);
        self.map.read(now, sent, shard, fence);
        self.lose_if_held_under(shard, epoch, fence);
        self.decide(now, shard);
        self.rebalance(now);
    }

    /// A fence was announced.
    pub fn map_event(&mut self, now: Instant, shard: u16, fence: Fence) {
        self.advance(now);
        if self.map.event(now, shard, fence) {
            self.lose_if_overtaken(shard);
            self.decide(now, shard);
        }
    }

    /// The store answered [`Output::ReadMap`], which was sent at `sent`.
    pub fn map_read(&mut self, now: Instant, sent: Instant, fences: impl IntoIterator<Item = (u16, Fence)>) {
        self.advance(now);
        if self.hold == Hold::UntilRead {
            self.hold = Hold::Until(now + self.config.gather);
            self.read_at = Some(now + self.config.read_every);
        }
        for (shard, fence) in fences {
            self.map.read(now, sent, shard, fence);
            self.lose_if_overtaken(shard);
            // The store's own word, asked for after the shard became ours, that it is not: the store has gone back.
            if let State::Owned { epoch, since } | State::HandingOver { epoch, since, flow: Flow::Flushing } =
                self.state(shard)
                && since < sent
                && fence != (Fence { owner: Some(self.config.me), epoch })
            {
                self.lose(shard);
            }
        }
        self.decide_all(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if !self.has_lease(now) {
            return;
        }
        while let Some(&(at, shard)) = self.retries.first().filter(|(at, _)| *at <= now) {
            self.retries.remove(&(at, shard));
            self.repeat(now, shard);
        }
        if self.read_at.is_some_and(|at| at <= now) {
            self.read_map(now);
        }
        if self.has_gathered(now) && self.hold != Hold::Over {
            self.hold = Hold::Over;
            self.decide_all(now);
        }
        if self.settled_at.is_some_and(|at| at <= now) {
            self.settled_at = None;
            self.rebalance(now);
        }
    }

    /// When [`Ownership::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leased_until?;
        let retry = self.retries.first().map(|(at, _)| *at);
        let gathered = match self.hold {
            Hold::Until(at) => Some(at),
            Hold::UntilRead | Hold::Over => None,
        };
        [self.leased_until, retry, self.read_at, gathered, self.settled_at].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Asks for the map, and again soon if nothing can be decided without it.
    fn read_map(&mut self, now: Instant) {
        let again = if self.is_read() { self.config.read_every } else { self.config.retry };
        self.read_at = Some(now + again);
        self.outputs.push_back(Output::ReadMap);
    }

    fn is_read(&self) -> bool {
        self.hold != Hold::UntilRead
    }

    fn has_gathered(&self, now: Instant) -> bool {
        match self.hold {
            Hold::UntilRead => false,
            Hold::Until(at) => at <= now,
            Hold::Over => true,
        }
    }
}

/// What a node that had no lease waits for before it takes shards that it did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The fences: until they were read nothing is known.
    UntilRead,
    /// The others: in an outage their leases ran out as well.
    Until(Instant),
    /// Nothing any more.
    Over,
}

#[cfg(test)]
mod tests;
