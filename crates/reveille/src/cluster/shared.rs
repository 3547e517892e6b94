//! What nodes share beside bindings, over the cluster's store: the ports of those who want it, implemented by [`RedisStore`]'s
//! secrets for a time. Each question has its deadline; who gets no answer goes on by himself.

use std::{sync::Arc, time::Duration};

use reveille_pns::{Away, BoxFuture, InForce, SharedCredentials};
use reveille_redis::{CommandError, RedisStore, SecretName};
use reveille_runtime::clock;

/// How long a question may take that nobody on the telephone waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedStore(Arc<RedisStore>);

impl SharedStore {
    /// Over the cluster's store.
    pub fn new(store: Arc<RedisStore>) -> Self {
        Self(store)
    }
}

/// P-143.
impl SharedCredentials for SharedStore {
    fn in_force<'a>(&'a self, name: &'a [u8]) -> BoxFuture<'a, Result<Option<InForce>, Away>> {
        Box::pin(async move {
            let found = self.0.secret(&SecretName::new(APNS, name), clock::now() + PATIENCE).await;
            found.map(|found| found.map(|secret| InForce { value: secret.value })).map_err(|error| away(&error))
        })
    }

    fn offer<'a>(
        &'a self,
        name: &'a [u8],
        value: &'a [u8],
        life: Duration,
        unless_longer: Duration,
    ) -> BoxFuture<'a, Result<InForce, Away>> {
        Box::pin(async move {
            let name = SecretName::new(APNS, name);
            let kept = self.0.keep_secret(&name, value, life, unless_longer, clock::now() + PATIENCE).await;
            kept.map(|secret| InForce { value: secret.value }).map_err(|error| away(&error))
        })
    }
}

const APNS: &str = "apns";

fn away(error: &CommandError) -> Away {
    tracing::debug!(%error, "a credential of the cluster cannot be had");
    Away
}
