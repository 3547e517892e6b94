//! The port to the dispatchers: what a shard asks of whoever sends pushes, and what it hears back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::caps::Announcement;
use crate::provider::Provider;
use crate::target::PushTarget;

/// What a push is for. The order is that of urgency, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PushClass {
    /// An incoming call waits.
    Call,
    /// A request within a dialog waits: BYE, a session refresh, NOTIFY. As urgent as a call, but nothing rings (P-090).
    Dialog,
    /// Another request waits, such as a MESSAGE.
    Request,
    /// Nobody waits; the binding should be renewed before it ends.
    Refresh,
}

impl PushClass {
    /// Name for metric labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            PushClass::Call => "call",
            PushClass::Dialog => "dialog",
            PushClass::Request => "request",
            PushClass::Refresh => "refresh",
        }
    }

    /// Whether a push of this class will be delivered sooner than one of `other`.
    pub fn outranks(self, other: PushClass) -> bool {
        self < other
    }
}

/// The right to take a push back that has not left yet (P-047, P-069).
///
/// Clones share one state: the owner keeps one, the job carries the other, and the dispatcher looks right before sending.
#[derive(Clone, Debug, Default)]
pub struct Ticket(Arc<AtomicBool>);

impl Ticket {
    /// A ticket whose push is wanted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the push is no longer wanted. There is no way back.
    pub fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the push is no longer wanted.
    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// One push to be sent.
pub struct PushJob {
    /// Number given by the owner, unique within its process; for logs and traces.
    pub id: u64,
    /// Where to.
    pub target: PushTarget,
    /// How urgent.
    pub class: PushClass,
    /// After this instant nobody wants the push; retries end before it (P-065).
    pub deadline: Instant,
    /// How long the push service may keep the push for a device it cannot reach.
    pub ttl: Duration,
    /// Pushes of this kind that went before it to no effect; the next may be more urgent (P-129).
    pub repeat: u32,
    /// Withdrawn when the push is no longer wanted.
    pub ticket: Ticket,
    /// Called once, with the final verdict.
    pub reply: Box<dyn FnOnce(Outcome) + Send>,
    /// Opaque random number, the only thing of ours a payload may carry (P-106).
    pub correlation: u64,
}

impl PushJob {
    /// Ends the job with its verdict.
    pub fn answer(self, outcome: Outcome) {
        (self.reply)(outcome);
    }
}

impl fmt::Debug for PushJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushJob")
            .field("id", &self.id)
            .field("target", &self.target)
            .field("class", &self.class)
            .field("ttl", &self.ttl)
            .field("withdrawn", &self.ticket.is_withdrawn())
            .finish_non_exhaustive()
    }
}

/// The final verdict on a push, after the dispatcher's own retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service took the push. This says nothing of its delivery (P-127).
    Accepted,
    /// The token is dead; the only verdict that removes a push target.
    Unregistered {
        /// Since when, where the service says so: a token registered again later is alive (P-154).
        since: Option<SystemTime>,
    },
    /// The service wants fewer pushes.
    Throttled {
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The request was refused for a reason that repeating it cannot mend: policy, or a fault of ours.
    Refused,
    /// Our credential was refused (P-122).
    CredentialFault,
    /// The service could not be reached, or failed by itself.
    Unavailable,
    /// The push was withdrawn before it left.
    Withdrawn,
    /// The deadline passed before the push could leave.
    Expired,
}

impl Outcome {
    /// Name for metric labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Unregistered { .. } => "unregistered",
            Outcome::Throttled { .. } => "throttled",
            Outcome::Refused => "refused",
            Outcome::CredentialFault => "credential_fault",
            Outcome::Unavailable => "unavailable",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Expired => "expired",
        }
    }
}

/// Why a push target is not taken on; the REGISTER is answered as P-036 says, without detail (P-120).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The provider is not configured.
    #[error("push provider not configured")]
    Provider,
    /// The app, project or push host is not on the allow-list (P-118).
    #[error("app, project or push host not on the allow-list")]
    App,
    /// The provider has no working credential (P-122).
    #[error("no working credential for the push provider")]
    Credential,
}

/// Whoever sends pushes. No call waits.
pub trait PushServices: Send + Sync {
    /// Whether pushes to `target` can be promised: provider configured, credential healthy, app allowed (P-118, P-122).
    ///
    /// # Errors
    /// [`Unsupported`] with the reason, which is for metrics, not for the peer.
    fn check(&self, target: &PushTarget) -> Result<(), Unsupported>;

    /// What to announce for a provider; `None` when it must not be announced.
    fn announce(&self, provider: Provider) -> Option<Announcement>;

    /// Everything that can be announced, one per provider, for a query of all types (P-040).
    fn announced(&self) -> Vec<Announcement>;

    /// Takes a push on.
    ///
    /// # Errors
    /// Gives the job back, unanswered, when its queue is full.
    #[allow(clippy::result_large_err)] // the job must come back whole, and a full queue is the rare case
    fn submit(&self, job: PushJob) -> Result<(), PushJob>;

    /// Whether a push of this class may be sent to `target` at all (P-151).
    fn can_wake(&self, target: &PushTarget, class: PushClass) -> bool {
        target.can_wake(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-047, P-069: a withdrawal reaches every holder of the ticket.
    #[test]
    fn withdrawal_is_shared() {
        let ticket = Ticket::new();
        let carried = ticket.clone();
        assert!(!carried.is_withdrawn());
        ticket.withdraw();
        assert!(carried.is_withdrawn());
    }

    #[test]
    fn urgency_is_the_order() {
        assert!(PushClass::Call.outranks(PushClass::Dialog));
        assert!(PushClass::Dialog.outranks(PushClass::Request));
        assert!(PushClass::Request.outranks(PushClass::Refresh));
        assert!(!PushClass::Call.outranks(PushClass::Call));
    }
}
