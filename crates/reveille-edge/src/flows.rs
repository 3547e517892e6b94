//! The table of flows: what the rest of the node may ask of connections, without touching one.

mod link;

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use reveille_proxy::{
    egress::{Bound, Destination, Flows, LocalAddress, SendError, TokenError, Trust},
    ingress::{Held, Hold, Ingress, Purpose},
};
use reveille_registrar::flow::{FlowProbe, FlowRef, Liveness, NodeTag, Transport};
use reveille_sip::{limits::Limits, method::Method};
use rustls::{ClientConfig, pki_types::ServerName};

pub(crate) use self::link::{Link, Origin, Registration};
use crate::{
    address::Addresses,
    datagram::DatagramSender,
    dial,
    drain::InHand,
    limits::Admission,
    metrics::Metrics,
    queue::{CloseReason, SendQueue},
    settings::{LimitsSettings, TimeoutSettings},
    tls::Reloading,
    token::TokenRing,
};

/// Every open flow of this node. Implements the proxy's [`Flows`] and the registrar's [`FlowProbe`].
pub struct FlowTable {
    node: NodeTag,
    epoch: u32,
    base: Instant,
    next: AtomicU64,
    links: Vec<RwLock<HashMap<u64, Arc<Link>>>>,
    /// How many of them lead to other nodes.
    node_links: AtomicUsize,
    /// The open connections that we dialled: to nodes of the cluster, and to all others. They are verified by other rules and
    /// trusted with other things, so one never stands in for the other.
    nodes: Mutex<HashMap<Destination, u64>>,
    destinations: Mutex<HashMap<Destination, u64>>,
    datagrams: Vec<Option<Arc<DatagramSender>>>,
    addresses: Addresses,
    tokens: ArcSwap<TokenRing>,
    metrics: Arc<Metrics>,
    queue_messages: usize,
    queue_bytes: usize,
    datagrams_in_hand: Arc<InHand>,
    /// There while the edge runs: what a connection needs in order to be opened.
    running: ArcSwapOption<Core>,
}

/// What every task of a running edge shares.
pub(crate) struct Core {
    pub(crate) ingress: Arc<dyn Ingress>,
    pub(crate) table: Arc<FlowTable>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) limits: LimitsSettings,
    pub(crate) timeouts: TimeoutSettings,
    pub(crate) sip: Limits,
    pub(crate) client_tls: Option<Arc<Reloading<ClientConfig>>>,
    pub(crate) cluster_tls: Option<NodeTls>,
    pub(crate) outbound_peers: Vec<ipnet::IpNet>,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// How other nodes of the cluster are called.
#[derive(Clone)]
pub(crate) struct NodeTls {
    pub(crate) config: Arc<Reloading<ClientConfig>>,
    /// The name that every node's certificate carries.
    pub(crate) server_name: ServerName<'static>,
}

impl Core {
    /// A moment as links keep it.
    pub(crate) fn millis(&self, now: tokio::time::Instant) -> u64 {
        now.into_std().saturating_duration_since(self.table.base).as_millis() as u64
    }

    /// Whether limits per source and per flow apply.
    pub(crate) fn is_limited(&self, purpose: Purpose, remote: SocketAddr) -> bool {
        purpose == Purpose::Public && !self.admission.is_exempt(remote.ip())
    }
}

/// What a table is built from.
pub(crate) struct TableParts {
    pub(crate) node: NodeTag,
    pub(crate) epoch: u32,
    pub(crate) datagrams: Vec<Option<Arc<DatagramSender>>>,
    pub(crate) addresses: Addresses,
    pub(crate) tokens: TokenRing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
}

