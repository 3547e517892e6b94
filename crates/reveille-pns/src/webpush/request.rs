//! The request to a Web Push service: an empty message (P-127 to P-133), or one that says nothing (P-137).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use reveille_push::{PushClass, webpush::PushUrl};

use super::payload::PhoneKeys;
use crate::{
    opaque::Opaque,
    provider::{Authorization, Push},
};

/// `None` only where the parts make no valid request.
pub(super) fn build(
    url: &PushUrl<'_>,
    push: &Push<'_>,
    auth: &Authorization,
    opaque: &Opaque,
    keys: Option<&PhoneKeys>,
    urgent_requests: bool,
) -> Option<Request<Full<Bytes>>> {
    let slash = if url.path_and_query.starts_with('/') { "" } else { "/" };
    let ttl = match push.class {
        PushClass::Call => push.ttl.min(LONGEST_CALL),
        PushClass::Dialog | PushClass::Request | PushClass::Refresh => push.ttl,
    };
    let urgency = match (push.class, push.repeat) {
        (PushClass::Call | PushClass::Dialog, _) => "high",
        (PushClass::Request, _) if urgent_requests => "high",
        (PushClass::Request, _) => "normal",
        (PushClass::Refresh, 0) => "low",
        (PushClass::Refresh, _) => "normal",
    };
    let topic = opaque.daily(push.unix(), &[push.target.prid.expose().as_bytes(), push.class.as_str().as_bytes()]);
    let body = match keys {
        Some(keys) => keys.encrypt(TEXT)?,
        None => Vec::new(),
    };
    let mut request = Request::post(format!("{}{slash}{}", url.origin(), url.path_and_query))
        .header(header::AUTHORIZATION, auth.value.clone())
        .header(header::CONTENT_LENGTH, body.len())
        .header("ttl", ttl.as_secs())
        .header("urgency", urgency)
        .header("topic", topic);
    if !body.is_empty() {
        request = request
            .header(header::CONTENT_ENCODING, "aes128gcm")
            .header(header::CONTENT_TYPE, "application/octet-stream");
    }
    request.body(Full::new(Bytes::from(body))).ok()
}

/// P-106: the same for every push.
const TEXT: &[u8] = br#"{"k":"wake"}"#;

/// P-128.
const LONGEST_CALL: Duration = Duration::from_secs(30);
