//! What this crate's tests are written with.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reveille_sip::{limits::Limits, message::Message};

/// The moment every test starts at.
#[allow(clippy::disallowed_methods, reason = "an Instant can be had no other way; tests move on from this one")]
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// So many milliseconds later.
pub(crate) fn at(ms: u64) -> Instant {
    start() + Duration::from_millis(ms)
}

pub(crate) fn parse(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
}

/// A request as a caller sends it.
pub(crate) fn request(method: &str, branch: &str) -> Message {
    request_to(method, branch, "")
}

/// A request inside a dialog, where `to_tag` is not empty.
pub(crate) fn request_to(method: &str, branch: &str, to_tag: &str) -> Message {
    let to_tag = if to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    parse(&format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP caller.example:5070;branch={branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=from-1\r\nTo: <sip:bob@example.com>{to_tag}\r\nCall-ID: call-1\r\nCSeq: 1 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    ))
}

/// A request as we forward it.
pub(crate) fn forwarded(method: &str, branch: &str) -> Bytes {
    Bytes::from(format!(
        "{method} sip:bob@10.0.0.9 SIP/2.0\r\nVia: SIP/2.0/UDP proxy.example:5060;branch={branch}\r\n\
         Via: SIP/2.0/UDP caller.example:5070;branch=z9hG4bK-caller\r\nRoute: <sip:edge.example;lr>\r\n\
         Route: <sip:next.example;lr>, <sip:last.example;lr>\r\nMax-Forwards: 69\r\nFrom: <sip:alice@example.com>;tag=from-1\r\n\
         To: <sip:bob@example.com>\r\nCall-ID: call-1\r\nCSeq: 1 {method}\r\nRequire: 100rel\r\nContent-Length: 0\r\n\r\n"
    ))
}

pub(crate) fn forwarded_invite(branch: &str) -> Bytes {
    forwarded("INVITE", branch)
}

/// What a callee answers to [`forwarded`].
pub(crate) fn response(status: u16, branch: &str, method: &str, to_tag: &str) -> Message {
    response_with(status, branch, method, to_tag, "")
}

/// The same with further header lines, each ended by CRLF.
pub(crate) fn response_with(status: u16, branch: &str, method: &str, to_tag: &str, lines: &str) -> Message {
    parse(&format!(
        "SIP/2.0 {status} Whatever\r\nVia: SIP/2.0/UDP proxy.example:5060;branch={branch}\r\n\
         Via: SIP/2.0/UDP caller.example:5070;branch=z9hG4bK-caller\r\nFrom: <sip:alice@example.com>;tag=from-1\r\n\
         To: <sip:bob@example.com>;tag={to_tag}\r\nCall-ID: call-1\r\nCSeq: 1 {method}\r\n{lines}Content-Length: 0\r\n\r\n"
    ))
}
