//! Our own answers to requests (RFC 3261 §8.2.6).

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use bytes::Bytes;

use crate::{
    edit::{write_corrected_via, write_length, write_line},
    header::HeaderId,
    limits::Limits,
    message::Message,
    split,
    typed::{NameAddr, Via},
};

/// Builds one answer. Vias, From, To, Call-ID and CSeq are those of the request.
pub struct ResponseBuilder<'m> {
    request: &'m Message,
    status: u16,
    reason: Option<String>,
    tag: Option<String>,
    received: Option<(IpAddr, Option<u16>)>,
    /// Further header lines, as they will leave.
    lines: Vec<u8>,
    body: Option<(String, Bytes)>,
}

impl<'m> ResponseBuilder<'m> {
    /// An answer to `request`.
    pub fn to(request: &'m Message, status: u16) -> Self {
        Self { request, status, reason: None, tag: None, received: None, lines: Vec::new(), body: None }
    }

    /// A reason phrase other than the usual one.
    pub fn reason(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// The tag for To, used where the request's To has none (S-045).
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// Adds a header.
    pub fn header(mut self, id: HeaderId, value: impl AsRef<str>) -> Self {
        write_line(&mut self.lines, id.name(), value.as_ref());
        self
    }

    /// Adds a header without an id.
    pub fn named(mut self, name: &str, value: &str) -> Self {
        write_line(&mut self.lines, name, value);
        self
    }

    /// Says in the top Via where the request came from (RFC 3261 §18.2.1, RFC 3581 §4).
    pub fn received(mut self, address: IpAddr, rport: Option<u16>) -> Self {
        self.received = Some((address, rport));
        self
    }

    /// Adds a body.
    pub fn body(mut self, content_type: &str, body: Bytes) -> Self {
        self.body = Some((content_type.to_owned(), body));
        self
    }

    /// The bytes of the answer.
    pub fn build(self) -> Bytes {
        // Kept with its transaction for as long as the request may come again: no larger than it must be.
        let vias: usize = self.request.lines(HeaderId::Via).map(|via| via.len() + VIA_ROOM).sum();
        let echoed: usize =
            ECHOED.into_iter().filter_map(|id| self.request.value(id)).map(|v| v.len() + LINE_ROOM).sum();
        let body = self.body.as_ref().map_or(0, |(content_type, body)| content_type.len() + body.len() + LINE_ROOM);
        let mut out = Vec::with_capacity(HEAD_ROOM + vias + echoed + self.lines.len() + body);
        write_status_line(&mut out, self.status, self.reason.as_deref().unwrap_or_else(|| reason(self.status)));
        for (at, via) in self.request.lines(HeaderId::Via).enumerate() {
            match self.received.filter(|_| at == 0) {
                Some((address, rport)) => {
                    out.extend_from_slice(b"Via: ");
                    write_corrected_via(&mut out, via.as_bytes(), Some(address), rport);
                    out.extend_from_slice(b"\r\n");
                }
                None => write_line(&mut out, "Via", via),
            }
        }
        for id in ECHOED {
            let Some(value) = self.request.value(id) else { continue };
            match &self.tag {
                // A 100 makes no dialog and gets no tag (S-045).
                Some(tag) if id == HeaderId::To && self.status != 100 && self.request.to_tag().is_none() => {
                    write_line(&mut out, "To", &format!("{value};tag={tag}"));
                }
                _ => write_line(&mut out, id.name(), value),
            }
        }
        if self.status == 100
            && let Some(stamp) = self.request.value(HeaderId::Timestamp)
        {
            write_line(&mut out, "Timestamp", stamp); // RFC 3261 §8.2.6.1; S-044
        }
        out.extend_from_slice(&self.lines);
        let body = self.body.map(|(content_type, body)| {
            write_line(&mut out, "Content-Type", &content_type);
            body
        });
        let body = body.unwrap_or_default();
        write_length(&mut out, body.len());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&body);
        Bytes::from(out)
    }
}

