//! Supervision: a child that fails is started again, after a pause that grows; one that keeps failing ends the process.
//!
//! A supervisor is an actor. A child is described by a function that starts it, linked to the supervisor, and publishes its
//! new reference to whoever calls it (the shard map, for shards): a restart makes a new actor, never a revived one, and memory
//! is never carried over. Past the policy's limit the supervisor calls [`Fatal::end`], and the process goes down so that the
//! orchestrator acts.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntCounterVec;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::clock;

/// A handle to a running supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    actor: ActorRef<SupervisorMsg>,
    stopping: Arc<AtomicBool>,
}

impl Supervisor {
    /// Starts a supervisor. `restarts` is `reveille_actor_restarts_total{actor}`.
    ///
    /// # Errors
    /// Where the actor system cannot start it.
    pub async fn spawn(policy: RestartPolicy, fatal: Fatal, restarts: IntCounterVec) -> Result<Self, SpawnErr> {
        let stopping = Arc::new(AtomicBool::new(false));
        let keeper = Keeper { policy, fatal, restarts, stopping: Arc::clone(&stopping) };
        let (actor, _) = Keeper::spawn(None, keeper, ()).await?;
        Ok(Self { actor, stopping })
    }

    /// Starts `child` and keeps it running from now on.
    ///
    /// # Errors
    /// Where its first start fails: the caller is still starting too, and decides.
    pub async fn supervise(&self, child: Child) -> Result<(), SpawnErr> {
        let cell = (child.start)(self.actor.get_cell()).await?;
        // A failed cast means that the supervisor has stopped, and with it, being linked, the child.
        let _ = self.actor.cast(SupervisorMsg::Adopt { child, cell });
        Ok(())
    }

    /// Lets every child empty its queue and stop, then stops; waits for that at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.stopping.store(true, Ordering::Release);
        self.actor.drain_children_and_wait(Some(patience)).await;
        self.actor.stop(None);
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("actor", &self.actor.get_id()).finish_non_exhaustive()
    }
}

/// The start of a child, pending.
pub type Starting = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;

/// What a supervisor has to know of a child.
#[derive(Clone)]
pub struct Child {
    name: &'static str,
    start: Arc<dyn Fn(ActorCell) -> Starting + Send + Sync>,
}

