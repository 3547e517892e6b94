//! The shell around [`Core`]: one task per worker, fed through a bounded queue by the edge and an unbounded one by homes.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use reveille_registrar::{
    flow::FlowRef,
    shard::{HomeEvent, Now, WorkerRef},
};
use reveille_sip::header::HeaderId;
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    auth::{Pin, Unpinned},
    core::{Core, Shared},
    home::HomeAnswer,
    ingress::{Inbound, Ingress},
};

/// What a worker is told beside messages. Answers and facts need no permit: each belongs to a request that has one.
enum Fact {
    Home(u64, HomeEvent),
    Pinned(u64, Unpinned, Pin),
    FlowClosed(FlowRef),
    /// Answered when everything told before has been handled.
    Settle(oneshot::Sender<()>),
    /// The drain's time is up.
    GiveUp,
}

struct Lane {
    messages: mpsc::Sender<Inbound>,
    facts: mpsc::UnboundedSender<Fact>,
}

/// The entrances of all workers.
pub struct Workers {
    lanes: Vec<Lane>,
}

/// The other end of the entrances, until the workers are started.
pub struct WorkerSeats(Vec<(mpsc::Receiver<Inbound>, mpsc::UnboundedReceiver<Fact>)>);

/// Messages handled in one turn before timers get theirs.
const TURN: usize = 64;

impl Workers {
    /// Makes the entrances of `count` workers, each with room for `capacity` messages.
    ///
    /// They exist before the workers do, because homes and edge hold them and the workers hold homes and edge.
    pub fn new(count: usize, capacity: usize) -> (Arc<Self>, WorkerSeats) {
        let (lanes, seats) = (0..count.clamp(1, usize::from(u16::MAX)))
            .map(|_| {
                let (messages, inbox) = mpsc::channel(capacity.max(1));
                let (facts, news) = mpsc::unbounded_channel();
                (Lane { messages, facts }, (inbox, news))
            })
            .unzip();
        (Arc::new(Self { lanes }), WorkerSeats(seats))
    }

    /// Passes a home's answer to the worker that asked.
    pub fn home_answer(&self, answer: HomeAnswer) {
        self.tell(usize::from(answer.to.worker), Fact::Home(answer.to.context, answer.event));
    }

    /// Passes on where a nonce belongs; see [`NoncePins`](crate::auth::NoncePins).
    pub fn pinned(&self, to: WorkerRef, nonce: Unpinned, pin: Pin) {
        self.tell(usize::from(to.worker), Fact::Pinned(to.context, nonce, pin));
    }

    /// Returns when every worker has handled what homes and flows had told it before: what they answered has been sent.
    pub async fn settle(&self) {
        let mut settled = Vec::with_capacity(self.lanes.len());
        for worker in 0..self.lanes.len() {
            let (done, handled) = oneshot::channel();
            self.tell(worker, Fact::Settle(done));
            settled.push(handled);
        }
        for handled in settled {
            // A worker that has ended has nothing left to say.
            let _ = handled.await;
        }
    }

    /// Answers what is still in hand, as far as whoever sent it is connected to this node ([`Core::give_up`]).
    pub async fn give_up(&self) {
        for worker in 0..self.lanes.len() {
            self.tell(worker, Fact::GiveUp);
        }
        self.settle().await;
    }

    fn tell(&self, worker: usize, fact: Fact) {
        if let Some(lane) = self.lanes.get(worker)
            && lane.facts.send(fact).is_err()
        {
            tracing::debug!(worker, "a worker that has stopped was told something");
        }
    }
}

impl reveille_registrar::HomeEvents for Workers {
    fn deliver(&self, to: WorkerRef, event: HomeEvent) {
        self.home_answer(HomeAnswer { to, event });
    }
}

