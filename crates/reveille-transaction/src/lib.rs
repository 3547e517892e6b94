//! The transaction layer of RFC 3261 §17 as corrected by RFC 6026 and RFC 4320, and the response context of a forking
//! proxy (RFC 3261 §16.7, §16.8). Plain values: time is an argument, nothing here waits, sends or reads a clock.
//!
//! # Using [`Transactions`]
//!
//! One [`Transactions`] value per worker. `D` names where bytes go (a flow); it is opaque, only compared and hashed.
//!
//! 1. Hand every parsed message to [`Transactions::receive`]. Requests come already stamped with `received`/`rport`
//!    (RFC 3261 §18.2.1, RFC 3581), since the layer copies the Via lines into the answers it makes itself: the 200 or 481 to a
//!    CANCEL, and the 100 that a slow non-INVITE is owed.
//! 2. After each call that takes `now`, drain [`Transactions::poll_event`] and [`Transactions::poll_transmit`], and arm a timer
//!    for [`Transactions::poll_timeout`], whose expiry calls [`Transactions::handle_timeout`].
//! 3. Answer [`Event::Request`] through [`Transactions::respond`] (an INVITE gets its 100 from the user at once), forward with
//!    [`Transactions::request`] and keep one's own state by the [`ServerId`] and [`ClientId`] until
//!    [`Event::ServerGone`] and [`Event::ClientGone`].
//!
//! Retransmissions, the ACK to a final response of 300 and above, CANCEL (held back until a provisional response arrived, as
//! §9.1 asks) and every timer of §17 stay inside.
//!
//! # Using [`ResponseContext`]
//!
//! One per request forwarded statefully. Name each target with [`ResponseContext::add_branch`], then say
//! [`ResponseContext::all_added`], or wait for [`ForkOutput::NextGroup`] and add the next group by q first. Feed it what
//! [`Event::Response`] and [`Event::Failed`] bring for its branches, obey what [`ResponseContext::poll_output`] says, and drop it at
//! [`ForkOutput::Finished`]. A branch that waits for a phone to be woken is a [`BranchKind::Waiting`] one until
//! [`ResponseContext::forwarded`].

pub mod fork;
pub mod timer;

mod arena;
mod build;
mod client;
mod key;
mod reach;
mod server;
mod table;

pub use fork::{BranchId, BranchKind, ForkOutput, ResponseContext};
pub use table::{ClientId, Event, Failure, Received, ServerId, Stats, Transactions, Transmit};
pub use timer::TimerConfig;

#[cfg(test)]
mod testing;
