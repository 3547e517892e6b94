//! What the nodes of a cluster share: their Redis, their name, their keys.

use std::{path::PathBuf, time::Duration};

/// The Redis of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// How the servers are arranged.
    pub mode: RedisMode,
    /// Host (a name or an address, IPv6 without brackets) and port of the servers, or of the sentinels; at least one, and one
    /// only with [`RedisMode::Standalone`].
    pub servers: Vec<(String, u16)>,
    /// Who we are to the servers.
    pub credentials: RedisCredentials,
    /// Who we are to the sentinels.
    pub sentinel_credentials: RedisCredentials,
    /// TLS towards servers and sentinels; `None`: none, because they are on this machine or because it was allowed by name.
    pub tls: Option<RedisTls>,
    /// Replicas that must hold a write, and how long they may take.
    pub wait_replicas: Option<(u32, Duration)>,
    /// Connections to each server; at least 1.
    pub connections: usize,
    /// For opening a connection, and for a reply.
    pub timeout: Duration,
    /// Writes that may wait; at least 1.
    pub queue: usize,
    /// About how many changes each shard's feed keeps.
    pub feed_length: usize,
}

/// How Redis servers are arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// One server, or one address behind which somebody else looks after availability.
    Standalone,
    /// Sentinels that know the master.
    Sentinel {
        /// The master's name among them.
        master: String,
    },
    /// Redis Cluster.
    Cluster,
}

/// A user of Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisCredentials {
    /// The ACL user; `None`: the default user.
    pub username: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
}

/// TLS towards Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain and key to show.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What makes a node one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name, checked to be 1 to 32 of `[a-z0-9-]`.
    pub name: String,
    /// The files of the cluster's secrets; at least one, no secret twice. [`crate::cluster::ClusterKeys`] reads them.
    pub key_files: Vec<PathBuf>,
    /// The file of the secret that records are filed under.
    pub naming_key_file: PathBuf,
    /// The name that every node's certificate carries: verified when dialling.
    pub server_name: String,
    /// Authorities of the other nodes' certificates.
    pub ca: PathBuf,
    /// The certificate chain shown when dialling.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// How long the node may be silent before others take its shards.
    pub lease: Duration,
    /// Its share of the shards beside others'; at least 1.
    pub weight: u32,
    /// Whether a home follows the shards it would take over.
    pub standby: bool,
    /// Octets that their records may take.
    pub standby_memory: usize,
    /// Connections to each other node; at least 1.
    pub connections: u8,
}
