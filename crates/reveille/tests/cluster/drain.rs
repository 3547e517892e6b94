//! A planned drain costs no call: whatever stage a call is in and whatever the drained node is to it, it is answered and ended.

use reveille::lab::DOMAIN;
use reveille_testkit::{
    pns::Provider,
    ua::{IncomingCall, OutgoingCall, Phone},
};

use super::{PATIENCE, SOON, field::Field};

/// What the drained node is to the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    CallersEdge,
    PhonesEdge,
    Home,
}

/// The node that is drained, and two that stay.
const DRAINED: &str = "n2";
const STAYS: [&str; 2] = ["n1", "n3"];

/// A phone that is registered over a node and connected to it.
async fn awake(field: &Field, user: &str, node: &str) -> Phone {
    let mut phone = field.phone(user, Provider::Apns, node).build();
    phone.connect().await.unwrap();
    assert_eq!(phone.register(3600).await.unwrap().code(), 200);
    phone
}

/// What a phone does whose connection was closed (RFC 5626 §4.5): it registers over another edge.
async fn is_there(field: &Field, phone: &mut Phone) {
    if !phone.is_connected() {
        phone.connect_to(field.node(STAYS[0]).addr("tls")).await.unwrap();
        assert_eq!(phone.register(3600).await.unwrap().code(), 200);
    }
}

/// The phone answers, and its caller hears it.
async fn answered(incoming: &mut IncomingCall, call: &mut OutgoingCall) {
    incoming.answer().unwrap();
    let last = call.final_response(PATIENCE).await.unwrap().message;
    assert_eq!(last.code(), 200, "{}", String::from_utf8_lossy(&last.to_bytes()));
    incoming.expect_ack(SOON).await.unwrap();
}

async fn costs_no_call(part: Part) {
    let mut field = Field::start(&["n1", DRAINED, "n3"]).await;
    let at = |its: Part, otherwise: &'static str| if part == its { DRAINED } else { otherwise };
    let (callers, phones) = (at(Part::CallersEdge, STAYS[0]), at(Part::PhonesEdge, STAYS[1]));
    let users = field.users_at(at(Part::Home, STAYS[1]), 3).await;
    let target = |user: &str| format!("sip:{user}@{DOMAIN}");
    let mut caller = field.caller("caller", callers).await;

    let mut asleep = awake(&field, &users[0], phones).await;
    asleep.sleep().await;
    let mut waiting = caller.invite(&target(&users[0])).unwrap();
    asleep.wait_wake(SOON).await.expect("a push arrives");

    let mut rung = awake(&field, &users[1], phones).await;
    let mut ringing = caller.invite(&target(&users[1])).unwrap();
    let mut offer = rung.expect_invite(SOON).await.unwrap();
    offer.ring().unwrap();
    ringing.expect_provisional(180, SOON).await.unwrap();

    let mut busy = awake(&field, &users[2], phones).await;
    let mut talking = caller.invite(&target(&users[2])).unwrap();
    let mut talk = busy.expect_invite(SOON).await.unwrap();
    answered(&mut talk, &mut talking).await;

    let mut leaving = field.nodes.remove(DRAINED).unwrap();
    leaving.signal("-TERM");
    leaving.line("draining").await;
    if part == Part::PhonesEdge {
        // S-139: an established call needs no connection, and its phone goes first; one that rings needs the one it has.
        busy.wait_closed(SOON).await.expect("an idle connection is closed");
        assert!(rung.is_connected(), "a call is in the making on it");
    }
    is_there(&field, &mut busy).await;
    is_there(&field, &mut asleep).await;
    let mut woken = asleep.expect_invite(SOON).await.expect("the call reaches the phone that it woke");
    answered(&mut woken, &mut waiting).await;
    assert!(caller.is_connected(), "it waits for an answer");
    answered(&mut offer, &mut ringing).await;
    // All is answered, so nothing keeps the node.
    assert_eq!(leaving.ended().await.code(), Some(0), "{part:?}");

    is_there(&field, &mut caller).await;
    is_there(&field, &mut rung).await;
    let calls = [(&mut waiting, &mut woken), (&mut ringing, &mut offer), (&mut talking, &mut talk)];
    for (number, (call, incoming)) in calls.into_iter().enumerate() {
        // Either side hangs up some of them.
        if (number + part as usize).is_multiple_of(2) {
            assert_eq!(call.bye(SOON).await.unwrap().code(), 200, "{part:?} {number}");
            incoming.expect_bye(SOON).await.expect("the phone hears it");
        } else {
            assert_eq!(incoming.bye(SOON).await.unwrap().code(), 200, "{part:?} {number}");
            call.expect_bye(SOON).await.expect("the caller hears it");
        }
    }
    for phone in [&asleep, &rung, &busy] {
        assert_eq!(phone.invites().into_values().collect::<Vec<_>>(), [1], "one INVITE");
    }
    field.settled().await;
}

#[tokio::test]
async fn s139_a_planned_drain_of_the_callers_edge_costs_no_call() {
    costs_no_call(Part::CallersEdge).await;
}

#[tokio::test]
async fn s139_a_planned_drain_of_the_phones_edge_costs_no_call() {
    costs_no_call(Part::PhonesEdge).await;
}

#[tokio::test]
async fn s139_a_planned_drain_of_the_home_costs_no_call() {
    costs_no_call(Part::Home).await;
}

/// A phone that nobody takes up rings longer than a drain may last: its caller is told before the connection goes, and it stops.
#[tokio::test]
async fn s139_a_drain_that_runs_out_of_time_says_so() {
    let mut field = Field::start(&["n1", DRAINED]).await;
    let caller = field.caller("caller", DRAINED).await;
    let mut alice = awake(&field, "alice", "n1").await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    let mut offer = alice.expect_invite(SOON).await.unwrap();
    offer.ring().unwrap();
    call.expect_provisional(180, SOON).await.unwrap();
    let leaving = field.nodes.remove(DRAINED).unwrap();
    leaving.signal("-TERM");
    let last = call.final_response(PATIENCE).await.unwrap().message;
    assert_eq!((last.code(), last.header("Retry-After").is_some()), (503, true));
    offer.expect_cancel(SOON).await.expect("nobody calls any more");
    assert_eq!(leaving.ended().await.code(), Some(0));
}
