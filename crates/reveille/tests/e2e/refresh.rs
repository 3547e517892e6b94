//! Phones that sleep are woken to renew their registration before it ends (RFC 8599 §5.5).
//!
//! No registration ends as soon as a test would like. So the node is stopped, what it stored is aged, and it is started again: it
//! finds a binding that is near its end and whose push is overdue.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::Registry;
use reveille::lab::{DOMAIN, LabOptions};
use reveille_registrar::{Acks, Aor, Record, Replica, StoreError, Write};
use reveille_store::{EmbeddedStore, Metrics, StoreConfig};
use reveille_testkit::{
    pns::{DeviceKind, Provider, Service, Wake},
    ua::Phone,
};
use tokio::{sync::mpsc, time::Instant};

use super::stage::{BOB, SOON, Stage, each_provider, play, unavailable_at_once};

/// What is left of a registration once it has been aged, in seconds: the first push comes within two thirds of it.
const REST: u64 = 16;
const SHARDS: u16 = 1024;

struct Verdicts(mpsc::UnboundedSender<Result<(), StoreError>>);

impl Acks for Verdicts {
    fn written(&self, _: u16, _: u64, result: Result<(), StoreError>) {
        let _ = self.0.send(result);
    }
}

/// Stops the node, moves the bindings of `user` into the past so that they end `REST` seconds from now, and starts it again.
async fn age(stage: &mut Stage, user: &str) {
    let node = stage.take_node();
    node.stop().await;
    let (path, user) = (stage.lab.folder().join("data/bindings"), format!("{user}@{DOMAIN}"));
    let (sender, mut verdicts) = mpsc::unbounded_channel();
    let aged = tokio::task::spawn_blocking(move || {
        let store = open(&StoreConfig::new(path, SHARDS));
        store.attach(Arc::new(Verdicts(sender)));
        let aor = Aor::from_canonical(user);
        let shard = aor.shard(SHARDS);
        let stored = store.load(shard).unwrap().map(Result::unwrap).find(|(name, _)| *name == aor);
        let mut record = Record::decode(&stored.expect("the phone has registered").1).unwrap();
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + REST;
        for binding in &mut record.bindings {
            (binding.registered_at, binding.expires_at) = (end - 3600, end);
        }
        store.write(shard, Write { id: 1, aor, value: Some(record.encode().into()) }).unwrap();
        assert_eq!(verdicts.blocking_recv(), Some(Ok(())));
        store.close();
    });
    aged.await.unwrap();
    stage.start_again().await;
}

/// Opens the store of a node that has just ended: the last of its tasks may still have to let go of it.
fn open(config: &StoreConfig) -> EmbeddedStore {
    let since = Instant::now();
    loop {
        match EmbeddedStore::open(config, Metrics::new(&Registry::new()).unwrap()) {
            Ok(store) => return store,
            Err(error) => assert!(since.elapsed() < SOON, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// What every refresh push has to be: for whatever wakes this phone beside calls, and worth no more than the binding.
fn check(wake: &Wake, provider: Provider) {
    let expected = if provider == Provider::Apns { Service::Remote } else { Service::Any };
    assert_eq!(wake.service, expected, "P-098, P-151");
    assert!(!wake.urgent, "P-096");
    let ttl = wake.ttl.expect("P-128: the push says how long it may be kept");
    assert!(ttl <= Duration::from_secs(REST), "{ttl:?}");
}

async fn counted(stage: &Stage, event: &str, wanted: f64) {
    let metric = format!("reveille_registrar_refreshes_total{{event=\"{event}\"}}");
    stage.sum_when(&metric, |sum| sum == wanted).await;
}

/// P-092, P-093, P-095, P-171: a phone is pushed before the end, comes, and is not pushed again.
async fn comes_when_asked_to_refresh(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    age(stage, "bob").await;
    let end = Instant::now() + Duration::from_secs(REST);
    let wake = phone.wait_wake(SOON).await.expect("P-093: a push comes before the end");
    check(&wake, provider);
    stage.refresh(&mut phone).await;
    phone.sleep().await;
    counted(stage, "renewed", 1.0).await;
    // The time in which the second would have come.
    tokio::time::sleep_until(end).await;
    assert_eq!(stage.pushes(&phone), 1);
    stage.sum_when("reveille_registrar_bindings ", |sum| sum == 1.0).await;
}
each_provider!(comes_when_asked_to_refresh, LabOptions::default());

/// P-096, P-146: a phone that does not come is pushed a second time; then its registration ends, and nobody is pushed any more.
async fn does_not_come(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    age(stage, "bob").await;
    let end = Instant::now() + Duration::from_secs(REST);
    let first = phone.wait_wake(SOON).await.expect("a push comes before the end");
    check(&first, provider);
    let second = phone.wait_wake(SOON).await.expect("P-096: and a second one");
    check_second(&second, &first, provider);
    assert!(Instant::now() < end);
    tokio::time::sleep_until(end).await;
    let caller = stage.caller().await;
    unavailable_at_once(&caller, BOB).await;
    assert_eq!(stage.pushes(&phone), 2, "neither a third nor one for a call to nobody");
}
each_provider!(does_not_come, LabOptions::default());

fn check_second(second: &Wake, first: &Wake, provider: Provider) {
    assert!(second.ttl < first.ttl, "P-128: {:?} {:?}", second.ttl, first.ttl);
    if provider == Provider::WebPush {
        assert_eq!(first.headers.get("urgency").map(String::as_str), Some("low"), "P-129");
        assert_eq!(second.headers.get("urgency").map(String::as_str), Some("normal"), "P-129");
        assert_eq!(first.headers.get("topic"), second.headers.get("topic"), "P-096: one takes the other's place");
    }
    if provider == Provider::Apns {
        let id = "apns-collapse-id";
        assert!(first.headers.contains_key(id) && first.headers.get(id) == second.headers.get(id), "P-096");
    }
}

/// P-098, P-151: a phone whose only token is for calls is granted a week, and is not pushed to refresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voip_token_lives_long_and_is_left_alone() {
    play(LabOptions::default(), async |stage| {
        let device = stage.lab.pns.register_device(DeviceKind::ApnsVoip);
        let mut phone: Phone = stage.lab.plain_phone("bob", stage.tls()).unwrap().device(device).build();
        phone.connect().await.unwrap();
        let answer = phone.register(3600).await.unwrap();
        assert_eq!(answer.code(), 200);
        let contact = answer.header("Contact").expect("the binding is listed").to_owned();
        assert!(contact.contains(";expires=604800"), "{contact}");
        phone.sleep().await;
        age(stage, "bob").await;
        tokio::time::sleep(Duration::from_secs(REST)).await;
        assert_eq!(stage.pushes(&phone), 0);
    })
    .await;
}

/// P-098: with the switch off nobody is pushed to refresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_pushed_where_refresh_pushes_are_off() {
    play(super::stage::push("refresh = false"), async |stage| {
        let phone = stage.asleep("bob", Provider::Fcm).await;
        age(stage, "bob").await;
        tokio::time::sleep(Duration::from_secs(REST)).await;
        assert_eq!(stage.pushes(&phone), 0);
    })
    .await;
}
