//! Dialogs that outlive the flows and nodes they were made over.

use std::time::Duration;

use reveille_push::WakeFailure;
use reveille_registrar::{
    record::BindingKey,
    shard::{HomeEvent, ShardInput, WorkerRef},
};
use reveille_sip::{header::HeaderId, message::Message};

use crate::egress::Flows as _;

use super::{
    bench::{answer, on, target},
    dialogs::in_dialog,
    nodes::{CALLER, EDGE, FAR, Field, HOME, PHONE, register, registered},
};

/// The phone's connection after it came back.
const NEW: u64 = 9;

/// The phone registers at its edge, is called, and answers; the Route set of the caller.
fn talking(field: &mut Field) -> Vec<String> {
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    let asked = field.node(HOME).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("the home is asked once") };
    let reply = ask.reply;
    field.tell(HOME, reply, registered("sip:alice@198.51.100.1:5070"));
    let told = field.at(on(FAR, PHONE));
    assert!(told.iter().all(|message| !message.has(HeaderId::Reveille)), "that is between nodes");
    let (_, ring) = field.ringing(false);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 200]);
    reversed(&ring)
}

/// The Route set of whoever sent the INVITE that the phone got so.
fn reversed(ring: &Message) -> Vec<String> {
    let mut values: Vec<String> = ring.values(HeaderId::RecordRoute).map(str::to_owned).collect();
    values.reverse();
    values
}

/// Who asked a node's shard for the way to the phone.
fn asked_for_the_phone(field: &mut Field, home: u32) -> WorkerRef {
    let asked = field.node(home).asked();
    let [ShardInput::Next(ask)] = asked.as_slice() else { panic!("{} questions", asked.len()) };
    assert_eq!((ask.wake.key, ask.wake.aor.as_str(), ask.tried.len()), (BindingKey(1), "alice@example.com", 0));
    ask.wake.waiter
}

/// The phone has come back over another edge: the home says so.
fn found(field: &mut Field, home: u32, to: WorkerRef, at: u32) {
    let token = field.node(at).flows.tokens.lock().len();
    let flow = on(at, NEW);
    field.node(at).flows.tokens.lock().insert(format!("new{token}"), (flow, None));
    let path = vec![format!("<sip:new{token}@edge.test:5061;transport=tls;lr;ob>")];
    let target = reveille_registrar::shard::Target { flow: None, path, ..target(1, flow, false) };
    field.tell(home, to, HomeEvent::Woken { key: BindingKey(1), target });
}

fn bye(route: &[String]) -> String {
    in_dialog("BYE", "z9hG4bKbye", route)
}

/// The phone's edge dies during the call: the BYE goes to the phone's home, which is another node or this one, and from there to where
/// the phone is now. It keeps the address that the phone gave when it answered.
#[test]
fn a_bye_arrives_though_the_phones_edge_died() {
    for home in [HOME, EDGE] {
        let mut field = Field::new();
        let route = talking(&mut field);
        field.dead.push(FAR); // nobody has noticed yet
        *field.owner.lock() = Some(home);
        field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
        field.run();
        field.advance(Duration::from_millis(1));
        let waiter = asked_for_the_phone(&mut field, home);
        found(&mut field, home, waiter, HOME);
        let got = field.at(on(HOME, NEW));
        assert_eq!(got.len(), 1, "home: {home}");
        assert_eq!(got[0].method_name(), "BYE");
        let sent = Message::parse(
            bye(&route).trim_start().replace('\n', "\r\n").into(),
            &reveille_sip::limits::Limits::default(),
        );
        assert_eq!(got[0].request_uri(), sent.unwrap().request_uri());
        assert!(!got[0].has(HeaderId::Route), "{:?}", got[0].lines(HeaderId::Route).collect::<Vec<_>>());
        field.node(HOME).peer(on(HOME, NEW), &answer(&got[0], 200));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [200], "home: {home}");
    }
}

