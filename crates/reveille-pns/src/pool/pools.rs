//! The pools of one credential, by origin. Never shared between host names, addresses or keys (P-141, P-144).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntGauge;
use rustls::ClientConfig;
use url::Url;

use super::{Connector, Pool};
use crate::{Limits, Resolver, SettingsError};

/// Where connections lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    /// As in a URL: lower case, IPv6 in brackets.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    /// The one address to connect to, where it had to be vetted.
    pub(crate) address: Option<IpAddr>,
    /// The credential that goes over these connections, where there are several (P-141); 0 where there is one.
    pub(crate) key: u64,
}

impl Origin {
    /// The origin of a configured endpoint, which must be `https` with a host.
    pub(crate) fn of(url: &Url, key: &str) -> Result<Self, SettingsError> {
        if url.scheme() != "https" {
            return Err(SettingsError::new(key, "must be an https URL"));
        }
        let host = url.host_str().ok_or_else(|| SettingsError::new(key, "has no host"))?;
        Ok(Self {
            host: host.to_ascii_lowercase().into(),
            port: url.port_or_known_default().unwrap_or(443),
            address: None,
            key: 0,
        })
    }

    /// `host[:port]`, the port only where it is not the default.
    pub(crate) fn authority(&self) -> String {
        if self.port == 443 { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    pub(super) fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }
}

/// Pools by origin, at most so many.
pub(crate) struct Pools {
    pools: Mutex<HashMap<Origin, Arc<Pool>>>,
    tls: ArcSwap<ClientConfig>,
    resolver: Arc<dyn Resolver>,
    limits: Limits,
    open: IntGauge,
}

impl Pools {
    /// `open` counts the connections of all pools.
    pub(crate) fn new(tls: Arc<ClientConfig>, resolver: Arc<dyn Resolver>, limits: &Limits, open: IntGauge) -> Self {
        Self { pools: Mutex::default(), tls: ArcSwap::new(tls), resolver, limits: limits.clone(), open }
    }

    /// The pool of an origin; the one unused for longest makes room where there are too many.
    pub(crate) fn get(&self, origin: &Origin) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(origin) {
            return Arc::clone(pool);
        }
        while pools.len() >= self.limits.origins.max(1) {
            let oldest = pools.iter().min_by_key(|(_, pool)| pool.last_used()).map(|(origin, _)| origin.clone());
            let Some(oldest) = oldest else { break };
            pools.remove(&oldest);
        }
        let (tls, resolver) = (self.tls.load_full(), Arc::clone(&self.resolver));
        let connector = Connector::new(origin.clone(), tls, resolver, &self.limits, self.open.clone());
        let pool = Pool::new(connector, &self.limits);
        pools.insert(origin.clone(), Arc::clone(&pool));
        pool
    }

    /// Whether there is a connection to the origin.
    pub(crate) fn is_connected(&self, origin: &Origin) -> bool {
        self.pools.lock().get(origin).is_some_and(|pool| pool.is_connected())
    }

    /// New roots or a new key: what is under way finishes on the old connections, what comes opens new ones.
    pub(crate) fn renew(&self, tls: Arc<ClientConfig>) {
        self.tls.store(tls);
        self.pools.lock().clear();
    }
}
