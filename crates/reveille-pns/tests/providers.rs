//! Each provider against a push service that checks what it gets.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use reveille_pns::{ApnsSettings, Settings};
use reveille_push::{Outcome, Provider, PushClass, PushServices, PushTarget, Ticket, Unsupported};
use support::{Files, Server, answer, apns, apns_target, fcm, fcm_target, limits, node, webpush, webpush_target};

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[tokio::test]
async fn apns_takes_a_call_and_says_when_a_token_is_gone_p142_p154() {
    let files = Files::new();
    let server = Server::start(&files, |seen| {
        if seen.path.ends_with("dead0000") {
            answer(410, r#"{"reason":"Unregistered","timestamp":1700000000000}"#)
        } else {
            answer(200, "")
        }
    })
    .await;
    let node = node(Settings { apns: vec![apns(&files, &server)], limits: limits(), ..Settings::default() }).await;

    assert_eq!(node.services.check(&apns_target(TOKEN)), Ok(()));
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Call).await, Outcome::Accepted);
    let since = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(node.push(&apns_target("dead0000"), PushClass::Call).await, Outcome::Unregistered { since });

    let seen = server.seen();
    assert_eq!(seen[0].path, format!("/3/device/{TOKEN}"));
    assert_eq!(seen[0].header("apns-topic"), "org.example.phone.voip");
    assert_eq!(seen[0].header("apns-push-type"), "voip");
    assert!(seen.iter().all(|seen| seen.header("authorization").starts_with("bearer ey")), "P-122");
    assert_eq!(server.connections(), 1, "P-149");
    assert!(node.metric(r#"reveille_push_requests_total{outcome="accepted",pns="apns",reason="ok"} 1"#));
    assert!(node.metric(r#"reveille_push_requests_total{outcome="unregistered",pns="apns",reason="unregistered"} 1"#));
    assert!(node.metric(r#"reveille_push_request_duration_seconds_count{pns="apns"} 2"#));
}

#[tokio::test]
async fn only_listed_apps_are_served_and_voip_tokens_wake_for_calls_only_p118_p151() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let settings =
        Settings { apns: vec![apns(&files, &server)], webpush: Some(webpush(&files, &server)), ..Settings::default() };
    let node = node(settings).await;
    let other = |param| PushTarget::new(Provider::Apns, Some(param), TOKEN).unwrap();
    assert_eq!(node.services.check(&other("9TEAM42XYZ.org.example.other.voip")), Err(Unsupported::App));
    assert_eq!(node.services.check(&other("8TEAM42XYZ.org.example.phone.voip")), Err(Unsupported::App));
    let sandbox = PushTarget::new(Provider::ApnsSandbox, Some("9TEAM42XYZ.org.example.phone"), TOKEN).unwrap();
    assert_eq!(node.services.check(&sandbox), Err(Unsupported::Provider));
    assert_eq!(node.services.check(&fcm_target("dQw4:APA91bF_x-0123")), Err(Unsupported::Provider));
    assert!(node.services.can_wake(&apns_target(TOKEN), PushClass::Call));
    assert!(!node.services.can_wake(&apns_target(TOKEN), PushClass::Refresh));
    assert_eq!(node.push(&apns_target(TOKEN), PushClass::Refresh).await, Outcome::Refused);
    assert_eq!(node.push(&other("9TEAM42XYZ.org.example.other.voip"), PushClass::Call).await, Outcome::Refused);
    assert!(server.seen().is_empty());

    let announced = node.services.announced();
    assert_eq!(announced.iter().map(|it| it.provider).collect::<Vec<_>>(), [Provider::Apns, Provider::WebPush]);
    assert_eq!(announced[1].vapid.as_ref().map(String::len), Some(87), "P-025, P-026");
}

/// Answers the token endpoint with `t1`, `t2`, …
fn token(minted: &AtomicUsize) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
    answer(200, &format!(r#"{{"access_token":"t{number}","expires_in":3600,"token_type":"Bearer"}}"#))
}

#[tokio::test]
async fn fcm_exchanges_its_assertion_once_and_sends_p158_p159() {
    let files = Files::new();
    let minted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&minted);
    let server =
        Server::start(&files, move |seen| if seen.path == "/token" { token(&count) } else { answer(200, "{}") }).await;
    let node = node(Settings { fcm: vec![fcm(&files, &server)], ..Settings::default() }).await;

    assert_eq!(node.services.check(&fcm_target("dQw4:APA91bF_x-0123")), Ok(()));
    let by_number = PushTarget::new(Provider::Fcm, Some("123456789012"), "dQw4:APA91bF_x-9999").unwrap();
    assert_eq!(node.services.check(&by_number), Ok(()), "P-017");
    let (one, two) = (fcm_target("dQw4:APA91bF_x-0123"), by_number);
    let (first, second) = tokio::join!(node.push(&one, PushClass::Call), node.push(&two, PushClass::Refresh));
    assert_eq!((first, second), (Outcome::Accepted, Outcome::Accepted));

    let seen = server.seen();
    let (exchanges, pushes): (Vec<_>, Vec<_>) = seen.iter().partition(|seen| seen.path == "/token");
    assert_eq!((exchanges.len(), pushes.len()), (1, 2), "single flight");
    let form = String::from_utf8(exchanges[0].body.to_vec()).unwrap();
    let assertion =
        form.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=").unwrap();
    let header = jsonwebtoken::decode_header(assertion).unwrap();
    assert_eq!((header.alg, header.kid.as_deref()), (jsonwebtoken::Algorithm::RS256, Some("k1")));
    for push in pushes {
        assert_eq!(push.path, "/v1/projects/acme-phone-prod/messages:send", "the project is ours, not the wire's");
        assert_eq!(push.header("authorization"), "Bearer t1");
    }
}

#[tokio::test]
async fn fcm_renews_a_refused_token_once_p164() {
    let files = Files::new();
    let minted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&minted);
    let server = Server::start(&files, move |seen| match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", _) => token(&count),
        (_, "Bearer t1") => answer(401, r#"{"error":{"status":"UNAUTHENTICATED"}}"#),
        _ => answer(200, "{}"),
    })
    .await;
    let node = node(Settings { fcm: vec![fcm(&files, &server)], ..Settings::default() }).await;
    assert_eq!(node.push(&fcm_target("dQw4:APA91bF_x-0123"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(minted.load(Ordering::SeqCst), 2);
    assert_eq!(server.seen().iter().filter(|seen| seen.path != "/token").count(), 2);
}

#[tokio::test]
async fn fcm_without_a_token_sends_nothing_and_is_not_announced_p122() {
    let files = Files::new();
    let server = Server::start(&files, |seen| match seen.path.as_str() {
        "/token" => answer(400, r#"{"error":"invalid_grant"}"#),
        _ => answer(200, "{}"),
    })
    .await;
    let node = node(Settings { fcm: vec![fcm(&files, &server)], limits: limits(), ..Settings::default() }).await;
    let target = fcm_target("dQw4:APA91bF_x-0123");
    assert_eq!(node.services.check(&target), Err(Unsupported::Credential));
    assert_eq!(node.services.announce(Provider::Fcm), None);
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::CredentialFault);
    assert!(server.seen().iter().all(|seen| seen.path == "/token"));
}

#[tokio::test]
async fn web_push_sends_an_empty_signed_message_p127_p130_p131() {
    let files = Files::new();
    let server = Server::start(&files, |seen| match seen.path.as_str() {
        "/p/live?v=2" => answer(201, ""),
        "/p/gone" => answer(410, ""),
        _ => {
            let mut response = answer(307, "");
            response.headers_mut().insert("location", "https://push.example.net/p/live?v=2".parse().unwrap());
            response
        }
    })
    .await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/live?v=2"), PushClass::Call).await, Outcome::Accepted);
    let gone = node.push(&webpush_target(&server, "/p/gone"), PushClass::Call).await;
    assert_eq!(gone, Outcome::Unregistered { since: None });
    let moved = node.push(&webpush_target(&server, "/p/moved"), PushClass::Call).await;
    assert_eq!(moved, Outcome::Refused, "P-140: redirects are not followed");

    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    let public = node.services.announce(Provider::WebPush).unwrap().vapid.unwrap();
    for seen in &seen {
        assert!(seen.body.is_empty());
        assert_eq!(seen.header("urgency"), "high");
        assert!(seen.header("ttl").parse::<u64>().unwrap() <= 30);
        assert!(seen.header("authorization").ends_with(&format!(", k={public}")));
    }
    let token = seen[0].header("authorization").split(['=', ',']).nth(1).unwrap().to_owned();
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["aud"], format!("https://push.example.net:{}", server.port));
}

#[tokio::test]
async fn a_new_vapid_key_is_taken_into_use_by_reload_p125() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(201, "")).await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    let target = webpush_target(&server, "/p/1");
    let old = node.services.announce(Provider::WebPush).unwrap().vapid.unwrap();
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Accepted);

    std::fs::write(files.path("key.p8"), "not a key").unwrap();
    let errors = node.services.reload().unwrap_err();
    assert_eq!(errors[0].key, "push.webpush.vapid_key_file");
    assert_eq!(node.services.announce(Provider::WebPush).unwrap().vapid.as_ref(), Some(&old), "the old key stays");

    files.new_key("key.p8");
    node.services.reload().unwrap();
    let new = node.services.announce(Provider::WebPush).unwrap().vapid.unwrap();
    assert_ne!(old, new);
    let newer = webpush_target(&server, "/p/2");
    assert_eq!(node.push(&newer, PushClass::Call).await, Outcome::Accepted);
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Accepted);
    let seen = server.seen();
    assert!(seen[0].header("authorization").ends_with(&old) && seen[1].header("authorization").ends_with(&new));
    assert!(seen[2].header("authorization").ends_with(&old), "P-132: what was taken under the old key stays with it");
    assert_eq!(server.connections(), 3, "P-141: a connection belongs to one key, and to the roots it was made under");
}

#[tokio::test]
async fn a_withdrawn_push_never_leaves_p047() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let node = node(Settings { apns: vec![apns(&files, &server)], ..Settings::default() }).await;
    let ticket = Ticket::new();
    ticket.withdraw();
    let verdict = node.submit(&apns_target(TOKEN), PushClass::Call, Duration::from_secs(8), ticket).await.unwrap();
    assert_eq!(verdict, Outcome::Withdrawn);
    let late = node.submit(&apns_target(TOKEN), PushClass::Call, Duration::ZERO, Ticket::new()).await.unwrap();
    assert_eq!(late, Outcome::Expired, "P-172");
    assert!(server.seen().is_empty());
}

