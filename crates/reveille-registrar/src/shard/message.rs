//! What a shard is told and what it says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reveille_push::{Outcome, PushClass, PushTarget, Ticket, WakeFailure};
use reveille_sip::method::Method;
use tokio::sync::oneshot;

use crate::{
    aor::Aor,
    flow::FlowRef,
    record::{Binding, BindingKey, Record},
    replica::{Promise, StoreError},
};

/// The time, as one turn sees it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub mono: Instant,
    /// Wall time in seconds since the Unix epoch.
    pub unix: u64,
}

/// Whom to answer: a worker, and what the answer belongs to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerRef {
    /// Index of the worker.
    pub worker: u16,
    /// The worker's own number for the request at hand.
    pub context: u64,
}

/// A REGISTER that has passed every check but the registrar's own.
#[derive(Clone, Debug)]
pub struct RegisterRequest {
    /// Whose bindings.
    pub aor: Aor,
    /// Call-ID.
    pub call_id: String,
    /// CSeq number.
    pub cseq: u32,
    /// What to do.
    pub contacts: ContactsUpdate,
    /// Path values, in order, if they are to be trusted (S-117).
    pub path: Vec<String>,
    /// The flow the REGISTER came over, where that is the phone's own.
    pub flow: Option<FlowRef>,
    /// Whether `reg-id` is honoured (S-119).
    pub outbound: bool,
    /// Whether a node sent it on, and so may send it again where the first home did not answer: that one may have written it.
    pub sent_on: bool,
    /// Who wants the answer.
    pub reply: WorkerRef,
}

/// What a REGISTER does.
#[derive(Clone, Debug)]
pub enum ContactsUpdate {
    /// No Contact: asks for the bindings (S-103).
    Fetch,
    /// `Contact: *` with `Expires: 0` (S-104).
    RemoveAll,
    /// Contacts, all or none of which take effect (S-108).
    Update(Vec<ContactUpdate>),
}

/// One Contact of a REGISTER.
#[derive(Clone)]
pub struct ContactUpdate {
    /// The URI, verbatim.
    pub uri: String,
    /// The header parameters, verbatim, without `expires` and `q`.
    pub params: String,
    /// q in thousandths.
    pub q: u16,
    /// Granted lifetime in seconds; 0 removes.
    pub expires: u32,
    /// `+sip.instance`, verbatim.
    pub instance: Option<String>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
    /// Where to push; `None` for an ordinary Contact and for a query (P-034, P-043).
    pub push: Option<PushTarget>,
    /// `+sip.pnsreg` given.
    pub pnsreg: bool,
}

/// A request looks for where to go.
#[derive(Clone, Debug)]
pub struct ResolveRequest {
    /// Whose bindings.
    pub aor: Aor,
    /// Who waits.
    pub waiter: WorkerRef,
    /// What a push would be for.
    pub class: PushClass,
    /// The request's method.
    pub method: Method,
    /// Its Bucket Timer (P-067).
    pub deadline: Instant,
    /// Whether it makes a dialog.
    pub dialog_forming: bool,
}

/// A request wants one phone woken: its forward died on the flow (P-054), or its route names that binding.
#[derive(Clone, Debug)]
pub struct WakeRequest {
    /// Whose binding.
    pub aor: Aor,
    /// Who waits.
    pub waiter: WorkerRef,
    /// Which binding.
    pub key: BindingKey,
    /// What a push is for.
    pub class: PushClass,
    /// Its Bucket Timer.
    pub deadline: Instant,
}

/// The flow of a binding failed a request: is there another way to the same phone (S-131)?
#[derive(Clone, Debug)]
pub struct NextRequest {
    /// The binding that failed, and what would be waited for if the way is a push.
    pub wake: WakeRequest,
    /// The bindings tried so far for this request: `wake.key` among them if its way failed, and not if it was only a name for the
    /// phone, as within a dialog whose flow is gone.
    pub tried: Vec<BindingKey>,
}

/// A change to a record that does not come from its phone.
pub struct Amendment {
    /// Whose.
    pub aor: Aor,
    /// Makes the change; says whether there was one. May be asked more than once.
    pub change: Box<dyn Fn(&mut Record) -> bool + Send>,
    /// Told when the change has been handed to the store, or there was none.
    pub done: oneshot::Sender<()>,
}

