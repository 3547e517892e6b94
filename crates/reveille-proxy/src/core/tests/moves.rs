//! Shards that leave a node while requests are asked of it there.

use std::time::Duration;

use reveille_registrar::{
    flow::{FlowRef, NodeTag},
    record::BindingKey,
    replica::StoreError,
    shard::{HomeEvent, RegisterError, ShardInput, Target, WorkerRef},
};
use reveille_sip::{header::HeaderId, message::Message};

use crate::egress::Flows as _;

use super::{
    bench::{answer, between, invite, on, target},
    nodes::{CALLER, EDGE, FAR, Field, HOME, PHONE, register, registered},
};

/// Who of a node's shards was asked to register; there must be just one.
fn registering(field: &mut Field, node: u32) -> (WorkerRef, Option<FlowRef>, usize) {
    let asked = field.node(node).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("expected one Register") };
    (ask.reply, ask.flow, ask.path.len())
}

/// A call waits for a phone at a home that hands its shard over: it waits at the next one, and the phone is called once.
#[test]
fn a_waiting_call_follows_its_shard() {
    for (resolved, next) in [(false, FAR), (true, FAR), (true, EDGE)] {
        let mut field = Field::new();
        field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
        field.run();
        let waiter = field.node(HOME).resolving();
        if resolved {
            let event = HomeEvent::Resolved { targets: vec![], waiting: vec![(BindingKey(1), 1000)], known: true };
            field.tell(HOME, waiter, event);
        }
        field.tell(HOME, waiter, HomeEvent::Moved);
        *field.owner.lock() = None;
        field.advance(Duration::from_millis(50));
        assert_eq!(field.statuses(on(EDGE, CALLER)), [100], "nobody is refused while there is no owner");
        *field.owner.lock() = Some(next);
        field.advance(Duration::from_millis(150));
        let waiter = field.node(next).resolving();
        field.tell(
            next,
            waiter,
            HomeEvent::Resolved { targets: vec![target(1, on(FAR, PHONE), false)], waiting: vec![], known: true },
        );
        let rings = field.at(on(FAR, PHONE));
        assert_eq!(rings.len(), 1);
        field.node(FAR).peer(on(FAR, PHONE), &answer(&rings[0], 200));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [200], "resolved: {resolved}, next owner: {next}");
    }
}

/// The home hands its shard over, sends the call after it, and ends; the caller's edge asks the new owner itself, which may be the
/// edge. The new owner has the call already, or gets it later: the phone is called once, and the caller hears it.
#[test]
fn a_call_that_came_twice_is_one_call() {
    for (next, phone_at, late) in [(FAR, FAR, false), (EDGE, FAR, false), (EDGE, EDGE, false), (EDGE, EDGE, true)] {
        let case = format!("next owner {next}, phone at {phone_at}, late: {late}");
        let mut field = Field::new();
        field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
        field.run();
        let waiter = field.node(HOME).resolving();
        field.tell(HOME, waiter, HomeEvent::Moved);
        *field.owner.lock() = Some(next);
        let mut waiters = Vec::new();
        let mut copies = Vec::new();
        if late {
            // What the home sent after its shard is still on its way when its end is noticed.
            field.node(HOME).advance(Duration::from_millis(50));
            copies.extend(field.node(HOME).sent());
        } else {
            field.advance(Duration::from_millis(50));
            waiters.push(field.node(next).resolving());
        }
        field.kill(HOME);
        field.advance(Duration::from_millis(150));
        for (_, copy) in copies.into_iter().filter(|(_, message)| message.is_request()) {
            field.node(next).cluster(between(NodeTag(next), NodeTag(HOME)), copy);
            field.run();
        }
        waiters.extend(field.node(next).asked().iter().filter_map(|input| match input {
            ShardInput::Resolve(ask) => Some(ask.waiter),
            _ => None,
        }));
        let token = field.node(phone_at).flows.seal(&on(phone_at, PHONE));
        let path = vec![format!("<sip:{token}@edge.test:5061;transport=tls;lr;ob>")];
        let binding = Target { flow: None, path, ..target(1, on(phone_at, PHONE), false) };
        for waiter in waiters.into_iter().rev() {
            let targets = vec![binding.clone()];
            field.tell(next, waiter, HomeEvent::Resolved { targets, waiting: vec![], known: true });
        }
        let rings = field.at(on(phone_at, PHONE));
        assert_eq!(rings.len(), 1, "{case}");
        field.node(phone_at).peer(on(phone_at, PHONE), &answer(&rings[0], 200));
        field.run();
        assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 200], "{case}");
    }
}

