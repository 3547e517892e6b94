//! The edge as a whole: prepared, started, drained, shut down.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus::Registry;
use reveille_proxy::{egress::Flows, ingress::Ingress};
use reveille_registrar::flow::Transport;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    address::{Addresses, Listener},
    datagram::{DatagramReader, DatagramSender},
    flows::{Core, FlowTable, NodeTls, TableParts},
    limits::Admission,
    listener::{Phase, ServerTls, StreamListener},
    metrics::Metrics,
    queue::CloseReason,
    settings::{ClusterTls, EdgeSettings, ListenerSettings},
    socket,
    tls::{self, Reloading},
};

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct BindError {
    /// The setting at fault, such as `listener[2].cert`.
    pub key: String,
    /// The address of the listener at fault, if it is one.
    pub addr: Option<SocketAddr>,
    /// What is wrong.
    pub reason: String,
}

/// A listener that is bound.
#[derive(Clone, Debug)]
pub struct BoundListener {
    /// Its name in the settings.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// Where it is bound, with the port that was found for port 0.
    pub addr: SocketAddr,
}

/// An edge whose sockets are bound and whose files are read, but which takes nothing in yet. The proxy is built on its flows,
/// then the edge is started with the proxy.
pub struct Prepared {
    settings: EdgeSettings,
    table: Arc<FlowTable>,
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    streams: Vec<StreamListener>,
    datagrams: Vec<Option<Arc<DatagramSender>>>,
    bound: Vec<BoundListener>,
    client_tls: Option<Arc<Reloading<ClientConfig>>>,
    cluster_tls: Option<NodeTls>,
}

/// A running edge.
pub struct Edge {
    pub(crate) core: Arc<Core>,
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
    bound: Vec<BoundListener>,
    files: Files,
}

