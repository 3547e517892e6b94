//! What a webhook's answers mean: the status for the whole batch, and each result for its push.

use std::time::{Duration, SystemTime};

use reveille_push::Outcome;

use super::message::Item;
use crate::provider::{Classified, Next, Reply};

/// What the status says of every push of the batch; `None` where each has its own result.
pub(super) fn batch(reply: &Reply, now: SystemTime) -> Option<Classified> {
    let retry_after = reply.retry_after(now);
    Some(match reply.status.as_u16() {
        200 => return None,
        201..=299 => Classified::bug("no_results"),
        300..=399 => Classified::bug("redirect"),
        401 | 403 => Classified::fault("signature_refused"),
        404 | 405 | 410 => Classified::bug("no_such_webhook"),
        408 => Classified::new(Outcome::Unavailable, "timeout", Next::Retry),
        413 => Classified::bug("batch_too_large"),
        429 => Classified::new(Outcome::Throttled { retry_after }, "too_many_requests", Next::Retry),
        503 if retry_after.is_some() => Classified::new(Outcome::Throttled { retry_after }, "unavailable", Next::Retry),
        500..=599 => Classified::new(Outcome::Unavailable, "server_error", Next::Retry),
        _ => Classified::bug("unexpected_status"),
    })
}

/// What the result of one push says; `None` where the answer has none for it.
pub(super) fn item(item: Option<&Item>) -> Classified {
    let Some(item) = item else { return Classified::new(Outcome::Unavailable, "missing_result", Next::Retry) };
    match item.result.as_str() {
        "accepted" => Classified::done(Outcome::Accepted, "ok"),
        "gone" => {
            let at = |ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
            Classified::done(Outcome::Unregistered { since: item.since.and_then(at) }, "gone")
        }
        "retry" => match item.retry_after {
            Some(seconds) => {
                let retry_after = Some(Duration::from_secs(seconds.min(86_400)));
                Classified::new(Outcome::Throttled { retry_after }, "retry", Next::Retry)
            }
            None => Classified::new(Outcome::Unavailable, "retry", Next::Retry),
        },
        "failed" => Classified::done(Outcome::Refused, "failed"),
        _ => Classified::new(Outcome::Unavailable, "unknown_result", Next::Retry),
    }
}

/// There is an answer, but no results can be read from it.
pub(super) fn unreadable() -> Classified {
    Classified::new(Outcome::Unavailable, "unreadable_results", Next::Retry)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::*;
    use crate::webhook::message::results;

    #[test]
    fn the_whole_table_of_statuses() {
        use Next::{Alarm, Fault, Retry};
        let throttled = |seconds: Option<u64>| Outcome::Throttled { retry_after: seconds.map(Duration::from_secs) };
        for (status, retry_after, outcome, name, next) in [
            (201, None, Outcome::Refused, "no_results", Alarm),
            (204, None, Outcome::Refused, "no_results", Alarm),
            (307, None, Outcome::Refused, "redirect", Alarm),
            (400, None, Outcome::Refused, "unexpected_status", Alarm),
            (401, None, Outcome::CredentialFault, "signature_refused", Fault),
            (403, None, Outcome::CredentialFault, "signature_refused", Fault),
            (404, None, Outcome::Refused, "no_such_webhook", Alarm),
            (405, None, Outcome::Refused, "no_such_webhook", Alarm),
            (410, None, Outcome::Refused, "no_such_webhook", Alarm),
            (408, None, Outcome::Unavailable, "timeout", Retry),
            (413, None, Outcome::Refused, "batch_too_large", Alarm),
            (429, Some("4"), throttled(Some(4)), "too_many_requests", Retry),
            (429, None, throttled(None), "too_many_requests", Retry),
            (500, None, Outcome::Unavailable, "server_error", Retry),
            (502, None, Outcome::Unavailable, "server_error", Retry),
            (503, Some("9"), throttled(Some(9)), "unavailable", Retry),
            (503, None, Outcome::Unavailable, "server_error", Retry),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            }
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() };
            let found = batch(&reply, SystemTime::UNIX_EPOCH);
            assert_eq!(found, Some(Classified::new(outcome, name, next)), "{status}");
        }
        let reply = Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() };
        assert_eq!(batch(&reply, SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn the_whole_table_of_results() {
        use Next::{Done, Retry};
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(1_700_000_000_123));
        let throttled = |seconds| Outcome::Throttled { retry_after: Some(Duration::from_secs(seconds)) };
        for (rest, outcome, name, next) in [
            (r#""result":"accepted""#, Outcome::Accepted, "ok", Done),
            (r#""result":"gone""#, Outcome::Unregistered { since: None }, "gone", Done),
            (r#""result":"gone","since":1700000000123"#, Outcome::Unregistered { since }, "gone", Done),
            (r#""result":"retry""#, Outcome::Unavailable, "retry", Retry),
            (r#""result":"retry","retry_after":2"#, throttled(2), "retry", Retry),
            (r#""result":"retry","retry_after":999999999"#, throttled(86_400), "retry", Retry),
            (r#""result":"failed""#, Outcome::Refused, "failed", Done),
            (r#""result":"fine""#, Outcome::Unavailable, "unknown_result", Retry),
        ] {
            let results = results(format!(r#"[{{"id":"a",{rest}}}]"#).as_bytes()).unwrap();
            assert_eq!(item(results.get("a")), Classified::new(outcome, name, next), "{rest}");
        }
        assert_eq!(item(None), Classified::new(Outcome::Unavailable, "missing_result", Retry));
    }
}