/// A shard that moves away and comes back while a call follows it: the call has gone round, and its edge asks anew. Nobody is refused,
/// and a phone that says 482 of its own is believed.
#[test]
fn a_call_that_went_round_is_asked_anew() {
    let mut field = Field::new();
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.run();
    let waiter = field.node(HOME).resolving();
    field.tell(HOME, waiter, HomeEvent::Moved);
    *field.owner.lock() = Some(FAR);
    field.advance(Duration::from_millis(50));
    let waiter = field.node(FAR).resolving();
    *field.owner.lock() = Some(HOME);
    field.tell(FAR, waiter, HomeEvent::Moved);
    field.advance(Duration::from_millis(50)); // it goes round
    field.advance(Duration::from_millis(150)); // and is asked anew
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100]);
    let waiter = field.node(HOME).resolving();
    let binding = field.binding(false);
    field.tell(HOME, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
    let rings = field.at(on(FAR, PHONE));
    assert_eq!(rings.len(), 1);
    // Nor does it matter what it says beside.
    let refusal = answer(&rings[0], 482).replace("Content-Length", "X-Reveille: moved\nContent-Length");
    field.node(FAR).peer(on(FAR, PHONE), &refusal);
    field.run();
    field.advance(Duration::from_secs(1));
    assert_eq!(field.statuses(on(EDGE, CALLER)), [482]);
    assert!(field.at(on(FAR, PHONE)).iter().all(|message| message.method_name() == "ACK"));
}

/// A shard that comes back to the very node that gave it up.
#[test]
fn a_call_that_followed_its_shard_home() {
    let mut field = Field::new();
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.run();
    let waiter = field.node(HOME).resolving();
    field.tell(HOME, waiter, HomeEvent::Moved);
    field.advance(Duration::from_millis(50));
    let again = field.node(HOME).resolving();
    field.tell(HOME, again, HomeEvent::Resolved { targets: vec![], waiting: vec![], known: true });
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 480]);
}

/// One phone rings and another sleeps: the one that rings goes on ringing, and is offered the call once.
#[test]
fn a_ringing_phone_is_left_ringing_when_the_shard_moves() {
    let mut field = Field::new();
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.run();
    let waiter = field.node(HOME).resolving();
    let binding = field.binding(false);
    let event = HomeEvent::Resolved { targets: vec![binding], waiting: vec![(BindingKey(2), 1000)], known: true };
    field.tell(HOME, waiter, event);
    let ring = field.at(on(FAR, PHONE)).remove(0);
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 180));
    field.tell(HOME, waiter, HomeEvent::Moved);
    *field.owner.lock() = Some(FAR);
    field.advance(Duration::from_secs(1));
    assert!(field.node(FAR).asked().is_empty(), "the new owner would offer it to the ringing phone again");
    field.node(FAR).peer(on(FAR, PHONE), &answer(&ring, 200));
    field.run();
    assert_eq!(field.statuses(on(EDGE, CALLER)), [100, 180, 200]);
    assert!(field.at(on(FAR, PHONE)).is_empty());
}

/// A REGISTER whose shard leaves, or whose write is refused because it has left, goes to the new owner with its Path.
#[test]
fn a_register_follows_its_shard() {
    for event in [HomeEvent::Moved, HomeEvent::Registered(Err(RegisterError::Store(StoreError::Fenced)))] {
        let mut field = Field::new();
        field.node(FAR).peer(on(FAR, PHONE), &register());
        field.run();
        let (reply, ..) = registering(&mut field, HOME);
        field.tell(HOME, reply, event);
        *field.owner.lock() = Some(EDGE);
        field.advance(Duration::from_millis(150));
        let (reply, flow, path) = registering(&mut field, EDGE);
        assert_eq!((flow, path), (None, 1));
        field.tell(EDGE, reply, registered("sip:alice@198.51.100.1:5070"));
        assert_eq!(field.statuses(on(FAR, PHONE)), [200]);
    }
}

/// The phone's own node was its home: what it now sends on names the phone's flow.
#[test]
fn a_register_of_a_local_phone_follows_its_shard() {
    let mut field = Field::new();
    *field.owner.lock() = Some(FAR);
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    let asked = field.node(FAR).asked();
    let [ShardInput::Register(ask)] = asked.as_slice() else { panic!("expected one Register") };
    let (reply, flow, path) = (ask.reply, ask.flow, ask.path.len());
    assert_eq!((flow, path, ask.sent_on), (Some(on(FAR, PHONE)), 0, false), "no other home has seen it");
    field.tell(FAR, reply, HomeEvent::Moved);
    *field.owner.lock() = Some(HOME);
    field.advance(Duration::from_millis(50));
    let (reply, flow, path) = registering(&mut field, HOME);
    assert_eq!((flow, path), (None, 1));
    field.tell(HOME, reply, registered("sip:alice@198.51.100.1:5070"));
    assert_eq!(field.statuses(on(FAR, PHONE)), [200]);
}

/// However often a shard moves, the phone is answered in the time it would wait for one that stays.
#[test]
fn a_register_does_not_follow_for_ever() {
    let mut field = Field::new();
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    let mut statuses = Vec::new();
    for _ in 0..200 {
        if let [ShardInput::Register(ask)] = field.node(HOME).asked().as_slice() {
            let reply = ask.reply;
            field.tell(HOME, reply, HomeEvent::Moved);
        }
        field.advance(Duration::from_millis(100));
        statuses.extend(field.statuses(on(FAR, PHONE)));
    }
    assert_eq!(statuses, [100, 503]);
}

