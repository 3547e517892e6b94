//! What an operator says about Redis.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::seal::Keyring;

/// How the servers are arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One server, or one address behind which somebody else looks after availability.
    Standalone(Endpoint),
    /// Sentinels that name the present master.
    Sentinel {
        /// The sentinels; any one that answers will do.
        sentinels: Vec<Endpoint>,
        /// The master's name.
        master: String,
    },
    /// Redis Cluster.
    Cluster(
        /// Some of its nodes; the others are found through them.
        Vec<Endpoint>,
    ),
}

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// The server at `host` and `port`.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Endpoint { host: host.into(), port }
    }

    /// Reads `redis://host:port`, `rediss://host:port` or plain `host:port`, and says whether TLS was asked for. The port
    /// may be left out (6379). Credentials do not belong in a URL, where logs would show them: they are refused.
    ///
    /// # Errors
    /// [`ConfigError`] for another scheme, credentials, a path, or a bad port.
    pub fn from_url(url: &str) -> Result<(Self, bool), ConfigError> {
        let bad = |reason: &'static str| ConfigError { key: "url", reason };
        let (tls, rest) = match url.split_once("://") {
            Some(("redis", rest)) => (false, rest),
            Some(("rediss", rest)) => (true, rest),
            Some(_) => return Err(bad("the scheme must be redis or rediss")),
            None => (false, url),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(bad("credentials go into username and password_file"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(bad("only a host and a port are expected"));
        }
        let endpoint = Self::from_host_port(rest).ok_or_else(|| bad("expected host:port"))?;
        Ok((endpoint, tls))
    }

    /// Splits at the last colon, as Redis writes addresses: `10.0.0.1:6379`, `::1:6379`, `[::1]:6379`, `host`.
    pub(crate) fn from_host_port(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, port.parse().ok()?),
            _ => (text, 6379),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then(|| Endpoint::new(host, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// TLS toward Redis (and toward sentinels).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of the authorities that sign the servers' certificates; the system's where there is none.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a certificate of our own and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A name and a file that holds the password, which is read anew for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; the server's default user where there is none.
    pub username: Option<String>,
    /// Holds the password; white space at its end does not count.
    pub password_file: Option<PathBuf>,
}

/// Replicas that have to hold a write before it counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitReplicas {
    /// How many.
    pub count: u32,
    /// How long they may take. Past this the verdict is that the write's fate is not known.
    pub within: Duration,
}

/// Where and how to keep records.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// How the servers are arranged.
    pub mode: Mode,
    /// Who we are to the data servers.
    pub credentials: Credentials,
    /// Who we are to the sentinels.
    pub sentinel_credentials: Credentials,
    /// TLS, or none.
    pub tls: Option<Tls>,
    /// The cluster's name: part of every key, so that several clusters may share a Redis.
    pub cluster: String,
    /// This node's tag, as it stands in fences and leases.
    pub node: String,
    /// Number of shards; fixed when a cluster is made.
    pub shards: u16,
    /// Seals and opens records.
    pub keys: Keyring,
    /// Writers, each with a connection of its own to each master. A shard always uses the same one.
    pub writers: usize,
    /// Most writes taken and not yet answered.
    pub queue: usize,
    /// Most octets of such writes.
    pub queue_bytes: usize,
    /// Most records sent in one batch.
    pub batch: usize,
    /// Most batches of one writer that may await the replies of one server.
    pub in_flight: usize,
    /// About how many entries a shard's feed keeps.
    pub feed_length: usize,
    /// About how many events the stream of the shard map keeps.
    pub map_length: usize,
    /// Most records that other nodes may have handed in for a shard and its owner has not merged.
    pub deferred_limit: usize,
    /// Replicas to wait for, if any.
    pub wait_replicas: Option<WaitReplicas>,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long a reply may take before the connection counts as dead.
    pub response_timeout: Duration,
    /// How long a write may take in all, repetitions included, before its fate is reported as not known.
    pub write_timeout: Duration,
    /// How often the sentinels or the cluster are asked for changes nobody told us of.
    pub topology_interval: Duration,
}

impl RedisConfig {
    /// The usual sizes and times.
    pub fn new(mode: Mode, cluster: impl Into<String>, node: impl Into<String>, shards: u16, keys: Keyring) -> Self {
        RedisConfig {
            mode,
            credentials: Credentials::default(),
            sentinel_credentials: Credentials::default(),
            tls: None,
            cluster: cluster.into(),
            node: node.into(),
            shards,
            keys,
            writers: 2,
            queue: 16_384,
            queue_bytes: 64 * 1024 * 1024,
            batch: 1024,
            in_flight: 4,
            feed_length: 256,
            map_length: 16_384,
            deferred_limit: 10_000,
            wait_replicas: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(4),
            topology_interval: Duration::from_secs(10),
        }
    }

    /// Checks what one value alone cannot show.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fault = |key, reason| Err(ConfigError { key, reason });
        if self.shards == 0 {
            return fault("shards", "must be at least 1");
        }
        let name = |text: &str| {
            !text.is_empty()
                && text.len() <= 255
                && text.bytes().all(|octet| octet.is_ascii_graphic() && !b"{}*?[]\\:".contains(&octet))
        };
        if !name(&self.cluster) {
            return fault("cluster", "must be 1 to 255 printable ASCII characters without blanks or any of {}*?[]\\:");
        }
        if !name(&self.node) {
            return fault("node", "must be 1 to 255 printable ASCII characters without blanks or any of {}*?[]\\:");
        }
        match &self.mode {
            Mode::Sentinel { sentinels, .. } if sentinels.is_empty() => fault("sentinels", "none is given"),
            Mode::Sentinel { master, .. } if master.is_empty() => fault("master", "the name is missing"),
            Mode::Cluster(seeds) if seeds.is_empty() => fault("seeds", "none is given"),
            _ => match self.wait_replicas {
                Some(wait) if wait.within.is_zero() => fault("wait_replicas.within", "must be more than 0"),
                _ => Ok(()),
            },
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct ConfigError {
    /// Which.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_a_port_and_tls() {
        let read = |url| Endpoint::from_url(url).map(|(endpoint, tls)| (endpoint.to_string(), tls));
        assert_eq!(read("redis://a.example:7000").unwrap(), ("a.example:7000".to_owned(), false));
        assert_eq!(read("rediss://a.example/").unwrap(), ("a.example:6379".to_owned(), true));
        assert_eq!(read("[::1]:7000").unwrap(), ("[::1]:7000".to_owned(), false));
        assert_eq!(read("rediss://[::1]").unwrap(), ("[::1]:6379".to_owned(), true));
        for url in ["http://a", "redis://user:secret@a", "redis://a/0", "redis://a:b", "redis://"] {
            let error = read(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn names_that_would_break_keys_are_refused() {
        let keys = Keyring::new([1; 32], vec![(1, [2; 32])]).unwrap();
        let mut config = RedisConfig::new(Mode::Standalone(Endpoint::new("a", 1)), "lab", "n1", 16, keys);
        assert_eq!(config.check(), Ok(()));
        config.cluster = "a{b}".to_owned();
        assert_eq!(config.check().unwrap_err().key, "cluster");
        config.cluster = "lab".to_owned();
        config.mode = Mode::Cluster(Vec::new());
        assert_eq!(config.check().unwrap_err().key, "seeds");
    }
}
