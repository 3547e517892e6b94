//! The lab's faults by order of its control port, seen by a sender that is not the product's.

#![allow(clippy::unwrap_used, reason = "a test may stop where something is not as it should be")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reveille_testkit::pns::{DeviceKind, LabConfig, LabControl, LabPns, Provider};
use serde_json::{Value, json};
use support::sender::Sender;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn ask(control: SocketAddr, request: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(control).await.unwrap();
    let head =
        format!("{request} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

async fn lab() -> (Arc<LabPns>, LabControl) {
    let lab = Arc::new(LabPns::start(LabConfig::default()).await.unwrap());
    let control = LabControl::start(Arc::clone(&lab), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    (lab, control)
}

#[tokio::test]
async fn a_device_is_made_up_pushed_to_and_heard_from() {
    let (lab, control) = lab().await;
    let (_, device) = ask(control.addr(), "POST /devices", r#"{"kind":"apns-voip"}"#).await;
    let prid = device["pn-prid"].as_str().unwrap();
    let mut sender = Sender::connect(&lab, "localhost").await;
    assert_eq!(sender.apns_voip(prid, &[]).await.status, 200);
    let path = format!("GET /devices/{}/wakes", device["id"]);
    let (status, wakes) = ask(control.addr(), &path, "").await;
    assert_eq!((status, wakes.as_array().unwrap().len()), (200, 1));
    assert_eq!(wakes[0]["urgent"], true);
    assert_eq!(ask(control.addr(), &path, "").await.1, json!([]), "told once");

    let (_, counts) = ask(control.addr(), "GET /counts", "").await;
    assert_eq!(counts["providers"]["apns"]["accepted"], 1);
    let (_, requests) = ask(control.addr(), "GET /requests", "").await;
    assert_eq!(requests[0]["status"], 200);
    assert!(!requests.to_string().contains(prid), "tokens are not shown");
}

#[tokio::test]
async fn every_verdict_has_its_answer() {
    let (lab, control) = lab().await;
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "localhost").await;
    for (order, status, reason) in [
        (json!({ "verdict": "gone", "since": 1_700_000_000 }), 410, "Unregistered"),
        (json!({ "verdict": "not-found" }), 410, "Unregistered"),
        (json!({ "verdict": "refuse" }), 400, "TopicDisallowed"),
        (json!({ "verdict": "throttle", "retry_after": 3 }), 429, "TooManyRequests"),
        (json!({ "verdict": "unavailable" }), 503, "ServiceUnavailable"),
        (json!({ "verdict": "credential-fault" }), 403, "InvalidProviderToken"),
        (json!({ "verdict": "expired-credential" }), 403, "ExpiredProviderToken"),
        (json!({ "verdict": "blackhole" }), 200, ""),
        (json!({ "verdict": "delay", "ms": 1 }), 200, ""),
        (json!({ "verdict": "slow", "ms": 1 }), 200, ""),
        (json!({ "verdict": "accept" }), 200, ""),
    ] {
        let mut order = order;
        order["pn-prid"] = json!(device.prid);
        assert_eq!(ask(control.addr(), "POST /verdict", &order.to_string()).await.0, 200, "{order}");
        let answer = sender.apns_voip(&device.prid, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{order}");
        if !reason.is_empty() {
            assert_eq!(answer.reason(), reason);
        }
    }
    let html = r#"{"provider":"apns","verdict":"html","status":502,"times":1}"#;
    assert_eq!(ask(control.addr(), "POST /next", html).await.0, 200);
    let answer = sender.apns_voip(&device.prid, &[]).await;
    assert_eq!((answer.status.as_u16(), answer.headers["content-type"].to_str().unwrap()), (502, "text/html"));
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200, "once");
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let (_lab, control) = lab().await;
    for (request, body) in [
        ("POST /devices", r#"{"kind":"pager"}"#),
        ("POST /verdict", r#"{"pn-prid":"nobody","verdict":"accept"}"#),
        ("POST /next", r#"{"provider":"apns","verdict":"maybe"}"#),
        ("POST /next", r#"{"provider":"adm","verdict":"accept"}"#),
        ("POST /faults", "{}"),
        ("POST /faults", r#"{"listener":"asleep"}"#),
        ("POST /faults", r#"{"fire":true}"#),
        ("POST /faults", "not JSON"),
    ] {
        let (status, answer) = ask(control.addr(), request, body).await;
        assert_eq!(status, 400, "{request} {body}");
        assert!(answer["error"].is_string());
    }
    assert_eq!(ask(control.addr(), "GET /nothing", "").await.0, 404);
    assert_eq!(ask(control.addr(), "GET /devices/7/wakes", "").await.0, 404);
}

#[tokio::test]
async fn connections_are_cut_refused_and_revoked_by_order() {
    let (lab, control) = lab().await;
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "localhost").await;
    let credential = format!("bearer {}", sender.apns_token());
    let with = [("authorization", credential.as_str())];
    assert_eq!(sender.apns_voip(&device.prid, &with).await.status, 200);
    assert_eq!(ask(control.addr(), "POST /faults", r#"{"revoke":"apns"}"#).await.0, 200);
    assert_eq!(sender.apns_voip(&device.prid, &with).await.reason(), "ExpiredProviderToken");
    assert_eq!(lab.counts(Provider::Apns).expired, 1);
    for listener in ["refused", "closed", "no-tls", "unknown-root", "wrong-name"] {
        let order = json!({ "listener": listener, "cut": true }).to_string();
        assert_eq!(ask(control.addr(), "POST /faults", &order).await.0, 200);
        let refused = TcpStream::connect(lab.addr()).await.is_err();
        assert_eq!(refused, listener == "refused", "{listener}");
    }
    assert_eq!(ask(control.addr(), "POST /faults", r#"{"listener":"sound"}"#).await.0, 200);
    let goaway = r#"{"goaway":{"requests":1,"connections":1}}"#;
    assert_eq!(ask(control.addr(), "POST /faults", goaway).await.0, 200);
    let mut sender = Sender::connect(&lab, "localhost").await;
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200);
    let second = tokio::time::timeout(Duration::from_secs(5), sender.try_apns_voip(&device.prid)).await.unwrap();
    assert!(second.is_err(), "the second request was never processed");
    assert_eq!(lab.accepted(&device.prid), 2);
}
