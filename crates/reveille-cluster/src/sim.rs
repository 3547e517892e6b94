//! A whole cluster in one deterministic history: nodes, edges, clients, the store and everything that can go wrong between
//! them, with a checker that keeps its own record. A seed is a history; `examples/simulate.rs` runs many.
//!
//! What goes wrong: requests and answers are delayed by up to three seconds (three leases), lost, doubled and overtaken by one
//! another; processes stand still, die, start again, or are started twice under one tag; clocks run fast and slow; nodes are
//! cut from the store; the store goes away, fails over, and loses its last writes; nodes drain, join and change weight.

mod check;
mod faults;
mod node;
mod random;
mod store;
mod world;

use std::time::Duration;

pub use check::{Broken, Violation};

use crate::member::MemberConfig;

/// Rules that a history may break on purpose, to see whether the checker notices. All false: the protocol as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// The store lets every write pass, whatever its epoch.
    pub ignore_fence: bool,
    /// The store lets every write pass, whatever version it expects.
    pub ignore_version: bool,
    /// Leases run half as long as their holders believe.
    pub short_leases: bool,
    /// Nodes trust their leases twice as long as they run.
    pub no_margin: bool,
    /// Nodes see no other node in the roster, and claim what they want.
    pub claim_the_living: bool,
    /// A promise replaces whatever the store holds.
    pub merge_by_arrival: bool,
    /// A node that lost a shard hands nothing in.
    pub forget_promises: bool,
    /// Nodes acknowledge a write when they send it.
    pub early_ack: bool,
    /// Nodes acknowledge a write whenever its answer comes.
    pub ack_lapsed: bool,
}

/// What happened in one history or, added up, in many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Histories.
    pub histories: u64,
    /// Events handled.
    pub events: u64,
    /// Faults put in.
    pub faults: u64,
    /// Registrations sent.
    pub registers: u64,
    /// Answered 200 because they were durable.
    pub durable: u64,
    /// Answered 200 as promises.
    pub promised: u64,
    /// Claims granted.
    pub claims: u64,
    /// Claims refused.
    pub claims_refused: u64,
    /// Claims repeated that had been granted unheard.
    pub claims_known_again: u64,
    /// Writes refused by the fence.
    pub fenced: u64,
    /// Writes refused by the version.
    pub conflicts: u64,
    /// Promises handed in to another owner.
    pub handed_in: u64,
    /// Histories in which the store lost acknowledged writes.
    pub lossy: u64,
    /// Takeovers timed.
    pub takeovers: u64,
    /// The longest of them, in microseconds, from the death of a node until the last of its shards was claimed.
    pub slowest_takeover: u64,
}

impl Stats {
    /// Adds another history's figures.
    pub fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.events += other.events;
        self.faults += other.faults;
        self.registers += other.registers;
        self.durable += other.durable;
        self.promised += other.promised;
        self.claims += other.claims;
        self.claims_refused += other.claims_refused;
        self.claims_known_again += other.claims_known_again;
        self.fenced += other.fenced;
        self.conflicts += other.conflicts;
        self.handed_in += other.handed_in;
        self.lossy += other.lossy;
        self.takeovers += other.takeovers;
        self.slowest_takeover = self.slowest_takeover.max(other.slowest_takeover);
    }
}

/// Runs the history of a seed.
///
/// # Errors
/// [`Violation`]: a rule was broken.
pub fn run(seed: u64, rules: Rules) -> Result<Stats, Violation> {
    world::World::new(seed, rules).run()
}

const SHARDS: u16 = 12;
const TTL_MICROS: u64 = 1_000_000;
const GATHER: Duration = Duration::from_millis(400);
const READ_EVERY: Duration = Duration::from_millis(1500);

fn member_config() -> MemberConfig {
    MemberConfig {
        ttl: Duration::from_micros(TTL_MICROS),
        margin: Duration::from_millis(60),
        patience: Duration::from_millis(150),
        retry: Duration::from_millis(80),
    }
}

#[cfg(test)]
mod tests;
