//! What happens when the push service, the connection or the credential fails.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reveille_pns::{BoxFuture, Settings, check};
use reveille_push::{Outcome, Provider, PushClass, PushServices, Ticket, Unsupported};
use support::{Files, Node, Server, answer, apns, apns_target, limits, node, webpush, webpush_target};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

async fn apns_node(files: &Files, server: &Server) -> Node {
    node(Settings { apns: vec![apns(files, server)], limits: limits(), ..Settings::default() }).await
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, 0];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Speaks just enough HTTP/2 to answer the first HEADERS with `reply`, then closes once the client does.
async fn raw(mut tls: TlsStream<TcpStream>, reply: Vec<u8>, close: bool) {
    let mut preface = [0; 24];
    tls.read_exact(&mut preface).await.unwrap();
    tls.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        if tls.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        tls.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            tls.write_all(&reply).await.unwrap();
            tls.flush().await.unwrap();
            if close {
                return;
            }
        }
    }
}

/// GOAWAY with last stream 0: stream 1 was not processed.
fn goes_away(tls: TlsStream<TcpStream>) -> BoxFuture<'static, ()> {
    Box::pin(raw(tls, frame(GOAWAY, 0, &[0; 8]), false))
}

/// GOAWAY that names stream 1 as the last one processed, and then the end of the connection.
fn dies_after_processing(tls: TlsStream<TcpStream>) -> BoxFuture<'static, ()> {
    Box::pin(raw(tls, frame(GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), true))
}

fn refuses_the_stream(tls: TlsStream<TcpStream>) -> BoxFuture<'static, ()> {
    Box::pin(raw(tls, frame(RST_STREAM, 1, &[0, 0, 0, 7]), false))
}

#[tokio::test]
async fn an_unprocessed_stream_is_replayed_on_a_new_connection_p150() {
    let files = Files::new();
    let server =
        Server::with_first(&files, |_| answer(200, ""), |number| (number == 0).then_some(goes_away as _)).await;
    let node = apns_node(&files, &server).await;
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Call).await, Outcome::Accepted);
    assert_eq!((server.connections(), server.seen().len()), (2, 1));
    assert!(node.metric(r#"reveille_push_retries_total{pns="apns",reason="unprocessed"} 1"#));
}

#[tokio::test]
async fn a_call_is_replayed_once_at_most_p150() {
    let files = Files::new();
    let server = Server::with_first(&files, |_| answer(200, ""), |number| (number < 2).then_some(goes_away as _)).await;
    let node = apns_node(&files, &server).await;
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Call).await, Outcome::Unavailable);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_refused_stream_is_replayed_and_the_connection_kept_p150() {
    let files = Files::new();
    let server =
        Server::with_first(&files, |_| answer(200, ""), |number| (number == 0).then_some(refuses_the_stream as _))
            .await;
    let node = apns_node(&files, &server).await;
    // The replay goes to the same connection, which answers it with nothing it knows; the deadline ends that.
    let verdict = node.submit(&apns_target(TOKEN), PushClass::Call, Duration::from_secs(2), Ticket::new()).await;
    assert_eq!(verdict.unwrap(), Outcome::Unavailable);
    assert_eq!(server.connections(), 1);
    assert!(node.metric(r#"reveille_push_retries_total{pns="apns",reason="unprocessed"} 1"#));
}

#[tokio::test]
async fn a_call_that_may_have_been_processed_is_not_sent_again_p150_p151() {
    let files = Files::new();
    let script = |number| (number == 0).then_some(dies_after_processing as _);
    let server = Server::with_first(&files, |_| answer(200, ""), script).await;
    let node = apns_node(&files, &server).await;
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Call).await, Outcome::Unavailable);
    assert!(server.seen().is_empty());
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Call).await, Outcome::Accepted, "the next one finds a way");
}

#[tokio::test]
async fn a_web_push_that_was_interrupted_is_sent_again_p135() {
    let files = Files::new();
    let script = |number| (number == 0).then_some(dies_after_processing as _);
    let server = Server::with_first(&files, |_| answer(201, ""), script).await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/1"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!((server.connections(), server.seen().len()), (2, 1));
}

#[tokio::test]
async fn throttling_is_obeyed_within_the_deadline_and_never_past_it_p135() {
    let files = Files::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::start(&files, move |seen| {
        let wait = if seen.path == "/p/long" { "30" } else { "0" };
        if seen.path == "/p/short" && count.fetch_add(1, Ordering::SeqCst) > 0 {
            return answer(201, "");
        }
        let mut response = answer(429, "");
        response.headers_mut().insert("retry-after", wait.parse().unwrap());
        response
    })
    .await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/short"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let retry_after = Some(Duration::from_secs(30));
    assert_eq!(
        node.push(&webpush_target(&server, "/p/long"), PushClass::Call).await,
        Outcome::Throttled { retry_after }
    );
    assert_eq!(server.seen().iter().filter(|seen| seen.path == "/p/long").count(), 1);
}