/// S-082: a home that has no room, or may promise nothing, is our own overload: the 503 comes through, with Retry-After.
#[test]
fn s082_the_503_of_a_home_is_our_own() {
    let mut field = Field::new();
    field.node(HOME).homes.full.store(true, std::sync::atomic::Ordering::Relaxed);
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.run();
    for (flow, method) in [(on(FAR, PHONE), "REGISTER"), (on(EDGE, CALLER), "INVITE")] {
        let answers = field.at(flow);
        let last = answers.last().expect("an answer");
        assert_eq!((last.status(), last.has(HeaderId::RetryAfter)), (Some(503), true), "{method}");
    }
}

/// S-082: a home falls silent, and is known to be gone only when the time for another has passed: the phone is asked to come again, and
/// not told of a fault.
#[test]
fn s082_a_home_that_is_lost_too_late_is_503() {
    let mut field = Field::new();
    field.node(FAR).peer(on(FAR, PHONE), &register());
    field.run();
    assert_eq!(field.node(HOME).asked().len(), 1);
    field.node(FAR).advance(Duration::from_millis(10_500)); // and nothing comes from the home
    field.kill(HOME);
    field.run();
    let answers = field.at(on(FAR, PHONE));
    let last = answers.last().expect("an answer");
    assert_eq!((last.status(), last.has(HeaderId::RetryAfter)), (Some(503), true));
}

/// A phone that registered where its home was, and whose shard has moved since, is reached through the node that holds its flow.
#[test]
fn a_flow_of_another_node_is_reached_through_it() {
    let mut field = Field::new();
    field.node(EDGE).peer(on(EDGE, CALLER), &invite("z9hG4bKa"));
    field.run();
    let waiter = field.node(HOME).resolving();
    let binding: Target = target(1, on(FAR, PHONE), false);
    field.tell(HOME, waiter, HomeEvent::Resolved { targets: vec![binding], waiting: vec![], known: true });
    let rings = field.at(on(FAR, PHONE));
    assert!(matches!(rings.as_slice(), [ring] if ring.method_name() == "INVITE"), "{rings:?}");
    field.node(FAR).peer(on(FAR, PHONE), &answer(&rings[0], 200));
    field.run();
    let answers = field.at(on(EDGE, CALLER));
    assert_eq!(answers.iter().filter_map(Message::status).collect::<Vec<_>>(), [100, 200]);
}

/// P-064: an edge refuses a REGISTER; the calls that wait for that phone wait at its home, which hears of it and ends them. The phone is
/// told what it would be told with its home here. Nothing is registered, and the home may have moved meanwhile.
#[test]
fn p064_a_home_hears_of_a_register_that_an_edge_refuses() {
    let wrong = register().replace("reg-id=1", "reg-id=0");
    for next in [None, Some(HOME), Some(FAR)] {
        let mut field = Field::new();
        if next.is_some() {
            *field.owner.lock() = Some(EDGE);
        }
        field.node(FAR).peer(on(FAR, PHONE), &wrong);
        if let Some(next) = next {
            *field.owner.lock() = Some(next); // what it was sent to is not its home any more
        }
        field.run();
        field.advance(Duration::from_millis(150));
        let asked = field.node(next.unwrap_or(HOME)).asked();
        let [ShardInput::RegisterRejected { aor, contacts }] = asked.as_slice() else { panic!("{next:?}: {asked:?}") };
        assert_eq!(aor.as_str(), "alice@example.com");
        assert!(contacts[0].contains("pn-prid=aabbccdd"));
        assert_eq!(field.statuses(on(FAR, PHONE)).last(), Some(&400), "{next:?}");
    }
}

/// P-064: a lifetime that is too brief is mended by the phone, and ends nobody's waiting; a REGISTER without a push target concerns
/// nobody who waits. Both are answered at the edge.
#[test]
fn p064_a_register_that_ends_no_waiting_is_refused_at_the_edge() {
    let cases = [
        (register().replace("Expires: 3600", "Expires: 10"), 423),
        (register().replace("reg-id=1", "reg-id=0").replace(";pn-prid=aabbccdd", ""), 400),
    ];
    for (request, status) in cases {
        let mut field = Field::new();
        field.node(FAR).peer(on(FAR, PHONE), &request);
        field.run();
        assert_eq!(field.statuses(on(FAR, PHONE)), [status]);
        assert!(field.node(HOME).asked().is_empty());
    }
}

/// That a REGISTER was refused is believed of nodes alone.
#[test]
fn p064_a_phone_cannot_say_that_it_was_refused() {
    let mut field = Field::new();
    let forged = register().replace("Expires", "Path: <sip:x@node.invalid;lr;rv-refused=403>\nExpires");
    let forged = forged.replace("path, outbound", "path");
    field.node(HOME).peer(on(HOME, PHONE), &forged);
    field.run();
    assert!(matches!(field.node(HOME).asked().as_slice(), [ShardInput::Register(_)]));
    // Nor is it by way of another node, whose own value stands first.
    field.node(FAR).peer(on(FAR, PHONE), &forged);
    field.run();
    let asked = field.node(HOME).asked();
    assert!(matches!(asked.as_slice(), [ShardInput::Register(_)]), "{asked:?} {:?}", field.at(on(FAR, PHONE)));
}
