//! The state of one shard on this node, and the steps from one to the next.

use std::time::Instant;

use super::{Output, Ownership};
use crate::fence::{Epoch, Fence};

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Not ours.
    Foreign,
    /// A claim is on its way.
    Claiming {
        expected: Epoch,
        asked: Epoch,
        retry_at: Instant,
        /// The shard is suspended in memory.
        kept: bool,
        /// `asked` was first sent under the present lease, so that it may be written under once it is granted.
        fresh: bool,
    },
    /// Ours, since then.
    Owned { epoch: Epoch, since: Instant },
    /// In memory, and not to be written: the lease lapsed while it was held under `epoch`. `asked` is the epoch of a claim
    /// that may have been granted unheard. It is asked for again, which tells whether it was, and then claimed from: an epoch is
    /// written only under the lease under which it was claimed.
    Suspended { epoch: Epoch, asked: Option<Epoch> },
    /// Ours still, on its way out.
    HandingOver { epoch: Epoch, since: Instant, flow: Flow },
    /// Not ours, but the fence names us: from an earlier life, or a claim that was granted unheard. On its way to nobody.
    Clearing { epoch: Epoch, retry_at: Instant },
}

/// How far a handover is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flow {
    Flushing,
    Releasing { retry_at: Instant },
}

impl State {
    pub(super) fn in_memory(self) -> bool {
        match self {
            State::Foreign | State::Clearing { .. } => false,
            State::Claiming { kept, .. } => kept,
            State::Owned { .. } | State::Suspended { .. } | State::HandingOver { .. } => true,
        }
    }

    /// The epoch under which the shard is in memory, unless a claim is about to say.
    fn held_under(self) -> Option<Epoch> {
        match self {
            State::Owned { epoch, .. } | State::Suspended { epoch, .. } | State::HandingOver { epoch, .. } => {
                Some(epoch)
            }
            State::Foreign | State::Claiming { .. } | State::Clearing { .. } => None,
        }
    }

    fn retry_at(self) -> Option<Instant> {
        match self {
            State::Claiming { retry_at, .. }
            | State::Clearing { retry_at, .. }
            | State::HandingOver { flow: Flow::Releasing { retry_at }, .. } => Some(retry_at),
            _ => None,
        }
    }
}

impl Ownership {
    pub(super) fn state(&self, shard: u16) -> State {
        self.states.get(usize::from(shard)).copied().unwrap_or(State::Foreign)
    }

    pub(super) fn set(&mut self, shard: u16, state: State) {
        let Some(place) = self.states.get_mut(usize::from(shard)) else { return };
        let old = std::mem::replace(place, state);
        self.handing_over -= usize::from(matches!(old, State::HandingOver { .. }));
        self.handing_over += usize::from(matches!(state, State::HandingOver { .. }));
        if let Some(at) = old.retry_at() {
            self.retries.remove(&(at, shard));
        }
        if let Some(at) = state.retry_at() {
            self.retries.insert((at, shard));
        }
    }

