//! A shard's turn: refresh, look-up and wake-up, with ten thousand and with a million bindings. The cost per message must not
//! grow with their number.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)] // a bench fails loudly, and counts from now

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use prometheus::Registry;
use reveille_push::{Outcome, PushClass};
use reveille_registrar::{
    DeadTargets, Now, ResolveRequest, Shard, ShardInput, ShardOutput, WorkerRef,
    metrics::Metrics,
    shard::{PushLimits, ShardConfig},
};
use reveille_sip::method::Method;
use support::{Fate, Gone, Services, aor, register};

/// The store and the push service say yes to everything.
fn settle(shard: &mut Shard, now: Now) {
    loop {
        let mut answers = Vec::new();
        while let Some(output) = shard.poll_output() {
            match output {
                ShardOutput::Write { write, .. } => answers.push(ShardInput::Written { write, result: Ok(()) }),
                ShardOutput::Push(order) => answers.push(ShardInput::PushAnswered {
                    aor: order.aor,
                    key: order.key,
                    push: order.push,
                    outcome: Outcome::Accepted,
                }),
                ShardOutput::Reply { .. } | ShardOutput::HandIn { .. } | ShardOutput::Note(_) => {}
            }
        }
        if answers.is_empty() {
            return;
        }
        answers.into_iter().for_each(|answer| shard.handle(now, answer));
    }
}

fn filled(bindings: u32, now: Now) -> Shard {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let push_limits = PushLimits { calls_per_minute: u16::MAX, ..PushLimits::default() };
    let config = ShardConfig { push_limits, ..ShardConfig::default() };
    let services = Arc::new(Services(Fate::Answered(Outcome::Accepted)));
    let dead = DeadTargets::new(&[0; 32], 1, metrics.dead_marks.clone());
    let mut shard = Shard::new(config, services, Arc::new(Gone::default()), metrics, Arc::new(dead));
    for n in 0..bindings {
        shard.handle(now, ShardInput::Register(Box::new(register(n, 1))));
        settle(&mut shard, now);
    }
    shard
}

fn call(n: u32, now: Now) -> (WorkerRef, ShardInput) {
    let waiter = WorkerRef { worker: 0, context: n.into() };
    let request = ResolveRequest {
        aor: aor(n),
        waiter,
        class: PushClass::Call,
        method: Method::Invite,
        deadline: now.mono + Duration::from_secs(30),
        dialog_forming: true,
    };
    (waiter, ShardInput::Resolve(Box::new(request)))
}

fn shard_turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for bindings in [10_000_u32, 1_000_000] {
        let mut now = Now { mono: Instant::now(), unix: 1_700_000_000 };
        let mut shard = filled(bindings, now);
        let mut n = 0_u32;
        let mut next = || {
            // Far apart, so that nothing is still in a cache from the turn before.
            n = n.wrapping_add(7_919);
            n % bindings
        };
        let mut cseq = 1;
        group.bench_function(BenchmarkId::new("refresh", bindings), |bench| {
            bench.iter(|| {
                cseq += 1;
                now.mono += Duration::from_micros(1);
                shard.handle(now, ShardInput::Register(Box::new(register(next(), cseq))));
                settle(&mut shard, now);
            });
        });
        group.bench_function(BenchmarkId::new("lookup", bindings), |bench| {
            // An address-of-record nobody can wake for a MESSAGE: nothing but the look-up.
            bench.iter(|| {
                let (waiter, _) = call(0, now);
                let request = ResolveRequest {
                    aor: aor(next()),
                    waiter,
                    class: PushClass::Request,
                    method: Method::Message,
                    deadline: now.mono,
                    dialog_forming: false,
                };
                shard.handle(now, ShardInput::Resolve(Box::new(request)));
                while shard.poll_output().is_some() {}
            });
        });
        group.bench_function(BenchmarkId::new("wakeup", bindings), |bench| {
            bench.iter(|| {
                now.mono += Duration::from_millis(20);
                let n = next();
                let (_, input) = call(n, now);
                shard.handle(now, input);
                settle(&mut shard, now);
                cseq += 1;
                shard.handle(now, ShardInput::Register(Box::new(register(n, cseq))));
                settle(&mut shard, now);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, shard_turns);
criterion_main!(benches);
