//! One deadline queue per owner, instead of a sleeping task per timer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    time::Instant,
};

/// Deadlines by key: each key has at most one. Setting, clearing and taking the next are logarithmic at worst.
///
/// Changed and cleared entries stay in the heap until they surface or outnumber the live ones; the top is always live, so
/// [`DeadlineQueue::next`] is a read.
#[derive(Debug, Clone)]
pub struct DeadlineQueue<K> {
    heap: BinaryHeap<Reverse<Entry<K>>>,
    live: HashMap<K, (Instant, u64)>,
    turn: u64,
}

impl<K: Clone + Eq + Hash> DeadlineQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), live: HashMap::new(), turn: 0 }
    }

    /// Sets the deadline of `key`, in place of any earlier one.
    pub fn set(&mut self, key: K, at: Instant) {
        if self.live.get(&key).is_some_and(|(present, _)| *present == at) {
            return;
        }
        self.turn += 1;
        self.live.insert(key.clone(), (at, self.turn));
        self.heap.push(Reverse(Entry { at, turn: self.turn, key }));
        self.tidy();
    }

    /// Sets or, with `None`, clears: what the owner of a machine does with its `poll_timeout`.
    pub fn update(&mut self, key: K, at: Option<Instant>) {
        match at {
            Some(at) => self.set(key, at),
            None => {
                self.clear(&key);
            }
        }
    }

    /// Forgets the deadline of `key`; true if it had one.
    pub fn clear(&mut self, key: &K) -> bool {
        let had = self.live.remove(key).is_some();
        if had {
            self.tidy();
        }
        had
    }

    /// The deadline of `key`.
    pub fn get(&self, key: &K) -> Option<Instant> {
        self.live.get(key).map(|(at, _)| *at)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes one key whose deadline has come, earliest first and, among equals, in the order they were set.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.live.remove(&entry.key);
        self.tidy();
        Some(entry.key)
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether no key has a deadline.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Drops stale entries from the top, and all of them once they are the larger part.
    fn tidy(&mut self) {
        if self.heap.len() > 2 * self.live.len() + SLACK {
            let live = &self.live;
            self.heap.retain(|Reverse(entry)| is_live(live, entry));
            return;
        }
        while self.heap.peek().is_some_and(|Reverse(entry)| !is_live(&self.live, entry)) {
            self.heap.pop();
        }
    }
}

impl<K: Clone + Eq + Hash> Default for DeadlineQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone)]
struct Entry<K> {
    at: Instant,
    turn: u64,
    key: K,
}

impl<K> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.turn) == (other.at, other.turn)
    }
}

impl<K> Eq for Entry<K> {}

impl<K> PartialOrd for Entry<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Entry<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

fn is_live<K: Eq + Hash>(live: &HashMap<K, (Instant, u64)>, entry: &Entry<K>) -> bool {
    live.get(&entry.key).is_some_and(|(_, turn)| *turn == entry.turn)
}

/// Stale entries tolerated beyond the number of live ones before the heap is rebuilt.
const SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a base instant; nothing is measured with it")]
    fn base() -> Instant {
        Instant::now()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn keys_come_due_in_order_and_ties_in_order_of_setting() {
        let t = base();
        let mut queue = DeadlineQueue::new();
        queue.set("late", t + secs(9));
        queue.set("tie one", t + secs(5));
        queue.set("early", t + secs(1));
        queue.set("tie two", t + secs(5));
        assert_eq!(queue.next(), Some(t + secs(1)));
        assert_eq!(queue.pop_due(t), None);
        let due: Vec<_> = std::iter::from_fn(|| queue.pop_due(t + secs(5))).collect();
        assert_eq!(due, ["early", "tie one", "tie two"]);
        assert_eq!(queue.next(), Some(t + secs(9)));
    }

    #[test]
    fn a_changed_deadline_fires_once_and_at_its_new_time() {
        let t = base();
        let mut queue = DeadlineQueue::new();
        queue.set(1, t + secs(1));
        queue.set(1, t + secs(8));
        assert_eq!(queue.next(), Some(t + secs(8)), "the stale top is gone");
        assert_eq!(queue.pop_due(t + secs(7)), None);
        queue.set(1, t + secs(2));
        assert_eq!(queue.pop_due(t + secs(7)), Some(1));
        assert_eq!(queue.pop_due(t + secs(9)), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn cleared_keys_never_fire() {
        let t = base();
        let mut queue = DeadlineQueue::new();
        queue.set('a', t + secs(1));
        queue.set('b', t + secs(2));
        assert!(queue.clear(&'a'));
        assert!(!queue.clear(&'a'));
        queue.update('b', None);
        assert_eq!(queue.next(), None);
        queue.update('c', Some(t));
        assert_eq!((queue.get(&'c'), queue.pop_due(t)), (Some(t), Some('c')));
    }

    #[test]
    fn restless_keys_do_not_grow_the_heap() {
        let t = base();
        let mut queue = DeadlineQueue::new();
        queue.set(0_u32, t);
        for n in 0..100_000_u64 {
            queue.set(1, t + secs(n + 1));
        }
        assert_eq!(queue.len(), 2);
        assert!(queue.heap.len() <= 2 * queue.len() + SLACK);
    }
}
