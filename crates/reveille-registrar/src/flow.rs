//! What the registrar knows of a connection: where a binding's requests are to be sent, and whether that way is open.
//!
//! The edge owns sockets; everybody else holds a [`FlowRef`], which names one without holding it. A `FlowRef` is small, is
//! kept with the binding, and outlives what it names: a reference to a flow that is gone is an ordinary value whose probe
//! answers [`Liveness::Gone`].

use std::{net::SocketAddr, time::Instant};

/// The transport of a flow (RFC 3261 §18, RFC 7118; QUIC as our own mapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// UDP.
    Udp = 0,
    /// TCP.
    Tcp = 1,
    /// TLS over TCP.
    Tls = 2,
    /// SIP over WebSocket, without TLS.
    Ws = 3,
    /// SIP over WebSocket over TLS.
    Wss = 4,
    /// SIP over QUIC.
    Quic = 5,
}

impl Transport {
    /// The token of a Via header (RFC 3261 §20.42).
    pub fn via_token(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
            Self::Quic => "QUIC",
        }
    }

    /// The value of the `transport` URI parameter; `ws` for both WebSocket forms (RFC 7118 §5.2).
    pub fn uri_param(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws | Self::Wss => "ws",
            Self::Quic => "quic",
        }
    }

    /// Whether the transport delivers by itself, so that retransmission timers are off (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether the transport carries TLS 1.2 or newer: the measure of P-112.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Quic)
    }

    /// Reads back `self as u8`.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Udp,
            1 => Self::Tcp,
            2 => Self::Tls,
            3 => Self::Ws,
            4 => Self::Wss,
            5 => Self::Quic,
            _ => return None,
        })
    }
}

/// A node as flows name it: its index in the cluster; 0 on a single node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct NodeTag(pub u32);

/// Names a flow (RFC 5626 §3): one connection, or one UDP peer of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowRef {
    /// A connection of a stream transport.
    Stream {
        /// The node that holds the connection.
        node: NodeTag,
        /// Which start of that node; connections do not survive one.
        epoch: u32,
        /// The connection's number since that start.
        connection: u64,
        /// Its transport.
        transport: Transport,
    },
    /// A peer address of a datagram listener; there is no connection to lose.
    Datagram {
        /// The node that holds the socket.
        node: NodeTag,
        /// Index of the listener in the configuration.
        listener: u16,
        /// The peer's address as packets arrive from it.
        remote: SocketAddr,
    },
}

impl FlowRef {
    /// The node that holds the flow.
    pub fn node(&self) -> NodeTag {
        match self {
            Self::Stream { node, .. } | Self::Datagram { node, .. } => *node,
        }
    }

    /// The transport of the flow.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Stream { transport, .. } => *transport,
            Self::Datagram { .. } => Transport::Udp,
        }
    }
}

/// What is known of a flow at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The connection is closed, or belonged to an earlier start of the node.
    Gone,
    /// The connection is open; something arrived on it last at this instant.
    Open {
        /// When the peer was last heard.
        last_heard: Instant,
    },
    /// A datagram peer: nothing can be known without sending.
    Connectionless,
    /// The flow is another node's, and only that node knows.
    Elsewhere,
}

/// Asks whoever owns flows for their state. Never blocks: a look into a table.
pub trait FlowProbe: Send + Sync {
    /// The state of `flow` now.
    fn liveness(&self, flow: &FlowRef) -> Liveness;
}
