//! The request to a Web Push service: an empty message (P-127 to P-133).

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use reveille_push::{PushClass, webpush::PushUrl};

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
) -> Option<Request<Full<Bytes>>> {
    let slash = if url.path_and_query.starts_with('/') { "" } else { "/" };
    let ttl = match push.class {
        PushClass::Call => push.ttl.min(LONGEST_CALL),
        PushClass::Request | PushClass::Refresh => push.ttl,
    };
    let urgency = match (push.class, push.repeat) {
        (PushClass::Call, _) => "high",
        (PushClass::Request, _) => "normal",
        (PushClass::Refresh, 0) => "low",
        (PushClass::Refresh, _) => "normal",
    };
    let topic = opaque.of(&[push.target.prid.expose().as_bytes(), push.class.as_str().as_bytes()]);
    Request::post(format!("{}{slash}{}", url.origin(), url.path_and_query))
        .header(header::AUTHORIZATION, auth.value.clone())
        .header(header::CONTENT_LENGTH, 0)
        .header("ttl", ttl.as_secs())
        .header("urgency", urgency)
        .header("topic", topic)
        .body(Full::default())
        .ok()
}

/// P-128.
const LONGEST_CALL: Duration = Duration::from_secs(30);
