//! The server machines: INVITE (RFC 3261 §17.2.1, RFC 6026 §7.1) and the others (§17.2.2, RFC 4320).

pub(crate) mod invite;
pub(crate) mod non_invite;

use std::time::Instant;

use bytes::Bytes;

use crate::timer::TimerConfig;

/// What a timer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fired {
    /// Nothing was due.
    Nothing,
    /// The response goes out again.
    Resend(Bytes),
    /// A 100 is owed (RFC 4320 §4.1).
    OweTrying,
    /// Timer H or the life of a non-INVITE: it ended without what should have come.
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
    /// The request again: the response to repeat, if any.
    pub(crate) fn retransmission(&self) -> Option<Bytes> {
        match self {
            Self::Invite(machine) => machine.retransmission(),
            Self::NonInvite(machine) => machine.retransmission(),
        }
    }

    /// A response of the user: the bytes to send, if they may go out.
    pub(crate) fn respond(&mut self, now: Instant, timers: &TimerConfig, status: u16, bytes: Bytes) -> Option<Bytes> {
        match self {
            Self::Invite(machine) => machine.respond(now, timers, status, bytes),
            Self::NonInvite(machine) => machine.respond(now, timers, status, bytes),
        }
    }

    pub(crate) fn timeout(&mut self, now: Instant, timers: &TimerConfig) -> Fired {
        match self {
            Self::Invite(machine) => machine.timeout(now, timers),
            Self::NonInvite(machine) => machine.timeout(now),
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
}
