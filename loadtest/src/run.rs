//! A run: a cluster, its load, and fault after fault with a check behind each.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use rand::{SeedableRng as _, rngs::StdRng};
use reveille::lab::DOMAIN;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, Plan},
    fault::{Dice, Kind},
    feed::FeedChecker,
    ledger::kept,
    node,
    options::FaultOptions,
    report::{Report, millis},
    traffic::{CALLERS, Shared, Traffic, Volume, users},
};

/// How long the load runs before the first fault, and after each.
const CALM: Duration = Duration::from_millis(500);
/// The first registrations of all phones may take so long.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// A node may refuse to say what is registered for so long.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Runs all cycles; stops at the first that shows a fault of the cluster.
///
/// # Errors
/// When something happened that must not, or the harness could not go on.
pub(crate) async fn faults(options: FaultOptions) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let kinds = Kind::of_names(&options.only)?;
    let temporary = tempfile::Builder::new().prefix("reveille-logs-").tempdir()?;
    let logs: PathBuf = options.logs.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&logs)?;
    let volume = Volume { phones: options.phones, calls: options.calls, seed };
    let FaultOptions { redis, homes, edges, lease, .. } = options;
    let plan = Plan { redis, homes, edges, lease, users: users(volume), logs: &logs };
    let mut cluster = Cluster::start(plan).await?;
    let traffic = Traffic::start(&cluster, volume, &logs)?;
    let shared = std::sync::Arc::clone(&traffic.shared);
    let everybody = usize::from(options.phones) + usize::from(CALLERS) + crate::cluster::probes().len();
    let start = Instant::now();
    while shared.ledger.promises().len() < everybody {
        if start.elapsed() > FIRST_PATIENCE {
            bail!("{} of {everybody} phones have registered", shared.ledger.promises().len());
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(CALM).await;
    let mut dice = Dice::new(StdRng::seed_from_u64(seed), lease, kinds);
    let mut checker = Checker { feed: FeedChecker::new(), bindings: 0, writes: 0 };
    let start = Instant::now();
    let mut done = 0;
    let mut broken = None;
    for cycle in 1..=options.cycles {
        if start.elapsed() > options.at_most {
            break;
        }
        let outcome = tokio::select! {
            outcome = one(&mut cluster, &shared, &mut dice, &mut checker, cycle, start) => outcome,
            stop = asked_to_stop() => Err(stop),
        };
        if let Err(error) = outcome {
            broken = Some(format!("cycle {cycle}: {error:#}"));
            break;
        }
        done = cycle;
        if !shared.ledger.violations().is_empty() && !options.keep_going {
            break;
        }
    }
    let shared = traffic.rest().await;
    if broken.is_none() {
        checker.check(&cluster, &shared).await?;
    }
    if let Some(broken) = broken {
        shared.ledger.violation(broken);
    }
    cluster.redis.write_logs(&logs)?;
    let report = Report {
        seed,
        cycles: done,
        redis,
        homes,
        edges,
        lease_ms: millis(lease),
        phones: options.phones,
        calls_per_second: options.calls,
        seconds: start.elapsed().as_secs(),
        feed_entries: checker.feed.entries,
        writes_witnessed: checker.writes,
        bindings_checked: checker.bindings,
        users: shared.ledger.promises().len(),
        faults: shared.tallies.all(),
        violations: shared.ledger.violations(),
    };
    report.print();
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    match report.violations.first() {
        None => Ok(()),
        Some(first) => bail!("seed {seed}: {first}"),
    }
}

/// One fault, from injection to check.
async fn one(
    cluster: &mut Cluster,
    shared: &Shared,
    dice: &mut Dice,
    checker: &mut Checker,
    cycle: u32,
    start: Instant,
) -> anyhow::Result<()> {
    let fault = dice.draw();
    println!("{:>4} {:>7.1} s  {}", cycle, start.elapsed().as_secs_f64(), fault.describe(cluster));
    shared.tallies.begin(fault.kind);
    fault.happen(cluster).await?;
    let steady = cluster.steady().await?;
    shared.tallies.note(|tally| tally.steady_ms.push(millis(steady)));
    sleep(CALM).await;
    checker.check(cluster, shared).await
}

/// SIGINT or SIGTERM: the processes of the run must not outlive it.
async fn asked_to_stop() -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    anyhow::anyhow!("stopped by a signal")
}

struct Checker {
    feed: FeedChecker,
    /// Bindings asked for so far.
    bindings: u64,
    /// Writes that took effect and were seen while Redis did them.
    writes: u64,
}

impl Checker {
    /// Compares what is there with what was acknowledged, and what became of the shards with what may.
    async fn check(&mut self, cluster: &Cluster, shared: &Shared) -> anyhow::Result<()> {
        for (user, promise) in shared.ledger.promises() {
            // At its owner, which answers from memory, and at another node, which reads what is stored.
            for other in [0, 1] {
                self.bindings += 1;
                let mut found = kept(&promise, &answer(cluster, &user, other).await?);
                if found.is_err() && other == 1 {
                    // A node that took a moment to notice that Redis is back has promised a refresh since, and writes it within a second.
                    cluster.all_written().await?;
                    found = kept(&promise, &answer(cluster, &user, other).await?);
                }
                if let Err(difference) = found {
                    let whose = if other == 0 { "its owner" } else { "another node" };
                    shared.ledger.violation(format!("{user} ({promise:?}) at {whose} has {difference}"));
                }
            }
        }
        for problem in self.feed.check(&cluster.redis).await? {
            shared.ledger.violation(problem);
        }
        let (writes, problems) = cluster.witness.report();
        self.writes = writes;
        problems.into_iter().for_each(|problem| shared.ledger.violation(problem));
        Ok(())
    }
}

/// What the owner of a user's bindings says of them, or the node so many places behind it. A node that is busy is asked again.
async fn answer(cluster: &Cluster, user: &str, behind: usize) -> anyhow::Result<Value> {
    let start = Instant::now();
    loop {
        let attempt = async {
            let home = cluster.home_of(0, user).await?;
            let owner = cluster.seats.iter().position(|seat| seat.name == home).context("an owner that is no node")?;
            let node = cluster.node((owner + behind) % cluster.seats.len())?;
            node::get(node.admin, &format!("/api/v1/bindings?aor=sip:{user}@{DOMAIN}")).await
        };
        match attempt.await {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > ANSWER_PATIENCE => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
