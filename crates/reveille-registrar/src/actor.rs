//! The actor around a shard: turns messages into inputs and outputs into sends.
//!
//! Nothing here waits for a network or a disk. A shard of a node that owns all of them is filled from its replica before it
//! serves; one that is taken over from another node serves at once (`tenure`). Memory is never carried over from a failed one.

mod tenure;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
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

pub use self::tenure::Filled;
use self::tenure::Tenure;
use crate::{
    aor::Aor,
    dead::DeadTargets,
    flow::FlowProbe,
    metrics::Metrics,
    record::{BindingKey, Record},
    registrar::{HomeEvents, alarm::Alarm},
    replica::{Acks, Replica, StoreError, Write},
    shard::{HomeEvent, Now, Pace, PushOrder, Shard, ShardConfig, ShardInput, ShardOutput},
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
    /// This node owns the shard from now on.
    Own,
    /// The shard goes to another node.
    Leave {
        /// Told when nothing of it is on its way to the store any more.
        done: oneshot::Sender<()>,
    },
    /// Records were read from the store.
    Filled {
        /// For which time on this node.
        tenure: u32,
        /// Which.
        filled: Filled,
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
    /// Of refresh pushes.
    pub(crate) pace: Arc<Pace>,
    pub(crate) dead: Arc<DeadTargets>,
    /// The shard map: where each shard is now. Empty while one is down.
    pub(crate) map: Box<[ArcSwapOption<Gate<ShardMsg>>]>,
    /// Which shards are this node's. One that is not takes no requests.
    pub(crate) owned: Box<[AtomicBool]>,
    /// Whether that can change; else all are, and each is filled before it serves.
    pub(crate) assigned: bool,
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

    /// Whether a shard is this node's.
    pub(crate) fn is_owned(&self, shard: u16) -> bool {
        self.owned.get(usize::from(shard)).is_some_and(|owned| owned.load(Ordering::Acquire))
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

/// What a shard's actor is started with.
pub(crate) struct Start {
    pub(crate) index: u16,
    /// Times that the shard was begun on this node.
    pub(crate) tenures: Arc<AtomicU32>,
    pub(crate) node: Arc<Node>,
}

/// A running actor: the place of a shard, whether the shard is there or not.
pub(crate) struct Running {
    index: u16,
    tenures: Arc<AtomicU32>,
    node: Arc<Node>,
    tenure: Option<Tenure>,
}

impl Actor for ShardActor {
    type Msg = Admitted<ShardMsg>;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let Start { index, tenures, node } = start;
        let mut running = Running { index, tenures, node, tenure: None };
        if !running.node.assigned {
            running.hydrate().await?;
            running.flush(running.node.epoch.now());
        }
        Ok(running)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        admitted: Admitted<ShardMsg>,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let now = running.node.epoch.now();
        running.take(now, admitted);
        running.flush(now);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let now = running.node.epoch.now();
        if let Some(tenure) = &mut running.tenure {
            tenure.shard.give_up(now);
            running.flush(now);
        }
        Ok(())
    }
}

impl Running {
    /// A shard without records, and the number of its time on this node.
    fn empty(&self) -> (u32, Shard) {
        let number = self.tenures.fetch_add(1, Ordering::Relaxed);
        let config = ShardConfig { incarnation: number, ..self.node.config };
        let (services, flows) = (Arc::clone(&self.node.services), Arc::clone(&self.node.flows));
        let mut shard = Shard::new(config, services, flows, self.node.metrics.clone(), Arc::clone(&self.node.dead));
        shard.share_pace(Arc::clone(&self.node.pace));
        (number, shard)
    }

    /// The shard is this node's from now on, and filled while it serves.
    fn begin(&mut self) {
        let (number, shard) = self.empty();
        self.tenure = Some(Tenure::begin(number, shard, &self.node, self.index));
    }

    /// Fills the shard from its replica.
    async fn hydrate(&mut self) -> Result<(), ActorProcessingErr> {
        let (number, mut shard) = self.empty();
        let _permit = self.node.hydration.clone().acquire_owned().await?;
        let (sender, mut receiver) = mpsc::channel(4);
        let (replica, index) = (Arc::clone(&self.node.replica), self.index);
        let reading = tokio::task::spawn_blocking(move || tenure::batches(&*replica, index, &sender));
        while let Some(batch) = receiver.recv().await {
            shard.handle(self.node.epoch.now(), ShardInput::Loaded(batch));
        }
        reading.await??;
        self.tenure = Some(Tenure::whole(number, shard));
        Ok(())
    }

    fn take(&mut self, now: Now, admitted: Admitted<ShardMsg>) {
        if matches!(admitted.msg, ShardMsg::Own) && self.tenure.is_none() {
            return self.begin();
        }
        let Some(tenure) = &mut self.tenure else { return self.turn_away(admitted.msg) };
        // What a shard that leaves has in memory may be old already: it finishes what it began, and begins nothing.
        if tenure.leaving.is_some() && matches!(&admitted.msg, ShardMsg::Input(input) if input.asker().is_some()) {
            return self.turn_away(admitted.msg);
        }
        let about = match &admitted.msg {
            ShardMsg::Input(input) => input.aor(),
            ShardMsg::Inspect { aor, .. } => Some(aor),
            _ => None,
        };
        if let Some(aor) = about
            && tenure.must_wait(now, &self.node, self.index, aor)
        {
            let aor = aor.clone();
            return tenure.hold(aor, admitted);
        }
        match admitted.msg {
            ShardMsg::Input(input) => tenure.shard.handle(now, input),
            ShardMsg::Inputs(inputs) => inputs.into_iter().for_each(|input| tenure.shard.handle(now, input)),
            ShardMsg::DeadlineReached => tenure.shard.handle_timeout(now),
            // Whoever asked may have gone.
            ShardMsg::Inspect { aor, reply } => _ = reply.send(tenure.shard.record(&aor)),
            ShardMsg::Own => tenure.returns = tenure.leaving.is_some(),
            ShardMsg::Leave { done } => {
                tenure.returns = false;
                let held = tenure.held();
                tenure.shard.hand_over(now);
                tenure.leaving = Some(done);
                held.into_iter().for_each(|admitted| self.turn_away(admitted.msg));
            }
            ShardMsg::Filled { tenure: number, filled } => {
                if number == tenure.number {
                    let freed = tenure.filled(now, &self.node, self.index, filled);
                    freed.into_iter().for_each(|admitted| self.take(now, admitted));
                }
            }
        }
    }

    /// The shard is not here.
    fn turn_away(&self, msg: ShardMsg) {
        match msg {
            ShardMsg::Input(input) => {
                if let Some(asker) = input.asker() {
                    self.node.events.deliver(asker, HomeEvent::Moved);
                }
            }
            ShardMsg::Inputs(inputs) => {
                inputs.into_iter().for_each(|input| self.turn_away(ShardMsg::Input(input)));
            }
            // Dropping a sender tells whoever waits.
            _ => {}
        }
    }

    /// Does what the shard wants done, and lets it go when it is to go and has nothing under way.
    fn flush(&mut self, now: Now) {
        self.carry_out(now);
        let has_left =
            |tenure: &&mut Tenure| tenure.leaving.is_some() && tenure.shard.is_settled() && !tenure.shard.leaves_note();
        if let Some(tenure) = self.tenure.as_mut().filter(has_left)
            && !std::mem::replace(&mut tenure.is_noted, true)
        {
            tenure.shard.note_everything(now);
            self.carry_out(now);
        }
        if let Some(tenure) = self.tenure.as_mut().filter(has_left) {
            // Not before: the last verdicts may have made promises of what was under way.
            tenure.shard.hand_in();
            self.carry_out(now);
        }
        if let Some(gone) = self.tenure.take_if(|tenure| has_left(&tenure))
            && let Some(done) = gone.leaving
        {
            // Whoever wanted the shard gone may have stopped waiting for it.
            let _ = done.send(());
            if gone.returns {
                self.begin();
            }
        }
        let due = self.tenure.as_ref().and_then(|tenure| tenure.shard.poll_timeout());
        self.node.alarm.set(self.index, due);
    }

    fn carry_out(&mut self, now: Now) {
        while let Some(output) = self.tenure.as_mut().and_then(|tenure| tenure.shard.poll_output()) {
            match output {
                ShardOutput::Reply { to, event } => self.node.events.deliver(to, event),
                ShardOutput::Write { write, aor, record } => self.write(now, Write { id: write, aor, value: record }),
                ShardOutput::Push(order) => self.push(now, *order),
                ShardOutput::Note(note) => self.leave_note(now, note),
                ShardOutput::HandIn { aor, promise } => self.node.replica.hand_in(self.index, &aor, *promise),
            }
        }
    }

    fn leave_note(&mut self, now: Now, note: Vec<u8>) {
        let (node, index) = (Arc::clone(&self.node), self.index);
        match node.replica.leave_note(index, note) {
            Some(leaving) => {
                _ = tokio::spawn(async move {
                    leaving.await;
                    node.tell(index, ShardMsg::Input(ShardInput::NoteLeft));
                })
            }
            None => {
                if let Some(tenure) = &mut self.tenure {
                    tenure.shard.handle(now, ShardInput::NoteLeft);
                }
            }
        }
    }

    fn write(&mut self, now: Now, write: Write) {
        let id = write.id;
        self.node.writing.fetch_add(1, Ordering::AcqRel);
        if self.node.replica.write(self.index, write).is_err() {
            self.node.writing.fetch_sub(1, Ordering::AcqRel);
            if let Some(tenure) = &mut self.tenure {
                tenure.shard.handle(now, ShardInput::Written { write: id, result: Err(StoreError::Full) });
            }
        }
    }

    fn push(&self, now: Now, order: PushOrder) {
        let PushOrder { aor, key, push, target, class, deadline, keep_until, repeat, ticket } = order;
        let answer = Answer { node: Arc::downgrade(&self.node), shard: self.index, push, place: Some((aor, key)) };
        let job = PushJob {
            id: push,
            target,
            class,
            deadline,
            ttl: keep_until.saturating_duration_since(now.mono),
            repeat,
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
