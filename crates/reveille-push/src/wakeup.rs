//! The wake-up of one sleeping binding (RFC 8599 §5.6.2): one push, and everything that waits for the phone shares its
//! fate (P-052 to P-069).
//!
//! ```text
//!            start                 accepted
//!   ──────────────────▶ Asked ──────────────────▶ Accepted
//!                        │ ▲  more urgent waiter,     │
//!                        │ └──or push outlived ───────┤
//!                        ▼                            ▼
//!   refreshed | push failed | rejected | binding gone | nobody waits any more ──▶ Done
//! ```
//!
//! The owner puts a request into the bucket first (`Join`) and polls outputs afterwards, so that the push is asked for
//! when the waiter is in place (P-056). A wake-up started for a refresh has no waiter; a call that comes upgrades it.

use std::collections::VecDeque;
use std::time::Instant;

use smallvec::SmallVec;

use crate::service::{Outcome, PushClass};

/// Names a waiter to its owner; unique among the waiters of one wake-up.
pub type WaiterId = u64;

/// Most requests that may wait for one binding (P-071).
pub const MAX_WAITERS: usize = 16;

/// What a wake-up hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A request waits from now on.
    Join {
        /// Its name; joining twice is joining once.
        waiter: WaiterId,
        /// What it needs to be woken for.
        class: PushClass,
        /// Its Bucket Timer (P-066, P-067).
        deadline: Instant,
    },
    /// A request waits no longer: cancelled, or answered elsewhere (P-069, P-070).
    Leave {
        /// Its name.
        waiter: WaiterId,
    },
    /// The verdict on the push asked for *last*; the owner drops the verdicts on earlier ones.
    PnsAnswered(Outcome),
    /// The push asked for last may not be sent: the token has had its share (P-116).
    Forbidden,
    /// The binding was refreshed, for whatever reason (P-058, P-063).
    Refreshed,
    /// The phone's REGISTER was refused for good (P-064).
    Rejected,
    /// The binding ended (P-047).
    BindingGone,
}

/// What a wake-up wants done. Every waiter gets one `Release` or one `Fail`, unless it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for a push.
    RequestPush {
        /// What for.
        class: PushClass,
        /// When the last waiter will have gone.
        deadline: Instant,
    },
    /// The push asked for last is no longer wanted.
    WithdrawPush,
    /// The phone is awake: forward this request.
    Release {
        /// Whom.
        waiter: WaiterId,
    },
    /// The phone could not be woken for this request.
    Fail {
        /// Whom.
        waiter: WaiterId,
        /// Why.
        why: WakeFailure,
    },
    /// Nothing more will come: forget this wake-up.
    Done,
}

/// Why a waiter was not released. All are 480 outside a dialog (P-064 to P-066); P-081 has the codes inside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WakeFailure {
    /// The waiter's time is up.
    #[error("no refresh before the deadline")]
    Deadline,
    /// The push service would not or could not take the push.
    #[error("push failed")]
    PushFailed,
    /// The phone came, and its REGISTER was refused.
    #[error("registration rejected")]
    Rejected,
    /// The binding ended meanwhile.
    #[error("binding gone")]
    BindingGone,
    /// Too many wait already.
    #[error("too many requests waiting")]
    Overflow,
    /// The token has had its share of pushes (P-116).
    #[error("too many pushes")]
    Limited,
    /// The phone has no connection, and cannot be woken.
    #[error("not connected")]
    NotConnected,
}

impl WakeFailure {
    /// Name for metric labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            WakeFailure::Deadline => "deadline",
            WakeFailure::PushFailed => "push_failed",
            WakeFailure::Rejected => "rejected",
            WakeFailure::BindingGone => "binding_gone",
            WakeFailure::Overflow => "overflow",
            WakeFailure::Limited => "limited",
            WakeFailure::NotConnected => "not_connected",
        }
    }
}

/// The machine. See the module's description for its states.
#[derive(Debug)]
pub struct Wakeup {
    state: State,
    /// What was asked of the push service last.
    asked: Asked,
    /// Wish of the owner itself: a refresh lasts to its deadline, any other until the first waiter comes.
    own: Option<(PushClass, Instant)>,
    waiters: SmallVec<[Waiter; 2]>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A push is asked for; its verdict is not known.
    Asked,
    /// The push service has the push.
    Accepted,
    /// Over, with this end for whoever comes late.
    Done(Result<(), WakeFailure>),
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    class: PushClass,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    id: WaiterId,
    class: PushClass,
    deadline: Instant,
}

