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
    /// It was first used at another node.
    Elsewhere,
    /// Whether another node has seen it has to be asked; nothing is noted.
    Unknown,
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

    /// Notes that `nonce` was used with count `nc`. Say this only of a verified answer. Among several nodes (`is_pinned`) one that was
    /// never met is not noted before it is known where it belongs.
    pub(super) fn count(&self, unix_now: u64, ttl: u64, nonce: Nonce, nc: u32, is_pinned: bool) -> Count {
        match self.shard(&nonce) {
            Some(shard) => shard.lock().count(unix_now, ttl, nonce, nc, self.capacity, is_pinned),
            None => Count::Forgotten,
        }
    }

    /// Notes where `nonce` belongs; the first word stands.
    pub(super) fn pin(&self, unix_now: u64, ttl: u64, nonce: Nonce, is_here: bool) {
        if let Some(shard) = self.shard(&nonce) {
            shard.lock().pin(unix_now, ttl, nonce, is_here, self.capacity);
        }
    }

    fn shard(&self, nonce: &Nonce) -> Option<&Mutex<Shard>> {
        self.shards.get(nonce.id.last().map_or(0, |last| usize::from(*last) % SHARDS))
    }
}

#[derive(Default)]
struct Shard {
    counts: HashMap<[u8; ID], Uses>,
    /// In order of first use, which is nearly that of issue.
    order: VecDeque<Nonce>,
    /// Nonces issued up to here are accepted only if they are remembered.
    floor: Option<u64>,
}

impl Shard {
    fn count(&mut self, unix_now: u64, ttl: u64, nonce: Nonce, nc: u32, capacity: usize, is_pinned: bool) -> Count {
        match self.counts.get_mut(&nonce.id) {
            Some(Uses::Here(window)) => return if window.note(nc) { Count::Fresh } else { Count::Replayed },
            Some(Uses::Elsewhere) => return Count::Elsewhere,
            None => {}
        }
        if self.is_forgotten(&nonce) {
            return Count::Forgotten;
        }
        if is_pinned {
            return Count::Unknown;
        }
        let mut window = Window::default();
        if !window.note(nc) {
            return Count::Replayed;
        }
        self.insert(unix_now, ttl, nonce, Uses::Here(window), capacity);
        Count::Fresh
    }

    fn pin(&mut self, unix_now: u64, ttl: u64, nonce: Nonce, is_here: bool, capacity: usize) {
        if !self.counts.contains_key(&nonce.id) && !self.is_forgotten(&nonce) {
            let uses = if is_here { Uses::Here(Window::default()) } else { Uses::Elsewhere };
            self.insert(unix_now, ttl, nonce, uses, capacity);
        }
    }

    fn is_forgotten(&self, nonce: &Nonce) -> bool {
        self.floor.is_some_and(|floor| nonce.issued <= floor)
    }

    fn insert(&mut self, unix_now: u64, ttl: u64, nonce: Nonce, uses: Uses, capacity: usize) {
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
        self.counts.insert(nonce.id, uses);
        self.order.push_back(nonce);
    }
}

/// What is known of a nonce.
enum Uses {
    /// It belongs to this node: which counts were used.
    Here(Window),
    /// It belongs to another.
    Elsewhere,
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
            assert_eq!(shard.count(1000, 300, nonce(1000 + u64::from(number), number), 1, 4, false), Count::Fresh);
        }
        assert_eq!((shard.counts.len(), shard.order.len()), (4, 4));
        assert_eq!(shard.count(1000, 300, nonce(1000, 0), 2, 4, false), Count::Forgotten);
        assert_eq!(shard.count(1000, 300, nonce(1009, 9), 1, 4, false), Count::Replayed);
        assert_eq!(shard.count(1000, 300, nonce(1009, 9), 2, 4, false), Count::Fresh);
    }

    #[test]
    fn among_nodes_a_nonce_belongs_to_one_of_them_s147() {
        let seen = SeenNonces::new(64);
        let count = |nonce, nc| seen.count(1000, 300, nonce, nc, true);
        let (ours, others) = (nonce(1000, 1), nonce(1000, 2));
        assert_eq!((count(ours, 1), count(ours, 1)), (Count::Unknown, Count::Unknown), "nothing is noted");
        seen.pin(1000, 300, ours, true);
        assert_eq!((count(ours, 1), count(ours, 1)), (Count::Fresh, Count::Replayed));
        // A second answer to the same question, or another one, forgets nothing.
        seen.pin(1000, 300, ours, true);
        seen.pin(1000, 300, ours, false);
        assert_eq!((count(ours, 1), count(ours, 2)), (Count::Replayed, Count::Fresh));
        seen.pin(1000, 300, others, false);
        assert_eq!(count(others, 1), Count::Elsewhere);
    }

    #[test]
    fn expired_nonces_make_room_without_raising_the_floor() {
        let mut shard = Shard::default();
        for number in 0..4 {
            assert_eq!(shard.count(1000, 300, nonce(1000, number), 1, 4, false), Count::Fresh);
        }
        assert_eq!(shard.count(1400, 300, nonce(1400, 9), 1, 4, false), Count::Fresh);
        assert_eq!((shard.counts.len(), shard.floor), (1, None));
    }
}
