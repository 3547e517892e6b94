//! Refreshes, connections and wake-ups over TLS, by the testkit's phones.

use std::{sync::Arc, time::Duration};

use reveille::lab::{DOMAIN, Lab, PASSWORD};
use reveille_testkit::{
    pns::DeviceKind,
    ua::{Ending, Phone, SleepyConfig, SleepyPhone, Step, Transport},
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use uuid::Uuid;

use crate::{
    each, field,
    process::{PATIENCE, Server},
    quantile, user,
};

/// Refreshes over connections that stay open, each by a phone of its own.
pub(crate) async fn refreshes(count: usize) {
    println!(
        "| Connections, each with one in flight | Refreshes/s | CPU µs/refresh | p50 ms | p99 ms |\n|---:|---:|---:|---:|---:|"
    );
    for connections in [1, 8, 64, 256] {
        let (lab, server) = field(connections).await;
        let place = Place::new(&lab, &server);
        let mut phones = Vec::new();
        for n in 0..connections {
            let mut phone = place.phone(n);
            phone.connect().await.unwrap();
            assert_eq!(phone.register(3600).await.unwrap().code(), 200);
            phones.push(phone);
        }
        let share = if connections == 1 { count / 10 } else { count / connections };
        let (before, start) = (server.cpu(), Instant::now());
        let mut refreshing = JoinSet::new();
        for mut phone in phones {
            refreshing.spawn(async move {
                let mut latencies = Vec::with_capacity(share);
                for _ in 0..share {
                    let start = Instant::now();
                    let answer = phone.register_timed(3600).await.unwrap();
                    assert_eq!(answer.message.code(), 200);
                    latencies.push(answer.at - start);
                }
                latencies
            });
        }
        let mut latencies: Vec<Duration> = refreshing.join_all().await.into_iter().flatten().collect();
        let (cpu, took) = (server.cpu() - before, start.elapsed());
        report(connections, cpu, took, &mut latencies);
    }
}

/// A phone comes, registers and leaves, as each wake-up has it: TLS handshake (with and without a session ticket), REGISTER with
/// a challenge, close.
pub(crate) async fn connects(count: usize) {
    println!("| Handshake | Connections/s | CPU µs/connection | p50 ms | p99 ms |\n|---|---:|---:|---:|---:|");
    for resumed in [false, true] {
        let (lab, server) = field(count).await;
        let lab = Arc::new(lab);
        let shared = Place::new(&lab, &server);
        let (before, start) = (server.cpu(), Instant::now());
        let mut connecting = JoinSet::new();
        let places = Arc::new(Semaphore::new(16));
        for n in 0..count {
            let permit = Arc::clone(&places).acquire_owned().await.unwrap();
            let mut phone = if resumed { shared.phone(n) } else { Place::new(&lab, &server).phone(n) };
            connecting.spawn(async move {
                let _permit = permit;
                let start = Instant::now();
                phone.connect().await.unwrap();
                assert_eq!(phone.register(3600).await.unwrap().code(), 200);
                phone.sleep().await;
                start.elapsed()
            });
        }
        let mut latencies = connecting.join_all().await;
        let (cpu, took) = (server.cpu() - before, start.elapsed());
        report(if resumed { "resumed" } else { "full" }, cpu, took, &mut latencies);
    }
}

/// Calls to sleeping phones: INVITE, push over HTTP/2, TLS connection, REGISTER, INVITE forwarded, 180, 200, ACK, BYE.
pub(crate) async fn wake_ups(count: usize) {
    println!("| Calls at once | Calls/s | CPU µs/call | p50 ms | p99 ms |\n|---:|---:|---:|---:|---:|");
    for at_once in [1, 16, 64] {
        let count = if at_once == 1 { count / 4 } else { count };
        let (lab, server) = field(count).await;
        let place = Place::new(&lab, &server);
        let mut sleepers = Vec::new();
        for n in 0..count {
            let config = SleepyConfig { ending: Ending::AwaitBye, patience: PATIENCE, ..SleepyConfig::default() };
            let mut sleeper = SleepyPhone::spawn(place.phone(n), config);
            sleeper.until(PATIENCE, |step| *step == Step::Asleep).await.unwrap();
            sleepers.push(sleeper);
        }
        let mut caller =
            lab.plain_phone("caller", server.addr("tls")).unwrap().patience(PATIENCE).without_transcript().build();
        caller.connect().await.unwrap();
        assert_eq!(caller.register(3600).await.unwrap().code(), 200);
        let caller = Arc::new(caller);
        let (before, start) = (server.cpu(), Instant::now());
        let lines = Arc::new(Semaphore::new(at_once));
        let mut talking = JoinSet::new();
        for (n, mut sleeper) in sleepers.into_iter().enumerate() {
            let (line, caller) = (Arc::clone(&lines).acquire_owned().await.unwrap(), Arc::clone(&caller));
            talking.spawn(async move {
                let _line = line;
                let mut call = caller.invite(&format!("sip:{}@{DOMAIN}", user(n))).unwrap();
                let answer = call.final_response(PATIENCE).await.unwrap();
                assert_eq!(answer.message.code(), 200);
                sleeper.until(PATIENCE, |step| *step == Step::Acked).await.unwrap();
                assert_eq!(call.bye(PATIENCE).await.unwrap().code(), 200);
                answer.at - call.sent_at()
            });
        }
        let mut latencies = talking.join_all().await;
        let (cpu, took) = (server.cpu() - before, start.elapsed());
        report(at_once, cpu, took, &mut latencies);
    }
}

fn report(what: impl std::fmt::Display, cpu: Duration, took: Duration, latencies: &mut [Duration]) {
    let count = latencies.len();
    let (p50, p99) = (quantile(latencies, 0.5), quantile(latencies, 0.99));
    println!("| {what} | {:.0} | {:.0} | {p50:.2} | {p99:.2} |", count as f64 / took.as_secs_f64(), each(cpu, count));
}

/// Where phones come from and go to.
struct Place<'a> {
    lab: &'a Lab,
    node: std::net::SocketAddr,
    transport: Transport,
}

impl<'a> Place<'a> {
    fn new(lab: &'a Lab, server: &Server) -> Self {
        let transport = Transport::tls(&lab.pns.ca().pem(), "localhost").unwrap();
        Self { lab, node: server.addr("tls"), transport }
    }

    fn phone(&self, n: usize) -> Phone {
        let phone = Phone::builder(&user(n), DOMAIN, self.node, self.transport.clone()).password(PASSWORD);
        let device = self.lab.pns.register_device(DeviceKind::ApnsVoip);
        phone.device(device).instance(Uuid::from_u128(n as u128)).patience(PATIENCE).without_transcript().build()
    }
}
