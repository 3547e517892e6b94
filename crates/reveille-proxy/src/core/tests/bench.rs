//! The bench the scenarios run on: a core with recording ports and a clock that only tests move.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Registry;
use reveille_push::{
    Provider, PushTarget,
    caps::Announcement,
    service::{PushJob, PushServices, Unsupported},
};
use reveille_registrar::{
    aor::{Aliases, Aor},
    flow::{FlowProbe, FlowRef, Liveness, NodeTag, Transport},
    record::BindingKey,
    shard::{HomeEvent, Now, ShardInput, Target, WorkerRef},
};
use reveille_sip::{limits::Limits, message::Message};
use reveille_transaction::TimerConfig;

use crate::{
    auth::{Digest, NoncePins},
    core::{Core, Shared},
    egress::{Bound, Destination, Flows, LocalAddress, SendError, TokenError, Trust},
    home::{HomeBusy, Homes},
    ingress::{Inbound, Purpose},
    metrics::Metrics,
    peers::{Alone, Peers},
    settings::{RegistrationSettings, Settings, WakeSettings},
};

/// A TLS connection by number.
pub(super) fn tls(connection: u64) -> FlowRef {
    FlowRef::Stream { node: NodeTag(0), epoch: 1, connection, transport: Transport::Tls }
}

/// A TLS connection to one of several nodes.
pub(super) fn on(node: u32, connection: u64) -> FlowRef {
    FlowRef::Stream { node: NodeTag(node), epoch: 1, connection, transport: Transport::Tls }
}

/// The connection between two nodes, as `own` calls it.
pub(super) fn between(own: NodeTag, other: NodeTag) -> FlowRef {
    on(own.0, 1000 + u64::from(other.0))
}

/// A UDP peer by port.
pub(super) fn udp(port: u16) -> FlowRef {
    FlowRef::Datagram { node: NodeTag(0), listener: 0, remote: SocketAddr::from(([192, 0, 2, 9], port)) }
}

/// What was sealed, by token.
pub(super) type Tokens = Arc<Mutex<HashMap<String, (FlowRef, Option<Bound>)>>>;

#[derive(Default)]
pub(super) struct FakeFlows {
    pub(super) sent: Mutex<Vec<(FlowRef, Bytes)>>,
    pub(super) gone: Mutex<Vec<FlowRef>>,
    pub(super) closed: Mutex<Vec<FlowRef>>,
    pub(super) opened: Mutex<Vec<Destination>>,
    /// Shared by the nodes of one cluster, as the keys of tokens are.
    pub(super) tokens: Tokens,
    bound: Mutex<HashMap<FlowRef, Bound>>,
    trusted: Mutex<HashMap<FlowRef, Trust>>,
    wakeable: Mutex<std::collections::HashSet<FlowRef>>,
    /// The node, and how many connections it may open to others.
    node: NodeTag,
}

impl FlowProbe for FakeFlows {
    fn liveness(&self, flow: &FlowRef) -> Liveness {
        if self.gone.lock().contains(flow) { Liveness::Gone } else { Liveness::Connectionless }
    }
}

