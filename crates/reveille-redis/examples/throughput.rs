//! Acknowledged writes per second, and what one costs this process, at several depths of load.
//!
//! Starts a `redis-server` of its own, without anything on disk unless `--durable` is given:
//!
//! ```text
//! cargo run --release -p reveille-redis --example throughput -- [--durable] [--shards N] [--seconds N] [--bytes N]
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)] // an example ends where something unexpected happens

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Registry;
use reveille_redis::{Endpoint, Keyring, Metrics, Mode, RedisConfig, RedisStore};
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Replica, StoreError, Write};
use reveille_runtime::clock;
use reveille_testkit::redis::Redis;

/// Passes verdicts on.
struct Ear(Mutex<Sender<(u64, bool)>>);

impl Acks for Ear {
    fn written(&self, _: u16, write: u64, result: Result<(), StoreError>) {
        let _ = self.0.lock().send((write, result.is_ok()));
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(default, |value| value.parse().unwrap())
    };
    let (shards, seconds, bytes) = (number("--shards", 1024), number("--seconds", 3), number("--bytes", 500));
    let durable = args.iter().any(|arg| arg == "--durable");
    let shards = u16::try_from(shards).unwrap();
    let server = if durable { Redis::durable() } else { Redis::start() }.unwrap();
    let server_pid = server.pid().unwrap().to_string();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keys = Keyring::new([1; 32], vec![(1, [2; 32])]).unwrap();
    let mode = Mode::Standalone(Endpoint::new("127.0.0.1", server.port()));
    let config = RedisConfig::new(mode, "bench", "n1", shards, keys);
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let (sender, verdicts) = channel();
    let store = runtime.block_on(async {
        let store = RedisStore::connect(&config, metrics.clone()).await.unwrap();
        let all: Vec<_> = (0..shards).map(|shard| (shard, 0)).collect();
        let claimed = store.claim(&all, clock::now() + Duration::from_secs(10)).await;
        assert!(claimed.iter().all(Result::is_ok));
        store
    });
    store.attach(Arc::new(Ear(Mutex::new(sender))));

    let users: Vec<Aor> = (0..50_000).map(|n| Aor::from_canonical(format!("user{n}@example.com"))).collect();
    let homes: Vec<u16> = users.iter().map(|aor| aor.shard(shards)).collect();
    let value = Bytes::from(vec![b'x'; usize::try_from(bytes).unwrap()]);
    println!("{shards} shards, records of {bytes} octets, durable: {durable}");
    println!("depth   writes/s   our CPU us/write   server CPU us/write   records/batch   median us   p99 us");
    let mut next = 0;
    for depth in [1, 4, 16, 64, 256, 1024, 4096] {
        let (began, ours, theirs) = (clock::now(), cpu("self"), cpu(&server_pid));
        let batches = (metrics.batch_size.get_sample_count(), metrics.batch_size.get_sample_sum());
        let mut started = std::collections::HashMap::new();
        let (mut sent, mut heard, mut times) = (0_u64, 0_u64, Vec::new());
        let end = began + Duration::from_secs(seconds);
        let mut now = began;
        while heard < sent || now < end {
            while sent - heard < depth && now < end {
                let user = usize::try_from(next % 50_000).unwrap();
                let write = Write { id: next, aor: users[user].clone(), value: Some(value.clone()) };
                started.insert(next, now);
                store.write(homes[user], write).unwrap();
                next += 1;
                sent += 1;
            }
            let (id, written) = verdicts.recv().unwrap();
            assert!(written, "write {id}");
            now = clock::now();
            heard += 1;
            times.extend(started.remove(&id).map(|at| now.saturating_duration_since(at).as_micros()));
        }
        let elapsed = (clock::now() - began).as_secs_f64();
        let per_write = |before: f64, after: f64| (after - before) * 1e6 / heard as f64;
        let count = metrics.batch_size.get_sample_count() - batches.0;
        times.sort_unstable();
        println!(
            "{depth:5} {:10.0} {:18.1} {:21.1} {:15.1} {:11} {:8}",
            heard as f64 / elapsed,
            per_write(ours, cpu("self")),
            per_write(theirs, cpu(&server_pid)),
            (metrics.batch_size.get_sample_sum() - batches.1) / count as f64,
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
    }
    let (began, ours) = (clock::now(), cpu("self"));
    let loaded: usize = (0..shards).map(|shard| store.load(shard).unwrap().count()).sum();
    let (elapsed, ours) = ((clock::now() - began).as_secs_f64(), cpu("self") - ours);
    println!(
        "load: {loaded} records one shard after the other, {:.0} records/s, {:.1} us of our CPU each",
        loaded as f64 / elapsed,
        ours * 1e6 / loaded as f64
    );
}

/// Processor time that a process has used, in seconds. The load itself is in it, for our own.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