impl Ingress for Workers {
    fn deliver(&self, inbound: Inbound) -> Result<(), Inbound> {
        // All messages of a call meet in one worker, because all carry its Call-ID.
        let call = inbound.message.value(HeaderId::CallId).unwrap_or("");
        let lane = (xxh3_64(call.as_bytes()) % self.lanes.len().max(1) as u64) as usize;
        let Some(lane) = self.lanes.get(lane) else { return Err(inbound) };
        lane.messages.try_send(inbound).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(inbound) | mpsc::error::TrySendError::Closed(inbound) => inbound,
        })
    }

    fn flow_closed(&self, flow: &FlowRef) {
        for worker in 0..self.lanes.len() {
            self.tell(worker, Fact::FlowClosed(*flow));
        }
    }
}

impl WorkerSeats {
    /// Starts the workers. Each ends when every [`Workers`] handle is gone.
    pub fn start(self, shared: &Arc<Shared>) -> Vec<tokio::task::JoinHandle<()>> {
        self.0
            .into_iter()
            .enumerate()
            .map(|(index, (inbox, news))| {
                let core = Core::new(shared.clone(), u16::try_from(index).unwrap_or(u16::MAX));
                tokio::spawn(run(core, inbox, news))
            })
            .collect()
    }
}

async fn run(mut core: Core, mut inbox: mpsc::Receiver<Inbound>, mut news: mpsc::UnboundedReceiver<Fact>) {
    let mut messages = Vec::with_capacity(TURN);
    let mut facts = Vec::with_capacity(TURN);
    let mut closed = Closed::default();
    loop {
        let due = core.poll_timeout();
        tokio::select! {
            biased;
            count = news.recv_many(&mut facts, TURN) => if count == 0 { return },
            count = inbox.recv_many(&mut messages, TURN) => if count == 0 { return },
            () = sleep_until(due) => {}
        }
        let now = read_clock();
        for fact in facts.drain(..) {
            match fact {
                Fact::Home(context, event) => core.home_answer(now, context, event),
                Fact::Pinned(context, nonce, pin) => core.pinned(now, context, nonce, pin),
                Fact::FlowClosed(flow) => closed.add(flow, inbox.len()),
                Fact::Settle(done) => _ = done.send(()),
                Fact::GiveUp => core.give_up(now),
            }
        }
        for inbound in messages.drain(..) {
            core.message(now, inbound);
            closed.handled += 1;
        }
        while let Some(flow) = closed.take() {
            core.flow_closed(now, &flow);
        }
        if core.poll_timeout().is_some_and(|at| at <= now.mono) {
            core.handle_timeout(now);
        }
    }
}

/// Flows that are closed, each held back until what was queued before has been handled. Facts overtake messages, and the last
/// thing a phone says before it goes to sleep is often the answer that a transaction waits for.
#[derive(Default)]
struct Closed {
    /// Messages handled so far.
    handled: u64,
    /// With the number of messages that must have been handled.
    flows: VecDeque<(u64, FlowRef)>,
}

impl Closed {
    fn add(&mut self, flow: FlowRef, queued: usize) {
        self.flows.push_back((self.handled + queued as u64, flow));
    }

    fn take(&mut self) -> Option<FlowRef> {
        self.flows.front().filter(|(due, _)| *due <= self.handled)?;
        self.flows.pop_front().map(|(_, flow)| flow)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The one place of this crate that reads a clock.
fn read_clock() -> Now {
    #[allow(clippy::disallowed_methods)] // the shell is where wall time enters
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Now { mono: tokio::time::Instant::now().into_std(), unix }
}

#[cfg(test)]
mod tests {
    use reveille_registrar::flow::{NodeTag, Transport};

    use super::*;

    // S-056: a transport error is no excuse to lose an answer that had arrived before it.
    #[test]
    fn s056_a_closed_flow_waits_for_what_came_over_it() {
        let flow = |connection| FlowRef::Stream { node: NodeTag(0), epoch: 1, connection, transport: Transport::Tls };
        let mut closed = Closed::default();
        closed.add(flow(1), 2);
        closed.handled += 1;
        closed.add(flow(2), 1);
        assert_eq!(closed.take(), None);
        closed.handled += 1;
        assert_eq!((closed.take(), closed.take(), closed.take()), (Some(flow(1)), Some(flow(2)), None));
        closed.add(flow(3), 0);
        assert_eq!(closed.take(), Some(flow(3)));
    }
}
