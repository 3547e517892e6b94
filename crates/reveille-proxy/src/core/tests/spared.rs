//! Requests within a dialog toward a phone that sleeps: they wake it, and what fails ends the request alone.

use std::time::Duration;

use reveille_push::{PushClass, WakeFailure};
use reveille_registrar::{
    record::BindingKey,
    shard::{HomeEvent, NextRequest, ShardInput, Target, WakeRequest},
};

use crate::egress::Flows as _;

use super::{
    bench::{Bench, answer, on, target, tls, udp},
    dialogs::in_dialog,
    nodes::{CALLER, EDGE, FAR, Field, HOME, PHONE},
    rebound::{found, talking},
    registrations::{accepted, register, view},
};

const METHODS: [&str; 7] = ["NOTIFY", "BYE", "INVITE", "UPDATE", "INFO", "PRACK", "MESSAGE"];

/// Alice's phone on `tls(1)`, and the Route by which a trunk's requests reach it.
fn registered_here(wakes: bool) -> (Bench, Vec<String>) {
    let (mut bench, ask) = accepted(&register("", "Contact: <sip:alice@198.51.100.1:5070>"));
    let mut bound = view("sip:alice@198.51.100.1:5070", true);
    bound.wakes_in_dialogs = wakes;
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![bound])));
    bench.sent();
    let token = bench.flows.seal(&tls(1));
    (bench, vec![format!("<sip:{token}@edge.test:5061;transport=tls;lr>")])
}

fn next(asked: Vec<ShardInput>) -> Box<NextRequest> {
    match asked.into_iter().next() {
        Some(ShardInput::Next(ask)) => ask,
        _ => panic!("the home is asked for the phone"),
    }
}

fn woken(flow: u64) -> HomeEvent {
    HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(flow), false) }
}

/// P-089, P-090: a flow that only looks open is given up after a while; the phone is woken by the binding that its route names, as
/// urgently as can be without ringing, and gets the request once, at the address that it gave in the dialog.
#[test]
fn p089_a_silent_phone_is_woken_for_every_request_within_a_dialog() {
    for method in METHODS {
        let (mut bench, route) = registered_here(true);
        bench.peer(tls(5), &in_dialog(method, "z9hG4bKd", &route));
        assert_eq!(bench.requests(tls(1)).len(), 1, "{method}");
        bench.advance(Duration::from_millis(1999));
        assert!(bench.asked().is_empty());
        bench.advance(Duration::from_millis(2));
        assert_eq!(*bench.flows.closed.lock(), [tls(1)], "{method}: closed first, so that it cannot arrive twice");
        let ask = next(bench.asked());
        let WakeRequest { waiter, key, class, deadline, .. } = ask.wake;
        assert_eq!((key, class), (BindingKey(1), PushClass::Dialog), "{method}");
        let wait = if method == "INVITE" { 28 } else { 8 };
        assert!((deadline - bench.now.mono) < Duration::from_secs(wait), "{method}: P-067, what was lost counts");
        bench.home(waiter, woken(9));
        let got = bench.requests(tls(9));
        assert_eq!((got.len(), got[0].request_uri()), (1, "sip:someone@192.0.2.200:5099"), "{method}");
        bench.public(tls(9), &answer(&got[0], 200));
        assert_eq!(bench.statuses(tls(5)).last(), Some(&200), "{method}");
    }
}

/// P-089: a phone that answers, or cannot be woken for this, keeps its connection.
#[test]
fn p089_a_flow_is_given_up_only_where_that_helps() {
    let (mut bench, route) = registered_here(false);
    bench.peer(tls(5), &in_dialog("BYE", "z9hG4bKd", &route));
    bench.advance(Duration::from_secs(5));
    assert!(bench.flows.closed.lock().is_empty() && bench.asked().is_empty());

    let (mut bench, route) = registered_here(true);
    bench.peer(tls(5), &in_dialog("INVITE", "z9hG4bKd", &route));
    let ring = bench.requests(tls(1)).remove(0);
    bench.public(tls(1), &answer(&ring, 180));
    bench.advance(Duration::from_secs(5));
    assert!(bench.flows.closed.lock().is_empty() && bench.asked().is_empty());
}

/// P-089: the phone has another connection by now, which only looks open as well: it is given up in its turn.
#[test]
fn p089_a_second_silent_flow_is_given_up_too() {
    let (mut bench, route) = registered_here(true);
    bench.flows.gone.lock().push(tls(1));
    bench.peer(tls(5), &in_dialog("BYE", "z9hG4bKd", &route));
    let ask = next(bench.asked());
    let open = HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), true) };
    bench.home(ask.wake.waiter, open);
    assert_eq!(bench.requests(tls(9)).len(), 1);
    bench.advance(Duration::from_millis(2001));
    assert_eq!(*bench.flows.closed.lock(), [tls(9)]);
    let again = next(bench.asked());
    assert_eq!((again.tried.as_slice(), again.wake.class), (&[BindingKey(1)][..], PushClass::Dialog));
    bench.home(again.wake.waiter, woken(10));
    let got = bench.requests(tls(10)).remove(0);
    bench.public(tls(10), &answer(&got, 200));
    assert_eq!(bench.statuses(tls(5)).last(), Some(&200));
}

