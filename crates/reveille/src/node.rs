//! A whole node: built from a configuration, started in the order in which its parts need each other, drained and stopped
//! in the reverse.

mod keys;
mod run;
mod settings;
mod storage;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use prometheus::Registry;
use reveille_edge::{BoundListener, Edge, TicketKeys};
use reveille_pns::{Hosting, Services, SharedCredentials};
use reveille_proxy::{
    auth::{Digest, FileUsers, NonceKeys, NoncePins, Users},
    core::Shared,
    home::Homes,
    ingress::Ingress,
    metrics::Metrics,
    peers::{Alone, Peers},
    worker::Workers,
};
use reveille_push::PushServices;
use reveille_registrar::{HomeEvents, Registrar};
use reveille_runtime::{
    RuntimeMetrics,
    metrics::build_info,
    supervise::{Fatal, FatalWatch},
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::run::run;
use self::storage::{Opened, Storage};
use crate::{
    admin::{
        AdminServer, Health, Reason,
        api::{self, Api},
    },
    cluster::{self, ClusterKeys, DeadSharing, Membership, TicketSharing, View},
    config::Config,
};

/// How long the start waits for push credentials to be fetched; a push service that is away does not hold up a node.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long before that who still waits is told that it was in vain.
const LAST_WORD: Duration = Duration::from_millis(250);
/// How long connections may take to close when a drain's time is up.
const CLOSING: Duration = Duration::from_secs(1);
/// How often what can change by itself is looked at for readiness.
const WATCH: Duration = Duration::from_secs(1);

/// A running node.
pub struct Node {
    edge: Edge,
    workers: Arc<Workers>,
    tasks: Vec<JoinHandle<()>>,
    registrar: Registrar,
    services: Services,
    storage: Storage,
    /// There in a cluster.
    membership: Option<Membership>,
    users: Option<Arc<FileUsers>>,
    shared: Arc<Shared>,
    admin: AdminServer,
    health: Health,
    registry: Registry,
    fatal: FatalWatch,
    stop: CancellationToken,
    /// Told when an operator asks for a drain.
    drain_asked: Arc<Notify>,
    drain_timeout: Duration,
}

impl Node {
    /// Starts a node; it serves when this returns.
    ///
    /// # Errors
    /// When a file cannot be used, a port not be bound, or the store not be opened; says which key and why.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let runtime = RuntimeMetrics::new(&registry)?;
        build_info(&registry, env!("CARGO_PKG_VERSION"), option_env!("REVEILLE_REVISION").unwrap_or("unknown"))?;
        let health = Health::new(&registry)?;
        let (fatal, watch) = Fatal::new();
        let stop = CancellationToken::new();
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let drain_asked = Arc::new(Notify::new());
        let api = Api::new(config.node.id.clone(), Arc::clone(&drain_asked));
        // The admin port first: an operator may watch a start that takes long.
        let admin = AdminServer::start(&config.admin, registry.clone(), health.clone(), api.router(), stop.clone())
            .await
            .with_context(|| format!("admin.addr: {} cannot be bound", config.admin.addr))?;
        let shared_keys = config.cluster.as_ref().map(ClusterKeys::load).transpose().context("cluster")?;
        let tokens = match &shared_keys {
            Some(keys) => keys.tokens(),
            None => keys::NodeKeys::load(&config.node.data_dir)?.tokens,
        };
        let pushes = settings::push(&config)?;
        let Opened { storage, replica, fenced } = Storage::open(&config, shared_keys.as_ref(), &registry).await?;
        let common = storage.common();
        let mut hosting = Hosting::new(registry.clone(), runtime.clone(), fatal.clone());
        hosting.shared = common.clone().map(|common| Arc::new(common) as Arc<dyn SharedCredentials>);
        let services = reveille_pns::start(pushes, hosting).await?;
        let tickets = match &storage {
            Storage::Redis(store) if config.node.roles.edge => Some((TicketKeys::new(), Arc::clone(store))),
            _ => None,
        };
        let ticket_keys = tickets.as_ref().map(|(keys, _)| Arc::clone(keys));
        let edge = Edge::prepare(settings::edge(&config, tokens, ticket_keys), &registry)?;
        let count = config.node.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let (workers, seats) = Workers::new(count, config.limits.worker_queue);
        let registrar = Registrar::spawn(
            settings::registrar(&config, &registry, runtime, fatal, shared_keys.as_ref())?,
            replica,
            Arc::new(services.clone()) as Arc<dyn PushServices>,
            edge.table(),
            Arc::clone(&workers) as Arc<dyn HomeEvents>,
        )
        .await
        .context("the registrar's shards could not be started")?;
        let aliases = settings::proxy(&config).aliases;
        api.open(registrar.clone(), edge.table(), aliases);
        let users = load_users(&config)?;
        let view = config.cluster.as_ref().map(|cluster| {
            let (own, name) = (cluster::tag(&config.node.id), cluster.server_name.clone());
            Arc::new(View::new(own, name, cluster.connections, settings::shards(&config)))
        });
        let peers: Arc<dyn Peers> = match view.clone() {
            Some(view) => view,
            None => Arc::new(Alone),
        };
        let shared = Arc::new(Shared {
            settings: settings::proxy(&config),
            flows: edge.flows(),
            homes: Arc::new(registrar.clone()) as Arc<dyn Homes>,
            peers,
            pushes: Arc::new(services.clone()),
            auth: authenticator(&config, users.as_ref(), shared_keys.as_ref())?,
            pins: common.map(|common| Arc::new(cluster::Pins::new(common, Arc::clone(&workers))) as Arc<dyn NoncePins>),
            users: users.clone().map(|users| users as Arc<dyn Users>),
            metrics: Metrics::new(&registry)?,
            mistakes: Default::default(),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            salt: rand::random(),
        });
        let mut tasks = seats.start(&shared);
        if let Some((keys, store)) = tickets {
            tasks.push(TicketSharing::new(store, keys).start().await);
        }
        if let Storage::Redis(store) = &storage
            && config.node.roles.home
        {
            tasks.push(DeadSharing::new(Arc::clone(store), registrar.dead_targets()).start().await);
        }
        services.warm_up(WARM_UP).await;
        let edge = edge.start(Arc::clone(&workers) as Arc<dyn Ingress>);
        let membership = match (&config.cluster, view, fenced, &storage) {
            (Some(cluster), Some(view), Some(fenced), Storage::Redis(store)) => {
                let info = storage::node_info(&config, cluster, edge.bound()).await?;
                let watched = Arc::clone(&view);
                let parts = cluster::Parts {
                    info,
                    member: storage::member(cluster),
                    shards: settings::shards(&config),
                    store: Arc::clone(store),
                    registrar: registrar.clone(),
                    view,
                    fenced,
                    health: health.clone(),
                    drain_asked: Arc::clone(&drain_asked),
                };
                let membership = Membership::start(parts);
                api.join(api::Cluster { status: membership.watch(), view: watched, store: Arc::clone(store) });
                Some(membership)
            }
            _ => None,
        };
        health.started();
        for listener in edge.bound() {
            tracing::info!(transport = listener.transport.uri_param(), addr = %listener.addr, "listening");
        }
        tracing::info!(admin = %admin.addr(), shards = registrar.serving(), workers = count, "the node serves");
        Ok(Self {
            edge,
            workers,
            tasks,
            registrar,
            services,
            storage,
            membership,
            users,
            shared,
            admin,
            health,
            registry,
            fatal: watch,
            stop,
            drain_asked,
            drain_timeout: config.node.drain_timeout,
        })
    }

    /// The listeners, in the order of the configuration, with the ports that were found.
    pub fn listeners(&self) -> &[BoundListener] {
        self.edge.bound()
    }

    /// The admin port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// The node's metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Reads certificates, push keys and users again. What cannot be read stays as it was and is logged.
    pub async fn reload(&self) {
        let certificates = self.edge.reload().await;
        if let Err(errors) = self.services.reload() {
            errors.iter().for_each(|error| tracing::error!(%error, "a push credential stays as it was"));
        }
        if let Some(users) = &self.users
            && let Err(error) = users.reload()
        {
            tracing::error!(%error, "the users stay as they were");
        }
        tracing::info!(certificates, "files were read again");
    }

    /// Waits until an operator asks for a drain, here or at another node of the cluster.
    pub async fn drain_asked(&self) {
        self.drain_asked.notified().await;
    }

    /// Keeps readiness true to what can change by itself. Never returns.
    pub async fn watch_health(&self) {
        let mut ticks = tokio::time::interval(WATCH);
        loop {
            ticks.tick().await;
            for (reason, present) in
                [(Reason::ConnectionLimit, self.edge.is_full()), (Reason::Store, !self.storage.is_healthy())]
            {
                if present { self.health.raise(reason) } else { self.health.clear(reason) }
            }
        }
    }

    /// Takes nothing new, lets what waits come to its end, closes flows a few at a time, and stops. Takes at most
    /// `node.drain_timeout`, and a second in which the last connections are closed.
    pub async fn drain(self) {
        let end = Instant::now() + self.drain_timeout;
        // Not ready before the log says so: whoever reads "draining" may act on it.
        self.health.drain();
        tracing::info!(timeout = ?self.drain_timeout, "draining");
        self.shared.draining.store(true, Ordering::Relaxed);
        self.edge.stop_accepting();
        let half = self.drain_timeout / 2;
        if let Some(membership) = &self.membership
            && !membership.drain(half).await
        {
            tracing::warn!(
                "shards were still here when the drain's time was up; others take them when the lease is given back"
            );
        }
        self.registrar.drain(end.saturating_duration_since(Instant::now() + half)).await;
        // Whoever waited gets its answer before its flow is closed.
        self.workers.settle().await;
        // So many a second that the last flow is closed when the time is up.
        let flows = self.edge.table().open_flows() as u64;
        let rate = (flows / half.as_secs().max(1)).max(50);
        let left = end.saturating_duration_since(Instant::now());
        let closing = async {
            self.edge.drain(u32::try_from(rate).unwrap_or(u32::MAX), left).await;
            true
        };
        // Who is connected still has something in hand. What else is begun there would not be done in time.
        let refusing = async {
            tokio::time::sleep(left / 2).await;
            self.shared.closing.store(true, Ordering::Relaxed);
            tokio::time::sleep((left / 2).saturating_sub(LAST_WORD)).await;
            self.workers.give_up().await;
            tokio::time::sleep(LAST_WORD + CLOSING).await;
            false
        };
        let closed = tokio::select! {
            closed = closing => closed,
            closed = refusing => closed,
        };
        if !closed || Instant::now() >= end {
            tracing::warn!("requests were still in hand when the drain's time was up");
        }
        self.stop().await;
    }

    /// Stops at once; what is durable stays so.
    pub async fn stop(self) {
        let Self { edge, workers, tasks, registrar, services, storage, membership, shared, admin, stop, .. } = self;
        edge.shutdown().await;
        tasks.iter().for_each(JoinHandle::abort);
        registrar.drain(Duration::ZERO).await;
        if let Some(membership) = membership {
            membership.leave().await;
        }
        services.drain(Duration::from_secs(1)).await;
        stop.cancel();
        admin.stopped().await;
        // Nothing of them may keep the store open.
        drop((workers, registrar, services, shared));
        storage.close().await;
    }
}