impl Child {
    /// A child of the kind `name` (the metric label). `start` gets the supervisor's cell, starts the actor with
    /// `spawn_linked`, publishes the new reference, and returns the new actor's cell.
    pub fn new<F, Fut>(name: &'static str, start: F) -> Self
    where
        F: Fn(ActorCell) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ActorCell, SpawnErr>> + Send + 'static,
    {
        Self { name, start: Arc::new(move |supervisor| Box::pin(start(supervisor))) }
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How often a child may fail, and how long it stays down each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts of one child tolerated within [`RestartPolicy::within`]; one more ends the process.
    pub max_restarts: u32,
    /// The window the restarts are counted in.
    pub within: Duration,
    /// The pause before the first restart; it doubles with each further one in the window.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            within: Duration::from_secs(60),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// The way to end the process from deep inside it: the first reason given is the one that counts.
#[derive(Debug, Clone)]
pub struct Fatal(watch::Sender<Option<String>>);

impl Fatal {
    /// A signal and its watch, which the binary waits on.
    pub fn new() -> (Self, FatalWatch) {
        let (sender, receiver) = watch::channel(None);
        (Self(sender), FatalWatch(receiver))
    }

    /// Asks for the end of the process. `reason` is for the operator's log.
    pub fn end(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|present| {
            let first = present.is_none();
            if first {
                *present = Some(reason);
            }
            first
        });
    }
}

/// The other end of a [`Fatal`].
#[derive(Debug, Clone)]
pub struct FatalWatch(watch::Receiver<Option<String>>);

impl FatalWatch {
    /// Waits until the end was asked for, and says why. Never returns if every [`Fatal`] is gone without a word.
    pub async fn ended(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()) {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// The reason, if the end was asked for already.
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// The supervising actor.
struct Keeper {
    policy: RestartPolicy,
    fatal: Fatal,
    restarts: IntCounterVec,
    stopping: Arc<AtomicBool>,
}

/// What a supervisor can be told.
enum SupervisorMsg {
    Adopt { child: Child, cell: ActorCell },
    RestartDue { index: usize },
    Restarted { index: usize, result: Result<ActorCell, SpawnErr> },
}

#[derive(Default)]
struct Kept {
    children: Vec<(Child, Failures)>,
    running: HashMap<ActorId, usize>,
}

impl Actor for Keeper {
    type Msg = SupervisorMsg;
    type State = Kept;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Kept, ActorProcessingErr> {
        Ok(Kept::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SupervisorMsg,
        state: &mut Kept,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMsg::Adopt { child, cell } => {
                let index = state.children.len();
                state.children.push((child, Failures::default()));
                self.started(&myself, state, index, &cell);
            }
            SupervisorMsg::RestartDue { index } => self.restart(myself, state, index),
            SupervisorMsg::Restarted { index, result } => match result {
                Ok(cell) => self.started(&myself, state, index, &cell),
                Err(error) => self.failed(&myself, state, index, &error.to_string()),
            },
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Kept,
    ) -> Result<(), ActorProcessingErr> {
        let (who, why) = match event {
            SupervisionEvent::ActorTerminated(who, _, why) => (who, why.unwrap_or_else(|| "stopped".to_owned())),
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            _ => return Ok(()),
        };
        // Unknown: a child that ended before its adoption was handled; `started` sees that by its status.
        if let Some(index) = state.running.remove(&who.get_id()) {
            self.failed(&myself, state, index, &why);
        }
        Ok(())
    }
}

impl Keeper {
    fn started(&self, myself: &ActorRef<SupervisorMsg>, state: &mut Kept, index: usize, cell: &ActorCell) {
        if matches!(cell.get_status(), ActorStatus::Stopping | ActorStatus::Stopped) {
            self.failed(myself, state, index, "ended at once");
        } else {
            state.running.insert(cell.get_id(), index);
        }
    }

    fn failed(&self, myself: &ActorRef<SupervisorMsg>, state: &mut Kept, index: usize, why: &str) {
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let Some((child, failures)) = state.children.get_mut(index) else { return };
        match failures.record(&self.policy, clock::now()) {
            Some(pause) => {
                let pause_ms = pause.as_millis();
                tracing::error!(actor = child.name, why, pause_ms, "an actor ended and will be started again");
                myself.send_after(pause, move || SupervisorMsg::RestartDue { index });
            }
            None => {
                tracing::error!(actor = child.name, why, "an actor keeps failing; the process ends");
                self.fatal.end(format!("{} failed more than {} times", child.name, self.policy.max_restarts));
            }
        }
    }

    /// Starts the child in a task of its own: a slow start (a shard reading its replica) must not keep the others waiting.
    fn restart(&self, myself: ActorRef<SupervisorMsg>, state: &mut Kept, index: usize) {
        if self.stopping.load(Ordering::Acquire) {
            return;
        }
        let Some((child, _)) = state.children.get(index) else { return };
        self.restarts.with_label_values(&[child.name]).inc();
        let starting = (child.start)(myself.get_cell());
        tokio::spawn(async move {
            let result = starting.await;
            // A failed cast means that the supervisor has stopped, and its children with it.
            let _ = myself.cast(SupervisorMsg::Restarted { index, result });
        });
    }
}

/// The failures of one child that still count.
#[derive(Debug, Default)]
struct Failures(Vec<Instant>);

impl Failures {
    /// Notes a failure: the pause before the next start, or `None` to give up.
    fn record(&mut self, policy: &RestartPolicy, now: Instant) -> Option<Duration> {
        self.0.retain(|at| now.saturating_duration_since(*at) < policy.within);
        if self.0.len() >= policy.max_restarts as usize {
            return None;
        }
        let doublings = u32::try_from(self.0.len()).unwrap_or(u32::MAX).min(30);
        self.0.push(now);
        Some(policy.first_pause.saturating_mul(1 << doublings).min(policy.longest_pause))
    }
}

#[cfg(test)]
mod tests;
