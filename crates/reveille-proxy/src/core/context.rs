//! What a worker remembers of a request in hand.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use reveille_push::{Provider, caps::Announcement, service::PushClass};
use reveille_registrar::{
    aor::Aor,
    flow::{FlowRef, NodeTag, Transport},
    record::BindingKey,
    shard::Target,
};
use reveille_sip::{message::Message, method::Method};
use reveille_transaction::{BranchId, ClientId, ResponseContext, ServerId};
use smallvec::SmallVec;

use super::{routes::Rebound, twins::Twin};
use crate::ingress::{Inbound, Purpose};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) flow: FlowRef,
    pub(super) remote: SocketAddr,
    pub(super) purpose: Purpose,
    pub(super) transport: Transport,
}

impl Origin {
    pub(super) fn of(inbound: &Inbound) -> Self {
        Self { flow: inbound.flow, remote: inbound.remote, purpose: inbound.purpose, transport: inbound.transport }
    }
}

/// A request in hand.
pub(super) struct Context {
    pub(super) server: ServerId,
    pub(super) origin: Origin,
    pub(super) method: Method,
    pub(super) started: Instant,
    pub(super) server_gone: bool,
    pub(super) work: Work,
}

impl Context {
    /// Whether nothing that happens to this context could still matter.
    pub(super) fn is_forgettable(&self) -> bool {
        match &self.work {
            // The transaction alone absorbs what still comes: for 32 s over UDP, and there are many of them.
            Work::Answered => true,
            Work::Register(_) | Work::Pinning(_) => self.server_gone,
            Work::Deliver(delivery) => self.server_gone && delivery.answered,
        }
    }
}

/// What is being done with it.
pub(super) enum Work {
    /// A REGISTER that awaits its shard.
    Register(Box<Registering>),
    /// A request on its way to one or several targets.
    Deliver(Box<Delivery>),
    /// A request that awaits word of where its nonce belongs, before it is admitted.
    Pinning(Box<Message>),
    /// A final answer of ours was given.
    Answered,
}

/// A REGISTER that awaits its shard.
pub(super) struct Registering {
    pub(super) request: Message,
    pub(super) aor: Aor,
    /// What the 200 announces, one per push service.
    pub(super) announcements: Vec<Announcement>,
    /// The providers of the push targets in it: announced only if the home takes them on.
    pub(super) targets: Vec<Provider>,
    /// Whether RFC 5626 was applied, so that the 200 says `Require: outbound` (S-121).
    pub(super) outbound: bool,
}

/// Where a request is to go, as the edge half decided.
pub(super) struct Plan {
    /// The request, after a strict router's damage was mended (RFC 3261 §16.4).
    pub(super) request: Option<Message>,
    /// Own values to take off the top of Route.
    pub(super) own_routes: usize,
    /// Its destination.
    pub(super) destination: Where,
    /// `Max-Breadth` left to spend (RFC 5393 §5.3).
    pub(super) breadth: u32,
    /// Hash over what decides routing, for the branch (RFC 5393 §4.2).
    pub(super) loop_hash: u64,
    /// The home can have the phone woken, and would rather do so than wait for a silent flow.
    pub(super) wakeable: bool,
    /// What a REGISTER on its way to its home says in Path.
    pub(super) path: Option<String>,
    /// Within a dialog: how the phone is found when the flow that its route names is gone. With a home as destination, it is gone.
    pub(super) rebound: Option<Rebound>,
}

/// The ways a request can go.
pub(super) enum Where {
    /// Down a flow, with its Request-URI as it is.
    Flow(FlowRef),
    /// To the bindings of an address-of-record, wherever its home is.
    Home(Aor),
    /// To another node, which its Route names.
    Node(NodeTag),
}

/// A request on its way to one or several targets.
pub(super) struct Delivery {
    pub(super) request: Message,
    pub(super) plan: Plan,
    pub(super) class: PushClass,
    /// When waiting for phones to wake ends.
    pub(super) deadline: Instant,
    pub(super) fork: ResponseContext,
    /// The Timer C deadline last put into the queue.
    pub(super) fork_deadline: Option<Instant>,
    pub(super) branches: SmallVec<[Branch; 2]>,
    /// Branch numbers given out.
    pub(super) numbered: u32,
    /// `Max-Breadth` of each copy: what came, divided among all targets known at the start (RFC 5393 §5.3.3).
    pub(super) breadth_share: u32,
    /// Targets of lower q, best last (RFC 3261 §16.6).
    pub(super) later: Vec<Target>,
    /// The shard was asked and has not answered.
    pub(super) resolving: bool,
    /// A final response went to the caller.
    pub(super) answered: bool,
    /// Under which a copy of the request would find it.
    pub(super) twin: Option<Twin>,
}

/// One target of a delivery.
pub(super) struct Branch {
    pub(super) id: BranchId,
    /// The binding; absent on in-dialog branches.
    pub(super) key: Option<BindingKey>,
    pub(super) state: BranchState,
    /// The bindings of this phone whose way failed.
    pub(super) tried: SmallVec<[BindingKey; 1]>,
    /// Whether the phone can be woken, so that silence on its flow is worth less patience.
    pub(super) pushable: bool,
}

/// Ready --forwarded--> Sent --final, timeout--> Ended; Awaiting --woken--> Ready; a dead flow leads from Ready or Sent to
/// Awaiting.
#[derive(Clone, Copy)]
pub(super) enum BranchState {
    /// Held until its phone wakes.
    Awaiting,
    /// Has a flow to take, and is about to.
    Ready,
    /// Forwarded; `heard` once any response came.
    Sent { client: ClientId, flow: FlowRef, heard: bool, onward: bool },
    /// Over.
    Ended,
}

impl Delivery {
    pub(super) fn new_branch(&mut self) -> BranchId {
        self.numbered += 1;
        BranchId(self.numbered)
    }

    pub(super) fn branch(&mut self, id: BranchId) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|b| b.id == id)
    }

    /// The branch that stands for the home of the request while it has none.
    pub(super) fn homeless(&self) -> Option<BranchId> {
        self.branches.iter().find(|b| b.key.is_none() && matches!(b.state, BranchState::Awaiting)).map(|b| b.id)
    }

    pub(super) fn awaiting(&mut self, key: BindingKey) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|b| b.key == Some(key) && matches!(b.state, BranchState::Awaiting))
    }

    pub(super) fn has(&self, key: BindingKey) -> bool {
        self.branches.iter().any(|b| b.key == Some(key))
    }

    pub(super) fn is_awaiting_any(&self) -> bool {
        self.branches.iter().any(|b| matches!(b.state, BranchState::Awaiting))
    }
}

/// A message ready to leave, and its way.
pub(super) struct Outgoing {
    pub(super) flow: FlowRef,
    pub(super) branch: String,
    pub(super) bytes: Bytes,
}
