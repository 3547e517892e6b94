//! Several nodes: an edge, a home and another edge, joined by what they send one another.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reveille_registrar::{
    aor::Aor,
    flow::{FlowRef, NodeTag, Transport},
    record::BindingKey,
    shard::{BindingView, HomeEvent, ShardInput, Target, WorkerRef},
};
use reveille_sip::{header::HeaderId, message::Message};

use super::{
    bench::{Bench, answer, between, invite, on, target},
    dialogs::in_dialog,
};
use crate::{
    egress::{Destination, Flows},
    peers::{Home, Peers},
};

/// The caller's edge, the home, and the edge of the phone.
pub(super) const EDGE: u32 = 0;
pub(super) const HOME: u32 = 1;
pub(super) const FAR: u32 = 2;
/// The caller's connection, and the phone's.
pub(super) const CALLER: u64 = 1;
pub(super) const PHONE: u64 = 8;

/// Who owns every shard, for all nodes alike.
pub(super) struct Table {
    pub(super) own: u32,
    pub(super) owner: Arc<Mutex<Option<u32>>>,
    pub(super) lapsed: Arc<Mutex<Vec<u32>>>,
}

impl Peers for Table {
    fn own(&self) -> NodeTag {
        NodeTag(self.own)
    }
    fn home(&self, _: &Aor) -> Home {
        match *self.owner.lock() {
            Some(owner) if owner == self.own => Home::Here,
            Some(owner) => Home::At(NodeTag(owner)),
            None => Home::Nowhere,
        }
    }
    fn destination(&self, node: NodeTag) -> Option<Destination> {
        let is_live = !self.lapsed.lock().contains(&node.0);
        self.former(node).filter(|_| is_live)
    }
    fn former(&self, node: NodeTag) -> Option<Destination> {
        let address = ([192, 0, 2, 1], 7000 + node.0 as u16).into();
        Some(Destination { transport: Transport::Tls, address, server_name: None, lane: 0 })
    }
    fn lanes(&self) -> u8 {
        4
    }
}

pub(super) struct Field {
    nodes: Vec<Bench>,
    pub(super) owner: Arc<Mutex<Option<u32>>>,
    /// Nodes whose leases are over, dead or not.
    pub(super) lapsed: Arc<Mutex<Vec<u32>>>,
    /// Nodes that are no more.
    pub(super) dead: Vec<u32>,
    /// What left toward phones and callers.
    outside: Vec<(FlowRef, Message)>,
}

impl Field {
    pub(super) fn new() -> Self {
        let (owner, tokens) = (Arc::new(Mutex::new(Some(HOME))), Arc::default());
        let lapsed = Arc::<Mutex<Vec<u32>>>::default();
        let table = |own| Table { own, owner: owner.clone(), lapsed: lapsed.clone() };
        let nodes = (0..3).map(|own| Bench::node(own, &tokens, Arc::new(table(own)))).collect();
        Self { nodes, owner, lapsed, dead: Vec::new(), outside: Vec::new() }
    }

    pub(super) fn node(&mut self, node: u32) -> &mut Bench {
        &mut self.nodes[node as usize]
    }

