//! The faults: what is broken, for how long, and how it is mended.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::{
    Rng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Role},
    relay::Link,
};

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Nothing yet.
    None,
    /// SIGKILL to a home.
    KillHome,
    /// SIGKILL to an edge.
    KillEdge,
    /// SIGSTOP to a home, and SIGCONT after its lease has ended.
    PauseHome,
    /// A node and Redis do not reach each other.
    CutRedis,
    /// A node and its peers do not reach each other.
    CutPeers,
    /// Redis is killed and started again.
    RestartRedis,
    /// A master of Redis is killed, and its replica takes its place.
    FailOver,
    /// Redis answers late.
    SlowRedis,
    /// A node is drained by SIGTERM and started again.
    Drain,
    /// All nodes are drained, one after the other.
    Roll,
}

impl Kind {
    /// All that can be injected.
    pub(crate) const ALL: [Self; 10] = [
        Self::KillHome,
        Self::KillEdge,
        Self::PauseHome,
        Self::CutRedis,
        Self::CutPeers,
        Self::RestartRedis,
        Self::FailOver,
        Self::SlowRedis,
        Self::Drain,
        Self::Roll,
    ];

    /// As in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::KillHome => "kill-home",
            Self::KillEdge => "kill-edge",
            Self::PauseHome => "pause-home",
            Self::CutRedis => "cut-redis",
            Self::CutPeers => "cut-peers",
            Self::RestartRedis => "restart-redis",
            Self::FailOver => "fail-over",
            Self::SlowRedis => "slow-redis",
            Self::Drain => "drain",
            Self::Roll => "roll",
        }
    }

    /// The kinds of these names; all where none is named.
    ///
    /// # Errors
    /// For a name that is none.
    pub(crate) fn of_names(names: &[String]) -> anyhow::Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        let of_name = |name: &String| {
            Self::ALL.into_iter().find(|kind| kind.name() == name).with_context(|| format!("no fault {name:?}"))
        };
        names.iter().map(of_name).collect()
    }
}

/// One fault with all that chance decides about it, so that a seed names it whole.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Picks the victim among those that can be: its number modulo their count.
    victim: usize,
    hold: Duration,
    link: Link,
}

/// Draws faults. Every kind comes once before one comes again.
pub(crate) struct Dice {
    rng: StdRng,
    lease: Duration,
    kinds: Vec<Kind>,
    bag: Vec<Kind>,
}

impl Dice {
    pub(crate) fn new(rng: StdRng, lease: Duration, kinds: Vec<Kind>) -> Self {
        Self { rng, lease, kinds, bag: Vec::new() }
    }

    /// The next fault.
    pub(crate) fn draw(&mut self) -> Fault {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.bag.shuffle(&mut self.rng);
        }
        let kind = self.bag.pop().unwrap_or(Kind::KillHome);
        // Some faults end before the lease does, and some long after. A pause always outlasts it.
        let least = if kind == Kind::PauseHome { 1.3 } else { 0.4 };
        let hold = self.lease.mul_f64(self.rng.random_range(least..2.2));
        // Each way, so that an answer comes 50 to 200 ms later.
        let delay = Duration::from_millis(self.rng.random_range(25..=100));
        let broken = [Link::Cut, Link::Silent].choose(&mut self.rng).copied().unwrap_or(Link::Cut);
        let link = if kind == Kind::SlowRedis { Link::Slow(delay) } else { broken };
        Fault { kind, victim: self.rng.random_range(0..1 << 16), hold, link }
    }
}

impl Fault {
    /// The place of the node that suffers, where it is one.
    fn seat(&self, cluster: &Cluster) -> anyhow::Result<usize> {
        let may_suffer = match self.kind {
            Kind::KillHome | Kind::PauseHome => cluster.seats_of(Role::Home),
            Kind::KillEdge => cluster.seats_of(Role::Edge),
            _ => (0..cluster.seats.len()).collect(),
        };
        may_suffer.get(self.victim % may_suffer.len().max(1)).copied().context("nobody can suffer this")
    }

