//! The bounded way to the writer thread: many shards push and never wait, one thread takes everything there is.
//!
//! Taking all at once is what makes group commit cheap: while one batch is being flushed to the disk, the next one gathers
//! here. The queue also knows how far the writer has come, so that a reader can wait for what was pushed before it.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A bounded queue with one taker.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Something was pushed, or the queue was closed.
    pushed: Condvar,
    /// What was taken is finished, or the taker is gone.
    finished: Condvar,
    limits: Limits,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Entries.
    pub(crate) entries: usize,
    /// Sum of their weights.
    pub(crate) weight: usize,
}

struct State<T> {
    entries: VecDeque<(usize, T)>,
    weight: usize,
    closed: bool,
    /// The taker is gone: nothing will be finished any more.
    abandoned: bool,
    /// How many entries were ever pushed, and how many are finished.
    count_pushed: u64,
    count_finished: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            entries: VecDeque::new(),
            weight: 0,
            closed: false,
            abandoned: false,
            count_pushed: 0,
            count_finished: 0,
        };
        Queue { state: Mutex::new(state), pushed: Condvar::new(), finished: Condvar::new(), limits }
    }

    /// Adds an entry and returns how many wait now. Never waits: gives the entry back when the queue is full or closed.
    ///
    /// An entry heavier than the limit is let into an empty queue, or it could never be written.
    pub(crate) fn push(&self, weight: usize, entry: T) -> Result<usize, T> {
        let mut state = self.state.lock();
        let heavy = state.weight.saturating_add(weight) > self.limits.weight && !state.entries.is_empty();
        if state.closed || heavy || state.entries.len() >= self.limits.entries {
            return Err(entry);
        }
        state.entries.push_back((weight, entry));
        state.weight += weight;
        state.count_pushed += 1;
        let waiting = state.entries.len();
        drop(state);
        // A taker that is busy needs no call; one that sleeps does so only on an empty queue.
        if waiting == 1 {
            self.pushed.notify_one();
        }
        Ok(waiting)
    }

    /// Waits for entries and moves up to `most` of them into `batch`, oldest first. Returns how many are left behind, or
    /// `None` when the queue is closed and empty.
    pub(crate) fn take(&self, most: usize, batch: &mut Vec<T>) -> Option<usize> {
        let mut state = self.state.lock();
        while state.entries.is_empty() {
            if state.closed {
                return None;
            }
            self.pushed.wait(&mut state);
        }
        let count = most.min(state.entries.len());
        let mut weight = 0;
        batch.extend(state.entries.drain(..count).map(|(w, entry)| {
            weight += w;
            entry
        }));
        state.weight = state.weight.saturating_sub(weight);
        Some(state.entries.len())
    }

    /// Says that `count` taken entries are finished.
    pub(crate) fn finish(&self, count: usize) {
        self.state.lock().count_finished += count as u64;
        self.finished.notify_all();
    }

    /// Waits until everything pushed before this call is finished. `false` when that will never be.
    pub(crate) fn wait_for_earlier(&self) -> bool {
        let mut state = self.state.lock();
        let mark = state.count_pushed;
        while state.count_finished < mark {
            if state.abandoned {
                return false;
            }
            self.finished.wait(&mut state);
        }
        true
    }

    /// Lets nothing more in; what is in will still be taken.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.pushed.notify_all();
    }

    /// The taker is gone: closes the queue and lets go of whoever waits for progress.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.abandoned = true;
        drop(state);
        self.finished.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LIMITS: Limits = Limits { entries: 3, weight: 100 };

    #[test]
    fn is_bounded_by_count_and_weight() {
        let queue = Queue::new(LIMITS);
        assert_eq!(queue.push(500, 'a'), Ok(1), "the first may be of any weight");
        assert_eq!(queue.push(1, 'b'), Err('b'));
        let mut batch = Vec::new();
        assert_eq!(queue.take(9, &mut batch), Some(0));
        for (entry, waiting) in [('c', 1), ('d', 2), ('e', 3)] {
            assert_eq!(queue.push(1, entry), Ok(waiting));
        }
        assert_eq!(queue.push(1, 'f'), Err('f'));
        assert_eq!(queue.take(2, &mut batch), Some(1));
        assert_eq!(batch, ['a', 'c', 'd']);
        assert_eq!(queue.push(1, 'g'), Ok(2), "what was taken makes room");
    }

    #[test]
    fn closed_queue_is_emptied_first() {
        let queue = Queue::new(LIMITS);
        queue.push(1, 1).unwrap();
        queue.close();
        assert_eq!(queue.push(1, 2), Err(2));
        let mut batch = Vec::new();
        assert_eq!(queue.take(9, &mut batch), Some(0));
        assert_eq!(queue.take(9, &mut batch), None);
    }

    #[test]
    fn readers_wait_for_what_came_before() {
        let queue = Arc::new(Queue::new(LIMITS));
        assert!(queue.wait_for_earlier());
        queue.push(1, ()).unwrap();
        let reader = std::thread::spawn({
            let queue = queue.clone();
            move || queue.wait_for_earlier()
        });
        let mut batch = Vec::new();
        queue.take(9, &mut batch);
        queue.finish(1);
        assert!(reader.join().unwrap());
        queue.push(1, ()).unwrap();
        queue.abandon();
        assert!(!queue.wait_for_earlier(), "nobody will finish it");
    }
}