    /// Carries messages between nodes until none is left.
    pub(super) fn run(&mut self) {
        loop {
            let mut quiet = true;
            for from in (0..3).filter(|node| !self.dead.contains(node)).collect::<Vec<_>>() {
                for (flow, message) in self.nodes[from as usize].sent() {
                    quiet = false;
                    match (0..3).find(|to| flow == between(NodeTag(from), NodeTag(*to))) {
                        Some(to) if self.dead.contains(&to) => {
                            let node = self.node(from);
                            node.core.flow_closed(node.now, &flow);
                        }
                        Some(to) => self.node(to).cluster(between(NodeTag(to), NodeTag(from)), message),
                        None => self.outside.push((flow, message)),
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// A node dies, and the others notice.
    pub(super) fn kill(&mut self, node: u32) {
        self.dead.push(node);
        for other in (0..3).filter(|other| *other != node) {
            let bench = self.node(other);
            bench.core.flow_closed(bench.now, &between(NodeTag(other), NodeTag(node)));
        }
        self.run();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        for node in 0..3 {
            self.node(node).advance(by);
        }
        self.run();
    }

    /// What went to one peer of a node since the last call.
    pub(super) fn at(&mut self, flow: FlowRef) -> Vec<Message> {
        let (there, rest) = std::mem::take(&mut self.outside).into_iter().partition(|(to, _)| *to == flow);
        self.outside = rest;
        there.into_iter().map(|(_, message)| message).collect()
    }

    pub(super) fn statuses(&mut self, flow: FlowRef) -> Vec<u16> {
        self.at(flow).iter().filter_map(Message::status).collect()
    }

    pub(super) fn tell(&mut self, home: u32, to: WorkerRef, event: HomeEvent) {
        self.node(home).home(to, event);
        self.run();
    }

    /// The phone's binding, as its home keeps it.
    pub(super) fn binding(&mut self, pushable: bool) -> Target {
        let token = self.node(FAR).flows.seal(&on(FAR, PHONE));
        let path = vec![format!("<sip:{token}@edge.test:5061;transport=tls;lr;ob>")];
        Target { flow: None, path, ..target(1, on(FAR, PHONE), pushable) }
    }

    /// A call that has reached the phone; returns the waiter at the home and the INVITE that the phone got.
    pub(super) fn ringing(&mut self, pushable: bool) -> (WorkerRef, Message) {
        self.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
        self.run();
        assert!(self.node(EDGE).asked().is_empty(), "the edge holds no binding");
        let waiter = self.node(HOME).resolving();
        let binding = self.binding(pushable);
        self.tell(HOME, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        let mut invites = self.at(on(FAR, PHONE));
        assert_eq!(invites.len(), 1);
        (waiter, invites.remove(0))
    }
}

pub(super) fn register() -> String {
    "
REGISTER sip:example.com SIP/2.0
Via: SIP/2.0/TLS 198.51.100.1:5070;branch=z9hG4bKreg
Max-Forwards: 70
From: <sip:alice@example.com>;tag=a
To: <sip:alice@example.com>
Call-ID: reg-1
CSeq: 4 REGISTER
Supported: path, outbound
Contact: <sip:alice@198.51.100.1:5070;transport=tls;pn-provider=apns;pn-param=TEAMID0001.org.example.phone.voip;pn-prid=aabbccdd>;+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000001>\";reg-id=1
Expires: 3600
Content-Length: 0

"
    .to_owned()
}

pub(super) fn registered(contact: &str) -> HomeEvent {
    HomeEvent::Registered(Ok(vec![BindingView {
        key: BindingKey(1),
        generation: 1,
        contact: contact.to_owned(),
        params: String::new(),
        q: 1000,
        expires_in: 3600,
        instance: None,
        reg_id: Some(1),
        push: Some(reveille_push::Provider::Apns),
        updated_now: true,
    }]))
}

/// S-126, S-117, P-049: a REGISTER goes on to its home with a Path that names the phone's flow. The 200 comes back whole, push parameters and all.
#[test]
fn a_register_finds_its_home() {
    let mut field = Field::new();
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    assert!(field.node(FAR).asked().is_empty());
    let asked = field.node(HOME).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("the home is asked once") };
    assert_eq!((ask.flow, ask.outbound, ask.path.len()), (None, true, 1));
    assert!(ask.path[0].ends_with(";ob>"), "{:?}", ask.path);
    let (reply, contact) = (ask.reply, "sip:alice@198.51.100.1:5070;transport=tls;pn-provider=apns;pn-prid=aabbccdd");
    field.tell(HOME, reply, registered(contact));
    let answers = field.at(on(FAR, PHONE));
    assert_eq!(answers.iter().filter_map(Message::status).collect::<Vec<_>>(), [200]);
    assert!(answers[0].value(HeaderId::Contact).is_some_and(|contact| contact.contains("pn-prid=aabbccdd")));
    assert!(answers[0].lines(HeaderId::FeatureCaps).any(|line| line.contains("apns")));
}

/// S-070, S-071, S-130: a call over three nodes. The two that hold connections stay in the dialog, the home does not.
#[test]
fn a_call_over_three_nodes() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    let record_route: Vec<String> = ring.values(HeaderId::RecordRoute).map(str::to_owned).collect();
    assert_eq!(record_route.len(), 2, "one for each side: {record_route:?}");
    assert!(!ring.has(HeaderId::Route));
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 180));
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 180, 200]);
    let reversed: Vec<String> = record_route.iter().rev().cloned().collect();
    field.kill(HOME); // the dialog does not need it
    for (method, branch) in [("ACK", "z9hG4bK1"), ("BYE", "z9hG4bK2")] {
        field.node(EDGE).public(on(EDGE, CALLER), &in_dialog(method, branch, &reversed));
        field.run();
        let got = field.at(on(FAR, PHONE));
        assert!(matches!(got.as_slice(), [one] if !one.has(HeaderId::Route)), "{method} from the caller");
    }
    field.node(FAR).public(on(FAR, PHONE), &in_dialog("BYE", "z9hG4bK3", &record_route));
    field.run();
    assert!(matches!(field.at(on(EDGE, CALLER)).as_slice(), [bye] if bye.is_request()), "BYE from the phone");
}