/// What a shard is told.
pub enum ShardInput {
    /// A REGISTER; answered with [`HomeEvent::Registered`].
    Register(Box<RegisterRequest>),
    /// A request looks for targets; answered with [`HomeEvent::Resolved`].
    Resolve(Box<ResolveRequest>),
    /// A request wants exactly this binding woken; answered with [`HomeEvent::Woken`] or [`HomeEvent::WakeFailed`].
    Wake(Box<WakeRequest>),
    /// A request wants the next flow of a phone, newest first, or the phone woken; answered like `Wake`, under `wake.key`.
    Next(Box<NextRequest>),
    /// A request waits no longer, for anything of this address-of-record.
    Leave {
        /// Whose bindings it waited for.
        aor: Aor,
        /// Who.
        waiter: WorkerRef,
    },
    /// A REGISTER with these Contact URIs was refused for good, after its sender was authenticated (P-064).
    RegisterRejected {
        /// Whose.
        aor: Aor,
        /// Contact URIs, verbatim.
        contacts: Vec<String>,
    },
    /// The verdict on a [`ShardOutput::Write`].
    Written {
        /// Which.
        write: u64,
        /// The verdict.
        result: Result<(), StoreError>,
    },
    /// The verdict on a [`ShardOutput::Push`].
    PushAnswered {
        /// Whose binding.
        aor: Aor,
        /// Which binding.
        key: BindingKey,
        /// Which push.
        push: u64,
        /// The verdict.
        outcome: Outcome,
    },
    /// A request met 430, or silence, on the flow of a binding (S-132).
    FlowUnusable {
        /// Whose binding.
        aor: Aor,
        /// Which binding.
        key: BindingKey,
    },
    /// A record is to be changed, as a promise of another node asks for.
    Amend(Amendment),
    /// Records from the store, before the shard serves.
    Loaded(Vec<(Aor, Bytes)>),
    /// A [`ShardOutput::Note`] is in the store, or was given up.
    NoteLeft,
    /// A note of the shard's last owner.
    NoteFound {
        /// As it was left.
        note: Vec<u8>,
        /// How long ago, by the clock of the store.
        age: Duration,
    },
}

impl ShardInput {
    /// Whose record the input is about, where it names one.
    pub fn aor(&self) -> Option<&Aor> {
        match self {
            Self::Register(request) => Some(&request.aor),
            Self::Resolve(request) => Some(&request.aor),
            Self::Wake(request) => Some(&request.aor),
            Self::Next(request) => Some(&request.wake.aor),
            Self::Leave { aor, .. }
            | Self::RegisterRejected { aor, .. }
            | Self::PushAnswered { aor, .. }
            | Self::FlowUnusable { aor, .. } => Some(aor),
            Self::Amend(amendment) => Some(&amendment.aor),
            Self::Written { .. } | Self::Loaded(_) | Self::NoteLeft | Self::NoteFound { .. } => None,
        }
    }

    /// Who awaits an answer, where the input is a request.
    pub fn asker(&self) -> Option<WorkerRef> {
        match self {
            Self::Register(request) => Some(request.reply),
            Self::Resolve(request) => Some(request.waiter),
            Self::Wake(request) => Some(request.waiter),
            Self::Next(request) => Some(request.wake.waiter),
            _ => None,
        }
    }
}

/// What a shard wants done.
pub enum ShardOutput {
    /// Tell a worker.
    Reply {
        /// Whom.
        to: WorkerRef,
        /// What.
        event: HomeEvent,
    },
    /// Keep a record; the verdict comes back as [`ShardInput::Written`].
    Write {
        /// Names the write.
        write: u64,
        /// Whose record.
        aor: Aor,
        /// The whole record; `None` deletes.
        record: Option<Bytes>,
    },
    /// Leave for the next owner what was promised and is not in the store.
    HandIn {
        /// Whose record.
        aor: Aor,
        /// What was promised.
        promise: Box<Promise>,
    },
    /// Leave a note of what push budgets have been spent, for whoever owns the shard next; [`ShardInput::NoteLeft`] follows.
    Note(Vec<u8>),
    /// Ask for a push; the verdict comes back as [`ShardInput::PushAnswered`].
    Push(Box<PushOrder>),
}

/// A push that a shard wants sent.
#[derive(Debug)]
pub struct PushOrder {
    /// Whose binding.
    pub aor: Aor,
    /// Which binding.
    pub key: BindingKey,
    /// Names the push.
    pub push: u64,
    /// Where to.
    pub target: PushTarget,
    /// What for.
    pub class: PushClass,
    /// When nobody wants it any more, or another takes its place.
    pub deadline: Instant,
    /// How long the push service may keep it for a phone it cannot reach.
    pub keep_until: Instant,
    /// Pushes of this kind that went before it to no effect.
    pub repeat: u32,
    /// Withdrawn by the shard when it is not wanted any more.
    pub ticket: Ticket,
}

