//! APNs as Apple documents it: provider tokens, header rules, JSON reasons (P-142 to P-154).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::time::Instant;

use super::Lab;
use super::device::{Provider, Service, Verdict, Wake};
use super::jwt::{Algorithm, Jwt};
use super::keys::names;
use super::server::{Answer, Fault, Reset, plain_headers, single};
use super::state::{Delivery, unix_seconds};

/// Provider tokens older than this are refused.
const TOKEN_LIFE: u64 = 60 * 60;
/// Clock difference forgiven for an `iat` in the future.
const SKEW: u64 = 60;

/// `environment` is [`Provider::Apns`] or [`Provider::ApnsSandbox`].
pub(super) fn push(lab: &Lab, environment: Provider, parts: &Parts, body: &Bytes) -> Answer {
    match try_push(lab, environment, parts, body) {
        Ok(answer) | Err(answer) => {
            let id = single(&parts.headers, "apns-id").map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
            answer.header("apns-id", id)
        }
    }
}

fn try_push(lab: &Lab, environment: Provider, parts: &Parts, body: &Bytes) -> Result<Answer, Answer> {
    let token = parts.uri.path().strip_prefix("/3/device/").ok_or_else(|| malformed(404, "BadPath"))?;
    if parts.method != Method::POST {
        return Err(malformed(405, "MethodNotAllowed"));
    }
    authenticate(lab, environment, &parts.headers)?;
    let push = check_headers(&parts.headers)?;
    check_body(&push, body)?;
    if token.len() < 8 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refusal(400, "BadDeviceToken"));
    }
    let token = token.to_ascii_lowercase();
    let Some(service) = lab.state.service_of(environment, &token) else {
        return Err(refusal(400, "BadDeviceToken"));
    };
    if service != push.service {
        return Err(malformed(400, "DeviceTokenNotForTopic"));
    }
    match lab.state.judge(environment, &token) {
        Delivery::Unknown => Err(refusal(400, "BadDeviceToken")),
        Delivery::Verdict(verdict) => Ok(answer(verdict, token, wake(environment, &push, &parts.headers, body))),
    }
}

fn answer(verdict: Verdict, token: String, wake: Wake) -> Answer {
    let accept = |delay: Option<Duration>, hold: Duration| Answer {
        wakes: vec![(token, wake, delay)],
        hold,
        ..Answer::new(200, "", Bytes::new())
    };
    match verdict {
        Verdict::Accept => accept(Some(Duration::ZERO), Duration::ZERO),
        Verdict::Delay(delay) => accept(Some(delay), Duration::ZERO),
        Verdict::SlowAnswer(hold) => accept(Some(Duration::ZERO), hold),
        Verdict::Blackhole => accept(None, Duration::ZERO),
        Verdict::Gone { since } => gone(since.unwrap_or_else(SystemTime::now)),
        Verdict::NotFound => gone(SystemTime::now()),
        Verdict::Refuse => refusal(400, "TopicDisallowed"),
        Verdict::Throttle { retry_after } => match retry_after {
            Some(after) => refusal(429, "TooManyRequests").header("retry-after", after.as_secs().to_string()),
            None => refusal(429, "TooManyRequests"),
        },
        Verdict::Unavailable => refusal(503, "ServiceUnavailable"),
        Verdict::Html(status) => Answer::html(status),
        Verdict::Reset { processed: false } => Answer::reset(Reset::Refused),
        Verdict::Reset { processed: true } => {
            Answer { reset: Some(Reset::Broken), ..accept(Some(Duration::ZERO), Duration::ZERO) }
        }
        Verdict::CredentialFault => refusal(403, "InvalidProviderToken"),
        Verdict::ExpiredCredential => refusal(403, "ExpiredProviderToken"),
    }
}

