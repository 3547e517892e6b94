//! The shell of the registrar: one actor per shard, a gate in front of each, a supervisor behind them.

pub(crate) mod alarm;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ractor::{Actor, SpawnErr};
use reveille_push::PushServices;
use reveille_runtime::{
    RuntimeMetrics,
    gate::{Gate, Refused},
    supervise::{Child, Fatal, RestartPolicy, Supervisor},
};
use tokio::{
    sync::{Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
};

use self::alarm::Alarm;
use crate::{
    actor::{Epoch, Node, ShardActor, ShardMsg, Start, Verdicts},
    aor::Aor,
    dead::{self, DeadTargets},
    flow::FlowProbe,
    metrics::Metrics,
    record::Record,
    replica::Replica,
    shard::{Amendment, HomeEvent, Pace, ShardConfig, ShardInput, WorkerRef},
};

/// Hears what shards have to say to workers.
pub trait HomeEvents: Send + Sync {
    /// Takes an event. Never blocks, and never refuses: a result must reach whoever waits for it.
    fn deliver(&self, to: WorkerRef, event: HomeEvent);
}

/// How the registrar runs.
#[derive(Clone, Debug)]
pub struct RegistrarConfig {
    /// Number of shards; fixed for the life of a cluster, since records are stored by shard.
    pub shards: u16,
    /// What each shard is held to.
    pub shard: ShardConfig,
    /// Requests that may wait at one shard's gate.
    pub queue: usize,
    /// Shards filled at a time.
    pub hydration: usize,
    /// Whether this node shares the shards with others: it starts with none, and is given them by [`Registrar::acquire`].
    pub assigned: bool,
    /// How often a shard may fail before the process gives up.
    pub restarts: RestartPolicy,
    /// What is known of dead push tokens; nodes that share it have the same key.
    pub dead: Arc<DeadTargets>,
    /// The registrar's metrics.
    pub metrics: Metrics,
    /// Metrics of gates and supervisors.
    pub runtime: RuntimeMetrics,
    /// The way to end the process.
    pub fatal: Fatal,
}

impl RegistrarConfig {
    /// The defaults: 1024 shards, 1024 requests queued at each.
    pub fn new(metrics: Metrics, runtime: RuntimeMetrics, fatal: Fatal) -> Self {
        Self {
            shards: 1024,
            shard: ShardConfig::default(),
            queue: 1024,
            hydration: 8,
            assigned: false,
            restarts: RestartPolicy::default(),
            dead: Arc::new(DeadTargets::new(&rand::random(), dead::MOST, metrics.dead_marks.clone())),
            metrics,
            runtime,
            fatal,
        }
    }
}

/// The registrar of this node. Cheap to clone; its shards run until [`Registrar::drain`].
#[derive(Clone)]
pub struct Registrar(Arc<Inner>);

struct Inner {
    node: Arc<Node>,
    supervisor: Supervisor,
    watch: JoinHandle<()>,
    draining: AtomicBool,
}

impl Registrar {
    /// Starts all shards, each filled from the replica; returns when they all serve.
    ///
    /// # Errors
    /// Where a shard cannot be started, or its records cannot be read.
    pub async fn spawn(
        config: RegistrarConfig,
        replica: Arc<dyn Replica>,
        services: Arc<dyn PushServices>,
        flows: Arc<dyn FlowProbe>,
        events: Arc<dyn HomeEvents>,
    ) -> Result<Self, SpawnErr> {
        let shards = config.shards.max(1);
        let node = Arc::new(Node {
            replica: Arc::clone(&replica),
            services,
            flows,
            events,
            metrics: config.metrics,
            config: config.shard,
            pace: Arc::new(Pace::new(config.shard.refresh.per_second)),
            dead: config.dead,
            map: (0..shards).map(|_| ArcSwapOption::empty()).collect(),
            owned: (0..shards).map(|_| AtomicBool::new(!config.assigned)).collect(),
            assigned: config.assigned,
            alarm: Alarm::new(shards),
            hydration: Arc::new(Semaphore::new(config.hydration.max(1))),
            writing: AtomicUsize::new(0),
            epoch: Epoch::start(),
        });
        replica.attach(Arc::new(Verdicts(Arc::downgrade(&node))));
        let supervisor =
            Supervisor::spawn(config.restarts, config.fatal, config.runtime.actor_restarts.clone()).await?;
        let refusals = config.runtime.gate("shard");
        let mut starting = JoinSet::new();
        for index in 0..shards {
            let (node, refusals, queue) = (Arc::clone(&node), refusals.clone(), config.queue);
            let tenures = Arc::new(AtomicU32::new(0));
            let child = Child::new("shard", move |supervisor| {
                let (node, refusals) = (Arc::clone(&node), refusals.clone());
                let tenures = Arc::clone(&tenures);
                async move {
                    // Whoever asks while the shard is down hears so, and not from the one that failed.
                    node.publish(index, None);
                    let start = Start { index, tenures, node: Arc::clone(&node) };
                    let (actor, _) = ShardActor::spawn_linked(None, ShardActor, start, supervisor).await?;
                    let cell = actor.get_cell();
                    node.publish(index, Some(Gate::new(actor, queue, refusals)));
                    // It was this node's when its actor failed, or became so while there was none.
                    if node.assigned && node.is_owned(index) {
                        node.tell(index, ShardMsg::Own);
                    }
                    // A deadline that came before the shard could be found is made up for.
                    node.tell(index, ShardMsg::DeadlineReached);
                    Ok(cell)
                }
            });
            let supervisor = supervisor.clone();
            starting.spawn(async move { supervisor.supervise(child).await });
        }
        while let Some(started) = starting.join_next().await {
            started.map_err(|error| SpawnErr::StartupFailed(error.into()))??;
        }
        let watch = tokio::spawn(alarm::watch(node.clone()));
        Ok(Self(Arc::new(Inner { node, supervisor, watch, draining: AtomicBool::new(false) })))
    }

    /// Sends an input to the shard of `aor`. Never waits. Requests need room at the gate; facts and results always get in.
    /// Where the shard is another node's, whoever asked is told [`HomeEvent::Moved`].
    ///
    /// # Errors
    /// Gives a request back that found no room, or whose shard is down: the caller answers 503 with Retry-After.
    pub fn send(&self, aor: &Aor, input: ShardInput) -> Result<(), Refused<ShardInput>> {
        let is_request = matches!(
            input,
            ShardInput::Register(_) | ShardInput::Resolve(_) | ShardInput::Wake(_) | ShardInput::Next(_)
        );
        if is_request && self.0.draining.load(Ordering::Acquire) {
            return Err(Refused::Stopped(Some(input)));
        }
        let (node, shard) = (&self.0.node, self.shard_of(aor));
        if !node.is_owned(shard) {
            // It has gone since its owner was looked up; a fact about it is no concern of this node any more.
            if let Some(asker) = input.asker() {
                node.events.deliver(asker, HomeEvent::Moved);
            }
            return Ok(());
        }
        let slot = node.map.get(usize::from(shard));
        let Some(gate) = slot.and_then(|slot| slot.load_full()) else { return Err(Refused::Stopped(Some(input))) };
        let msg = ShardMsg::Input(input);
        let sent = if is_request { gate.try_send(msg) } else { gate.tell(msg) };
        sent.map_err(|refused| match refused {
            Refused::Full(ShardMsg::Input(input)) => Refused::Full(input),
            Refused::Stopped(Some(ShardMsg::Input(input))) => Refused::Stopped(Some(input)),
            _ => Refused::Stopped(None),
        })
    }

    /// The record of `aor` as it is stored, for operators; `None` inside where there is no binding. Takes a place at the gate
    /// like any request, so that curiosity cannot crowd out calls.
    ///
    /// # Errors
    /// [`Busy`] where the shard is down or has no room.
    pub async fn inspect(&self, aor: &Aor) -> Result<Option<Record>, Busy> {
        let shard = self.shard_of(aor);
        let slot = self.0.node.map.get(usize::from(shard)).filter(|_| self.0.node.is_owned(shard));
        let gate = slot.and_then(|slot| slot.load_full()).ok_or(Busy)?;
        let (reply, answer) = oneshot::channel();
        gate.try_send(ShardMsg::Inspect { aor: aor.clone(), reply }).map_err(|_| Busy)?;
        answer.await.map_err(|_| Busy)
    }

    /// Changes the record of `aor`, and returns when the change has been handed to the replica. `false` where the shard is not here.
    pub async fn amend(&self, aor: &Aor, change: impl Fn(&mut Record) -> bool + Send + 'static) -> bool {
        let (done, handed_over) = oneshot::channel();
        let amendment = Amendment { aor: aor.clone(), change: Box::new(change), done };
        self.send(aor, ShardInput::Amend(amendment)).is_ok() && handed_over.await.is_ok()
    }

    /// The shard of an address-of-record.
    pub fn shard_of(&self, aor: &Aor) -> u16 {
        aor.shard(u16::try_from(self.0.node.map.len()).unwrap_or(u16::MAX))
    }

    /// What is known of dead push tokens, to be shared with other nodes.
    pub fn dead_targets(&self) -> Arc<DeadTargets> {
        Arc::clone(&self.0.node.dead)
    }

    /// How many shards serve at this moment; a node is ready when all do.
    pub fn serving(&self) -> usize {
        let slots = self.0.node.map.iter().zip(&self.0.node.owned);
        slots.filter(|(slot, owned)| owned.load(Ordering::Acquire) && slot.load().is_some()).count()
    }

    /// Records that are newer in memory than in the replica, which is away.
    pub fn deferred(&self) -> u64 {
        u64::try_from(self.0.node.metrics.deferred.get()).unwrap_or(0)
    }

    /// This node owns `shard` from now on, as far as it knows, and serves it at once: what is asked for is read from the
    /// replica first, the rest follows in the background.
    pub fn acquire(&self, shard: u16) {
        let node = &self.0.node;
        let Some(owned) = node.owned.get(usize::from(shard)) else { return };
        // First the word, then the requests: they queue behind it.
        node.tell(shard, ShardMsg::Own);
        owned.store(true, Ordering::Release);
    }

    /// This node owns `shard` no longer. Takes nothing new for it and tells whoever waits to ask its next owner, both at once,
    /// whether the future is awaited or not, so that an [`Registrar::acquire`] after it comes after it. The future is done when
    /// nothing of the shard is on its way to the replica any more. Memory of it is gone then.
    pub fn release(&self, shard: u16) -> impl Future<Output = ()> + Send + 'static + use<> {
        let node = &self.0.node;
        let (done, gone) = oneshot::channel();
        if let Some(owned) = node.owned.get(usize::from(shard)) {
            owned.store(false, Ordering::Release);
            node.tell(shard, ShardMsg::Leave { done });
        }
        async move {
            // An error where the shard was not there, or its actor has failed: it is not there now.
            let _ = gone.await;
        }
    }

    /// Takes no new requests, waits until nobody waits in a bucket and every record has its verdict, and stops the shards;
    /// all within `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.0.draining.store(true, Ordering::Release);
        let node = &self.0.node;
        let idle = async {
            while node.metrics.waiters.get() > 0 || node.writing.load(Ordering::Acquire) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(patience, idle).await.is_err() {
            tracing::warn!(waiting = node.metrics.waiters.get(), "the registrar stops while requests still wait");
        }
        self.0.supervisor.drain(patience).await;
    }
}

/// The shard cannot answer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard is down or overloaded")]
pub struct Busy;

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("serving", &self.serving()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
