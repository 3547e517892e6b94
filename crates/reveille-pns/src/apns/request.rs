//! The request to APNs (P-142, P-145 to P-148).

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use reveille_push::{
    PushClass,
    apns_param::{ApnsAddress, ApnsService},
};

use crate::{
    opaque::Opaque,
    provider::{Authorization, Push},
};

/// The row of P-145's table that applies.
struct Form {
    push_type: &'static str,
    priority: &'static str,
    /// Unix seconds; 0 is one attempt, not stored.
    expiration: u64,
    body: String,
}

/// `None` only where the parts make no valid request.
pub(super) fn build(
    authority: &str,
    push: &Push<'_>,
    address: &ApnsAddress<'_>,
    auth: &Authorization,
    opaque: &Opaque,
) -> Option<Request<Full<Bytes>>> {
    let form = form(push, address.service, opaque);
    let mut request = Request::post(format!("https://{authority}/3/device/{}", address.token))
        .header(header::AUTHORIZATION, auth.value.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .header("apns-topic", &address.topic)
        .header("apns-push-type", form.push_type)
        .header("apns-priority", form.priority)
        .header("apns-expiration", form.expiration)
        .header("apns-id", uuid::Uuid::new_v4().hyphenated().to_string());
    if address.service != ApnsService::Voip {
        let collapse = opaque.daily(push.unix(), &[address.token.as_bytes(), collapse_kind(push.class)]);
        request = request.header("apns-collapse-id", collapse);
    }
    request.body(Full::new(Bytes::from(form.body))).ok()
}

fn form(push: &Push<'_>, service: ApnsService, opaque: &Opaque) -> Form {
    let now = push.unix();
    let ttl = push.ttl.as_secs();
    match (push.class, service) {
        // P-098: a refresh comes this way where the operator allows it, and iOS makes no difference.
        (PushClass::Call | PushClass::Refresh, ApnsService::Voip) => Form {
            push_type: "voip",
            priority: "10",
            expiration: 0,
            body: format!(r#"{{"aps":{{}},"c":"{}"}}"#, opaque.of(&[&push.id.to_be_bytes()])),
        },
        (PushClass::Call, ApnsService::Remote) => Form {
            push_type: "alert",
            priority: "10",
            expiration: now + ttl.clamp(1, 30),
            body: alert("Incoming call"),
        },
        (PushClass::Dialog | PushClass::Request, _) => {
            Form { push_type: "alert", priority: "10", expiration: now + ttl.max(1), body: alert("New message") }
        }
        // P-146: background with priority 10 is an error.
        (PushClass::Refresh, ApnsService::Remote) => Form {
            push_type: "background",
            priority: "5",
            expiration: now + ttl.max(1),
            body: r#"{"aps":{"content-available":1}}"#.to_owned(),
        },
    }
}

/// A fixed text: neither who calls nor what they say leaves the network this way (P-106).
fn alert(text: &str) -> String {
    format!(r#"{{"aps":{{"alert":{{"body":"{text}"}},"sound":"default","content-available":1}}}}"#)
}

fn collapse_kind(class: PushClass) -> &'static [u8] {
    class.as_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http_body_util::BodyExt;
    use reveille_push::{Provider as Pns, PushTarget, apns_param};
    use serde_json::Value;

    use super::*;

    const NOW: u64 = 1_700_000_000;
    const VOIP: &str = "aa11bb22aa11bb22";
    const REMOTE: &str = "cc33dd44cc33dd44";

    fn both() -> PushTarget {
        let prid = format!("{VOIP}:voip&{REMOTE}:remote");
        PushTarget::new(Pns::Apns, Some("9TEAM42XYZ.org.example.phone.voip&remote"), &prid).unwrap()
    }

    fn remote() -> PushTarget {
        PushTarget::new(Pns::Apns, Some("9TEAM42XYZ.org.example.phone"), REMOTE).unwrap()
    }

    async fn built(target: &PushTarget, class: PushClass) -> (http::request::Parts, Value) {
        let push = Push {
            target,
            class,
            ttl: Duration::from_secs(600),
            attempt: 0,
            repeat: 0,
            refusals: 0,
            id: 7,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        };
        let auth = Authorization::new("bearer x.y.z", 1).unwrap();
        let address = apns_param::address(&target.param, target.prid.expose(), class).unwrap().unwrap();
        let request = build("api.push.apple.com", &push, &address, &auth, &Opaque::new()).unwrap();
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(body.len() <= 4096);
        (head, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_row_of_the_table_p145_p146_p147_p148() {
        // target, class, token, topic, push type, priority, expiration
        let rows = [
            (both(), PushClass::Call, VOIP, "org.example.phone.voip", "voip", "10", 0),
            (remote(), PushClass::Call, REMOTE, "org.example.phone", "alert", "10", NOW + 30),
            (both(), PushClass::Dialog, REMOTE, "org.example.phone", "alert", "10", NOW + 600),
            (both(), PushClass::Request, REMOTE, "org.example.phone", "alert", "10", NOW + 600),
            (both(), PushClass::Refresh, REMOTE, "org.example.phone", "background", "5", NOW + 600),
        ];
        for (target, class, token, topic, push_type, priority, expiration) in rows {
            let (head, body) = built(&target, class).await;
            let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(head.uri.to_string(), format!("https://api.push.apple.com/3/device/{token}"), "{class:?}");
            assert_eq!(head.method, http::Method::POST);
            assert_eq!(header("apns-topic").as_deref(), Some(topic));
            assert_eq!(header("apns-push-type").as_deref(), Some(push_type));
            assert_eq!(header("apns-priority").as_deref(), Some(priority));
            assert_eq!(header("apns-expiration"), Some(expiration.to_string()));
            assert_eq!(header("authorization").as_deref(), Some("bearer x.y.z"));
            let id = header("apns-id").unwrap();
            assert_eq!((id.len(), id.to_ascii_lowercase()), (36, id.clone()));
            let collapse = header("apns-collapse-id");
            assert_eq!(collapse.is_none(), push_type == "voip");
            assert!(collapse.is_none_or(|collapse| collapse.len() <= 64 && !collapse.contains(token)));
            let aps = body["aps"].as_object().unwrap();
            match push_type {
                "voip" => assert!(aps.is_empty() && body["c"].is_string()),
                "background" => assert_eq!(body["aps"], serde_json::json!({ "content-available": 1 })),
                _ => assert!(aps["alert"].is_object() && aps["content-available"] == 1),
            }
        }
    }

    #[tokio::test]
    async fn the_opaque_id_tells_nothing_of_the_token() {
        let (_, body) = built(&both(), PushClass::Call).await;
        assert!(!body.to_string().contains(VOIP));
    }
}
