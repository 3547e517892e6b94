//! What nodes share beside bindings, over the cluster's store: the ports of those who want it, implemented by [`RedisStore`]'s
//! secrets for a time. Each question has its deadline; who gets no answer goes on by himself.

use std::{sync::Arc, time::Duration};

use reveille_pns::{Away, BoxFuture, InForce, SharedCredentials};
use reveille_proxy::{
    auth::{NoncePins, Pin, Unpinned},
    worker::Workers,
};
use reveille_redis::{CommandError, RedisStore, SecretName};
use reveille_registrar::shard::WorkerRef;
use reveille_runtime::clock;
use tokio::sync::Semaphore;

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

/// Binds nonces to nodes (S-147).
pub struct Pins {
    common: SharedStore,
    workers: Arc<Workers>,
    /// This life of this node: what it had counted in an earlier one is forgotten.
    own: [u8; 8],
    under_way: Arc<Semaphore>,
}

impl Pins {
    /// Answers these workers.
    pub fn new(common: SharedStore, workers: Arc<Workers>) -> Self {
        Self { common, workers, own: rand::random(), under_way: Arc::new(Semaphore::new(MOST_PINS)) }
    }
}

impl NoncePins for Pins {
    fn ask(&self, to: WorkerRef, nonce: Unpinned, life: u64) {
        let place = Arc::clone(&self.under_way).try_acquire_owned();
        let (Ok(place), true) = (place, self.common.0.is_healthy()) else {
            // While Redis is away nobody waits to find that out.
            return self.workers.pinned(to, nonce, Pin::Unknown);
        };
        let (store, workers, own) = (Arc::clone(&self.common.0), Arc::clone(&self.workers), self.own);
        tokio::spawn(async move {
            let name = SecretName::new("nonce", nonce.octets());
            let until = clock::now() + PIN_PATIENCE;
            let kept = store.keep_secret(&name, &own, Duration::from_secs(life), Duration::ZERO, until).await;
            workers.pinned(
                to,
                nonce,
                match kept {
                    Ok(kept) if *kept.value == own => Pin::Here,
                    Ok(_) => Pin::Elsewhere,
                    Err(_) => Pin::Unknown,
                },
            );
            drop(place);
        });
    }
}

/// Questions about nonces under way at a time; beyond, a node decides by itself.
const MOST_PINS: usize = 10_000;
/// How long a phone waits until its edge decides by itself.
const PIN_PATIENCE: Duration = Duration::from_millis(500);

const APNS: &str = "apns";

fn away(error: &CommandError) -> Away {
    tracing::debug!(%error, "a credential of the cluster cannot be had");
    Away
}
