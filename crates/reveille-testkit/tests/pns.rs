//! The lab push service takes what is signed and formed correctly and refuses everything else, provider by provider.

#![allow(clippy::unwrap_used, reason = "a test may stop where something is not as it should be")]

mod support;

use std::time::{Duration, SystemTime};

use http::Method;
use jsonwebtoken::Algorithm;
use reveille_testkit::pns::{DeviceKind, LabConfig, LabPns, Provider, Service, Verdict};
use serde_json::json;
use support::sender::{Sender, jwt, stranger, tls, unix};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SOON: Duration = Duration::from_secs(5);

async fn lab() -> LabPns {
    LabPns::start(LabConfig::default()).await.unwrap()
}

#[tokio::test]
async fn apns_p142_p145_a_right_push_wakes_the_device() {
    let lab = lab().await;
    let mut device = lab.register_device(Provider::Apns);
    assert_eq!(device.param.as_deref(), Some("LABTEAM001.org.reveille.lab.voip&remote"));
    let voip = device.prid.split(":voip&").next().unwrap().to_owned();
    let mut sender = Sender::connect(&lab, "localhost").await;
    let id = "123e4567-e89b-42d3-a456-426614174000";
    let answer = sender.apns_voip(&voip, &[("apns-id", id)]).await;
    assert_eq!((answer.status.as_u16(), answer.headers["apns-id"].to_str().unwrap()), (200, id));
    let wake = tokio::time::timeout(SOON, device.wakes.recv()).await.unwrap().unwrap();
    assert_eq!((wake.service, wake.urgent, wake.ttl), (Service::Voip, true, Some(Duration::ZERO)));
    assert_eq!((lab.accepted(&device.prid), lab.unauthenticated(Provider::Apns)), (1, 0));
    assert_eq!(lab.requests().len(), 1);
    assert!(!lab.requests()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn apns_p143_p145_p146_wrong_pushes_are_refused_by_reason() {
    let lab = lab().await;
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "localhost").await;
    let key = std::fs::read_to_string(&sender.files.apns_key_p8).unwrap();
    let team = sender.files.apns_team_id.clone();
    let sign = |kid: &str, iss: &str, iat: i64, key: &str| {
        format!("bearer {}", jwt(Algorithm::ES256, Some(kid), &json!({ "iss": iss, "iat": iat }), key))
    };
    let kid = sender.files.apns_key_id.clone();
    let credentials = [
        (String::new(), 403, "MissingProviderToken"),
        ("bearer x.y".to_owned(), 403, "InvalidProviderToken"),
        (sign("OTHERKEY01", &team, unix(0), &key), 403, "InvalidProviderToken"),
        (sign(&kid, "OTHERTEAM1", unix(0), &key), 403, "InvalidProviderToken"),
        (sign(&kid, &team, unix(0), &stranger()), 403, "InvalidProviderToken"),
        (sign(&kid, &team, unix(600), &key), 403, "InvalidProviderToken"),
    ];
    let wrong = credentials.len() as u64;
    for (authorization, status, reason) in credentials {
        let answer = sender.apns_voip(&device.prid, &[("authorization", authorization.as_str())]).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (status, reason));
    }
    assert_eq!(lab.unauthenticated(Provider::Apns), wrong);
    let old = sign(&kid, &team, unix(-3700), &key);
    assert_eq!(sender.apns_voip(&device.prid, &[("authorization", &old)]).await.reason(), "ExpiredProviderToken");
    assert_eq!((lab.counts(Provider::Apns).expired, lab.unauthenticated(Provider::Apns)), (1, wrong));

    for (name, value, status, reason) in [
        ("apns-topic", "", 400, "MissingTopic"),
        ("apns-topic", "org.example.other.voip", 400, "TopicDisallowed"),
        ("apns-push-type", "", 400, "InvalidPushType"),
        ("apns-push-type", "alert", 400, "InvalidPushType"),
        ("apns-priority", "7", 400, "BadPriority"),
        ("apns-expiration", "soon", 400, "BadExpirationDate"),
        ("apns-id", "123E4567-E89B-42D3-A456-426614174000", 400, "BadMessageId"),
    ] {
        let answer = sender.apns_voip(&device.prid, &[(name, value)]).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (status, reason), "{name}: {value}");
    }
    let background = [("apns-topic", "org.reveille.lab"), ("apns-push-type", "background"), ("apns-priority", "10")];
    assert_eq!(sender.apns_voip(&device.prid, &background).await.reason(), "BadPriority");
    let remote = [("apns-topic", "org.reveille.lab"), ("apns-push-type", "background"), ("apns-priority", "5")];
    assert_eq!(
        sender.apns_voip(&device.prid, &remote).await.reason(),
        "InvalidPushType",
        "an empty aps is no background push"
    );
    assert_eq!(sender.apns_voip(&"ab".repeat(32), &[]).await.reason(), "BadDeviceToken");
    assert_eq!(sender.send(Method::GET, "/3/device/abababab", &[], "").await.reason(), "MethodNotAllowed");
    assert_eq!(lab.counts(Provider::Apns).accepted, 0);
    assert_eq!(lab.pushed(&device.prid), 0);
}

