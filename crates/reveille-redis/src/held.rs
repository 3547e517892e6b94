//! The shards this node holds: at which epoch, and the version its next write gets.

use std::time::Instant;

use parking_lot::Mutex;

/// What is known of one shard.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    /// 0: not held.
    epoch: u64,
    next: u64,
    /// Held, and yet not to be written.
    paused: bool,
}

/// All shards. A version is a number within its shard, not within its record: one number per shard is all the memory it costs.
pub(crate) struct Held {
    shards: Box<[Mutex<Holding>]>,
}

impl Held {
    pub(crate) fn new(shards: u16) -> Self {
        Held { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// The shard was claimed at `epoch`; `seq` is the newest version in it.
    pub(crate) fn claimed(&self, shard: u16, epoch: u64, seq: u64) {
        if let Some(holding) = self.shards.get(usize::from(shard)) {
            let mut holding = holding.lock();
            if epoch > holding.epoch {
                let next = holding.next.max(seq + 1);
                *holding = Holding { epoch, next, paused: false };
            }
        }
    }

    /// The shard is not ours any more, at least not at `epoch`.
    pub(crate) fn lost(&self, shard: u16, epoch: u64) {
        if let Some(holding) = self.shards.get(usize::from(shard)) {
            let mut holding = holding.lock();
            if holding.epoch == epoch {
                holding.epoch = 0;
            }
        }
    }

    /// The shard is not to be written until it is claimed anew.
    pub(crate) fn pause(&self, shard: u16) {
        if let Some(holding) = self.shards.get(usize::from(shard)) {
            holding.lock().paused = true;
        }
    }

    pub(crate) fn is_paused(&self, shard: u16) -> bool {
        self.shards.get(usize::from(shard)).is_some_and(|holding| holding.lock().paused)
    }

    /// The epoch at which the shard is held; 0 where it is not.
    pub(crate) fn epoch(&self, shard: u16) -> u64 {
        self.shards.get(usize::from(shard)).map_or(0, |holding| holding.lock().epoch)
    }

    /// Takes `count` versions; returns the first.
    pub(crate) fn versions(&self, shard: u16, count: u64) -> u64 {
        self.shards.get(usize::from(shard)).map_or(1, |holding| {
            let mut holding = holding.lock();
            let first = holding.next.max(1);
            holding.next = first + count;
            first
        })
    }

    /// The store knows a version as new as `seq`.
    pub(crate) fn seen(&self, shard: u16, seq: u64) {
        if let Some(holding) = self.shards.get(usize::from(shard)) {
            let mut holding = holding.lock();
            holding.next = holding.next.max(seq + 1);
        }
    }
}

/// Until when this node may write.
pub(crate) struct Lease(Mutex<Until>);

enum Until {
    /// Nobody has set a limit.
    Unlimited,
    Moment(Option<Instant>),
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Until::Unlimited))
    }

    pub(crate) fn set(&self, until: Option<Instant>) {
        *self.0.lock() = Until::Moment(until);
    }

    /// Whether a write may leave, or be acknowledged, at this moment.
    pub(crate) fn runs(&self, now: Instant) -> bool {
        match *self.0.lock() {
            Until::Unlimited => true,
            Until::Moment(until) => until.is_some_and(|until| now < until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_never_come_twice() {
        let held = Held::new(4);
        held.claimed(1, 5, 10);
        assert_eq!((held.epoch(1), held.versions(1, 3), held.versions(1, 1)), (5, 11, 14));
        held.claimed(1, 7, 2);
        assert_eq!((held.epoch(1), held.versions(1, 1)), (7, 15), "even where the store fell back");
        held.pause(1);
        assert!(held.is_paused(1));
        held.claimed(1, 8, 2);
        assert!(!held.is_paused(1));
        held.lost(1, 8);
        held.claimed(1, 9, 2);
        held.lost(1, 5);
        assert_eq!(held.epoch(1), 9, "news of an older epoch changes nothing");
        held.lost(1, 9);
        assert_eq!((held.epoch(1), held.epoch(9)), (0, 0));
    }
}