    /// Notices what time alone has changed. Comes first in everything that takes `now`: a process that stood still finds its
    /// lease gone before it acts on anything it hears.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.leased_until.is_some_and(|until| until <= now) {
            self.lapsed();
        }
    }

    pub(super) fn has_lease(&self, now: Instant) -> bool {
        self.leased_until.is_some_and(|until| now < until)
    }

    pub(super) fn suspend_all(&mut self) {
        for shard in 0..self.config.shards {
            match self.state(shard) {
                State::Owned { epoch, .. } | State::HandingOver { epoch, .. } => {
                    self.set(shard, State::Suspended { epoch, asked: None });
                    self.outputs.push_back(Output::Suspend { shard });
                }
                State::Claiming { expected, asked, kept: true, .. } => {
                    self.set(shard, State::Suspended { epoch: expected, asked: Some(asked) });
                }
                // Should that claim or release take effect unheard, the fence will say so.
                State::Claiming { .. } | State::Clearing { .. } => self.set(shard, State::Foreign),
                State::Foreign | State::Suspended { .. } => {}
            }
        }
    }

    pub(super) fn decide_all(&mut self, now: Instant) {
        for shard in 0..self.config.shards {
            self.decide(now, shard);
        }
        self.rebalance(now);
    }

    /// Claims or clears what is to be claimed or cleared.
    pub(super) fn decide(&mut self, now: Instant, shard: u16) {
        if !self.has_lease(now) || self.live.is_empty() {
            return;
        }
        let wanted = !self.draining && self.placement.of(shard).owner == Some(self.config.me);
        let fence = self.map.fence(shard);
        match self.state(shard) {
            // Wanted or not: it is to be written back, or handed over in order.
            State::Suspended { epoch, asked } => self.claim(now, shard, epoch, asked, true),
            State::Foreign if self.is_read() => match fence.owner {
                Some(owner) if owner == self.config.me && wanted => self.claim(now, shard, fence.epoch, None, false),
                Some(owner) if owner == self.config.me => {
                    let retry_at = now + self.config.retry;
                    self.set(shard, State::Clearing { epoch: fence.epoch, retry_at });
                    self.outputs.push_back(Output::Release { shard, epoch: fence.epoch });
                }
                Some(owner) if self.is_live(owner) => {}
                // The roster is from before we heard of this owner: it may be back since.
                Some(_) if wanted && self.map.learned(shard) > self.roster_asked => self.look(),
                _ if wanted && self.has_gathered(now) => self.claim(now, shard, fence.epoch, None, false),
                _ => {}
            },
            _ => {}
        }
    }

    fn claim(&mut self, now: Instant, shard: u16, expected: Epoch, asked: Option<Epoch>, kept: bool) {
        let highest = self.map.highest(shard).max(expected);
        let fresh = asked.is_none();
        let asked = asked.unwrap_or_else(|| highest.next(self.config.me, self.incarnation));
        self.set(shard, State::Claiming { expected, asked, retry_at: now + self.config.retry, kept, fresh });
        self.outputs.push_back(Output::Claim { shard, expected, epoch: asked });
    }

    /// Asks for a newer roster, once.
    fn look(&mut self) {
        if !self.looking {
            self.looking = true;
            self.outputs.push_back(Output::Look);
        }
    }

    /// Asks again for what was not answered.
    pub(super) fn repeat(&mut self, now: Instant, shard: u16) {
        let retry_at = now + self.config.retry;
        match self.state(shard) {
            State::Claiming { expected, asked, kept, fresh, .. } => {
                self.set(shard, State::Claiming { expected, asked, retry_at, kept, fresh });
                self.outputs.push_back(Output::Claim { shard, expected, epoch: asked });
            }
            State::HandingOver { epoch, since, flow: Flow::Releasing { .. } } => {
                self.set(shard, State::HandingOver { epoch, since, flow: Flow::Releasing { retry_at } });
                self.outputs.push_back(Output::Release { shard, epoch });
            }
            State::Clearing { epoch, .. } => {
                self.set(shard, State::Clearing { epoch, retry_at });
                self.outputs.push_back(Output::Release { shard, epoch });
            }
            State::Foreign | State::Owned { .. } | State::Suspended { .. } | State::HandingOver { .. } => {}
        }
    }

    /// Starts to hand over what belongs elsewhere, as many shards as may be on their way at a time.
    pub(super) fn rebalance(&mut self, now: Instant) {
        if !self.has_lease(now) || self.settled_at.is_some() && !self.draining {
            return;
        }
        let limit = if self.draining { self.config.drain_at_once } else { self.config.rebalance_at_once };
        for shard in 0..self.config.shards {
            if self.handing_over >= limit {
                return;
            }
            let belongs = self.placement.of(shard).owner;
            let leaves = belongs.is_some_and(|owner| owner != self.config.me) || belongs.is_none() && self.draining;
            if let State::Owned { epoch, since } = self.state(shard)
                && leaves
            {
                self.set(shard, State::HandingOver { epoch, since, flow: Flow::Flushing });
                self.outputs.push_back(Output::HandOver { shard, epoch });
            }
        }
    }

    pub(super) fn lose(&mut self, shard: u16) {
        if self.state(shard).in_memory() {
            self.outputs.push_back(Output::Drop { shard });
        }
        self.set(shard, State::Foreign);
    }

    /// Loses a shard of which the map knows a later owner.
    pub(super) fn lose_if_overtaken(&mut self, shard: u16) {
        let fence = self.map.fence(shard);
        if self.state(shard).held_under().is_some_and(|epoch| fence.epoch > epoch) && !self.is_own_claim(shard, fence) {
            self.lose(shard);
        }
    }

    /// Loses a shard of which the store says that it is not held as we hold it.
    pub(super) fn lose_if_held_under(&mut self, shard: u16, epoch: Epoch, fence: Fence) {
        if self.state(shard).held_under() == Some(epoch) && !self.is_own_claim(shard, fence) {
            self.lose(shard);
        }
    }

    /// Whether the fence is what a claim would have made of it that this node asked for, and never heard of.
    fn is_own_claim(&self, shard: u16, fence: Fence) -> bool {
        matches!(self.state(shard), State::Suspended { asked: Some(asked), .. }
            if fence == Fence { owner: Some(self.config.me), epoch: asked })
    }

    fn is_live(&self, tag: reveille_registrar::flow::NodeTag) -> bool {
        self.live.binary_search(&tag.0).is_ok()
    }
}
