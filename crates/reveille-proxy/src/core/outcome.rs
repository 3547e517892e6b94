//! How a delivery ends: what the response context decides is carried out, and whoever waited elsewhere is told.

use reveille_registrar::shard::{ShardInput, WorkerRef};
use reveille_sip::{header::HeaderId, message::Message};
use reveille_transaction::{ForkOutput, ServerId};

use super::{
    Core, Now, Timer,
    context::{BranchState, Where, Work},
    reply::Reply,
};

impl Core {
    /// Carries out what the response context decided, until it has nothing more to say.
    pub(super) fn pump(&mut self, now: Now, id: u64) {
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

    /// The caller gave up; the CANCEL itself was answered by its transaction (S-050).
    pub(super) fn cancelled(&mut self, now: Now, invite: ServerId) {
        let Some(&id) = self.servers.get(&invite) else { return };
        let Some(delivery) = self.delivery(id) else { return self.cancel_held(now, id) };
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
    pub(super) fn finish_with(&mut self, now: Now, id: u64, status: u16) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let Work::Deliver(delivery) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        let reply = if status == 503 { self.overloaded() } else { Reply::new(status) };
        self.answer(now, id, &delivery.request, reply);
    }

    /// Passes a response to whoever asked.
    pub(super) fn send_up(&mut self, now: Now, id: u64, message: &Message, challenges: &[(HeaderId, String)]) {
        let status = message.status().unwrap_or(500);
        self.bind_by(now, id, message);
        let Some(context) = self.contexts.get(&id) else { return };
        let (server, method, to) = (context.server, context.method, context.origin.purpose);
        let joined = match &context.work {
            Work::Deliver(delivery) if delivery.twin.as_ref().is_some_and(|twin| twin.joined) => {
                Some(&delivery.request)
            }
            _ => None,
        };
        let Some(bytes) = super::forward::build_response(message, method, challenges, joined, to) else { return };
        if let Some(twin) = self.delivery(id).and_then(|delivery| delivery.twin.as_mut())
            && (101..300).contains(&status)
        {
            twin.last = Some(message.clone());
        }
        self.note_answer(id, status);
        self.count(method, status);
        self.respond(now, server, status, bytes);
    }

    /// Gives an answer of our own to whoever asked.
    pub(super) fn respond_up(&mut self, now: Now, id: u64, status: u16) {
        let Some(context) = self.contexts.get(&id) else { return };
        let Work::Deliver(delivery) = &context.work else { return };
        let (server, origin, request) = (context.server, context.origin, delivery.request.clone());
        self.note_answer(id, status);
        self.reply(now, server, &request, &origin, Reply::new(status));
    }

    pub(super) fn note_answer(&mut self, id: u64, status: u16) {
        if status >= 200
            && let Some(delivery) = self.delivery(id)
        {
            delivery.answered = true;
        }
    }

    /// Tells the shard that nobody here waits any more, so that an unsent push is withdrawn (P-069).
    pub(super) fn release_home(&mut self, id: u64) {
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

    pub(super) fn leave_home(&mut self, id: u64) {
        let waiter = WorkerRef { worker: self.worker, context: id };
        let Some(delivery) = self.delivery(id) else { return };
        let Where::Home(aor) = &delivery.plan.destination else { return };
        let aor = aor.clone();
        if self.shared.homes.ask(&aor, ShardInput::Leave { aor: aor.clone(), waiter }).is_err() {
            // Only a shard that is being restarted refuses a fact; its waiters are gone with it.
            tracing::debug!(aor = %aor.redacted(), "a shard under restart needs no leave");
        }
    }
}
