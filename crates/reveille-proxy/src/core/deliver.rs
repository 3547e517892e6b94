//! A request on its way: down one flow, or to every binding of an address-of-record, awake or asleep.
//!
//! The shard knows the bindings and runs the wake-ups; this context keeps the request itself and forks it. A branch is
//! released at most once, because only a branch in [`BranchState::Awaiting`] can be woken and waking takes it out.

use std::time::Duration;

use reveille_push::{service::PushClass, wakeup::WakeFailure};
use reveille_registrar::{
    flow::FlowRef,
    record::BindingKey,
    shard::{NextRequest, ResolveRequest, ShardInput, Target, WakeRequest, WorkerRef},
};
use reveille_sip::{header::HeaderId, message::Message, method::Method};
use reveille_transaction::{BranchId, BranchKind, ClientId, Failure, ForkOutput, ResponseContext, ServerId};
use smallvec::SmallVec;

use super::{
    Core, Now, Timer,
    admission::user_of,
    context::{Branch, BranchState, Delivery, Origin, Plan, Where, Work},
    reply::Reply,
};

/// Ways to one phone that are tried for one request: its flows and a push, with room for a flow or two that come and go.
const MAX_WAYS: usize = 4;
/// How long after a request's wait has ended its home may take to say so.
const HOME_GRACE: Duration = Duration::from_secs(1);

impl Core {
    /// Starts to forward a request.
    pub(super) fn begin_delivery(
        &mut self,
        now: Now,
        server: ServerId,
        message: Message,
        origin: &Origin,
        mut plan: Plan,
    ) {
        let method = message.method();
        let request = plan.request.take().unwrap_or(message);
        let class = if method == Method::Invite { PushClass::Call } else { PushClass::Request };
        let mut wait = if method == Method::Invite {
            self.shared.settings.wake.call_wait
        } else {
            self.shared.settings.wake.request_wait
        };
        if let Some(expires) = request.expires().filter(|_| method == Method::Invite) {
            wait = wait.min(Duration::from_secs(u64::from(expires))); // P-069
        }
        let deadline = now.mono + wait;
        let timers = &self.shared.settings.timers;
        let fork = ResponseContext::new(now.mono, method, timers.timer_c)
            .with_deadline(timers.non_invite_deadline(now.mono))
            .with_linger(timers.t1 * 64)
            .with_fallback(if matches!(plan.destination, Where::Flow(_)) { 500 } else { 480 }); // P-081 inside a dialog
        let id = self.next_context;
        let resolve = match &plan.destination {
            Where::Flow(_) => None,
            Where::Home(aor) => Some(ResolveRequest {
                aor: aor.clone(),
                waiter: WorkerRef { worker: self.worker, context: id },
                class,
                method,
                deadline,
                dialog_forming: method.forms_dialog(),
            }),
        };
        let breadth = plan.breadth;
        let delivery = Delivery {
            request,
            plan,
            class,
            deadline,
            fork,
            fork_deadline: None,
            branches: SmallVec::new(),
            numbered: 0,
            breadth_share: breadth,
            later: Vec::new(),
            resolving: resolve.is_some(),
            answered: false,
        };
        let id = self.open_context(server, origin, method, now, Work::Deliver(Box::new(delivery)));
        match resolve {
            Some(ask) => {
                let aor = ask.aor.clone();
                self.deadlines.set(Timer::HomeOverdue { context: id }, deadline + HOME_GRACE);
                if self.shared.homes.ask(&aor, ShardInput::Resolve(Box::new(ask))).is_err() {
                    self.finish_with(now, id, 503);
                }
            }
            None => self.start_in_dialog(now, id),
        }
    }

    /// Sends an in-dialog request down the flow that its Route named.
    fn start_in_dialog(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Flow(flow) = delivery.plan.destination else { return };
        let branch = delivery.new_branch();
        delivery.branches.push(Branch {
            id: branch,
            key: None,
            state: BranchState::Ended,
            tried: SmallVec::new(),
            pushable: false,
        });
        delivery.fork.add_branch(now.mono, branch, BranchKind::Forwarded);
        delivery.fork.all_added();
        self.send_branch(now, id, branch, &flow, None);
        self.pump(now, id);
    }

