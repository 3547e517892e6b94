//! FCM HTTP v1 and the OAuth 2 token endpoint in front of it (P-158 to P-164).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Lab;
use super::device::{Provider, Service, Verdict, Wake, random_hex};
use super::jwt::{Algorithm, Jwt};
use super::keys::names;
use super::server::{Answer, Fault, Reset, single};
use super::state::{Delivery, unix_seconds};

/// The scope a sender of messages must ask for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// The grant of RFC 7523.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// An assertion may not live longer than this.
const ASSERTION_LIFE: u64 = 3600;
/// Clock difference forgiven for an `iat` in the future.
const SKEW: u64 = 60;

/// `POST /token`: exchanges a signed assertion for an access token (RFC 7523, P-159).
pub(super) fn token(lab: &Lab, parts: &Parts, body: &Bytes) -> Answer {
    match try_token(lab, parts, body) {
        Ok(token) => {
            let life = lab.config.access_token_life;
            lab.state.issue_access_token(&token, life);
            let body = json!({ "access_token": token, "expires_in": life.as_secs(), "token_type": "Bearer" });
            Answer::new(200, "", body.to_string()).header("content-type", "application/json")
        }
        Err((error, why)) => {
            let body = json!({ "error": error, "error_description": why });
            let answer = Answer::new(400, error, body.to_string()).header("content-type", "application/json");
            answer.fault(if error == "invalid_grant" { Fault::Unauthenticated } else { Fault::Malformed })
        }
    }
}

