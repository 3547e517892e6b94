//! What nodes share beside bindings, over a real Redis: credentials of the push services.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::Registry;
use reveille::cluster::SharedStore;
use reveille_pns::{ApnsSettings, Away, BoxFuture, Hosting, InForce, Services, Settings, SharedCredentials, start};
use reveille_push::{Outcome, PushClass, PushJob, PushServices, PushTarget, Ticket};
use reveille_redis::{Endpoint, Keyring, Metrics, Mode, RedisConfig, RedisStore};
use reveille_runtime::{Fatal, RuntimeMetrics, clock};
use reveille_testkit::{
    pns::{LabConfig, LabFiles, LabPns, Provider},
    redis::Redis,
};
use tokio::sync::oneshot;

/// One home's way to what is shared. A clock that is off is what its offers look like.
pub(crate) async fn store(redis: &Redis, node: &str) -> Arc<RedisStore> {
    let keys = Keyring::new([7; 32], vec![(1, [1; 32])]).unwrap();
    let mode = Mode::Standalone(Endpoint::new("127.0.0.1", redis.port()));
    let config = RedisConfig {
        response_timeout: Duration::from_millis(300),
        ..RedisConfig::new(mode, "lab".to_owned(), node.to_owned(), 16, keys)
    };
    Arc::new(RedisStore::connect(&config, Metrics::new(&Registry::new()).unwrap()).await.unwrap())
}

/// Remembers the names that are asked for.
struct Heard {
    inner: SharedStore,
    names: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl SharedCredentials for Heard {
    fn in_force<'a>(&'a self, name: &'a [u8]) -> BoxFuture<'a, Result<Option<InForce>, Away>> {
        self.names.lock().push(name.to_vec());
        self.inner.in_force(name)
    }

    fn offer<'a>(
        &'a self,
        name: &'a [u8],
        value: &'a [u8],
        life: Duration,
        unless_longer: Duration,
    ) -> BoxFuture<'a, Result<InForce, Away>> {
        self.inner.offer(name, value, life, unless_longer)
    }
}

struct Home {
    services: Services,
    names: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Home {
    async fn start(files: &LabFiles, store: Arc<RedisStore>) -> Self {
        let registry = Registry::new();
        let runtime = RuntimeMetrics::new(&registry).unwrap();
        let names = Arc::new(Mutex::new(Vec::new()));
        let mut hosting = Hosting::new(registry, runtime, Fatal::new().0);
        hosting.shared = Some(Arc::new(Heard { inner: SharedStore::new(store), names: Arc::clone(&names) }));
        let apns = ApnsSettings {
            name: "lab".to_owned(),
            team_id: files.apns_team_id.clone(),
            key_id: files.apns_key_id.clone(),
            key_file: files.apns_key_p8.clone(),
            topics: vec![files.apns_topic.clone()],
            sandbox: false,
            voip_refresh: false,
            endpoint: Some(files.endpoints.apns.parse().unwrap()),
            ca_file: Some(files.ca_pem.clone()),
        };
        let services = start(Settings { apns: vec![apns], ..Settings::default() }, hosting).await.unwrap();
        services.warm_up(Duration::from_secs(10)).await;
        Self { services, names }
    }

    async fn push(&self, pns: &LabPns) -> Outcome {
        let device = pns.register_device(Provider::Apns);
        let target = PushTarget::new(reveille_push::Provider::Apns, device.param.as_deref(), &device.prid).unwrap();
        let (reply, verdict) = oneshot::channel();
        let patience = Duration::from_secs(8);
        let job = PushJob {
            id: 1,
            target,
            class: PushClass::Call,
            deadline: clock::now() + patience,
            ttl: patience,
            repeat: 0,
            ticket: Ticket::new(),
            reply: Box::new(move |outcome| _ = reply.send(outcome)),
            correlation: 77,
        };
        assert!(self.services.submit(job).is_ok());
        verdict.await.unwrap()
    }
}

/// P-143: homes send with the token that is in force, whoever minted it and whatever their clocks say; with Redis away each goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_apns_token_serves_all_homes_p143() {
    let mut redis = Redis::durable().unwrap();
    let (pns, folder) = (LabPns::start(LabConfig::default()).await.unwrap(), tempfile::tempdir().unwrap());
    let files = pns.write_credentials(folder.path()).unwrap();
    let issued = || pns.requests().iter().filter_map(|request| request.issued).collect::<Vec<_>>();

    // The first mints one of now; a slot of 45 minutes, as a home without others has it, would hardly begin at this second.
    let before = clock::unix_now_millis() / 1000;
    let first = Home::start(&files, store(&redis, "1").await).await;
    assert_eq!(first.push(&pns).await, Outcome::Accepted);
    let minted = issued()[0];
    assert!((before..before + 60).contains(&minted), "{minted} is not of {before}");

    // What is in force is told by Redis and by nothing else: with another token there, the next home sends with that.
    let name = first.names.lock()[0].clone();
    let common = SharedStore::new(store(&redis, "9").await);
    let value = common.in_force(&name).await.unwrap().unwrap().value;
    assert_eq!(value[..8], minted.to_be_bytes());
    let loser = common.offer(&name, b"another", Duration::from_secs(3600), Duration::from_secs(2400)).await.unwrap();
    assert_eq!(loser.value, value, "nobody replaces it within 20 minutes");
    tokio::time::sleep(Duration::from_millis(1100)).await; // so that a token of its own would show another second
    let second = Home::start(&files, store(&redis, "2").await).await;
    assert_eq!(second.push(&pns).await, Outcome::Accepted);
    assert_eq!(issued(), [minted, minted]);

    // Redis away: the token in hand goes on, and a home that has none makes its own.
    let third = store(&redis, "3").await;
    redis.kill();
    assert_eq!(second.push(&pns).await, Outcome::Accepted);
    let third = Home::start(&files, third).await;
    assert_eq!(third.push(&pns).await, Outcome::Accepted);
    assert_eq!(issued()[..3], [minted; 3]);
    assert_eq!(pns.unauthenticated_total(), 0);
}
