//! A shard, a store that answers when told to, push services and flows made of tables.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus::Registry;
use reveille_push::{
    Outcome, Provider, PushClass, PushJob, PushServices, PushTarget, Secret, Ticket, Unsupported, WakeFailure,
    caps::Announcement,
};
use reveille_sip::method::Method;

use crate::{
    Aor, ContactUpdate, ContactsUpdate, DeadTargets, FlowProbe, FlowRef, HomeEvent, Liveness, NodeTag, Now,
    RegisterRequest, ResolveRequest, Shard, ShardInput, ShardOutput, Target, Transport, WorkerRef,
    metrics::Metrics,
    record::BindingKey,
    shard::{BindingView, PushOrder, RegisterError, ShardConfig},
};

/// Some instant to count from.
#[allow(clippy::disallowed_methods)] // tests need one instant to begin with; it is moved by hand from there
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(super) struct Flows(Mutex<HashMap<FlowRef, Liveness>>);

impl FlowProbe for Flows {
    fn liveness(&self, flow: &FlowRef) -> Liveness {
        match flow {
            FlowRef::Datagram { .. } => Liveness::Connectionless,
            FlowRef::Stream { .. } => self.0.lock().unwrap().get(flow).copied().unwrap_or(Liveness::Gone),
        }
    }
}

struct Services;

impl PushServices for Services {
    fn check(&self, _: &PushTarget) -> Result<(), Unsupported> {
        Ok(())
    }
    fn announce(&self, _: Provider) -> Option<Announcement> {
        None
    }
    fn announced(&self) -> Vec<Announcement> {
        Vec::new()
    }
    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        Err(job)
    }
}

pub(super) const UNIX: u64 = 1_700_000_000;
const TOKEN: &str = "5be1c0ffee01235be1c0ffee01235be1c0ffee01235be1c0ffee01235be1c0ff";

pub(super) struct Stage {
    pub(super) shard: Shard,
    pub(super) now: Now,
    pub(super) metrics: Metrics,
    flows: Arc<Flows>,
    cseq: u32,
    contexts: u64,
    /// The pushes asked for so far.
    pub(super) pushes: Vec<PushOrder>,
    /// The notes left so far.
    pub(super) notes: Vec<Vec<u8>>,
    /// Whether the store keeps silent about notes.
    pub(super) holds_notes: bool,
}

/// What a turn said, without what the stage keeps for itself.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) events: Vec<(WorkerRef, HomeEvent)>,
    pub(super) writes: Vec<(u64, Option<Bytes>)>,
    /// Number of pushes asked for.
    pub(super) pushes: usize,
    /// What was left for the next owner.
    pub(super) handed_in: Vec<crate::replica::Promise>,
}

impl Turn {
    pub(super) fn registered(&self) -> Result<Vec<BindingView>, RegisterError> {
        self.events
            .iter()
            .find_map(|(_, event)| match event {
                HomeEvent::Registered(result) => Some(result.clone()),
                _ => None,
            })
            .expect("an answer to the REGISTER")
    }

    pub(super) fn resolved(&self) -> (Vec<Target>, Vec<BindingKey>, bool) {
        self.events
            .iter()
            .find_map(|(_, event)| match event {
                HomeEvent::Resolved { targets, waiting, known } => {
                    Some((targets.clone(), waiting.iter().map(|(key, _)| *key).collect(), *known))
                }
                _ => None,
            })
            .expect("an answer to the look-up")
    }

    /// The fates of waiters, in order.
    pub(super) fn fates(&self) -> Vec<(WorkerRef, Result<Target, WakeFailure>)> {
        self.events
            .iter()
            .filter_map(|(to, event)| match event {
                HomeEvent::Woken { target, .. } => Some((*to, Ok(target.clone()))),
                HomeEvent::WakeFailed { why, .. } => Some((*to, Err(*why))),
                _ => None,
            })
            .collect()
    }

