//! Look-ups: where a request can go at once, and what it waits for.

use std::time::Duration;

use reveille_push::{PushClass, WakeFailure};
use reveille_sip::method::Method;

use super::stage::*;
use crate::{
    ContactUpdate, FlowRef, NextRequest, NodeTag, RegisterRequest, ShardInput, WakeRequest, WorkerRef,
    record::BindingKey,
};

const AWAKE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(31);

fn datagram() -> FlowRef {
    FlowRef::Datagram { node: NodeTag(0), listener: 0, remote: "192.0.2.1:5060".parse().unwrap() }
}

fn wake(waiter: WorkerRef, key: BindingKey, stage: &Stage) -> WakeRequest {
    let deadline = stage.now.mono + Duration::from_secs(30);
    WakeRequest { aor: aor(), waiter, key, class: PushClass::Call, deadline }
}

#[test]
fn s094_unknown_and_merely_absent_differ() {
    let mut stage = Stage::new();
    assert!(!stage.call().1.resolved().2);
    stage.registers_over(contact("sip:alice@192.0.2.1"), 1);
    let (targets, waiting, known) = stage.call().1.resolved();
    assert!(targets.is_empty() && waiting.is_empty() && known, "its connection is gone, and nothing can wake it");
}

/// P-052 to P-054, P-086: when a phone is called at once, when it is woken, and when it is out of reach.
#[test]
fn p054_ways_to_a_binding() {
    let (direct, push, lost) = ((1, 0, 0), (0, 1, 1), (0, 0, 0));
    let call = PushClass::Call;
    let request = PushClass::Request;
    let voip = || phone("192.0.2.1", 1);
    let plain = || contact("sip:alice@192.0.2.1");
    let heard = |ago| Some((flow(1), Some(ago)));
    let closed = Some((flow(1), None));
    let udp = Some((datagram(), None));
    let cases = [
        ("ordinary, open and silent for long", plain(), heard(IDLE), call, direct),
        ("ordinary, closed", plain(), closed, call, lost),
        ("ordinary, UDP", plain(), udp, call, direct),
        ("ordinary, registered through a Path", plain(), None, call, direct),
        ("push, heard lately", voip(), heard(AWAKE), call, direct),
        ("push, open but silent", voip(), heard(IDLE), call, push),
        ("push, closed", voip(), closed, call, push),
        ("push, UDP", voip(), udp, call, push),
        ("push, no flow", voip(), None, call, push),
        // P-151: a voip token is for calls only.
        ("voip for a MESSAGE, open but silent", voip(), heard(IDLE), request, direct),
        ("voip for a MESSAGE, heard lately", voip(), heard(AWAKE), request, direct),
        ("voip for a MESSAGE, closed", voip(), closed, request, lost),
        ("voip for a MESSAGE, UDP", voip(), udp, request, direct),
        ("fcm for a MESSAGE, closed", fcm("192.0.2.1", "dQw4:APA91bF_x-aaaaaaaa"), closed, request, push),
    ];
    for (what, contact, way, class, expected) in cases {
        let mut stage = Stage::new();
        let flow = way.map(|(flow, _)| flow);
        stage.tell(ShardInput::Register(Box::new(RegisterRequest {
            flow,
            ..super::stage::request(vec![contact], "c", 1)
        })));
        stage.now.mono += Duration::from_secs(60);
        if let Some((_, Some(ago))) = way {
            stage.heard(1, ago);
        }
        let (_, input) = stage.look_up(Method::Message, class, Duration::from_secs(10));
        let turn = stage.tell(input);
        let (targets, waiting, known) = turn.resolved();
        assert_eq!((targets.len(), waiting.len(), turn.pushes), expected, "{what}");
        assert!(known);
        if let Some(target) = targets.first() {
            assert_eq!(target.flow, flow, "{what}");
            assert_eq!(target.pushable, what == "push, heard lately", "{what}");
        }
    }
}

