//! A write on its way, and the promise that it is answered exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use reveille_registrar::replica::{Acks, StoreError};
use reveille_runtime::clock;
use tokio::sync::oneshot;

use crate::error::{CommandError, FencedError};
use crate::metrics::Metrics;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Kept, to the agreed level, as this version.
    Written(u64),
    /// The shard is at this epoch, and not ours.
    Fenced(u64),
    /// The record is at this version, and not at the expected one.
    Conflict(u64),
    /// Nobody can say.
    Unknown,
}

impl Fate {
    fn for_caller(self) -> Result<u64, FencedError> {
        match self {
            Fate::Written(version) => Ok(version),
            Fate::Fenced(epoch) => Err(FencedError::Fenced { epoch }),
            Fate::Conflict(current) => Err(FencedError::Conflict { current }),
            Fate::Unknown => Err(FencedError::Command(CommandError::Unavailable)),
        }
    }

    fn for_shard(self) -> Result<(), StoreError> {
        match self {
            Fate::Written(_) => Ok(()),
            Fate::Fenced(_) => Err(StoreError::Fenced),
            // The registrar's writes expect no version; this does not happen to them.
            Fate::Conflict(_) | Fate::Unknown => Err(StoreError::Unavailable),
        }
    }
}

/// Counts what was taken and not answered, refuses what is too much, and tells the verdicts.
pub(crate) struct Desk {
    acks: Mutex<Option<Arc<dyn Acks>>>,
    closed: AtomicBool,
    entries: AtomicUsize,
    weight: AtomicUsize,
    most_entries: usize,
    most_weight: usize,
    pub(crate) metrics: Metrics,
}

impl Desk {
    pub(crate) fn new(most_entries: usize, most_weight: usize, metrics: Metrics) -> Self {
        Desk {
            acks: Mutex::new(None),
            closed: AtomicBool::new(false),
            entries: AtomicUsize::new(0),
            weight: AtomicUsize::new(0),
            most_entries: most_entries.max(1),
            most_weight: most_weight.max(1),
            metrics,
        }
    }

    pub(crate) fn attach(&self, acks: Arc<dyn Acks>) {
        *self.acks.lock() = Some(acks);
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// No more verdicts come. Whoever heard them may own the store: a circle that has to be cut somewhere.
    pub(crate) fn detach(&self) {
        let acks = self.acks.lock().take();
        drop(acks);
    }

    /// Takes a write, or finds that there is no room. The first is taken whatever its weight.
    pub(crate) fn admit(self: &Arc<Self>, weight: usize, shard: u16, to: Hearer) -> Option<Pending> {
        let entries = self.entries.fetch_add(1, Ordering::AcqRel);
        let before = self.weight.fetch_add(weight, Ordering::AcqRel);
        let heavy = entries > 0 && before.saturating_add(weight) > self.most_weight;
        if entries >= self.most_entries || heavy || self.closed.load(Ordering::Acquire) {
            self.leave(weight);
            self.metrics.refusals.inc();
            return None;
        }
        self.metrics.queue_depth.inc();
        Some(Pending { desk: self.clone(), shard, weight, taken: clock::now(), to: Some(to) })
    }

    fn leave(&self, weight: usize) {
        self.entries.fetch_sub(1, Ordering::AcqRel);
        self.weight.fetch_sub(weight, Ordering::AcqRel);
    }
}

/// Who hears what became of a write.
pub(crate) enum Hearer {
    /// A shard, of the write with this number.
    Shard(u64),
    /// Whoever waits.
    Caller(oneshot::Sender<Result<u64, FencedError>>),
}

/// One write that was taken. Dropped without a verdict, it says that nobody knows.
pub(crate) struct Pending {
    desk: Arc<Desk>,
    shard: u16,
    weight: usize,
    pub(crate) taken: Instant,
    to: Option<Hearer>,
}

impl Pending {
    pub(crate) fn answer(mut self, fate: Fate, now: Instant) {
        self.tell(fate, now);
    }

    fn tell(&mut self, fate: Fate, now: Instant) {
        let Some(to) = self.to.take() else { return };
        // Room is made before the verdict, so that whoever hears it finds room.
        self.desk.leave(self.weight);
        let metrics = &self.desk.metrics;
        metrics.queue_depth.dec();
        metrics.write_duration.observe(now.saturating_duration_since(self.taken).as_secs_f64());
        match fate {
            Fate::Written(_) => metrics.writes.inc(),
            Fate::Fenced(_) => metrics.fenced.inc(),
            Fate::Conflict(_) => metrics.conflicts.inc(),
            Fate::Unknown => metrics.failures.inc(),
        }
        match to {
            Hearer::Shard(id) => {
                // Cloned, so that no lock is held while the shard is told.
                let acks = self.desk.acks.lock().clone();
                if let Some(acks) = acks {
                    acks.written(self.shard, id, fate.for_shard());
                }
            }
            Hearer::Caller(sender) => {
                let _ = sender.send(fate.for_caller());
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.to.is_some() {
            self.tell(Fate::Unknown, self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    type Verdict = (u16, u64, Result<(), StoreError>);

    #[derive(Default)]
    struct Ear(Mutex<Vec<Verdict>>);

    impl Acks for Ear {
        fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>) {
            self.0.lock().push((shard, write, result));
        }
    }

    fn desk(entries: usize, weight: usize) -> (Arc<Desk>, Arc<Ear>) {
        let desk = Arc::new(Desk::new(entries, weight, Metrics::new(&Registry::new()).unwrap()));
        let ear = Arc::new(Ear::default());
        desk.attach(ear.clone());
        (desk, ear)
    }

    /// However a write is lost on the way, a panic of a writer or the end of the runtime included, its shard hears of it.
    #[test]
    fn a_write_that_is_dropped_is_answered_too() {
        let (desk, ear) = desk(10, 1000);
        desk.admit(1, 3, Hearer::Shard(1)).unwrap().answer(Fate::Written(7), clock::now());
        drop(desk.admit(1, 3, Hearer::Shard(2)).unwrap());
        desk.admit(1, 3, Hearer::Shard(3)).unwrap().answer(Fate::Fenced(9), clock::now());
        let expected = [(3, 1, Ok(())), (3, 2, Err(StoreError::Unavailable)), (3, 3, Err(StoreError::Fenced))];
        assert_eq!(*ear.0.lock(), expected);
        assert_eq!((desk.metrics.queue_depth.get(), desk.metrics.failures.get()), (0, 1));
    }

    #[test]
    fn what_is_answered_makes_room() {
        let (desk, _) = desk(2, 100);
        let admit = |weight| desk.admit(weight, 0, Hearer::Shard(0));
        let first = admit(500).unwrap();
        assert!(admit(1).is_none(), "too heavy together");
        drop(first);
        let two = (admit(50).unwrap(), admit(50).unwrap());
        assert!(admit(0).is_none(), "too many");
        drop(two.0);
        assert!(admit(51).is_none());
        let again = admit(50);
        assert!(again.is_some());
        desk.close();
        drop(again);
        assert!(admit(1).is_none(), "closed");
        assert_eq!(desk.metrics.refusals.get(), 4);
    }
}