impl Flows for FakeFlows {
    fn hold(&self, _: &FlowRef, _: reveille_sip::method::Method) -> Option<crate::ingress::Hold> {
        None
    }
    fn send(&self, to: &FlowRef, message: Bytes) -> Result<(), SendError> {
        if self.gone.lock().contains(to) {
            return Err(SendError::Gone);
        }
        self.sent.lock().push((*to, message));
        Ok(())
    }
    fn close(&self, flow: &FlowRef) {
        self.closed.lock().push(*flow);
        self.gone.lock().push(*flow);
    }
    fn open(&self, to: &Destination) -> Result<FlowRef, SendError> {
        self.opened.lock().push(to.clone());
        // A node's port is 7000 and its number.
        match to.address.port().checked_sub(7000) {
            Some(other) => Ok(between(self.node, NodeTag(u32::from(other)))),
            None => Ok(tls(99)),
        }
    }
    fn open_node(&self, to: &Destination) -> Result<FlowRef, SendError> {
        self.open(to)
    }
    fn connected_node(&self, to: &Destination) -> Option<FlowRef> {
        let is_open = self.opened.lock().contains(to);
        is_open.then(|| self.open(to).ok()).flatten()
    }
    fn seal(&self, flow: &FlowRef) -> String {
        let mut tokens = self.tokens.lock();
        let token = format!("tok{}", tokens.len());
        tokens.insert(token.clone(), (*flow, self.bound.lock().get(flow).cloned()));
        token
    }
    fn seal_bound(&self, flow: &FlowRef, binding: &Bound) -> String {
        let mut tokens = self.tokens.lock();
        let token = format!("tok{}", tokens.len());
        tokens.insert(token.clone(), (*flow, Some(binding.clone())));
        token
    }
    fn unseal(&self, token: &str) -> Result<FlowRef, TokenError> {
        self.tokens.lock().get(token).map(|(flow, _)| *flow).ok_or(TokenError::Forged)
    }
    fn bind(&self, flow: &FlowRef, binding: Bound) {
        self.bound.lock().insert(*flow, binding);
    }
    fn mark_wakeable(&self, flow: &FlowRef, wakeable: bool) {
        let mut marked = self.wakeable.lock();
        if wakeable {
            marked.insert(*flow)
        } else {
            marked.remove(flow)
        };
    }
    fn is_wakeable(&self, flow: &FlowRef) -> bool {
        self.wakeable.lock().contains(flow)
    }
    fn trust(&self, flow: &FlowRef, user: Option<Trust>) {
        match user {
            Some(user) => drop(self.trusted.lock().insert(*flow, user)),
            None => drop(self.trusted.lock().remove(flow)),
        }
    }
    fn trusted(&self, flow: &FlowRef) -> Option<Trust> {
        self.trusted.lock().get(flow).cloned()
    }
    fn unseal_binding(&self, token: &str) -> Option<Bound> {
        self.tokens.lock().get(token).and_then(|(_, bound)| bound.clone())
    }
    fn local(&self, flow: &FlowRef) -> Option<LocalAddress> {
        if self.gone.lock().contains(flow) {
            return None;
        }
        Some(LocalAddress { transport: flow.transport(), host: "edge.test".into(), port: 5061 })
    }
    fn names_us(&self, host: &str, port: Option<u16>) -> bool {
        host == "edge.test" && port.is_none_or(|p| p == 5061) || host == "192.0.2.7" && port == Some(40_001)
    }
}

#[derive(Default)]
pub(super) struct FakeHomes {
    pub(super) asked: Mutex<Vec<(Aor, ShardInput)>>,
    pub(super) full: AtomicBool,
}

impl Homes for FakeHomes {
    fn ask(&self, aor: &Aor, input: ShardInput) -> Result<(), HomeBusy> {
        if self.full.load(Ordering::Relaxed) {
            return Err(HomeBusy);
        }
        self.asked.lock().push((aor.clone(), input));
        Ok(())
    }
}

/// Push services that know the app `TEAMID0001.org.example.phone.voip` of APNs and nothing else.
pub(super) struct FakePushes;

impl PushServices for FakePushes {
    fn check(&self, target: &PushTarget) -> Result<(), Unsupported> {
        match target.provider {
            Provider::Apns if target.param.starts_with("TEAMID0001.org.example.phone.voip") => Ok(()),
            Provider::Apns => Err(Unsupported::App),
            _ => Err(Unsupported::Provider),
        }
    }
    fn announce(&self, provider: Provider) -> Option<Announcement> {
        (provider == Provider::Apns).then(|| Announcement::new(provider))
    }
    fn announced(&self) -> Vec<Announcement> {
        vec![Announcement::new(Provider::Apns)]
    }
    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        Err(job)
    }
}

pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) flows: Arc<FakeFlows>,
    pub(super) homes: Arc<FakeHomes>,
    pub(super) shared: Arc<Shared>,
    pub(super) now: Now,
}