/// The caller's own edge dies, and it hangs up over another: the value of the dead edge only says where the caller was.
#[test]
fn a_bye_arrives_though_the_callers_edge_died() {
    let mut field = Field::new();
    let route = talking(&mut field);
    field.kill(EDGE);
    for (at, from) in [(HOME, on(HOME, NEW)), (FAR, on(FAR, NEW))] {
        field.node(at).public(from, &bye(&route).replace("z9hG4bKbye", &format!("z9hG4bKbye{at}")));
        field.run();
        assert!(field.node(HOME).asked().is_empty(), "the phone's edge has the phone's flow");
        let got = field.at(on(FAR, PHONE));
        assert_eq!(got.len(), 1, "over {at}");
        assert!(!got[0].has(HeaderId::Route), "{:?}", got[0].lines(HeaderId::Route).collect::<Vec<_>>());
        field.node(FAR).peer(on(FAR, PHONE), &answer(&got[0], 200));
        field.run();
        assert_eq!(field.statuses(from), [200], "over {at}");
    }
}

/// The phone lost its connection, its edge lives: the same.
#[test]
fn a_bye_arrives_though_the_phone_has_a_new_connection() {
    let mut field = Field::new();
    let route = talking(&mut field);
    field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
    field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
    field.run();
    let waiter = asked_for_the_phone(&mut field, HOME);
    found(&mut field, HOME, waiter, FAR);
    let got = field.at(on(FAR, NEW));
    assert_eq!(got.len(), 1);
    field.node(FAR).peer(on(FAR, NEW), &answer(&got[0], 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [200]);
}

/// A caller cannot have a phone looked for whose flow is open.
#[test]
fn only_nodes_say_that_a_flow_is_lost() {
    let mut field = Field::new();
    let mut route = talking(&mut field);
    for value in &mut route {
        *value = value.replace(";lr>", ";lr;rv-lost>");
    }
    field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
    field.run();
    assert!(field.node(HOME).asked().is_empty());
    assert_eq!(field.at(on(FAR, PHONE)).len(), 1, "it goes the way it would have gone");
}

/// P-081: a phone that cannot be found, or no home in time, ends the request and not the dialog.
#[test]
fn p081_a_phone_that_is_not_found_does_not_end_the_dialog() {
    let mut field = Field::new();
    let route = talking(&mut field);
    field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
    field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
    field.run();
    let waiter = asked_for_the_phone(&mut field, HOME);
    field.tell(HOME, waiter, HomeEvent::WakeFailed { key: BindingKey(1), why: WakeFailure::Deadline });
    assert_eq!(field.statuses(on(EDGE, CALLER)), [500]);
}

/// A caller that never registered is gone with its flow (P-081: and the dialog is not).
#[test]
fn a_lost_flow_without_a_binding_is_lost() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 200]);
    let route: Vec<String> = ring.values(HeaderId::RecordRoute).map(str::to_owned).collect();
    field.node(EDGE).flows.gone.lock().push(on(EDGE, CALLER));
    field.node(FAR).public(on(FAR, PHONE), &bye(&route));
    field.run();
    assert_eq!(field.statuses(on(FAR, PHONE)), [500]);
}

/// A phone that woke has its call before its edge has seen the answer to the REGISTER: the home says whose flow that is.
#[test]
fn a_call_that_overtakes_the_answer_to_a_register_knows_its_binding() {
    for onward in [true, false] {
        let mut field = Field::new();
        let home = if onward { HOME } else { FAR };
        *field.owner.lock() = Some(home);
        field.node(EDGE).peer(on(EDGE, CALLER), &super::bench::invite("z9hG4bKa"));
        field.run();
        let waiter = field.node(home).resolving();
        let binding = if onward { field.binding(false) } else { target(1, on(FAR, PHONE), false) };
        field.tell(home, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
        let ring = field.at(on(FAR, PHONE)).remove(0);
        field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
        field.run();
        field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
        field.node(EDGE).public(on(EDGE, CALLER), &bye(&reversed(&ring)));
        field.run();
        asked_for_the_phone(&mut field, home);
    }
}

/// A node that cannot reach the store loses its lease and serves on: who has a connection to it uses that, and others go by who has. The
/// phone need not be looked for.
#[test]
fn a_node_without_a_lease_is_reached_over_what_is_open() {
    let mut field = Field::new();
    let route = talking(&mut field);
    field.lapsed.lock().push(FAR);
    // The caller's edge has never sent anything there, so it asks the home, which has.
    field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
    field.run();
    let waiter = asked_for_the_phone(&mut field, HOME);
    let binding = field.binding(true);
    field.tell(HOME, waiter, HomeEvent::Woken { key: BindingKey(1), target: binding });
    let got = field.at(on(FAR, PHONE));
    assert_eq!(got.len(), 1);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&got[0], 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [200]);
    // Over a connection of its own it needs nobody.
    field.lapsed.lock().clear();
    for (number, lapses) in [false, true].into_iter().enumerate() {
        field.lapsed.lock().extend(lapses.then_some(FAR));
        field.node(EDGE).public(on(EDGE, CALLER), &in_dialog("INFO", &format!("z9hG4bKi{number}"), &route));
        field.run();
        assert!(field.node(HOME).asked().is_empty());
        assert_eq!(field.at(on(FAR, PHONE)).len(), 1);
    }
}