    /// The shard named the targets.
    pub(super) fn resolved(
        &mut self,
        now: Now,
        id: u64,
        targets: Vec<Target>,
        waiting: Vec<(BindingKey, u16)>,
        known: bool,
    ) {
        let Some(delivery) = self.delivery(id) else { return };
        delivery.resolving = false;
        if delivery.fork.is_final_sent() {
            return; // cancelled meanwhile; the shard was told to forget us then
        }
        if targets.is_empty() && waiting.is_empty() {
            let status = if known || self.user_exists(id) { 480 } else { 404 }; // S-094
            return self.finish_with(now, id, status);
        }
        let copies = u32::try_from(targets.len() + waiting.len()).unwrap_or(u32::MAX).max(1);
        delivery.breadth_share = (delivery.plan.breadth / copies).max(1);
        for (key, _) in waiting {
            let branch = delivery.new_branch();
            delivery.branches.push(Branch {
                id: branch,
                key: Some(key),
                state: BranchState::Awaiting,
                tried: SmallVec::new(),
                pushable: false,
            });
            delivery.fork.add_branch(now.mono, branch, BranchKind::Waiting);
        }
        delivery.later = targets;
        delivery.later.sort_by_key(|t| t.q);
        self.next_group(now, id);
        self.pump(now, id);
    }

    /// Starts the targets of the highest q that is left (S-077), as many at once as Max-Breadth allows (S-065).
    fn next_group(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        let q = delivery.later.last().map(|t| t.q);
        let mut group = Vec::new();
        while group.len() < delivery.plan.breadth as usize && delivery.later.last().map(|t| t.q) == q {
            let Some(target) = delivery.later.pop() else { break };
            group.push(target);
        }
        for target in group {
            self.add_target(now, id, &target);
        }
        if let Some(delivery) = self.delivery(id)
            && delivery.later.is_empty()
        {
            delivery.fork.all_added();
        }
    }

    fn add_target(&mut self, now: Now, id: u64, target: &Target) {
        let Some(delivery) = self.delivery(id) else { return };
        if delivery.has(target.key) {
            return; // S-076
        }
        let branch = delivery.new_branch();
        delivery.branches.push(Branch {
            id: branch,
            key: Some(target.key),
            state: BranchState::Ended,
            tried: SmallVec::new(),
            pushable: target.pushable,
        });
        delivery.fork.add_branch(now.mono, branch, BranchKind::Forwarded);
        self.forward_to(now, id, branch, target);
    }

    fn forward_to(&mut self, now: Now, id: u64, branch: BranchId, target: &Target) {
        match target.flow {
            Some(flow) => self.send_branch(now, id, branch, &flow, Some(target)),
            None => self.fail_branch(now, id, branch, 480),
        }
    }

    /// Forwards the request on one branch; a message that cannot be built or sent fails the branch.
    fn send_branch(&mut self, now: Now, id: u64, branch: BranchId, flow: &FlowRef, target: Option<&Target>) {
        let Some(context) = self.contexts.get(&id) else { return };
        let Work::Deliver(delivery) = &context.work else { return };
        let method = context.method;
        let outgoing = match self.build_request(id, context, delivery, branch, flow, target) {
            Ok(outgoing) => outgoing,
            Err(status) => return self.fail_branch(now, id, branch, status),
        };
        let reliable = flow.transport().is_reliable();
        let client =
            self.transactions.request(now.mono, method, &outgoing.branch, outgoing.bytes, outgoing.flow, reliable);
        self.clients.insert(client, (id, branch));
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        entry.state = BranchState::Sent { client, flow: *flow, heard: false };
        if entry.pushable && reliable {
            let patience = self.shared.settings.wake.flow_patience;
            self.deadlines.set(Timer::FlowPatience { context: id, branch: branch.0 }, now.mono + patience);
        }
    }

    /// A phone woke: its request goes to it, over the flow of its new binding (P-058, P-061).
    pub(super) fn woken(&mut self, now: Now, id: u64, key: BindingKey, target: Target) {
        let Some(delivery) = self.delivery(id) else { return };
        if delivery.fork.is_final_sent() {
            return; // P-069: a call that is over never rings
        }
        let Some(entry) = delivery.awaiting(key) else { return };
        entry.key = Some(target.key);
        entry.pushable = target.pushable;
        let branch = entry.id;
        if !delivery.fork.forwarded(now.mono, branch) {
            return; // S-053
        }
        self.forward_to(now, id, branch, &target);
        self.pump(now, id);
    }

    /// A phone will not wake in time.
    pub(super) fn wake_failed(&mut self, now: Now, id: u64, key: BindingKey, why: WakeFailure) {
        let Some(delivery) = self.delivery(id) else { return };
        let Some(branch) = delivery.awaiting(key) else { return };
        branch.state = BranchState::Ended;
        let branch = branch.id;
        delivery.fork.failed(now.mono, branch, 480); // P-065, P-066
        tracing::debug!(why = why.as_str(), "a phone did not wake");
        self.pump(now, id);
    }