impl FlowTable {
    pub(crate) fn new(parts: TableParts) -> Self {
        Self {
            node: parts.node,
            epoch: parts.epoch,
            base: tokio::time::Instant::now().into_std(),
            next: AtomicU64::new(1),
            links: (0..SHARDS).map(|_| RwLock::default()).collect(),
            node_links: AtomicUsize::new(0),
            nodes: Mutex::default(),
            destinations: Mutex::default(),
            datagrams: parts.datagrams,
            addresses: parts.addresses,
            tokens: ArcSwap::from_pointee(parts.tokens),
            metrics: parts.metrics,
            queue_messages: parts.queue_messages,
            queue_bytes: parts.queue_bytes,
            datagrams_in_hand: Arc::default(),
            running: ArcSwapOption::empty(),
        }
    }

    /// Changes the keys of flow tokens.
    pub fn set_tokens(&self, ring: TokenRing) {
        self.tokens.store(Arc::new(ring));
    }

    /// Connections open at this moment.
    pub fn open_flows(&self) -> usize {
        self.links.iter().map(|shard| shard.read().len()).sum()
    }

    /// Those of them that lead to other nodes.
    pub(crate) fn open_nodes(&self) -> usize {
        self.node_links.load(Ordering::Relaxed)
    }

    /// [`Flows::open`] for a peer whose trust the caller knows: requests arriving on a new connection have this purpose.
    /// A connection that is already open keeps the purpose it was opened with; but with [`Purpose::Cluster`] only a connection
    /// to another node will do: TLS, verified as [`ClusterTls`](crate::ClusterTls) says, and one for each lane of the
    /// destination.
    pub fn open_as(&self, destination: &Destination, purpose: Purpose) -> Result<FlowRef, SendError> {
        if destination.transport == Transport::Udp && purpose != Purpose::Cluster {
            let listener = self.addresses.datagram_listener(destination.address).ok_or(SendError::NoListener)?;
            return Ok(FlowRef::Datagram { node: self.node, listener, remote: destination.address });
        }
        let core = self.running.load_full().ok_or(SendError::Gone)?;
        if !dial::can_dial(&core, destination.transport, purpose) {
            return Err(SendError::NoListener);
        }
        let registration = {
            let mut destinations = self.dialled(purpose).lock();
            let open = destinations.get(destination).and_then(|&id| self.link(id));
            if let Some(link) = open.filter(|link| !link.queue.is_closing()) {
                return Ok(link.flow);
            }
            let registration = self.register(&core, destination.address, purpose, Origin::Dialled(destination.clone()));
            destinations.insert(destination.clone(), registration.link.id);
            registration
        };
        let flow = registration.link.flow;
        core.runtime.clone().spawn(dial::dial(destination.clone(), registration, core));
        Ok(flow)
    }

    fn dialled(&self, purpose: Purpose) -> &Mutex<HashMap<Destination, u64>> {
        match purpose {
            Purpose::Cluster => &self.nodes,
            Purpose::Public | Purpose::Peer => &self.destinations,
        }
    }

    pub(crate) fn start(&self, core: Arc<Core>) {
        self.running.store(Some(core));
    }

    pub(crate) fn stop(&self) {
        self.running.store(None);
    }

