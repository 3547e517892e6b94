//! This node's own lease: when to renew it, how long it may be trusted, and what to do when it ran out.
//!
//! ```text
//!            first renewal              not renewed in time, or another has the tag
//!  Joining ───────────────▶ Live ─────────────────────────────────────────────────▶ Degraded
//!                            ▲                       renewed                           │
//!                            └─────────────────────────────────────────────────────────┘
//! ```
//!
//! The store counts a lease from when the renewal *reached* it; we count from when we *sent* it, and stop a margin early. So
//! however long the renewal or its answer travelled, and however long this process stood still, we stop writing before anybody
//! can find us gone, as long as our clock loses less than the margin in one lease. Degraded, the node goes on serving from memory.
//!
//! An answered renewal carries the roster. The next renewal is due after a third of the lease, or at the moment when some other
//! node's lease ends if that is sooner: that is how a dead node is noticed at once without polling.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use reveille_registrar::flow::NodeTag;

use crate::{
    fence::Incarnation,
    roster::{Lease, NodeInfo, Roster},
};

/// Times of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// How long a lease runs after a renewal; a dead node is missed after at most this. 5 s.
    pub ttl: Duration,
    /// How long before its end we stop trusting our lease: more than a clock may drift in `ttl`, and a write may take. 500 ms.
    pub margin: Duration,
    /// How long one attempt may take before another is made. 700 ms.
    pub patience: Duration,
    /// How long after a failed attempt the next one is made. 300 ms.
    pub retry: Duration,
}

impl Default for MemberConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            margin: Duration::from_millis(500),
            patience: Duration::from_millis(700),
            retry: Duration::from_millis(300),
        }
    }
}

/// How this node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not had a lease yet, or has given it back.
    Joining,
    /// It has a lease and may write.
    Live,
    /// It serves from memory and may not write.
    Degraded(Degraded),
}

/// Why a node is degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Degraded {
    /// The store did not answer in time.
    #[error("the lease could not be renewed in time")]
    LeaseRanOut,
    /// Another process holds the lease of our tag: two nodes are configured alike, or our place was given away.
    #[error("another process holds the lease of this node")]
    TagTaken,
}

/// What a member wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberOutput {
    /// Ask the store to renew: it succeeds only where no lease of this tag runs or the running one is of this incarnation. The
    /// answer goes to [`OwnLease::renewed`], [`OwnLease::refused`] or [`OwnLease::failed`].
    Renew {
        /// Names the attempt.
        attempt: u64,
        /// This life.
        incarnation: Incarnation,
        /// How long the lease is to run.
        ttl: Duration,
        /// What others are to know of us.
        description: Vec<u8>,
    },
    /// Give the lease back, if it is still of this incarnation.
    Leave {
        /// The life that ends.
        incarnation: Incarnation,
    },
    /// Tell every node that the roster has changed, so that it looks at once.
    AnnounceMembers,
    /// The roster differs from what it was: see [`OwnLease::roster`].
    RosterChanged,
    /// The node may write until then. Comes with every renewal.
    Leased {
        /// When the renewal was sent, and with it the roster asked for.
        sent: Instant,
        /// The self-fencing deadline.
        until: Instant,
        /// The life the lease is of.
        incarnation: Incarnation,
    },
    /// The node may not write any more.
    Lapsed(Degraded),
}

/// The lease of this node. See the module's description.
#[derive(Debug)]
pub struct OwnLease {
    config: MemberConfig,
    info: NodeInfo,
    /// Raised with every change of `info`.
    revision: u64,
    /// The revision that others were told of.
    announced: Option<u64>,
    incarnation: Incarnation,
    standing: Standing,
    /// When the renewal that counts was sent.
    renewed: Option<Instant>,
    attempts: VecDeque<Attempt>,
    next_attempt: u64,
    /// The newest attempt that was answered.
    answered: u64,
    /// An attempt is on its way since.
    waiting: Option<Instant>,
    renew_at: Option<Instant>,
    roster: Roster,
    outputs: VecDeque<MemberOutput>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    sent: Instant,
    incarnation: Incarnation,
    revision: u64,
}

