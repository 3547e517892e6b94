//! A request on its way: down one flow, or to every binding of an address-of-record, awake or asleep.
//!
//! The shard knows the bindings and runs the wake-ups; this context keeps the request itself and forks it. A branch is
//! released at most once, because only a branch in [`BranchState::Awaiting`] can be woken and waking takes it out.

use std::time::Duration;

use reveille_push::{service::PushClass, wakeup::WakeFailure};
use reveille_registrar::{
    aor::Aor,
    record::BindingKey,
    shard::{ResolveRequest, ShardInput, Target, WorkerRef},
};
use reveille_sip::{message::Message, method::Method};
use reveille_transaction::{BranchId, BranchKind, ResponseContext, ServerId};
use smallvec::SmallVec;

use super::{
    Core, Now, Timer,
    admission::user_of,
    context::{Branch, BranchState, Delivery, Origin, Plan, Where, Work},
    onward::Way,
};

/// How long after a request's wait has ended its home may take to say so.
pub(super) const HOME_GRACE: Duration = Duration::from_secs(1);

/// What a request gets whose branches all ended without an answer worth passing on.
fn fallback(method: Method, destination: &Where, in_dialog: bool) -> u16 {
    match destination {
        Where::Flow(_) if !in_dialog => 430, // for the home that knows other ways (RFC 5626 §5.3)
        Where::Flow(_) | Where::Node(_) => 500, // P-081: the dialog lives on
        Where::Home(_) if method == Method::Register => 503,
        Where::Home(_) if in_dialog => 500,
        Where::Home(_) => 480,
    }
}

/// Whether a request belongs to a dialog, which an answer of ours must not end (P-081).
pub(super) fn is_in_dialog(request: &Message) -> bool {
    request.to_tag().is_some() && request.method() != Method::Register
}

/// What a request within a dialog gets whose phone did not wake: codes that end the request alone (P-081; RFC 5057 §5.1).
fn status_in_dialog(why: WakeFailure) -> u16 {
    match why {
        // One that cannot be woken was waited for until the time was up ([`Core::await_return`]).
        WakeFailure::Deadline | WakeFailure::NotConnected => 504,
        WakeFailure::Overflow | WakeFailure::Limited => 403, // P-116
        WakeFailure::PushFailed | WakeFailure::Rejected | WakeFailure::BindingGone => 500,
    }
}

