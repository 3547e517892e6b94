//! Names to addresses. Ours rather than the system's call, so that Web Push hosts are vetted before anything connects (P-139)
//! and no spelling of an address passes for a name.

use std::{future::Future, net::IpAddr, pin::Pin};

use hickory_resolver::{TokioResolver, config::ResolverConfig, net::runtime::TokioRuntimeProvider};

/// A future behind a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Looks up the addresses of a host name.
pub trait Resolver: Send + Sync + 'static {
    /// Every address of `host`, in the order to try them; empty where there is none or the lookup failed.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<IpAddr>>;
}

/// DNS as the system is configured, with its hosts file.
pub struct HickoryResolver(TokioResolver);

impl HickoryResolver {
    /// Reads the system's configuration. Where it has none, only the hosts file and `localhost` names resolve.
    ///
    /// # Errors
    /// Where the resolver cannot be built from it.
    pub fn system() -> Result<Self, std::io::Error> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable DNS configuration; only the hosts file resolves");
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        builder.build().map(Self).map_err(std::io::Error::other)
    }
}

impl Resolver for HickoryResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
        Box::pin(async move {
            match self.0.lookup_ip(host).await {
                Ok(found) => found.iter().collect(),
                Err(error) => {
                    tracing::debug!(%error, "a push service's name did not resolve");
                    Vec::new()
                }
            }
        })
    }
}
