//! One message, indexed once: where each header's name and value lie in the bytes as they came.

mod careful;
mod head;
mod index;
mod read;

use std::{fmt, sync::Arc};

use bytes::Bytes;

pub(crate) use self::{
    careful::unfold,
    head::{Progress, Reader, is_token},
    index::{Index, Line},
};
pub use self::{index::ParseError, read::Contacts};
use crate::{frame::Framed, header::HeaderId, limits::Limits, method::Method};

/// A whole SIP message over the bytes it came in. Cheap to clone.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    index: Arc<Index>,
}

impl Message {
    /// Indexes one message. Octets past Content-Length are cut off (S-020).
    ///
    /// Only what would make the index wrong is an error here; what is wrong in meaning is for [`crate::validate`].
    ///
    /// # Errors
    /// With the status to answer, where the sender may be answered.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Self, ParseError> {
        Self::parse_framed(bytes.into(), limits)
    }

    /// As [`Self::parse`], without looking again at what a [`crate::frame::Framer`] has looked at and held to its own limits.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_framed(framed: Framed, limits: &Limits) -> Result<Self, ParseError> {
        let Framed { mut bytes, index } = framed;
        if bytes.len() > limits.message.min(u32::MAX as usize) {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        let is_cut = index.is_some();
        let index = match index {
            Some(index) => index,
            None => {
                let mut reader = Reader::new();
                if reader.read(&bytes) == Progress::Whole && reader.index().is_within(limits) {
                    reader.into_index()
                } else {
                    careful::index(&mut bytes, limits)?
                }
            }
        };
        let rest = bytes.len().saturating_sub(index.body);
        // What was cut off by its Content-Length need not be asked for it again; of a datagram all may be body.
        let length = if is_cut { None } else { index.content_length(&bytes)? }.unwrap_or(rest);
        if length > rest {
            return Err(ParseError::new(400, "Content-Length Beyond Message")); // S-020: clerr
        }
        if length > limits.body {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        bytes.truncate(index.body + length);
        Ok(Self { bytes, index })
    }

    /// The message as it came (unfolded, where it was folded).
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether it is a request.
    pub fn is_request(&self) -> bool {
        self.index.status == 0
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        (self.index.status != 0).then_some(self.index.status)
    }

    /// The method of a request, or the one that a response's CSeq names.
    pub fn method(&self) -> Method {
        if self.is_request() { self.index.method } else { self.cseq().map_or(Method::Extension, |c| c.method) }
    }

    /// The method's name as written.
    pub fn method_name(&self) -> &str {
        if self.is_request() { self.slice(self.index.first) } else { self.cseq().map_or("", |c| c.name) }
    }

    /// The Request-URI; empty for responses.
    pub fn request_uri(&self) -> &str {
        if self.is_request() { self.slice(self.index.second) } else { "" }
    }

    /// The SIP-Version as written.
    pub fn version(&self) -> &str {
        self.slice(if self.is_request() { self.index.third } else { self.index.first })
    }

    /// The reason phrase of a response.
    pub fn reason_phrase(&self) -> &str {
        if self.is_request() { "" } else { self.slice(self.index.third) }
    }

    /// The body.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.index.body.min(self.bytes.len())..)
    }

    /// The first line's value, trimmed; `None` if absent or not UTF-8.
    pub fn value(&self, id: HeaderId) -> Option<&str> {
        self.text(self.index.first_line(id)?.value)
    }

    /// The value of every line of a header, trimmed, in order. Lines that are not UTF-8 are passed over.
    pub fn lines(&self, id: HeaderId) -> impl Iterator<Item = &str> + Clone {
        self.index.lines_of(id).filter_map(|l| self.text(l.value))
    }

    /// As [`Self::lines`], for headers without an id.
    pub fn lines_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.index
            .lines()
            .iter()
            .filter(move |l| self.raw(l.name()).eq_ignore_ascii_case(name.as_bytes()))
            .filter_map(|l| self.text(l.value))
    }

    /// The values of all lines of a header, cut at commas outside quotes and brackets (S-005); never cut for credentials
    /// and challenges (S-006).
    pub fn values(&self, id: HeaderId) -> impl Iterator<Item = &str> {
        let whole = matches!(
            id,
            HeaderId::Authorization
                | HeaderId::ProxyAuthorization
                | HeaderId::WwwAuthenticate
                | HeaderId::ProxyAuthenticate
        );
        self.lines(id).flat_map(move |line| {
            let separator = if whole { 0 } else { b',' };
            crate::split::outside_quotes(line, separator)
        })
    }

    /// Whether the header is there.
    pub fn has(&self, id: HeaderId) -> bool {
        self.index.first_of(id).is_some()
    }

    /// Whether a list of option tags holds `tag`; tags are tokens and compare case-insensitively.
    pub fn lists_option(&self, id: HeaderId, tag: &str) -> bool {
        self.values(id).any(|v| v.eq_ignore_ascii_case(tag))
    }

    /// The message for a person to read in a trace: push parameters, credentials and control characters masked (S-235).
    pub fn redacted(&self) -> String {
        crate::redact::message(self)
    }

    pub(crate) fn is_canonical_version(&self) -> bool {
        self.raw(if self.is_request() { self.index.third } else { self.index.first }) == b"SIP/2.0"
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn raw(&self, range: index::Range) -> &[u8] {
        range.of(&self.bytes)
    }

    pub(crate) fn text(&self, range: index::Range) -> Option<&str> {
        std::str::from_utf8(self.raw(range)).ok()
    }

    fn slice(&self, range: index::Range) -> &str {
        self.text(range).unwrap_or("")
    }
}

/// Says what it is and how long, never what is in it.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status() {
            Some(status) => write!(f, "Message({status}, {} octets)", self.bytes.len()),
            None => write!(f, "Message({:?}, {} octets)", self.index.method, self.bytes.len()),
        }
    }
}