fn gone(since: SystemTime) -> Answer {
    let millis = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let body = format!(r#"{{"reason":"Unregistered","timestamp":{millis}}}"#);
    Answer::new(410, "Unregistered", body).header("content-type", "application/json")
}

fn refusal(status: u16, reason: &'static str) -> Answer {
    Answer::new(status, reason, format!(r#"{{"reason":"{reason}"}}"#)).header("content-type", "application/json")
}

fn malformed(status: u16, reason: &'static str) -> Answer {
    refusal(status, reason).fault(Fault::Malformed)
}

/// P-143: ES256, `kid`, `iss` = team, `iat` within the hour.
fn authenticate(lab: &Lab, environment: Provider, headers: &HeaderMap) -> Result<(), Answer> {
    let unauthenticated = |reason| refusal(403, reason).fault(Fault::Unauthenticated);
    let header = single(headers, "authorization").ok_or_else(|| unauthenticated("MissingProviderToken"))?;
    let token = header
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| unauthenticated("MissingProviderToken"))?;
    let jwt = Jwt::parse(token).ok_or_else(|| unauthenticated("InvalidProviderToken"))?;
    let kid = jwt.header.get("kid").and_then(Value::as_str);
    let signed = |key_id, key: &rcgen::KeyPair| {
        kid == Some(key_id)
            && jwt.text("iss") == Some(names::APNS_TEAM_ID)
            && jwt.verifies(Algorithm::Es256, key.public_key_raw())
    };
    let production = signed(names::APNS_KEY_ID, &lab.keys.apns);
    let sandbox = signed(names::APNS_SANDBOX_KEY_ID, &lab.keys.apns_sandbox);
    let known = production || sandbox;
    // Each key is good for one environment.
    if known && sandbox != (environment == Provider::ApnsSandbox) {
        return Err(refusal(403, "BadEnvironmentKeyIdInToken"));
    }
    let issued = jwt.seconds("iat").filter(|_| known).ok_or_else(|| unauthenticated("InvalidProviderToken"))?;
    let now = unix_seconds();
    if issued > now + SKEW {
        return Err(unauthenticated("InvalidProviderToken"));
    }
    if now.saturating_sub(issued) > TOKEN_LIFE || !lab.state.admit_credential(environment, token) {
        return Err(refusal(403, "ExpiredProviderToken").fault(Fault::Expired));
    }
    Ok(())
}

/// The `iat` of the provider token, whatever else it may be.
pub(super) fn issued(headers: &HeaderMap) -> Option<u64> {
    Jwt::parse(single(headers, "authorization")?.strip_prefix("bearer ")?)?.seconds("iat")
}

/// What the headers ask for.
struct Push {
    service: Service,
    kind: PushType,
    priority: u8,
    expiration: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PushType {
    Voip,
    Alert,
    Background,
}

/// P-145, P-146: topic, type, priority, expiration and identifiers must fit each other.
fn check_headers(headers: &HeaderMap) -> Result<Push, Answer> {
    let bad = |reason| malformed(400, reason);
    let topic = single(headers, "apns-topic").ok_or_else(|| bad("MissingTopic"))?;
    let service = match topic.strip_prefix(names::APNS_BUNDLE) {
        Some("") => Service::Remote,
        Some(".voip") => Service::Voip,
        _ => return Err(bad("TopicDisallowed")),
    };
    let kind = match single(headers, "apns-push-type") {
        Some("voip") => PushType::Voip,
        Some("alert") => PushType::Alert,
        Some("background") => PushType::Background,
        _ => return Err(bad("InvalidPushType")),
    };
    if (kind == PushType::Voip) != (service == Service::Voip) {
        return Err(bad("InvalidPushType"));
    }
    let priority = match single(headers, "apns-priority") {
        None => 10,
        Some("10") => 10,
        Some("5") => 5,
        Some("1") => 1,
        Some(_) => return Err(bad("BadPriority")),
    };
    if kind == PushType::Background && priority != 5 {
        return Err(bad("BadPriority"));
    }
    let expiration = match single(headers, "apns-expiration") {
        None => 0,
        Some(value) => value.parse().map_err(|_| bad("BadExpirationDate"))?,
    };
    if let Some(id) = headers.get("apns-id") {
        let text = id.to_str().unwrap_or_default();
        if uuid::Uuid::try_parse(text).map(|id| id.to_string()).as_deref() != Ok(text) {
            return Err(bad("BadMessageId"));
        }
    }
    if headers.get("apns-collapse-id").is_some_and(|id| id.is_empty() || id.len() > 64) {
        return Err(bad("BadCollapseId"));
    }
    Ok(Push { service, kind, priority, expiration })
}

/// P-142, P-145: size, JSON with an `aps` object, and content that fits the push type.
fn check_body(push: &Push, body: &Bytes) -> Result<(), Answer> {
    if body.is_empty() {
        return Err(malformed(400, "PayloadEmpty"));
    }
    if body.len() > if push.kind == PushType::Voip { 5120 } else { 4096 } {
        return Err(malformed(413, "PayloadTooLarge"));
    }
    let payload: Option<Value> = serde_json::from_slice(body).ok();
    let aps = payload.as_ref().and_then(|payload| payload.get("aps")).and_then(Value::as_object);
    let aps = aps.ok_or_else(|| malformed(400, "PayloadEmpty"))?;
    let fits = match push.kind {
        PushType::Voip => true,
        PushType::Alert => aps.contains_key("alert"),
        PushType::Background => {
            aps.get("content-available").and_then(Value::as_u64) == Some(1)
                && !["alert", "badge", "sound"].iter().any(|key| aps.contains_key(*key))
        }
    };
    fits.then_some(()).ok_or_else(|| malformed(400, "InvalidPushType"))
}

fn wake(provider: Provider, push: &Push, headers: &HeaderMap, body: &Bytes) -> Wake {
    Wake {
        at: Instant::now(),
        provider,
        service: push.service,
        urgent: push.priority == 10,
        ttl: Some(Duration::from_secs(push.expiration.saturating_sub(unix_seconds()))),
        headers: plain_headers(headers, |name| name.starts_with("apns-")),
        body: body.clone(),
    }
}
