//! What a Web Push service's answers mean (P-127, P-134, P-135).

use std::time::SystemTime;

use reveille_push::Outcome;

use crate::provider::{Classified, Next, Reply};

pub(super) fn classify(reply: &Reply, now: SystemTime) -> Classified {
    let retry_after = reply.retry_after(now);
    match reply.status.as_u16() {
        200..=299 => Classified::done(Outcome::Accepted, "ok"),
        // Never followed (P-140).
        300..=399 => Classified::done(Outcome::Refused, "redirect"),
        400 => Classified::bug("bad_request"),
        401 | 403 => Classified::new(Outcome::CredentialFault, "vapid_refused", Next::Renew),
        404 | 410 => Classified::done(Outcome::Unregistered { since: None }, "subscription_gone"),
        413 => Classified::bug("payload_too_large"),
        429 => Classified::new(Outcome::Throttled { retry_after }, "too_many_requests", Next::Retry),
        503 if retry_after.is_some() => Classified::new(Outcome::Throttled { retry_after }, "unavailable", Next::Retry),
        500..=599 => Classified::new(Outcome::Unavailable, "server_error", Next::Retry),
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
        for (status, retry_after, outcome, next) in [
            (201, None, Outcome::Accepted, Done),
            (202, None, Outcome::Accepted, Done),
            (200, None, Outcome::Accepted, Done),
            (301, None, Outcome::Refused, Done),
            (307, None, Outcome::Refused, Done),
            (400, None, Outcome::Refused, Alarm),
            (401, None, Outcome::CredentialFault, Renew),
            (403, None, Outcome::CredentialFault, Renew),
            (404, None, GONE, Done),
            (410, None, GONE, Done),
            (413, None, Outcome::Refused, Alarm),
            (429, Some("9"), throttled(Some(9)), Retry),
            (429, None, throttled(None), Retry),
            (500, None, Outcome::Unavailable, Retry),
            (502, None, Outcome::Unavailable, Retry),
            (503, None, Outcome::Unavailable, Retry),
            (503, Some("4"), throttled(Some(4)), Retry),
            (418, None, Outcome::Refused, Done),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            }
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() };
            let found = classify(&reply, SystemTime::UNIX_EPOCH);
            assert_eq!((found.outcome, found.next), (outcome, next), "{status}");
        }
    }
}
