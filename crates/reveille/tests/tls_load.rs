//! Ten thousand phones register push tokens over TLS and go to sleep; then hundreds of them are called at once, woken by real
//! push requests, and answer. No call may be lost and no INVITE arrive twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process;

use std::{net::SocketAddr, path::Path, sync::Arc};

use process::{PATIENCE, Server};
use reveille::lab::{DOMAIN, Lab, LabOptions, PASSWORD};
use reveille_testkit::{
    pns::Provider,
    ua::{Ending, Phone, SleepyConfig, SleepyPhone, Step, Transport},
};
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

/// Phones that register.
const PHONES: usize = 10_000;
/// One in so many is called.
const CALLED_OF: usize = 25;
/// Connections of registering phones at the same time.
const CONNECTIONS: usize = 100;
/// Calls at the same time.
const CALLS: usize = 50;

// P-045, P-057, P-066, S-163: the main job, many times over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_10_000_phones_sleep_behind_tls_and_the_called_ones_wake() {
    let users = (0..PHONES).map(user).collect();
    let extra = "[limits]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    let lab = Arc::new(Lab::start(LabOptions { users, extra, ..LabOptions::default() }).await.unwrap());
    let server = Server::start(Path::new(env!("CARGO_BIN_EXE_reveille")), &lab.config_file(), &[]).await;
    let field = Field {
        node: server.addr("tls"),
        transport: Transport::tls(&lab.pns.ca().pem(), "localhost").unwrap(),
        lab: Arc::clone(&lab),
    };

    let sleepers = register_all(&field).await;
    assert_eq!(server.metric("reveille_registrar_bindings").await, PHONES as f64);
    let called = sleepers.len();
    assert_eq!(called, PHONES / CALLED_OF);

    call_all(&field, sleepers).await;
    let pushed: u64 =
        [Provider::Apns, Provider::Fcm, Provider::WebPush].map(|one| lab.pns.counts(one).accepted).iter().sum();
    assert_eq!(pushed, called as u64, "one push for each call");
    assert_eq!(lab.pns.wakes_lost(), 0);
    assert_eq!(lab.pns.unauthenticated_total(), 0);
    let bindings = server.metric("reveille_registrar_bindings").await;
    assert_eq!(bindings, (PHONES + 1) as f64, "each phone refreshed its one binding, and the caller has one");
}

/// Where everything happens.
#[derive(Clone)]
struct Field {
    node: SocketAddr,
    /// Shared, and with it the session tickets: phones of one maker behind one process look like this.
    transport: Transport,
    lab: Arc<Lab>,
}

impl Field {
    fn phone(&self, n: usize) -> Phone {
        let provider = [Provider::Apns, Provider::Fcm, Provider::WebPush][n % 3];
        let phone = Phone::builder(&user(n), DOMAIN, self.node, self.transport.clone()).password(PASSWORD);
        // A phone whose connection has another port each time is the same phone by its instance (P-045).
        let phone = phone.device(self.lab.pns.register_device(provider)).instance(Uuid::from_u128(n as u128));
        phone.patience(PATIENCE).without_transcript().build()
    }
}

/// Registers every phone; returns those that will be called, asleep.
async fn register_all(field: &Field) -> Vec<(usize, SleepyPhone)> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut registering = JoinSet::new();
    for n in 0..PHONES {
        let place = Arc::clone(&connections).acquire_owned().await.unwrap();
        let field = field.clone();
        registering.spawn(async move {
            let _place = place;
            let mut phone = field.phone(n);
            if n.is_multiple_of(CALLED_OF) {
                let config = SleepyConfig { ending: Ending::AwaitBye, patience: PATIENCE, ..SleepyConfig::default() };
                let mut sleeper = SleepyPhone::spawn(phone, config);
                sleeper.until(PATIENCE, |step| *step == Step::Asleep).await.unwrap();
                return Some((n, sleeper));
            }
            phone.connect().await.unwrap();
            let answer = phone.register(3600).await.unwrap();
            assert_eq!(answer.code(), 200, "phone {n}");
            assert!(answer.feature_cap("+sip.pns").is_some(), "phone {n}");
            phone.sleep().await;
            None
        });
    }
    registering.join_all().await.into_iter().flatten().collect()
}

/// Calls every sleeper once; each hears its call exactly once and talks.
async fn call_all(field: &Field, sleepers: Vec<(usize, SleepyPhone)>) {
    let lines = Arc::new(Semaphore::new(CALLS));
    let caller = field.lab.plain_phone("caller", field.node).unwrap().patience(PATIENCE).without_transcript();
    let mut caller = caller.build();
    caller.connect().await.unwrap();
    assert_eq!(caller.register(3600).await.unwrap().code(), 200);
    let caller = Arc::new(caller);
    let mut talking = JoinSet::new();
    for (n, mut sleeper) in sleepers {
        let line = Arc::clone(&lines).acquire_owned().await.unwrap();
        let caller = Arc::clone(&caller);
        talking.spawn(async move {
            let _line = line;
            let mut call = caller.invite(&format!("sip:{}@{DOMAIN}", user(n))).unwrap();
            let answer = call.final_response(PATIENCE).await.unwrap_or_else(|error| panic!("call to {n}: {error}"));
            assert_eq!(answer.message.code(), 200, "call to {n}");
            sleeper.until(PATIENCE, |step| *step == Step::Acked).await.unwrap();
            assert_eq!(call.bye(PATIENCE).await.unwrap().code(), 200, "hanging up on {n}");
            sleeper.until(PATIENCE, |step| matches!(step, Step::Ended { .. })).await.unwrap();
            let phone = sleeper.stop().await.unwrap();
            let invites: Vec<_> = phone.invites().into_iter().collect();
            assert_eq!(invites, [(call.call_id().to_owned(), 1)], "the INVITEs at phone {n}");
            // TLS loses nothing, so nothing may be sent twice.
            assert_eq!(phone.retransmissions(), 0, "phone {n}");
        });
    }
    while let Some(ended) = talking.join_next().await {
        ended.unwrap();
    }
    assert_eq!(caller.retransmissions(), 0);
}

fn user(n: usize) -> String {
    format!("u{n}")
}