#[test]
fn s111_targets_come_by_q_and_then_newest_first() {
    let mut stage = Stage::new();
    for (n, q) in [(1, 500), (2, 1000), (3, 500), (4, 700)] {
        stage.registers(ContactUpdate { q, ..contact(&format!("sip:alice@192.0.2.{n}")) });
        stage.pass(Duration::from_secs(1));
    }
    let targets = stage.call().1.resolved().0;
    let order: Vec<_> = targets.iter().map(|target| &target.contact[10..]).collect();
    assert_eq!(order, ["192.0.2.2", "192.0.2.4", "192.0.2.3", "192.0.2.1"]);
}

/// S-076: two devices that gave one address are one target, unless they came over two connections.
#[test]
fn s076_the_same_place_is_offered_once() {
    let mut stage = Stage::new();
    let here = |instance| of_instance(contact("sip:alice@10.0.0.1"), instance, 0);
    stage.registers(here(1));
    stage.registers(here(2));
    assert_eq!(stage.call().1.resolved().0.len(), 1);
    stage.heard(1, AWAKE);
    stage.heard(2, AWAKE);
    stage.registers_over(here(1), 1);
    stage.registers_over(here(2), 2);
    assert_eq!(stage.call().1.resolved().0.len(), 2);
}

fn two_flows(push: bool) -> Stage {
    let mut stage = Stage::new();
    for n in [1, 2] {
        let base = if push { phone("192.0.2.1", 1) } else { contact("sip:alice@192.0.2.1") };
        stage.heard(u64::from(n), Duration::ZERO);
        stage.registers_over(of_instance(base, 1, n), u64::from(n));
        stage.pass(Duration::from_secs(1));
    }
    stage
}

/// S-131, S-078: one flow of a phone at a time, newest first; then the next; then none.
#[test]
fn s131_flows_of_one_phone_are_tried_one_after_the_other() {
    let mut stage = two_flows(false);
    let (waiter, turn) = stage.call();
    let first = turn.resolved().0;
    assert_eq!((first.len(), first[0].reg_id), (1, Some(2)));
    let next = NextRequest { wake: wake(waiter, first[0].key, &stage), tried: vec![first[0].key] };
    let fates = stage.tell(ShardInput::Next(Box::new(next))).fates();
    let second = fates[0].1.clone().unwrap();
    assert_eq!(second.reg_id, Some(1));
    let next = NextRequest { wake: wake(waiter, second.key, &stage), tried: vec![first[0].key, second.key] };
    let fates = stage.tell(ShardInput::Next(Box::new(next))).fates();
    assert_eq!(fates, [(waiter, Err(WakeFailure::NotConnected))], "it is registered, and nowhere to be reached");
}

/// Within a dialog a binding is only a name for its phone: where that is the way to it, it is the answer.
#[test]
fn a_phone_is_found_by_a_binding_that_did_not_fail() {
    let mut stage = two_flows(true);
    let (waiter, turn) = stage.call();
    let newest = turn.resolved().0[0].key;
    let next = NextRequest { wake: wake(waiter, newest, &stage), tried: vec![] };
    let fates = stage.tell(ShardInput::Next(Box::new(next))).fates();
    assert_eq!(fates[0].1.clone().map(|target| target.key), Ok(newest));
}

/// P-054: a phone that registered through another node lately is awake as far as anybody here can tell; later it is woken.
#[test]
fn p054_a_phone_behind_another_node_is_awake_for_a_while() {
    let mut stage = Stage::new();
    let input = stage.register(vec![phone("192.0.2.1", 1)]);
    let ShardInput::Register(mut request) = input else { unreachable!() };
    request.path = vec!["<sip:token@edge.example.com;lr;ob>".to_owned()];
    stage.tell(ShardInput::Register(request));
    stage.pass(AWAKE);
    let (_, turn) = stage.call();
    assert_eq!((turn.resolved().0.len(), turn.resolved().0[0].pushable, turn.pushes), (1, true, 0));
    stage.pass(IDLE);
    let (_, turn) = stage.call();
    assert_eq!((turn.resolved().1.len(), turn.pushes), (1, 1));
}

/// S-131: what is open is tried before anything is woken, older or not.
#[test]
fn s131_an_open_flow_goes_before_a_newer_sleeping_one() {
    let mut stage = two_flows(true);
    stage.closed(2);
    let targets = stage.call().1.resolved().0;
    assert_eq!((targets.len(), targets[0].reg_id, targets[0].pushable), (1, Some(1), true));
}