impl Edge {
    /// Reads files and binds sockets. Must be called within a tokio runtime.
    pub fn prepare(settings: EdgeSettings, registry: &Registry) -> Result<Prepared, BindError> {
        let metrics = Metrics::new(registry).map(Arc::new).map_err(|error| BindError {
            key: "telemetry".to_owned(),
            addr: None,
            reason: error.to_string(),
        })?;
        let client_tls = tls::client(&settings.outbound, &metrics).map_err(|error| BindError {
            key: format!("outbound.{}", error.key),
            addr: None,
            reason: error.reason,
        })?;
        let cluster_tls = settings.cluster.as_ref().map(|cluster| NodeTls::load(cluster, &metrics)).transpose()?;
        let (mut streams, mut datagrams, mut addresses, mut bound) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, listener) in settings.listeners.iter().enumerate() {
            let error = |key: &str, reason: String| BindError {
                key: format!("listener[{index}].{key}"),
                addr: Some(listener.addr),
                reason,
            };
            let number = u16::try_from(index).map_err(|_| error("addr", "too many listeners".to_owned()))?;
            let v6_only = shares_port(listener, &settings.listeners);
            let at = match listener.transport {
                Transport::Udp => {
                    let socket = socket::datagram(listener.addr, v6_only).map_err(|e| error("addr", e.to_string()))?;
                    let at = socket.local_addr().map_err(|e| error("addr", e.to_string()))?;
                    datagrams.push(Some(Arc::new(DatagramSender::new(socket, at.is_ipv6(), Arc::clone(&metrics)))));
                    at
                }
                Transport::Tcp | Transport::Tls => {
                    let tickets = settings.tickets.as_ref();
                    let is_tls = listener.transport == Transport::Tls;
                    let tls = is_tls.then(|| tls::server(listener, tickets, &metrics)).transpose();
                    let tls = tls.map_err(|e| error(e.key, e.reason))?.map(|config| ServerTls {
                        config: Arc::new(config),
                        client_names: listener.client_names.clone().into(),
                    });
                    let socket = socket::listen(listener.addr, v6_only).map_err(|e| error("addr", e.to_string()))?;
                    let at = socket.local_addr().map_err(|e| error("addr", e.to_string()))?;
                    streams.push(StreamListener { index: number, purpose: listener.purpose, socket, tls });
                    datagrams.push(None);
                    at
                }
                other @ (Transport::Ws | Transport::Wss | Transport::Quic) => {
                    return Err(error("transport", format!("{} is not available", other.via_token().to_lowercase())));
                }
            };
            bound.push(BoundListener { name: listener.name.clone(), transport: listener.transport, addr: at });
            addresses.push(Listener {
                transport: listener.transport,
                purpose: listener.purpose,
                bound: at,
                advertise: listener.advertise.clone(),
            });
        }
        let table = Arc::new(FlowTable::new(TableParts {
            node: settings.node,
            epoch: settings.epoch,
            datagrams: datagrams.clone(),
            addresses: Addresses::new(addresses),
            tokens: settings.tokens.clone(),
            metrics: Arc::clone(&metrics),
            queue_messages: settings.limits.queue_messages,
            queue_bytes: settings.limits.queue_bytes,
        }));
        let admission = Admission::new(settings.limits.clone());
        Ok(Prepared {
            settings,
            table,
            metrics,
            admission,
            streams,
            datagrams,
            bound,
            client_tls: client_tls.map(Arc::new),
            cluster_tls,
        })
    }

    /// Prepares and starts at once, for an ingress that needs no flows to be built.
    pub fn bind(settings: EdgeSettings, ingress: Arc<dyn Ingress>, registry: &Registry) -> Result<Self, BindError> {
        Ok(Self::prepare(settings, registry)?.start(ingress))
    }

    /// The flows, for the proxy and the registrar.
    pub fn flows(&self) -> Arc<dyn Flows> {
        self.table()
    }

    /// The flows as the table that they are.
    pub fn table(&self) -> Arc<FlowTable> {
        Arc::clone(&self.core.table)
    }

    /// The listeners, in the order of the settings.
    pub fn bound(&self) -> &[BoundListener] {
        &self.bound
    }

    /// Whether the bound on connections is reached, so that the node is not ready for more.
    pub fn is_full(&self) -> bool {
        self.core.admission.is_full()
    }

    /// Looks at all certificate files now. Says how many configurations were replaced.
    pub async fn reload(&self) -> usize {
        self.files.reload().await
    }

    /// Accepts no more connections, except from other nodes; those open go on.
    pub fn stop_accepting(&self) {
        self.advance(Phase::Draining);
    }

    /// Goes on to a phase, and never back.
    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let ahead = *phase < to;
            *phase = to.max(*phase);
            ahead
        });
    }

    pub(crate) fn close_all(&self, nodes: bool, reason: CloseReason) {
        for id in self.core.table.ids(nodes) {
            self.core.table.close_id(id, reason);
        }
    }

    /// Ends everything: what is queued gets a last chance to leave.
    pub async fn shutdown(mut self) {
        self.advance(Phase::Stopped);
        self.core.table.stop();
        self.close_all(false, CloseReason::Shutdown);
        self.close_all(true, CloseReason::Shutdown);
        let until = Instant::now() + self.core.timeouts.close;
        while self.is_busy() && Instant::now() < until {
            tokio::time::sleep(SHUTDOWN_STEP).await;
        }
        self.tasks.shutdown().await;
    }

    /// Whether a connection is open, or closed but still writing its last.
    pub(crate) fn is_busy(&self) -> bool {
        self.core.table.open_flows() > 0 || self.core.admission.open() != (0, 0)
    }

    /// The same of connections that do not lead to other nodes.
    pub(crate) fn has_others(&self) -> bool {
        self.core.table.open_flows() > self.core.table.open_nodes() || self.core.admission.open().1 > 0
    }

    /// What connections run on, for tests of a connection without a socket.
    #[cfg(test)]
    pub(crate) fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }
}

impl Prepared {
    /// The flows, for the proxy and the registrar. Nothing can be opened on them before the start.
    pub fn flows(&self) -> Arc<dyn Flows> {
        self.table()
    }

