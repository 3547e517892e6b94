//! What the checker knows by itself, and the rules a history must not break.

use std::collections::HashMap;

use super::store::Micros;
use crate::fence::Epoch;

/// How a history broke a rule. The seed replays it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}, {at} µs: {broken}")]
pub struct Violation {
    /// The history.
    pub seed: u64,
    /// When, in true time.
    pub at: u64,
    /// What.
    pub broken: Broken,
}

/// The rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// (1) An acknowledged write is in the store, or a later one is, at every moment from then on.
    #[error("(1) address {aor}: {acknowledged} was acknowledged, the store has {stored:?}")]
    Lost {
        /// Whose record.
        aor: u16,
        /// The registration answered 200.
        acknowledged: u64,
        /// The registration in the store.
        stored: Option<u64>,
    },
    /// (5) A deferred refresh is merged, and the newest registration wins.
    #[error("(5) address {aor}: {promised} was promised, the store has {stored:?}")]
    PromiseBroken {
        /// Whose record.
        aor: u16,
        /// The registration answered 200.
        promised: u64,
        /// The registration in the store.
        stored: Option<u64>,
    },
    /// (2) No two processes write under one epoch.
    #[error("(2) shard {shard}: two processes wrote under {epoch:?}")]
    TwoWriters {
        /// The shard.
        shard: u16,
        /// The epoch.
        epoch: Epoch,
    },
    /// (2) When a shard is claimed, nobody may write it any more.
    #[error("(2) shard {shard} was claimed from node {from} while that node could write it under {epoch:?}")]
    TakenFromTheLiving {
        /// The shard.
        shard: u16,
        /// The former owner.
        from: u32,
        /// Its epoch.
        epoch: Epoch,
    },
    /// (3) Nothing is acknowledged as durable without a lease.
    #[error("(3) node {node} acknowledged a write after its lease")]
    AcknowledgedLate {
        /// The node.
        node: u32,
    },
    /// (4) In quiet times each shard has the owner that placement says, and everybody knows.
    #[error("(4) shard {shard}: {what}")]
    Unsettled {
        /// The shard.
        shard: u16,
        /// How.
        what: String,
    },
    /// (6) A change moves no more than it must.
    #[error("(6) shard {shard} moved without need")]
    Moved {
        /// The shard.
        shard: u16,
    },
    /// A dead node's shards are owned again within its lease and 300 ms.
    #[error("takeover took {0} µs")]
    SlowTakeover(u64),
    /// The history never came to an end.
    #[error("too many events")]
    Endless,
}

/// One process: slot and start.
pub(super) type Process = (usize, u64);

/// The checker's own record of what was done and said.
#[derive(Debug, Default)]
pub(super) struct Checker {
    writers: HashMap<(u16, Epoch), Process>,
    durable: HashMap<u16, u64>,
    promised: HashMap<u16, Vec<(u64, Process)>>,
    /// When the renewal was sent by which each process has its lease.
    leases: HashMap<Process, Micros>,
}

impl Checker {
    /// A write took effect while the fence had `epoch`.
    pub(super) fn wrote(&mut self, shard: u16, epoch: Epoch, by: Process) -> Result<(), Broken> {
        let first = *self.writers.entry((shard, epoch)).or_insert(by);
        if first == by { Ok(()) } else { Err(Broken::TwoWriters { shard, epoch }) }
    }

    /// The store holds this registration from now on.
    pub(super) fn stored(&self, aor: u16, seq: u64) -> Result<(), Broken> {
        match self.durable.get(&aor) {
            Some(&acknowledged) if seq < acknowledged => Err(Broken::Lost { aor, acknowledged, stored: Some(seq) }),
            _ => Ok(()),
        }
    }

    pub(super) fn renewed(&mut self, by: Process, sent: Micros) {
        let last = self.leases.entry(by).or_insert(sent);
        *last = (*last).max(sent);
    }

    pub(super) fn durable(&mut self, now: Micros, by: Process, node: u32, aor: u16, seq: u64) -> Result<(), Broken> {
        let newest = self.durable.entry(aor).or_insert(seq);
        *newest = (*newest).max(seq);
        let leased = self.leases.get(&by).is_some_and(|sent| now < sent + super::TTL_MICROS);
        if leased { Ok(()) } else { Err(Broken::AcknowledgedLate { node }) }
    }

    pub(super) fn promised(&mut self, by: Process, aor: u16, seq: u64) {
        self.promised.entry(aor).or_default().push((seq, by));
    }

    /// A process died, and with it what it had promised on this base.
    pub(super) fn forgive(&mut self, by: Process, (aor, base, seq): (u16, u64, u64)) {
        if let Some(promised) = self.promised.get_mut(&aor) {
            promised.retain(|&(one, process)| process != by || one <= base || one > seq);
        }
    }

    /// What the store must have at least, in the end.
    pub(super) fn check(&self, aor: u16, stored: Option<u64>) -> Result<(), Broken> {
        if let Some(&acknowledged) = self.durable.get(&aor)
            && stored.is_none_or(|stored| stored < acknowledged)
        {
            return Err(Broken::Lost { aor, acknowledged, stored });
        }
        let promised = self.promised.get(&aor).and_then(|all| all.iter().map(|(seq, _)| *seq).max());
        if let Some(promised) = promised
            && stored.is_none_or(|stored| stored < promised)
        {
            return Err(Broken::PromiseBroken { aor, promised, stored });
        }
        Ok(())
    }
}