#[tokio::test]
async fn apns_a_token_belongs_to_its_topic() {
    let lab = lab().await;
    let device = lab.register_device(DeviceKind::ApnsRemote);
    let mut sender = Sender::connect(&lab, "localhost").await;
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.reason(), "DeviceTokenNotForTopic");
}

#[tokio::test]
async fn apns_p153_p154_verdicts() {
    let lab = lab().await;
    let mut device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "localhost").await;
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    for (verdict, status, reason) in [
        (Verdict::Gone { since: Some(since) }, 410, "Unregistered"),
        (Verdict::Refuse, 400, "TopicDisallowed"),
        (Verdict::Throttle { retry_after: Some(Duration::from_secs(7)) }, 429, "TooManyRequests"),
        (Verdict::Unavailable, 503, "ServiceUnavailable"),
        (Verdict::CredentialFault, 403, "InvalidProviderToken"),
        (Verdict::Blackhole, 200, ""),
    ] {
        assert!(lab.set_verdict(&device.prid, verdict.clone()));
        let answer = sender.apns_voip(&device.prid, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (status, reason));
        if status == 410 {
            assert_eq!(answer.json()["timestamp"], 1_700_000_000_123_u64);
        }
        if status == 429 {
            assert_eq!(answer.headers["retry-after"], "7");
        }
    }
    assert!(device.wakes.try_recv().is_err());
    assert_eq!((lab.accepted(&device.prid), lab.pushed(&device.prid)), (1, 6));
    assert_eq!(lab.unauthenticated(Provider::Apns), 0, "a verdict is not the sender's fault");
    lab.set_verdict(&device.prid, Verdict::Delay(Duration::from_millis(1)));
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200);
    assert!(tokio::time::timeout(SOON, device.wakes.recv()).await.unwrap().is_some());
}

#[tokio::test]
async fn revoked_credentials_count_as_expired() {
    let lab = lab().await;
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "localhost").await;
    let credential = format!("bearer {}", sender.apns_token());
    let with = [("authorization", credential.as_str())];
    assert_eq!(sender.apns_voip(&device.prid, &with).await.status, 200);
    lab.revoke_credentials(Provider::Apns);
    assert_eq!(sender.apns_voip(&device.prid, &with).await.reason(), "ExpiredProviderToken");
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200, "a new signature is a new credential");
    assert_eq!((lab.counts(Provider::Apns).expired, lab.unauthenticated_total()), (1, 0));
}

#[tokio::test]
async fn fcm_p159_the_token_endpoint_checks_the_assertion() {
    let lab = lab().await;
    let mut sender = Sender::connect(&lab, "localhost").await;
    let key = sender.account()["private_key"].as_str().unwrap().to_owned();
    let right = sender.assertion();
    let answer = sender.exchange(GRANT, &jwt(Algorithm::RS256, None, &right, &key)).await;
    assert_eq!((answer.status.as_u16(), answer.json()["token_type"].as_str()), (200, Some("Bearer")));
    assert!(answer.json()["expires_in"].as_u64().unwrap() <= 3600);

    let mut bad = Vec::new();
    for (claim, value) in [
        ("iss", json!("someone@else.example")),
        ("scope", json!("https://www.googleapis.com/auth/cloud-platform")),
        ("aud", json!("https://oauth2.example/token")),
        ("exp", json!(unix(3700))),
        ("exp", json!(unix(-1))),
        ("iat", json!(unix(600))),
    ] {
        let mut claims = right.clone();
        claims[claim] = value;
        bad.push(jwt(Algorithm::RS256, None, &claims, &key));
    }
    let ec = stranger();
    bad.push(jwt(Algorithm::ES256, None, &right, &ec));
    let signed = jwt(Algorithm::RS256, None, &right, &key);
    bad.push(format!("{}AAAA", &signed[..signed.len() - 4]));
    for assertion in &bad {
        let answer = sender.exchange(GRANT, assertion).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (400, "invalid_grant"));
    }
    assert_eq!(sender.exchange("password", &signed).await.reason(), "unsupported_grant_type");
    assert_eq!(lab.unauthenticated(Provider::Fcm), bad.len() as u64);
    assert_eq!(lab.counts(Provider::Fcm).tokens_issued, 1);
}

