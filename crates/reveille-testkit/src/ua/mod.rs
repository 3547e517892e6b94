//! Scripted SIP phones: they register with push parameters, sleep, wake, call and are called, over TLS, TCP or UDP.
//!
//! A [`Phone`] does by itself what needs no decision (100, ACK, retransmissions, 200 to BYE) and leaves the rest to the script.
//! A [`SleepyPhone`] is a whole script: it sleeps until a push wakes it, takes the call and reports a timeline.
//! Nothing here sleeps to wait for something: every wait is for a message, within a limit.

mod agent;
mod builder;
mod call;
mod compose;
mod dialog;
mod digest;
mod link;
mod phone;
mod profile;
mod recent;
mod sleepy;
mod transaction;
mod wire;

pub use self::builder::{PhoneBuilder, PushParams};
pub use self::call::{IncomingCall, OutgoingCall};
pub use self::digest::DigestSupport;
pub use self::link::Transport;
pub use self::phone::{DeadFlow, Phone};
pub use self::profile::Received;
pub use self::sleepy::{Ending, Event, SleepyConfig, SleepyPhone, Step};
pub use self::wire::{SipMessage, escape_pvalue};
/// The methods of rsip: all that the RFCs name. Anything else is text for [`Phone::send_raw`].
pub use rsip::Method;

/// Why a phone could not do what its script says.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// The connection could not be made.
    #[error("cannot connect: {0}")]
    Io(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The phone sleeps, or the peer closed the connection.
    #[error("the phone is not connected")]
    NotConnected,
    /// What the script waits for did not come in time.
    #[error("{0} did not come in time")]
    Timeout(&'static str),
    /// Something else came first.
    #[error("unexpected: {0}")]
    Unexpected(&'static str),
    /// The call has no dialog to send a request in.
    #[error("there is no dialog")]
    NoDialog,
    /// The phone has no push device to be woken through.
    #[error("the phone has no device")]
    NoDevice,
}
