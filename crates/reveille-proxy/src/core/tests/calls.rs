//! Calls to phones awake and asleep.

use std::time::Duration;

use reveille_push::wakeup::WakeFailure;
use reveille_registrar::{
    record::BindingKey,
    shard::{HomeEvent, ShardInput},
};
use reveille_sip::header::HeaderId;

use super::bench::{Bench, answer, invite, target, tls, udp};

fn asleep(key: u64) -> HomeEvent {
    HomeEvent::Resolved { targets: vec![], waiting: vec![(BindingKey(key), 1000)], known: true }
}

/// S-043, P-068: 100 leaves before anything is known. P-058, P-061: the phone that woke gets the INVITE on its new flow.
#[test]
fn a_sleeping_phone_is_called_when_it_wakes() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    assert_eq!(bench.statuses(tls(1)), [100]);
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    assert!(bench.sent().is_empty(), "nothing goes to a phone that sleeps");
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
    let [forwarded] = &bench.requests(tls(9))[..] else { panic!("one INVITE") };
    assert_eq!(forwarded.request_uri(), "sip:alice@198.51.100.1:5070;transport=tls");
    assert_eq!(forwarded.max_forwards().unwrap(), Some(69));
    assert_eq!(forwarded.record_routes().count(), 2); // S-071
    assert_eq!(forwarded.lines_named("X-Odd").next(), Some(";;,,;;,;")); // S-009
    bench.peer(tls(9), &answer(forwarded, 180));
    bench.peer(tls(9), &answer(forwarded, 200));
    let up = bench.sent();
    assert_eq!(
        up.iter().map(|(f, m)| (*f, m.status())).collect::<Vec<_>>(),
        [(tls(1), Some(180)), (tls(1), Some(200))]
    );
    for (_, message) in up {
        assert_eq!(message.vias().count(), 1); // S-086
        assert!(!message.value(HeaderId::Contact).unwrap().contains("pn-")); // P-105, S-137
    }
}

/// P-062, S-250: however often the home says it, the phone rings once.
#[test]
fn a_phone_is_released_once() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    bench.sent();
    for _ in 0..3 {
        bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
        bench.home(waiter, HomeEvent::LateTarget { target: target(1, tls(9), false) });
    }
    assert_eq!(bench.requests(tls(9)).len(), 1);
}

/// S-042: retransmissions reach nobody; S-047 as far as absorbing goes.
#[test]
fn a_repeated_invite_asks_the_home_once() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.peer(udp(5060), &invite("z9hG4bKa").replace("TLS", "UDP"));
    }
    assert_eq!(bench.asked().len(), 1);
    assert_eq!(bench.statuses(udp(5060)), [100; 5]);
}

/// S-053, P-069: CANCEL while the phone sleeps: 200 and 487 at once, the home forgets, and waking later rings nobody.
#[test]
fn cancel_while_waiting() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    bench.sent();
    bench.peer(tls(1), &invite("z9hG4bKa").replace("INVITE", "CANCEL"));
    assert_eq!(bench.statuses(tls(1)), [200, 487]);
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Leave { waiter: left, .. }] if *left == waiter));
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
    assert!(bench.requests(tls(9)).is_empty());
}

/// S-053: the same, when the CANCEL overtakes the home's answer.
#[test]
fn cancel_before_the_home_has_answered() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.peer(tls(1), &invite("z9hG4bKa").replace("INVITE", "CANCEL"));
    assert_eq!(bench.statuses(tls(1)), [100, 200, 487]);
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Leave { .. }]));
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(9), false)], waiting: vec![], known: true });
    assert!(bench.requests(tls(9)).is_empty());
}

/// P-065, P-066: whatever keeps a phone asleep, the caller hears 480.
#[test]
fn a_phone_that_does_not_wake_is_unavailable() {
    for why in [WakeFailure::Deadline, WakeFailure::PushFailed, WakeFailure::Rejected, WakeFailure::BindingGone] {
        let mut bench = Bench::new();
        bench.peer(tls(1), &invite("z9hG4bKa"));
        let waiter = bench.resolving();
        bench.home(waiter, asleep(1));
        bench.home(waiter, HomeEvent::WakeFailed { key: BindingKey(1), why });
        assert_eq!(bench.statuses(tls(1)), [100, 480], "{why:?}");
    }
}

/// S-094: nobody known is 404; known without bindings is 480.
#[test]
fn unknown_and_unregistered_differ() {
    for (known, status) in [(false, 404), (true, 480)] {
        let mut bench = Bench::new();
        bench.peer(tls(1), &invite("z9hG4bKa"));
        let waiter = bench.resolving();
        bench.home(waiter, HomeEvent::Resolved { targets: vec![], waiting: vec![], known });
        assert_eq!(bench.statuses(tls(1)), [100, status]);
    }
}

