//! A node that drains.

use std::sync::atomic::Ordering;

use reveille_registrar::shard::{HomeEvent, ShardInput};
use reveille_sip::header::HeaderId;

use super::{
    bench::{Bench, answer, invite, on, target, tls},
    dialogs::in_dialog,
    nodes::{CALLER, EDGE, FAR, Field, HOME, PHONE},
};

/// S-139: near its end a drain begins nothing new for who is connected, with a time to come back; what belongs to a dialog, or comes from
/// another node, goes on.
#[test]
fn s139_a_drain_near_its_end_begins_nothing_new() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
    field.run();
    field.at(on(EDGE, CALLER));
    for node in [EDGE, HOME] {
        field.node(node).core.shared.closing.store(true, Ordering::Relaxed);
    }
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKb").replace("call-1", "call-2"));
    let told = field.node(EDGE).sent();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].1.status(), told[0].1.has(HeaderId::RetryAfter)), (Some(503), true));
    let mut route: Vec<String> = ring.values(HeaderId::RecordRoute).map(str::to_owned).collect();
    route.reverse();
    field.node(EDGE).peer(on(EDGE, CALLER), &in_dialog("BYE", "z9hG4bKbye", &route));
    field.run();
    assert_eq!(field.at(on(FAR, PHONE)).len(), 1);
    field.node(FAR).peer(on(FAR, PHONE), &invite("z9hG4bKc").replace("call-1", "call-3"));
    field.run();
    assert!(
        matches!(field.node(HOME).asked().as_slice(), [ShardInput::Resolve(_)]),
        "other nodes have nobody else to ask"
    );
}

/// S-139: when a drain's time is up, who waits is told so and can try elsewhere, and the phone that rings for nobody stops.
#[test]
fn s139_a_drain_gives_up_what_is_in_hand() {
    let mut bench = Bench::new();
    bench.peer(tls(1), &invite("z9hG4bKa"));
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(9), false)], waiting: vec![], known: true });
    let ring = bench.requests(tls(9)).remove(0);
    bench.peer(tls(9), &answer(&ring, 180));
    bench.sent();
    bench.core.give_up(bench.now);
    let told = bench.sent();
    let at = |flow| told.iter().filter(|(to, _)| *to == flow).map(|(_, message)| message).collect::<Vec<_>>();
    assert_eq!(at(tls(1)).iter().filter_map(|message| message.status()).collect::<Vec<_>>(), [503]);
    assert!(at(tls(1))[0].has(HeaderId::RetryAfter));
    assert_eq!(at(tls(9)).iter().map(|message| message.method_name()).collect::<Vec<_>>(), ["CANCEL"]);
    bench.peer(tls(9), &answer(&ring, 487));
    assert!(bench.statuses(tls(1)).is_empty(), "it has its answer");
}

/// What another node sent is that node's to take elsewhere.
#[test]
fn what_came_from_other_nodes_is_not_given_up() {
    let mut field = Field::new();
    let (_, ring) = field.ringing(false);
    for node in [HOME, FAR] {
        let bench = field.node(node);
        bench.core.give_up(bench.now);
    }
    field.run();
    let phone = on(FAR, PHONE);
    assert!(field.at(phone).is_empty());
    field.node(FAR).peer(phone, &answer(&ring, 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 200]);
}
