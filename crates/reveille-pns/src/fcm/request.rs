//! The request to FCM: a data-only wake message (P-158, P-160 to P-163).

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use reveille_push::PushClass;
use serde_json::json;

use crate::{
    opaque::Opaque,
    provider::{Authorization, Push},
};

/// `None` only where the parts make no valid request.
pub(super) fn build(
    url: &str,
    target_field: &str,
    push: &Push<'_>,
    auth: &Authorization,
    opaque: &Opaque,
) -> Option<Request<Full<Bytes>>> {
    let (priority, collapse_key) = match push.class {
        PushClass::Call | PushClass::Dialog | PushClass::Request => ("HIGH", "sip-call"),
        // P-161: high priority without visible effect gets an app demoted.
        PushClass::Refresh => ("NORMAL", "sip-reg"),
    };
    let body = json!({ "message": {
        target_field: push.target.prid.expose(),
        "data": { "k": "wake", "c": opaque.of(&[&push.id.to_be_bytes()]) },
        "android": {
            "priority": priority,
            "ttl": format!("{}s", push.ttl.as_secs().min(MAX_TTL)),
            "collapse_key": collapse_key,
        },
    } });
    Request::post(url)
        .header(header::AUTHORIZATION, auth.value.clone())
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Full::new(Bytes::from(body.to_string())))
        .ok()
}

/// Four weeks, in seconds (P-162).
const MAX_TTL: u64 = 2_419_200;

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http_body_util::BodyExt;
    use reveille_push::{Provider as Pns, PushTarget};
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn messages_are_data_only_with_priority_and_ttl_of_their_class_p160_p163() {
        let token = "dQw4:APA91bF_x-0123456789";
        let target = PushTarget::new(Pns::Fcm, Some("acme-phone-prod"), token).unwrap();
        let auth = Authorization::new("Bearer abc", 1).unwrap();
        for (class, ttl, priority, sent_ttl, key) in [
            (PushClass::Call, 30, "HIGH", "30s", "sip-call"),
            (PushClass::Dialog, 10, "HIGH", "10s", "sip-call"),
            (PushClass::Request, 32, "HIGH", "32s", "sip-call"),
            (PushClass::Refresh, 9_999_999, "NORMAL", "2419200s", "sip-reg"),
        ] {
            let ttl = Duration::from_secs(ttl);
            let push = Push {
                target: &target,
                class,
                ttl,
                attempt: 0,
                repeat: 0,
                refusals: 0,
                id: 1,
                now: SystemTime::UNIX_EPOCH,
            };
            let request =
                build("https://fcm.googleapis.com/v1/projects/p/messages:send", "token", &push, &auth, &Opaque::new());
            let (head, body) = request.unwrap().into_parts();
            assert_eq!(head.headers["authorization"], "Bearer abc");
            let body = body.collect().await.unwrap().to_bytes();
            assert!(body.len() <= 4096);
            let body: Value = serde_json::from_slice(&body).unwrap();
            let message = body["message"].as_object().unwrap();
            assert_eq!(message.keys().collect::<Vec<_>>(), ["android", "data", "token"], "no notification");
            assert_eq!(body["message"]["token"], token);
            let android = &body["message"]["android"];
            assert_eq!(*android, json!({ "priority": priority, "ttl": sent_ttl, "collapse_key": key }));
            for (name, value) in body["message"]["data"].as_object().unwrap() {
                assert!(value.is_string());
                let reserved = ["from", "message_type", "google", "gcm"];
                assert!(!reserved.iter().any(|word| name.starts_with(word)), "{name}");
            }
        }
    }

    #[tokio::test]
    async fn the_field_that_names_the_device_is_the_configurations_p168() {
        let target = PushTarget::new(Pns::Fcm, Some("acme-phone-prod"), "dQw4:APA91bF_x-0123456789").unwrap();
        let (ttl, now) = (Duration::from_secs(30), SystemTime::UNIX_EPOCH);
        let push =
            Push { target: &target, class: PushClass::Call, ttl, attempt: 0, repeat: 0, refusals: 0, id: 1, now };
        let auth = Authorization::new("Bearer abc", 1).unwrap();
        let request = build("https://fcm.googleapis.com/v1/p", "fid", &push, &auth, &Opaque::new()).unwrap();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["message"]["fid"], target.prid.expose());
        assert!(body["message"].get("token").is_none());
    }
}