/// P-054: silence on a flow that looked open: the flow is closed, the phone is woken, and it rings once.
#[test]
fn a_dead_flow_falls_back_to_push_once() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(8), true)], waiting: vec![], known: true });
    assert_eq!(bench.requests(tls(8)).len(), 1);
    bench.advance(Duration::from_millis(2100));
    assert_eq!(*bench.flows.closed.lock(), [tls(8)]);
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Next(next)] if next.wake.key == BindingKey(1)));
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
    assert_eq!(bench.requests(tls(9)).len(), 1);
    // S-056: the second time the flow fails there is nothing left to try.
    bench.flows.gone.lock().push(tls(9));
    bench.core.flow_closed(bench.now, &tls(9));
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Next(next)] if next.tried.len() == 2));
    bench.home(waiter, HomeEvent::WakeFailed { key: BindingKey(1), why: WakeFailure::BindingGone });
    assert_eq!(bench.statuses(tls(1)), [480]);
}

/// S-056: a flow that closes under a request is known at once.
#[test]
fn a_closed_flow_falls_back_at_once() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(8), true)], waiting: vec![], known: true });
    bench.core.flow_closed(bench.now, &tls(8));
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Next(_)]));
}

/// S-056, S-131: a flow that closes between the home's answer and the sending is no end of the call: neither when it was
/// the first choice, nor when the phone woke on it.
#[test]
fn a_flow_that_closed_before_the_sending_falls_back_too() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.flows.gone.lock().extend([tls(8), tls(9)]);
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(8), true)], waiting: vec![], known: true });
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Next(next)] if next.tried == [BindingKey(1)]));
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
    assert!(matches!(bench.asked().as_slice(), [ShardInput::Next(next)] if next.tried.len() == 2));
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(10), false) });
    assert_eq!(bench.requests(tls(10)).len(), 1);
    assert!(bench.statuses(tls(1)).is_empty(), "the caller goes on waiting");
}

/// A phone that answers in time keeps its flow.
#[test]
fn a_phone_that_rings_is_left_alone() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(8), true)], waiting: vec![], known: true });
    let forwarded = bench.requests(tls(8)).remove(0);
    bench.peer(tls(8), &answer(&forwarded, 180));
    bench.advance(Duration::from_secs(20));
    assert!(bench.flows.closed.lock().is_empty());
    assert!(bench.asked().is_empty());
}

/// S-080, P-070: one device answers; the other's CANCEL says so, and the one asleep is not woken for nothing.
#[test]
fn answered_elsewhere() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(
        waiter,
        HomeEvent::Resolved {
            targets: vec![target(1, tls(8), false), target(2, tls(9), false)],
            waiting: vec![(BindingKey(3), 1000)],
            known: true,
        },
    );
    let sent = bench.sent();
    let to = |flow| sent.iter().find(|(f, _)| *f == flow).map(|(_, m)| m.clone()).unwrap();
    let (first, second) = (to(tls(8)), to(tls(9)));
    assert_ne!(first.top_via().unwrap().branch(), second.top_via().unwrap().branch()); // S-073
    bench.peer(tls(9), &answer(&second, 180));
    bench.peer(tls(8), &answer(&first, 200));
    let sent = bench.sent();
    let cancel = sent.iter().find(|(f, m)| *f == tls(9) && m.is_request()).map(|(_, m)| m).unwrap();
    assert_eq!(cancel.method_name(), "CANCEL");
    assert!(cancel.value(HeaderId::Reason).unwrap().contains("cause=200")); // S-096
    assert!(bench.asked().iter().any(|a| matches!(a, ShardInput::Leave { .. })));
}

/// P-070: a 6xx of one device ends the call: the one asleep is not woken for it any more.
#[test]
fn p070_a_6xx_elsewhere_ends_the_wait() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    let targets = vec![target(1, tls(8), false)];
    bench.home(waiter, HomeEvent::Resolved { targets, waiting: vec![(BindingKey(3), 1000)], known: true });
    let ring = bench.requests(tls(8)).remove(0);
    assert!(bench.asked().is_empty(), "the other is waited for");
    bench.peer(tls(8), &answer(&ring, 603));
    assert!(bench.asked().iter().any(|asked| matches!(asked, ShardInput::Leave { .. })));
    assert!(bench.statuses(tls(1)).ends_with(&[603]));
}

/// P-069: who calls says how long the call may last without an answer; the operator's limit stands.
#[test]
fn p069_the_callers_expires_bounds_the_wait() {
    for (header, seconds) in [("", 30), ("Expires: 5\n", 5), ("Expires: 500\n", 30)] {
        let mut bench = Bench::new();
        bench.peer(tls(1), &invite("z9hG4bKa").replace("X-Odd", &format!("{header}X-Odd")));
        let asked = bench.asked();
        let [ShardInput::Resolve(ask)] = asked.as_slice() else { panic!("the home is asked once") };
        assert_eq!(ask.deadline - bench.now.mono, Duration::from_secs(seconds), "{header}");
    }
}