/// How many attempts are remembered: an answer to an older one is of no use.
const REMEMBERED: usize = 8;

impl OwnLease {
    /// A node that asks for its first lease at once. `boot` differs from start to start (see [`Incarnation::first`]).
    pub fn new(now: Instant, config: MemberConfig, info: NodeInfo, boot: u64) -> Self {
        let mut lease = Self {
            config,
            info,
            revision: 1,
            announced: None,
            incarnation: Incarnation::first(boot),
            standing: Standing::Joining,
            renewed: None,
            attempts: VecDeque::new(),
            next_attempt: 1,
            answered: 0,
            waiting: None,
            renew_at: Some(now),
            roster: Roster::default(),
            outputs: VecDeque::new(),
        };
        lease.handle_timeout(now);
        lease
    }

    /// How the node stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The nodes alive at the last reading.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What the node says of itself.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// The node itself.
    pub fn tag(&self) -> NodeTag {
        self.info.tag
    }

    /// Whether the node may write at this moment. To be asked with a clock read just before the write is handed over, and
    /// again before its success is acknowledged.
    pub fn may_write(&self, now: Instant) -> bool {
        self.standing == Standing::Live && self.deadline().is_some_and(|deadline| now < deadline)
    }

    /// Changes the node's description and publishes it at once: a new weight, or that it drains.
    pub fn describe(&mut self, now: Instant, change: impl FnOnce(&mut NodeInfo)) {
        change(&mut self.info);
        self.revision += 1;
        self.renew_now(now);
    }

    /// Hears that the roster has changed somewhere.
    pub fn members_changed(&mut self, now: Instant) {
        if self.waiting.is_some() {
            // The answer on its way may be from before the change.
            self.renew_at = Some(now);
        } else {
            self.renew_now(now);
        }
    }

    /// Gives the lease back; the node holds nothing afterwards and asks for nothing more.
    pub fn leave(&mut self, now: Instant) {
        self.advance(now);
        self.outputs.push_back(MemberOutput::Leave { incarnation: self.incarnation });
        self.outputs.push_back(MemberOutput::AnnounceMembers);
        self.standing = Standing::Joining;
        self.renewed = None;
        self.renew_at = None;
        self.waiting = None;
        self.attempts.clear();
    }

    /// The store renewed the lease, and this is the roster it read in the same step.
    pub fn renewed(&mut self, now: Instant, attempt: u64, leases: Vec<Lease>) {
        self.advance(now);
        let Some(attempt) = self.answer(attempt) else { return };
        let deadline = self.deadline_of(attempt.sent);
        if deadline <= now {
            // True once, but that long ago it says nothing of now.
            self.renew_now(now);
            return;
        }
        self.incarnation = attempt.incarnation;
        self.renewed = Some(attempt.sent);
        self.standing = Standing::Live;
        let changed = self.roster.update(now, leases);
        let due = attempt.sent + self.config.ttl / 3;
        let look = self.roster.next_end(self.info.tag).map(|end| end + LOOK_AFTER);
        self.renew_at = Some(match self.renew_at {
            Some(at) if self.waiting.is_none() && at <= now => at,
            _ => look.map_or(due, |look| look.min(due)).max(now + LOOK_AFTER),
        });
        if changed {
            self.outputs.push_back(MemberOutput::RosterChanged);
        }
        self.outputs.push_back(MemberOutput::Leased {
            sent: attempt.sent,
            until: deadline,
            incarnation: attempt.incarnation,
        });
        if self.announced.is_none_or(|announced| announced < attempt.revision) {
            self.announced = Some(attempt.revision);
            self.outputs.push_back(MemberOutput::AnnounceMembers);
        }
        self.send_if_due(now);
    }