/// S-050: a CANCEL goes all the way.
#[test]
fn a_cancel_over_three_nodes() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 180));
    let cancel = invite("z9hG4bKa").replace("INVITE", "CANCEL");
    field.node(EDGE).peer(on(EDGE, CALLER), &cancel);
    field.run();
    let got = field.at(on(FAR, PHONE));
    assert!(matches!(got.as_slice(), [cancel] if cancel.method_name() == "CANCEL"));
}

/// S-131, RFC 5626 §5.3: the phone's edge says 430 where the flow is gone, whether it knows before or finds out by silence; the home goes
/// on to the push.
#[test]
fn a_lost_flow_elsewhere_falls_back() {
    for silent in [false, true] {
        let mut field = Field::new();
        if silent {
            let _ = field.ringing(true);
            field.advance(Duration::from_millis(2100));
            assert_eq!(*field.node(FAR).flows.closed.lock(), [on(FAR, PHONE)], "or it would ring twice");
        } else {
            field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
            field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
            field.run();
            let waiter = field.node(HOME).resolving();
            let binding = field.binding(true);
            field.tell(HOME, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        }
        assert!(matches!(field.node(HOME).asked().as_slice(), [ShardInput::Next(_)]), "silent: {silent}");
        assert_eq!(field.statuses(on(EDGE, CALLER)), [100]);
    }
}

/// A phone that cannot be woken may take its time to answer.
#[test]
fn silence_of_a_phone_that_cannot_be_woken_proves_nothing() {
    let mut field = Field::new();
    let _ = field.ringing(false);
    field.advance(Duration::from_secs(5));
    assert!(field.node(FAR).flows.closed.lock().is_empty());
}

/// The phone's whole edge is gone: its connection to the home breaks, and the home looks for another way at once.
#[test]
fn a_dead_edge_falls_back() {
    let mut field = Field::new();
    let _ = field.ringing(true);
    field.kill(FAR);
    assert!(matches!(field.node(HOME).asked().as_slice(), [ShardInput::Next(_)]));
}

/// The home dies while the call waits there: the edge asks the next home, once there is one; on this node or on another. The caller
/// hears nothing of it.
#[test]
fn a_waiting_call_moves_to_the_next_home() {
    for next in [FAR, EDGE] {
        let mut field = Field::new();
        field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
        field.run();
        field.node(HOME).resolving();
        field.kill(HOME);
        field.advance(Duration::from_secs(2));
        *field.owner.lock() = None;
        field.advance(Duration::from_secs(1));
        assert_eq!(field.statuses(on(EDGE, CALLER)), [100], "the call is kept");
        *field.owner.lock() = Some(next);
        field.advance(Duration::from_millis(150));
        let waiter = field.node(next).resolving();
        let binding = field.binding(false);
        field.tell(next, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        let ring = field.at(on(FAR, PHONE)).remove(0);
        field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [200], "next home: {next}");
    }
}

/// The home dies while the phone rings: the next home sends the call again, and the phone hears nothing of it. What it has said, and
/// what it says later, reaches the caller by the new way; also the 200 that came while there was no home.
#[test]
fn a_ringing_phone_gets_one_invite() {
    for answered_meanwhile in [false, true] {
        let mut field = Field::new();
        let (_, ring) = field.ringing(true);
        field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 180));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 180]);
        field.kill(HOME);
        if answered_meanwhile {
            field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
            field.run();
        }
        *field.owner.lock() = Some(EDGE);
        field.advance(Duration::from_millis(150));
        let waiter = field.node(EDGE).resolving();
        let binding = field.binding(true);
        field.tell(EDGE, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        if !answered_meanwhile {
            assert_eq!(field.statuses(on(EDGE, CALLER)), [180]);
            field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
            field.run();
        }
        assert!(field.at(on(FAR, PHONE)).iter().all(|message| message.method_name() != "INVITE"), "one ring");
        let answers = field.at(on(EDGE, CALLER));
        assert_eq!(answers.iter().filter_map(Message::status).collect::<Vec<_>>(), [200]);
        assert_eq!(answers[0].vias().count(), 1, "only the caller's own Via is left");
        // A CANCEL that comes too late stops nothing, and a retransmitted 200 still finds its way (RFC 6026).
        field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [200]);
    }
}