/// S-098: a device that registers while the call waits rings too; after the answer it does not.
#[test]
fn a_late_device_joins_until_the_answer() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    bench.sent();
    bench.home(waiter, HomeEvent::LateTarget { target: target(2, tls(7), false) });
    let late = bench.requests(tls(7)).remove(0);
    bench.peer(tls(7), &answer(&late, 200));
    bench.home(waiter, HomeEvent::LateTarget { target: target(4, tls(6), false) });
    assert!(bench.requests(tls(6)).is_empty());
}

/// S-077: the better q first, the lesser only when nobody better answered.
#[test]
fn lower_q_waits_its_turn() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    let mut lesser = target(2, tls(9), false);
    lesser.q = 500;
    bench.home(
        waiter,
        HomeEvent::Resolved { targets: vec![lesser, target(1, tls(8), false)], waiting: vec![], known: true },
    );
    let sent = bench.sent();
    assert!(sent.iter().all(|(f, _)| *f != tls(9)));
    let first = sent.into_iter().find(|(f, _)| *f == tls(8)).unwrap().1;
    bench.peer(tls(8), &answer(&first, 486));
    assert_eq!(bench.requests(tls(9)).iter().filter(|m| m.method_name() == "INVITE").count(), 1);
}

/// S-054: a held MESSAGE hears 100 only when its sender has slowed down; S-055: never 408.
#[test]
fn a_held_message_is_delivered() {
    let mut bench = Bench::new();
    let message = invite("z9hG4bKm").replace("INVITE", "MESSAGE").replace("TLS", "UDP");
    bench.peer(udp(5060), &message);
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    assert!(bench.sent().is_empty());
    bench.advance(Duration::from_secs(4));
    assert_eq!(bench.statuses(udp(5060)), [100]);
    bench.home(waiter, HomeEvent::Woken { key: BindingKey(1), target: target(1, tls(9), false) });
    let held = bench.requests(tls(9)).remove(0);
    assert_eq!(held.method_name(), "MESSAGE");
    assert_eq!(held.record_routes().count(), 0);
    bench.peer(tls(9), &answer(&held, 200));
    assert_eq!(bench.statuses(udp(5060)), [200]);
}

/// S-088: a response whose connection is gone is sent once to where its Via says.
#[test]
fn a_response_finds_another_way_back() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa").replace("trunk.test:5061", "192.0.2.77:5061"));
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    bench.sent();
    bench.flows.gone.lock().push(tls(1));
    bench.home(waiter, HomeEvent::WakeFailed { key: BindingKey(1), why: WakeFailure::Deadline });
    assert_eq!(bench.statuses(tls(99)), [480]);
    assert_eq!(bench.flows.opened.lock()[0].address.to_string(), "192.0.2.77:5061");
}

/// S-065: Max-Breadth is added, divided among the targets, and with breadth for one only the second waits its turn.
#[test]
fn breadth_is_spent_once() {
    let resolved = || HomeEvent::Resolved {
        targets: vec![target(1, tls(8), false), target(2, tls(9), false)],
        waiting: vec![],
        known: true,
    };
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, resolved());
    let breadths: Vec<_> =
        bench.sent().iter().filter_map(|(_, m)| m.value(HeaderId::MaxBreadth).map(str::to_owned)).collect();
    assert_eq!(breadths, ["30", "30"]);

    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa").replace("Max-Forwards: 70", "Max-Forwards: 70\nMax-Breadth: 1"));
    let waiter = bench.resolving();
    bench.home(waiter, resolved());
    let sent = bench.sent();
    let copies: Vec<_> = sent.iter().filter(|(_, m)| m.is_request()).collect();
    assert_eq!(copies.len(), 1);
    let (flow, first) = copies[0];
    assert_eq!(first.value(HeaderId::MaxBreadth), Some("1"));
    bench.peer(*flow, &answer(first, 486));
    let second =
        bench.sent().iter().filter(|(f, m)| f != flow && m.method_name() == "INVITE" && m.is_request()).count();
    assert_eq!(second, 1);
}

/// A shard that failed and was restarted has forgotten who waited: the caller hears so all the same.
#[test]
fn a_home_that_forgot_is_given_up() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    bench.asked();
    bench.advance(Duration::from_secs(32));
    assert_eq!(bench.statuses(tls(1)), [100, 480]);
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, asleep(1));
    bench.advance(Duration::from_secs(32));
    assert_eq!(bench.statuses(tls(1)), [100, 480]);
}
