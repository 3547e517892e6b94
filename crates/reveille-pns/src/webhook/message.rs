//! What a webhook is sent and what it answers.

use std::collections::HashMap;

use reveille_push::PushClass;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{opaque::Opaque, provider::Push};

/// One wake request of a batch. Its id stays the same when the push is repeated, so that the service can tell.
pub(super) struct Wake {
    pub(super) id: String,
    pub(super) value: Value,
}

/// P-106: where to and how urgent, and not a word of who calls.
pub(super) fn wake(push: &Push<'_>, opaque: &Opaque) -> Wake {
    let target = push.target;
    let id = opaque.of(&[&push.id.to_be_bytes(), target.param.as_bytes(), target.prid.expose().as_bytes()]);
    let class = match push.class {
        PushClass::Call => "call",
        PushClass::Dialog => "dialog",
        PushClass::Request => "request",
        PushClass::Refresh => "refresh",
    };
    let value = json!({
        "id": &id,
        "class": class,
        "pn-param": target.param,
        "pn-prid": target.prid.expose(),
        "ttl": push.ttl.as_secs(),
    });
    Wake { id, value }
}

/// `v1=` and the HMAC-SHA256 over the timestamp in decimal, a dot, and the body; in hex.
pub(super) fn signature(key: &hmac::Key, timestamp: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let hex: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={hex}")
}

/// The result of one wake request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Item {
    id: String,
    pub(super) result: String,
    /// Seconds; with `retry`.
    pub(super) retry_after: Option<u64>,
    /// Milliseconds since the epoch; with `gone`.
    pub(super) since: Option<u64>,
}

/// The results by id; `None` where the answer is no array at all. What is no result in it is left out: an item without one has
/// failed for the time being. An id answered twice has its first result.
pub(super) fn results(body: &[u8]) -> Option<HashMap<String, Item>> {
    let Value::Array(items) = serde_json::from_slice(body).ok()? else { return None };
    let mut results = HashMap::new();
    for item in items.into_iter().filter_map(|item| serde_json::from_value::<Item>(item).ok()) {
        results.entry(item.id.clone()).or_insert(item);
    }
    Some(results)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use reveille_push::{Provider as Pns, PushTarget, WebhookName};

    use super::*;

    /// Against the figures of a calculation made with another tool (`openssl dgst -sha256 -hmac`).
    #[test]
    fn the_signature_covers_timestamp_and_body() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
        let signed = signature(&key, 1_700_000_000, b"[]");
        assert_eq!(signed, "v1=a882ad5d4a0af7e391dbf85eb299d664e73b21697106604b9ab90233cb381a3e");
        assert_ne!(signature(&key, 1_700_000_001, b"[]"), signed);
        assert_ne!(signature(&key, 1_700_000_000, b"[ ]"), signed);
    }

    #[test]
    fn a_wake_request_says_where_to_and_nothing_else_p106() {
        let provider = Pns::Webhook(WebhookName::new("acme").unwrap());
        let target = PushTarget::new(provider, Some("app"), "token").unwrap();
        let push = Push {
            target: &target,
            class: PushClass::Call,
            ttl: Duration::from_secs(30),
            attempt: 0,
            repeat: 0,
            refusals: 0,
            id: 0xabc,
            now: SystemTime::UNIX_EPOCH,
        };
        let opaque = Opaque::new();
        let Wake { id, value } = wake(&push, &opaque);
        assert_eq!(id, wake(&Push { attempt: 1, ..push }, &opaque).id, "a repetition can be told");
        let other = PushTarget::new(provider, Some("app"), "other").unwrap();
        assert_ne!(id, wake(&Push { target: &other, ..push }, &opaque).id);
        let expected = json!({ "id": id, "class": "call", "pn-param": "app", "pn-prid": "token", "ttl": 30 });
        assert_eq!(value, expected);
    }

    #[test]
    fn results_are_read_one_by_one() {
        let body = br#"[{"id":"a","result":"accepted"},{"id":"a","result":"gone"},{"id":"b","result":"retry","retry_after":3},
            7,{"result":"accepted"},{"id":"c","result":5},{"id":"d","result":"gone","since":1700000000000,"more":true}]"#;
        let results = results(body).unwrap();
        let mut ids: Vec<_> = results.keys().map(String::as_str).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["a", "b", "d"]);
        assert_eq!(results["a"].result, "accepted");
        assert_eq!((results["b"].retry_after, results["d"].since), (Some(3), Some(1_700_000_000_000)));
        for body in [&b""[..], b"{}", b"<html>", b"\"a\"", b"null"] {
            assert!(super::results(body).is_none());
        }
    }
}
