//! The SIPp scenarios of the workspace, run against each other and against a minimal registrar. Skipped without SIPp.

#![allow(clippy::unwrap_used, reason = "a test may stop where something is not as it should be")]

use std::path::PathBuf;

use reveille_testkit::port::free_port;
use reveille_testkit::sipp::{Sipp, credentials, is_installed, write_csv};
use reveille_testkit::ua::SipMessage;
use tokio::net::UdpSocket;

fn scenario(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../reveille/tests/sipp").join(name)
}

#[tokio::test]
async fn calls_between_two_sipps_succeed() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.csv");
    write_csv(
        &users,
        (0..10)
            .map(|n| [format!("a{n}"), credentials(&format!("a{n}"), "pw"), "example.com".to_owned(), format!("b{n}")]),
    )
    .unwrap();
    let port = free_port().unwrap();
    let uas = Sipp::new(scenario("uas.xml")).local_port(port).calls(10).spawn().unwrap();
    let uac = Sipp::new(scenario("uac.xml")).remote(([127, 0, 0, 1], port).into()).input(&users).calls(10).rate(50);
    let called = uac.run().await.unwrap();
    assert!(called.is_success(), "{called:?}");
    assert_eq!(called.successful, 10);
    assert!(uas.finish().await.unwrap().is_success());
}

#[tokio::test]
async fn registrations_succeed_with_and_without_a_challenge() {
    if !is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.csv");
    let row = |n| {
        [format!("u{n}"), credentials(&format!("u{n}"), "pw"), "example.com".to_owned(), "127.0.0.1:5999".to_owned()]
    };
    write_csv(&users, (0..20).map(row)).unwrap();
    for challenge in [false, true] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let registrar = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let (request, _) = SipMessage::parse(&buffer[..length], false).unwrap();
                let answer = match request.header("Authorization") {
                    None if challenge => SipMessage::response(&request, 401, "Unauthorized", Some("r"))
                        .with("WWW-Authenticate", r#"Digest realm="r", nonce="n", algorithm=MD5, qop="auth""#),
                    Some(credentials) if !credentials.contains("algorithm=MD5") => {
                        SipMessage::response(&request, 403, "Forbidden", Some("r"))
                    }
                    _ => SipMessage::response(&request, 200, "OK", Some("r")),
                };
                socket.send_to(&answer.to_bytes(), peer).await.unwrap();
            }
        });
        let run =
            Sipp::new(scenario("register.xml")).remote(addr).input(&users).calls(20).rate(100).run().await.unwrap();
        registrar.abort();
        assert!(run.is_success(), "challenge {challenge}: {run:?}");
    }
}