    /// Whether connections may still be made.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load().is_some()
    }

    pub(crate) fn register(
        &self,
        core: &Arc<Core>,
        remote: SocketAddr,
        purpose: Purpose,
        origin: Origin,
    ) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (transport, listener, destination, local) = match origin {
            Origin::Accepted { listener, local } => {
                (self.addresses.transport(listener), Some(listener), None, OnceLock::from(local))
            }
            Origin::Dialled(destination) => (destination.transport, None, Some(Box::new(destination)), OnceLock::new()),
        };
        let link = Arc::new(Link {
            flow: FlowRef::Stream { node: self.node, epoch: self.epoch, connection: id, transport },
            remote,
            purpose,
            queue: SendQueue::new(self.queue_messages, self.queue_bytes),
            bound: ArcSwapOption::empty(),
            trusted: ArcSwapOption::empty(),
            wakeable: AtomicBool::new(false),
            local,
            id,
            listener,
            destination,
            last_heard: AtomicU64::new(core.millis(tokio::time::Instant::now())),
        });
        if let Some(shard) = self.shard(id) {
            shard.write().insert(id, Arc::clone(&link));
        }
        if purpose == Purpose::Cluster {
            self.node_links.fetch_add(1, Ordering::Relaxed);
        }
        let metrics = self.metrics.transport(transport);
        metrics.flows.inc();
        metrics.opened.inc();
        // A task that panics drops the registration as it is.
        Registration { link, core: Arc::clone(core), reason: CloseReason::Broken }
    }

    fn remove(&self, link: &Link) {
        if let Some(shard) = self.shard(link.id) {
            shard.write().remove(&link.id);
        }
        if link.purpose == Purpose::Cluster {
            self.node_links.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(destination) = link.destination.as_deref() {
            let mut destinations = self.dialled(link.purpose).lock();
            // A successor may have taken the place.
            if destinations.get(destination) == Some(&link.id) {
                destinations.remove(destination);
            }
        }
    }

    /// The numbers of the open connections to other nodes, or of all others.
    pub(crate) fn ids(&self, nodes: bool) -> Vec<u64> {
        let wanted = |link: &&Arc<Link>| (link.purpose == Purpose::Cluster) == nodes;
        let ids =
            |shard: &HashMap<u64, Arc<Link>>| shard.values().filter(wanted).map(|link| link.id).collect::<Vec<_>>();
        self.links.iter().flat_map(|shard| ids(&shard.read())).collect()
    }

    pub(crate) fn close_id(&self, id: u64, reason: CloseReason) {
        if let Some(link) = self.link(id) {
            link.queue.close(reason);
        }
    }

    /// What is in hand of datagrams.
    pub(crate) fn datagrams_in_hand(&self) -> Arc<InHand> {
        Arc::clone(&self.datagrams_in_hand)
    }

    /// Closes a connection for a drain if nobody on it is owed an answer; false where somebody is.
    pub(crate) fn leave_id(&self, id: u64) -> bool {
        self.link(id).is_none_or(|link| link.queue.leave())
    }

    fn shard(&self, id: u64) -> Option<&RwLock<HashMap<u64, Arc<Link>>>> {
        self.links.get((id % SHARDS as u64) as usize)
    }

    fn link(&self, id: u64) -> Option<Arc<Link>> {
        self.shard(id)?.read().get(&id).cloned()
    }

    /// The link of a stream flow of this start of this node.
    fn stream(&self, flow: &FlowRef) -> Option<Arc<Link>> {
        match *flow {
            FlowRef::Stream { node, epoch, connection, .. } if node == self.node && epoch == self.epoch => {
                self.link(connection)
            }
            _ => None,
        }
    }

    /// The socket of a datagram flow of this node.
    fn datagram(&self, flow: &FlowRef) -> Option<(&DatagramSender, SocketAddr)> {
        match *flow {
            FlowRef::Datagram { node, listener, remote } if node == self.node => {
                Some((self.datagrams.get(usize::from(listener))?.as_deref()?, remote))
            }
            _ => None,
        }
    }
}

impl Flows for FlowTable {
    fn send(&self, to: &FlowRef, message: Bytes) -> Result<(), SendError> {
        if let Some((sender, remote)) = self.datagram(to) {
            sender.send(remote, message)?;
        } else {
            self.stream(to).ok_or(SendError::Gone)?.queue.push(message)?;
        }
        self.metrics.transport(to.transport()).messages_out.inc();
        Ok(())
    }

    fn close(&self, flow: &FlowRef) {
        if let Some(link) = self.stream(flow) {
            link.queue.close(CloseReason::Local);
        }
    }

