//! How many refresh pushes a node asks of each push service in a second (P-097). All shards of a node share one pace.
//!
//! Places are given out ahead of time: a push that finds none free at once is told when its place comes, and takes it without
//! asking again. So a backlog of a million costs each of them one visit more, not one in every second that it waits.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use reveille_push::Provider;

/// See the module.
#[derive(Debug)]
pub struct Pace {
    /// From one place to the next.
    interval: Duration,
    /// When the next place is free. As many entries as push services are configured: others are not asked for a push.
    free: Mutex<HashMap<Provider, Instant>>,
}

/// So much may be taken ahead of its time: what waits for less is not put off.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Pace {
    /// A pace of `per_second` pushes to each push service; at least one.
    pub fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), free: Mutex::default() }
    }

    /// Takes a place: how long to wait for it, zero for "at once". `None`, and nothing taken, where there is none within `patience`.
    pub fn reserve(&self, provider: Provider, now: Instant, patience: Duration) -> Option<Duration> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let next = free.entry(provider).or_insert(now);
        let place = (*next).max(now);
        let wait = place.saturating_duration_since(now);
        if wait >= patience {
            return None;
        }
        *next = place.checked_add(self.interval)?;
        Some(if wait < AT_ONCE { Duration::ZERO } else { wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::start;

    const SECOND: Duration = Duration::from_secs(1);

    /// P-097: never more than the rate but for one second's worth at the beginning, and each push service has its own.
    #[test]
    fn p097_places_are_spread_at_the_rate() {
        let (pace, now) = (Pace::new(10), start());
        let waits: Vec<Duration> =
            (0..100).map(|_| pace.reserve(Provider::Fcm, now, 60 * SECOND).expect("a place")).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 10);
        for (second, later) in (1..9).map(|n| (n, waits.iter().filter(move |wait| wait.as_secs() == n))) {
            assert_eq!(later.count(), 10, "{second}");
        }
        assert_eq!(pace.reserve(Provider::Apns, now, SECOND), Some(Duration::ZERO));
        assert_eq!(pace.reserve(Provider::Fcm, now + 60 * SECOND, SECOND), Some(Duration::ZERO));
    }

    /// A push that would come too late takes no place from others.
    #[test]
    fn what_cannot_wait_takes_no_place() {
        let (pace, now) = (Pace::new(1), start());
        for n in 0..3 {
            assert_eq!(pace.reserve(Provider::WebPush, now, 3 * SECOND), Some(n * SECOND));
        }
        assert_eq!(pace.reserve(Provider::WebPush, now, 3 * SECOND), None);
        assert_eq!(pace.reserve(Provider::WebPush, now, 4 * SECOND), Some(3 * SECOND));
    }
}
