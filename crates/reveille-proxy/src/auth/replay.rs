//! Which nonce counts were used (RFC 7616 §3.4, S-147). Bounded: what has expired goes first, and if that is not enough the oldest
//! nonces stop being accepted before their time.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use super::nonce::{ID, Nonce};

/// What a nonce count turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Never used before, and now noted.
    Fresh,
    /// Used before, or too far behind to tell.
    Replayed,
    /// The nonce is older than what is remembered.
    Forgotten,
}

/// The nonces in use, in shards so that workers seldom meet.
pub(super) struct SeenNonces {
    shards: Vec<Mutex<Shard>>,
    capacity: usize,
}

impl SeenNonces {
    pub(super) fn new(capacity: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), capacity: capacity.div_ceil(SHARDS).max(1) }
    }

    /// Notes that `nonce` was used with count `nc`. Say this only of a verified answer.
    pub(super) fn count(&self, unix_now: u64, ttl: u64, nonce: Nonce, nc: u32) -> Count {
        let shard = nonce.id.last().map_or(0, |last| usize::from(*last) % SHARDS);
        match self.shards.get(shard) {
            Some(shard) => shard.lock().count(unix_now, ttl, nonce, nc, self.capacity),
            None => Count::Forgotten,
        }
    }
}

#[derive(Default)]
struct Shard {
    counts: HashMap<[u8; ID], Window>,
    /// In order of first use, which is nearly that of issue.
    order: VecDeque<Nonce>,
    /// Nonces issued up to here are accepted only if they are remembered.
    floor: Option<u64>,
}

impl Shard {
    fn count(&mut self, unix_now: u64, ttl: u64, nonce: Nonce, nc: u32, capacity: usize) -> Count {
        if let Some(window) = self.counts.get_mut(&nonce.id) {
            return if window.note(nc) { Count::Fresh } else { Count::Replayed };
        }
        if self.floor.is_some_and(|floor| nonce.issued <= floor) {
            return Count::Forgotten;
        }
        let mut window = Window::default();
        if !window.note(nc) {
            return Count::Replayed;
        }
        while let Some(oldest) = self.order.front() {
            let live = oldest.is_live(unix_now, ttl);
            if live && self.order.len() < capacity {
                break;
            }
            if live {
                self.floor = self.floor.max(Some(oldest.issued));
            }
            self.counts.remove(&oldest.id);
            self.order.pop_front();
        }
        self.counts.insert(nonce.id, window);
        self.order.push_back(nonce);
        Count::Fresh
    }
}

/// The highest count, and which of the 64 up to it were used: requests may overtake one another.
#[derive(Clone, Copy, Default)]
struct Window {
    highest: u32,
    used: u64,
}

impl Window {
    /// Notes `nc`; false if it was used, is too old, or is 0.
    fn note(&mut self, nc: u32) -> bool {
        if nc > self.highest {
            self.used = self.used.checked_shl(nc - self.highest).unwrap_or(0) | 1;
            self.highest = nc;
            return true;
        }
        let behind = self.highest - nc;
        if nc == 0 || behind >= u64::BITS || self.used >> behind & 1 == 1 {
            return false;
        }
        self.used |= 1 << behind;
        true
    }
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(issued: u64, number: u8) -> Nonce {
        let mut id = [0; ID];
        id[0] = number;
        Nonce { issued, id }
    }

    #[test]
    fn each_count_is_good_once_s147() {
        let mut window = Window::default();
        for (nc, fresh) in [
            (0, false),
            (1, true),
            (1, false),
            (3, true),
            (2, true),
            (2, false),
            (3, false),
            (100, true),
            (37, true),
            (37, false),
            (36, false),
            (99, true),
            (u32::MAX, true),
            (u32::MAX, false),
            (100, false),
        ] {
            assert_eq!(window.note(nc), fresh, "{nc}");
        }
    }

    #[test]
    fn memory_is_bounded_and_forgets_towards_refusal_s147() {
        let mut shard = Shard::default();
        for number in 0..10 {
            assert_eq!(shard.count(1000, 300, nonce(1000 + u64::from(number), number), 1, 4), Count::Fresh);
        }
        assert_eq!((shard.counts.len(), shard.order.len()), (4, 4));
        assert_eq!(shard.count(1000, 300, nonce(1000, 0), 2, 4), Count::Forgotten);
        assert_eq!(shard.count(1000, 300, nonce(1009, 9), 1, 4), Count::Replayed);
        assert_eq!(shard.count(1000, 300, nonce(1009, 9), 2, 4), Count::Fresh);
    }

    #[test]
    fn expired_nonces_make_room_without_raising_the_floor() {
        let mut shard = Shard::default();
        for number in 0..4 {
            assert_eq!(shard.count(1000, 300, nonce(1000, number), 1, 4), Count::Fresh);
        }
        assert_eq!(shard.count(1400, 300, nonce(1400, 9), 1, 4), Count::Fresh);
        assert_eq!((shard.counts.len(), shard.floor), (1, None));
    }
}