fn fcm_message(token: &str) -> serde_json::Value {
    json!({ "message": { "token": token, "data": { "k": "wake", "c": "1" },
        "android": { "priority": "HIGH", "ttl": "30s", "collapse_key": "sip-call" } } })
}

#[tokio::test]
async fn fcm_p158_to_p164_pushes() {
    let lab = lab().await;
    let mut device = lab.register_device(Provider::Fcm);
    let mut sender = Sender::connect(&lab, "localhost").await;
    let bearer = format!("Bearer {}", sender.access_token().await);
    let right = fcm_message(&device.prid);
    assert_eq!(sender.fcm(&bearer, &right).await.status, 200);
    let wake = tokio::time::timeout(SOON, device.wakes.recv()).await.unwrap().unwrap();
    assert_eq!((wake.urgent, wake.ttl), (true, Some(Duration::from_secs(30))));

    for authorization in ["", "Bearer made-up", "Basic eDp5"] {
        let answer = sender.fcm(authorization, &right).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (401, "UNAUTHENTICATED"));
    }
    assert_eq!(lab.unauthenticated(Provider::Fcm), 3);

    for (pointer, value) in [
        ("/message/token", json!("short")),
        ("/message/data/k", json!(1)),
        ("/message/data/google.x", json!("reserved")),
        ("/message/notification", json!({})),
        ("/message/android/priority", json!("URGENT")),
        ("/message/android/ttl", json!("30")),
        ("/message/android/ttl", json!("2419201s")),
    ] {
        let mut body = right.clone();
        let (parent, leaf) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[leaf] = value;
        let answer = sender.fcm(&bearer, &body).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (400, "INVALID_ARGUMENT"), "{pointer}");
    }
    let unknown = fcm_message("nobody-has-this-token");
    assert_eq!(sender.fcm(&bearer, &unknown).await.reason(), "UNREGISTERED");
    let headers = [("authorization", bearer.clone())];
    let other = sender.send(Method::POST, "/v1/projects/other/messages:send", &headers, right.to_string()).await;
    assert_eq!((other.status.as_u16(), other.reason().as_str()), (403, "SENDER_ID_MISMATCH"));

    for (verdict, status, reason) in [
        (Verdict::Gone { since: None }, 404, "UNREGISTERED"),
        (Verdict::Refuse, 400, "INVALID_ARGUMENT"),
        (Verdict::Throttle { retry_after: None }, 429, "QUOTA_EXCEEDED"),
        (Verdict::Unavailable, 503, "UNAVAILABLE"),
    ] {
        lab.set_verdict(&device.prid, verdict);
        let answer = sender.fcm(&bearer, &right).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (status, reason));
    }
    lab.revoke_credentials(Provider::Fcm);
    assert_eq!(sender.fcm(&bearer, &right).await.status, 401);
    assert_eq!((lab.counts(Provider::Fcm).expired, lab.unauthenticated(Provider::Fcm)), (1, 3));
}