/// The caller gives up after the home was replaced: the CANCEL finds the phone by the new way.
#[test]
fn a_joined_call_can_be_cancelled() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(true);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 180));
    field.run();
    field.kill(HOME);
    *field.owner.lock() = Some(EDGE);
    field.advance(Duration::from_millis(150));
    let waiter = field.node(EDGE).resolving();
    let binding = field.binding(true);
    field.tell(EDGE, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa").replace("INVITE", "CANCEL"));
    field.run();
    let got = field.at(on(FAR, PHONE));
    assert!(matches!(got.as_slice(), [cancel] if cancel.method_name() == "CANCEL"));
}

/// A copy after a refusal is another try: the phone had turned down the first.
#[test]
fn a_refused_call_is_not_joined() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 480));
    field.run();
    let again = Message::parse(ring.bytes().clone(), &reveille_sip::limits::Limits::default()).unwrap();
    let token = field.node(FAR).flows.seal(&on(FAR, PHONE));
    let mut edit = reveille_sip::edit::Edit::new(&again);
    edit.push_via("SIP/2.0/TLS edge.test:5061;branch=z9hG4bKother");
    edit.prepend(HeaderId::Route, &format!("<sip:{token}@edge.test:5061;transport=tls;lr>"));
    let again = Message::parse(edit.finish(), &reveille_sip::limits::Limits::default()).unwrap();
    field.node(FAR).cluster(between(NodeTag(FAR), NodeTag(EDGE)), again);
    field.run();
    assert_eq!(field.at(on(FAR, PHONE)).iter().filter(|message| message.method_name() == "INVITE").count(), 1);
}

/// A call for which no home is found in its time ends, and a REGISTER with a 503 that asks to come again.
#[test]
fn no_home_in_time() {
    let mut field = Field::new();
    *field.owner.lock() = None;
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.advance(Duration::from_secs(11));
    assert_eq!((field.statuses(on(FAR, PHONE)), field.statuses(on(EDGE, CALLER))), (vec![100, 503], vec![100]));
    field.advance(Duration::from_secs(20));
    assert_eq!(field.statuses(on(EDGE, CALLER)), [503]);
}

