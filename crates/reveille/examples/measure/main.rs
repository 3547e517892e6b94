//! What a node costs: processor time, latency and memory of a whole `reveille serve` process under load from outside it.
//!
//! `cargo run --release --example measure -- WHAT...` with any of `udp`, `tls`, `connect`, `wake`, `memory`, and of a cluster
//! over a real redis-server `takeover`, the same without standbys `takeover-cold`, and `spread`; Linux only. The
//! figures in `docs/performance.md` come from here. The node is another process of this very program (`measure serve -c FILE`
//! is `reveille serve -c FILE`), so that its processor time and memory can be told from those of the load. `COUNT=n` before a
//! name in the arguments sets how many refreshes, phones or bindings the next measurement uses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement ends where something unexpected happens")]

#[path = "../../tests/process/mod.rs"]
mod process;

mod cluster;
mod datagram;
mod fill;
mod phones;
mod probe;

use std::{path::Path, time::Duration};

use process::Server;
use reveille::lab::{Lab, LabOptions};

/// Loopback counts as protected, so that push parameters are taken over UDP; nothing is limited per source.
const EXTRA: &str = r#"
[[security.strong_alternative]]
net = "127.0.0.0/8"
kind = "loopback"

[limits]
exempt = ["127.0.0.0/8"]
# What is measured is not the bound on transactions, each of which lives for 32 s.
transactions = 2000000
"#;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("serve").is_some() {
        return serve(Path::new(&args.nth(1).expect("-c FILE"))).await;
    }
    let mut count = None;
    for what in args {
        if let Some(value) = what.strip_prefix("COUNT=") {
            count = Some(value.parse::<usize>().expect("a number"));
            continue;
        }
        match what.as_str() {
            "udp" => datagram::refreshes(count.take().unwrap_or(200_000)).await,
            "memory" => datagram::memory(count.take().unwrap_or(100_000)).await,
            "tls" => phones::refreshes(count.take().unwrap_or(50_000)).await,
            "connect" => phones::connects(count.take().unwrap_or(2_000)).await,
            "wake" => phones::wake_ups(count.take().unwrap_or(1_000)).await,
            "takeover" => cluster::takeover(count.take().unwrap_or(1_000_000), true).await,
            "takeover-cold" => cluster::takeover(count.take().unwrap_or(1_000_000), false).await,
            "spread" => cluster::spread(count.take().unwrap_or(100_000)).await,
            other => panic!("what is {other}?"),
        }
    }
}

/// What `reveille serve` does.
async fn serve(file: &Path) {
    let config = reveille::config::load(file).expect("a good configuration");
    let telemetry = &config.telemetry;
    reveille_runtime::telemetry::init(reveille_runtime::telemetry::LogFormat::Json, &telemetry.level).unwrap();
    reveille::node::run(config).await.expect("the node runs");
}

/// A lab with `users` users `u0`, `u1` …, and a node.
async fn field(users: usize) -> (Lab, Server) {
    let users = (0..users).map(user).collect();
    let lab = Lab::start(LabOptions { users, extra: EXTRA.to_owned(), ..LabOptions::default() }).await.unwrap();
    let program = std::env::current_exe().unwrap();
    let server = Server::start(&program, &lab.config_file(), &[]).await;
    (lab, server)
}

fn user(n: usize) -> String {
    format!("u{n}")
}

/// Processor time per piece.
fn each(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}

/// A quantile of latencies, milliseconds; sorts them.
fn quantile(latencies: &mut [Duration], share: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() - 1) as f64 * share) as usize;
    latencies[at].as_secs_f64() * 1e3
}
