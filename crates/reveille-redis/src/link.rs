//! Connections: opened when first needed, shared by whoever talks to the same server, thrown away at the first sign of trouble.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    TlsCertificates, Value,
};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::config::{Credentials, Endpoint, RedisConfig, Tls};
use crate::metrics::Metrics;

/// Opens connections. Passwords and certificates are read anew each time, so that they may be replaced at any time.
pub(crate) struct Connector {
    credentials: Credentials,
    tls: Option<Tls>,
    within: Duration,
    /// Whether only a master will do: a Sentinel's answer can be old.
    master: bool,
}

/// A server that is not reached, or whose connection broke. What was sent may have taken effect.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Lost(pub(crate) String);

impl From<redis::RedisError> for Lost {
    fn from(error: redis::RedisError) -> Self {
        Lost(error.to_string())
    }
}

impl Connector {
    pub(crate) fn to_data(config: &RedisConfig) -> Self {
        if config.tls.is_some() {
            // The redis crate takes the process's cryptography; where nobody has chosen yet it is ours.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Connector {
            credentials: config.credentials.clone(),
            tls: config.tls.clone(),
            within: config.connect_timeout,
            master: matches!(config.mode, crate::config::Mode::Sentinel { .. }),
        }
    }

    pub(crate) fn to_sentinels(config: &RedisConfig) -> Self {
        Connector { credentials: config.sentinel_credentials.clone(), master: false, ..Self::to_data(config) }
    }

    /// Opens a connection and introduces ourselves.
    pub(crate) async fn open(&self, to: &Endpoint) -> Result<MultiplexedConnection, Lost> {
        match tokio::time::timeout(self.within, self.open_unbounded(to)).await {
            Ok(opened) => opened,
            Err(_) => Err(Lost("no connection in time".to_owned())),
        }
    }

    async fn open_unbounded(&self, to: &Endpoint) -> Result<MultiplexedConnection, Lost> {
        let (host, port) = (to.host.clone(), to.port);
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default();
        if let Some(username) = &self.credentials.username {
            settings = settings.set_username(username);
        }
        if let Some(file) = &self.credentials.password_file {
            let password = Zeroizing::new(read(file).await?);
            let text = std::str::from_utf8(&password).map_err(|_| Lost("the password is not text".to_owned()))?;
            settings = settings.set_password(text.trim_end());
        }
        let info = address.into_connection_info()?.set_redis_settings(settings);
        let client = match &self.tls {
            None => Client::open(info)?,
            Some(tls) => Client::build_with_tls(info, certificates(tls).await?)?,
        };
        // Times are kept by whoever asks.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if self.master {
            let role = connection.req_packed_command(&redis::cmd("ROLE")).await?;
            if !matches!(&role, Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master"))
            {
                return Err(Lost("not a master".to_owned()));
            }
        }
        Ok(connection)
    }
}

async fn certificates(tls: &Tls) -> Result<TlsCertificates, Lost> {
    let client_tls = match &tls.client {
        None => None,
        Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert).await?, client_key: read(key).await? }),
    };
    let root_cert = match &tls.ca_file {
        None => None,
        Some(file) => Some(read(file).await?),
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

async fn read(file: &Path) -> Result<Vec<u8>, Lost> {
    tokio::fs::read(file).await.map_err(|error| Lost(format!("{}: {error}", file.display())))
}

type Link = Arc<OnceCell<MultiplexedConnection>>;

/// Connections of one user, one to each server.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    links: Mutex<HashMap<Endpoint, Link>>,
    metrics: Metrics,
}

impl Pool {
    pub(crate) fn new(connector: Arc<Connector>, metrics: Metrics) -> Self {
        Pool { connector, links: Mutex::new(HashMap::new()), metrics }
    }

    /// Sends commands in one go and returns the replies of all of them, errors of the server among them.
    ///
    /// # Errors
    /// [`Lost`] when the replies did not come `within` the time. The connection is thrown away then.
    pub(crate) async fn exchange(
        &self,
        to: &Endpoint,
        commands: &Pipeline,
        within: Duration,
    ) -> Result<Vec<Value>, Lost> {
        let link = self.links.lock().entry(to.clone()).or_default().clone();
        let exchange = async {
            let opened = async {
                self.metrics.connections.inc();
                self.connector.open(to).await
            };
            let mut connection = link.get_or_try_init(|| opened).await?.clone();
            let count = commands.len();
            let replies = tokio::time::timeout(within, connection.req_packed_commands(commands, 0, count));
            let replies = replies.await.map_err(|_| Lost("no reply in time".to_owned()))??;
            if replies.len() == count { Ok(replies) } else { Err(Lost("too few replies".to_owned())) }
        };
        // Some may wait for one connection to open: none of them longer than one of them would.
        let bound = within + self.connector.within;
        let result = match tokio::time::timeout(bound, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Lost("no connection in time".to_owned())),
        };
        if let Err(lost) = &result {
            self.drop_link(to, &link);
            self.metrics.losses.inc();
            tracing::debug!(server = %to, %lost, "connection lost");
        }
        result
    }

    /// Throws the connection to a server away, so that the next exchange opens another.
    pub(crate) fn reset(&self, to: &Endpoint) {
        self.links.lock().remove(to);
    }

    fn drop_link(&self, to: &Endpoint, link: &Link) {
        let mut links = self.links.lock();
        if links.get(to).is_some_and(|present| Arc::ptr_eq(present, link)) {
            links.remove(to);
        }
    }
}
