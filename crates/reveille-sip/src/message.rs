//! One message, indexed once: where each header's name and value lie in the bytes as they came.

mod index;
mod read;

use std::{fmt, sync::Arc};

use bytes::Bytes;

pub use self::index::ParseError;
use self::index::{Index, Scan};
pub(crate) use self::index::{Line, is_token, unfold};
pub use self::read::Contacts;
use crate::{header::HeaderId, limits::Limits, method::Method};

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
        let mut bytes = bytes;
        // Filled where it stays: it is too large to be moved about.
        let mut shared = Arc::new(Index::new());
        let index = Arc::get_mut(&mut shared).ok_or(index::BAD_HEADERS)?;
        let mut scan = index.scan(&bytes, limits)?;
        if matches!(scan, Scan::Folded) {
            bytes = index::unfold(&bytes);
            *index = Index::new();
            scan = index.scan(&bytes, limits)?;
        }
        let Scan::Done(length) = scan else { return Err(index::BAD_HEADERS) };
        bytes.truncate(length);
        Ok(Self { bytes, index: shared })
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
        self.text(self.index.lines().get(self.index.first_of(id)?)?.value)
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
            .filter(move |l| self.raw(l.name).eq_ignore_ascii_case(name.as_bytes()))
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
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default()
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
