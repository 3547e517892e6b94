//! The way out: what the proxy asks of whoever owns connections. Implemented by the edge.

use std::net::SocketAddr;

use bytes::Bytes;
use reveille_registrar::{
    aor::Aor,
    flow::{FlowProbe, FlowRef, Transport},
    record::BindingKey,
};
use reveille_sip::method::Method;

use crate::ingress::Hold;

/// Flows as the proxy uses them. No method waits: bytes are queued, addresses are looked up in tables.
pub trait Flows: FlowProbe {
    /// Queues one whole SIP message on a flow.
    ///
    /// A message accepted here may still be lost with its connection; the edge then reports the flow through
    /// [`Ingress::flow_closed`](crate::ingress::Ingress::flow_closed).
    fn send(&self, to: &FlowRef, message: Bytes) -> Result<(), SendError>;

    /// Closes a flow; queued bytes may be lost. No-op for datagram flows and for flows that are gone.
    fn close(&self, flow: &FlowRef);

    /// A flow towards `destination`: an open one where there is one, else a connection is begun and what is sent to it
    /// waits in its queue. A connection that cannot be made is reported as a closed flow.
    fn open(&self, destination: &Destination) -> Result<FlowRef, SendError>;

    /// As [`Flows::open`], towards the cluster listener of another node of ours: shows our certificate as a node, verifies that
    /// the other is one, and trusts what arrives on it as a node's (S-166).
    fn open_node(&self, destination: &Destination) -> Result<FlowRef, SendError>;

    /// The connection to another node of ours that is open already.
    fn connected_node(&self, destination: &Destination) -> Option<FlowRef>;

    /// Keeps a flow from being drained while the answer to what is sent on it is awaited; `None` where it is closing or gone.
    fn hold(&self, flow: &FlowRef, method: Method) -> Option<Hold>;

    /// Seals a flow into a token that only this cluster can make or read (RFC 5626 §5.2; S-127).
    /// The token holds only characters that are legal in the user part of a URI.
    fn seal(&self, flow: &FlowRef) -> String;

    /// Seals a flow and the binding that registered over it, whichever node holds it.
    fn seal_bound(&self, flow: &FlowRef, binding: &Bound) -> String;

    /// Reads back a token.
    fn unseal(&self, token: &str) -> Result<FlowRef, TokenError>;

    /// Notes that a flow is that of a binding: tokens made from now on name the binding beside the flow, so that the phone can be
    /// found when the flow, or its node, is gone. No-op for datagram flows and for flows that are gone.
    fn bind(&self, flow: &FlowRef, binding: Bound);

    /// Sets for whom a flow may speak without further proof, or for nobody (S-156). No-op for datagram flows and for flows that are gone.
    fn trust(&self, flow: &FlowRef, user: Option<Trust>);

    /// For whom a flow may speak.
    fn trusted(&self, flow: &FlowRef) -> Option<Trust>;

    /// The binding that a token names beside its flow.
    fn unseal_binding(&self, token: &str) -> Option<Bound>;

    /// What we call ourselves towards the peer of `flow`, in Via, Record-Route and Path; `None` once the flow is gone.
    fn local(&self, flow: &FlowRef) -> Option<LocalAddress>;

    /// Whether `host` and `port` (absent: the default of any listener) name this node: an advertised name, a bound address.
    fn names_us(&self, host: &str, port: Option<u16>) -> bool;
}

/// A phone's binding, as routes carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Whose.
    pub aor: Aor,
    /// Which.
    pub key: BindingKey,
}

/// For whom a flow may speak without further proof, since a REGISTER on it was authenticated (RFC 5626 §15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Whose requests.
    pub aor: Aor,
    /// Until when, in seconds since 1970: the end of the registration.
    pub until: u64,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The transport to use.
    pub transport: Transport,
    /// The peer's address, already resolved.
    pub address: SocketAddr,
    /// For TLS: the name to verify; absent means the address itself must be in the certificate. Between nodes it is the
    /// cluster's own name whatever stands here.
    pub server_name: Option<String>,
    /// Which of several connections to the same place; what is sent on one of them arrives in order. 0 where one will do.
    pub lane: u8,
}

/// Our own address as a peer of one listener must write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// Transport of the listener or connection.
    pub transport: Transport,
    /// Host name or IP literal, IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a message could not be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The flow is closed.
    #[error("the flow is gone")]
    Gone,
    /// The peer does not read; the flow is being closed (S-227).
    #[error("the flow's send queue is full")]
    Full,
    /// No listener has this transport and address family.
    #[error("no listener for this transport")]
    NoListener,
}

/// Why a token could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not made by this cluster, or altered: 403 (S-128).
    #[error("the flow token is not ours")]
    Forged,
}
