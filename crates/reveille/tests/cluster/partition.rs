//! A node that is cut off from Redis while the others are not.

use std::time::Duration;

use reveille::lab::DOMAIN;
use reveille_testkit::pns::Provider;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{PATIENCE, field::Field};

/// A way to Redis that can be cut: connections end, and new ones are closed at once.
struct Way {
    port: u16,
    state: watch::Sender<bool>,
}

impl Way {
    async fn to(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, watched) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_cut = watched.clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", redis)).await else { return };
                    tokio::select! {
                        biased;
                        _ = is_cut.wait_for(|cut| *cut) => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { port, state }
    }

    /// Returns when nothing passes any more: each connection has its task, and each task a watcher.
    async fn cut(&self) {
        self.state.send_replace(true);
        while self.state.receiver_count() > 1 {
            tokio::task::yield_now().await;
        }
    }

    fn mend(&self) {
        self.state.send_replace(false);
    }
}

/// The CSeq of alice's newest registration, as a node knows it.
async fn newest(field: &Field, node: &str) -> Option<u64> {
    let (code, body) = field.node(node).get(&format!("/api/v1/bindings?aor=sip:alice@{DOMAIN}")).await.unwrap();
    let shown: Value = serde_json::from_str(&body).ok().filter(|_| code == 200)?;
    shown["bindings"][0]["cseq"].as_u64()
}

/// A refresh that the cut-off owner has answered is not lost when another node takes its shards: the present owner gets it when the
/// way is mended.
#[tokio::test]
async fn what_a_node_promised_while_it_was_cut_off_is_kept() {
    let mut field = Field::start(&["n1"]).await;
    let way = Way::to(field.redis.port()).await;
    field.kill("n1");
    field.add_over("n1", way.port).await;
    field.settled().await;
    let mut alice = field.phone("alice", Provider::Apns, "n1").build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    let before = newest(&field, "n1").await.unwrap();

    way.cut().await;
    assert_eq!(alice.register(3600).await.unwrap().code(), 200, "promised");
    let promised = newest(&field, "n1").await.unwrap();
    assert!(promised > before);
    // The other finds n1 gone when its lease is over, and owns everything.
    field.add("n2", r#"["edge", "home"]"#).await;
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while field.status("n2").await["in_memory"] != field_shards() {
        assert!(tokio::time::Instant::now() < give_up, "n2 does not take over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(newest(&field, "n2").await, Some(before), "it cannot know");

    way.mend();
    while newest(&field, "n2").await != Some(promised) {
        assert!(tokio::time::Instant::now() < give_up + PATIENCE, "what was promised is lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    field.settled().await;
    assert_eq!(newest(&field, "n2").await, Some(promised));
}

fn field_shards() -> Value {
    super::field::SHARDS.into()
}
