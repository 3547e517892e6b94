//! What APNs' answers mean (P-152 to P-155).

use std::time::{Duration, SystemTime};

use reveille_push::{Outcome, PushClass};
use serde::Deserialize;

use crate::provider::{Classified, Next, Reply};

#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    reason: String,
    /// Milliseconds since the epoch; with 410 only.
    timestamp: Option<u64>,
}

pub(super) fn classify(class: PushClass, reply: &Reply, now: SystemTime) -> Classified {
    let body: ErrorBody = serde_json::from_slice(&reply.body).unwrap_or_default();
    let since = body.timestamp.and_then(|ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    let retry_after = reply.retry_after(now);
    let throttled = Outcome::Throttled { retry_after };
    match (reply.status.as_u16(), body.reason.as_str()) {
        (200, _) => Classified::done(Outcome::Accepted, "ok"),
        // Unusable for this environment or topic, for ever: the token goes. Many of them at once mean that the environment or
        // the topic is wrong, not the tokens.
        (400, "BadDeviceToken") => gone(None, "bad_device_token", Next::Suspect),
        (400, "DeviceTokenNotForTopic") => gone(None, "device_token_not_for_topic", Next::Suspect),
        // The configuration's mistakes, and ours.
        (400, "BadTopic") => Classified::bug("bad_topic"),
        (400, "MissingTopic") => Classified::bug("missing_topic"),
        (400, "TopicDisallowed") => Classified::bug("topic_disallowed"),
        (400, "BadPriority") => Classified::bug("bad_priority"),
        (400, "BadExpirationDate") => Classified::bug("bad_expiration_date"),
        (400, "BadCollapseId") => Classified::bug("bad_collapse_id"),
        (400, "BadMessageId") => Classified::bug("bad_message_id"),
        (400, "InvalidPushType") => Classified::bug("invalid_push_type"),
        (400, "DuplicateHeaders") => Classified::bug("duplicate_headers"),
        (400, "MissingDeviceToken") => Classified::bug("missing_device_token"),
        (400, "PayloadEmpty") => Classified::bug("payload_empty"),
        // Apple closed a connection on which nothing had been asked for too long: nothing is wrong with the push.
        (400, "IdleTimeout") => Classified::new(Outcome::Unavailable, "idle_timeout", Next::Retry),
        (400, _) => Classified::bug("bad_request"),
        (403, "ExpiredProviderToken") => {
            Classified::new(Outcome::CredentialFault, "expired_provider_token", Next::Renew)
        }
        (403, "InvalidProviderToken") => Classified::fault("invalid_provider_token"),
        (403, "MissingProviderToken") => Classified::fault("missing_provider_token"),
        // The key belongs to the other environment, or to another team.
        (403, "BadEnvironmentKeyIdInToken") => Classified::fault("bad_environment_key_id"),
        (403, "UnrelatedKeyIdInToken") => Classified::fault("unrelated_key_id"),
        (401 | 403, _) => Classified::fault("forbidden"),
        (404, _) => Classified::bug("bad_path"),
        (405, _) => Classified::bug("method_not_allowed"),
        (410, "ExpiredToken") => gone(since, "expired_token", Next::Done),
        (410, _) => gone(since, "unregistered", Next::Done),
        (413, _) => Classified::bug("payload_too_large"),
        (429, "TooManyProviderTokenUpdates") => Classified::new(throttled, "too_many_token_updates", Next::Hold),
        (429, _) => Classified::new(throttled, "too_many_requests", Next::Retry),
        (500, _) => unavailable(class, retry_after, "internal_server_error"),
        (503, "Shutdown") => unavailable(class, retry_after, "shutdown"),
        (503, _) => unavailable(class, retry_after, "service_unavailable"),
        (500..=599, _) => unavailable(class, retry_after, "server_error"),
        _ => Classified::bug("unexpected_status"),
    }
}

fn gone(since: Option<SystemTime>, reason: &'static str, next: Next) -> Classified {
    Classified::new(Outcome::Unregistered { since }, reason, next)
}

/// Apple wants a quarter of an hour before the next try, or the time it names: whoever waits is told now, only a refresh can
/// try again, where its deadline leaves room for that (P-153).
fn unavailable(class: PushClass, retry_after: Option<Duration>, reason: &'static str) -> Classified {
    match class {
        PushClass::Call | PushClass::Request => Classified::new(Outcome::Unavailable, reason, Next::Done),
        PushClass::Refresh => {
            Classified::new(Outcome::Unavailable, reason, Next::RetryIn(retry_after.unwrap_or(PAUSE)))
        }
    }
}

/// What Apple asks for after a failure of its own.
const PAUSE: Duration = Duration::from_secs(15 * 60);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::*;

    fn verdict(class: PushClass, status: u16, body: &str) -> Classified {
        told(class, status, body, None)
    }

    fn told(class: PushClass, status: u16, body: &str, retry_after: Option<&'static str>) -> Classified {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body };
        classify(class, &reply, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_whole_table_p152_p153() {
        use Next::{Alarm, Done, Fault, Hold, Renew, Retry, Suspect};
        const GONE: Outcome = Outcome::Unregistered { since: None };
        const LIMITED: Outcome = Outcome::Throttled { retry_after: None };
        const REFUSED: Outcome = Outcome::Refused;
        const FAULT: Outcome = Outcome::CredentialFault;
        const FAILED: Outcome = Outcome::Unavailable;
        let rows = [
            (200, "", Outcome::Accepted, "ok", Done),
            (400, "BadDeviceToken", GONE, "bad_device_token", Suspect),
            (400, "DeviceTokenNotForTopic", GONE, "device_token_not_for_topic", Suspect),
            (400, "BadTopic", REFUSED, "bad_topic", Alarm),
            (400, "MissingTopic", REFUSED, "missing_topic", Alarm),
            (400, "TopicDisallowed", REFUSED, "topic_disallowed", Alarm),
            (400, "BadPriority", REFUSED, "bad_priority", Alarm),
            (400, "BadExpirationDate", REFUSED, "bad_expiration_date", Alarm),
            (400, "BadCollapseId", REFUSED, "bad_collapse_id", Alarm),
            (400, "BadMessageId", REFUSED, "bad_message_id", Alarm),
            (400, "InvalidPushType", REFUSED, "invalid_push_type", Alarm),
            (400, "DuplicateHeaders", REFUSED, "duplicate_headers", Alarm),
            (400, "MissingDeviceToken", REFUSED, "missing_device_token", Alarm),
            (400, "PayloadEmpty", REFUSED, "payload_empty", Alarm),
            (400, "IdleTimeout", FAILED, "idle_timeout", Retry),
            (400, "SomethingNew", REFUSED, "bad_request", Alarm),
            (403, "ExpiredProviderToken", FAULT, "expired_provider_token", Renew),
            (403, "InvalidProviderToken", FAULT, "invalid_provider_token", Fault),
            (403, "MissingProviderToken", FAULT, "missing_provider_token", Fault),
            (403, "BadEnvironmentKeyIdInToken", FAULT, "bad_environment_key_id", Fault),
            (403, "UnrelatedKeyIdInToken", FAULT, "unrelated_key_id", Fault),
            (403, "Forbidden", FAULT, "forbidden", Fault),
            (403, "SomethingNew", FAULT, "forbidden", Fault),
            (401, "", FAULT, "forbidden", Fault),
            (404, "BadPath", REFUSED, "bad_path", Alarm),
            (405, "MethodNotAllowed", REFUSED, "method_not_allowed", Alarm),
            (410, "Unregistered", GONE, "unregistered", Done),
            (410, "ExpiredToken", GONE, "expired_token", Done),
            (410, "", GONE, "unregistered", Done),
            (413, "PayloadTooLarge", REFUSED, "payload_too_large", Alarm),
            (429, "TooManyRequests", LIMITED, "too_many_requests", Retry),
            (429, "TooManyProviderTokenUpdates", LIMITED, "too_many_token_updates", Hold),
            (500, "InternalServerError", FAILED, "internal_server_error", Done),
            (503, "ServiceUnavailable", FAILED, "service_unavailable", Done),
            (503, "Shutdown", FAILED, "shutdown", Done),
            (502, "", FAILED, "server_error", Done),
            (302, "", REFUSED, "unexpected_status", Alarm),
            (201, "", REFUSED, "unexpected_status", Alarm),
        ];
        for (status, reason, outcome, name, next) in rows {
            let found = verdict(PushClass::Call, status, &format!(r#"{{"reason":"{reason}"}}"#));
            assert_eq!(found, Classified::new(outcome, name, next), "{status} {reason}");
        }
    }

    #[test]
    fn a_throttled_push_waits_as_long_as_apple_says_p153() {
        let found = told(PushClass::Call, 429, r#"{"reason":"TooManyRequests"}"#, Some("7"));
        assert_eq!(found.outcome, Outcome::Throttled { retry_after: Some(Duration::from_secs(7)) });
    }

    #[test]
    fn only_a_refresh_is_repeated_after_a_server_error_and_not_soon_p153() {
        for status in [500, 503] {
            assert_eq!(verdict(PushClass::Call, status, "").next, Next::Done);
            assert_eq!(verdict(PushClass::Request, status, "").next, Next::Done);
            assert_eq!(verdict(PushClass::Refresh, status, "").next, Next::RetryIn(PAUSE));
            let told = told(PushClass::Refresh, status, "", Some("40"));
            assert_eq!(told.next, Next::RetryIn(Duration::from_secs(40)));
        }
    }

    #[test]
    fn gone_carries_its_time_p154() {
        let found = verdict(PushClass::Call, 410, r#"{"reason":"Unregistered","timestamp":1700000000123}"#);
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(found.outcome, Outcome::Unregistered { since: Some(since) });
        let found = verdict(PushClass::Call, 410, r#"{"reason":"Unregistered","timestamp":18446744073709551615}"#);
        assert!(matches!(found.outcome, Outcome::Unregistered { .. }));
    }

    #[test]
    fn broken_bodies_leave_the_status_to_decide() {
        for body in ["", "<html>", "[]", r#"{"reason":7}"#, "\u{0}"] {
            assert_eq!(verdict(PushClass::Call, 410, body).outcome, Outcome::Unregistered { since: None }, "{body}");
        }
    }
}
