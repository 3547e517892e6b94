//! What one push host may cost us. Phones choose their push host, so a slow or broken one must not hold up the pushes to the
//! others (P-140): each host has so many pushes under way at most, and one that keeps failing is left alone for a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The budgets of all hosts.
#[derive(Debug)]
pub(super) struct Budgets {
    hosts: HashMap<Arc<str>, Host>,
    under_way: usize,
}

#[derive(Debug, Default)]
struct Host {
    under_way: usize,
    /// Failures since the last success.
    failures: u32,
    shut_until: Option<Instant>,
}

/// Why a push may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spent {
    /// Too many are under way.
    Busy,
    /// The host failed too often.
    Failing,
}

impl Budgets {
    /// At most `under_way` pushes to one host at a time.
    pub(super) fn new(under_way: usize) -> Self {
        Self { hosts: HashMap::new(), under_way: under_way.max(1) }
    }

    /// A push to the host begins; where this allows it, [`Budgets::ended`] has to follow.
    pub(super) fn begin(&mut self, host: &str, now: Instant) -> Result<(), Spent> {
        if self.hosts.len() >= MOST {
            self.hosts.retain(|_, host| host.under_way > 0 || host.shut_until.is_some_and(|until| now < until));
        }
        if !self.hosts.contains_key(host) {
            self.hosts.insert(host.into(), Host::default());
        }
        let Some(budget) = self.hosts.get_mut(host) else { return Ok(()) };
        if budget.shut_until.is_some_and(|until| now < until) {
            return Err(Spent::Failing);
        }
        if budget.under_way >= self.under_way {
            return Err(Spent::Busy);
        }
        budget.under_way += 1;
        Ok(())
    }

    /// The push has ended; `failed` where the host gave no sensible answer.
    pub(super) fn ended(&mut self, host: &str, failed: bool, now: Instant) {
        let Some(budget) = self.hosts.get_mut(host) else { return };
        budget.under_way = budget.under_way.saturating_sub(1);
        if !failed {
            budget.failures = 0;
            budget.shut_until = None;
            return;
        }
        budget.failures = budget.failures.saturating_add(1);
        if budget.failures >= FAILURES {
            // One more failure after the pause shuts it again.
            budget.failures = FAILURES - 1;
            budget.shut_until = now.checked_add(PAUSE);
        }
    }
}

/// Failures in a row after which a host is left alone.
const FAILURES: u32 = 20;
/// For so long.
const PAUSE: Duration = Duration::from_secs(15);
/// Hosts remembered before those that nothing is known of are forgotten.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_keeps_failing_is_left_alone_and_others_are_not_p140() {
        let t = reveille_runtime::clock::now();
        let mut budgets = Budgets::new(100);
        for _ in 0..FAILURES {
            assert_eq!(budgets.begin("bad.example.net", t), Ok(()));
            budgets.ended("bad.example.net", true, t);
        }
        assert_eq!(budgets.begin("bad.example.net", t), Err(Spent::Failing));
        assert_eq!(budgets.begin("good.example.net", t), Ok(()));
        let later = t + PAUSE;
        assert_eq!(budgets.begin("bad.example.net", later), Ok(()), "tried again after a pause");
        budgets.ended("bad.example.net", true, later);
        assert_eq!(budgets.begin("bad.example.net", later), Err(Spent::Failing));
        let latest = later + PAUSE;
        budgets.begin("bad.example.net", latest).unwrap();
        budgets.ended("bad.example.net", false, latest);
        budgets.begin("bad.example.net", latest).unwrap();
        budgets.ended("bad.example.net", true, latest);
        assert_eq!(budgets.begin("bad.example.net", latest), Ok(()), "one success pays for all");
    }

    #[test]
    fn one_host_cannot_have_every_stream_p140() {
        let t = reveille_runtime::clock::now();
        let mut budgets = Budgets::new(3);
        for _ in 0..3 {
            budgets.begin("slow.example.net", t).unwrap();
        }
        assert_eq!(budgets.begin("slow.example.net", t), Err(Spent::Busy));
        assert_eq!(budgets.begin("other.example.net", t), Ok(()));
        budgets.ended("slow.example.net", true, t);
        assert_eq!(budgets.begin("slow.example.net", t), Ok(()));
    }

    #[test]
    fn hosts_are_forgotten_where_there_is_nothing_to_remember() {
        let t = reveille_runtime::clock::now();
        let mut budgets = Budgets::new(3);
        for n in 0..3 * MOST {
            let host = format!("h{n}.example.net");
            budgets.begin(&host, t).unwrap();
            budgets.ended(&host, false, t);
        }
        assert!(budgets.hosts.len() <= MOST);
    }
}
