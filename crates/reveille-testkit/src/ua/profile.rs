//! The small types a phone's parts share: who the phone is, and what its agent hands over.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::digest::DigestSupport;
use super::link::Transport;
use super::wire::SipMessage;

/// A message and when it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its last byte had been read.
    pub at: Instant,
    /// The message.
    pub message: SipMessage,
}

/// Who the phone is and how it behaves; fixed when it is built.
pub(super) struct Profile {
    pub(super) user: String,
    pub(super) domain: String,
    pub(super) auth_user: String,
    pub(super) password: String,
    pub(super) digest: DigestSupport,
    pub(super) server: SocketAddr,
    pub(super) transport: Transport,
    pub(super) patience: Duration,
    /// No automatic answer of any kind; everything goes to the inbox.
    pub(super) raw: bool,
    /// Out-of-dialog requests but INVITE get 200 by themselves.
    pub(super) auto_answer: bool,
    pub(super) keep_transcript: bool,
}

/// A new call as the agent hands it over.
pub(super) struct Offer {
    pub(super) invite: Received,
    pub(super) tag: String,
    pub(super) requests: mpsc::Receiver<Received>,
}
