//! Routes that outlive flows and nodes: a request within a dialog whose flow is gone goes to the home of the phone's binding, which
//! knows where the phone is now, or wakes it.

use std::time::Duration;

use reveille_registrar::{
    aor::Aor,
    record::BindingKey,
    shard::{BindingView, NextRequest, ShardInput, Target, WakeRequest, WorkerRef},
};
use reveille_sip::{edit::Edit, header::HeaderId, limits::Limits, message::Message, method::Method, typed::NameAddr};
use reveille_transaction::{BranchId, BranchKind};
use smallvec::SmallVec;

use super::{
    Core, Now, Timer,
    branch::MAX_WAYS,
    context::{Branch, BranchState, Origin, Where, Work},
    deliver::HOME_GRACE,
    reply::Reply,
    routes::{CLOSED, LOST},
};
use crate::{egress::Bound, ingress::Purpose};

/// How often a home is asked for a phone that is to come back.
const RETURN_PAUSE: Duration = Duration::from_millis(250);

/// What a home says of a REGISTER's flow: the binding and its lifetime in seconds, or that there is none any more.
const BINDING: &str = "binding=";
const EXPIRES: &str = ";expires=";
const NONE: &str = "none";
/// Said in a line of its own of a binding whose phone can be woken for requests within a dialog.
const WAKES: &str = "wakes-in-dialogs";

impl Core {
    /// A REGISTER was accepted here: its flow is that of the binding it touched. Where the flow is another node's, the answer tells
    /// that node so, and goes no further with it.
    pub(super) fn bind(
        &self,
        now: Now,
        origin: &Origin,
        aor: &Aor,
        request: &Message,
        bindings: &[BindingView],
        reply: Reply,
    ) -> Reply {
        let touched = bindings.iter().find(|binding| binding.updated_now);
        if touched.is_none() && !request.has(HeaderId::Contact) {
            return reply; // only asked what is registered
        }
        if origin.purpose == Purpose::Cluster {
            let said = touched.map_or_else(
                || format!("{BINDING}{NONE}"),
                |binding| format!("{BINDING}{}{EXPIRES}{}", binding.key.0, binding.expires_in),
            );
            let reply = reply.with(HeaderId::Reveille, said);
            let wakes = touched.is_some_and(|binding| binding.wakes_in_dialogs);
            return if wakes { reply.with(HeaderId::Reveille, WAKES) } else { reply };
        }
        self.bind_flow(now, origin, aor, touched.map(|binding| (binding.key, binding.expires_in)));
        self.shared.flows.mark_wakeable(&origin.flow, touched.is_some_and(|binding| binding.wakes_in_dialogs));
        reply
    }

    /// A REGISTER was accepted at its home, which is another node.
    pub(super) fn bind_by(&mut self, now: Now, id: u64, answer: &Message) {
        let said = answer.value(HeaderId::Reveille).and_then(|said| said.strip_prefix(BINDING));
        let Some((said, context)) = said.zip(self.contexts.get(&id)) else { return };
        if let Work::Deliver(delivery) = &context.work
            && let Where::Home(aor) = &delivery.plan.destination
            && context.method == Method::Register
            && context.origin.purpose != Purpose::Cluster
            && answer.status().is_some_and(|status| status < 300)
        {
            let touched = said
                .split_once(EXPIRES)
                .and_then(|(key, lifetime)| Some((BindingKey(key.parse().ok()?), lifetime.parse().ok()?)));
            if touched.is_some() || said == NONE {
                self.bind_flow(now, &context.origin, aor, touched);
                let wakes = touched.is_some() && answer.lines(HeaderId::Reveille).any(|line| line == WAKES);
                self.shared.flows.mark_wakeable(&context.origin.flow, wakes);
            }
        }
    }

    /// Notes what a flow of this node stands for now: a binding with its lifetime in seconds, or none.
    fn bind_flow(&self, now: Now, origin: &Origin, aor: &Aor, touched: Option<(BindingKey, u64)>) {
        let flows = &*self.shared.flows;
        self.vouch(now, origin, aor, touched.map(|(_, lifetime)| lifetime));
        if let Some((key, _)) = touched {
            flows.bind(&origin.flow, Bound { aor: aor.clone(), key });
        }
    }

