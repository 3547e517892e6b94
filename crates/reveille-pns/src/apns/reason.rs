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
    let throttled = Outcome::Throttled { retry_after: reply.retry_after(now) };
    match (reply.status.as_u16(), body.reason.as_str()) {
        (200, _) => Classified::done(Outcome::Accepted, "ok"),
        // Unusable for this environment or topic, for ever: the token goes, the operator hears of it (P-153).
        (400, "BadDeviceToken") => gone(None, "bad_device_token", Next::Alarm),
        (400, "DeviceTokenNotForTopic") => gone(None, "device_token_not_for_topic", Next::Alarm),
        (400, "BadTopic" | "MissingTopic" | "TopicDisallowed") => Classified::bug("topic"),
        (400, _) => Classified::bug("bad_request"),
        (403, "ExpiredProviderToken") => {
            Classified::new(Outcome::CredentialFault, "expired_provider_token", Next::Renew)
        }
        (403, "InvalidProviderToken") => Classified::fault("invalid_provider_token"),
        (403, "MissingProviderToken") => Classified::fault("missing_provider_token"),
        (401 | 403, _) => Classified::fault("forbidden"),
        (404, _) => Classified::bug("bad_path"),
        (405, _) => Classified::bug("method_not_allowed"),
        (410, "ExpiredToken") => gone(since, "expired_token", Next::Done),
        (410, _) => gone(since, "unregistered", Next::Done),
        (413, _) => Classified::bug("payload_too_large"),
        (429, "TooManyProviderTokenUpdates") => Classified::new(throttled, "too_many_token_updates", Next::Hold),
        (429, _) => Classified::new(throttled, "too_many_requests", Next::Retry),
        (500, _) => unavailable(class, "internal_server_error"),
        (503, "Shutdown") => unavailable(class, "shutdown"),
        (503, _) => unavailable(class, "service_unavailable"),
        (500..=599, _) => unavailable(class, "server_error"),
        _ => Classified::bug("unexpected_status"),
    }
}

fn gone(since: Option<SystemTime>, reason: &'static str, next: Next) -> Classified {
    Classified::new(Outcome::Unregistered { since }, reason, next)
}

/// Apple wants a quarter of an hour before the next try: whoever waits is told now, only a refresh can try again (P-153).
fn unavailable(class: PushClass, reason: &'static str) -> Classified {
    let next = if class == PushClass::Refresh { Next::Retry } else { Next::Done };
    Classified::new(Outcome::Unavailable, reason, next)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn verdict(class: PushClass, status: u16, body: &str) -> Classified {
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        classify(class, &reply, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_whole_table_p152_p153() {
        use Next::{Alarm, Done, Fault, Hold, Renew, Retry};
        const GONE: Outcome = Outcome::Unregistered { since: None };
        const LIMITED: Outcome = Outcome::Throttled { retry_after: None };
        let rows = [
            (200, "", Outcome::Accepted, Done),
            (400, "BadDeviceToken", GONE, Alarm),
            (400, "DeviceTokenNotForTopic", GONE, Alarm),
            (400, "BadTopic", Outcome::Refused, Alarm),
            (400, "MissingTopic", Outcome::Refused, Alarm),
            (400, "TopicDisallowed", Outcome::Refused, Alarm),
            (400, "BadPriority", Outcome::Refused, Alarm),
            (400, "BadExpirationDate", Outcome::Refused, Alarm),
            (400, "BadCollapseId", Outcome::Refused, Alarm),
            (400, "InvalidPushType", Outcome::Refused, Alarm),
            (400, "IdleTimeout", Outcome::Refused, Alarm),
            (403, "ExpiredProviderToken", Outcome::CredentialFault, Renew),
            (403, "InvalidProviderToken", Outcome::CredentialFault, Fault),
            (403, "MissingProviderToken", Outcome::CredentialFault, Fault),
            (403, "Forbidden", Outcome::CredentialFault, Fault),
            (403, "BadEnvironmentKeyIdInToken", Outcome::CredentialFault, Fault),
            (403, "UnrelatedKeyIdInToken", Outcome::CredentialFault, Fault),
            (401, "", Outcome::CredentialFault, Fault),
            (404, "BadPath", Outcome::Refused, Alarm),
            (405, "MethodNotAllowed", Outcome::Refused, Alarm),
            (410, "Unregistered", GONE, Done),
            (410, "ExpiredToken", GONE, Done),
            (410, "", GONE, Done),
            (413, "PayloadTooLarge", Outcome::Refused, Alarm),
            (429, "TooManyRequests", LIMITED, Retry),
            (429, "TooManyProviderTokenUpdates", LIMITED, Hold),
            (500, "InternalServerError", Outcome::Unavailable, Done),
            (503, "ServiceUnavailable", Outcome::Unavailable, Done),
            (503, "Shutdown", Outcome::Unavailable, Done),
            (502, "", Outcome::Unavailable, Done),
            (302, "", Outcome::Refused, Alarm),
            (201, "", Outcome::Refused, Alarm),
        ];
        for (status, reason, outcome, next) in rows {
            let found = verdict(PushClass::Call, status, &format!(r#"{{"reason":"{reason}"}}"#));
            assert_eq!((found.outcome, found.next), (outcome, next), "{status} {reason}");
        }
    }

    #[test]
    fn only_a_refresh_is_repeated_after_a_server_error_p153() {
        for status in [500, 503] {
            assert_eq!(verdict(PushClass::Call, status, "").next, Next::Done);
            assert_eq!(verdict(PushClass::Request, status, "").next, Next::Done);
            assert_eq!(verdict(PushClass::Refresh, status, "").next, Next::Retry);
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