fn try_token(lab: &Lab, parts: &Parts, body: &Bytes) -> Result<String, (&'static str, &'static str)> {
    if parts.method != Method::POST {
        return Err(("invalid_request", "not a POST"));
    }
    if !single(&parts.headers, "content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
    {
        return Err(("invalid_request", "not a form"));
    }
    let field = |name: &str| url::form_urlencoded::parse(body).find(|(key, _)| key == name).map(|(_, value)| value);
    if field("grant_type").as_deref() != Some(GRANT) {
        return Err(("unsupported_grant_type", "grant_type"));
    }
    let assertion = field("assertion").ok_or(("invalid_request", "no assertion"))?;
    let jwt = Jwt::parse(&assertion).ok_or(("invalid_grant", "not a JWT"))?;
    let must = |holds: bool, what| if holds { Ok(()) } else { Err(("invalid_grant", what)) };
    must(jwt.verifies(Algorithm::Rs256, &lab.keys.service_account_public), "signature")?;
    must(jwt.text("iss") == Some(names::FCM_ACCOUNT), "iss")?;
    must(jwt.text("scope") == Some(SCOPE), "scope")?;
    must(jwt.text("aud") == Some(lab.endpoints.fcm_token.as_str()), "aud")?;
    let now = unix_seconds();
    let (issued, ends) = jwt.seconds("iat").zip(jwt.seconds("exp")).ok_or(("invalid_grant", "iat and exp"))?;
    must(issued <= now + SKEW, "iat in the future")?;
    must(ends > now, "expired")?;
    must(ends <= issued + ASSERTION_LIFE, "lives longer than an hour")?;
    Ok(format!("ya29.lab-{}", random_hex(32)))
}

/// `POST /v1/projects/<project>/messages:send`.
pub(super) fn push(lab: &Lab, parts: &Parts, body: &Bytes) -> Answer {
    match try_push(lab, parts, body) {
        Ok(answer) | Err(answer) => answer,
    }
}

fn try_push(lab: &Lab, parts: &Parts, body: &Bytes) -> Result<Answer, Answer> {
    authenticate(lab, parts)?;
    let project = parts.uri.path().strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/messages:send"));
    let project = project.ok_or_else(|| error(404, "NOT_FOUND", None).fault(Fault::Malformed))?;
    if parts.method != Method::POST {
        return Err(error(405, "METHOD_NOT_ALLOWED", None).fault(Fault::Malformed));
    }
    if project != names::FCM_PROJECT {
        return Err(error(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH")).fault(Fault::Malformed));
    }
    let (token, wake) = check_message(body).map_err(invalid)?;
    match lab.state.judge(Provider::Fcm, &token) {
        Delivery::Unknown => Err(error(404, "NOT_FOUND", Some("UNREGISTERED"))),
        Delivery::Verdict(verdict) => Ok(answer(verdict, token, wake)),
    }
}

fn answer(verdict: Verdict, token: String, wake: Wake) -> Answer {
    let accept = |delay: Option<Duration>, hold: Duration| {
        let body = json!({ "name": format!("projects/{}/messages/0:{}", names::FCM_PROJECT, random_hex(8)) });
        let answer = Answer::new(200, "", body.to_string()).header("content-type", "application/json");
        Answer { wakes: vec![(token, wake, delay)], hold, ..answer }
    };
    match verdict {
        Verdict::Accept => accept(Some(Duration::ZERO), Duration::ZERO),
        Verdict::Delay(delay) => accept(Some(delay), Duration::ZERO),
        Verdict::SlowAnswer(hold) => accept(Some(Duration::ZERO), hold),
        Verdict::Blackhole => accept(None, Duration::ZERO),
        Verdict::Gone { .. } | Verdict::NotFound => error(404, "NOT_FOUND", Some("UNREGISTERED")),
        Verdict::Refuse => violation("message.android"),
        Verdict::Throttle { retry_after } => {
            let answer = error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"));
            match retry_after {
                Some(after) => answer.header("retry-after", after.as_secs().to_string()),
                None => answer,
            }
        }
        Verdict::Unavailable => error(503, "UNAVAILABLE", Some("UNAVAILABLE")),
        Verdict::Html(status) => Answer::html(status),
        Verdict::Reset { processed: false } => Answer::reset(Reset::Refused),
        Verdict::Reset { processed: true } => {
            Answer { reset: Some(Reset::Broken), ..accept(Some(Duration::ZERO), Duration::ZERO) }
        }
        Verdict::CredentialFault | Verdict::ExpiredCredential => error(401, "UNAUTHENTICATED", None),
    }
}

fn authenticate(lab: &Lab, parts: &Parts) -> Result<(), Answer> {
    let unauthenticated = |fault| error(401, "UNAUTHENTICATED", None).fault(fault);
    let token = single(&parts.headers, "authorization").and_then(|header| header.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let token = token.ok_or_else(|| unauthenticated(Fault::Unauthenticated))?;
    match lab.state.access_token_is_fresh(token) {
        None => Err(unauthenticated(Fault::Unauthenticated)),
        Some(true) if lab.state.admit_credential(Provider::Fcm, token) => Ok(()),
        Some(_) => Err(unauthenticated(Fault::Expired)),
    }
}

/// P-160 to P-162: a data-only message with a sane Android block. The error names the field.
fn check_message(body: &Bytes) -> Result<(String, Wake), &'static str> {
    if body.len() > 4096 {
        return Err("message");
    }
    let root: Value = serde_json::from_slice(body).map_err(|_| "message")?;
    let message = root.get("message").and_then(Value::as_object).ok_or("message")?;
    let token =
        message.get("token").and_then(Value::as_str).filter(|token| token.len() >= 16).ok_or("message.token")?;
    if message.contains_key("notification") {
        return Err("message.notification");
    }
    let data = message.get("data").and_then(Value::as_object).ok_or("message.data")?;
    let reserved =
        |key: &str| key == "from" || key == "message_type" || key.starts_with("google") || key.starts_with("gcm");
    if data.iter().any(|(key, value)| reserved(key) || !value.is_string()) {
        return Err("message.data");
    }
    let android = message.get("android").and_then(Value::as_object).ok_or("message.android")?;
    let urgent = match android.get("priority").and_then(Value::as_str) {
        Some("HIGH" | "high") => true,
        Some("NORMAL" | "normal") => false,
        _ => return Err("message.android.priority"),
    };
    let ttl = android.get("ttl").and_then(Value::as_str).and_then(|ttl| ttl.strip_suffix('s'));
    let ttl: f64 = ttl.and_then(|ttl| ttl.parse().ok()).ok_or("message.android.ttl")?;
    if !(0.0..=2_419_200.0).contains(&ttl) {
        return Err("message.android.ttl");
    }
    let wake = Wake {
        at: Instant::now(),
        provider: Provider::Fcm,
        service: Service::Any,
        urgent,
        ttl: Some(Duration::from_secs_f64(ttl)),
        headers: Default::default(),
        body: body.clone(),
    };
    Ok((token.to_owned(), wake))
}

fn invalid(field: &'static str) -> Answer {
    violation(field).fault(Fault::Malformed)
}

/// 400 with the violated field, as google.rpc.BadRequest beside the FcmError.
fn violation(field: &str) -> Answer {
    let body = json!({ "error": {
        "code": 400, "message": "Invalid value", "status": "INVALID_ARGUMENT",
        "details": [
            { "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "INVALID_ARGUMENT" },
            { "@type": "type.googleapis.com/google.rpc.BadRequest",
              "fieldViolations": [{ "field": field, "description": "Invalid value" }] },
        ],
    }});
    Answer::new(400, "INVALID_ARGUMENT", body.to_string()).header("content-type", "application/json")
}

/// An error in the shape of google.rpc.Status; `code` is the FcmError detail (P-164).
fn error(status: u16, name: &'static str, code: Option<&'static str>) -> Answer {
    let details: Vec<Value> = code
        .map(|code| json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code }))
        .into_iter()
        .collect();
    let body = json!({ "error": { "code": status, "message": name, "status": name, "details": details } });
    Answer::new(status, code.unwrap_or(name), body.to_string()).header("content-type", "application/json")
}
