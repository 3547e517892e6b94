//! Resident memory of a million APNs bindings, everything included: records, hash tables, timetables, the allocator's share.
//!
//! `cargo run --release --example memory [BINDINGS]`; Linux only, since it reads `/proc/self/statm`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a measurement fails loudly, and counts from now

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Instant};

use prometheus::Registry;
use reveille_push::Outcome;
use reveille_registrar::{DeadTargets, Now, Shard, ShardInput, ShardOutput, metrics::Metrics, shard::ShardConfig};
use support::{Fate, Gone, Services, register};

const SHARDS: u16 = 1024;

fn main() {
    let bindings: u32 = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let services = Arc::new(Services(Fate::Answered(Outcome::Accepted)));
    let flows = Arc::new(Gone::default());
    let dead = Arc::new(DeadTargets::new(&[0; 32], 1, metrics.dead_marks.clone()));
    let mut shards: Vec<Shard> = (0..SHARDS)
        .map(|_| Shard::new(ShardConfig::default(), services.clone(), flows.clone(), metrics.clone(), dead.clone()))
        .collect();
    let before = resident();
    let start = Now { mono: Instant::now(), unix: 1_700_000_000 };
    // Every phone registers and refreshes once, as it would: memory freed and taken again is part of the measurement.
    for cseq in 1..=2 {
        for n in 0..bindings {
            let request = register(n, cseq);
            let shard = &mut shards[usize::from(request.aor.shard(SHARDS))];
            shard.handle(start, ShardInput::Register(Box::new(request)));
            while let Some(output) = shard.poll_output() {
                if let ShardOutput::Write { write, .. } = output {
                    shard.handle(start, ShardInput::Written { write, result: Ok(()) });
                }
            }
        }
    }
    let used = resident() - before;
    assert_eq!(metrics.bindings.get(), i64::from(bindings));
    println!("{bindings} bindings in {SHARDS} shards");
    println!("records: {} bytes each", metrics.record_bytes.get() / i64::from(bindings));
    println!("resident: {} bytes each, {} MiB in all", used / u64::from(bindings), used >> 20);
    println!("{:.1} µs per REGISTER", start.mono.elapsed().as_secs_f64() * 1e6 / f64::from(bindings) / 2.0);
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
