//! The dispatcher of one credential: an actor that owns the queue, the window and the breaker. It never waits for the network:
//! each push is a task that casts its result back.

mod verdict;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use reveille_push::{Outcome, PushClass};
use reveille_runtime::{Admitted, clock};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    Limits,
    alarm::Alarms,
    attempt::attempt,
    breaker::Breaker,
    metrics::LaneMetrics,
    provider::{Classified, Provider, wall_now},
    queue::{Job, Queue},
    rate::{Quiet, Rate},
    window::Window,
};

/// What a dispatcher can be asked and told.
pub(crate) enum DispatcherMsg {
    /// Send this.
    Submit(Box<Job>),
    /// The next batch is due.
    Flush,
    /// A deadline, a repetition or the breaker's pause has come due.
    Due,
    /// An attempt ended; `None` if its task did not live to tell.
    Returned(Option<Box<(Job, Classified)>>),
    /// Look after the credential.
    Maintain,
    /// The credential was looked after.
    Maintained,
    /// The credential could not be had; look again.
    TryAgain,
    /// There are new keys.
    Reloaded,
    /// Take nothing more, and say when everything is answered.
    Drain(oneshot::Sender<()>),
}

/// What is known of a dispatcher from outside it; outlives its restarts.
pub(crate) struct Health {
    /// The credential was withdrawn (P-122).
    withdrawn: AtomicBool,
    /// Whether the credential was looked after at least once.
    pub(crate) warm: watch::Sender<bool>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { withdrawn: AtomicBool::new(false), warm: watch::Sender::new(false) }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }
}

/// The actor.
pub(crate) struct Dispatcher {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) health: Arc<Health>,
    pub(crate) limits: Limits,
    pub(crate) metrics: LaneMetrics,
}

/// What a dispatcher remembers.
pub(crate) struct State {
    queue: Queue,
    window: Window,
    breaker: Breaker,
    alarms: Alarms,
    rate: Option<Rate>,
    quiet: Quiet,
    in_flight: usize,
    /// A `Flush` is in the mailbox.
    flushing: bool,
    /// A `Flush` will come when the batch has gathered.
    gathering: bool,
    timer: Option<(Instant, JoinHandle<()>)>,
    maintenance: Option<JoinHandle<()>>,
    draining: Vec<oneshot::Sender<()>>,
    drained: bool,
}

type Myself = ActorRef<Admitted<DispatcherMsg>>;

impl Actor for Dispatcher {
    type Msg = Admitted<DispatcherMsg>;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: Myself, (): ()) -> Result<State, ActorProcessingErr> {
        tell(&myself, DispatcherMsg::Maintain);
        self.health.withdrawn.store(false, Ordering::Release);
        Ok(State {
            queue: Queue::new(self.limits.queue),
            window: Window::new(self.limits.max_connections.saturating_mul(self.limits.streams)),
            breaker: Breaker::new(self.limits.breaker_threshold, self.limits.breaker_probe),
            alarms: Alarms::default(),
            rate: self.provider.per_minute().map(|per_minute| Rate::new(per_minute, clock::now())),
            quiet: Quiet::default(),
            in_flight: 0,
            flushing: false,
            gathering: false,
            timer: None,
            maintenance: None,
            draining: Vec::new(),
            drained: false,
        })
    }

    async fn handle(&self, myself: Myself, admitted: Self::Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        match admitted.msg {
            DispatcherMsg::Submit(job) => self.submitted(&myself, state, *job, now),
            DispatcherMsg::Flush => {
                state.flushing = false;
                state.gathering = false;
                self.pump(&myself, state, now);
            }
            DispatcherMsg::Due => {
                state.timer = None;
                self.pump(&myself, state, now);
            }
            DispatcherMsg::Returned(result) => {
                state.in_flight = state.in_flight.saturating_sub(1);
                if let Some(result) = result {
                    let (job, classified) = *result;
                    self.returned(state, job, classified, now);
                }
                self.pump(&myself, state, now);
            }
            DispatcherMsg::Maintain => self.maintain(&myself, state),
            DispatcherMsg::Maintained => self.maintained(&myself),
            DispatcherMsg::TryAgain => self.maintain_now(&myself, state),
            DispatcherMsg::Reloaded => {
                state.breaker.reset();
                self.maintain_now(&myself, state);
                self.pump(&myself, state, now);
            }
            DispatcherMsg::Drain(done) => {
                state.drained = true;
                state.draining.push(done);
                self.pump(&myself, state, now);
            }
        }
        Ok(())
    }
}

impl Dispatcher {
    fn submitted(&self, myself: &Myself, state: &mut State, job: Job, now: Instant) {
        let class = job.class;
        if state.drained {
            return self.finish(job, Outcome::Unavailable, "draining");
        }
        if state.breaker.is_open() {
            return self.finish(job, Outcome::CredentialFault, "breaker_open");
        }
        if job.deadline <= now {
            return self.finish(job, Outcome::Expired, "expired");
        }
        // P-135, P-153: the push service wants this device left alone.
        if let Some(until) = state.quiet.until(state.queue.token(&job.target), now) {
            if until >= job.deadline || state.queue.is_full() {
                let retry_after = Some(until.saturating_duration_since(now));
                return self.finish(job, Outcome::Throttled { retry_after }, "device_throttled");
            }
            state.queue.delay(job, until);
            return self.pump(myself, state, now);
        }
        if let Some(shed) = state.queue.push(job) {
            self.finish(shed, Outcome::Unavailable, "shed");
        }
        // A call goes with whatever the mailbox holds now; the rest can wait for company.
        if class == PushClass::Call || self.limits.gather.is_zero() {
            self.flush_now(myself, state);
        } else if !state.gathering && !state.flushing {
            state.gathering = true;
            myself.send_after(self.limits.gather, || Admitted::free(DispatcherMsg::Flush));
        }
    }

