//! What the edge is told: plain values, filled by the binary from its configuration.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use reveille_proxy::ingress::Purpose;
use reveille_registrar::flow::{NodeTag, Transport};
use reveille_sip::limits::Limits;

use crate::{tickets::TicketKeys, token::TokenRing};

/// Everything the edge needs to start.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// This node, as flows name it.
    pub node: NodeTag,
    /// Which start of this node this is; two starts must not share it while old flow references are still about.
    pub epoch: u32,
    /// The listeners; their order is their index in datagram flows.
    pub listeners: Vec<ListenerSettings>,
    /// Bounds on what peers may take.
    pub limits: LimitsSettings,
    /// How long peers may take.
    pub timeouts: TimeoutSettings,
    /// Connections that we open.
    pub outbound: OutboundSettings,
    /// Connections that we open to other nodes of the cluster; without it there are none.
    pub cluster: Option<ClusterTls>,
    /// Keys of flow tokens; all nodes of a cluster share them.
    pub tokens: TokenRing,
    /// Keys of TLS session tickets of public listeners, shared with other edges; without them each listener has keys of its own.
    pub tickets: Option<Arc<TicketKeys>>,
    /// Bounds on a single message (S-024).
    pub sip: Limits,
}

/// One listening socket.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// What metrics and logs call it.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// The address to bind; port 0 takes any free one.
    pub addr: SocketAddr,
    /// Host, and port where it differs from the bound one, that peers must use: goes into Via, Record-Route and Path.
    pub advertise: Option<(String, Option<u16>)>,
    /// Certificate chain, PEM; needed by secure transports.
    pub cert: Option<PathBuf>,
    /// Private key, PEM; needed by secure transports.
    pub key: Option<PathBuf>,
    /// Authorities of client certificates, PEM. When set, a peer without a certificate of theirs is refused (S-166).
    pub client_ca: Option<PathBuf>,
    /// Names (DNS names or URIs of the subjectAltName) of which a client certificate must carry one; empty admits any
    /// certificate of `client_ca` (S-166). Compared whole: a wildcard matches nothing (S-164).
    pub client_names: Vec<String>,
    /// How far its peers are trusted.
    pub purpose: Purpose,
}

impl ListenerSettings {
    /// A public listener without TLS files.
    pub fn new(name: impl Into<String>, transport: Transport, addr: SocketAddr) -> Self {
        Self {
            name: name.into(),
            transport,
            addr,
            advertise: None,
            cert: None,
            key: None,
            client_ca: None,
            client_names: Vec::new(),
            purpose: Purpose::Public,
        }
    }
}

/// Bounds on what peers may take (S-226, S-227). A bound of 0 is no bound, except for the queue's.
#[derive(Clone, Debug)]
pub struct LimitsSettings {
    /// Connections open at once, over all listeners but that for other nodes.
    pub connections: usize,
    /// Connections open at once from one source, on public listeners.
    pub connections_per_source: usize,
    /// New connections per second from one source, on public listeners; twice as many may come at once.
    pub connects_per_source: u32,
    /// New connections per second over all listeners; more wait in the kernel.
    pub accepts: u32,
    /// TLS handshakes in progress at once, over all listeners but that for other nodes, which has as many for itself (S-172).
    pub handshakes: usize,
    /// Prefix length that makes a source of an IPv4 address.
    pub source_prefix_v4: u8,
    /// Prefix length that makes a source of an IPv6 address.
    pub source_prefix_v6: u8,
    /// Networks that no limit per source or per flow applies to.
    pub exempt: Vec<IpNet>,
    /// Messages per second from one flow of a public listener. A stream above it is read more slowly, a datagram dropped.
    pub messages_per_flow: u32,
    /// Messages that one flow may send at once before `messages_per_flow` slows it.
    pub messages_burst: u32,
    /// Messages waiting to be written to one connection; one more closes it (S-227).
    pub queue_messages: usize,
    /// Bytes waiting to be written to one connection; more close it (S-227).
    pub queue_bytes: usize,
    /// Shortest Retry-After of the 503 of an overloaded node, seconds (S-220).
    pub retry_after_min: u32,
    /// Longest such Retry-After, seconds.
    pub retry_after_max: u32,
}

impl Default for LimitsSettings {
    fn default() -> Self {
        Self {
            connections: 200_000,
            connections_per_source: 1_000,
            connects_per_source: 200,
            accepts: 2_000,
            handshakes: 2_048,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            exempt: Vec::new(),
            messages_per_flow: 50,
            messages_burst: 200,
            queue_messages: 256,
            queue_bytes: 1 << 20,
            retry_after_min: 5,
            retry_after_max: 15,
        }
    }
}

/// How long peers may take (S-172, S-225).
#[derive(Clone, Debug)]
pub struct TimeoutSettings {
    /// From an accepted connection to the end of its TLS handshake.
    pub handshake: Duration,
    /// From an established connection to its first whole message. Not applied to cluster listeners and to what we dialled.
    pub first_message: Duration,
    /// From the first octet of a message to its last.
    pub message: Duration,
    /// Without hearing anything, keep-alives included.
    pub idle: Duration,
    /// To connect, TLS handshake included.
    pub connect: Duration,
    /// To hand over the last queued bytes when we close.
    pub close: Duration,
    /// Between looks at certificate files (S-171).
    pub reload: Duration,
    /// Between keep-alives on a connection that we opened to another node (RFC 5626 §4.4.1). Where another node opened it, three
    /// times as long without hearing anything ends it, whatever `idle` is.
    pub cluster_ping: Duration,
    /// From such a keep-alive to anything heard. A connection to another node that cannot be made within both times together
    /// is given up, whatever `connect` is.
    pub cluster_pong: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_message: Duration::from_secs(10),
            message: Duration::from_secs(10),
            idle: Duration::from_secs(20 * 60),
            connect: Duration::from_secs(4),
            close: Duration::from_secs(2),
            reload: Duration::from_secs(10),
            cluster_ping: Duration::from_millis(500),
            cluster_pong: Duration::from_secs(1),
        }
    }
}

/// Connections that we open.
#[derive(Clone, Debug, Default)]
pub struct OutboundSettings {
    /// Whom to trust with a server certificate.
    pub roots: Roots,
    /// Our own certificate chain, PEM, shown to servers that ask for one.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// Networks whose hosts are peers: requests arriving on a connection that we opened to one have [`Purpose::Peer`].
    /// Elsewhere such a connection is [`Purpose::Public`].
    pub peers: Vec<IpNet>,
}

/// TLS of connections that we open to other nodes of the cluster (S-166). All files are PEM, and read again when they change.
#[derive(Clone, Debug)]
pub struct ClusterTls {
    /// The authorities of the nodes' certificates; no others are trusted.
    pub ca: PathBuf,
    /// Our own certificate chain, shown to the other node.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The DNS name that every node's certificate carries, and that is verified whatever the address.
    pub server_name: String,
}

/// Whom to trust with a server certificate.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// The system's authorities. They are read at the first TLS connection's need, that is at start.
    #[default]
    System,
    /// Only the authorities of this PEM file.
    File(PathBuf),
    /// Nobody: TLS connections cannot be opened.
    None,
}
