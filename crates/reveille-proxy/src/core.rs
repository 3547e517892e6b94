//! The request path of one worker, as a deterministic value: messages, home answers and instants in; sends and questions out.
//!
//! A worker owns every transaction of the calls whose Call-ID hashes to it, so nothing here is shared or locked. The
//! *edge* half (`admission`, `routes`) decides who may say what and whose business a request is; the *home* half
//! (`register`, `deliver`) talks to the shard that owns the address-of-record. What was let through is forked in
//! `branch`, ended in `outcome` and rewritten in `forward`. What is another node's business goes `onward`;
//! what comes a second time meets its first copy in `twins`; whom a flow may speak for is in `trust`.

mod admission;
mod branch;
mod context;
mod deliver;
mod drain;
mod forward;
mod moved;
mod onward;
mod outcome;
mod pinned;
mod rebound;
mod refused;
mod register;
mod reply;
mod routes;
#[cfg(test)]
mod tests;
mod trust;
mod twins;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use bytes::Bytes;
use hashbrown::HashMap;
use reveille_push::service::PushServices;
use reveille_registrar::{
    flow::FlowRef,
    shard::{HomeEvent, Now},
};
use reveille_runtime::deadline::DeadlineQueue;
use reveille_sip::{edit::Edit, limits::Limits, message::Message, method::Method, validate};
use reveille_transaction::{BranchId, ClientId, Event, Failure, Received, ServerId, Transactions};

use self::{
    admission::Decision,
    context::{Context, Origin, Work},
    reply::Reply,
};
use crate::{
    auth::{Digest, NoncePins, Users},
    egress::Flows,
    home::Homes,
    ingress::{Hold, Inbound},
    metrics::Metrics,
    peers::Peers,
    settings::Settings,
};

/// What all workers of a node share.
pub struct Shared {
    /// The operator's decisions.
    pub settings: Settings,
    /// The way out.
    pub flows: Arc<dyn Flows>,
    /// The owners of addresses-of-record.
    pub homes: Arc<dyn Homes>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// The push services.
    pub pushes: Arc<dyn PushServices>,
    /// Digest authentication; absent where the operator chose `auth.mode = "none"`.
    pub auth: Option<Arc<Digest>>,
    /// Where nonces are bound to nodes; absent where there is one node, or no digest.
    pub pins: Option<Arc<dyn NoncePins>>,
    /// The users, to tell "unknown" from "not registered"; absent with `auth`.
    pub users: Option<Arc<dyn Users>>,
    /// What is counted.
    pub metrics: Metrics,
    /// Set while the node drains: new dialogs and registrations are sent elsewhere with 503, where there is no other node to pass
    /// them on to.
    pub draining: AtomicBool,
    /// Set when a drain nears its end: nothing new is begun any more for those who are still connected, so that what is in hand can
    /// come to its end.
    pub closing: AtomicBool,
    /// Random at each start; makes branches and tags of different starts differ.
    pub salt: u64,
}

/// The timers of this layer; those of transactions are their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// The phone has been silent on a flow that looked open.
    FlowPatience { context: u64, branch: u32 },
    /// The response context wants attention (Timer C).
    Fork { context: u64 },
    /// A shard owes an answer.
    HomeOverdue { context: u64 },
    /// A request whose home went away looks for the new one.
    Rehome { context: u64 },
}

/// One worker's request path.
pub struct Core {
    shared: Arc<Shared>,
    worker: u16,
    transactions: Transactions<FlowRef>,
    contexts: HashMap<u64, Context>,
    servers: HashMap<ServerId, u64>,
    clients: HashMap<ClientId, (u64, BranchId)>,
    /// The request that has just come in keeps its connection open by this.
    arriving: Option<Hold>,
    /// What requests without a final answer keep open: the connections they came by, and those they left by.
    held: HashMap<ServerId, Hold>,
    held_ahead: HashMap<ClientId, Hold>,
    /// INVITEs that homes sent down flows of ours, by what their copies have in common.
    twins: HashMap<u64, u64>,
    deadlines: DeadlineQueue<Timer>,
    next_context: u64,
}

