//! The way in: what the edge hands to the proxy.

use std::{net::SocketAddr, time::Instant};

use reveille_registrar::flow::{FlowRef, Transport};
use reveille_sip::message::Message;

/// What a listener is for, and so how far its peers are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Phones and strangers: authenticated, limited, stripped of what they may not say.
    Public,
    /// A carrier's own SBCs and trunks.
    Peer,
    /// Other nodes of this cluster.
    Cluster,
}

/// A message as it came off a flow.
#[derive(Clone)]
pub struct Inbound {
    /// The message; it parsed, but is not validated yet.
    pub message: Message,
    /// The flow it came on.
    pub flow: FlowRef,
    /// The address it came from, for `received` and `rport`.
    pub remote: SocketAddr,
    /// The listener's purpose.
    pub purpose: Purpose,
    /// The transport it came by.
    pub transport: Transport,
    /// When it was read.
    pub received: Instant,
}

/// Takes what arrives. Never blocks.
pub trait Ingress: Send + Sync {
    /// Takes one message, or gives it back when the proxy has no room for it: the edge then answers new requests with 503
    /// and Retry-After, and drops the rest (S-220).
    // The error is the message itself, so that the caller needs no copy to answer it.
    #[allow(clippy::result_large_err)]
    fn deliver(&self, inbound: Inbound) -> Result<(), Inbound>;

    /// A flow closed, or could not be opened. What was sent on it without an answer may never have arrived.
    fn flow_closed(&self, flow: &FlowRef);
}