#[tokio::test]
async fn webpush_p127_to_p135_pushes() {
    let lab = lab().await;
    let mut device = lab.register_device(Provider::WebPush);
    assert_eq!(device.param, None);
    let path = device.prid.strip_prefix(lab.endpoints().webpush.as_str()).unwrap().to_owned();
    let mut sender = Sender::connect(&lab, "push.localhost").await;
    let claims = sender.vapid_claims();
    let right = sender.vapid(&lab, &claims);
    let headers = |authorization: &str, ttl: &str, urgency: &str, topic: &str| {
        [
            ("authorization", authorization.to_owned()),
            ("ttl", ttl.to_owned()),
            ("urgency", urgency.to_owned()),
            ("topic", topic.to_owned()),
        ]
    };
    let answer = sender.send(Method::POST, &path, &headers(&right, "30", "high", "c4Jx0aQf9RkS"), "").await;
    assert_eq!(answer.status, 201);
    assert!(answer.headers.contains_key("location"));
    let wake = tokio::time::timeout(SOON, device.wakes.recv()).await.unwrap().unwrap();
    assert_eq!(
        (wake.urgent, wake.ttl, wake.headers["topic"].as_str()),
        (true, Some(Duration::from_secs(30)), "c4Jx0aQf9RkS")
    );

    let mut bad = vec![("Bearer x".to_owned(), 403), (String::new(), 401)];
    for (claim, value) in [
        ("aud", json!("https://push.example.net")),
        ("exp", json!(unix(25 * 3600))),
        ("sub", json!("ops")),
        ("sub", json!(null)),
    ] {
        let mut claims = claims.clone();
        claims[claim] = value;
        bad.push((sender.vapid(&lab, &claims), 403));
    }
    let forged = jwt(Algorithm::ES256, None, &claims, &stranger());
    bad.push((format!("vapid t={forged}, k={}", lab.vapid_public_key()), 403));
    for (authorization, status) in &bad {
        let answer = sender.send(Method::POST, &path, &headers(authorization, "30", "", ""), "").await;
        assert_eq!(answer.status.as_u16(), *status, "{}", answer.reason());
    }
    assert_eq!(lab.unauthenticated(Provider::WebPush), bad.len() as u64);

    for (ttl, urgency, topic, reason) in [
        ("", "high", "", "Ttl"),
        ("-1", "high", "", "Ttl"),
        ("30", "urgent", "", "Urgency"),
        ("30", "low", "not/base64url", "Topic"),
        ("30", "low", "a123456789012345678901234567890123", "Topic"),
    ] {
        let answer = sender.send(Method::POST, &path, &headers(&right, ttl, urgency, topic), "").await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (400, reason));
    }
    for (verdict, status) in [
        (Verdict::Gone { since: None }, 410),
        (Verdict::NotFound, 404),
        (Verdict::Unavailable, 503),
        (Verdict::Refuse, 400),
    ] {
        lab.set_verdict(&device.prid, verdict);
        assert_eq!(sender.send(Method::POST, &path, &headers(&right, "30", "", ""), "").await.status.as_u16(), status);
    }
    assert_eq!(sender.send(Method::POST, "/push/nobody", &headers(&right, "30", "", ""), "").await.status, 404);
}

#[tokio::test]
async fn webpush_is_answered_under_its_own_name_only() {
    let lab = lab().await;
    let device = lab.register_device(Provider::WebPush);
    let path = device.prid.strip_prefix(lab.endpoints().webpush.as_str()).unwrap().to_owned();
    let mut sender = Sender::connect(&lab, "localhost").await;
    let headers = [("authorization", sender.vapid(&lab, &sender.vapid_claims())), ("ttl", "0".to_owned())];
    assert_eq!(sender.send(Method::POST, &path, &headers, "").await.status, 421);
}

#[tokio::test]
async fn connections_need_h2_and_obey_the_test() {
    let lab = lab().await;
    assert!(tls(&lab, "localhost", &[b"http/1.1"]).await.is_err());
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let mut sender = Sender::connect(&lab, "127.0.0.1").await;
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200);
    assert_eq!(lab.connections(), 1);
    lab.set_reachable(false);
    assert!(tls(&lab, "localhost", &[b"h2"]).await.is_err());
    lab.set_reachable(true);
    let mut sender = Sender::connect(&lab, "localhost").await;
    assert_eq!(sender.apns_voip(&device.prid, &[]).await.status, 200);
}

#[tokio::test]
async fn p125_credentials_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = lab().await;
    let dir = tempfile::tempdir().unwrap();
    let files = lab.write_credentials(&dir.path().join("made/here")).unwrap();
    for path in [&files.ca_pem, &files.apns_key_p8, &files.fcm_service_account_json, &files.vapid_key_pem] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let device = lab.register_device(Provider::WebPush);
    assert!(!format!("{device:?}").contains("push.localhost"), "no PRID in Debug (P-109)");
}
