//! The client machines: INVITE (RFC 3261 §17.1.1, RFC 6026 §7.2) and the others (§17.1.2).

pub(crate) mod invite;
pub(crate) mod non_invite;

use std::time::Instant;

use crate::timer::TimerConfig;

/// What a response means to a client machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing the user has to hear again.
    Absorbed,
    /// For the user.
    Deliver,
    /// For the user, and an ACK goes out.
    DeliverAndAck,
    /// A final response again: the ACK goes out once more.
    Ack,
}

/// What a timer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fired {
    /// Nothing was due.
    Nothing,
    /// The request goes out again.
    Resend,
    /// Timer B or F: nobody answered.
    TimedOut,
    /// The machine has absorbed long enough.
    Done,
}

/// Either machine.
#[derive(Debug)]
pub(crate) enum Machine {
    Invite(invite::Machine),
    NonInvite(non_invite::Machine),
}

impl Machine {
    pub(crate) fn response(&mut self, now: Instant, timers: &TimerConfig, status: u16) -> Heard {
        match self {
            Self::Invite(machine) => machine.response(now, timers, status),
            Self::NonInvite(machine) => machine.response(now, timers, status),
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant, timers: &TimerConfig) -> Fired {
        match self {
            Self::Invite(machine) => machine.timeout(now),
            Self::NonInvite(machine) => machine.timeout(now, timers),
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.next(),
            Self::NonInvite(machine) => machine.next(),
        }
    }

    /// No final response yet.
    pub(crate) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_pending(),
            Self::NonInvite(machine) => machine.is_pending(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_done(),
            Self::NonInvite(machine) => machine.is_done(),
        }
    }

    /// Whether the request's bytes can still be needed: to send again, or to build an ACK or a CANCEL from.
    pub(crate) fn needs_request(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.needs_request(),
            Self::NonInvite(machine) => machine.is_pending(),
        }
    }
}