    pub(super) fn late(&self) -> Vec<(WorkerRef, Target)> {
        self.events
            .iter()
            .filter_map(|(to, event)| match event {
                HomeEvent::LateTarget { target } => Some((*to, target.clone())),
                _ => None,
            })
            .collect()
    }
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(ShardConfig::default())
    }

    pub(super) fn with(config: ShardConfig) -> Self {
        let count = prometheus::IntGauge::new("marks", "marks").unwrap();
        Self::beside(config, &Arc::new(DeadTargets::new(&[1; 32], 100, count)))
    }

    /// A shard that shares what it learns of dead tokens.
    pub(super) fn beside(config: ShardConfig, dead: &Arc<DeadTargets>) -> Self {
        let flows = Arc::new(Flows(Mutex::new(HashMap::new())));
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let shard = Shard::new(config, Arc::new(Services), flows.clone(), metrics.clone(), Arc::clone(dead));
        let now = Now { mono: start(), unix: UNIX };
        Self {
            shard,
            now,
            metrics,
            flows,
            cseq: 0,
            contexts: 0,
            pushes: Vec::new(),
            notes: Vec::new(),
            holds_notes: false,
        }
    }

    /// One input, with nothing answered by the store.
    pub(super) fn give(&mut self, input: ShardInput) -> Turn {
        self.shard.handle(self.now, input);
        self.collect()
    }

    /// One input, and the store says yes to whatever comes of it.
    pub(super) fn tell(&mut self, input: ShardInput) -> Turn {
        let turn = self.give(input);
        self.store(turn, Ok(()))
    }

    /// The store's verdict on every write of a turn, and on what comes of that.
    pub(super) fn store(&mut self, mut turn: Turn, verdict: Result<(), crate::StoreError>) -> Turn {
        let mut at = 0;
        while let Some((write, _)) = turn.writes.get(at) {
            let more = self.give(ShardInput::Written { write: *write, result: verdict });
            turn.events.extend(more.events);
            turn.writes.extend(more.writes);
            turn.pushes += more.pushes;
            at += 1;
        }
        turn
    }

    /// Time passes, with a stop at each deadline; the store says yes to everything.
    pub(super) fn pass(&mut self, time: Duration) -> Turn {
        let until = self.now.mono + time;
        let mut turn = Turn::default();
        let base = self.now;
        loop {
            let at = self.shard.poll_timeout().filter(|at| *at <= until).unwrap_or(until).max(self.now.mono);
            self.now = Now { mono: at, unix: base.unix + (at - base.mono).as_secs() };
            self.shard.handle_timeout(self.now);
            let step = self.collect();
            let step = self.store(step, Ok(()));
            turn.events.extend(step.events);
            turn.writes.extend(step.writes);
            turn.pushes += step.pushes;
            if at == until {
                return turn;
            }
        }
    }

    fn collect(&mut self) -> Turn {
        let mut turn = Turn::default();
        while let Some(output) = self.shard.poll_output() {
            match output {
                ShardOutput::Reply { to, event } => turn.events.push((to, event)),
                ShardOutput::Write { write, record, .. } => turn.writes.push((write, record)),
                ShardOutput::HandIn { promise, .. } => turn.handed_in.push(*promise),
                ShardOutput::Note(note) => {
                    self.notes.push(note);
                    if !self.holds_notes {
                        self.shard.handle(self.now, ShardInput::NoteLeft);
                    }
                }
                ShardOutput::Push(order) => {
                    turn.pushes += 1;
                    self.pushes.push(*order);
                }
            }
        }
        turn
    }

    /// The REGISTER that carries `contacts`, with a Call-ID per phone and a CSeq that grows.
    pub(super) fn register(&mut self, contacts: Vec<ContactUpdate>) -> ShardInput {
        self.cseq += 1;
        let cseq = self.cseq;
        ShardInput::Register(Box::new(request(contacts, "call-1", cseq)))
    }

    /// Registers and is stored.
    pub(super) fn registers(&mut self, contact: ContactUpdate) -> Turn {
        let input = self.register(vec![contact]);
        self.tell(input)
    }

    /// Registers over a connection, and is stored.
    pub(super) fn registers_over(&mut self, contact: ContactUpdate, connection: u64) -> Turn {
        self.cseq += 1;
        let mut request = request(vec![contact], "call-1", self.cseq);
        request.flow = Some(flow(connection));
        self.tell(ShardInput::Register(Box::new(request)))
    }

    pub(super) fn unregisters(&mut self, mut contact: ContactUpdate) -> Turn {
        contact.expires = 0;
        contact.push = None;
        self.registers(contact)
    }

    pub(super) fn invite(&mut self) -> (WorkerRef, ShardInput) {
        self.look_up(Method::Invite, PushClass::Call, Duration::from_secs(30))
    }

    pub(super) fn look_up(&mut self, method: Method, class: PushClass, wait: Duration) -> (WorkerRef, ShardInput) {
        self.contexts += 1;
        let waiter = WorkerRef { worker: 1, context: self.contexts };
        let deadline = self.now.mono + wait;
        let request =
            ResolveRequest { aor: aor(), waiter, class, method, deadline, dialog_forming: method == Method::Invite };
        (waiter, ShardInput::Resolve(Box::new(request)))
    }

    /// A call comes.
    pub(super) fn call(&mut self) -> (WorkerRef, Turn) {
        let (waiter, input) = self.invite();
        let turn = self.tell(input);
        (waiter, turn)
    }

    pub(super) fn push_answered(&mut self, at: usize, outcome: Outcome) -> Turn {
        let order = &self.pushes[at];
        let input = ShardInput::PushAnswered { aor: order.aor.clone(), key: order.key, push: order.push, outcome };
        self.tell(input)
    }

    /// The connection is open and its phone was heard `ago`.
    pub(super) fn heard(&self, connection: u64, ago: Duration) {
        let last_heard = self.now.mono.checked_sub(ago).unwrap_or(self.now.mono);
        self.flows.0.lock().unwrap().insert(flow(connection), Liveness::Open { last_heard });
    }

    pub(super) fn closed(&self, connection: u64) {
        self.flows.0.lock().unwrap().remove(&flow(connection));
    }

    pub(super) fn contacts(&mut self) -> Vec<String> {
        let request = RegisterRequest { contacts: ContactsUpdate::Fetch, ..request(vec![], "fetch", 1) };
        let views = self.tell(ShardInput::Register(Box::new(request))).registered().unwrap();
        views.into_iter().map(|view| view.contact).collect()
    }

    /// The only binding.
    pub(super) fn binding(&self) -> crate::Binding {
        let record = self.shard.record(&aor()).expect("a record");
        assert_eq!(record.bindings.len(), 1);
        record.bindings[0].clone()
    }

    pub(super) fn ticket(&self, at: usize) -> &Ticket {
        &self.pushes[at].ticket
    }
}

