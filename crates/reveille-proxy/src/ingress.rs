//! The way in: what the edge hands to the proxy.

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use reveille_registrar::flow::{FlowRef, Transport};
use reveille_sip::{message::Message, method::Method};

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
    /// Keeps its connection from being drained until it is answered; none for what is no request.
    pub hold: Option<Hold>,
}

/// Something that a drain closes when nobody there is owed an answer any more.
pub trait Held: Send + Sync {
    /// Counts one more request in hand. False when it is closing already.
    fn hold(&self) -> bool;

    /// Counts one less. After a `call` something may follow: an ACK, or the same with credentials.
    fn release(&self, call: bool);
}

/// A request in hand on a connection: while this lives, a drain leaves the connection open.
pub struct Hold {
    held: Arc<dyn Held>,
    call: bool,
}

impl Hold {
    /// Holds `held` for a request of this method, unless it is closing.
    pub fn on(held: Arc<dyn Held>, method: Method) -> Option<Self> {
        held.hold().then_some(Self { held, call: method == Method::Invite })
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        // Where it closes meanwhile, a release too many does no harm.
        self.held.hold();
        Self { held: Arc::clone(&self.held), call: self.call }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.release(self.call);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
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