fn load_users(config: &Config) -> anyhow::Result<Option<Arc<FileUsers>>> {
    let Some(digest) = &config.auth.digest else { return Ok(None) };
    let users =
        FileUsers::load(&digest.users).with_context(|| format!("auth.users.file: {}", digest.users.display()))?;
    if users.is_world_readable() {
        tracing::warn!(file = %digest.users.display(), "auth.users.file can be read by everybody; chmod 0600 mends it");
    }
    tracing::info!(users = users.len(), "users read");
    Ok(Some(Arc::new(users)))
}

fn authenticator(
    config: &Config,
    users: Option<&Arc<FileUsers>>,
    shared: Option<&ClusterKeys>,
) -> anyhow::Result<Option<Arc<Digest>>> {
    let (Some(digest), Some(users)) = (&config.auth.digest, users) else { return Ok(None) };
    // S-145: a nonce that one node issued is answered at any other.
    let keys = match shared.map(ClusterKeys::nonces).as_deref() {
        Some([current, others @ ..]) => NonceKeys::new(current, others.first().map(<[u8; 32]>::as_slice)),
        _ => NonceKeys::random().context("the system gives no random numbers")?,
    };
    let users = Arc::clone(users) as Arc<dyn Users>;
    let digest = Digest::new(settings::digest(&config.auth.realm, digest), users, keys);
    Ok(Some(Arc::new(match shared {
        Some(_) => digest.among(cluster::tag(&config.node.id).0),
        None => digest,
    })))
}
