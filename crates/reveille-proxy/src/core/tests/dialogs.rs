//! Requests inside dialogs: they follow what our Record-Route values sealed.

use reveille_registrar::{flow::FlowRef, shard::HomeEvent};
use reveille_sip::{header::HeaderId, message::Message};

use super::bench::{Bench, answer, invite, target, tls};

/// A call from `tls(1)` to alice's phone on `far`; returns the Record-Route values, top first.
fn established(bench: &mut Bench, far: FlowRef) -> Vec<String> {
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, far, false)], waiting: vec![], known: true });
    let forwarded = bench.requests(far).remove(0);
    bench.peer(far, &answer(&forwarded, 200));
    bench.sent();
    bench.asked();
    forwarded.values(HeaderId::RecordRoute).map(str::to_owned).collect()
}

/// A request within the dialog of [`invite`].
pub(super) fn in_dialog(method: &str, branch: &str, routes: &[String]) -> String {
    format!(
        "
{method} sip:someone@192.0.2.200:5099 SIP/2.0
Via: SIP/2.0/TLS 192.0.2.77:40000;branch={branch}
Route: {}
Max-Forwards: 70
From: <sip:bob@trunk.test>;tag=b1
To: <sip:alice@example.com>;tag=a1
Call-ID: call-1@trunk.test
CSeq: 8 {method}
Content-Length: 0

",
        routes.join(", ")
    )
}

/// S-049, S-067, S-129, S-130: ACK and BYE of either side go down the other side's flow, with no Route left.
#[test]
fn both_sides_reach_each_other() {
    let mut bench = Bench::new();
    let record_route = established(&mut bench, tls(9));
    let caller_view: Vec<String> = record_route.iter().rev().cloned().collect();
    bench.public(tls(1), &in_dialog("ACK", "z9hG4bKack", &caller_view));
    let ack = bench.requests(tls(9));
    assert_eq!(ack.len(), 1);
    assert!(!ack[0].has(HeaderId::Route));
    assert_eq!(ack[0].request_uri(), "sip:someone@192.0.2.200:5099");
    bench.public(tls(1), &in_dialog("BYE", "z9hG4bKbye", &caller_view));
    assert_eq!(bench.requests(tls(9)).len(), 1);
    bench.public(tls(9), &in_dialog("BYE", "z9hG4bKbye2", &record_route));
    let bye: Vec<Message> = bench.requests(tls(1));
    assert_eq!(bye.len(), 1);
    assert!(bench.asked().is_empty(), "the home is not needed inside a dialog");
}

/// A trunk may carry both legs on one connection: the second value still leads to the far side.
#[test]
fn both_legs_on_one_flow() {
    let mut bench = Bench::new();
    let record_route = established(&mut bench, tls(1));
    let caller_view: Vec<String> = record_route.iter().rev().cloned().collect();
    bench.peer(tls(1), &in_dialog("BYE", "z9hG4bKbye", &caller_view));
    assert_eq!(bench.requests(tls(1)).len(), 1);
}

/// S-128, P-081: an altered token is 403; the flow of an honest one may be gone, that of a caller who is nowhere registered, and that is
/// 500, which leaves the dialog alone. S-018: an ACK gets neither.
#[test]
fn forged_and_dead_flows() {
    let mut bench = Bench::new();
    let record_route = established(&mut bench, tls(9));
    let caller_view: Vec<String> = record_route.iter().rev().cloned().collect();
    let forged: Vec<String> = caller_view.iter().map(|v| v.replace("sip:tok", "sip:tak")).collect();
    bench.public(tls(1), &in_dialog("BYE", "z9hG4bK1", &forged));
    assert_eq!(bench.statuses(tls(1)), [403]);
    bench.public(tls(1), &in_dialog("ACK", "z9hG4bK4", &forged));
    bench.flows.gone.lock().push(tls(1));
    bench.public(tls(9), &in_dialog("BYE", "z9hG4bK2", &record_route));
    assert_eq!(bench.statuses(tls(9)), [500]);
    bench.public(tls(9), &in_dialog("ACK", "z9hG4bK3", &record_route));
    assert!(bench.sent().is_empty());
}

/// S-066: a strict router before us put our URI into the Request-URI and the target at the end of Route.
#[test]
fn strict_router_is_repaired() {
    let mut bench = Bench::new();
    let record_route = established(&mut bench, tls(9));
    let near = record_route[1].trim_matches(|c| c == '<' || c == '>').to_owned();
    let text = in_dialog("BYE", "z9hG4bK1", &[record_route[0].clone(), "<sip:someone@192.0.2.200:5099>".to_owned()])
        .replacen("sip:someone@192.0.2.200:5099 SIP", &format!("{near} SIP"), 1);
    bench.peer(tls(1), &text);
    let bye = bench.requests(tls(9));
    assert_eq!(bye.len(), 1);
    assert_eq!(bye[0].request_uri(), "sip:someone@192.0.2.200:5099");
    assert!(!bye[0].has(HeaderId::Route));
}