/// Either side may be on its way to another edge when the other hangs up: the home is asked until it is there, or time is up.
#[test]
fn a_bye_waits_for_a_phone_that_cannot_be_woken() {
    for returns in [true, false] {
        let mut field = Field::new();
        let route = talking(&mut field);
        field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
        field.node(EDGE).public(on(EDGE, CALLER), &bye(&route));
        field.run();
        for _ in 0..if returns { 3 } else { 40 } {
            let waiter = asked_for_the_phone(&mut field, HOME);
            let lost = HomeEvent::WakeFailed { key: BindingKey(1), why: WakeFailure::NotConnected };
            field.tell(HOME, waiter, lost);
            assert!(field.node(HOME).asked().is_empty(), "not at once");
            field.advance(Duration::from_millis(250));
            if field.node(HOME).homes.asked.lock().is_empty() {
                break;
            }
        }
        if returns {
            let waiter = asked_for_the_phone(&mut field, HOME);
            found(&mut field, HOME, waiter, EDGE);
            let got = field.at(on(EDGE, NEW));
            assert_eq!(got.len(), 1);
            field.node(EDGE).peer(on(EDGE, NEW), &answer(&got[0], 200));
            field.run();
        }
        let last = field.statuses(on(EDGE, CALLER)).pop();
        assert_eq!(last, Some(if returns { 200 } else { 500 }));
    }
}

/// A value that only says where a request comes from names the sender's binding, and not the one it is for.
#[test]
fn the_senders_own_binding_is_not_where_a_request_goes() {
    let mut field = Field::new();
    *field.owner.lock() = Some(FAR);
    field.node(FAR).peer(on(FAR, PHONE), &register());
    let asked = field.node(FAR).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("the home is asked once") };
    let reply = ask.reply;
    field.tell(FAR, reply, registered("sip:alice@198.51.100.1:5070"));
    let token = field.node(FAR).flows.seal(&on(FAR, PHONE));
    let route = vec![format!("<sip:{token}@edge.test:5061;transport=tls;lr>")];
    let request =
        in_dialog("INFO", "z9hG4bKinfo", &route).replace("sip:someone@192.0.2.200:5099", "sip:bob@example.com");
    field.node(FAR).peer(on(FAR, PHONE), &request);
    let asked = field.node(FAR).asked();
    assert!(matches!(asked.as_slice(), [ShardInput::Resolve(ask)] if ask.aor.as_str() == "bob@example.com"));
}

/// On one node alone: the phone has come back over another connection.
#[test]
fn a_bye_arrives_on_one_node() {
    let mut field = Field::new();
    *field.owner.lock() = Some(FAR);
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    let asked = field.node(FAR).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("the home is asked once") };
    let reply = ask.reply;
    field.tell(FAR, reply, registered("sip:alice@198.51.100.1:5070"));
    field.at(on(FAR, PHONE));
    let token = field.node(FAR).flows.seal(&on(FAR, PHONE));
    let route = vec![format!("<sip:{token}@edge.test:5061;transport=tls;lr>")];
    field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
    field.node(FAR).peer(on(FAR, CALLER), &bye(&route));
    let waiter = asked_for_the_phone(&mut field, FAR);
    field.tell(FAR, waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, on(FAR, NEW), false) });
    assert_eq!(field.at(on(FAR, NEW)).len(), 1);
}
