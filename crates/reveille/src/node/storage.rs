//! Where this node keeps bindings, by `store.kind`.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus::Registry;
use reveille_cluster::{MemberConfig, NodeInfo, Roles};
use reveille_edge::BoundListener;
use reveille_redis::{
    Credentials, Endpoint, Keyring, Mode, RedisConfig, RedisStore, StandbyMetrics, Tls, WaitReplicas,
};
use reveille_registrar::Replica;
use reveille_runtime::clock;
use reveille_store::{EmbeddedStore, StoreConfig};
use tokio::sync::mpsc;

use super::settings;
use crate::{
    cluster::{ClusterKeys, SharedStore, Tapped, tag},
    config::{Cluster, Config, RedisMode, RedisSettings, Store},
};

/// How long whoever was told to end may have the store open yet.
const LETTING_GO: Duration = Duration::from_secs(5);

/// The open store.
pub(super) enum Storage {
    /// Inside the process.
    Embedded(Arc<EmbeddedStore>),
    /// Shared with other nodes.
    Redis(Arc<RedisStore>),
}

/// The store, as the registrar sees it, and what it says of the fence.
pub(super) struct Opened {
    pub(super) storage: Storage,
    pub(super) replica: Arc<dyn Replica>,
    /// Shards whose writes were refused, in a cluster.
    pub(super) fenced: Option<mpsc::UnboundedReceiver<u16>>,
}

impl Storage {
    pub(super) async fn open(
        config: &Config,
        keys: Option<&ClusterKeys>,
        registry: &Registry,
    ) -> anyhow::Result<Opened> {
        match (&config.store, &config.cluster, keys) {
            (Store::Redis(redis), Some(cluster), Some(keys)) => {
                let settings = redis_config(config, redis, cluster, keys)?;
                let metrics = reveille_redis::Metrics::new(registry)?;
                let store = RedisStore::connect(&settings, metrics).await.context("store.redis: not reachable")?;
                let store = Arc::new(store);
                if cluster.standby && config.node.roles.home {
                    store.stand_by(StandbyMetrics::new(registry)?, cluster.standby_memory);
                }
                let (tapped, fenced) = Tapped::new(Arc::clone(&store));
                Ok(Opened { storage: Self::Redis(store), replica: Arc::new(tapped), fenced: Some(fenced) })
            }
            (Store::Embedded { path }, ..) => {
                let settings = StoreConfig::new(path, settings::shards(config));
                let metrics = reveille_store::Metrics::new(registry)?;
                let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&settings, metrics)).await??;
                let store = Arc::new(store);
                Ok(Opened { replica: Arc::clone(&store) as _, storage: Self::Embedded(store), fenced: None })
            }
            (Store::Redis(_), ..) => anyhow::bail!("cluster: needed where store.kind is redis"),
        }
    }

    /// What the nodes of a cluster share through it.
    pub(super) fn common(&self) -> Option<SharedStore> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(store) => Some(SharedStore::new(Arc::clone(store))),
        }
    }

    /// Whether it takes writes.
    pub(super) fn is_healthy(&self) -> bool {
        match self {
            Self::Embedded(store) => store.is_healthy(),
            Self::Redis(store) => store.is_healthy(),
        }
    }

    /// Takes no more writes, answers those it has, and gives the data directory free: another node may have it when this returns.
    pub(super) async fn close(self) {
        match self {
            Self::Embedded(store) => {
                let closing = Arc::clone(&store);
                if let Err(error) = tokio::task::spawn_blocking(move || closing.close()).await {
                    tracing::error!(%error, "the store's last writes may not have been acknowledged");
                }
                // Shards and workers that were told to end have it until they have done so.
                let until = clock::now() + LETTING_GO;
                while Arc::strong_count(&store) > 1 && clock::now() < until {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Self::Redis(store) => store.close().await,
        }
    }
}

fn redis_config(
    config: &Config,
    redis: &RedisSettings,
    cluster: &Cluster,
    keys: &ClusterKeys,
) -> anyhow::Result<RedisConfig> {
    let servers = || redis.servers.iter().map(|(host, port)| Endpoint::new(host.clone(), *port));
    let mode = match &redis.mode {
        RedisMode::Standalone => Mode::Standalone(servers().next().context("store.redis.urls: none")?),
        RedisMode::Sentinel { master } => Mode::Sentinel { sentinels: servers().collect(), master: master.clone() },
        RedisMode::Cluster => Mode::Cluster(servers().collect()),
    };
    let credentials = |of: &crate::config::RedisCredentials| Credentials {
        username: of.username.clone(),
        password_file: of.password_file.clone(),
    };
    let keyring = Keyring::new(keys.naming(), keys.records()).context("cluster.key_files")?;
    let node = tag(&config.node.id).0.to_string();
    Ok(RedisConfig {
        credentials: credentials(&redis.credentials),
        sentinel_credentials: credentials(&redis.sentinel_credentials),
        tls: redis.tls.as_ref().map(|tls| Tls { ca_file: tls.ca_file.clone(), client: tls.client.clone() }),
        writers: redis.connections,
        queue: redis.queue,
        feed_length: redis.feed_length,
        wait_replicas: redis.wait_replicas.map(|(count, within)| WaitReplicas { count, within }),
        connect_timeout: redis.timeout,
        response_timeout: redis.timeout,
        // A phone waits for its answer: what is not written by then is refused or promised, and tried again later.
        write_timeout: redis.timeout * 2,
        ..RedisConfig::new(mode, cluster.name.clone(), node, settings::shards(config), keyring)
    })
}

/// What this node says of itself to the others.
pub(super) async fn node_info(config: &Config, cluster: &Cluster, bound: &[BoundListener]) -> anyhow::Result<NodeInfo> {
    let at = config.listeners.iter().position(|listener| listener.purpose == crate::config::Purpose::Cluster);
    let at = at.context("listener: one with purpose = \"cluster\" is needed")?;
    let (listener, port) = (&config.listeners[at], bound[at].addr.port());
    let address = match &listener.advertise {
        None => bound[at].addr,
        Some((host, named)) => {
            let key = || format!("listener[{at}].advertise: {host}");
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let mut found = tokio::net::lookup_host((host, named.unwrap_or(port))).await.with_context(key)?;
            found.next().with_context(key)?
        }
    };
    Ok(NodeInfo {
        tag: tag(&config.node.id),
        id: config.node.id.clone(),
        roles: Roles { edge: config.node.roles.edge, home: config.node.roles.home },
        address,
        weight: u16::try_from(cluster.weight).unwrap_or(u16::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        draining: false,
    })
}

/// The times of a lease that runs so long. What it takes to notice is a fraction of it; the margin covers clocks that drift and a
/// write that is under way.
pub(super) fn member(cluster: &Cluster) -> MemberConfig {
    let ttl = cluster.lease;
    MemberConfig { ttl, margin: ttl / 10, patience: ttl / 7, retry: ttl / 16 }
}