/// What a worker is told.
#[derive(Clone, Debug, PartialEq)]
pub enum HomeEvent {
    /// The answer to a REGISTER: every binding there is now (S-109).
    Registered(Result<Vec<BindingView>, RegisterError>),
    /// The answer to a look-up.
    Resolved {
        /// Where the request can go at once, by q, highest first, and newest first among equals.
        targets: Vec<Target>,
        /// For which bindings it waits now, with their q.
        waiting: Vec<(BindingKey, u16)>,
        /// Whether the address-of-record has a record at all.
        known: bool,
    },
    /// A phone woke up.
    Woken {
        /// The binding that was waited for, as named in `Resolved`, `Wake` or `Next`.
        key: BindingKey,
        /// Where the request goes: the binding as it is now, maybe another one of the same phone.
        target: Target,
    },
    /// A phone could not be woken.
    WakeFailed {
        /// The binding that was waited for.
        key: BindingKey,
        /// Why.
        why: WakeFailure,
    },
    /// A phone registered while the request waits for others (S-098).
    LateTarget {
        /// The new phone.
        target: Target,
    },
    /// The shard is not on this node any more, and knows nothing of the request: whoever asked asks its new owner.
    Moved,
}

/// Where a request can go.
///
/// `contact` is what the phone gave, push parameters included: the Request-URI toward that phone and nobody else (P-104).
#[derive(Clone, PartialEq)]
pub struct Target {
    /// The binding.
    pub key: BindingKey,
    /// Its URI, verbatim.
    pub contact: String,
    /// q in thousandths.
    pub q: u16,
    /// Its flow.
    pub flow: Option<FlowRef>,
    /// Its Path values, in order.
    pub path: Vec<String>,
    /// `+sip.instance`.
    pub instance: Option<String>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
    /// Whether a push can be tried, once, if the flow proves dead (P-054).
    pub pushable: bool,
}

impl Target {
    pub(super) fn of(binding: &Binding, pushable: bool) -> Self {
        Self {
            key: binding.key,
            contact: binding.contact.clone(),
            q: binding.q,
            flow: binding.flow,
            path: binding.path.clone(),
            instance: binding.instance.clone(),
            reg_id: binding.reg_id,
            pushable,
        }
    }
}

/// A binding as a 200 to REGISTER lists it.
///
/// `contact` holds the push parameters of its phone: they leave only toward that phone (P-049, P-105).
#[derive(Clone, PartialEq, Eq)]
pub struct BindingView {
    /// Its name.
    pub key: BindingKey,
    /// Counts the REGISTERs that touched it.
    pub generation: u32,
    /// The URI, verbatim.
    pub contact: String,
    /// The header parameters, verbatim, without `expires` and `q`.
    pub params: String,
    /// q in thousandths.
    pub q: u16,
    /// Seconds left.
    pub expires_in: u64,
    /// `+sip.instance`.
    pub instance: Option<String>,
    /// `reg-id`, where it is honoured.
    pub reg_id: Option<u32>,
    /// The provider that will be asked to wake this phone; `None` if it will not be woken.
    pub push: Option<reveille_push::Provider>,
    /// Whether that wakes it for requests within dialogs too; an APNs token may be for calls alone (P-151).
    pub wakes_in_dialogs: bool,
    /// Whether the REGISTER that is being answered touched it.
    pub updated_now: bool,
}

impl BindingView {
    pub(super) fn of(binding: &Binding, unix: u64, updated_now: bool) -> Self {
        Self {
            key: binding.key,
            generation: binding.generation,
            contact: binding.contact.clone(),
            params: binding.params.clone(),
            q: binding.q,
            expires_in: binding.expires_at.saturating_sub(unix),
            instance: binding.instance.clone(),
            reg_id: binding.reg_id,
            push: binding.push.as_ref().map(|push| push.provider),
            wakes_in_dialogs: binding.push.as_ref().is_some_and(|push| push.can_wake(reveille_push::PushClass::Dialog)),
            updated_now,
        }
    }
}

/// Why a REGISTER had no effect at all (S-108).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Same Call-ID, and a CSeq that is not higher (S-107).
    #[error("REGISTER out of order")]
    OutOfOrder,
    /// The address-of-record would have too many bindings (S-112).
    #[error("too many bindings")]
    TooMany,
    /// The push service has called this token dead (P-156).
    #[error("push token known to be dead")]
    DeadPush,
    /// A later version of this software has written the record, and this one may not write over it.
    #[error("the record is of a later version")]
    LaterVersion,
    /// The store did not keep it (S-108, P-170).
    #[error("the store did not keep the record")]
    Store(StoreError),
}

impl RegisterError {
    /// The status that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::OutOfOrder => 500,
            Self::TooMany => 403,
            Self::DeadPush => 555,
            Self::LaterVersion | Self::Store(_) => 503,
        }
    }

    /// Name for metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutOfOrder => "out_of_order",
            Self::TooMany => "too_many",
            Self::DeadPush => "dead_push",
            Self::LaterVersion => "later_version",
            Self::Store(_) => "store",
        }
    }
}
