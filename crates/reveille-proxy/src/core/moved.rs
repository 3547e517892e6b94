//! A shard that has left this node while something was asked of it: its requests go after it, to the node that owns it now.

use std::time::{Duration, Instant};

use reveille_registrar::aor::Aor;
use reveille_sip::{header::HeaderId, message::Message};
use reveille_transaction::{BranchId, ServerId};
use smallvec::SmallVec;

use super::{
    Core, Now, Timer,
    admission::{DEFAULT_BREADTH, loop_hash},
    context::{BranchState, Origin, Plan, Where, Work},
    routes,
};
use crate::ingress::Purpose;

/// The pause before the shard's owner is looked for: whoever gave it up says so first and announces the new owner then.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What a node says with 482 where a request that had been here came back from another node: its shard has moved to and fro. The edge it
/// came in by asks anew.
pub(super) const MOVED: &str = "moved";

impl Core {
    /// Whether an answer says that a request went round among nodes, and this is the one to ask anew.
    pub(super) fn went_round(&mut self, id: u64, branch: BranchId, answer: &Message) -> bool {
        answer.status() == Some(482)
            && answer.value(HeaderId::Reveille) == Some(MOVED)
            && self.contexts.get(&id).is_some_and(|context| context.origin.purpose != Purpose::Cluster)
            && self.is_home_alone(id, branch)
    }

    /// The shard that was asked is not here any more.
    pub(super) fn moved(&mut self, now: Now, id: u64) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        if !matches!(context.work, Work::Register(_)) {
            return self.delivery_moved(now, id);
        }
        let (server, origin, started) = (context.server, context.origin, context.started);
        let Work::Register(registering) = std::mem::replace(&mut context.work, Work::Answered) else { return };
        self.deadlines.clear(&Timer::HomeOverdue { context: id });
        self.forget_if_over(id);
        self.follow(now, server, registering.request, &origin, registering.aor, started);
    }

    /// Sends a REGISTER after its shard. It has been admitted, and is not asked for credentials again.
    fn follow(&mut self, now: Now, server: ServerId, request: Message, origin: &Origin, aor: Aor, started: Instant) {
        let own = self.shared.peers.own();
        let path = (origin.purpose != Purpose::Cluster).then(|| self.path(&request, origin)).transpose();
        let routes = routes::read(&request, &origin.flow, own, &*self.shared.flows);
        let (path, own_routes) = match (path, routes) {
            (Ok(path), Ok(set)) => (path, set.own),
            (Err(reply), _) | (_, Err(reply)) => return self.reply(now, server, &request, origin, reply),
        };
        let plan = Plan {
            request: None,
            own_routes,
            destination: Where::Home(aor),
            breadth: DEFAULT_BREADTH,
            loop_hash: loop_hash(&request, own, origin),
            wakeable: false,
            path,
            rebound: None,
        };
        let id = self.open_delivery(now, server, request, origin, plan);
        // However often the shard moves, the phone waits no longer than for one that stays.
        if let Some(context) = self.contexts.get_mut(&id) {
            context.started = started;
        }
        if let Some(delivery) = self.delivery(id) {
            delivery.deadline -= now.mono.saturating_duration_since(started).min(delivery.deadline - now.mono);
        }
        self.look_for_home(now, id);
    }

    /// A request that waited there for phones waits for the new owner instead; phones that ring already go on ringing.
    fn delivery_moved(&mut self, now: Now, id: u64) {
        let Some(delivery) = self.delivery(id) else { return };
        delivery.resolving = false;
        if delivery.fork.is_final_sent() {
            return;
        }
        let waiting: SmallVec<[BranchId; 2]> = delivery
            .branches
            .iter()
            .filter(|branch| branch.key.is_some() && matches!(branch.state, BranchState::Awaiting))
            .map(|branch| branch.id)
            .collect();
        let sent = delivery.branches.iter().any(|branch| matches!(branch.state, BranchState::Sent { .. }));
        if sent || !matches!(delivery.plan.destination, Where::Home(_)) || !delivery.fork.can_add() {
            // The new owner knows nothing of what was offered here, and would offer it again.
            for branch in waiting {
                self.fail_branch(now, id, branch, 480);
            }
            return self.pump(now, id);
        }
        self.look_for_home(now, id);
        if let Some(delivery) = self.delivery(id) {
            for gone in waiting {
                delivery.branches.retain(|branch| branch.id != gone);
                delivery.fork.remove_branch(gone);
            }
        }
        self.pump(now, id);
    }

    fn look_for_home(&mut self, now: Now, id: u64) {
        if self.delivery(id).is_some_and(|delivery| delivery.homeless().is_none()) {
            self.add_onward(now, id, BranchState::Awaiting);
        }
        self.deadlines.set(Timer::Rehome { context: id }, now.mono + PAUSE);
    }
}