/// P-098: where the operator says so, a phone that has a voip token alone is woken to refresh over it; nothing else changes.
#[tokio::test]
async fn a_voip_token_wakes_for_a_refresh_where_that_is_allowed_p098() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(200, "")).await;
    let settings = ApnsSettings { voip_refresh: true, ..apns(&files, &server) };
    let node = node(Settings { apns: vec![settings], ..Settings::default() }).await;
    assert!(node.services.can_wake(&apns_target(TOKEN), PushClass::Refresh));
    assert!(!node.services.can_wake(&apns_target(TOKEN), PushClass::Request));
    assert_eq!(node.refresh(&apns_target(TOKEN), Duration::from_secs(400), 0).await, Outcome::Accepted);
    let seen = server.seen();
    let header = |name: &str| seen[0].header(name).to_owned();
    assert_eq!((header("apns-topic"), header("apns-push-type")), ("org.example.phone.voip".into(), "voip".into()));
    assert_eq!((header("apns-priority"), header("apns-expiration")), ("10".into(), "0".into()));
}

/// P-128, P-129: a refresh push is kept for the rest of the binding, whatever our own patience; the second is more urgent.
#[tokio::test]
async fn a_refresh_push_lasts_as_long_as_its_binding_p128_p129() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(201, "")).await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    for (repeat, rest) in [(0, 400), (1, 200)] {
        let target = webpush_target(&server, "/p/asleep");
        assert_eq!(node.refresh(&target, Duration::from_secs(rest), repeat).await, Outcome::Accepted);
    }
    let seen = server.seen();
    let ttl = |at: usize| seen[at].header("ttl").parse::<u64>().unwrap();
    assert!((392..=400).contains(&ttl(0)) && (192..=200).contains(&ttl(1)), "{} {}", ttl(0), ttl(1));
    assert_eq!((seen[0].header("urgency"), seen[1].header("urgency")), ("low", "normal"));
    assert_eq!(seen[0].header("topic"), seen[1].header("topic"), "the second takes the first one's place");
}