impl Wakeup {
    /// Asks for a push of `class`, worth having until `deadline`.
    ///
    /// Started for [`PushClass::Refresh`] it lives to the deadline even if nobody waits; otherwise the first `Join` is
    /// expected to follow, and the wake-up ends when the last waiter has gone.
    pub fn start(_now: Instant, class: PushClass, deadline: Instant) -> Self {
        Wakeup {
            state: State::Asked,
            asked: Asked { class, deadline },
            own: Some((class, deadline)),
            waiters: SmallVec::new(),
            outputs: VecDeque::from([Output::RequestPush { class, deadline }]),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match (self.state, input) {
            (State::Done(Ok(())), Input::Join { waiter, .. }) => self.outputs.push_back(Output::Release { waiter }),
            (State::Done(Err(why)), Input::Join { waiter, .. }) => self.outputs.push_back(Output::Fail { waiter, why }),
            (State::Done(_), _) => {}
            (_, Input::Join { waiter, class, deadline }) => self.join(now, Waiter { id: waiter, class, deadline }),
            (_, Input::Leave { waiter }) => self.leave(waiter),
            (State::Asked, Input::PnsAnswered(outcome)) => self.pns_answered(outcome),
            (State::Asked, Input::Forbidden) => {
                self.state = State::Accepted; // nothing left, so nothing is to be withdrawn
                self.finish(Err(WakeFailure::Limited));
            }
            (State::Accepted, Input::PnsAnswered(_) | Input::Forbidden) => {}
            // The verdict is not waited for: the phone is here (P-063).
            (_, Input::Refreshed) => self.finish(Ok(())),
            (_, Input::Rejected) => self.finish(Err(WakeFailure::Rejected)),
            (_, Input::BindingGone) => self.finish(Err(WakeFailure::BindingGone)),
        }
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let own = self.own.map(|(_, deadline)| deadline);
        // A push that has run out is asked for anew while somebody waits on.
        let lapse = (self.last_deadline() > Some(self.asked.deadline)).then_some(self.asked.deadline);
        self.waiters.iter().map(|w| w.deadline).chain(own).chain(lapse).min()
    }

    /// Lets go of whoever has waited long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_done() {
            return;
        }
        let due = |w: &Waiter| w.deadline <= now;
        for waiter in self.waiters.iter().filter(|w| due(w)) {
            self.outputs.push_back(Output::Fail { waiter: waiter.id, why: WakeFailure::Deadline });
        }
        self.waiters.retain(|w| !due(w));
        self.own = self.own.filter(|(_, deadline)| *deadline > now);
        self.settle();
        if !self.is_done() && self.asked.deadline <= now {
            self.ask_again();
        }
    }

    /// Whether everything has been said; outputs may still be waiting to be polled.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Class of the push asked for last.
    pub fn class(&self) -> PushClass {
        self.asked.class
    }

    fn join(&mut self, now: Instant, waiter: Waiter) {
        if self.waiters.iter().any(|w| w.id == waiter.id) {
            return;
        }
        if waiter.deadline <= now {
            return self.outputs.push_back(Output::Fail { waiter: waiter.id, why: WakeFailure::Deadline });
        }
        if self.waiters.len() >= MAX_WAITERS {
            return self.outputs.push_back(Output::Fail { waiter: waiter.id, why: WakeFailure::Overflow });
        }
        self.waiters.push(waiter);
        // Whoever it was started for has come; only a refresh is wanted for its own sake.
        self.own = self.own.filter(|(class, _)| *class == PushClass::Refresh);
        if waiter.class.outranks(self.asked.class) {
            // P-057: the lesser push is of no use any more, sent or not.
            self.withdraw_unanswered();
            self.ask(waiter.class);
        }
    }

    fn leave(&mut self, waiter: WaiterId) {
        let before = self.waiters.len();
        self.waiters.retain(|w| w.id != waiter);
        if self.waiters.len() != before {
            self.settle();
        }
    }

    fn pns_answered(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => self.state = State::Accepted,
            Outcome::Expired => self.ask_again(),
            // Only the owner withdraws, and it has told us why by then.
            Outcome::Withdrawn => {}
            Outcome::Unregistered { .. }
            | Outcome::Throttled { .. }
            | Outcome::Refused
            | Outcome::CredentialFault
            | Outcome::Unavailable => {
                self.state = State::Accepted; // answered: nothing is left to withdraw
                self.finish(Err(WakeFailure::PushFailed));
            }
        }
    }

    /// After somebody has gone: ends when nobody is left, and gives up a push more urgent than those who are (P-069; a
    /// `voip` push must not outlive its call, P-151).
    fn settle(&mut self) {
        let Some(needed) = self.needed() else {
            return self.finish(Err(WakeFailure::PushFailed));
        };
        if self.state == State::Asked && self.asked.class.outranks(needed) {
            self.withdraw_unanswered();
            self.ask(needed);
        }
    }

    /// The push has run out or never left in time; asks anew if somebody waits longer than it lasted.
    fn ask_again(&mut self) {
        if let Some(needed) = self.needed()
            && self.last_deadline() > Some(self.asked.deadline)
        {
            self.withdraw_unanswered();
            self.ask(needed);
        }
    }

    fn ask(&mut self, class: PushClass) {
        let deadline = self.last_deadline().unwrap_or(self.asked.deadline);
        self.asked = Asked { class, deadline };
        self.state = State::Asked;
        self.outputs.push_back(Output::RequestPush { class, deadline });
    }

    fn withdraw_unanswered(&mut self) {
        if self.state == State::Asked {
            self.outputs.push_back(Output::WithdrawPush);
        }
    }

    fn finish(&mut self, end: Result<(), WakeFailure>) {
        for Waiter { id: waiter, .. } in self.waiters.drain(..) {
            self.outputs.push_back(match end {
                Ok(()) => Output::Release { waiter },
                Err(why) => Output::Fail { waiter, why },
            });
        }
        self.withdraw_unanswered();
        self.own = None;
        self.state = State::Done(end);
        self.outputs.push_back(Output::Done);
    }

    /// The most urgent wish.
    fn needed(&self) -> Option<PushClass> {
        self.waiters.iter().map(|w| w.class).chain(self.own.map(|(class, _)| class)).min()
    }

    /// When the last wish ends.
    fn last_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|w| w.deadline).chain(self.own.map(|(_, deadline)| deadline)).max()
    }
}

#[cfg(test)]
mod tests;