    /// The store refused: a lease of our tag runs, and it is of `holder`.
    pub fn refused(&mut self, now: Instant, attempt: u64, holder: Incarnation) {
        self.advance(now);
        let Some(attempt) = self.answer(attempt) else { return };
        if holder != attempt.incarnation && holder.same_process(attempt.incarnation) {
            // An earlier life of ours: a renewal took effect whose answer was lost. It is as good as this one.
            self.incarnation = holder;
            self.renew_now(now);
            return;
        }
        if self.renewed.take().is_some() {
            self.incarnation = self.incarnation.next();
            self.announced = None;
        }
        self.renew_at = Some(now + self.config.retry);
        self.lapse(Degraded::TagTaken);
    }

    /// The store could not be asked, or did not answer.
    pub fn failed(&mut self, now: Instant, attempt: u64) {
        self.advance(now);
        if self.waiting.is_some() && attempt + 1 == self.next_attempt {
            self.waiting = None;
            self.renew_at = Some(now + self.config.retry);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.send_if_due(now);
    }

    /// When [`OwnLease::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempt = match self.waiting {
            Some(sent) => Some(sent + self.config.patience),
            None => self.renew_at,
        };
        let deadline = self.deadline().filter(|_| self.standing == Standing::Live);
        [attempt, deadline].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<MemberOutput> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|sent| self.deadline_of(sent))
    }

    fn deadline_of(&self, sent: Instant) -> Instant {
        sent + self.config.ttl.saturating_sub(self.config.margin)
    }

    /// Notices what time alone has changed. Comes first in everything that takes `now`: a process that stood still finds its
    /// lease gone before it acts on anything it hears.
    fn advance(&mut self, now: Instant) {
        if self.standing == Standing::Live && self.deadline().is_none_or(|deadline| deadline <= now) {
            self.lapse(Degraded::LeaseRanOut);
        }
        if self.waiting.is_some_and(|sent| sent + self.config.patience <= now) {
            self.waiting = None;
            self.renew_at = Some(now);
        }
    }

    fn lapse(&mut self, why: Degraded) {
        let was_live = self.standing == Standing::Live;
        self.standing = Standing::Degraded(why);
        if was_live {
            self.outputs.push_back(MemberOutput::Lapsed(why));
        }
    }

    /// Finds the attempt that an answer is to, unless a later one was answered already.
    fn answer(&mut self, number: u64) -> Option<Attempt> {
        let attempt = self.attempts.iter().copied().find(|attempt| attempt.number == number)?;
        if number + 1 == self.next_attempt {
            self.waiting = None;
        }
        if number <= self.answered {
            return None;
        }
        self.answered = number;
        Some(attempt)
    }

    fn renew_now(&mut self, now: Instant) {
        self.renew_at = Some(now);
        self.waiting = None;
        self.send_if_due(now);
    }

    fn send_if_due(&mut self, now: Instant) {
        if self.waiting.is_some() || self.renew_at.is_none_or(|at| at > now) {
            return;
        }
        if self.renewed.is_some_and(|sent| sent + self.config.ttl <= now) {
            // The lease is over: whoever sees us again is to see another life.
            self.renewed = None;
            self.announced = None;
            self.incarnation = self.incarnation.next();
        }
        let attempt =
            Attempt { number: self.next_attempt, sent: now, incarnation: self.incarnation, revision: self.revision };
        self.next_attempt += 1;
        self.waiting = Some(now);
        self.renew_at = None;
        if self.attempts.len() == REMEMBERED {
            self.attempts.pop_front();
        }
        self.attempts.push_back(attempt);
        self.outputs.push_back(MemberOutput::Renew {
            attempt: attempt.number,
            incarnation: attempt.incarnation,
            ttl: self.config.ttl,
            description: self.info.encode(),
        });
    }
}

/// A reading is looked at again this long after a lease in it ends: the store counts in whole milliseconds.
const LOOK_AFTER: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests;
