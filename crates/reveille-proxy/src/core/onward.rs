//! What is another node's business: requests on their way to a home, to the edge that holds a phone's flow, and to the next home when
//! the first is gone.
//!
//! A request whose home goes away is kept and sent again to whoever owns the shard by then, within its own transaction: its sender
//! notices nothing but the time that a takeover takes.

use std::{borrow::Cow, time::Duration};

use reveille_registrar::{
    aor::Aor,
    flow::{FlowRef, NodeTag},
    shard::Target,
};
use reveille_sip::{message::Message, method::Method, typed::NameAddr, uri::Uri};
use reveille_transaction::{BranchId, BranchKind};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Core, Now, Timer,
    context::{Branch, BranchState, Origin, Where, Work},
    reply::Reply,
};
use crate::{
    egress::{Bound, Destination},
    peers::Home,
};

/// How often the owner of a shard is looked for while it has none, or one that cannot be reached.
const REHOME_PAUSE: Duration = Duration::from_millis(100);

/// Stands for the name of another node where only its token counts (RFC 2606 §2).
pub(super) const ELSEWHERE: &str = "node.invalid";

/// The way one copy of a request takes.
pub(super) struct Way<'a> {
    pub(super) flow: FlowRef,
    /// The binding it is for.
    pub(super) target: Option<&'a Target>,
    /// The binding's Path values that are still to be visited.
    pub(super) path: Cow<'a, [String]>,
    /// Whether the flow leads to another node of ours.
    pub(super) onward: bool,
}

impl<'a> Way<'a> {
    /// Down a flow of this node.
    pub(super) fn direct(flow: FlowRef) -> Self {
        Self { flow, target: None, path: Cow::default(), onward: false }
    }
}

impl Core {
    /// The Path value of a REGISTER that goes on to another node: names the flow it came by (RFC 5626 §5.1, S-126).
    pub(super) fn path(&self, request: &Message, origin: &Origin) -> Result<String, Reply> {
        let route = self.record_route(&origin.flow).ok_or_else(|| Reply::new(503))?;
        // Only the phone's own neighbour may say that it applies outbound.
        let ob = if request.vias().count() == 1 { ";ob>" } else { ">" };
        Ok(route.replace('>', ob))
    }

