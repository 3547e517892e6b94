//! What a push service is to a dispatcher: where to send, with which credential, what to say, and what an answer means.

use std::{sync::Arc, time::Duration, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use reveille_push::{
    Provider as Pns, PushTarget,
    caps::Announcement,
    service::{Outcome, PushClass, Ticket},
};
use reveille_runtime::clock;

use crate::{BoxFuture, SettingsError, pool::Pool};

/// One credential at one push service.
pub(crate) trait Provider: Send + Sync + 'static {
    /// The metric label: `apns`, `fcm`, `webpush` or `webhook`.
    fn pns(&self) -> &'static str;

    /// The credential's name in the configuration.
    fn name(&self) -> &str;

    /// The `pn-provider` it serves.
    fn serves(&self) -> Pns;

    /// What a REGISTER's answer says of it (P-024, P-025).
    fn announcement(&self) -> Announcement;

    /// Whether the target is well-formed and on this credential's allow-list (P-118, P-138).
    fn allows(&self, target: &PushTarget) -> bool;

    /// Whether a push of this class may be sent to the target at all (P-151).
    fn can_wake(&self, _target: &PushTarget, _class: PushClass) -> bool {
        true
    }

    /// Whether there is a credential to send with right now (P-122).
    fn ready(&self, now: SystemTime) -> bool;

    /// The push goes with others in one request, and this is its result; `None` where each push is a request of its own, as
    /// what follows makes it.
    fn batched<'a>(&'a self, _push: &Push<'a>, _ticket: &Ticket) -> Option<BoxFuture<'a, Classified>> {
        None
    }

    /// The connections that lead to the target.
    fn route<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>>;

    /// The credential for this target.
    fn authorize<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>>;

    /// The push service said that the credential `used` is stale: whether there is now another one to try. Asked at most
    /// [`Provider::renewals`] times for one attempt.
    fn renew<'a>(&'a self, push: &'a Push<'a>, used: &'a Authorization) -> BoxFuture<'a, bool>;

    /// Pushes a minute that may leave, where the push service has a quota (P-165).
    fn per_minute(&self) -> Option<u32> {
        None
    }

    /// How often a refused credential may be renewed within one attempt.
    fn renewals(&self) -> u32 {
        1
    }

    /// An attempt begins. Where this allows it, [`Provider::ended`] follows, whatever happens.
    fn begin(&self, _target: &PushTarget) -> Result<(), Classified> {
        Ok(())
    }

    /// An attempt has ended; `failed` where the push service did not answer, or failed by itself.
    fn ended(&self, _target: &PushTarget, _failed: bool) {}

    /// The push service wants no new credentials for a while (P-153).
    fn hold(&self, _now: SystemTime) {}

    /// The request itself.
    fn request(&self, push: &Push<'_>, auth: &Authorization) -> Result<Request<Full<Bytes>>, Classified>;

    /// What the answer means.
    fn classify(&self, push: &Push<'_>, reply: &Reply) -> Classified;

    /// Whether a push that may have been processed already may be sent again.
    fn repeatable(&self, _class: PushClass) -> bool {
        true
    }

    /// Renews what is about to expire; called every now and then.
    fn maintain(&self, now: SystemTime) -> BoxFuture<'_, ()>;

    /// Seconds since the credential in use was made, where it is made ahead of a push.
    fn token_age(&self, now: SystemTime) -> Option<u64>;

    /// Reads keys and roots again (P-125). On an error what was in use stays in use.
    fn reload(&self) -> Result<(), SettingsError>;
}

/// One push as a provider sees it.
pub(crate) struct Push<'a> {
    pub(crate) target: &'a PushTarget,
    pub(crate) class: PushClass,
    /// How long the push service may keep the message.
    pub(crate) ttl: Duration,
    /// Attempts that were made before this one.
    pub(crate) attempt: u32,
    /// Attempts and pushes before this one that came to nothing, other addresses of the same host not counted (P-129).
    pub(crate) repeat: u32,
    /// How often the credential was refused within this attempt.
    pub(crate) refusals: u32,
    /// The random number of the job.
    pub(crate) id: u64,
    pub(crate) now: SystemTime,
}

impl Push<'_> {
    /// Wall time in whole seconds.
    pub(crate) fn unix(&self) -> u64 {
        unix(self.now)
    }
}

/// Wall time in whole seconds since the Unix epoch.
pub(crate) fn unix(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The wall clock, read by the shell.
pub(crate) fn wall_now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(clock::unix_now_millis())
}

/// The value of the `authorization` header, marked sensitive.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) value: HeaderValue,
    /// Tells one credential from the next.
    pub(crate) generation: u64,
}

impl Authorization {
    /// `None` where the text is no header value.
    pub(crate) fn new(text: &str, generation: u64) -> Option<Self> {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(Self { value, generation })
    }
}

/// Why there is no credential to send with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The authority refused our key.
    #[error("the credential was refused")]
    Refused,
    /// The authority could not be reached, or could not answer.
    #[error("the credential could not be had")]
    Unavailable,
}

/// An answer, its body cut off at the limit.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// `Retry-After` in either form (RFC 9110 §10.2.3), at most a day.
    pub(crate) fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let text = self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
        };
        Some(wait.min(Duration::from_secs(86_400)))
    }
}

/// What an answer means: the verdict if nothing more is done, its name for the metrics, and what to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Classified {
    pub(crate) outcome: Outcome,
    pub(crate) reason: &'static str,
    pub(crate) next: Next,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The verdict is final.
    Done,
    /// The verdict is final, and an operator should know: our mistake, or the configuration's.
    Alarm,
    /// The verdict is final; many like it at once would be the configuration's fault, and an operator should know then.
    Suspect,
    /// Again later, within the deadline: after the time the outcome names, or a growing pause of our own.
    Retry,
    /// Again after this time, if the deadline allows.
    RetryIn(Duration),
    /// As `Retry`, and no new credentials until the push service has calmed down.
    Hold,
    /// Again at once with a renewed credential; a second time is a fault.
    Renew,
    /// The credential itself was refused (P-122).
    Fault,
}

impl Classified {
    pub(crate) fn new(outcome: Outcome, reason: &'static str, next: Next) -> Self {
        Self { outcome, reason, next }
    }

    pub(crate) fn done(outcome: Outcome, reason: &'static str) -> Self {
        Self::new(outcome, reason, Next::Done)
    }

    pub(crate) fn bug(reason: &'static str) -> Self {
        Self::new(Outcome::Refused, reason, Next::Alarm)
    }

    pub(crate) fn fault(reason: &'static str) -> Self {
        Self::new(Outcome::CredentialFault, reason, Next::Fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        for (text, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            (date.as_str(), Some(90)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("999999999", Some(86_400)),
            ("soon", None),
            ("-3", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            let reply = Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Bytes::new() };
            assert_eq!(reply.retry_after(now), expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