/// The home of a REGISTER dies: the next home gets it, whether that is another node or the edge itself.
#[test]
fn a_register_moves_to_the_next_home() {
    for next in [EDGE, FAR] {
        let mut field = Field::new();
        field.node(FAR).peer(on(FAR, PHONE), &register());
        field.run();
        field.kill(HOME);
        *field.owner.lock() = Some(next);
        field.advance(Duration::from_millis(150));
        let asked = field.node(next).asked();
        let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("the next home is asked once") };
        assert_eq!(ask.flow, (next == FAR).then_some(on(FAR, PHONE)), "its own phones need no Path");
        assert!(ask.sent_on, "the first home may have written it (S-107)");
        let reply = ask.reply;
        field.tell(next, reply, registered("sip:alice@198.51.100.1:5070"));
        assert_eq!(field.statuses(on(FAR, PHONE)), [200]);
    }
}

/// A table that is wrong everywhere ends in a refusal, not in a circle (S-064).
#[test]
fn nodes_that_point_at_each_other() {
    let mut field = Field::new();
    let (mut hops, text) = (0, invite("z9hG4bKa"));
    field.node(EDGE).peer(on(EDGE, CALLER), &text);
    *field.owner.lock() = Some(EDGE);
    // What the edge sent to the home is sent back by it.
    while hops < 10 {
        let sent: Vec<_> =
            (0..3).flat_map(|node| field.node(node).sent().into_iter().map(move |one| (node, one))).collect();
        if sent.is_empty() {
            break;
        }
        for (from, (flow, message)) in sent {
            let Some(to) = (0..3).find(|to| flow == between(NodeTag(from), NodeTag(*to))) else {
                field.outside.push((flow, message));
                continue;
            };
            *field.owner.lock() = Some(from);
            field.node(to).cluster(between(NodeTag(to), NodeTag(from)), message);
        }
        hops += 1;
    }
    assert!(hops < 10, "the request went round and round");
    // Its edge asks anew for a while.
    *field.owner.lock() = None;
    field.advance(Duration::from_secs(31));
    let statuses = field.statuses(on(EDGE, CALLER));
    assert!(matches!(statuses.as_slice(), [100, status] if *status >= 400), "{statuses:?}");
}

/// What belongs to one call goes to another node by one of the connections there are, each time and in each direction; and calls
/// spread over all of them.
#[test]
fn a_call_keeps_its_lane() {
    let mut used = std::collections::BTreeSet::new();
    for n in 0..64 {
        let mut field = Field::new();
        let call = |text: String| text.replace("call-1@trunk.test", &format!("call-{n}@trunk.test"));
        field.node(EDGE).peer(on(EDGE, CALLER), &call(invite("z9hG4bKa")));
        field.run();
        let waiter = field.node(HOME).resolving();
        let binding = field.binding(false);
        field.tell(HOME, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        let ring = field.at(on(FAR, PHONE)).remove(0);
        field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
        field.run();
        let routes: Vec<String> = ring.values(HeaderId::RecordRoute).map(str::to_owned).collect();
        let reversed: Vec<String> = routes.iter().rev().cloned().collect();
        for method in ["ACK", "BYE"] {
            field.node(EDGE).public(on(EDGE, CALLER), &call(in_dialog(method, &format!("z9hG4bK{method}"), &reversed)));
            field.run();
        }
        let opened: Vec<Destination> =
            (0..3).flat_map(|node| field.node(node).flows.opened.lock().drain(..).collect::<Vec<_>>()).collect();
        let mut lanes: Vec<u8> = opened.iter().map(|destination| destination.lane).collect();
        // Edge to home, home to edge, and straight from edge to edge for ACK and BYE.
        assert_eq!(lanes.len(), 4, "{opened:?}");
        lanes.dedup();
        let [lane] = lanes[..] else { panic!("one call took the lanes {lanes:?}") };
        used.insert(lane);
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}
