//! What of the push services' answers an operator must hear of: each mistake of ours at once and then once a minute, and dead
//! tokens whose reason may be the configuration's fault only when their rate jumps (P-153, P-164).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The alarms of one dispatcher.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// When each was last told. Reasons are constants of the tables, so there are few.
    told: HashMap<&'static str, Instant>,
    since: Option<Instant>,
    answers: u32,
    suspects: u32,
}

impl Alarms {
    /// Counts an answer toward the rate of suspects.
    pub(crate) fn answered(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PAUSE) {
            self.since = Some(now);
            (self.answers, self.suspects) = (0, 0);
        }
        self.answers = self.answers.saturating_add(1);
    }

    /// Something that ought not to happen at all: whether it is to be told now.
    pub(crate) fn fault(&mut self, reason: &'static str, now: Instant) -> bool {
        let tell = self.told.get(reason).is_none_or(|at| now.saturating_duration_since(*at) >= PAUSE);
        if tell {
            self.told.insert(reason, now);
        }
        tell
    }

    /// A dead token that a wrong environment, topic or project would explain as well: whether there are so many that they are
    /// to be told of now. Called after [`Alarms::answered`] for the same answer.
    pub(crate) fn suspect(&mut self, reason: &'static str, now: Instant) -> bool {
        self.suspects = self.suspects.saturating_add(1);
        self.suspects >= JUMP && self.suspects.saturating_mul(2) >= self.answers && self.fault(reason, now)
    }
}

/// Between two tellings of the same thing, and the time over which a rate is taken.
const PAUSE: Duration = Duration::from_secs(60);
/// Fewer suspects than this within [`PAUSE`] are everyday business: apps are deleted.
const JUMP: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_at_once_and_then_once_a_minute() {
        let t = reveille_runtime::clock::now();
        let mut alarms = Alarms::default();
        assert!(alarms.fault("bad_path", t));
        assert!(!alarms.fault("bad_path", t + PAUSE / 2));
        assert!(alarms.fault("topic", t + PAUSE / 2), "another mistake has its own minute");
        assert!(alarms.fault("bad_path", t + PAUSE));
    }

    #[test]
    fn dead_tokens_are_told_of_only_when_their_rate_jumps_p153_p164() {
        let t = reveille_runtime::clock::now();
        let mut alarms = Alarms::default();
        let mut told = 0;
        for n in 0..1000 {
            alarms.answered(t);
            // One in three: many, but most phones are well.
            told += usize::from(n % 3 == 0 && alarms.suspect("bad_device_token", t));
        }
        assert_eq!(told, 0);
        for _ in 0..20 {
            alarms.answered(t + PAUSE);
            told += usize::from(alarms.suspect("bad_device_token", t + PAUSE));
        }
        assert_eq!(told, 1, "the tenth in a row tells, the others would say the same");
    }
}
