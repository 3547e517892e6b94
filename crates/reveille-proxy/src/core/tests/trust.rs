//! S-156: connections that speak for a user since a REGISTER on them was authenticated.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reveille_registrar::{
    flow::{FlowRef, NodeTag, Transport},
    shard::{HomeEvent, ShardInput},
};

use super::{
    bench::{Bench, answer, between, invite, message, on, settings, tls},
    bob,
    nodes::{EDGE, HOME, Table},
    registrations::view,
};
use crate::settings::Settings;

const CONTACT: &str = "<sip:bob@192.0.2.7:5061;transport=tls>";

fn trusting() -> Settings {
    Settings { trust_registered_flow: true, ..settings() }
}

/// Bob registers on `flow`; the shard grants an hour. `contact` of his is in the answer unless it was removed.
fn registers(bench: &mut Bench, flow: FlowRef, contact: &str, is_kept: bool) {
    bob::register(bench, flow, contact);
    let asked = bench.asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("{:?}", bench.statuses(flow)) };
    let bindings = if is_kept { vec![view("sip:bob@192.0.2.7:5061;transport=tls", true)] } else { Vec::new() };
    bench.home(ask.reply, HomeEvent::Registered(Ok(bindings)));
    assert_eq!(bench.statuses(flow), [200]);
}

/// An INVITE of `from` without credentials.
fn call(from: &str, branch: &str) -> String {
    let call = invite(branch).replace("From: <sip:bob@trunk.test>", &format!("From: <{from}>"));
    assert!(call.contains(&format!("From: <{from}>")), "the bench's INVITE has another From");
    call
}

/// Whether it gets through.
fn calls(bench: &mut Bench, flow: FlowRef, from: &str, branch: &str) -> bool {
    bench.public(flow, &call(from, branch));
    let is_admitted = !bench.asked().is_empty();
    assert_eq!(bench.statuses(flow).contains(&407), !is_admitted);
    is_admitted
}

#[test]
fn s156_a_registered_connection_speaks_for_its_user_and_no_other_does() {
    let mut bench = bob::guarded(trusting());
    assert!(!calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK1"), "nobody has registered yet");
    registers(&mut bench, tls(1), CONTACT, true);
    assert!(calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK2"));
    assert!(!calls(&mut bench, tls(1), "sip:alice@example.com", "z9hG4bK3"), "another user");
    assert!(!calls(&mut bench, tls(2), "sip:bob@example.com", "z9hG4bK4"), "another connection");
}

#[test]
fn s156_trust_is_off_unless_asked_for_and_never_given_without_tls() {
    let mut bench = bob::guarded(settings());
    registers(&mut bench, tls(1), CONTACT, true);
    assert!(!calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK1"));

    let tcp = FlowRef::Stream { node: NodeTag(0), epoch: 1, connection: 5, transport: Transport::Tcp };
    let mut bench = bob::guarded(trusting());
    registers(&mut bench, tcp, CONTACT, true);
    assert!(!calls(&mut bench, tcp, "sip:bob@example.com", "z9hG4bK2"));
}

#[test]
fn s156_trust_ends_with_the_registration() {
    let mut bench = bob::guarded(trusting());
    registers(&mut bench, tls(1), CONTACT, true);
    bench.advance(Duration::from_secs(3599));
    assert!(calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK1"));
    bench.advance(Duration::from_secs(1));
    assert!(!calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK2"), "it has expired");

    registers(&mut bench, tls(1), CONTACT, true);
    assert!(calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK3"));
    registers(&mut bench, tls(1), "<sip:bob@192.0.2.7:5061;transport=tls>;expires=0", false);
    assert!(!calls(&mut bench, tls(1), "sip:bob@example.com", "z9hG4bK4"), "it was removed");
}

/// The edge learns from the binding's home how long.
#[test]
fn s156_trust_holds_where_the_home_is_another_node() {
    let peers = Table { own: EDGE, owner: Arc::new(Mutex::new(Some(HOME))), lapsed: Arc::default() };
    let mut bench = Bench::among(trusting(), Some(bob::digest()), Arc::default(), Arc::new(peers));
    let (phone, home) = (on(EDGE, 1), between(NodeTag(EDGE), NodeTag(HOME)));
    for (said, is_trusted, branch) in [("7;expires=60", true, "z9hG4bK1"), ("none", false, "z9hG4bK2")] {
        bob::register(&mut bench, phone, CONTACT);
        let [register] = <[_; 1]>::try_from(bench.requests(home)).unwrap();
        let granted = answer(&register, 200).replacen("\n\n", &format!("\nX-Reveille: binding={said}\n\n"), 1);
        bench.cluster(home, message(&granted));
        bench.public(phone, &call("sip:bob@example.com", branch));
        assert_eq!(!bench.requests(home).is_empty(), is_trusted, "{said}");
    }
}
