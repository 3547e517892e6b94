//! How many pushes one token may cause (P-116): a stolen or abused token must not drain a battery.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reveille_push::PushClass;

use crate::record::Fingerprint;

/// Pushes one token may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushLimits {
    /// For calls, in a minute.
    pub calls_per_minute: u16,
    /// For anything else, in a minute.
    pub per_minute: u16,
    /// For anything else, in an hour.
    pub per_hour: u16,
}

impl Default for PushLimits {
    fn default() -> Self {
        Self { calls_per_minute: 30, per_minute: 6, per_hour: 60 }
    }
}

/// The token buckets of a shard's push tokens. A token has an entry from its first push until its buckets are full again.
pub(super) struct Budgets {
    limits: PushLimits,
    left: HashMap<Fingerprint, Left>,
    sweep_at: usize,
    swept: Option<Instant>,
    /// A token has come to the half of a budget, or to the next quarter.
    has_news: bool,
}

#[derive(Clone, Copy)]
struct Left {
    calls: f32,
    minute: f32,
    hour: f32,
    at: Instant,
}

/// More tokens than this have no entry in one shard; the pushes of further ones are refused until some fill up.
const MOST: usize = 16_384;
const SMALL: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

impl Budgets {
    pub(super) fn new(limits: PushLimits) -> Self {
        Self { limits, left: HashMap::new(), sweep_at: SMALL, swept: None, has_news: false }
    }

    /// Takes one push from the token's budget; false if there is none left.
    pub(super) fn take(&mut self, target: Fingerprint, class: PushClass, now: Instant) -> bool {
        let is_recent = self.swept.is_some_and(|at| now.saturating_duration_since(at) < MINUTE);
        // A table that cannot shrink is not swept for each push that finds it full.
        if self.left.len() >= self.sweep_at && !(self.sweep_at == MOST && is_recent) {
            self.left.retain(|_, left| now.saturating_duration_since(left.at) < HOUR);
            // Twice what remains: the cost of a sweep is spread over as many new entries.
            self.sweep_at = (2 * self.left.len()).clamp(SMALL, MOST);
            self.swept = Some(now);
        }
        if self.left.len() >= MOST && !self.left.contains_key(&target) {
            return false;
        }
        let full = self.limits.full();
        let left = self.left.entry(target).or_insert(Left { calls: full[0], minute: full[1], hour: full[2], at: now });
        *left = left.at(now, full);
        let before = left.quarters(full);
        let buckets: &mut [&mut f32] = match class {
            PushClass::Call => &mut [&mut left.calls],
            PushClass::Request | PushClass::Refresh => &mut [&mut left.minute, &mut left.hour],
        };
        let enough = buckets.iter().all(|bucket| **bucket >= 1.0);
        if enough {
            buckets.iter_mut().for_each(|bucket| **bucket -= 1.0);
            self.has_news |= left.quarters(full).into_iter().zip(before).any(|(now, before)| now > before && now >= 2);
        }
        enough
    }

    /// Whether a token has come to the half of a budget, or to the next quarter, since this was last asked.
    pub(super) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// What is used up at `now`, for calls, of a minute and of an hour, by the tokens of which `counts` says so of the largest part.
    pub(super) fn used(
        &self,
        now: Instant,
        counts: impl Fn(f32) -> bool,
    ) -> impl Iterator<Item = (Fingerprint, [f32; 3])> {
        let full = self.limits.full();
        self.left.iter().filter_map(move |(target, left)| {
            let used = left.at(now, full).used(full);
            let largest = used.iter().zip(full).map(|(used, full)| used / full.max(1.0)).fold(0.0, f32::max);
            counts(largest).then_some((*target, used))
        })
    }

    /// Takes over what another owner had counted `age` ago. What was counted here beside is the same pushes or fewer.
    pub(super) fn inherit(&mut self, target: Fingerprint, used: [f32; 3], age: Duration, now: Instant) {
        let full = self.limits.full();
        if self.left.len() >= MOST && !self.left.contains_key(&target) {
            return;
        }
        let [calls, minute, hour] = [0, 1, 2].map(|at: usize| {
            let (used, full) = (used.get(at).copied().unwrap_or(0.0), full.get(at).copied().unwrap_or(0.0));
            (full - used).max(0.0)
        });
        let theirs = Left { calls, minute, hour, at: now }.after(age, full);
        let ours = self.left.entry(target).or_insert(theirs);
        *ours = ours.at(now, full);
        ours.calls = ours.calls.min(theirs.calls);
        ours.minute = ours.minute.min(theirs.minute);
        ours.hour = ours.hour.min(theirs.hour);
    }
}

impl PushLimits {
    fn full(&self) -> [f32; 3] {
        [self.calls_per_minute, self.per_minute, self.per_hour].map(f32::from)
    }
}

impl Left {
    /// The same later.
    fn at(self, now: Instant, full: [f32; 3]) -> Self {
        Self { at: now, ..self.after(now.saturating_duration_since(self.at), full) }
    }

    fn after(self, time: Duration, full: [f32; 3]) -> Self {
        let gone = time.as_secs_f32();
        Self {
            calls: (self.calls + full[0] * gone / MINUTE.as_secs_f32()).min(full[0]),
            minute: (self.minute + full[1] * gone / MINUTE.as_secs_f32()).min(full[1]),
            hour: (self.hour + full[2] * gone / HOUR.as_secs_f32()).min(full[2]),
            at: self.at,
        }
    }

    fn used(self, full: [f32; 3]) -> [f32; 3] {
        [full[0] - self.calls, full[1] - self.minute, full[2] - self.hour]
    }

    /// How many quarters of each budget are used up.
    fn quarters(self, full: [f32; 3]) -> [u8; 3] {
        let [calls, minute, hour] = self.used(full);
        [(calls, full[0]), (minute, full[1]), (hour, full[2])].map(|(used, full)| (4.0 * used / full.max(1.0)) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::start;

    /// P-116: the defaults, and that calls have a budget of their own.
    #[test]
    fn each_class_has_its_share() {
        let mut budgets = Budgets::new(PushLimits::default());
        let (now, target) = (start(), Fingerprint(1));
        let mut taken = |class, at| (0..100).filter(|_| budgets.take(target, class, at)).count();
        assert_eq!(taken(PushClass::Request, now), 6);
        assert_eq!(taken(PushClass::Call, now), 30);
        assert_eq!(taken(PushClass::Refresh, now), 0);
        assert_eq!(taken(PushClass::Request, now + MINUTE), 6);
        let later: usize = (2..60).map(|n| taken(PushClass::Request, now + n * MINUTE)).sum();
        // 60 at the start, of which 12 are spent, and one more per minute.
        assert!((100..=108).contains(&later), "{later}");
    }

    #[test]
    fn the_table_is_bounded_and_swept() {
        let mut budgets = Budgets::new(PushLimits::default());
        let now = start();
        let taken = (0..2 * MOST as u64).filter(|&n| budgets.take(Fingerprint(n), PushClass::Call, now)).count();
        assert_eq!(taken, MOST);
        assert!(budgets.take(Fingerprint(u64::MAX), PushClass::Call, now + HOUR));
        assert_eq!(budgets.left.len(), 1);
    }
}
