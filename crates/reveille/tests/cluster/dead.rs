//! A push token that died for one user, at the homes of others (P-156, P-171).

use std::time::Duration;

use reveille::lab::DOMAIN;
use reveille_testkit::pns::{Provider, Verdict};

use crate::{field::Field, process::PATIENCE};

/// Waits until a node says that it knows of a dead token.
async fn knows(field: &Field, node: &str) {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, metrics) = field.node(node).get("/metrics").await.unwrap();
        if metrics.lines().any(|line| line == "reveille_registrar_dead_marks 1") {
            return;
        }
        assert!(tokio::time::Instant::now() < give_up, "{node} was not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a node owns a user's bindings; in between nobody may.
async fn comes_home(field: &Field, user: &str, node: &str) {
    let path = format!("/api/v1/cluster/home?aor=sip:{user}@{DOMAIN}");
    let owned = format!("\"node\":\"{node}\"");
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while !field.node(node).get(&path).await.unwrap().1.contains(&owned) {
        assert!(tokio::time::Instant::now() < give_up, "{node} has not got its shard back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn p156_a_token_that_died_at_one_home_is_refused_at_another() {
    let mut field = Field::start(&["n1", "n2"]).await;
    let (one, two) = (field.users_at("n1", 1).await.remove(0), field.users_at("n2", 1).await.remove(0));
    let mut first = field.phone(&one, Provider::Fcm, "n1").build();
    first.connect().await.unwrap();
    assert_eq!(first.register(3600).await.unwrap().code(), 200);
    first.sleep().await;
    let token = first.push().cloned();
    let prid = token.as_ref().and_then(|push| push.prid.clone()).unwrap();
    field.lab.pns.set_verdict(&prid, Verdict::Gone { since: None });
    let caller = field.caller("caller", "n2").await;
    let mut call = caller.invite(&format!("sip:{one}@{DOMAIN}")).unwrap();
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 480);
    knows(&field, "n2").await;

    for restarted in [false, true] {
        if restarted {
            field.kill("n2");
            field.add("n2", r#"["edge", "home"]"#).await;
            field.settled().await;
            // What n1 took over it gives back when the roster has been quiet for a while.
            comes_home(&field, &two, "n2").await;
        }
        let mut second = field.phone(&two, Provider::Fcm, "n2").build();
        second.set_push(token.clone());
        second.connect().await.unwrap();
        assert_eq!(second.register(3600).await.unwrap().code(), 555, "restarted: {restarted}");
        // A token of its own is another matter.
        let mut other = field.phone(&two, Provider::Fcm, "n2").build();
        other.connect().await.unwrap();
        assert_eq!(other.register(3600).await.unwrap().code(), 200);
    }
}