#[test]
fn s131_when_no_flow_is_left_the_phone_is_woken() {
    let mut stage = two_flows(true);
    stage.closed(2);
    let (waiter, turn) = stage.call();
    let key = turn.resolved().0[0].key;
    stage.closed(1);
    let next = NextRequest { wake: wake(waiter, key, &stage), tried: vec![] };
    let turn = stage.tell(ShardInput::Next(Box::new(next)));
    assert_eq!((turn.pushes, turn.fates().len()), (1, 0));
    stage.heard(3, Duration::ZERO);
    let turn = stage.registers_over(of_instance(phone("192.0.2.1", 1), 1, 2), 3);
    assert_eq!(turn.fates()[0].1.as_ref().unwrap().flow, Some(flow(3)), "whichever of its bindings the phone renews");
}

/// S-132, P-086: 430 on a flow suspends a phone that can be woken; one that cannot has lost its binding.
#[test]
fn s132_an_unusable_flow_suspends_or_removes() {
    let mut stage = Stage::new();
    stage.heard(1, Duration::ZERO);
    stage.registers_over(phone("192.0.2.1", 1), 1);
    stage.now.mono += IDLE;
    let key = stage.binding().key;
    let turn = stage.tell(ShardInput::FlowUnusable { aor: aor(), key });
    assert_eq!((turn.writes.len(), stage.binding().flow), (1, None));
    assert_eq!(stage.call().1.pushes, 1);

    let mut stage = Stage::new();
    stage.heard(1, Duration::ZERO);
    stage.registers_over(contact("sip:alice@192.0.2.1"), 1);
    let key = stage.binding().key;
    assert!(
        stage.tell(ShardInput::FlowUnusable { aor: aor(), key }).writes.is_empty(),
        "it is open: silence is no loss"
    );
    stage.closed(1);
    assert_eq!(stage.tell(ShardInput::FlowUnusable { aor: aor(), key }).writes.len(), 1);
    assert!(stage.contacts().is_empty());
}

/// S-132: the complaint was about the flow before; the phone has come back over another one.
#[test]
fn s132_a_flow_that_was_just_heard_is_not_the_one_that_failed() {
    let mut stage = Stage::new();
    stage.registers_over(phone("192.0.2.1", 1), 1);
    let key = stage.binding().key;
    stage.heard(2, Duration::ZERO);
    stage.registers_over(phone("192.0.2.1", 1), 2);
    stage.tell(ShardInput::FlowUnusable { aor: aor(), key });
    assert_eq!(stage.binding().flow, Some(flow(2)));
}

/// P-054: the forward died on a flow believed open: exactly that binding is woken, once, by a push.
#[test]
fn p054_a_dead_forward_falls_back_to_a_push() {
    let mut stage = Stage::new();
    stage.heard(1, Duration::ZERO);
    stage.registers_over(phone("192.0.2.1", 1), 1);
    let (waiter, turn) = stage.call();
    let target = turn.resolved().0.remove(0);
    assert!(target.pushable);
    let turn = stage.tell(ShardInput::Wake(Box::new(wake(waiter, target.key, &stage))));
    assert_eq!(turn.pushes, 1);
    let fates = stage.registers_over(phone("192.0.2.1", 1), 2).fates();
    assert_eq!(fates[0].0, waiter);
    assert_eq!(fates[0].1.as_ref().unwrap().flow, Some(flow(2)));
}

#[test]
fn a_wake_for_what_cannot_be_woken_fails_at_once() {
    let mut stage = Stage::new();
    stage.registers(contact("sip:alice@192.0.2.1"));
    let key = stage.binding().key;
    let request = wake(worker(9), key, &stage);
    assert_eq!(stage.tell(ShardInput::Wake(Box::new(request))).fates(), [(worker(9), Err(WakeFailure::PushFailed))]);
    let request = wake(worker(9), BindingKey(1), &stage);
    assert_eq!(stage.tell(ShardInput::Wake(Box::new(request))).fates(), [(worker(9), Err(WakeFailure::BindingGone))]);
}
