//! Nonces among several nodes (S-145, S-147), over a real Redis.

use std::net::SocketAddr;

use reveille::lab::{DOMAIN, PASSWORD};
use reveille_proxy::auth::{Algorithm, ha1};
use sha2::{Digest as _, Sha256};
use tokio::net::UdpSocket;

use crate::{SOON, field::Field};

/// A device that says what it is told to, over UDP.
struct Device {
    socket: UdpSocket,
    requests: u32,
}

/// What a node answered.
struct Answer(String);

impl Answer {
    fn status(&self) -> u16 {
        self.0.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn nonce(&self) -> &str {
        self.0.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap()
    }

    /// 401 with another nonce and no need for a password.
    fn is_stale(&self) -> bool {
        self.status() == 401 && self.0.contains("stale=true")
    }
}

impl Device {
    async fn new() -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(), requests: 0 }
    }

    /// Asks for alice's bindings.
    async fn register(&mut self, node: SocketAddr, credentials: &str) -> Answer {
        self.requests += 1;
        let (own, number) = (self.socket.local_addr().unwrap(), self.requests);
        let request = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{}x{number}\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@{DOMAIN}>;tag=1\r\nTo: <sip:alice@{DOMAIN}>\r\nCall-ID: {number}@{own}\r\nCSeq: 1 REGISTER\r\n\
             {credentials}Content-Length: 0\r\n\r\n",
            own.port()
        );
        let mut space = [0; 4096];
        loop {
            self.socket.send_to(request.as_bytes(), node).await.unwrap();
            let received = tokio::time::timeout(SOON, self.socket.recv(&mut space)).await.expect("an answer").unwrap();
            let answer = String::from_utf8(space[..received].to_vec()).unwrap();
            if answer.contains(&format!("Call-ID: {number}@{own}")) && !answer.starts_with("SIP/2.0 1") {
                return Answer(answer);
            }
        }
    }
}

/// The line that answers a challenge.
fn credentials(nonce: &str, nc: u32) -> String {
    let hash = |text: String| hex::encode(Sha256::digest(text));
    let (first, uri) = (ha1("alice", DOMAIN, PASSWORD, Algorithm::Sha256), format!("sip:{DOMAIN}"));
    let second = hash(format!("REGISTER:{uri}"));
    let response = hash(format!("{first}:{nonce}:{nc:08x}:c:auth:{second}"));
    format!(
        "Authorization: Digest username=\"alice\", realm=\"{DOMAIN}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm=SHA-256, \
         qop=auth, nc={nc:08x}, cnonce=\"c\", response=\"{response}\"\r\n"
    )
}

/// Whoever hears what a phone says to one node gains nothing by it at any, that node's next life included.
#[tokio::test]
async fn a_captured_answer_is_good_at_no_node_s145_s147() {
    let mut field = Field::start(&["n1", "n2", "n3"]).await;
    let nodes: Vec<_> = ["n1", "n2", "n3"].iter().map(|name| field.node(name).addr("udp")).collect();
    let mut device = Device::new().await;

    // S-145: challenged at one node, answered at another; and it goes on with that nonce there.
    let challenge = device.register(nodes[0], "").await;
    let captured = credentials(challenge.nonce(), 1);
    assert_eq!(device.register(nodes[1], &captured).await.status(), 200);
    assert_eq!(device.register(nodes[1], &credentials(challenge.nonce(), 2)).await.status(), 200);
    for node in &nodes {
        for _ in 0..2 {
            assert!(device.register(*node, &captured).await.is_stale(), "S-147: {node}");
        }
    }
    // Who moves on gets a new nonce with the answer, and is in with that: no password is asked for.
    let moved = device.register(nodes[2], &credentials(challenge.nonce(), 3)).await;
    assert!(moved.is_stale());
    assert_eq!(device.register(nodes[2], &credentials(moved.nonce(), 1)).await.status(), 200);

    // Redis away: a node takes what it asked for itself, once, and no other does.
    let (ours, others) = (device.register(nodes[0], "").await, device.register(nodes[1], "").await);
    field.redis.kill();
    let (ours, others) = (credentials(ours.nonce(), 1), credentials(others.nonce(), 1));
    assert_eq!(device.register(nodes[0], &ours).await.status(), 200);
    assert!(device.register(nodes[0], &ours).await.is_stale());
    assert!(device.register(nodes[0], &others).await.is_stale());
    field.redis.restart().unwrap();
}

/// A node forgets its counts when it ends; what it had taken is refused all the same when it is back.
#[tokio::test]
async fn a_node_that_starts_again_takes_no_answer_twice_s147() {
    let mut field = Field::start(&["n1", "n2"]).await;
    let mut device = Device::new().await;
    let challenge = device.register(field.node("n1").addr("udp"), "").await;
    let captured = credentials(challenge.nonce(), 1);
    assert_eq!(device.register(field.node("n1").addr("udp"), &captured).await.status(), 200);
    field.kill("n1");
    field.add("n1", r#"["edge", "home"]"#).await;
    field.settled().await;
    assert!(device.register(field.node("n1").addr("udp"), &captured).await.is_stale());
}
