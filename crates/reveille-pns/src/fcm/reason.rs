//! What FCM's answers mean (P-164). The code in the `FcmError` detail decides; the status alone is ambiguous.

use std::time::{Duration, SystemTime};

use reveille_push::Outcome;
use serde::Deserialize;

use crate::provider::{Classified, Next, Reply};

/// `proven`: a push was accepted before, so what is blamed now is the token and not the form of our messages (P-164).
pub(super) fn classify(reply: &Reply, now: SystemTime, proven: bool) -> Classified {
    // Gateways answer in HTML: a body that cannot be read is an empty one.
    let body: Body = serde_json::from_slice(&reply.body).unwrap_or_default();
    let retry_after = reply.retry_after(now);
    match (reply.status.as_u16(), body.code()) {
        (200, _) => Classified::done(Outcome::Accepted, "ok"),
        (404, Some("UNREGISTERED")) => Classified::done(GONE, "unregistered"),
        // A token of another project: gone as far as this one is concerned. Many of them mean that the project is wrong.
        (403, Some("SENDER_ID_MISMATCH")) => Classified::new(GONE, "sender_id_mismatch", Next::Suspect),
        (400, _) if body.blames_token() && proven => Classified::new(GONE, "invalid_token", Next::Suspect),
        (400, _) => Classified::bug("invalid_argument"),
        // The APNs or Web Push key kept at Firebase is bad: an operator's matter, and no fault of the credential we send with.
        (401, Some("THIRD_PARTY_AUTH_ERROR")) => {
            Classified::new(Outcome::CredentialFault, "third_party_auth_error", Next::Alarm)
        }
        (401, _) => Classified::new(Outcome::CredentialFault, "unauthenticated", Next::Renew),
        (403, _) => Classified::fault("permission_denied"),
        (404, _) => Classified::bug("not_found"),
        (429, _) => {
            let retry_after = Some(retry_after.unwrap_or(QUOTA_PAUSE));
            Classified::new(Outcome::Throttled { retry_after }, "quota_exceeded", Next::Retry)
        }
        // With a Retry-After it is a wish for fewer pushes, whatever the status says.
        (503, _) if retry_after.is_some() => {
            Classified::new(Outcome::Throttled { retry_after }, "unavailable", Next::Retry)
        }
        (503, _) => Classified::new(Outcome::Unavailable, "unavailable", Next::Retry),
        (500, _) => Classified::new(Outcome::Unavailable, "internal", Next::Retry),
        (502, _) => Classified::new(Outcome::Unavailable, "bad_gateway", Next::Retry),
        (504, _) => Classified::new(Outcome::Unavailable, "gateway_timeout", Next::Retry),
        (501..=599, _) => Classified::new(Outcome::Unavailable, "server_error", Next::Retry),
        _ => Classified::bug("unexpected_status"),
    }
}

const GONE: Outcome = Outcome::Unregistered { since: None };
/// Where `QUOTA_EXCEEDED` names no time.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);

#[derive(Deserialize, Default)]
struct Body {
    #[serde(default)]
    error: Error,
}

#[derive(Deserialize, Default)]
struct Error {
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "errorCode")]
    code: Option<String>,
    #[serde(rename = "fieldViolations", default)]
    violations: Vec<Violation>,
}

#[derive(Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

impl Body {
    fn code(&self) -> Option<&str> {
        let mut details = self.error.details.iter();
        details.find(|detail| detail.kind.ends_with("google.firebase.fcm.v1.FcmError"))?.code.as_deref()
    }

    fn blames_token(&self) -> bool {
        let mut violations = self.error.details.iter().flat_map(|detail| &detail.violations);
        violations.any(|violation| violation.field == "message.token")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, header};
    use serde_json::json;

    use super::*;

    fn verdict(status: u16, body: &str, retry_after: Option<&str>) -> Classified {
        told(status, body, retry_after, true)
    }

    fn told(status: u16, body: &str, retry_after: Option<&str>, proven: bool) -> Classified {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body };
        classify(&reply, SystemTime::UNIX_EPOCH, proven)
    }

    fn error(status: &str, code: &str) -> String {
        let detail = json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code });
        json!({ "error": { "status": status, "message": "…", "details": [detail] } }).to_string()
    }

    #[test]
    fn the_whole_table_p164() {
        use Next::{Alarm, Done, Fault, Renew, Retry, Suspect};
        const REFUSED: Outcome = Outcome::Refused;
        const FAULT: Outcome = Outcome::CredentialFault;
        const FAILED: Outcome = Outcome::Unavailable;
        let throttled = |seconds| Outcome::Throttled { retry_after: Some(Duration::from_secs(seconds)) };
        let rows = [
            (200, r#"{"name":"projects/p/messages/1"}"#.to_owned(), None, Outcome::Accepted, "ok", Done),
            (404, error("NOT_FOUND", "UNREGISTERED"), None, GONE, "unregistered", Done),
            (404, bare("NOT_FOUND"), None, REFUSED, "not_found", Alarm),
            (400, error("INVALID_ARGUMENT", "INVALID_ARGUMENT"), None, REFUSED, "invalid_argument", Alarm),
            (400, violation("message.token"), None, GONE, "invalid_token", Suspect),
            (400, violation("message.android.ttl"), None, REFUSED, "invalid_argument", Alarm),
            (403, error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"), None, GONE, "sender_id_mismatch", Suspect),
            (403, bare("PERMISSION_DENIED"), None, FAULT, "permission_denied", Fault),
            (429, error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), Some("7"), throttled(7), "quota_exceeded", Retry),
            (429, error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), None, throttled(60), "quota_exceeded", Retry),
            (503, error("UNAVAILABLE", "UNAVAILABLE"), Some("3"), throttled(3), "unavailable", Retry),
            (503, error("UNAVAILABLE", "UNAVAILABLE"), None, FAILED, "unavailable", Retry),
            (500, error("INTERNAL", "INTERNAL"), None, FAILED, "internal", Retry),
            (502, "<html><body>Bad Gateway</body></html>".to_owned(), None, FAILED, "bad_gateway", Retry),
            (504, String::new(), None, FAILED, "gateway_timeout", Retry),
            (529, String::new(), None, FAILED, "server_error", Retry),
            (401, error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), None, FAULT, "third_party_auth_error", Alarm),
            (401, bare("UNAUTHENTICATED"), None, FAULT, "unauthenticated", Renew),
            (401, String::new(), None, FAULT, "unauthenticated", Renew),
            (302, String::new(), None, REFUSED, "unexpected_status", Alarm),
        ];
        for (status, body, retry_after, outcome, name, next) in rows {
            let found = verdict(status, &body, retry_after);
            assert_eq!(found, Classified::new(outcome, name, next), "{status} {body}");
        }
    }

    fn bare(status: &str) -> String {
        json!({ "error": { "status": status } }).to_string()
    }

    fn violation(field: &str) -> String {
        let detail = json!({ "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{ "field": field, "description": "…" }] });
        json!({ "error": { "status": "INVALID_ARGUMENT", "details": [detail] } }).to_string()
    }

    #[test]
    fn until_a_message_was_accepted_a_blamed_token_may_be_our_mistake_p164() {
        let found = told(400, &violation("message.token"), None, false);
        assert_eq!(found, Classified::bug("invalid_argument"), "the token is kept");
    }

    #[test]
    fn a_code_of_another_type_of_detail_does_not_count_p164() {
        let body = r#"{"error":{"details":[{"@type":"type.googleapis.com/other","errorCode":"UNREGISTERED"}]}}"#;
        assert_eq!(verdict(404, body, None).outcome, Outcome::Refused);
    }
}
