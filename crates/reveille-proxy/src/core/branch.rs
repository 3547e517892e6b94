//! One branch of a delivery: sent down a flow, answered, failed, or turned into one that waits.

use reveille_registrar::shard::{NextRequest, ShardInput, Target, WakeRequest, WorkerRef};
use reveille_sip::message::Message;
use reveille_transaction::{BranchId, BranchKind, ClientId, Failure};

use super::{
    Core, Now, Timer,
    context::{BranchState, Where, Work},
    deliver::{is_in_dialog, sparing},
    forward::Unsendable,
    onward::Way,
};

/// Ways to one phone that are tried for one request: its flows and a push, with room for a flow or two that come and go.
pub(super) const MAX_WAYS: usize = 4;

impl Core {
    /// Forwards the request on one branch; a message that cannot be built or sent fails the branch.
    pub(super) fn send_branch(&mut self, now: Now, id: u64, branch: BranchId, way: &Way<'_>) {
        let Some(context) = self.contexts.get(&id) else { return };
        let Work::Deliver(delivery) = &context.work else { return };
        let method = context.method;
        let outgoing = match self.build_request(id, context, delivery, branch, way) {
            Ok(outgoing) => outgoing,
            Err(Unsendable::Refused(status)) => return self.fail_branch(now, id, branch, status),
            // It closed after the home named it, and the report of that found nothing to fail yet.
            Err(Unsendable::FlowGone) => return self.unreachable(now, id, branch),
        };
        let (flow, onward) = (way.flow, way.onward);
        let reliable = flow.transport().is_reliable();
        // Before it is sent: a connection that closes first refuses the request, and another way is taken.
        let hold = self.shared.flows.hold(&flow, method);
        let client =
            self.transactions.request(now.mono, method, &outgoing.branch, outgoing.bytes, outgoing.flow, reliable);
        self.clients.insert(client, (id, branch));
        self.held_ahead.extend(hold.map(|hold| (client, hold)));
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        entry.state = BranchState::Sent { client, flow, heard: false, onward };
        // Between nodes the patience is that of the node which holds the phone's flow.
        if entry.pushable && reliable && !onward {
            let patience = self.shared.settings.wake.flow_patience;
            self.deadlines.set(Timer::FlowPatience { context: id, branch: branch.0 }, now.mono + patience);
        }
    }

    pub(super) fn forward_to(&mut self, now: Now, id: u64, branch: BranchId, target: &Target) {
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Home(aor) = &delivery.plan.destination else { return };
        let aor = aor.clone();
        match self.delivered(id).and_then(|request| self.way_to(target, &aor, request)) {
            Some(way) => self.send_branch(now, id, branch, &way),
            None => self.unreachable(now, id, branch),
        }
    }

    /// A response came from a branch.
    pub(super) fn response(&mut self, now: Now, client: ClientId, message: Message) {
        let Some(&(id, branch)) = self.clients.get(&client) else { return };
        self.deadlines.clear(&Timer::FlowPatience { context: id, branch: branch.0 });
        let status = message.status().unwrap_or(0);
        if status >= 200 {
            self.held_ahead.remove(&client);
        }
        if status == 430 && self.fall_back(now, id, branch) {
            return self.pump(now, id); // S-131: the flow failed, not the phone
        }
        if self.went_round(id, branch, &message) && self.await_home(now, id, branch) {
            return self.pump(now, id);
        }
        if status == 503 && self.is_home_alone(id, branch) {
            return self.finish_with(now, id, 503); // our own overload, as if the home were here (S-082)
        }
        let Some(delivery) = self.delivery(id) else { return };
        if let Some(entry) = delivery.branch(branch)
            && let BranchState::Sent { heard, onward, .. } = &mut entry.state
        {
            // The 100 of another node says nothing of the phone.
            *heard = *heard || !*onward || status > 100;
        }
        if status >= 200
            && let Some(entry) = delivery.branch(branch)
        {
            entry.state = BranchState::Ended;
        }
        delivery.fork.response(now.mono, branch, &message);
        self.pump(now, id);
    }