impl Core {
    /// A worker's core; `worker` is its index, by which homes answer it.
    pub fn new(shared: Arc<Shared>, worker: u16) -> Self {
        let transactions = Transactions::new(shared.settings.timers.clone(), shared.settings.transactions);
        Self {
            shared,
            worker,
            transactions,
            contexts: HashMap::new(),
            servers: HashMap::new(),
            clients: HashMap::new(),
            arriving: None,
            held: HashMap::new(),
            held_ahead: HashMap::new(),
            twins: HashMap::new(),
            deadlines: DeadlineQueue::new(),
            next_context: 1,
        }
    }

    /// Takes a message from the network.
    pub fn message(&mut self, now: Now, inbound: Inbound) {
        let origin = Origin::of(&inbound);
        let (message, hold) = (inbound.message, inbound.hold);
        let reliable = origin.transport.is_reliable();
        if !message.is_request() {
            if validate::response(&message).is_err() {
                self.shared.metrics.dropped("malformed_response"); // S-019
                return;
            }
            let message = rebound::unspoken(message, &origin);
            self.transactions.receive(now.mono, message, origin.flow, reliable);
            return self.settle(now, None);
        }
        self.shared.metrics.request(message.method(), origin.transport);
        if let Err(rejection) = validate::request(&message) {
            // Answered without a transaction: what is malformed may not even have a usable transaction key.
            if message.method() != Method::Ack {
                self.reply_statelessly(&message, &origin, Reply::from(rejection));
            }
            return;
        }
        let message = stamped(message, &origin);
        self.arriving = hold;
        if let Received::Full(message) = self.transactions.receive(now.mono, message, origin.flow, reliable)
            && message.method() != Method::Ack
        {
            let reply = self.overloaded(); // S-059
            self.reply_statelessly(&message, &origin, reply);
        }
        self.settle(now, Some(&origin));
        self.arriving = None;
    }

    /// Takes what a home says to context `context`.
    pub fn home_answer(&mut self, now: Now, context: u64, event: HomeEvent) {
        match event {
            HomeEvent::Registered(result) => self.registered(now, context, result),
            HomeEvent::Resolved { targets, waiting, known } => self.resolved(now, context, targets, waiting, known),
            HomeEvent::Woken { key, target } => self.woken(now, context, key, target),
            HomeEvent::WakeFailed { key, why } => self.wake_failed(now, context, key, why),
            HomeEvent::LateTarget { target } => self.late_target(now, context, target),
            HomeEvent::Moved => self.moved(now, context),
        }
        self.settle(now, None);
    }

