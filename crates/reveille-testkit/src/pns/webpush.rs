//! Web Push with VAPID (RFC 8030, RFC 8292; P-127 to P-135). Subscriptions are restricted to the lab's one customer key.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;
use http::request::Parts;
use tokio::time::Instant;

use super::Lab;
use super::device::{Provider, Service, Verdict, Wake, random_hex};
use super::jwt::{Algorithm, Jwt};
use super::server::{Answer, Fault, Reset, plain_headers, single};
use super::state::{Delivery, unix_seconds};

/// `exp` may not be further ahead than this (RFC 8292 §2).
const CLAIM_LIFE: u64 = 24 * 3600;

/// A P-256 point as `k` carries it.
pub(super) fn encode_key(point: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(point)
}

pub(super) fn push(lab: &Lab, parts: &Parts, body: &Bytes) -> Answer {
    match try_push(lab, parts, body) {
        Ok(answer) | Err(answer) => answer,
    }
}

fn try_push(lab: &Lab, parts: &Parts, body: &Bytes) -> Result<Answer, Answer> {
    if parts.method != Method::POST {
        return Err(plain(405, "MethodNotAllowed").fault(Fault::Malformed));
    }
    authenticate(lab, parts)?;
    let wake = check(lab, parts, body).map_err(|(status, why)| plain(status, why).fault(Fault::Malformed))?;
    let token = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    // RFC 8292 §4.2: the subscription was made for one key.
    if lab.state.subscribed_under(&token).is_some_and(|under| parts_key(parts) != Some(under)) {
        return Err(plain(403, "KeyMismatch"));
    }
    let created = if single(&parts.headers, "prefer") == Some("respond-async") { 202 } else { 201 };
    match lab.state.judge(Provider::WebPush, &token) {
        Delivery::Unknown => Err(plain(404, "NoSuchSubscription")),
        Delivery::Verdict(verdict) => Ok(answer(lab, verdict, created, token, wake)),
    }
}

fn answer(lab: &Lab, verdict: Verdict, created: u16, token: String, wake: Wake) -> Answer {
    let accept = |delay: Option<Duration>, hold: Duration| {
        let location = format!("{}/message/{}", lab.endpoints.webpush, random_hex(12));
        let ttl = wake.ttl.unwrap_or_default().as_secs().to_string();
        let answer = plain(created, "").header("location", location).header("ttl", ttl);
        Answer { wakes: vec![(token, wake, delay)], hold, ..answer }
    };
    match verdict {
        Verdict::Accept => accept(Some(Duration::ZERO), Duration::ZERO),
        Verdict::Delay(delay) => accept(Some(delay), Duration::ZERO),
        Verdict::SlowAnswer(hold) => accept(Some(Duration::ZERO), hold),
        Verdict::Blackhole => accept(None, Duration::ZERO),
        Verdict::Gone { .. } => plain(410, "Gone"),
        Verdict::NotFound => plain(404, "NoSuchSubscription"),
        Verdict::Refuse => plain(400, "Refused"),
        Verdict::Throttle { retry_after: Some(after) } => {
            plain(429, "TooMany").header("retry-after", after.as_secs().to_string())
        }
        Verdict::Throttle { retry_after: None } => plain(429, "TooMany"),
        Verdict::Unavailable => plain(503, "Unavailable"),
        Verdict::Html(status) => Answer::html(status),
        Verdict::Reset { processed: false } => Answer::reset(Reset::Refused),
        Verdict::Reset { processed: true } => {
            Answer { reset: Some(Reset::Broken), ..accept(Some(Duration::ZERO), Duration::ZERO) }
        }
        Verdict::CredentialFault => plain(403, "BadVapid"),
        Verdict::ExpiredCredential => plain(401, "Expired"),
    }
}

fn plain(status: u16, reason: &'static str) -> Answer {
    Answer::new(status, reason, reason.as_bytes().to_vec())
}

/// The `k` of the authorization, which [`authenticate`] has looked at.
fn parts_key(parts: &Parts) -> Option<String> {
    single(&parts.headers, "authorization")?.rsplit_once("k=").map(|(_, key)| key.trim().to_owned())
}

/// RFC 8292 §2 to §4: 401 where nothing is offered, 403 where what is offered does not hold.
fn authenticate(lab: &Lab, parts: &Parts) -> Result<(), Answer> {
    let header = single(&parts.headers, "authorization");
    let Some((scheme, params)) = header.and_then(|header| header.split_once(' ')) else {
        return Err(plain(401, "NoVapid").header("www-authenticate", "vapid").fault(Fault::Unauthenticated));
    };
    let bad = |why: &'static str| plain(403, why).fault(Fault::Unauthenticated);
    if !scheme.eq_ignore_ascii_case("vapid") {
        return Err(bad("Scheme"));
    }
    let param = |name: &str| {
        params
            .split(',')
            .filter_map(|one| one.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let (token, key) = param("t").zip(param("k")).ok_or_else(|| bad("Params"))?;
    let key = URL_SAFE_NO_PAD.decode(key).map_err(|_| bad("Key"))?;
    if !lab.keys.knows_vapid(&key) {
        return Err(bad("OtherKey"));
    }
    let jwt = Jwt::parse(token).ok_or_else(|| bad("Token"))?;
    if !jwt.verifies(Algorithm::Es256, &key) {
        return Err(bad("Signature"));
    }
    if jwt.text("aud") != Some(lab.endpoints.webpush.as_str()) {
        return Err(bad("Aud"));
    }
    if !jwt.text("sub").is_some_and(|sub| sub.starts_with("mailto:") || sub.starts_with("https:")) {
        return Err(bad("Sub"));
    }
    let (now, ends) = (unix_seconds(), jwt.seconds("exp").ok_or_else(|| bad("Exp"))?);
    if ends > now + CLAIM_LIFE {
        return Err(bad("Exp"));
    }
    if ends <= now || !lab.state.admit_credential(Provider::WebPush, token) {
        return Err(plain(403, "Expired").fault(Fault::Expired));
    }
    Ok(())
}

/// P-128 to P-130, P-133: authority, TTL, urgency, topic and an empty body.
fn check(lab: &Lab, parts: &Parts, body: &Bytes) -> Result<Wake, (u16, &'static str)> {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).or_else(|| single(&parts.headers, "host"));
    if authority != Some(lab.endpoints.webpush_host.as_str()) {
        return Err((421, "Misdirected"));
    }
    let ttl: u64 = single(&parts.headers, "ttl").and_then(|ttl| ttl.parse().ok()).ok_or((400, "Ttl"))?;
    let urgency = match parts.headers.contains_key("urgency") {
        false => "normal",
        true => single(&parts.headers, "urgency").ok_or((400, "Urgency"))?,
    };
    if !["very-low", "low", "normal", "high"].contains(&urgency) {
        return Err((400, "Urgency"));
    }
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if parts
        .headers
        .get("topic")
        .is_some_and(|topic| topic.len() > 32 || !topic.as_bytes().iter().copied().all(base64url))
    {
        return Err((400, "Topic"));
    }
    if body.len() > 4096 {
        return Err((413, "TooLarge"));
    }
    if !body.is_empty() && single(&parts.headers, "content-encoding") != Some("aes128gcm") {
        return Err((400, "ContentEncoding"));
    }
    Ok(Wake {
        at: Instant::now(),
        provider: Provider::WebPush,
        service: Service::Any,
        urgent: urgency == "high",
        ttl: Some(Duration::from_secs(ttl)),
        headers: plain_headers(&parts.headers, |name| ["ttl", "urgency", "topic"].contains(&name)),
        body: body.clone(),
    })
}
