//! What a durable write costs: `cargo bench -p reveille-store`.
//!
//! Keeps a number of writes in flight, as so many REGISTERs would, and prints rate, processor time and latency of each. The
//! value is random, so that no compression flatters the result. Numbers for comparison are in `docs/store-engine.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test or a bench ends where something unexpected happens

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::Registry;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Replica, StoreError, Write};
use reveille_store::{EmbeddedStore, Metrics, StoreConfig};

const VALUE: usize = 300;
const USERS: u64 = 1_000_000;

struct Ear(SyncSender<u64>);

impl Acks for Ear {
    fn written(&self, _: u16, write: u64, result: Result<(), StoreError>) {
        result.expect("the disk keeps what it is given");
        let _ = self.0.send(write);
    }
}

fn main() {
    println!(
        "{:>9} {:>10} {:>12} {:>9} {:>9} {:>9}",
        "in flight", "writes/s", "cpu us/write", "p50 ms", "p99 ms", "max ms"
    );
    for depth in [1, 16, 128, 1024] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let metrics = Metrics::new(&Registry::new()).expect("fresh registry");
        let store = EmbeddedStore::open(&StoreConfig::new(dir.path(), 1024), metrics).expect("an empty directory");
        let (sender, receiver) = sync_channel(depth);
        store.attach(Arc::new(Ear(sender)));
        measure(&store, &receiver, depth);
    }
}

fn measure(store: &EmbeddedStore, verdicts: &Receiver<u64>, depth: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut sent = vec![now(); depth];
    let mut latencies = Vec::new();
    let (began, cpu_before) = (now(), cpu());
    for slot in 0..depth {
        submit(store, slot, &mut random);
    }
    // Each verdict makes room for the next write, so the depth stays the same throughout.
    while now() - began < Duration::from_secs(4) {
        let slot = verdicts.recv().expect("the writer lives") as usize;
        latencies.push(now() - sent[slot]);
        sent[slot] = now();
        submit(store, slot, &mut random);
    }
    let (took, cpu) = ((now() - began).as_secs_f64(), cpu() - cpu_before);
    let count = latencies.len() as f64;
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{depth:>9} {:>10.0} {:>12.1} {:>9.2} {:>9.2} {:>9.2}",
        count / took,
        cpu * 1e6 / count,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn submit(store: &EmbeddedStore, slot: usize, random: &mut Random) {
    let user = random.next() % USERS;
    let aor = Aor::from_canonical(format!("subscriber{user:07}@ims.example.com"));
    let value = std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(VALUE).collect::<Vec<u8>>();
    let write = Write { id: slot as u64, value: Some(Bytes::from(value)), aor };
    store.write((user % 1024) as u16, write).expect("the queue holds more than the depth");
}

#[allow(clippy::disallowed_methods)] // a benchmark measures real time
fn now() -> Instant {
    Instant::now()
}

/// Processor seconds of this process so far, from the kernel's count in hundredths.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks =
        |field: usize| after_name.split_whitespace().nth(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
