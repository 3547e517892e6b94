//! Nodes that die, drain and come back.

use std::time::Duration;

use reveille::lab::DOMAIN;
use reveille_testkit::{
    pns::Provider,
    ua::{OutgoingCall, Phone},
};

use super::{PATIENCE, SOON, field::Field};

/// The nodes that are not this one.
fn others(names: [&'static str; 3], but: &str) -> Vec<&'static str> {
    names.into_iter().filter(|name| *name != but).collect()
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A phone sleeps, having registered at a node that lives on.
async fn asleep(field: &Field, node: &str) -> Phone {
    let mut alice = field.phone("alice", Provider::Apns, node).build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    alice.sleep().await;
    alice
}

/// The phone wakes up, takes the call, and hangs up; it saw one INVITE.
async fn answers(alice: &mut Phone, call: &mut OutgoingCall, field: &Field, node: &str) {
    alice.connect_to(field.node(node).addr("tls")).await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    let mut incoming = alice.expect_invite(SOON).await.expect("the call reaches the phone");
    incoming.answer().unwrap();
    let last = call.final_response(PATIENCE).await.unwrap().message;
    assert_eq!(last.code(), 200, "{}", String::from_utf8_lossy(&last.to_bytes()));
    incoming.expect_ack(SOON).await.unwrap();
    assert_eq!(incoming.bye(SOON).await.unwrap().code(), 200);
    call.expect_bye(SOON).await.unwrap();
    assert_eq!(alice.invites()[call.call_id()], 1, "one INVITE");
}

/// The home dies while the phone sleeps: its next owner wakes it as before.
#[tokio::test]
async fn a_binding_outlives_its_home() {
    let mut field = Field::start(&NODES).await;
    let home = field.home_of("alice").await;
    let rest = others(NODES, home);
    let mut alice = asleep(&field, rest[0]).await;
    let caller = field.caller("caller", rest[1]).await;
    field.kill(home);
    // At once: the call waits for the next owner.
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("the next owner wakes it");
    answers(&mut alice, &mut call, &field, rest[0]).await;
    field.settled().await;
}

/// The home dies while the call waits there for the phone: the caller's edge asks the next owner, in the same transaction.
#[tokio::test]
async fn a_waiting_call_outlives_its_home() {
    let mut field = Field::start(&NODES).await;
    let home = field.home_of("alice").await;
    let rest = others(NODES, home);
    let mut alice = asleep(&field, rest[0]).await;
    let caller = field.caller("caller", rest[1]).await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    field.kill(home);
    // The push may repeat, the INVITE may not.
    alice.wait_wake(SOON).await.expect("the next owner wakes it again");
    answers(&mut alice, &mut call, &field, rest[1]).await;
}

/// A node that drains hands its shards over: a call that waits there goes on waiting at the next owner, a phone that registers is
/// never refused, and nothing is asked for in vain.
#[tokio::test]
async fn a_drain_loses_nothing() {
    let mut field = Field::start(&NODES).await;
    let home = field.home_of("alice").await;
    let rest = others(NODES, home);
    let mut alice = asleep(&field, rest[0]).await;
    let caller = field.caller("caller", rest[1]).await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    let mut leaving = field.nodes.remove(home).unwrap();
    leaving.signal("-TERM");
    leaving.line("draining").await;
    let mut bob = field.phone("bob", Provider::Fcm, rest[0]).build();
    bob.connect().await.unwrap();
    for _ in 0..20 {
        assert_eq!(bob.register(3600).await.unwrap().code(), 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answers(&mut alice, &mut call, &field, rest[1]).await;
    assert_eq!(leaving.ended().await.code(), Some(0));
    field.settled().await;
}

/// A cluster that was stopped whole remembers every phone.
#[tokio::test]
async fn a_cluster_comes_back_with_every_binding() {
    let mut field = Field::start(&NODES).await;
    let mut alice = asleep(&field, "n1").await;
    for name in NODES {
        field.kill(name);
    }
    for name in NODES {
        field.add(name, r#"["edge", "home"]"#).await;
    }
    field.settled().await;
    let caller = field.caller("caller", "n2").await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    answers(&mut alice, &mut call, &field, "n3").await;
}

/// Redis is gone and comes back. Meanwhile phones are woken from memory and their refreshes answered; a phone that nobody knows
/// is asked to come again. Afterwards everything is as if Redis had been there: the shards stay where they are, and what was
/// promised is in the store, as the next owner proves.
#[tokio::test]
async fn redis_may_go_and_come_back() {
    let mut field = Field::start(&NODES).await;
    let home = field.home_of("alice").await;
    let rest = others(NODES, home);
    let mut alice = asleep(&field, rest[0]).await;
    let caller = field.caller("caller", rest[1]).await;
    field.redis.kill();
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives although Redis is away");
    answers(&mut alice, &mut call, &field, rest[1]).await;
    alice.sleep().await;
    let mut bob = field.phone("bob", Provider::Fcm, rest[0]).build();
    bob.connect().await.unwrap();
    let refused = bob.register(3600).await.unwrap();
    assert_eq!((refused.code(), refused.header("Retry-After").is_some()), (503, true));
    assert_eq!(field.node(home).get("/health/ready").await.unwrap().0, 503, "degraded");
    field.redis.restart().unwrap();
    field.settled().await;
    assert_eq!(field.home_of("alice").await, home);
    field.node(home).until_metric_falls("reveille_registrar_deferred", 0.0).await;
    // Another home may take a little longer to have its shards back.
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while bob.register(3600).await.unwrap().code() != 200 {
        assert!(tokio::time::Instant::now() < give_up, "new phones are refused although Redis is back");
    }
    field.kill(home);
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    answers(&mut alice, &mut call, &field, rest[0]).await;
}

/// The edge of either side dies during a call. Whoever lost its connection registers again elsewhere; then the other side hangs up,
/// and is heard.
#[tokio::test]
async fn a_call_outlives_the_edges_of_both_sides() {
    for callee_loses in [true, false] {
        let mut field = Field::start(&NODES).await;
        let home = field.home_of("alice").await;
        let rest = others(NODES, home);
        let mut alice = field.phone("alice", Provider::Apns, rest[0]).build();
        alice.connect().await.unwrap();
        assert_eq!(alice.register(3600).await.unwrap().code(), 200);
        let mut caller = field.caller("caller", rest[1]).await;
        let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
        let mut incoming = alice.expect_invite(SOON).await.unwrap();
        incoming.answer().unwrap();
        assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 200);
        incoming.expect_ack(SOON).await.unwrap();

        field.kill(rest[usize::from(!callee_loses)]);
        let loser = if callee_loses { &mut alice } else { &mut caller };
        loser.connect_to(field.node(home).addr("tls")).await.unwrap();
        // Its shard may be without an owner for the time of a lease.
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while loser.register(3600).await.unwrap().code() != 200 {
            assert!(tokio::time::Instant::now() < give_up, "no home took the shard over");
        }
        if callee_loses {
            assert_eq!(call.bye(SOON).await.unwrap().code(), 200);
            incoming.expect_bye(SOON).await.expect("the BYE finds the phone");
        } else {
            assert_eq!(incoming.bye(SOON).await.unwrap().code(), 200);
            call.expect_bye(SOON).await.expect("the BYE finds the caller");
        }
    }
}

/// P-064: a call waits at its phone's home, and the phone's REGISTER is refused at another node: the call ends then, and not when its
/// time is up.
#[tokio::test]
async fn p064_a_refused_register_ends_the_waiting_at_a_remote_home() {
    let field = Field::start(&NODES).await;
    let home = field.home_of("alice").await;
    let rest = others(NODES, home);
    let mut alice = asleep(&field, rest[0]).await;
    let caller = field.caller("caller", rest[1]).await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    // The same phone, with a reg-id that none may have (RFC 5626 §4.2.1).
    let builder = field.phone("alice", Provider::Apns, rest[0]);
    let mut broken = builder.instance(uuid::Uuid::new_v4()).reg_id(0).build();
    broken.set_push(alice.push().cloned());
    broken.connect().await.unwrap();
    assert_eq!(broken.register(3600).await.unwrap().code(), 400);
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 480);
    let (_, metrics) = field.node(home).get("/metrics").await.unwrap();
    let rejected = |line: &str| line.starts_with("reveille_wakeup_duration_seconds_count{outcome=\"rejected\"}");
    assert!(metrics.lines().any(|line| rejected(line) && line.ends_with(" 1")), "not at the end of its time");
}