    /// A flow closed: what was sent on it without an answer failed.
    pub fn flow_closed(&mut self, now: Now, flow: &FlowRef) {
        self.transactions.transport_failed(now.mono, flow);
        self.settle(now, None);
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        match (self.transactions.poll_timeout(), self.deadlines.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Handles every timer due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        self.transactions.handle_timeout(now.mono);
        while let Some(timer) = self.deadlines.pop_due(now.mono) {
            match timer {
                Timer::FlowPatience { context, branch } => self.flow_patience_over(now, context, BranchId(branch)),
                Timer::Fork { context } => self.fork_timeout(now, context),
                Timer::HomeOverdue { context } => self.home_overdue(now, context),
                Timer::Rehome { context } => self.rehome(now, context),
            }
        }
        self.settle(now, None);
    }

    /// Requests in hand.
    pub fn contexts(&self) -> usize {
        self.contexts.len()
    }

    /// Lets transactions and contexts talk until both are quiet; `origin` is whom the message just received came from.
    fn settle(&mut self, now: Now, origin: Option<&Origin>) {
        loop {
            while let Some(transmit) = self.transactions.poll_transmit() {
                self.transmit(now, &transmit.to, transmit.bytes);
            }
            let Some(event) = self.transactions.poll_event() else { break };
            match event {
                Event::Request { id, msg, .. } => {
                    self.held.extend(self.arriving.take().map(|hold| (id, hold)));
                    if let Some(origin) = origin {
                        self.request(now, id, msg, origin);
                    }
                }
                Event::Ack { msg, .. } => {
                    if let Some(origin) = origin {
                        self.forward_ack(&msg, origin);
                    }
                }
                Event::Cancel { invite } => self.cancelled(now, invite),
                Event::Response { id, msg } => self.response(now, id, msg),
                Event::Failed { id, why } => self.client_failed(now, id, why),
                Event::ServerGone { id } => self.server_gone(id),
                Event::ClientGone { id } => {
                    self.held_ahead.remove(&id);
                    self.clients.remove(&id);
                }
            }
        }
    }

    fn transmit(&mut self, now: Now, to: &FlowRef, bytes: Bytes) {
        if self.shared.flows.send(to, bytes.clone()).is_err() {
            reply::send_anew(&*self.shared.flows, bytes);
            // S-056: known at once, so the alternative is tried at once. Idempotent for flows already reported closed.
            self.transactions.transport_failed(now.mono, to);
        }
    }

    fn request(&mut self, now: Now, server: ServerId, message: Message, origin: &Origin) {
        let method = message.method();
        let decision = self.admit(now, &message, origin);
        match decision {
            Decision::Reply(reply) => self.reply(now, server, &message, origin, reply),
            Decision::Hold(nonce) => self.hold(now, server, message, origin, nonce),
            Decision::Register(registration) => {
                self.begin_register(now, server, message, origin, *registration);
            }
            Decision::Deliver(plan) => {
                if method == Method::Invite {
                    // S-043, P-068: stops the caller's timers, and gives a CANCEL something to find.
                    let trying = self.build_reply(&message, origin, Reply::new(100), None);
                    self.respond(now, server, 100, trying);
                }
                self.begin_delivery(now, server, message, origin, *plan);
            }
        }
    }

    /// Answers a request. With its final answer it no longer keeps its connection from being drained.
    fn respond(&mut self, now: Now, server: ServerId, status: u16, bytes: Bytes) {
        if status >= 200 {
            self.held.remove(&server);
        }
        self.transactions.respond(now.mono, server, status, bytes);
    }

    fn server_gone(&mut self, server: ServerId) {
        self.held.remove(&server);
        if let Some(id) = self.servers.remove(&server)
            && let Some(context) = self.contexts.get_mut(&id)
        {
            // Homes and branches may still owe something; the context ends when nobody does.
            context.server_gone = true;
            self.forget_if_over(id);
        }
    }

    fn client_failed(&mut self, now: Now, client: ClientId, why: Failure) {
        self.held_ahead.remove(&client);
        let Some((context, branch)) = self.clients.remove(&client) else { return };
        self.branch_failed(now, context, branch, why);
    }

    fn open_context(&mut self, server: ServerId, origin: &Origin, method: Method, now: Now, work: Work) -> u64 {
        let id = self.next_context;
        self.next_context += 1;
        self.servers.insert(server, id);
        self.contexts
            .insert(id, Context { server, origin: *origin, method, started: now.mono, server_gone: false, work });
        self.shared.metrics.context_opened();
        id
    }

    fn forget_if_over(&mut self, id: u64) {
        let over = self.contexts.get(&id).is_some_and(|context| context.is_forgettable());
        if over && let Some(context) = self.contexts.remove(&id) {
            self.servers.remove(&context.server);
            self.forget_twin(&context.work, id);
            self.shared.metrics.context_closed();
        }
    }
}

/// The request with our knowledge of its source in the top Via, where the transaction layer may answer it by itself; all
/// other answers add it when they are made.
fn stamped(message: Message, origin: &Origin) -> Message {
    if matches!(message.method(), Method::Invite | Method::Ack | Method::Register) {
        return message;
    }
    let (received, rport) = reply::via_correction(&message, origin);
    if received.is_none() && rport.is_none() {
        return message;
    }
    let mut edit = Edit::new(&message);
    edit.add_top_via_params(received, rport);
    Message::parse(edit.finish(), &Limits::default()).unwrap_or(message)
}
