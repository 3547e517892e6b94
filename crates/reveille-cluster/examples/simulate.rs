//! Runs many histories of a simulated cluster and says what happened in them:
//! `cargo run --release -p reveille-cluster --example simulate -- --histories 100000 [--seed N] [--threads N]`.
//!
//! A history that breaks a rule ends the run with exit code 1 and its seed, which replays it with `--histories 1 --seed N`.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use reveille_cluster::sim::{self, Rules, Stats};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut histories, mut seed, mut threads) = (1000, 0, 1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
        match (name.as_str(), value) {
            ("--histories", Some(value)) => histories = value,
            ("--seed", Some(value)) => seed = value,
            ("--threads", Some(value)) => threads = value,
            _ => {
                eprintln!("usage: simulate [--histories N] [--seed N] [--threads N]");
                return ExitCode::from(2);
            }
        }
    }
    let next = AtomicU64::new(seed);
    let work = || {
        let mut stats = Stats::default();
        let mut broken = Vec::new();
        while broken.len() < 5 {
            let seed_now = next.fetch_add(1, Ordering::Relaxed);
            if seed_now >= seed + histories {
                break;
            }
            match std::panic::catch_unwind(|| sim::run(seed_now, Rules::default())) {
                Ok(Ok(one)) => stats.add(&one),
                Ok(Err(violation)) => broken.push(violation.to_string()),
                Err(_) => broken.push(format!("seed {seed_now}: panicked")),
            }
        }
        (stats, broken)
    };
    let mut stats = Stats::default();
    let mut broken = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Ok((one, violations)) = worker.join() {
                stats.add(&one);
                broken.extend(violations);
            }
        }
    });
    println!("{stats:#?}");
    for violation in &broken {
        println!("BROKEN: {violation}");
    }
    ExitCode::from(u8::from(!broken.is_empty() || stats.histories != histories))
}
