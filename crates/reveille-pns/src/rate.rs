//! How many pushes may leave in a time, below what the push service allows (P-165), and which devices it wants left alone
//! (P-135, P-153).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A token bucket: a second's worth may leave at once.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let per_second = (f64::from(per_minute) / 60.0).max(f64::MIN_POSITIVE);
        Self { per_second, left: per_second.max(1.0), at: now }
    }

    /// How many may leave now.
    pub(crate) fn room(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * self.per_second).min(self.per_second.max(1.0));
        // Fractions of a push are none; a float that is too large for this saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = self.left.max(0.0) as usize;
        whole
    }

    /// So many have left.
    pub(crate) fn spend(&mut self, pushes: usize) {
        #[allow(clippy::cast_precision_loss)]
        let pushes = pushes as f64;
        self.left -= pushes;
    }

    /// When the next one may leave, where none may now.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let missing = 1.0 - self.left;
        let wait = Duration::try_from_secs_f64(missing / self.per_second).unwrap_or(Duration::MAX);
        // A little late, so that rounding does not wake us for nothing.
        (missing > 0.0).then(|| self.at.checked_add(wait.saturating_add(Duration::from_micros(1)))).flatten()
    }
}

/// Devices whose pushes were throttled, by the hash of their token, and until when.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    until: HashMap<u64, Instant>,
    /// When those whose time is over were last looked for.
    tidied: Option<Instant>,
}

impl Quiet {
    /// No push to this device before `until`.
    pub(crate) fn set(&mut self, token: u64, until: Instant, now: Instant) {
        let full = self.until.len() >= MOST;
        // Seldom: to look through them all for each new one would cost more than the pushes.
        if full && self.tidied.is_none_or(|at| now.saturating_duration_since(at) >= TIDY) {
            self.tidied = Some(now);
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < MOST {
            self.until.insert(token, until);
        }
    }

    /// Until when the device wants to be left alone.
    pub(crate) fn until(&self, token: u64, now: Instant) -> Option<Instant> {
        self.until.get(&token).copied().filter(|until| now < *until)
    }
}

/// Devices remembered; past it a throttled device is pushed to again and throttles again.
const MOST: usize = 65_536;
const TIDY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_lets_no_more_through_than_its_number_and_a_seconds_worth_p165() {
        let t = reveille_runtime::clock::now();
        let mut rate = Rate::new(600, t);
        let mut sent = 0;
        for tick in 0..600 {
            let now = t + Duration::from_millis(100) * tick;
            let room = rate.room(now);
            rate.spend(room);
            sent += room;
        }
        assert!((600..=610).contains(&sent), "{sent}");
        let next = rate.poll_timeout().unwrap();
        assert_eq!(rate.room(next), 1);
    }

    #[test]
    fn a_slow_rate_lets_one_through_at_a_time_p165() {
        let t = reveille_runtime::clock::now();
        let mut rate = Rate::new(6, t);
        assert_eq!(rate.room(t), 1);
        rate.spend(1);
        assert_eq!(rate.room(t + Duration::from_secs(9)), 0);
        let next = rate.poll_timeout().unwrap();
        assert_eq!(next.saturating_duration_since(t).as_secs(), 10);
        assert_eq!(rate.room(next), 1);
    }

    #[test]
    fn throttled_devices_are_remembered_within_bounds_p135() {
        let t = reveille_runtime::clock::now();
        let later = t + Duration::from_secs(5);
        let mut quiet = Quiet::default();
        quiet.set(7, later, t);
        assert_eq!(quiet.until(7, t), Some(later));
        assert_eq!((quiet.until(7, later), quiet.until(8, t)), (None, None));
        for token in 0..2 * MOST as u64 {
            quiet.set(token, later, t);
        }
        assert!(quiet.until.len() <= MOST);
        quiet.set(u64::MAX, later + Duration::from_secs(5), later);
        assert_eq!(quiet.until.len(), 1, "those whose time is over make room");
    }
}