    /// The home said nothing although every wait there has ended: its shard was restarted and has forgotten us.
    pub(super) fn home_overdue(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return self.register_overdue(now, id) };
        if std::mem::take(&mut delivery.resolving) && !delivery.fork.is_final_sent() {
            return self.finish_with(now, id, 480);
        }
        let left: SmallVec<[BranchId; 2]> =
            delivery.branches.iter().filter(|b| matches!(b.state, BranchState::Awaiting)).map(|b| b.id).collect();
        for branch in left {
            self.fail_branch(now, id, branch, 480);
        }
        self.pump(now, id);
    }

    /// Another device of the callee registered while the call waits: it rings too (S-098).
    pub(super) fn late_target(&mut self, now: Now, id: u64, target: Target) {
        let Some(delivery) = self.delivery(id) else { return };
        if delivery.fork.is_final_sent() {
            return;
        }
        self.add_target(now, id, &target);
        self.pump(now, id);
    }

    /// A response came from a branch.
    pub(super) fn response(&mut self, now: Now, client: ClientId, message: Message) {
        let Some(&(id, branch)) = self.clients.get(&client) else { return };
        self.deadlines.clear(&Timer::FlowPatience { context: id, branch: branch.0 });
        let status = message.status().unwrap_or(0);
        if status == 430 && self.fall_back(now, id, branch) {
            return self.pump(now, id); // S-131: the flow failed, not the phone
        }
        let Some(delivery) = self.delivery(id) else { return };
        if let Some(entry) = delivery.branch(branch)
            && let BranchState::Sent { heard, .. } = &mut entry.state
        {
            *heard = true;
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
        if self.fall_back(now, id, branch) {
            return self.pump(now, id);
        }
        let status = match why {
            Failure::Timeout => 408,
            Failure::Transport => 503,
        };
        self.fail_branch(now, id, branch, status);
        self.pump(now, id);
    }

    /// The phone said nothing on a flow that looked open: the flow is dead without a FIN (P-054).
    pub(super) fn flow_patience_over(&mut self, now: Now, id: u64, branch: BranchId) {
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        let BranchState::Sent { client, flow, heard: false } = entry.state else { return };
        // Closed first: what still sits in its buffers must never reach the phone, or it would ring twice.
        self.shared.flows.close(&flow);
        self.shared.metrics.flow_found_dead();
        self.transactions.abandon(client);
        self.clients.remove(&client);
        if !self.fall_back(now, id, branch) {
            self.fail_branch(now, id, branch, 480);
        }
        self.pump(now, id);
    }

    /// Turns a branch whose flow failed before the phone said a word into one that waits: for another flow of the same
    /// phone (S-131), or for the phone to wake (P-054). The home names each way once.
    fn fall_back(&mut self, now: Now, id: u64, branch: BranchId) -> bool {
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return false };
        if !delivery.fork.can_add() || now.mono >= delivery.deadline {
            return false;
        }
        let Where::Home(aor) = &delivery.plan.destination else { return false };
        let (aor, class, deadline) = (aor.clone(), delivery.class, delivery.deadline);
        let fresh = delivery.new_branch();
        let Some(entry) = delivery.branch(branch) else { return false };
        let (Some(key), BranchState::Sent { heard: false, .. }) = (entry.key, entry.state) else { return false };
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

    fn fail_branch(&mut self, now: Now, id: u64, branch: BranchId, status: u16) {
        let Some(delivery) = self.delivery(id) else { return };
        if let Some(entry) = delivery.branch(branch) {
            entry.state = BranchState::Ended;
        }
        delivery.fork.failed(now.mono, branch, status);
    }

    /// The caller gave up; the CANCEL itself was answered by its transaction (S-050).
    pub(super) fn cancelled(&mut self, now: Now, invite: ServerId) {
        let Some(&id) = self.servers.get(&invite) else { return };
        let Some(delivery) = self.delivery(id) else { return };
        delivery.later.clear();
        delivery.fork.cancel(now.mono);
        self.pump(now, id);
    }

    pub(super) fn fork_timeout(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        delivery.fork_deadline = None;
        delivery.fork.handle_timeout(now.mono);
        self.pump(now, id);
    }

    /// Ends a delivery that never had a branch.
    fn finish_with(&mut self, now: Now, id: u64, status: u16) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Work::Deliver(delivery) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        let reply = if status == 503 { self.overloaded() } else { Reply::new(status) };
        self.answer(now, id, &delivery.request, reply);
    }

    /// Carries out what the response context decided, until it has nothing more to say.
    fn pump(&mut self, now: Now, id: u64) {
        loop {
            let Some(delivery) = self.delivery(id) else { return };
            let Some(output) = delivery.fork.poll_output() else { break };
            match output {
                ForkOutput::Forward { msg, challenges, .. } => self.send_up(now, id, &msg, &challenges),
                ForkOutput::Respond { status } => self.respond_up(now, id, status),
                ForkOutput::CancelBranch { branch, reason } => self.cancel_branch(now, id, branch, reason),
                ForkOutput::NextGroup => self.next_group(now, id),
                ForkOutput::Finished => self.release_home(id),
            }
        }
        let Some(delivery) = self.delivery(id) else { return };
        let wanted = delivery.fork.poll_timeout();
        if wanted != delivery.fork_deadline {
            delivery.fork_deadline = wanted;
            self.deadlines.update(Timer::Fork { context: id }, wanted);
        }
        self.forget_if_over(id);
    }

    fn cancel_branch(&mut self, now: Now, id: u64, branch: BranchId, reason: &'static str) {
        let Some(server) = self.contexts.get(&id).map(|context| context.server) else { return };
        let Some(delivery) = self.delivery(id) else { return };
        let Some(entry) = delivery.branch(branch) else { return };
        match entry.state {
            BranchState::Sent { client, .. } => {
                self.deadlines.clear(&Timer::FlowPatience { context: id, branch: branch.0 });
                // S-096: ours where we decided, the caller's where the caller did.
                let caller = self.transactions.cancel_reason(server).map(str::to_owned);
                let reason = if reason.is_empty() { caller.as_deref() } else { Some(reason) };
                self.transactions.cancel(now.mono, client, reason);
            }
            BranchState::Awaiting => {
                entry.state = BranchState::Ended;
                self.leave_home(id);
            }
            BranchState::Ended => {}
        }
    }

    /// Tells the shard that nobody here waits any more, so that an unsent push is withdrawn (P-069).
    fn release_home(&mut self, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        let still_asked = delivery.resolving || delivery.is_awaiting_any();
        delivery
            .branches
            .iter_mut()
            .filter(|b| matches!(b.state, BranchState::Awaiting))
            .for_each(|b| b.state = BranchState::Ended);
        if still_asked {
            self.leave_home(id);
        }
    }

    fn leave_home(&mut self, id: u64) {
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Home(aor) = &delivery.plan.destination else { return };
        let aor = aor.clone();
        if self.shared.homes.ask(&aor, ShardInput::Leave { aor: aor.clone(), waiter }).is_err() {
            // Only a shard that is being restarted refuses a fact; its waiters are gone with it.
            tracing::debug!(aor = %aor.redacted(), "a shard under restart needs no leave");
        }
    }

    /// Passes a response to whoever asked.
    fn send_up(&mut self, now: Now, id: u64, message: &Message, challenges: &[(HeaderId, String)]) {
        let status = message.status().unwrap_or(500);
        let Some(context) = self.contexts.get(&id) else { return };
        let (server, method) = (context.server, context.method);
        let Some(bytes) = super::forward::build_response(message, challenges) else { return };
        self.note_answer(id, status);
        self.count(method, status);
        self.transactions.respond(now.mono, server, status, bytes);
    }

    /// Gives an answer of our own to whoever asked.
    fn respond_up(&mut self, now: Now, id: u64, status: u16) {
        let Some(context) = self.contexts.get(&id) else { return };
        let Work::Deliver(delivery) = &context.work else { return };
        let (server, origin, request) = (context.server, context.origin, delivery.request.clone());
        self.note_answer(id, status);
        self.reply(now, server, &request, &origin, Reply::new(status));
    }

    fn note_answer(&mut self, id: u64, status: u16) {
        if status >= 200
            && let Some(delivery) = self.delivery(id)
        {
            delivery.answered = true;
        }
    }

    fn user_exists(&self, id: u64) -> bool {
        let Some(context) = self.contexts.get(&id) else { return false };
        let Work::Deliver(delivery) = &context.work else { return false };
        let Where::Home(aor) = &delivery.plan.destination else { return false };
        self.shared.users.as_ref().is_some_and(|users| users.exists(user_of(aor)))
    }

    fn delivery(&mut self, id: u64) -> Option<&mut Delivery> {
        match &mut self.contexts.get_mut(&id)?.work {
            Work::Deliver(delivery) => Some(delivery),
            _ => None,
        }
    }
}