/// A status of our own as it may be told within a dialog: those that would end the dialog, or its usage, give way to one that ends
/// the request (P-081; RFC 5057 §5.1).
pub(super) fn sparing(status: u16) -> u16 {
    match status {
        408 => 504,
        404 | 410 | 430 | 480 | 481 => 500,
        _ => status,
    }
}

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
        let request = plan.request.take().unwrap_or(message);
        let twin = Self::twin(&request, origin, &plan);
        if let Some(twin) = &twin
            && self.join(now, twin, server, &request, origin)
        {
            return;
        }
        let id = self.open_delivery(now, server, request, origin, plan);
        self.remember(id, twin);
        let Some(delivery) = self.delivery(id) else { return };
        match &delivery.plan.destination {
            Where::Flow(_) => self.start_in_dialog(now, id),
            Where::Node(node) => {
                let node = *node;
                self.start_onward(now, id, node);
            }
            Where::Home(aor) => {
                let aor = aor.clone();
                self.seek_home(now, id, &aor);
            }
        }
    }

    /// Takes a request in hand that is to be forwarded.
    pub(super) fn open_delivery(
        &mut self,
        now: Now,
        server: ServerId,
        request: Message,
        origin: &Origin,
        plan: Plan,
    ) -> u64 {
        let method = request.method();
        let class = match method {
            _ if is_in_dialog(&request) => PushClass::Dialog, // P-090, P-151: a session refresh is no call
            Method::Invite => PushClass::Call,
            _ => PushClass::Request,
        };
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
            .with_fallback(fallback(method, &plan.destination, request.to_tag().is_some()));
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
            resolving: false,
            answered: false,
            twin: None,
        };
        self.open_context(server, origin, method, now, Work::Deliver(Box::new(delivery)))
    }

    /// Asks the shard of `aor`, which is on this node, for targets.
    pub(super) fn ask_home(&mut self, now: Now, id: u64, aor: &Aor) {
        if self.delivery(id).is_some_and(|delivery| delivery.plan.rebound.is_some()) {
            return self.ask_for_binding(now, id, aor);
        }
        let Some(method) = self.contexts.get(&id).map(|context| context.method) else { return };
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return };
        delivery.resolving = true;
        let ask = ResolveRequest {
            aor: aor.clone(),
            waiter,
            class: delivery.class,
            method,
            deadline: delivery.deadline,
            dialog_forming: method.forms_dialog(),
        };
        self.deadlines.set(Timer::HomeOverdue { context: id }, ask.deadline + HOME_GRACE);
        if self.shared.homes.ask(aor, ShardInput::Resolve(Box::new(ask))).is_err() {
            self.finish_with(now, id, 503);
        }
    }

    /// Sends an in-dialog request down the flow that its Route named.
    pub(super) fn start_in_dialog(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Flow(flow) = delivery.plan.destination else { return };
        let wakeable = self.shared.flows.is_wakeable(&flow);
        let Some(delivery) = self.delivery(id) else { return };
        let branch = delivery.new_branch();
        // P-089: what the binding in its route says counts here as well, and reroutes it if the flow only looks open.
        let wakeable = delivery.plan.wakeable || (delivery.plan.rebound.is_some() && wakeable);
        let state = BranchState::Ready;
        delivery.branches.push(Branch { id: branch, key: None, state, tried: SmallVec::new(), pushable: wakeable });
        delivery.fork.add_branch(now.mono, branch, BranchKind::Forwarded);
        delivery.fork.all_added();
        self.send_branch(now, id, branch, &Way::direct(flow));
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
        if let Some(delivery) = self.delivery(id)
            && let Some(homeless) = delivery.homeless()
        {
            // It stood for a home elsewhere, before this node became the home.
            delivery.branches.retain(|branch| branch.id != homeless);
            delivery.fork.remove_branch(homeless);
        }
        self.pump(now, id);
    }

    /// Starts the targets of the highest q that is left (S-077), as many at once as Max-Breadth allows (S-065).
    pub(super) fn next_group(&mut self, now: Now, id: u64) {
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

    pub(super) fn add_target(&mut self, now: Now, id: u64, target: &Target) {
        let Some(delivery) = self.delivery(id) else { return };
        if delivery.has(target.key) {
            return; // S-076
        }
        let branch = delivery.new_branch();
        delivery.branches.push(Branch {
            id: branch,
            key: Some(target.key),
            state: BranchState::Ready,
            tried: SmallVec::new(),
            pushable: target.pushable,
        });
        delivery.fork.add_branch(now.mono, branch, BranchKind::Forwarded);
        self.forward_to(now, id, branch, target);
    }

    /// A phone woke: its request goes to it, over the flow of its new binding (P-058, P-061).
    pub(super) fn woken(&mut self, now: Now, id: u64, key: BindingKey, target: Target) {
        let Some(delivery) = self.delivery(id) else { return };
        if delivery.fork.is_final_sent() {
            return; // P-069: a call that is over never rings
        }
        if delivery.awaiting(key).is_none() || self.leads_back(now, id, key, &target) {
            return;
        }
        let Some(delivery) = self.delivery(id) else { return };
        let is_within = is_in_dialog(&delivery.request);
        let Some(entry) = delivery.awaiting(key) else { return };
        entry.key = Some(target.key);
        // It has just been heard on this flow: silence now is a person looking for the phone, not a dead connection. Within a dialog
        // phones answer by themselves, and the flow may be one that was open all the time (P-089).
        entry.pushable = is_within && target.pushable;
        let branch = entry.id;
        let Some(delivery) = self.delivery(id) else { return };
        if !delivery.fork.forwarded(now.mono, branch) {
            return; // S-053
        }
        if let Some(entry) = delivery.branch(branch) {
            entry.state = BranchState::Ready;
        }
        self.forward_to(now, id, branch, &target);
        self.pump(now, id);
    }

    /// A phone will not wake in time.
    pub(super) fn wake_failed(&mut self, now: Now, id: u64, key: BindingKey, why: WakeFailure) {
        let Some(delivery) = self.delivery(id) else { return };
        let Some(branch) = delivery.awaiting(key) else { return };
        let branch = branch.id;
        if why == WakeFailure::NotConnected && self.await_return(now, id, branch) {
            return;
        }
        let Some(delivery) = self.delivery(id) else { return };
        if let Some(entry) = delivery.branch(branch) {
            entry.state = BranchState::Ended;
        }
        // P-065, P-066.
        let status = if is_in_dialog(&delivery.request) { status_in_dialog(why) } else { 480 };
        delivery.fork.failed(now.mono, branch, status);
        tracing::debug!(why = why.as_str(), "a phone did not wake");
        self.pump(now, id);
    }

    /// The home said nothing although every wait there has ended: its shard was restarted and has forgotten us.
    pub(super) fn home_overdue(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return self.register_overdue(now, id) };
        let status = if is_in_dialog(&delivery.request) { 504 } else { 480 };
        if std::mem::take(&mut delivery.resolving) && !delivery.fork.is_final_sent() {
            return self.finish_with(now, id, status);
        }
        let left: SmallVec<[BranchId; 2]> =
            delivery.branches.iter().filter(|b| matches!(b.state, BranchState::Awaiting)).map(|b| b.id).collect();
        for branch in left {
            self.fail_branch(now, id, branch, status);
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

    pub(super) fn user_exists(&self, id: u64) -> bool {
        let Some(context) = self.contexts.get(&id) else { return false };
        let Work::Deliver(delivery) = &context.work else { return false };
        let Where::Home(aor) = &delivery.plan.destination else { return false };
        self.shared.users.as_ref().is_some_and(|users| users.exists(user_of(aor)))
    }

    pub(super) fn delivery(&mut self, id: u64) -> Option<&mut Delivery> {
        match &mut self.contexts.get_mut(&id)?.work {
            Work::Deliver(delivery) => Some(delivery),
            _ => None,
        }
    }
}
