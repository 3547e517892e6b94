//! What is counted, by the kind of fault under which it happened, and how it is told.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{fault::Kind, servers::Arrangement};

/// What happened under one kind of fault.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Times it was injected.
    pub(crate) cycles: u32,
    /// Calls begun.
    pub(crate) calls: u64,
    /// Of these, answered.
    pub(crate) answered: u64,
    /// Of these, refused, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Of these, whose caller saw its own connection close before the answer: a violation, unless its edge was killed.
    pub(crate) caller_cut_off: u64,
    /// Of these, without a final answer in time: a violation.
    pub(crate) silent: u64,
    /// Answered calls that one side ended; all that are not are violations.
    pub(crate) ended: u64,
    /// BYEs and calls that were sent again, over another edge, since their connection closed before an answer.
    pub(crate) repeated: u64,
    /// REGISTERs answered 200.
    pub(crate) registered: u64,
    /// REGISTERs refused, by status.
    pub(crate) register_refused: BTreeMap<u16, u64>,
    /// REGISTERs that were not answered, or whose connection closed.
    pub(crate) register_failed: u64,
    /// The longest time in which a user could not register, in milliseconds.
    pub(crate) longest_unavailable_ms: u64,
    /// Times from the end of the fault until the cluster was steady, in milliseconds.
    pub(crate) steady_ms: Vec<u64>,
}

/// Counts for all who take part.
pub(crate) struct Tallies {
    present: Mutex<Kind>,
    by_kind: Mutex<BTreeMap<Kind, Tally>>,
}

impl Default for Tallies {
    fn default() -> Self {
        Self { present: Mutex::new(Kind::None), by_kind: Mutex::default() }
    }
}

impl Tallies {
    /// From now on this is what happens.
    pub(crate) fn begin(&self, kind: Kind) {
        *self.present.lock() = kind;
        self.by_kind.lock().entry(kind).or_default().cycles += 1;
    }

    /// The fault that is injected, or was last.
    pub(crate) fn present(&self) -> Kind {
        *self.present.lock()
    }

    /// Counts under the present kind.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Tally)) {
        self.note_under(self.present(), change);
    }

    /// Counts under a kind.
    pub(crate) fn note_under(&self, kind: Kind, change: impl FnOnce(&mut Tally)) {
        change(self.by_kind.lock().entry(kind).or_default());
    }

    /// A user could not register for so long.
    pub(crate) fn unavailable(&self, kind: Kind, time: Duration) {
        let time = millis(time);
        self.note_under(kind, |tally| tally.longest_unavailable_ms = tally.longest_unavailable_ms.max(time));
    }

    /// All counts.
    pub(crate) fn all(&self) -> BTreeMap<Kind, Tally> {
        self.by_kind.lock().clone()
    }
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Replays it.
    pub(crate) seed: u64,
    /// Cycles that were run.
    pub(crate) cycles: u32,
    /// How the servers of Redis were arranged.
    pub(crate) redis: Arrangement,
    pub(crate) homes: u8,
    pub(crate) edges: u8,
    pub(crate) lease_ms: u64,
    pub(crate) phones: u16,
    pub(crate) calls_per_second: f64,
    /// Seconds from the first fault to the end.
    pub(crate) seconds: u64,
    /// Effective writes, claims and deferred records that were seen in the shards' feeds.
    pub(crate) feed_entries: u64,
    /// Writes that took effect and whose sender was seen.
    pub(crate) writes_witnessed: u64,
    /// Checks of a binding against what was acknowledged.
    pub(crate) bindings_checked: u64,
    /// Distinct users with an acknowledged binding.
    pub(crate) users: usize,
    /// Counts by the kind of fault.
    pub(crate) faults: BTreeMap<Kind, Tally>,
    /// What happened and must not; empty when all is well.
    pub(crate) violations: Vec<String>,
}

impl Report {
    /// A table for people.
    pub(crate) fn print(&self) {
        println!(
            "{:<14} {:>6} {:>6} {:>8} {:>7} {:>7} {:>6} {:>6} {:>6} {:>9} {:>7} {:>10} {:>10}",
            "fault",
            "cycles",
            "calls",
            "answered",
            "refused",
            "cut off",
            "silent",
            "ended",
            "again",
            "REGISTERs",
            "failed",
            "away ms",
            "steady ms"
        );
        for (kind, tally) in &self.faults {
            let sum = |counts: &BTreeMap<u16, u64>| counts.values().sum::<u64>();
            let slowest = tally.steady_ms.iter().max().copied().unwrap_or_default();
            println!(
                "{:<14} {:>6} {:>6} {:>8} {:>7} {:>7} {:>6} {:>6} {:>6} {:>9} {:>7} {:>10} {:>10}",
                kind.name(),
                tally.cycles,
                tally.calls,
                tally.answered,
                sum(&tally.refused),
                tally.caller_cut_off,
                tally.silent,
                tally.ended,
                tally.repeated,
                tally.registered,
                sum(&tally.register_refused) + tally.register_failed,
                tally.longest_unavailable_ms,
                slowest
            );
        }
        println!(
            "{} cycles in {} s, seed {}, {} feed entries, {} writes witnessed, {} bindings checked, {} violations",
            self.cycles,
            self.seconds,
            self.seed,
            self.feed_entries,
            self.writes_witnessed,
            self.bindings_checked,
            self.violations.len()
        );
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