pub(super) fn aor() -> Aor {
    Aor::from_canonical("alice@example.com")
}

pub(super) fn worker(context: u64) -> WorkerRef {
    WorkerRef { worker: 1, context }
}

pub(super) fn request(contacts: Vec<ContactUpdate>, call_id: &str, cseq: u32) -> RegisterRequest {
    RegisterRequest {
        aor: aor(),
        call_id: call_id.into(),
        cseq,
        contacts: ContactsUpdate::Update(contacts),
        path: Vec::new(),
        flow: None,
        outbound: true,
        sent_on: false,
        reply: WorkerRef { worker: 0, context: u64::from(cseq) },
    }
}

/// An ordinary Contact.
pub(super) fn contact(uri: &str) -> ContactUpdate {
    ContactUpdate {
        uri: uri.into(),
        params: String::new(),
        q: 1000,
        expires: 3600,
        instance: None,
        reg_id: None,
        push: None,
        pnsreg: false,
    }
}

/// A Contact of an APNs phone; each `token` is another one.
pub(super) fn phone(host: &str, token: u8) -> ContactUpdate {
    let prid = prid(token);
    let uri = format!("sip:alice@{host};pn-provider=apns;pn-param=ABCDE12345.org.example.phone.voip;pn-prid={prid}");
    ContactUpdate { push: Some(target(token)), ..contact(&uri) }
}

pub(super) fn target(token: u8) -> PushTarget {
    PushTarget {
        provider: Provider::Apns,
        param: "ABCDE12345.org.example.phone.voip".into(),
        prid: Secret::from(prid(token)),
    }
}

pub(super) fn fcm(host: &str, token: &str) -> ContactUpdate {
    let uri = format!("sip:alice@{host};pn-provider=fcm;pn-param=acme-phone;pn-prid={token}");
    let push = PushTarget { provider: Provider::Fcm, param: "acme-phone".into(), prid: Secret::from(token) };
    ContactUpdate { push: Some(push), ..contact(&uri) }
}

pub(super) fn prid(token: u8) -> String {
    format!("{token:02x}{}", &TOKEN[2..])
}

/// With `+sip.instance` and, where it is not 0, `reg-id`.
pub(super) fn of_instance(mut contact: ContactUpdate, instance: u8, reg_id: u32) -> ContactUpdate {
    let urn = format!("\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6b{instance:02x}>\"");
    contact.params = format!("+sip.instance={urn}");
    contact.instance = Some(urn);
    contact.reg_id = (reg_id != 0).then_some(reg_id);
    contact
}

pub(super) fn flow(connection: u64) -> FlowRef {
    FlowRef::Stream { node: NodeTag(0), epoch: 1, connection, transport: Transport::Tls }
}
