//! What follows from an attempt's answer: the verdict or another attempt; and what the breaker, the window and an operator learn.

use std::time::{Duration, Instant};

use reveille_push::Outcome;

use super::{Dispatcher, State};
use crate::{
    pool::backoff,
    provider::{Classified, Next},
    queue::Job,
};

impl Dispatcher {
    /// An attempt ended: the verdict, or another attempt within the deadline.
    pub(super) fn returned(&self, state: &mut State, mut job: Job, classified: Classified, now: Instant) {
        let Classified { outcome, reason, next } = classified;
        state.alarms.answered(now);
        match (next, outcome) {
            (Next::Fault, _) => {
                self.alarm(state, reason, outcome, now);
                state.breaker.refused(state.queue.token(&job.target), now);
            }
            (Next::Alarm, _) => self.alarm(state, reason, outcome, now),
            (_, Outcome::Accepted | Outcome::Unregistered { .. } | Outcome::Throttled { .. }) => {
                state.breaker.accepted();
            }
            _ => {}
        }
        if next == Next::Suspect && state.alarms.suspect(reason, now) {
            self.metrics.alarm(reason);
            tracing::error!(
                pns = self.provider.pns(),
                credential = self.provider.name(),
                reason,
                "most tokens are refused: the environment, topic or project may be the wrong one"
            );
        }
        match outcome {
            Outcome::Accepted => state.window.grow(),
            Outcome::Throttled { .. } | Outcome::Unavailable => state.window.shrink(now),
            _ => {}
        }
        if let Outcome::Throttled { retry_after: Some(wait) } = outcome
            && let Some(until) = now.checked_add(wait)
        {
            state.quiet.set(state.queue.token(&job.target), until, now);
        }
        let pause = match (next, outcome) {
            (Next::RetryIn(wait), _) | (Next::Retry, Outcome::Throttled { retry_after: Some(wait) }) => wait,
            (Next::Retry, _) => backoff(job.attempts, FIRST_PAUSE, LONGEST_PAUSE),
            _ => return self.finish(job, outcome, reason),
        };
        let again = now.checked_add(pause).filter(|at| *at < job.deadline);
        match again {
            Some(_) if job.ticket.is_withdrawn() => self.finish(job, Outcome::Withdrawn, "withdrawn"),
            Some(at) if !state.drained => {
                job.attempts += 1;
                self.metrics.retry(reason);
                state.queue.delay(job, at);
            }
            _ => self.finish(job, outcome, reason),
        }
    }

    /// Every one is counted; the log hears of each reason now and then.
    fn alarm(&self, state: &mut State, reason: &'static str, outcome: Outcome, now: Instant) {
        self.metrics.alarm(reason);
        if state.alarms.fault(reason, now) {
            let (pns, credential, outcome) = (self.provider.pns(), self.provider.name(), outcome.as_str());
            tracing::error!(pns, credential, reason, outcome, "the push service refuses what we send");
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