/// P-089, across nodes: the node with the flow gives it up and the phone's home is asked. Of that node's flows the home knows
/// nothing, and may name the very same way: it is asked for another.
#[test]
fn p089_the_home_is_not_sent_back_to_the_silent_flow() {
    let mut field = Field::new();
    let route = talking(&mut field);
    let lost = field.node(FAR).flows.seal(&on(FAR, PHONE));
    field.node(EDGE).public(on(EDGE, CALLER), &in_dialog("BYE", "z9hG4bKbye", &route));
    field.run();
    assert_eq!(field.at(on(FAR, PHONE)).len(), 1);
    field.advance(Duration::from_millis(2001));
    assert_eq!(*field.node(FAR).flows.closed.lock(), [on(FAR, PHONE)]);
    let ask = next(field.node(HOME).asked());
    let path = vec![format!("<sip:{lost}@edge.test:5061;transport=tls;lr;ob>")];
    let same = Target { flow: None, path, ..target(1, on(FAR, PHONE), true) };
    field.tell(HOME, ask.wake.waiter, HomeEvent::Woken { key: BindingKey(1), target: same });
    let again = next(field.node(HOME).asked());
    assert_eq!((again.tried.as_slice(), again.wake.class), (&[BindingKey(1)][..], PushClass::Dialog));
    found(&mut field, HOME, again.wake.waiter, EDGE);
    let got = field.at(on(EDGE, 9));
    assert_eq!(got.len(), 1);
    field.node(EDGE).peer(on(EDGE, 9), &answer(&got[0], 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)).last(), Some(&200));
}

const FATES: [(WakeFailure, u16); 6] = [
    (WakeFailure::Deadline, 504),
    (WakeFailure::PushFailed, 500),
    (WakeFailure::Rejected, 500),
    (WakeFailure::BindingGone, 500),
    (WakeFailure::Overflow, 403),
    (WakeFailure::Limited, 403),
];

/// P-081: why the phone did not wake decides the code, and none of them ends the dialog (RFC 5057 §5.1), on one node and over several.
#[test]
fn p081_a_phone_that_does_not_wake_costs_the_request_alone() {
    for (why, status) in FATES {
        for method in METHODS {
            let (mut bench, route) = registered_here(true);
            bench.flows.gone.lock().push(tls(1));
            bench.peer(tls(5), &in_dialog(method, "z9hG4bKd", &route));
            let ask = next(bench.asked());
            bench.home(ask.wake.waiter, HomeEvent::WakeFailed { key: BindingKey(1), why });
            assert_eq!(bench.statuses(tls(5)).last(), Some(&status), "{method}, {why}");
        }
        let mut field = Field::new();
        let route = talking(&mut field);
        field.node(FAR).flows.gone.lock().push(on(FAR, PHONE));
        field.node(EDGE).public(on(EDGE, CALLER), &in_dialog("BYE", "z9hG4bKbye", &route));
        field.run();
        let ask = next(field.node(HOME).asked());
        field.tell(HOME, ask.wake.waiter, HomeEvent::WakeFailed { key: BindingKey(1), why });
        assert_eq!(field.statuses(on(EDGE, CALLER)), [status], "{why}");
    }
}

/// P-081: nor does anything else that we say of ourselves: a home that is silent, a user nobody knows, a phone that never answers.
#[test]
fn p081_no_answer_of_ours_ends_a_dialog() {
    let (mut bench, route) = registered_here(true);
    bench.flows.gone.lock().push(tls(1));
    bench.peer(tls(5), &in_dialog("NOTIFY", "z9hG4bKn", &route));
    bench.advance(Duration::from_secs(12));
    assert_eq!(bench.statuses(tls(5)).last(), Some(&504), "a home that says nothing");

    let to_alice = |branch| {
        in_dialog("UPDATE", branch, &[])
            .replace("Route: \n", "")
            .replace("someone@192.0.2.200:5099", "alice@example.com")
    };
    for known in [false, true] {
        let mut bench = Bench::new();
        bench.peer(tls(5), &to_alice("z9hG4bKu"));
        let waiter = bench.resolving();
        bench.home(waiter, HomeEvent::Resolved { targets: vec![], waiting: vec![], known });
        assert_eq!(bench.statuses(tls(5)).last(), Some(&500), "nobody to take it");
    }
    let mut bench = Bench::new();
    bench.peer(tls(5), &to_alice("z9hG4bKw"));
    let waiter = bench.resolving();
    let key = BindingKey(1);
    bench.home(waiter, HomeEvent::Resolved { targets: vec![], waiting: vec![(key, 1000)], known: true });
    bench.home(waiter, HomeEvent::WakeFailed { key, why: WakeFailure::Deadline });
    assert_eq!(bench.statuses(tls(5)).last(), Some(&504));

    for method in ["INVITE", "INFO"] {
        let mut bench = Bench::new();
        let token = bench.flows.seal(&udp(5070));
        let route = [format!("<sip:{token}@edge.test:5061;lr>")];
        bench.peer(tls(5), &in_dialog(method, "z9hG4bKs", &route));
        bench.advance(Duration::from_secs(40));
        let last = bench.statuses(tls(5)).last().copied();
        assert!(matches!(last, Some(500 | 504)), "{method}: {last:?}");
    }
}
