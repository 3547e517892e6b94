//! What is refused at the door, and how.

use std::sync::atomic::Ordering;

use reveille_registrar::shard::{HomeEvent, ShardInput};
use reveille_sip::header::HeaderId;

use super::{
    bench::{Bench, invite, settings, tls, udp},
    bob,
};

fn statuses(bench: &mut Bench, text: &str) -> Vec<u16> {
    bench.peer(udp(5060), text);
    bench.statuses(udp(5060))
}

#[test]
fn each_refusal_has_its_code() {
    let cases: &[(&str, &str, &str, u16)] = &[
        ("S-061 no hops left", "Max-Forwards: 70", "Max-Forwards: 0", 483),
        ("S-062 unknown Proxy-Require", "Max-Forwards: 70", "Max-Forwards: 70\nProxy-Require: foo", 420),
        ("S-065 no breadth left", "Max-Forwards: 70", "Max-Forwards: 70\nMax-Breadth: 0", 440),
        ("S-228 open relay", "sip:alice@example.com SIP", "sip:alice@elsewhere.test SIP", 403),
        ("S-229 third-party Route", "Max-Forwards: 70", "Max-Forwards: 70\nRoute: <sip:elsewhere.test;lr>", 403),
        ("S-128 forged token", "Max-Forwards: 70", "Max-Forwards: 70\nRoute: <sip:forged@edge.test:5061;lr>", 403),
        (
            "S-016 unknown scheme behind a Route of ours",
            "INVITE sip:alice@example.com SIP/2.0\n",
            "INVITE soap.beep://192.0.2.103:3002 SIP/2.0\nRoute: <sip:edge.test:5061;lr>\n",
            416,
        ),
        ("S-093 INVITE to us", "sip:alice@example.com SIP", "sip:edge.test:5061 SIP", 405),
    ];
    for (what, from, to, status) in cases {
        let mut bench = Bench::new();
        assert_eq!(statuses(&mut bench, &invite("z9hG4bKx").replacen(from, to, 1)), [*status], "{what}");
        assert!(bench.asked().is_empty(), "{what}");
    }
}

/// S-062: the tags we do not know are named.
#[test]
fn unsupported_tags_are_listed() {
    let mut bench = Bench::new();
    bench.peer(udp(5060), &invite("z9hG4bKx").replace("Max-Forwards: 70", "Max-Forwards: 70\nProxy-Require: foo, bar"));
    assert_eq!(bench.sent()[0].1.value(HeaderId::Unsupported), Some("foo, bar"));
}

/// S-092: a probe needs no account; a draining node says so.
#[test]
fn options_probe() {
    let mut bench = bob::guarded(settings());
    let probe =
        invite("z9hG4bKo").replace("INVITE", "OPTIONS").replace("sip:alice@example.com SIP", "sip:edge.test:5061 SIP");
    bench.public(tls(1), &probe);
    assert_eq!(bench.statuses(tls(1)), [200]);
    bench.shared.draining.store(true, Ordering::Relaxed);
    bench.public(tls(1), &probe.replace("z9hG4bKo", "z9hG4bKp"));
    let sent = bench.sent();
    assert_eq!(sent[0].1.status(), Some(503));
    assert!(sent[0].1.has(HeaderId::RetryAfter));
}

/// S-140: a caller on a public listener proves who it is; a trunk need not.
#[test]
fn public_callers_are_challenged() {
    let mut bench = bob::guarded(settings());
    bench.public(tls(1), &invite("z9hG4bKa"));
    let sent = bench.sent();
    assert_eq!(sent[0].1.status(), Some(407));
    assert!(sent[0].1.value(HeaderId::ProxyAuthenticate).unwrap().contains("SHA-256"));
    assert!(bench.asked().is_empty());
    bench.peer(tls(2), &invite("z9hG4bKb"));
    assert_eq!(bench.asked().len(), 1);
}

/// S-220: a home without room means "later", for calls and registrations alike.
#[test]
fn a_full_home_is_503() {
    let mut bench = Bench::new();
    bench.homes.full.store(true, Ordering::Relaxed);
    assert_eq!(statuses(&mut bench, &invite("z9hG4bKa")), [100, 503]);
}

/// S-063: our own Via with an unchanged hash is a loop; with another Request-URI it is a spiral and passes.
#[test]
fn loops_are_found() {
    use reveille_registrar::shard::HomeEvent;
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    let mut back = super::bench::target(1, tls(9), false);
    back.contact = "sip:alice@example.com".into();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![back], waiting: vec![], known: true });
    let forwarded = bench.requests(tls(9)).remove(0);
    let text = String::from_utf8(forwarded.bytes().to_vec()).unwrap().replace("\r\n", "\n");
    bench.peer(tls(9), &text.replace("z9hG4bKa", "z9hG4bKzz"));
    assert!(bench.statuses(tls(9)).contains(&482));
}

/// S-147: credentials are looked at once. A REGISTER whose shard moves, and comes back to this node, is not taken for a replay.
#[test]
fn s147_a_register_that_follows_its_shard_is_not_challenged_again() {
    let mut bench = bob::guarded(settings());
    bob::register(&mut bench, tls(1), "<sip:bob@192.0.2.7:5061;transport=tls>");
    for _ in 0..2 {
        let asked = bench.asked();
        let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("{:?}", bench.statuses(tls(1))) };
        bench.home(ask.reply, HomeEvent::Moved);
        bench.advance(std::time::Duration::from_millis(150));
    }
    assert!(bench.statuses(tls(1)).iter().all(|status| *status == 100));
}
