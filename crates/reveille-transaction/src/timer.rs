//! The timers of RFC 3261 §17 (table 4), RFC 6026 and RFC 4320: their lengths, and the one queue that all of a table's
//! transactions share.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

/// The base values from which every timer follows (RFC 3261 §17, table 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerConfig {
    /// T1, the round-trip estimate; 500 ms.
    pub t1: Duration,
    /// T2, the longest interval between retransmissions of a non-INVITE request or an INVITE response; 4 s.
    pub t2: Duration,
    /// T4, how long a message may stay in the network; 5 s.
    pub t4: Duration,
    /// Timer C, how long a proxied INVITE may ring without a sign of life; more than 3 minutes (§16.6 step 11).
    pub timer_c: Duration,
    /// Timer D, how long an unreliable INVITE client absorbs repeated finals; at least 32 s.
    pub timer_d: Duration,
    /// How long before 64·T1 a non-INVITE must be answered so that the answer still meets a waiting client (RFC 4320 §4.2).
    pub non_invite_margin: Duration,
}

impl Default for TimerConfig {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            timer_c: Duration::from_secs(185),
            timer_d: Duration::from_secs(32),
            non_invite_margin: Duration::from_secs(2),
        }
    }
}

impl TimerConfig {
    /// 64·T1: timers B, F, H, J, L and M.
    pub fn transaction(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    /// When a client's Timer E reaches T2: from then on a 100 to a non-INVITE is allowed on any transport, and owed if nothing
    /// else was sent (RFC 4320 §4.1). 3.5 s by default.
    pub fn owed_trying(&self) -> Duration {
        let (mut elapsed, mut interval) = (Duration::ZERO, self.t1.max(Duration::from_millis(1)));
        while interval < self.t2 {
            elapsed = elapsed.saturating_add(interval);
            interval = interval.saturating_mul(2);
        }
        elapsed
    }

    /// The latest moment for a final response to a non-INVITE that arrived at `arrived`; after it silence is all that is left, as
    /// 408 is forbidden (RFC 4320 §4.2).
    pub fn non_invite_deadline(&self, arrived: Instant) -> Instant {
        arrived + self.transaction().saturating_sub(self.non_invite_margin)
    }
}

/// A retransmission in progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resend {
    /// When to send next.
    pub(crate) at: Instant,
    every: Duration,
}

impl Resend {
    pub(crate) fn start(now: Instant, every: Duration) -> Self {
        Self { at: now + every, every }
    }

    /// Doubles the interval up to `limit`; timers E and G. The interval counts from `now`: a late turn sends once, not a burst.
    pub(crate) fn back_off(&mut self, now: Instant, limit: Duration) {
        self.every = self.every.saturating_mul(2).min(limit);
        self.at = now + self.every;
    }
}

/// The earliest of some optional moments.
pub(crate) fn earliest<const N: usize>(moments: [Option<Instant>; N]) -> Option<Instant> {
    moments.into_iter().flatten().min()
}

/// Deadlines of many owners, earliest first. Entries are never searched for: an owner remembers which of its entries counts, and
/// whoever pops another one drops it.
#[derive(Debug)]
pub(crate) struct TimerQueue<T: Ord> {
    heap: BinaryHeap<Reverse<(Instant, T)>>,
}

impl<T: Ord> TimerQueue<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    pub(crate) fn push(&mut self, at: Instant, owner: T) {
        self.heap.push(Reverse((at, owner)));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, T)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Drops the entries that no owner counts any more.
    pub(crate) fn retain(&mut self, mut counts: impl FnMut(Instant, &T) -> bool) {
        self.heap.retain(|Reverse((at, owner))| counts(*at, owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    #[test]
    fn trying_is_owed_after_three_and_a_half_seconds_s054() {
        assert_eq!(TimerConfig::default().owed_trying(), Duration::from_millis(3500));
        let odd = TimerConfig { t1: Duration::from_secs(4), ..TimerConfig::default() };
        assert_eq!(odd.owed_trying(), Duration::ZERO);
    }

    #[test]
    fn non_invite_deadline_leaves_the_margin_s055() {
        let now = start();
        assert_eq!(TimerConfig::default().non_invite_deadline(now), now + Duration::from_secs(30));
    }

    #[test]
    fn queue_gives_deadlines_in_order_and_only_when_due() {
        let now = start();
        let mut queue = TimerQueue::new();
        for (ms, owner) in [(30, 'c'), (10, 'a'), (20, 'b')] {
            queue.push(now + Duration::from_millis(ms), owner);
        }
        assert_eq!(queue.next(), Some(now + Duration::from_millis(10)));
        assert!(queue.pop_due(now).is_none());
        let later = now + Duration::from_millis(25);
        assert_eq!(queue.pop_due(later).map(|(_, owner)| owner), Some('a'));
        assert_eq!(queue.pop_due(later).map(|(_, owner)| owner), Some('b'));
        assert!(queue.pop_due(later).is_none());
        queue.retain(|_, owner| *owner != 'c');
        assert_eq!(queue.len(), 0);
    }
}
