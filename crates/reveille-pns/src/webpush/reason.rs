//! What a Web Push service's answers mean (P-127, P-134, P-135).

use std::time::SystemTime;

use reveille_push::Outcome;

use crate::provider::{Classified, Next, Reply};

pub(super) fn classify(reply: &Reply, now: SystemTime) -> Classified {
    let retry_after = reply.retry_after(now);
    match reply.status.as_u16() {
        // 201, or 202 where a receipt was asked for; what is deployed says 200 as well.
        200..=202 => Classified::done(Outcome::Accepted, "ok"),
        // Never followed (P-140).
        300..=399 => Classified::done(Outcome::Refused, "redirect"),
        400 => Classified::bug("bad_request"),
        401 | 403 => Classified::new(Outcome::CredentialFault, "vapid_refused", Next::Renew),
        404 | 410 => Classified::done(Outcome::Unregistered { since: None }, "subscription_gone"),
        405 => Classified::bug("method_not_allowed"),
        413 => Classified::bug("payload_too_large"),
        429 => Classified::new(Outcome::Throttled { retry_after }, "too_many_requests", Next::Retry),
        503 if retry_after.is_some() => Classified::new(Outcome::Throttled { retry_after }, "unavailable", Next::Retry),
        500 => Classified::new(Outcome::Unavailable, "internal", Next::Retry),
        502 => Classified::new(Outcome::Unavailable, "bad_gateway", Next::Retry),
        503 => Classified::new(Outcome::Unavailable, "unavailable", Next::Retry),
        504 => Classified::new(Outcome::Unavailable, "gateway_timeout", Next::Retry),
        501 | 505..=599 => Classified::new(Outcome::Unavailable, "server_error", Next::Retry),
        _ => Classified::done(Outcome::Refused, "unexpected_status"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::*;

    #[test]
    fn the_whole_table_p127_p134_p135_p140() {
        use Next::{Alarm, Done, Renew, Retry};
        const GONE: Outcome = Outcome::Unregistered { since: None };
        let throttled = |seconds: Option<u64>| Outcome::Throttled { retry_after: seconds.map(Duration::from_secs) };
        for (status, retry_after, outcome, name, next) in [
            (201, None, Outcome::Accepted, "ok", Done),
            (202, None, Outcome::Accepted, "ok", Done),
            (200, None, Outcome::Accepted, "ok", Done),
            (204, None, Outcome::Refused, "unexpected_status", Done),
            (301, None, Outcome::Refused, "redirect", Done),
            (307, None, Outcome::Refused, "redirect", Done),
            (400, None, Outcome::Refused, "bad_request", Alarm),
            (401, None, Outcome::CredentialFault, "vapid_refused", Renew),
            (403, None, Outcome::CredentialFault, "vapid_refused", Renew),
            (404, None, GONE, "subscription_gone", Done),
            (405, None, Outcome::Refused, "method_not_allowed", Alarm),
            (410, None, GONE, "subscription_gone", Done),
            (413, None, Outcome::Refused, "payload_too_large", Alarm),
            (429, Some("9"), throttled(Some(9)), "too_many_requests", Retry),
            (429, None, throttled(None), "too_many_requests", Retry),
            (500, None, Outcome::Unavailable, "internal", Retry),
            (502, None, Outcome::Unavailable, "bad_gateway", Retry),
            (503, None, Outcome::Unavailable, "unavailable", Retry),
            (503, Some("4"), throttled(Some(4)), "unavailable", Retry),
            (504, None, Outcome::Unavailable, "gateway_timeout", Retry),
            (507, None, Outcome::Unavailable, "server_error", Retry),
            (418, None, Outcome::Refused, "unexpected_status", Done),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            }
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() };
            let found = classify(&reply, SystemTime::UNIX_EPOCH);
            assert_eq!(found, Classified::new(outcome, name, next), "{status}");
        }
    }
}