    /// Asks the shard of `aor`, which is on this node, for the way to one phone.
    pub(super) fn ask_for_binding(&mut self, now: Now, id: u64, aor: &Aor) {
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return };
        let Some(key) = delivery.plan.rebound.as_ref().map(|rebound| rebound.bound.key) else { return };
        let wake = WakeRequest { aor: aor.clone(), waiter, key, class: delivery.class, deadline: delivery.deadline };
        let (homeless, branch) = (delivery.homeless(), delivery.new_branch());
        let state = BranchState::Awaiting;
        delivery.branches.push(Branch { id: branch, key: Some(key), state, tried: SmallVec::new(), pushable: false });
        delivery.fork.add_branch(now.mono, branch, BranchKind::Waiting);
        if let Some(homeless) = homeless {
            delivery.branches.retain(|branch| branch.id != homeless);
            delivery.fork.remove_branch(homeless);
        }
        self.deadlines.set(Timer::HomeOverdue { context: id }, wake.deadline + HOME_GRACE);
        let ask = ShardInput::Next(Box::new(NextRequest { wake, tried: Vec::new() }));
        if self.shared.homes.ask(aor, ask).is_err() {
            self.fail_branch(now, id, branch, 500);
            self.pump(now, id);
        }
    }

    /// The way that a route named is gone: the request goes to the home of its binding instead. False where the route names none.
    pub(super) fn reroute(&mut self, now: Now, id: u64, branch: BranchId) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        let Some(aor) = delivery.plan.rebound.as_ref().map(|rebound| rebound.bound.aor.clone()) else { return false };
        if matches!(delivery.plan.destination, Where::Home(_)) || !delivery.fork.can_add() {
            return false;
        }
        // The value that named the other node was that node's to read.
        delivery.plan.own_routes += usize::from(matches!(delivery.plan.destination, Where::Node(_)));
        delivery.plan.destination = Where::Home(aor);
        self.add_onward(now, id, BranchState::Awaiting);
        if let Some(delivery) = self.delivery(id) {
            delivery.branches.retain(|entry| entry.id != branch);
            delivery.fork.remove_branch(branch);
        }
        self.deadlines.set(Timer::Rehome { context: id }, now.mono);
        true
    }
}

impl Core {
    /// The way that the home named is the lost one: it lies on another node, of whose flows the home knows nothing. The home is asked
    /// for another, or for a push; without this the request would go back and forth. False where the way is a new one.
    pub(super) fn leads_back(&mut self, now: Now, id: u64, key: BindingKey, target: &Target) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        // One that could not be reached from elsewhere may well be there.
        let Some(rebound) = delivery.plan.rebound.as_ref().filter(|rebound| rebound.is_closed) else { return false };
        let lost = rebound.token.clone();
        let flows = &*self.shared.flows;
        let first = target.path.first().and_then(|path| NameAddr::parse(path).ok()).and_then(|path| path.uri().ok());
        let named = target.flow.or_else(|| flows.unseal(first?.user()?).ok());
        if named.is_none() || named != flows.unseal(&lost).ok() {
            return false;
        }
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return false };
        let Where::Home(aor) = &delivery.plan.destination else { return false };
        let wake = WakeRequest { aor: aor.clone(), waiter, key, class: delivery.class, deadline: delivery.deadline };
        let Some(entry) = delivery.awaiting(key) else { return false };
        let branch = entry.id;
        entry.tried.push(target.key);
        let tried = entry.tried.to_vec();
        let ask = ShardInput::Next(Box::new(NextRequest { wake: wake.clone(), tried }));
        if self
            .delivery(id)
            .and_then(|delivery| delivery.branch(branch))
            .is_some_and(|entry| entry.tried.len() > MAX_WAYS)
            || self.shared.homes.ask(&wake.aor, ask).is_err()
        {
            self.fail_branch(now, id, branch, 500);
            self.pump(now, id);
        }
        true
    }

    /// Within a dialog, a phone that lost its connection and cannot be woken is on its way to another edge: its binding is there, and
    /// the request waits for it to register again. False for a request that does not wait.
    pub(super) fn await_return(&mut self, now: Now, id: u64, branch: BranchId) -> bool {
        let Some(delivery) = self.delivery(id) else { return false };
        if delivery.plan.rebound.is_none() || !delivery.fork.can_add() || now.mono + RETURN_PAUSE >= delivery.deadline {
            return false;
        }
        let fresh = delivery.new_branch();
        let Some(entry) = delivery.branch(branch) else { return false };
        // As one that looks for its home, which asks that home anew.
        *entry = Branch { id: fresh, key: None, state: BranchState::Awaiting, tried: SmallVec::new(), pushable: false };
        delivery.fork.add_branch(now.mono, fresh, BranchKind::Waiting);
        delivery.fork.remove_branch(branch);
        self.deadlines.set(Timer::Rehome { context: id }, now.mono + RETURN_PAUSE);
        true
    }
}

/// A response without what only another node may say; as it came, where it came from one or says nothing of the kind.
pub(super) fn unspoken(response: Message, origin: &Origin) -> Message {
    if origin.purpose == Purpose::Cluster || !response.has(HeaderId::Reveille) {
        return response;
    }
    let mut edit = Edit::new(&response);
    edit.remove(HeaderId::Reveille);
    Message::parse(edit.finish(), &Limits::default()).unwrap_or(response)
}

/// The Route value that tells a home which phone a request is for.
pub(super) fn lost_route(token: &str, host: &str, is_closed: bool) -> String {
    let closed = if is_closed { format!("={CLOSED}") } else { String::new() };
    format!("<sip:{token}@{host};lr;{LOST}{closed}>")
}