    /// The way to a binding: its flow, or by Path to the node that holds its flow. A phone that woke gets its call before that node has
    /// seen the answer to its REGISTER, so the way says whose flow it is.
    pub(super) fn way_to<'t>(&self, target: &'t Target, aor: &Aor, request: &Message) -> Option<Way<'t>> {
        let (own, path) = (self.shared.peers.own(), target.path.as_slice());
        let bound = Bound { aor: aor.clone(), key: target.key };
        if let Some(flow) = target.flow {
            if flow.node() == own {
                self.shared.flows.bind(&flow, bound);
                return Some(Way { flow, target: Some(target), path: path.into(), onward: false });
            }
            // It registered at the home of that time, without a hop between, and its shard has moved since.
            let mut path = path.to_vec();
            path.insert(0, self.way_in(&flow, &bound));
            return Some(Way {
                flow: self.flow_to(flow.node(), request)?,
                target: Some(target),
                path: path.into(),
                onward: true,
            });
        }
        let (first, rest) = path.split_first()?;
        let value = NameAddr::parse(first).ok()?;
        let uri = Uri::parse(value.uri).ok()?;
        let flow = self.shared.flows.unseal(uri.user()?).ok()?;
        if flow.node() == own {
            self.shared.flows.bind(&flow, bound);
            return Some(Way { flow, target: Some(target), path: rest.into(), onward: false });
        }
        let mut path = vec![self.way_in(&flow, &bound)];
        path.extend_from_slice(rest);
        let flow = self.flow_to(flow.node(), request)?;
        Some(Way { flow, target: Some(target), path: path.into(), onward: true })
    }

    /// The Route value that leads down a flow of another node. That node knows it by its token, whatever host it names.
    fn way_in(&self, flow: &FlowRef, bound: &Bound) -> String {
        let token = self.shared.flows.seal_bound(flow, bound);
        format!("<sip:{token}@{ELSEWHERE};lr>")
    }

    /// The request of a delivery, as it came.
    pub(super) fn delivered(&self, id: u64) -> Option<&Message> {
        match &self.contexts.get(&id)?.work {
            Work::Deliver(delivery) => Some(&delivery.request),
            _ => None,
        }
    }

    /// A connection to another node: the same for all that carries the Call-ID of `request`, so that a call's requests arrive
    /// there in the order in which they came here.
    pub(super) fn flow_to(&self, node: NodeTag, request: &Message) -> Option<FlowRef> {
        let lanes = self.shared.peers.lanes().max(1);
        let call = xxh3_64(request.call_id().unwrap_or_default().as_bytes());
        let lane = (call % u64::from(lanes)) as u8;
        if let Some(destination) = self.shared.peers.destination(node) {
            return self.shared.flows.open_node(&Destination { lane, ..destination }).ok();
        }
        // Its lease is over. One that cannot reach the store still serves who is connected to it; one that is dead has no connection.
        let former = self.shared.peers.former(node)?;
        let all = (lane..lanes).chain(0..lane);
        let mut open = all.filter_map(|lane| self.shared.flows.connected_node(&Destination { lane, ..former.clone() }));
        open.next()
    }

    /// Whether nothing is to be sent to another node any more.
    pub(super) fn is_lost(&self, node: NodeTag, request: &Message) -> bool {
        self.shared.peers.destination(node).is_none() && self.flow_to(node, request).is_none()
    }

    /// Sends a request to the home of `aor`, here or elsewhere.
    pub(super) fn seek_home(&mut self, now: Now, id: u64, aor: &Aor) {
        match self.shared.peers.home(aor) {
            Home::Here => self.ask_home(now, id, aor),
            Home::At(node) => self.start_onward(now, id, node),
            Home::Nowhere => {
                self.add_onward(now, id, BranchState::Awaiting);
                self.deadlines.set(Timer::Rehome { context: id }, now.mono + REHOME_PAUSE);
            }
        }
    }

    /// Starts a request on its way to another node.
    pub(super) fn start_onward(&mut self, now: Now, id: u64, node: NodeTag) {
        if let Some(branch) = self.add_onward(now, id, BranchState::Ready) {
            self.send_onward(now, id, branch, node);
            self.pump(now, id);
        }
    }

    pub(super) fn add_onward(&mut self, now: Now, id: u64, state: BranchState) -> Option<BranchId> {
        let delivery = self.delivery(id)?;
        let branch = delivery.new_branch();
        let kind = if matches!(state, BranchState::Awaiting) { BranchKind::Waiting } else { BranchKind::Forwarded };
        delivery.branches.push(Branch { id: branch, key: None, state, tried: SmallVec::new(), pushable: false });
        // Further ones may come: this node may itself become the home.
        delivery.fork.add_branch(now.mono, branch, kind);
        Some(branch)
    }

    fn send_onward(&mut self, now: Now, id: u64, branch: BranchId, node: NodeTag) {
        match self.delivered(id).and_then(|request| self.flow_to(node, request)) {
            Some(flow) => self.send_branch(now, id, branch, &Way { onward: true, ..Way::direct(flow) }),
            None => self.unreachable(now, id, branch),
        }
    }

    /// The home a request was sent to is gone: the request waits for the next one. False where it was not sent to a home.
    pub(super) fn await_home(&mut self, now: Now, id: u64, branch: BranchId) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        if !matches!(delivery.plan.destination, Where::Home(_))
            || !delivery.fork.can_add()
            || now.mono >= delivery.deadline
        {
            return false;
        }
        let fresh = delivery.new_branch();
        let Some(entry) = delivery.branch(branch).filter(|entry| entry.key.is_none()) else { return false };
        entry.id = fresh;
        entry.state = BranchState::Awaiting;
        delivery.fork.add_branch(now.mono, fresh, BranchKind::Waiting);
        delivery.fork.remove_branch(branch);
        self.deadlines.set(Timer::Rehome { context: id }, now.mono + REHOME_PAUSE);
        true
    }

    /// Whether a branch stands for the home of the request, and for all that is left of it.
    pub(super) fn is_home_alone(&mut self, id: u64, branch: BranchId) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        matches!(delivery.plan.destination, Where::Home(_))
            && delivery.branches.iter().all(|entry| {
                if entry.id == branch { entry.key.is_none() } else { matches!(entry.state, BranchState::Ended) }
            })
    }

    /// Looks whether somebody owns the shard by now.
    pub(super) fn rehome(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Home(aor) = &delivery.plan.destination else { return };
        let aor = aor.clone();
        let Some(branch) = delivery.homeless().filter(|_| !delivery.fork.is_final_sent()) else { return };
        if now.mono >= delivery.deadline {
            // Told by us, with a time to come back, and not as the failure of a next hop, which would become 500 (S-082).
            return self.finish_with(now, id, 503);
        }
        match self.shared.peers.home(&aor) {
            Home::Nowhere => self.deadlines.set(Timer::Rehome { context: id }, now.mono + REHOME_PAUSE),
            Home::At(node) => {
                let Some(delivery) = self.delivery(id) else { return };
                if delivery.fork.forwarded(now.mono, branch) {
                    if let Some(entry) = delivery.branch(branch) {
                        entry.state = BranchState::Ready;
                    }
                    self.send_onward(now, id, branch, node);
                }
                self.pump(now, id);
            }
            Home::Here => self.come_home(now, id, &aor),
        }
    }

    /// This node has become the home of what it had sent elsewhere.
    fn come_home(&mut self, now: Now, id: u64, aor: &Aor) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let (server, origin, started) = (context.server, context.origin, context.started);
        if context.method != Method::Register {
            if !self.join_at_home(now, id) {
                self.ask_home(now, id, aor);
            }
            return;
        }
        let Work::Deliver(delivery) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        self.forget_if_over(id);
        // Its credentials have been seen: a second look would take them for a replay (S-147).
        match self.check_contacts(&delivery.request, &origin, aor) {
            Ok(registration) => {
                let id = self.begin_register(now, server, delivery.request, &origin, registration.sent_on());
                if let Some(context) = id.and_then(|id| self.contexts.get_mut(&id)) {
                    context.started = started;
                }
            }
            Err(reply) => {
                if reply.status != 423 {
                    self.reject_waiting(aor, &delivery.request);
                }
                self.reply(now, server, &delivery.request, &origin, reply);
            }
        }
    }

    /// The way of a branch is gone: another way, another home, or the end of the branch.
    pub(super) fn unreachable(&mut self, now: Now, id: u64, branch: BranchId) {
        if self.reroute(now, id, branch) {
            return;
        }
        if !self.fall_back(now, id, branch) && !self.await_home(now, id, branch) {
            let status = self.lost_way_status(id);
            if status == 503 && self.is_home_alone(id, branch) {
                // No home in time: our own trouble, which is told with a time to come back (S-082).
                return self.finish_with(now, id, 503);
            }
            self.fail_branch(now, id, branch, status);
        }
    }

    /// What becomes of a branch whose flow failed: 430 where a home that knows other ways chose the flow (RFC 5626 §5.3).
    pub(super) fn lost_way_status(&mut self, id: u64) -> u16 {
        let Some(delivery) = self.delivery(id) else { return 503 };
        let is_new = delivery.request.to_tag().is_none();
        if is_new && matches!(delivery.plan.destination, Where::Flow(_)) { 430 } else { 503 }
    }
}
