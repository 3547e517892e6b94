//! When a credential is no longer offered: after so many refusals in a row, for different targets, its announcement is withdrawn
//! and pushes fail at once; after a pause it is tried again (P-122).
//!
//! ```text
//! Closed --threshold refusals--> Open --pause over--> Probing --accepted--> Closed
//!                                 ^----- refused, longer pause ----|
//! ```

use std::time::{Duration, Instant};

/// The breaker of one credential.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    threshold: u32,
    first_pause: Duration,
    pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { refusals: u32, last: Option<u64> },
    Open { until: Instant },
    Probing,
}

impl Breaker {
    pub(crate) fn new(threshold: u32, first_pause: Duration) -> Self {
        let state = State::Closed { refusals: 0, last: None };
        Self { state, threshold: threshold.max(1), first_pause, pause: first_pause }
    }

    /// The push service took the credential.
    pub(crate) fn accepted(&mut self) {
        // An answer that was under way when the breaker opened proves nothing about now.
        if !matches!(self.state, State::Open { .. }) {
            self.reset();
        }
    }

    /// The push service refused the credential. `target` is a hash of whom the push was for: one subscription made under
    /// another key must not take the credential away from everybody.
    pub(crate) fn refused(&mut self, target: u64, now: Instant) {
        match self.state {
            State::Open { .. } => {}
            State::Probing => self.open(now),
            State::Closed { last, .. } if last == Some(target) && self.threshold > 1 => {}
            State::Closed { refusals, .. } if refusals + 1 >= self.threshold => self.open(now),
            State::Closed { refusals, .. } => {
                self.state = State::Closed { refusals: refusals + 1, last: Some(target) };
            }
        }
    }

    /// New keys: start afresh.
    pub(crate) fn reset(&mut self) {
        self.pause = self.first_pause;
        self.state = State::Closed { refusals: 0, last: None };
    }

    /// Whether pushes fail without being tried.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether one push at a time is let through to see.
    pub(crate) fn is_probing(&self) -> bool {
        self.state == State::Probing
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.state = State::Probing;
        }
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open { until: now + self.pause };
        self.pause = (self.pause * 2).min(self.first_pause * 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    #[test]
    fn consecutive_refusals_open_it_and_an_accepted_probe_closes_it_p122() {
        let t = reveille_runtime::clock::now();
        let mut breaker = Breaker::new(3, PAUSE);
        breaker.refused(1, t);
        breaker.refused(2, t);
        breaker.accepted();
        breaker.refused(1, t);
        breaker.refused(2, t);
        assert!(!breaker.is_open(), "an accepted push in between starts the count anew");
        breaker.refused(3, t);
        assert!(breaker.is_open());
        breaker.accepted();
        assert!(breaker.is_open(), "a late answer closes nothing");

        breaker.handle_timeout(t + PAUSE - Duration::from_millis(1));
        assert!(breaker.is_open());
        breaker.handle_timeout(t + PAUSE);
        assert!(breaker.is_probing());
        breaker.refused(4, t + PAUSE);
        assert_eq!(breaker.poll_timeout(), Some(t + PAUSE * 3), "the pause has doubled");
        breaker.handle_timeout(t + PAUSE * 3);
        breaker.accepted();
        assert!(!breaker.is_open() && !breaker.is_probing());
    }

    #[test]
    fn one_bad_subscription_cannot_open_it() {
        let t = reveille_runtime::clock::now();
        let mut breaker = Breaker::new(3, PAUSE);
        for _ in 0..100 {
            breaker.refused(7, t);
        }
        assert!(!breaker.is_open());
    }
}
