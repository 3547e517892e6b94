//! Listeners, connections, flows and flow tokens (RFC 5626).
//!
//! The edge turns sockets into [`Inbound`](reveille_proxy::ingress::Inbound) messages and carries what the proxy sends back.
//! One task drives one connection (`stream`, generic over the byte stream and its codec), one task reads one datagram
//! socket (`datagram`); everybody else meets connections only as entries of the [`FlowTable`]. A further transport adds an
//! accept loop and, where its framing differs, a `stream::Codec`.

mod address;
mod answer;
mod datagram;
mod dial;
mod drain;
mod edge;
mod flows;
mod keepalive;
mod limits;
mod listener;
mod metrics;
mod queue;
mod settings;
mod socket;
mod stream;
mod tickets;
mod tls;
mod token;

pub use edge::{BindError, BoundListener, Edge, Prepared};
pub use flows::FlowTable;
pub use queue::CloseReason;
pub use settings::{
    ClusterTls, EdgeSettings, LimitsSettings, ListenerSettings, OutboundSettings, Roots, TimeoutSettings,
};
pub use tickets::{TicketKey, TicketKeys};
pub use tls::TlsError;
pub use token::{TokenKey, TokenRing};