    /// The flows as the table that they are.
    pub fn table(&self) -> Arc<FlowTable> {
        Arc::clone(&self.table)
    }

    /// The listeners, in the order of the settings.
    pub fn bound(&self) -> &[BoundListener] {
        &self.bound
    }

    /// Begins to read and to accept. Must be called within a tokio runtime.
    pub fn start(self, ingress: Arc<dyn Ingress>) -> Edge {
        let EdgeSettings { node, listeners, limits, timeouts, outbound, sip, .. } = self.settings;
        let reload = timeouts.reload;
        let core = Arc::new(Core {
            ingress,
            table: Arc::clone(&self.table),
            metrics: self.metrics,
            admission: self.admission,
            limits,
            timeouts,
            sip,
            client_tls: self.client_tls.clone(),
            cluster_tls: self.cluster_tls.clone(),
            outbound_peers: outbound.peers,
            runtime: tokio::runtime::Handle::current(),
        });
        self.table.start(Arc::clone(&core));
        let (phase, watch) = watch::channel(Phase::Running);
        let mut tasks = JoinSet::new();
        let files = Files {
            servers: self
                .streams
                .iter()
                .filter_map(|listener| listener.tls.as_ref())
                .map(|tls| Arc::clone(&tls.config))
                .collect(),
            clients: self.client_tls.into_iter().chain(self.cluster_tls.map(|tls| tls.config)).collect(),
        };
        for listener in self.streams {
            tasks.spawn(listener.run(Arc::clone(&core), watch.clone()));
        }
        for (index, (sender, listener)) in (0_u16..).zip(self.datagrams.into_iter().zip(&listeners)) {
            if let Some(sender) = sender {
                tasks.spawn(Arc::clone(&sender).flush(watch.clone()));
                let reader = DatagramReader { index, node, purpose: listener.purpose, sender, core: Arc::clone(&core) };
                tasks.spawn(reader.run(watch.clone()));
            }
        }
        tasks.spawn(files.clone().watch(reload));
        Edge { core, phase, tasks, bound: self.bound, files }
    }
}

impl NodeTls {
    fn load(settings: &ClusterTls, metrics: &Arc<Metrics>) -> Result<Self, BindError> {
        let error = |key: &str, reason: String| BindError { key: format!("cluster.{key}"), addr: None, reason };
        let config = tls::cluster(settings, metrics).map_err(|e| error(e.key, e.reason))?;
        let server_name = ServerName::try_from(settings.server_name.clone())
            .map_err(|_| error("server_name", "not a DNS name".to_owned()))?;
        Ok(Self { config: Arc::new(config), server_name })
    }
}

/// Every TLS configuration that comes from files.
#[derive(Clone)]
struct Files {
    servers: Vec<Arc<Reloading<ServerConfig>>>,
    clients: Vec<Arc<Reloading<ClientConfig>>>,
}

impl Files {
    async fn reload(&self) -> usize {
        let mut replaced = 0;
        for server in &self.servers {
            replaced += usize::from(server.reload().await);
        }
        for client in &self.clients {
            replaced += usize::from(client.reload().await);
        }
        replaced
    }

    /// Looks again and again, by content: the files of a mounted secret change without a modification time to trust.
    async fn watch(self, every: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.reload().await;
        }
    }
}

/// Whether a socket on all IPv6 addresses must leave IPv4 to another listener.
fn shares_port(listener: &ListenerSettings, all: &[ListenerSettings]) -> bool {
    let is_udp = |listener: &ListenerSettings| listener.transport == Transport::Udp;
    listener.addr.is_ipv6()
        && listener.addr.port() != 0
        && all.iter().any(|other| {
            other.addr.is_ipv4() && other.addr.port() == listener.addr.port() && is_udp(other) == is_udp(listener)
        })
}

/// How often shutdown looks whether all is closed.
const SHUTDOWN_STEP: Duration = Duration::from_millis(10);