/// What every answer repeats besides Via (RFC 3261 §8.2.6.2).
const ECHOED: [HeaderId; 4] = [HeaderId::From, HeaderId::To, HeaderId::CallId, HeaderId::CSeq];
/// Octets for the status line, the tag in To, Content-Length and the end of the head.
const HEAD_ROOM: usize = 128;
/// Octets for a header's name, colon and line end.
const LINE_ROOM: usize = 20;
/// The same for a Via, with the address and the port that it may be given.
const VIA_ROOM: usize = 80;

/// The usual reason phrase of a status code.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        424 => "Bad Location Information",
        425 => "Bad Alert Message",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        437 => "Unsupported Credential",
        438 => "Invalid Identity Header",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        469 => "Bad Info Package",
        470 => "Consent Needed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => "Unknown",
    }
}

/// An answer to a request that is too broken for [`Message::parse`], where its Via, From, To, Call-ID and CSeq can be found
/// all the same (S-017). `None` for ACK, for responses, and where they cannot.
///
/// `head` may end anywhere; a line that is cut off is not used. The tag in To depends on nothing but the request, so a
/// copy of it is answered alike (S-045).
pub fn best_effort(head: &[u8], status: u16, reason: &str) -> Option<Bytes> {
    const WANTED: [HeaderId; 4] = [HeaderId::From, HeaderId::To, HeaderId::CallId, HeaderId::CSeq];
    let head = head.get(..head.len().min(Limits::default().header_section))?;
    let flat = crate::message::unfold(head);
    let text = String::from_utf8_lossy(&flat);
    let mut lines = text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')).map(|l| l.trim_end_matches('\r'));
    let start = lines.next()?.trim_ascii_start();
    let is_response = start.get(..4).is_some_and(|s| s.eq_ignore_ascii_case("SIP/"));
    if is_response || start.split_ascii_whitespace().next()? == "ACK" {
        return None; // S-018, S-019
    }
    let mut out = Vec::with_capacity(512);
    write_status_line(&mut out, status, reason);
    let (mut seen_via, mut values) = (false, [""; 4]);
    for line in lines.take_while(|l| !l.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if value.is_empty() || value.chars().any(|c| c.is_control() && c != '\t') {
            continue;
        }
        let id = HeaderId::from_name(name.trim_ascii_end().as_bytes());
        if id == HeaderId::Via {
            let first = split::outside_quotes(value, b',').next()?;
            if !seen_via && Via::parse(first).is_none() {
                return None;
            }
            seen_via = true;
            write_line(&mut out, "Via", value);
        }
        if let Some((_, slot)) = WANTED.iter().zip(&mut values).find(|(wanted, slot)| **wanted == id && slot.is_empty())
        {
            *slot = value;
        }
    }
    let [_, to, _, cseq] = values;
    // Whatever the start line says: where CSeq says ACK, nobody waits for an answer.
    if !seen_via || values.contains(&"") || cseq.split_ascii_whitespace().nth(1) == Some("ACK") {
        return None;
    }
    for (id, value) in WANTED.iter().zip(values) {
        let untagged = *id == HeaderId::To && NameAddr::parse(to).is_ok_and(|to| to.tag().is_none());
        if untagged {
            let mut hasher = DefaultHasher::new();
            (values, &out).hash(&mut hasher);
            write_line(&mut out, "To", &format!("{to};tag={:016x}", hasher.finish()));
        } else {
            write_line(&mut out, id.name(), value);
        }
    }
    write_length(&mut out, 0);
    out.extend_from_slice(b"\r\n");
    Some(Bytes::from(out))
}

fn write_status_line(out: &mut Vec<u8>, status: u16, phrase: &str) {
    let phrase: String = phrase.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    out.extend_from_slice(format!("SIP/2.0 {status} {phrase}\r\n").as_bytes());
}