    fn open(&self, destination: &Destination) -> Result<FlowRef, SendError> {
        let ip = destination.address.ip();
        let is_peer =
            self.running.load().as_ref().is_some_and(|core| core.outbound_peers.iter().any(|net| net.contains(&ip)));
        self.open_as(destination, if is_peer { Purpose::Peer } else { Purpose::Public })
    }

    fn open_node(&self, destination: &Destination) -> Result<FlowRef, SendError> {
        self.open_as(destination, Purpose::Cluster)
    }

    fn connected_node(&self, destination: &Destination) -> Option<FlowRef> {
        let id = self.nodes.lock().get(destination).copied()?;
        let link = self.link(id)?;
        // One that is being made has no end of ours yet.
        (!link.queue.is_closing() && link.local.get().is_some()).then_some(link.flow)
    }

    fn hold(&self, flow: &FlowRef, method: Method) -> Option<Hold> {
        let held: Arc<dyn Held> = match self.datagram(flow) {
            Some(_) => self.datagrams_in_hand(),
            None => self.stream(flow)?,
        };
        Hold::on(held, method)
    }

    fn seal(&self, flow: &FlowRef) -> String {
        let bound = self.stream(flow).and_then(|link| link.bound.load_full());
        self.tokens.load().seal(flow, bound.as_deref())
    }

    fn seal_bound(&self, flow: &FlowRef, binding: &Bound) -> String {
        self.tokens.load().seal(flow, Some(binding))
    }

    fn unseal(&self, token: &str) -> Result<FlowRef, TokenError> {
        self.tokens.load().unseal(token).map(|(flow, _)| flow)
    }

    fn bind(&self, flow: &FlowRef, binding: Bound) {
        if let Some(link) = self.stream(flow)
            && link.bound.load().as_deref() != Some(&binding)
        {
            link.bound.store(Some(Arc::new(binding)));
        }
    }

    fn trust(&self, flow: &FlowRef, user: Option<Trust>) {
        if let Some(link) = self.stream(flow) {
            link.trusted.store(user.map(Arc::new));
        }
    }

    fn trusted(&self, flow: &FlowRef) -> Option<Trust> {
        self.stream(flow)?.trusted.load().as_deref().cloned()
    }

    fn mark_wakeable(&self, flow: &FlowRef, wakeable: bool) {
        if let Some(link) = self.stream(flow) {
            link.wakeable.store(wakeable, Ordering::Relaxed);
        }
    }

    fn is_wakeable(&self, flow: &FlowRef) -> bool {
        self.stream(flow).is_some_and(|link| link.wakeable.load(Ordering::Relaxed))
    }

    fn unseal_binding(&self, token: &str) -> Option<Bound> {
        self.tokens.load().unseal(token).ok()?.1
    }

    fn local(&self, flow: &FlowRef) -> Option<LocalAddress> {
        if let FlowRef::Datagram { node, listener, .. } = *flow {
            return (node == self.node).then(|| self.addresses.of_listener(listener, None))?;
        }
        let link = self.stream(flow)?;
        let local = link.local.get().map(SocketAddr::ip);
        match link.listener {
            Some(listener) => self.addresses.of_listener(listener, local),
            None => self.addresses.of_dialled(flow.transport(), link.purpose, local),
        }
    }

    fn names_us(&self, host: &str, port: Option<u16>) -> bool {
        self.addresses.names_us(host, port)
    }
}

impl FlowProbe for FlowTable {
    fn liveness(&self, flow: &FlowRef) -> Liveness {
        if flow.node() != self.node {
            return Liveness::Elsewhere;
        }
        if self.datagram(flow).is_some() {
            return Liveness::Connectionless;
        }
        match self.stream(flow) {
            Some(link) if !link.queue.is_closing() => {
                let millis = link.last_heard.load(Ordering::Relaxed);
                Liveness::Open { last_heard: self.base + Duration::from_millis(millis) }
            }
            _ => Liveness::Gone,
        }
    }
}

/// Parts of the table, each with its own lock.
const SHARDS: usize = 64;