    /// What it is, for people.
    pub(crate) fn describe(&self, cluster: &Cluster) -> String {
        let hold = self.hold.as_millis();
        match self.kind {
            Kind::None | Kind::Roll => self.kind.name().to_owned(),
            Kind::RestartRedis | Kind::FailOver => format!("{} away {hold} ms", self.kind.name()),
            Kind::SlowRedis => format!("{} {:?} for {hold} ms", self.kind.name(), self.link),
            _ => {
                let name = self.seat(cluster).map_or("nobody", |seat| cluster.seats[seat].name.as_str());
                match self.kind {
                    Kind::CutRedis | Kind::CutPeers => {
                        format!("{} {name} {:?} for {hold} ms", self.kind.name(), self.link)
                    }
                    _ => format!("{} {name} for {hold} ms", self.kind.name()),
                }
            }
        }
    }

    /// Injects the fault, holds it, and mends it.
    ///
    /// # Errors
    /// When the harness itself cannot go on, or a node that drains does not end well.
    pub(crate) async fn happen(&self, cluster: &mut Cluster) -> anyhow::Result<()> {
        let seat = self.seat(cluster)?;
        match self.kind {
            Kind::None => {}
            Kind::KillHome | Kind::KillEdge => {
                cluster.doom(seat);
                let node = cluster.leave(seat)?;
                node.kill().await?;
                cluster.vacate(seat);
                sleep(self.hold).await;
                cluster.run(seat).await?;
            }
            Kind::PauseHome => {
                cluster.node(seat)?.signal("-STOP").await?;
                sleep(self.hold).await;
                cluster.node(seat)?.signal("-CONT").await?;
            }
            Kind::CutRedis => {
                cluster.weather.send_modify(|weather| weather.redis[seat] = self.link);
                sleep(self.hold).await;
                cluster.weather.send_modify(|weather| weather.redis[seat] = Link::Open);
            }
            Kind::CutPeers => {
                cluster.weather.send_modify(|weather| weather.peers[seat] = self.link);
                sleep(self.hold).await;
                cluster.weather.send_modify(|weather| weather.peers[seat] = Link::Open);
            }
            Kind::RestartRedis => {
                cluster.redis.kill();
                sleep(self.hold).await;
                cluster.redis.revive()?;
            }
            Kind::FailOver => {
                // What the checker has read from the feeds must have reached the replica, as all that is older has.
                sleep(Duration::from_millis(100)).await;
                cluster.redis.fail_over(self.victim, self.hold).await?;
            }
            Kind::SlowRedis => {
                cluster.weather.send_modify(|weather| weather.redis.fill(self.link));
                sleep(self.hold).await;
                cluster.weather.send_modify(|weather| weather.redis.fill(Link::Open));
            }
            Kind::Drain => drain(cluster, seat).await?,
            Kind::Roll => {
                for seat in 0..cluster.seats.len() {
                    drain(cluster, seat).await?;
                    cluster.steady().await?;
                }
            }
        }
        Ok(())
    }
}

/// As an orchestrator does it: SIGTERM, wait for the end, start again.
async fn drain(cluster: &mut Cluster, seat: usize) -> anyhow::Result<()> {
    let node = cluster.leave(seat)?;
    node.signal("-TERM").await?;
    let status = node.ended().await?;
    cluster.vacate(seat);
    ensure!(status.success(), "{} ended its drain with {status}", cluster.seats[seat].name);
    cluster.run(seat).await
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn kinds(seed: u64) -> Vec<String> {
        let mut dice = Dice::new(StdRng::seed_from_u64(seed), Duration::from_secs(2), Kind::ALL.to_vec());
        (0..18).map(|_| format!("{:?}", dice.draw())).collect()
    }

    #[test]
    fn a_seed_names_its_faults() {
        assert_eq!(kinds(7), kinds(7));
        assert_ne!(kinds(7), kinds(8));
    }

    #[test]
    fn every_kind_comes_once_before_one_comes_again() {
        let mut dice = Dice::new(StdRng::seed_from_u64(1), Duration::from_secs(2), Kind::ALL.to_vec());
        for _ in 0..3 {
            let round: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|_| dice.draw().kind).collect();
            assert_eq!(round.len(), Kind::ALL.len());
        }
    }

    #[test]
    fn a_pause_outlasts_the_lease() {
        let lease = Duration::from_secs(2);
        let mut dice = Dice::new(StdRng::seed_from_u64(3), lease, vec![Kind::PauseHome]);
        assert!((0..100).all(|_| dice.draw().hold > lease));
    }
}
