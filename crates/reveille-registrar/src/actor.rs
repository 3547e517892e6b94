//! The actor around a shard: turns messages into inputs and outputs into sends.
//!
//! Nothing here waits for a network or a disk. A shard is filled from its replica before it serves; memory is never carried
//! over from a failed one.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use reveille_push::{Outcome, PushJob, PushServices};
use reveille_runtime::{
    clock,
    gate::{Admitted, Gate},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    aor::Aor,
    flow::FlowProbe,
    metrics::Metrics,
    record::{BindingKey, Record},
    registrar::{HomeEvents, alarm::Alarm},
    replica::{Acks, Replica, StoreError, Write},
    shard::{Now, PushOrder, Shard, ShardConfig, ShardInput, ShardOutput},
};

/// What a shard actor is told.
#[derive(Debug)]
pub enum ShardMsg {
    /// One input.
    Input(ShardInput),
    /// Several, in order.
    Inputs(Vec<ShardInput>),
    /// A deadline of the shard has come.
    DeadlineReached,
    /// An operator asks for a record as it is stored.
    Inspect {
        /// Whose.
        aor: Aor,
        /// Who asked.
        reply: oneshot::Sender<Option<Record>>,
    },
}

/// What all shards of a node share.
pub(crate) struct Node {
    pub(crate) replica: Arc<dyn Replica>,
    pub(crate) services: Arc<dyn PushServices>,
    pub(crate) flows: Arc<dyn FlowProbe>,
    pub(crate) events: Arc<dyn HomeEvents>,
    pub(crate) metrics: Metrics,
    pub(crate) config: ShardConfig,
    /// The shard map: where each shard is now. Empty while one is down.
    pub(crate) map: Box<[ArcSwapOption<Gate<ShardMsg>>]>,
    pub(crate) alarm: Alarm,
    /// How many shards may be filled at a time.
    pub(crate) hydration: Arc<Semaphore>,
    /// Writes without a verdict.
    pub(crate) writing: AtomicUsize,
    pub(crate) epoch: Epoch,
}

/// Where time is counted from: wall time once, at the start, and monotonic time from there, so that a step of the node's
/// clock neither ends bindings nor prolongs them (S-116).
#[derive(Clone, Copy)]
pub(crate) struct Epoch {
    mono: Instant,
    unix_millis: u64,
}

impl Epoch {
    pub(crate) fn start() -> Self {
        Self { mono: clock::now(), unix_millis: clock::unix_now_millis() }
    }

    pub(crate) fn now(&self) -> Now {
        let mono = clock::now();
        let gone = u64::try_from(mono.saturating_duration_since(self.mono).as_millis()).unwrap_or(u64::MAX);
        Now { mono, unix: self.unix_millis.saturating_add(gone) / 1000 }
    }
}

impl Node {
    /// Says where a shard is now, or that it is nowhere.
    pub(crate) fn publish(&self, shard: u16, gate: Option<Gate<ShardMsg>>) {
        if let Some(slot) = self.map.get(usize::from(shard)) {
            slot.store(gate.map(Arc::new));
        }
    }

    /// Tells a shard a result, a fact or a timer.
    pub(crate) fn tell(&self, shard: u16, msg: ShardMsg) {
        // A shard that is down has forgotten what this belongs to.
        if let Some(gate) = self.map.get(usize::from(shard)).and_then(|slot| slot.load_full()) {
            let _ = gate.tell(msg);
        }
    }
}

/// Carries the store's verdicts to the shards. Weak: the store must not keep the registrar alive that keeps the store.
pub(crate) struct Verdicts(pub(crate) Weak<Node>);

impl Acks for Verdicts {
    fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>) {
        let Some(node) = self.0.upgrade() else { return };
        node.writing.fetch_sub(1, Ordering::AcqRel);
        node.tell(shard, ShardMsg::Input(ShardInput::Written { write, result }));
    }
}

/// A shard's behaviour.
pub(crate) struct ShardActor;

/// What a shard is started with.
pub(crate) struct Start {
    pub(crate) index: u16,
    pub(crate) incarnation: u32,
    pub(crate) node: Arc<Node>,
}