    fn flush_now(&self, myself: &Myself, state: &mut State) {
        if !state.flushing {
            state.flushing = true;
            tell(myself, DispatcherMsg::Flush);
        }
    }

    /// Lets go of what is too late, starts what may start, and sets the timer.
    fn pump(&self, myself: &Myself, state: &mut State, now: Instant) {
        for job in state.queue.handle_timeout(now) {
            self.finish(job, Outcome::Expired, "expired");
        }
        state.breaker.handle_timeout(now);
        if state.breaker.is_open() {
            for job in state.queue.drain() {
                self.finish(job, Outcome::CredentialFault, "breaker_open");
            }
        }
        let most = if state.breaker.is_probing() { 1 } else { state.window.size() };
        let rate = state.rate.as_mut().map_or(usize::MAX, |rate| rate.room(now));
        let room = most.saturating_sub(state.in_flight).min(self.limits.batch.max(1)).min(rate);
        let batch = state.queue.take(room);
        if let Some(rate) = &mut state.rate {
            rate.spend(batch.len());
        }
        let rate = rate.saturating_sub(batch.len());
        for job in batch {
            if job.ticket.is_withdrawn() {
                self.finish(job, Outcome::Withdrawn, "withdrawn");
            } else {
                state.in_flight += 1;
                self.start(myself, job);
            }
        }
        if state.in_flight < most && rate > 0 && state.queue.is_ready() {
            self.flush_now(myself, state);
        }
        self.publish(state);
        self.arm(myself, state, now);
        if state.drained && state.in_flight == 0 && state.queue.is_empty() {
            for done in state.draining.drain(..) {
                let _ = done.send(());
            }
        }
    }

    fn start(&self, myself: &Myself, mut job: Job) {
        let provider = Arc::clone(&self.provider);
        let (limits, metrics) = (self.limits.clone(), self.metrics.clone());
        let in_flight = InFlight { dispatcher: myself.clone(), result: None };
        tokio::spawn(async move {
            let classified = attempt(&*provider, &mut job, &limits, &metrics).await;
            in_flight.ended(job, classified);
        });
    }

    fn finish(&self, job: Job, outcome: Outcome, reason: &'static str) {
        self.metrics.verdict(outcome, reason);
        tracing::debug!(
            pns = self.provider.pns(),
            class = job.class.as_str(),
            outcome = outcome.as_str(),
            reason,
            "push"
        );
        job.finish(outcome);
    }

    fn publish(&self, state: &State) {
        let withdrawn = state.breaker.is_open();
        if self.health.withdrawn.swap(withdrawn, Ordering::AcqRel) != withdrawn {
            let (pns, credential) = (self.provider.pns(), self.provider.name());
            if withdrawn {
                self.metrics.alarm("credential_withdrawn");
                tracing::error!(
                    pns,
                    credential,
                    "the credential is refused again and again; it is no longer announced"
                );
            } else {
                tracing::warn!(pns, credential, "the credential is announced again");
            }
        }
        self.metrics.queue_depth.set(i64::try_from(state.queue.len()).unwrap_or(i64::MAX));
        self.metrics.breaker_state.set(if withdrawn { 2 } else { i64::from(state.breaker.is_probing()) });
    }

    /// One timer for everything that comes due.
    fn arm(&self, myself: &Myself, state: &mut State, now: Instant) {
        let rate = state.rate.as_ref().filter(|_| state.queue.is_ready()).and_then(Rate::poll_timeout);
        let next = [state.queue.poll_timeout(), state.breaker.poll_timeout(), rate].into_iter().flatten().min();
        if state.timer.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, timer)) = state.timer.take() {
            timer.abort();
        }
        if let Some(at) = next {
            let myself = myself.clone();
            let wait = at.saturating_duration_since(now);
            let timer = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                tell(&myself, DispatcherMsg::Due);
            });
            state.timer = Some((at, timer));
        }
    }

    /// Every so often, whether or not the last time has ended.
    fn maintain(&self, myself: &Myself, state: &mut State) {
        myself.send_after(MAINTENANCE, || Admitted::free(DispatcherMsg::Maintain));
        self.maintain_now(myself, state);
    }

    fn maintain_now(&self, myself: &Myself, state: &mut State) {
        if state.maintenance.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (provider, myself) = (Arc::clone(&self.provider), myself.clone());
        state.maintenance = Some(tokio::spawn(async move {
            provider.maintain(wall_now()).await;
            tell(&myself, DispatcherMsg::Maintained);
        }));
    }

    fn maintained(&self, myself: &Myself) {
        let now = wall_now();
        self.metrics.token_age(&*self.provider, now);
        self.health.warm.send_replace(true);
        if !self.provider.ready(now) {
            myself.send_after(UNREADY, || Admitted::free(DispatcherMsg::TryAgain));
        }
    }
}

/// The promise that an attempt comes back, whatever happens to its task.
struct InFlight {
    dispatcher: Myself,
    result: Option<Box<(Job, Classified)>>,
}

impl InFlight {
    fn ended(mut self, job: Job, classified: Classified) {
        self.result = Some(Box::new((job, classified)));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // A failed cast drops the job, which answers for itself.
        tell(&self.dispatcher, DispatcherMsg::Returned(self.result.take()));
    }
}

fn tell(dispatcher: &Myself, msg: DispatcherMsg) {
    // It fails only where the dispatcher has ended; its restart begins afresh.
    let _ = dispatcher.cast(Admitted::free(msg));
}

const MAINTENANCE: Duration = Duration::from_secs(30);
/// How soon a credential that could not be had is tried again.
const UNREADY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
