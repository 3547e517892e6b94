//! What waits to be sent: strictly by class, each until its deadline, never more than so many (P-172).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use reveille_push::{Outcome, PushClass, PushJob, PushTarget, Ticket};
use reveille_runtime::DeadlineQueue;

/// A push on its way, until it is answered: dropping it answers `Unavailable`, so that nobody waits for a verdict for ever.
pub(crate) struct Job {
    /// The owner's number, for logs.
    pub(crate) id: u64,
    /// The random number that the payload may carry (P-106).
    pub(crate) correlation: u64,
    pub(crate) target: PushTarget,
    pub(crate) class: PushClass,
    pub(crate) deadline: Instant,
    /// When the push service may forget the push.
    pub(crate) keep_until: Instant,
    pub(crate) ticket: Ticket,
    /// Attempts made so far, those of earlier pushes to the same end included.
    pub(crate) attempts: u32,
    /// Whether a stream the peer did not process was repeated already (P-150).
    pub(crate) replayed: bool,
    reply: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

impl Job {
    pub(crate) fn new(job: PushJob, now: Instant) -> Self {
        let PushJob { id, target, class, deadline, ttl, repeat, ticket, reply, correlation } = job;
        let keep_until = now.checked_add(ttl).unwrap_or(now + LONGEST_TTL).min(now + LONGEST_TTL);
        let (attempts, replayed, reply) = (repeat, false, Some(reply));
        Self { id, correlation, target, class, deadline, keep_until, ticket, attempts, replayed, reply }
    }

    /// The job as it was submitted, unanswered; `None` where it has been answered.
    pub(crate) fn give_back(mut self, now: Instant) -> Option<PushJob> {
        let reply = self.reply.take()?;
        Some(PushJob {
            id: self.id,
            target: self.target.clone(),
            class: self.class,
            deadline: self.deadline,
            ttl: self.ttl(now),
            repeat: self.attempts,
            ticket: self.ticket.clone(),
            reply,
            correlation: self.correlation,
        })
    }

    /// Gives the verdict.
    pub(crate) fn finish(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    /// What is left of the time the push service may keep the push.
    pub(crate) fn ttl(&self, now: Instant) -> Duration {
        self.keep_until.saturating_duration_since(now)
    }

    fn answer(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            reply(outcome);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.answer(Outcome::Unavailable);
    }
}

/// The queue of one dispatcher.
pub(crate) struct Queue {
    jobs: HashMap<u64, Job>,
    /// Numbers of jobs by class; those no longer in `jobs` are skipped.
    ready: [VecDeque<u64>; 4],
    waiting: DeadlineQueue<u64>,
    deadlines: DeadlineQueue<u64>,
    capacity: usize,
    turn: u64,
    hasher: RandomState,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            jobs: HashMap::new(),
            ready: Default::default(),
            waiting: DeadlineQueue::new(),
            deadlines: DeadlineQueue::new(),
            capacity: capacity.max(1),
            turn: 0,
            hasher: RandomState::new(),
        }
    }

    /// Takes a job. Gives back what had to leave for want of room: the newest of the least urgent class, or the job itself
    /// where nothing less urgent waits.
    pub(crate) fn push(&mut self, job: Job) -> Option<Job> {
        let mut shed = None;
        if self.jobs.len() >= self.capacity {
            match self.least_urgent(job.class) {
                Some(turn) => shed = self.remove(turn),
                None => return Some(job),
            }
        }
        self.turn += 1;
        let (turn, class) = (self.turn, job.class);
        self.deadlines.set(turn, job.deadline);
        self.jobs.insert(turn, job);
        self.ready(class).push_back(turn);
        self.tidy(class);
        shed
    }

    /// Takes a job back that is to be tried again at `at`. It was let in before, so there is always room.
    pub(crate) fn delay(&mut self, job: Job, at: Instant) {
        self.turn += 1;
        self.deadlines.set(self.turn, job.deadline);
        self.waiting.set(self.turn, at);
        self.jobs.insert(self.turn, job);
    }

    /// Takes up to `most` jobs, most urgent first and in order of arrival, one for each token.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Job> {
        let mut batch = Vec::new();
        let mut tokens = HashSet::new();
        for class in CLASSES {
            let mut again = Vec::new();
            while batch.len() < most {
                let Some(turn) = self.ready(class).pop_front() else { break };
                let Some(job) = self.jobs.get(&turn) else { continue };
                if !tokens.insert(self.token(&job.target)) {
                    again.push(turn);
                    continue;
                }
                batch.extend(self.remove(turn));
            }
            for turn in again.into_iter().rev() {
                self.ready(class).push_front(turn);
            }
        }
        batch
    }

    /// A hash that tells one token from another, for this process only.
    pub(crate) fn token(&self, target: &PushTarget) -> u64 {
        self.hasher.hash_one((target.provider, &target.param, &target.prid))
    }

    /// Makes ready what has waited long enough, and gives back what nobody wants any more: its deadline has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Job> {
        let mut expired = Vec::new();
        while let Some(turn) = self.deadlines.pop_due(now) {
            expired.extend(self.remove(turn));
        }
        while let Some(turn) = self.waiting.pop_due(now) {
            if let Some(class) = self.jobs.get(&turn).map(|job| job.class) {
                self.ready(class).push_back(turn);
            }
        }
        expired
    }

    /// When the next deadline or the next repetition comes.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.waiting.next(), self.deadlines.next()].into_iter().flatten().min()
    }

    /// Everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        self.ready = Default::default();
        self.waiting = DeadlineQueue::new();
        self.deadlines = DeadlineQueue::new();
        self.jobs.drain().map(|(_, job)| job).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is no room for one more, however urgent.
    pub(crate) fn is_full(&self) -> bool {
        self.jobs.len() >= self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether something could be sent at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.iter().flatten().any(|turn| self.jobs.contains_key(turn))
    }

    fn remove(&mut self, turn: u64) -> Option<Job> {
        self.deadlines.clear(&turn);
        self.waiting.clear(&turn);
        self.jobs.remove(&turn)
    }

    /// The newest ready job of the least urgent class below `class`.
    fn least_urgent(&mut self, class: PushClass) -> Option<u64> {
        for candidate in CLASSES.into_iter().rev().take_while(|candidate| class.outranks(*candidate)) {
            while let Some(turn) = self.ready(candidate).pop_back() {
                if self.jobs.contains_key(&turn) {
                    return Some(turn);
                }
            }
        }
        None
    }

    /// Forgets numbers of jobs that are gone once they are the larger part.
    fn tidy(&mut self, class: PushClass) {
        if self.ready(class).len() > 2 * self.jobs.len() + 64 {
            let mut ready = std::mem::take(self.ready(class));
            ready.retain(|turn| self.jobs.contains_key(turn));
            *self.ready(class) = ready;
        }
    }

    fn ready(&mut self, class: PushClass) -> &mut VecDeque<u64> {
        let [call, dialog, request, refresh] = &mut self.ready;
        match class {
            PushClass::Call => call,
            PushClass::Dialog => dialog,
            PushClass::Request => request,
            PushClass::Refresh => refresh,
        }
    }
}

const CLASSES: [PushClass; 4] = [PushClass::Call, PushClass::Dialog, PushClass::Request, PushClass::Refresh];
/// Four weeks: the longest any push service keeps a push.
const LONGEST_TTL: Duration = Duration::from_secs(2_419_200);

#[cfg(test)]
mod tests;