#[tokio::test]
async fn refused_credentials_withdraw_the_announcement_until_new_keys_come_p122() {
    let files = Files::new();
    let sound = Arc::new(AtomicBool::new(false));
    let is_sound = Arc::clone(&sound);
    let server = Server::start(&files, move |_| {
        if is_sound.load(Ordering::SeqCst) {
            answer(200, "")
        } else {
            answer(403, r#"{"reason":"InvalidProviderToken"}"#)
        }
    })
    .await;
    let node = apns_node(&files, &server).await;
    assert!(node.services.announce(Provider::Apns).is_some());
    for token in ["aaaaaaaa", "bbbbbbbb"] {
        assert_eq!(node.push(&apns_target(token), PushClass::Call).await, Outcome::CredentialFault);
    }
    assert_eq!(node.push(&apns_target("cccccccc"), PushClass::Call).await, Outcome::CredentialFault);
    assert_eq!(server.seen().len(), 2, "an open breaker sends nothing");
    assert_eq!(node.services.announce(Provider::Apns), None);
    assert_eq!(node.services.check(&apns_target(TOKEN)), Err(Unsupported::Credential));
    assert!(node.metric(r#"reveille_push_breaker_state{credential="main",pns="apns"} 2"#));

    sound.store(true, Ordering::SeqCst);
    node.services.reload().unwrap();
    assert_eq!(node.push(&apns_target("dddddddd"), PushClass::Call).await, Outcome::Accepted);
    assert!(node.services.announce(Provider::Apns).is_some());
    assert!(server.seen().iter().all(|seen| seen.header("authorization").starts_with("bearer ")));
}

#[tokio::test]
async fn a_web_push_refusal_is_signed_anew_once_p135() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(403, "")).await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/1"), PushClass::Call).await, Outcome::CredentialFault);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn an_unknown_root_or_a_peer_without_http2_gets_nothing_p113() {
    let (files, strangers) = (Files::new(), Files::new());
    let server = Server::start(&strangers, |_| answer(200, "")).await;
    let node = apns_node(&files, &server).await;
    let patience = Duration::from_millis(600);
    let verdict = node.submit(&apns_target(TOKEN), PushClass::Call, patience, Ticket::new()).await.unwrap();
    assert_eq!(verdict, Outcome::Unavailable);
    assert_eq!((server.connections(), server.seen().len()), (0, 0));

    let old = Files::with_alpn(b"http/1.1");
    let server = Server::start(&old, |_| answer(200, "")).await;
    let node = apns_node(&old, &server).await;
    let verdict = node.submit(&apns_target(TOKEN), PushClass::Call, patience, Ticket::new()).await.unwrap();
    assert_eq!(verdict, Outcome::Unavailable);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_burst_is_answered_whole_over_few_connections_p149() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let node = apns_node(&files, &server).await;
    let verdicts: Vec<_> = (0..1500_u32)
        .map(|number| {
            let class = [PushClass::Call, PushClass::Request, PushClass::Refresh][number as usize % 3];
            let param = "9TEAM42XYZ.org.example.phone";
            let target = reveille_push::PushTarget::new(Provider::Apns, Some(param), &format!("{number:08x}")).unwrap();
            node.submit(&target, class, Duration::from_secs(30), Ticket::new())
        })
        .collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    assert_eq!(server.seen().len(), 1500);
    assert!(server.connections() <= 4, "{}", server.connections());
}

#[tokio::test]
async fn a_drain_answers_everything_and_takes_nothing_more() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let node = apns_node(&files, &server).await;
    let verdicts: Vec<_> = (0..50_u32)
        .map(|number| {
            node.submit(&apns_target(&format!("{number:08x}")), PushClass::Call, Duration::from_secs(8), Ticket::new())
        })
        .collect();
    node.services.drain(Duration::from_secs(5)).await;
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
}

#[tokio::test]
async fn every_bad_setting_is_named() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let mut short_team = apns(&files, &server);
    short_team.team_id = "TEAM".to_owned();
    let mut no_key = apns(&files, &server);
    no_key.name = "other".to_owned();
    no_key.key_file = files.path("missing.p8");
    let mut plain = webpush(&files, &server);
    plain.allow_hosts = vec!["https://push.example.net".to_owned()];
    let errors = check(Settings { apns: vec![short_team, no_key], webpush: Some(plain), ..Settings::default() });
    let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["push.apns.main.team_id", "push.apns.other.key_file", "push.webpush.allow_hosts"]);
    assert!(errors[1].to_string().starts_with("push.apns.other.key_file: "), "{}", errors[1]);
}
