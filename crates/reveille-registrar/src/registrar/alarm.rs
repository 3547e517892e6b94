//! The deadlines of all shards, watched by one task: a timer per shard would be a thousand timers, nearly all of them idle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reveille_runtime::clock;
use tokio::sync::Notify;

use crate::actor::{Node, ShardMsg};

/// When each shard wants to be called. Milliseconds since the start; setting one is two stores.
pub(crate) struct Alarm {
    base: Instant,
    due: Box<[AtomicU64]>,
    earliest: AtomicU64,
    changed: Notify,
}

const NEVER: u64 = u64::MAX;

impl Alarm {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            base: clock::now(),
            due: (0..shards).map(|_| AtomicU64::new(NEVER)).collect(),
            earliest: AtomicU64::new(NEVER),
            changed: Notify::new(),
        }
    }

    /// Sets or clears the deadline of a shard.
    pub(crate) fn set(&self, shard: u16, at: Option<Instant>) {
        let Some(due) = self.due.get(usize::from(shard)) else { return };
        // Rounded up: a shard that is called early has nothing to do, and asks again at once.
        let millis = at.map_or(NEVER, |at| {
            let nanos = at.saturating_duration_since(self.base).as_nanos();
            u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(NEVER)
        });
        due.store(millis, Ordering::SeqCst);
        // Read first: as a rule somebody else's deadline is earlier, and all shards share this one cell.
        if self.earliest.load(Ordering::SeqCst) > millis && self.earliest.fetch_min(millis, Ordering::SeqCst) > millis {
            self.changed.notify_one();
        }
    }

    /// Takes the shards whose deadline has come.
    fn take_due(&self) -> Vec<u16> {
        // Before the scan: a deadline set while it runs is either seen by it or lowers `earliest` again, and notifies.
        self.earliest.store(NEVER, Ordering::SeqCst);
        let now = u64::try_from(clock::now().saturating_duration_since(self.base).as_millis()).unwrap_or(NEVER);
        let (mut taken, mut earliest) = (Vec::new(), NEVER);
        for (shard, due) in (0_u16..).zip(&self.due) {
            let at = due.load(Ordering::SeqCst);
            if at > now {
                earliest = earliest.min(at);
            } else if due.compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                taken.push(shard);
            } else {
                // Set anew this very moment.
                earliest = earliest.min(due.load(Ordering::SeqCst));
            }
        }
        self.earliest.fetch_min(earliest, Ordering::SeqCst);
        taken
    }

    fn next(&self) -> Option<Instant> {
        let millis = self.earliest.load(Ordering::SeqCst);
        (millis != NEVER).then(|| self.base + Duration::from_millis(millis))
    }
}

/// Calls shards at their deadlines, until it is aborted.
pub(crate) async fn watch(node: Arc<Node>) {
    loop {
        for shard in node.alarm.take_due() {
            node.tell(shard, ShardMsg::DeadlineReached);
        }
        tokio::select! {
            () = clock::sleep_until(node.alarm.next()) => {}
            () = node.alarm.changed.notified() => {}
        }
    }
}
