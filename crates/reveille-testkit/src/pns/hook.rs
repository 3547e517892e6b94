//! A push service behind a webhook: signed batches in, a result for each wake request out (docs/webhook.md).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use ring::hmac;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Lab;
use super::device::{Provider, Service, Verdict, Wake};
use super::keys::names;
use super::server::{Answer, Fault, Reset, single};
use super::state::{Delivery, unix_seconds};

/// A timestamp further off than this is a replay.
const SKEW: u64 = 300;

pub(super) fn push(lab: &Lab, parts: &Parts, body: &Bytes) -> Answer {
    if let Err(why) = authenticate(lab, parts, body) {
        return Answer::new(401, why, Bytes::new()).fault(Fault::Unauthenticated);
    }
    let malformed = |why| Answer::new(400, why, Bytes::new()).fault(Fault::Malformed);
    if parts.method != Method::POST || single(&parts.headers, "content-type") != Some("application/json") {
        return malformed("Form");
    }
    let Ok(Value::Array(items)) = serde_json::from_slice(body) else { return malformed("Batch") };
    let mut results = Vec::new();
    let mut batch = Answer::new(200, "", Bytes::new()).header("content-type", "application/json");
    for item in &items {
        let Some((id, prid, wake)) = check(item) else { return malformed("Item") };
        let verdict = match lab.state.judge(Provider::Webhook, prid) {
            Delivery::Unknown => {
                results.push(json!({ "id": id, "result": "gone" }));
                continue;
            }
            Delivery::Verdict(verdict) => verdict,
        };
        let mut accept = |delay: Option<Duration>| {
            batch.wakes.push((prid.to_owned(), wake.clone(), delay));
            results.push(json!({ "id": id, "result": "accepted" }));
        };
        match verdict {
            Verdict::Accept => accept(Some(Duration::ZERO)),
            Verdict::Delay(delay) => accept(Some(delay)),
            Verdict::Blackhole => accept(None),
            Verdict::SlowAnswer(hold) => {
                accept(Some(Duration::ZERO));
                batch.hold = hold;
            }
            Verdict::Reset { processed } => {
                if processed {
                    accept(Some(Duration::ZERO));
                }
                batch.reset = Some(if processed { Reset::Broken } else { Reset::Refused });
            }
            Verdict::Gone { since } => {
                let since = since.and_then(|since| since.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
                let since = since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
                results.push(json!({ "id": id, "result": "gone", "since": since }));
            }
            Verdict::NotFound => results.push(json!({ "id": id, "result": "gone" })),
            Verdict::Refuse => results.push(json!({ "id": id, "result": "failed" })),
            Verdict::Throttle { retry_after } => {
                results.push(json!({ "id": id, "result": "retry", "retry_after": retry_after.map(|it| it.as_secs()) }));
            }
            Verdict::Unavailable => results.push(json!({ "id": id, "result": "retry" })),
            // These are verdicts on the batch as a whole.
            Verdict::Html(status) => return Answer::html(status),
            Verdict::CredentialFault => return Answer::new(403, "Refused", Bytes::new()),
            Verdict::ExpiredCredential => return Answer::new(401, "Refused", Bytes::new()),
        }
    }
    batch.body = Bytes::from(Value::from(results).to_string());
    batch
}

/// The signature: `v1=` and HMAC-SHA256 in hex over timestamp, dot and body.
fn authenticate(lab: &Lab, parts: &Parts, body: &Bytes) -> Result<(), &'static str> {
    let timestamp = single(&parts.headers, "reveille-timestamp").ok_or("NoTimestamp")?;
    let signature = single(&parts.headers, "reveille-signature").and_then(|it| it.strip_prefix("v1="));
    let signature = hex::decode(signature.ok_or("NoSignature")?).map_err(|_| "Signature")?;
    let at: u64 = timestamp.parse().map_err(|_| "Timestamp")?;
    if at.abs_diff(unix_seconds()) > SKEW {
        return Err("Timestamp");
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, lab.keys.webhook.as_bytes());
    let signed = [timestamp.as_bytes(), b".", body].concat();
    hmac::verify(&key, &signed, &signature).map_err(|_| "Signature")
}

/// A wake request has exactly these members: one more could tell who calls (P-106).
fn check(item: &Value) -> Option<(&str, &str, Wake)> {
    let item = item.as_object().filter(|item| item.len() == 5)?;
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    let class = text("class").filter(|class| ["call", "request", "refresh"].contains(class))?;
    text("pn-param").filter(|param| *param == names::WEBHOOK_PARAM)?;
    let wake = Wake {
        at: Instant::now(),
        provider: Provider::Webhook,
        service: Service::Any,
        urgent: class == "call",
        ttl: Some(Duration::from_secs(item.get("ttl")?.as_u64()?)),
        headers: Default::default(),
        body: Bytes::from(Value::from(item.clone()).to_string()),
    };
    Some((text("id").filter(|id| !id.is_empty())?, text("pn-prid")?, wake))
}