pub(super) fn settings() -> Settings {
    Settings {
        domains: vec!["example.com".into()],
        aliases: Aliases::new(),
        timers: TimerConfig::default(),
        transactions: 1000,
        registration: RegistrationSettings {
            min_expires: 60,
            max_expires: 7 * 86_400,
            default_expires: 3600,
            push_min_expires: 600,
            max_contacts: 10,
            max_push_contacts: 4,
            reject_unsupported_push: true,
            header_pn_params: false,
            flow_timer: 120,
            pnsreg: 180,
            voip_expires: 7 * 86_400,
        },
        wake: WakeSettings {
            call_wait: Duration::from_secs(30),
            request_wait: Duration::from_secs(10),
            flow_patience: Duration::from_secs(2),
        },
        trust_registered_flow: false,
        strong_alternative: Vec::new(),
        server_header: String::new(),
        retry_after: 5,
    }
}

#[allow(clippy::disallowed_methods)] // the one reading of a clock that a scenario starts from
fn epoch() -> Instant {
    Instant::now()
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(settings(), None)
    }

    pub(super) fn with(settings: Settings, auth: Option<Digest>) -> Self {
        Self::among(settings, auth, Arc::new(FakeFlows::default()), Arc::new(Alone))
    }

    /// A node of several.
    pub(super) fn node(own: u32, tokens: &Tokens, peers: Arc<dyn Peers>) -> Self {
        let flows = FakeFlows { node: NodeTag(own), tokens: Arc::clone(tokens), ..FakeFlows::default() };
        Self::among(settings(), None, Arc::new(flows), peers)
    }

    pub(super) fn among(
        settings: Settings,
        auth: Option<Digest>,
        flows: Arc<FakeFlows>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        Self::served_by(Arc::new(FakePushes), settings, auth, flows, peers)
    }

    /// A node with these push services.
    pub(super) fn served_by(
        pushes: Arc<dyn PushServices>,
        settings: Settings,
        auth: Option<Digest>,
        flows: Arc<FakeFlows>,
        peers: Arc<dyn Peers>,
    ) -> Self {
        Self::assemble(settings, auth, None, (flows, peers, pushes))
    }

    /// A node that asks where nonces belong.
    pub(super) fn pinning(auth: Digest, pins: Arc<dyn NoncePins>) -> Self {
        Self::assemble(settings(), Some(auth), Some(pins), (Arc::default(), Arc::new(Alone), Arc::new(FakePushes)))
    }

    fn assemble(
        settings: Settings,
        auth: Option<Digest>,
        pins: Option<Arc<dyn NoncePins>>,
        (flows, peers, pushes): (Arc<FakeFlows>, Arc<dyn Peers>, Arc<dyn PushServices>),
    ) -> Self {
        let homes = Arc::new(FakeHomes::default());
        let shared = Arc::new(Shared {
            settings,
            flows: flows.clone(),
            homes: homes.clone(),
            peers,
            pushes,
            auth: auth.map(Arc::new),
            pins,
            users: None,
            metrics: Metrics::new(&Registry::new()).unwrap(),
            mistakes: Default::default(),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            salt: 0x5eed,
        });
        let now = Now { mono: epoch(), unix: 1_800_000_000 };
        Self { core: Core::new(shared.clone(), 3), flows, homes, shared, now }
    }

    /// A message from a trusted trunk.
    pub(super) fn peer(&mut self, flow: FlowRef, text: &str) {
        self.receive(flow, Purpose::Peer, text);
    }

    /// A message from a public listener.
    pub(super) fn public(&mut self, flow: FlowRef, text: &str) {
        self.receive(flow, Purpose::Public, text);
    }

    /// A message from another node.
    pub(super) fn cluster(&mut self, flow: FlowRef, message: Message) {
        self.take(flow, Purpose::Cluster, message);
    }

    fn receive(&mut self, flow: FlowRef, purpose: Purpose, text: &str) {
        self.take(flow, purpose, message(text));
    }

    fn take(&mut self, flow: FlowRef, purpose: Purpose, message: Message) {
        let inbound = Inbound {
            message,
            flow,
            remote: SocketAddr::from(([192, 0, 2, 77], 40_000)),
            purpose,
            transport: flow.transport(),
            received: self.now.mono,
            hold: None,
        };
        self.core.message(self.now, inbound);
    }

    /// Moves the clock, stopping at each deadline on the way.
    pub(super) fn advance(&mut self, by: Duration) {
        let (start, end) = (self.now, self.now.mono + by);
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now.mono = self.now.mono.max(at);
            self.core.handle_timeout(self.now);
        }
        self.now = Now { mono: end, unix: start.unix + by.as_secs() };
    }

    /// What left since the last call.
    pub(super) fn sent(&self) -> Vec<(FlowRef, Message)> {
        let drained: Vec<_> = self.flows.sent.lock().drain(..).collect();
        drained
            .into_iter()
            .map(|(f, b)| (f, Message::parse(b, &Limits::default()).expect("we send well-formed messages")))
            .collect()
    }

    /// Status codes sent to `flow` since the last call; everything else that left is dropped.
    pub(super) fn statuses(&self, flow: FlowRef) -> Vec<u16> {
        self.sent().iter().filter(|(f, _)| *f == flow).filter_map(|(_, m)| m.status()).collect()
    }

    /// Requests sent to `flow` since the last call; everything else that left is dropped.
    pub(super) fn requests(&self, flow: FlowRef) -> Vec<Message> {
        self.sent().into_iter().filter(|(f, m)| *f == flow && m.is_request()).map(|(_, m)| m).collect()
    }

    /// What homes were asked since the last call.
    pub(super) fn asked(&self) -> Vec<ShardInput> {
        self.homes.asked.lock().drain(..).map(|(_, input)| input).collect()
    }

    /// The context that asked for a resolution; there must be just one.
    pub(super) fn resolving(&self) -> WorkerRef {
        let asked = self.asked();
        match asked.as_slice() {
            [ShardInput::Resolve(ask)] => ask.waiter,
            _ => panic!("expected one Resolve, got {} questions", asked.len()),
        }
    }

    pub(super) fn home(&mut self, to: WorkerRef, event: HomeEvent) {
        assert_eq!(to.worker, 3);
        self.core.home_answer(self.now, to.context, event);
    }
}

