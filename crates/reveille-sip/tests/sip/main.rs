//! What this crate promises, seen from outside: framing, torture messages, values, splicing, answers, properties.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod archive;
mod edit;
mod frame;
mod header;
mod properties;
mod redact;
mod response;
mod torture;
mod uri;

use bytes::Bytes;
use reveille_sip::{
    limits::Limits,
    message::{Message, ParseError},
    validate,
};

/// A request with a bit of everything.
const INVITE: &str = concat!(
    "INVITE sip:bob@example.com SIP/2.0\r\n",
    "Via: SIP/2.0/TLS 192.0.2.4:5061;branch=z9hG4bKnashds8;rport, SIP/2.0/UDP [2001:db8::1]:5070;branch=z9hG4bKlower\r\n",
    "v: SIP/2.0/TCP inner.example.com;branch=z9hG4bKinner\r\n",
    "Max-Forwards: 70\r\n",
    "Route: <sip:edge.example.com;lr>, \"a,b\" <sip:home.example.com;lr>\r\n",
    "Route: <sip:far.example.com;lr>\r\n",
    "From: \"Alice, A.\" <sip:alice@example.com>;tag=88sja8x\r\n",
    "To: <sip:bob@example.com>\r\n",
    "Call-ID: 843817637684230@998sdasdh09\r\n",
    "CSeq: 31862 INVITE\r\n",
    "Contact: <sip:alice@192.0.2.4:5061;transport=tls>\r\n",
    "X-Odd: ;;,,;;,;\r\n",
    "Content-Type: application/octet-stream\r\n",
    "Content-Length: 5\r\n",
    "\r\n",
    "a\0\r\n\x07",
);

fn parse(text: impl AsRef<[u8]>) -> Result<Message, ParseError> {
    Message::parse(Bytes::copy_from_slice(text.as_ref()), &Limits::default())
}

/// What becomes of a message that comes in one datagram: 0 if it is processed, else the status of the answer; responses are
/// dropped with any status.
fn verdict(bytes: &[u8]) -> u16 {
    match parse(bytes) {
        Err(error) => error.status,
        Ok(message) if message.is_request() => validate::request(&message).err().map_or(0, |r| r.status),
        Ok(message) => validate::response(&message).err().map_or(0, |_| 400),
    }
}