    /// A branch's transaction failed.
    pub(super) fn branch_failed(&mut self, now: Now, id: u64, branch: BranchId, why: Failure) {
        self.deadlines.clear(&Timer::FlowPatience { context: id, branch: branch.0 });
        match why {
            Failure::Transport => self.unreachable(now, id, branch),
            Failure::Timeout if self.fall_back(now, id, branch) => {}
            Failure::Timeout => self.fail_branch(now, id, branch, 408),
        }
        self.pump(now, id);
    }

    /// The phone said nothing on a flow that looked open: the flow is dead without a FIN (P-054).
    pub(super) fn flow_patience_over(&mut self, now: Now, id: u64, branch: BranchId) {
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        let BranchState::Sent { client, flow, heard: false, .. } = entry.state else { return };
        // Closed first: what still sits in its buffers must never reach the phone, or it would ring twice.
        self.shared.flows.close(&flow);
        self.shared.metrics.flow_found_dead();
        self.transactions.abandon(client);
        self.clients.remove(&client);
        self.held_ahead.remove(&client);
        if !self.reroute(now, id, branch) && !self.fall_back(now, id, branch) {
            let status = if self.lost_way_status(id) == 430 { 430 } else { 480 };
            self.fail_branch(now, id, branch, status);
        }
        self.pump(now, id);
    }

    /// Turns a branch whose flow failed before the phone said a word into one that waits: for another flow of the same
    /// phone (S-131), or for the phone to wake (P-054). The home names each way once.
    pub(super) fn fall_back(&mut self, now: Now, id: u64, branch: BranchId) -> bool {
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return false };
        if !delivery.fork.can_add() || now.mono >= delivery.deadline {
            return false;
        }
        let Where::Home(aor) = &delivery.plan.destination else { return false };
        let (aor, class, deadline) = (aor.clone(), delivery.class, delivery.deadline);
        let fresh = delivery.new_branch();
        let Some(entry) = delivery.branch(branch) else { return false };
        let unheard = matches!(entry.state, BranchState::Ready | BranchState::Sent { heard: false, .. });
        let Some(key) = entry.key.filter(|_| unheard) else { return false };
        if entry.tried.len() >= MAX_WAYS {
            return false;
        }
        entry.tried.push(key);
        let tried = entry.tried.to_vec();
        // A new branch of the response context, because for it the old one was forwarded and this one waits.
        entry.id = fresh;
        entry.state = BranchState::Awaiting;
        delivery.fork.add_branch(now.mono, fresh, BranchKind::Waiting);
        delivery.fork.remove_branch(branch);
        let wake = WakeRequest { aor: aor.clone(), waiter, key, class, deadline };
        if self.shared.homes.ask(&aor, ShardInput::Next(Box::new(NextRequest { wake, tried }))).is_err() {
            self.fail_branch(now, id, fresh, 480);
        }
        true
    }

    pub(super) fn fail_branch(&mut self, now: Now, id: u64, branch: BranchId, status: u16) {
        let Some(delivery) = self.delivery(id) else { return };
        if let Some(entry) = delivery.branch(branch) {
            entry.state = BranchState::Ended;
        }
        let status = if is_in_dialog(&delivery.request) { sparing(status) } else { status };
        delivery.fork.failed(now.mono, branch, status);
    }

    pub(super) fn cancel_branch(&mut self, now: Now, id: u64, branch: BranchId, reason: &'static str) {
        let Some(server) = self.contexts.get(&id).map(|context| context.server) else { return };
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        match entry.state {
            BranchState::Sent { client, .. } => {
                // The patience with a silent flow runs on: a CANCEL is held until the phone speaks (S-051), and a dead flow
                // would hold the caller's 487 with it until Timer B.
                // S-096: ours where we decided, the caller's where the caller did.
                let caller = self.transactions.cancel_reason(server).map(str::to_owned);
                let reason = if reason.is_empty() { caller.as_deref() } else { Some(reason) };
                self.transactions.cancel(now.mono, client, reason);
            }
            BranchState::Awaiting => {
                entry.state = BranchState::Ended;
                self.leave_home(id);
            }
            BranchState::Ready | BranchState::Ended => {}
        }
    }
}