/// What a test wrote, as it would come off a connection.
pub(super) fn message(text: &str) -> Message {
    let wire = text.trim_start().replace('\n', "\r\n");
    Message::parse(Bytes::from(wire), &Limits::default()).expect("a well-formed test message")
}

/// A binding of alice's, reachable on `flow`.
pub(super) fn target(key: u64, flow: FlowRef, pushable: bool) -> Target {
    Target {
        key: BindingKey(key),
        contact: format!("sip:alice@198.51.100.{key}:5070;transport=tls"),
        q: 1000,
        flow: Some(flow),
        path: Vec::new(),
        instance: None,
        reg_id: None,
        pushable,
    }
}

/// An INVITE to alice, as a trunk sends it.
pub(super) fn invite(branch: &str) -> String {
    format!(
        "
INVITE sip:alice@example.com SIP/2.0
Via: SIP/2.0/TLS trunk.test:5061;branch={branch}
Max-Forwards: 70
From: <sip:bob@trunk.test>;tag=b1
To: <sip:alice@example.com>
Call-ID: call-1@trunk.test
CSeq: 7 INVITE
Contact: <sip:bob@trunk.test;transport=tls>
X-Odd: ;;,,;;,;
Content-Length: 0

"
    )
}

/// A response of the phone to the request it got.
pub(super) fn answer(request: &Message, status: u16) -> String {
    let mut text = format!("\nSIP/2.0 {status} Whatever\n");
    for (id, name) in [
        (reveille_sip::header::HeaderId::Via, "Via"),
        (reveille_sip::header::HeaderId::RecordRoute, "Record-Route"),
        (reveille_sip::header::HeaderId::From, "From"),
        (reveille_sip::header::HeaderId::CallId, "Call-ID"),
        (reveille_sip::header::HeaderId::CSeq, "CSeq"),
    ] {
        for line in request.lines(id) {
            text += &format!("{name}: {line}\n");
        }
    }
    text += &format!("To: {};tag=a1\n", request.lines(reveille_sip::header::HeaderId::To).next().unwrap_or(""));
    text += "Contact: <sip:alice@198.51.100.1:5070;transport=tls;pn-provider=apns;pn-prid=aabbccdd>\n";
    text += "Content-Length: 0\n\n";
    text
}
