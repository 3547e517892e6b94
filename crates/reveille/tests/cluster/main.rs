//! Several node processes over one real Redis: what a phone and a caller notice when nodes come, go and die.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod credentials;
mod dead;
mod drain;
mod field;
mod nonces;
mod partition;
#[path = "../process/mod.rs"]
mod process;
mod standby;
mod takeover;
mod tickets;
mod upgrade;

use std::time::Duration;

use field::Field;
use process::PATIENCE;
use reveille::lab::DOMAIN;
use reveille_testkit::pns::Provider;

const SOON: Duration = Duration::from_secs(15);

/// A phone registers at one node, is called at another, wakes up at a third: one push, one INVITE, and a whole call.
#[tokio::test]
async fn a_sleeping_phone_is_called_across_nodes() {
    let field = Field::start(&["n1", "n2", "n3"]).await;
    let mut alice = field.phone("alice", Provider::Apns, "n1").build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    alice.sleep().await;
    let caller = field.caller("caller", "n2").await;
    for wakes_at in ["n3", "n1", "n2"] {
        let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
        alice.wait_wake(SOON).await.expect("a push arrives");
        alice.connect_to(field.node(wakes_at).addr("tls")).await.unwrap();
        assert_eq!(alice.register(3600).await.unwrap().code(), 200);
        let mut incoming = alice.expect_invite(SOON).await.expect("the call reaches the phone it woke");
        incoming.ring().unwrap();
        incoming.answer().unwrap();
        assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 200, "{wakes_at}");
        incoming.expect_ack(SOON).await.unwrap();
        assert_eq!(call.bye(SOON).await.unwrap().code(), 200);
        incoming.expect_bye(SOON).await.unwrap();
        assert_eq!(alice.invites()[call.call_id()], 1, "one INVITE");
        alice.sleep().await;
    }
}

/// A node without bindings of its own in front of nodes without phones.
#[tokio::test]
async fn edges_and_homes_may_be_apart() {
    let nodes =
        [("home1", r#"["home"]"#), ("home2", r#"["home"]"#), ("edge1", r#"["edge"]"#), ("edge2", r#"["edge"]"#)];
    let field = Field::with_roles(&nodes).await;
    let status = field.status("edge1").await;
    for node in status["nodes"].as_array().unwrap() {
        let owns = node["shards"].as_u64().unwrap() > 0;
        assert_eq!(owns, node["roles"][0] == "home", "{node}");
    }
    let mut bob = field.phone("bob", Provider::Fcm, "edge1").build();
    bob.connect().await.unwrap();
    assert_eq!(bob.register(3600).await.unwrap().code(), 200);
    let caller = field.caller("caller", "edge2").await;
    let mut call = caller.invite(&format!("sip:bob@{DOMAIN}")).unwrap();
    // It has registered just now: nobody need wake it.
    let mut incoming = bob.expect_invite(SOON).await.unwrap();
    incoming.answer().unwrap();
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 200);
    incoming.expect_ack(SOON).await.unwrap();
    assert_eq!(incoming.bye(SOON).await.unwrap().code(), 200);
    call.expect_bye(SOON).await.unwrap();
}

/// Whichever node is asked, an operator sees the same bindings.
#[tokio::test]
async fn bindings_are_shown_by_every_node() {
    let field = Field::start(&["n1", "n2"]).await;
    let mut alice = field.phone("alice", Provider::WebPush, "n1").build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    for name in ["n1", "n2"] {
        let (code, body) = field.node(name).get(&format!("/api/v1/bindings?aor=sip:alice@{DOMAIN}")).await.unwrap();
        assert_eq!(code, 200);
        let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(shown["bindings"].as_array().unwrap().len(), 1, "{name}: {body}");
        assert_eq!(shown["bindings"][0]["push"], "webpush", "{name}");
    }
}

/// `reveille cluster status` and `reveille drain`, asked of a node about another.
#[tokio::test]
async fn an_operator_looks_and_drains() {
    let mut field = Field::start(&["n1", "n2", "n3"]).await;
    let shown = field.command("n1", &["cluster", "status"]);
    assert!(shown.contains(&format!("{0} of {0} shards", field::SHARDS)), "{shown}");
    assert!(["n1", "n2", "n3"].iter().all(|name| shown.contains(name)), "{shown}");
    let unknown = field.command("n1", &["drain", "nobody"]);
    assert!(unknown.contains("no such node"), "{unknown}");

    let leaving = field.nodes.remove("n2").unwrap();
    field.command("n1", &["drain", "n2"]);
    assert_eq!(leaving.ended().await.code(), Some(0));
    field.settled().await;
    // What was said to the last n2 is not said to the next.
    field.add("n2", r#"["edge", "home"]"#).await;
    field.settled().await;
    // A node can be asked itself.
    let leaving = field.nodes.remove("n3").unwrap();
    field.command_at(leaving.admin(), &["drain", "n3"]);
    assert_eq!(leaving.ended().await.code(), Some(0));
    field.settled().await;
}