/// A running shard.
pub(crate) struct Running {
    index: u16,
    node: Arc<Node>,
    shard: Shard,
}

impl Actor for ShardActor {
    type Msg = Admitted<ShardMsg>;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let Start { index, incarnation, node } = start;
        let config = ShardConfig { incarnation, ..node.config };
        let shard = Shard::new(config, Arc::clone(&node.services), Arc::clone(&node.flows), node.metrics.clone());
        let mut running = Running { index, node, shard };
        running.hydrate().await?;
        running.flush(running.node.epoch.now());
        Ok(running)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        admitted: Admitted<ShardMsg>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let now = running.node.epoch.now();
        match admitted.msg {
            ShardMsg::Input(input) => running.shard.handle(now, input),
            ShardMsg::Inputs(inputs) => inputs.into_iter().for_each(|input| running.shard.handle(now, input)),
            ShardMsg::DeadlineReached => running.shard.handle_timeout(now),
            ShardMsg::Inspect { aor, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(running.shard.record(&aor));
                return Ok(());
            }
        }
        running.flush(now);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let now = running.node.epoch.now();
        running.shard.give_up(now);
        running.flush(now);
        Ok(())
    }
}

/// Records handed to a shard in one go while it is filled.
const HYDRATION_BATCH: usize = 256;

impl Running {
    /// Fills the shard from its replica.
    async fn hydrate(&mut self) -> Result<(), ActorProcessingErr> {
        let _permit = self.node.hydration.clone().acquire_owned().await?;
        let (sender, mut receiver) = mpsc::channel(4);
        let (replica, index) = (Arc::clone(&self.node.replica), self.index);
        let reading = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            for record in replica.load(index)? {
                batch.push(record?);
                if batch.len() == HYDRATION_BATCH && sender.blocking_send(std::mem::take(&mut batch)).is_err() {
                    return Ok(());
                }
            }
            // Nobody to take it: the shard's start was given up.
            let _ = sender.blocking_send(batch);
            Ok::<(), StoreError>(())
        });
        while let Some(batch) = receiver.recv().await {
            self.shard.handle(self.node.epoch.now(), ShardInput::Loaded(batch));
        }
        Ok(reading.await??)
    }

    /// Does what the shard wants done.
    fn flush(&mut self, now: Now) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                ShardOutput::Reply { to, event } => self.node.events.deliver(to, event),
                ShardOutput::Write { write, aor, record } => self.write(now, Write { id: write, aor, value: record }),
                ShardOutput::Push(order) => self.push(now, *order),
            }
        }
        self.node.alarm.set(self.index, self.shard.poll_timeout());
    }

    fn write(&mut self, now: Now, write: Write) {
        let id = write.id;
        self.node.writing.fetch_add(1, Ordering::AcqRel);
        if self.node.replica.write(self.index, write).is_err() {
            self.node.writing.fetch_sub(1, Ordering::AcqRel);
            self.shard.handle(now, ShardInput::Written { write: id, result: Err(StoreError::Full) });
        }
    }

    fn push(&self, now: Now, order: PushOrder) {
        let PushOrder { aor, key, push, target, class, deadline, ticket } = order;
        let answer = Answer { node: Arc::downgrade(&self.node), shard: self.index, push, place: Some((aor, key)) };
        let job = PushJob {
            id: push,
            target,
            class,
            deadline,
            ttl: deadline.saturating_duration_since(now.mono),
            ticket,
            reply: Box::new(move |outcome| answer.give(outcome)),
            correlation: rand::random(),
        };
        if let Err(job) = self.node.services.submit(job) {
            job.answer(Outcome::Unavailable);
        }
    }
}

/// The way of a push's verdict back to its shard. A job that is dropped unanswered counts as failed: somebody waits.
struct Answer {
    node: Weak<Node>,
    shard: u16,
    push: u64,
    place: Option<(Aor, BindingKey)>,
}

impl Answer {
    fn give(mut self, outcome: Outcome) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Outcome) {
        if let (Some((aor, key)), Some(node)) = (self.place.take(), self.node.upgrade()) {
            let input = ShardInput::PushAnswered { aor, key, push: self.push, outcome };
            node.tell(self.shard, ShardMsg::Input(input));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Outcome::Unavailable);
    }
}
