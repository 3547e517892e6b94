//! SIP messages as a phone needs them: text to be read and altered, with no opinion about what is legal. They are read here and
//! made and printed in [`compose`].
//!
//! Small and slow on purpose, and independent of the product's parser. Not rsip's either, which refuses or alters much of what a
//! phone has to be able to hear (IPv6 hosts, unknown methods, folded lines, several Vias in a line).

use bytes::{Buf as _, Bytes, BytesMut};
use rsip::Header;

use super::compose;

/// A request or a response. Header names are kept in their long form; values are unfolded and trimmed.
#[derive(Clone, PartialEq, Eq)]
pub struct SipMessage {
    start: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// Shows the start line's shape and nothing that could hold a push token or a credential.
impl std::fmt::Debug for SipMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status() {
            Some(status) => write!(f, "SipMessage({status} to {})", self.method()),
            None => write!(f, "SipMessage({})", self.method()),
        }
    }
}

impl SipMessage {
    /// A response to `request` with what RFC 3261 §8.2.6.2 copies; `to_tag` is added where the request's To has none.
    pub fn response(request: &Self, status: u16, reason: &str, to_tag: Option<&str>) -> Self {
        compose::response(request, status, reason, to_tag)
    }

    /// Sets a header made of rsip's types, in the place of every line of that name.
    pub(super) fn put(&mut self, header: impl Into<Header>) {
        let (name, value) = line(&header.into());
        self.set(&name, &value);
    }

    /// Adds a header made of rsip's types at the end.
    pub(super) fn add(&mut self, header: impl Into<Header>) {
        self.headers.push(line(&header.into()));
    }

    /// Adds a header line at the end.
    pub fn push(&mut self, name: &str, value: &str) {
        self.headers.push((long_name(name).to_owned(), value.to_owned()));
    }

    /// [`Self::push`] for chaining.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.push(name, value);
        self
    }

    /// Replaces every line of a header by one.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.push(name, value);
    }

    /// Replaces the first line of a header where it stands.
    pub(super) fn replace_first(&mut self, header: impl Into<Header>) {
        let (name, value) = line(&header.into());
        if let Some((_, have)) = self.headers.iter_mut().find(|(have, _)| *have == name) {
            *have = value;
        }
    }

    /// Drops every line of a header.
    pub fn remove(&mut self, name: &str) {
        let name = long_name(name).to_owned();
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(&name));
    }

    /// Sets the body and its type.
    pub fn set_body(&mut self, content_type: &str, body: impl Into<Bytes>) {
        self.set("Content-Type", content_type);
        self.body = body.into();
    }

    /// Replaces the Request-URI; no effect on responses.
    pub fn set_uri(&mut self, uri: &str) {
        if self.is_request() {
            self.start = format!("{} {uri} SIP/2.0", self.method());
        }
    }

    /// One message from the front of `raw`, and how many bytes it took; `None` while it is incomplete or not SIP.
    /// Without Content-Length the body is what is left (datagrams) or nothing (`stream`).
    pub fn parse(raw: &[u8], stream: bool) -> Option<(Self, usize)> {
        let head_len = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(raw.get(..head_len)?).replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (long_name(name.trim()).to_owned(), value.trim().to_owned()))
            .collect();
        let mut message = Self { start, headers, body: Bytes::new() };
        let rest = raw.get(head_len + 4..)?;
        let length = match message.header("Content-Length").and_then(|length| length.parse().ok()) {
            Some(length) => length,
            None if stream => 0,
            None => rest.len(),
        };
        message.body = Bytes::copy_from_slice(rest.get(..length)?);
        Some((message, head_len + 4 + length))
    }

    /// The message on the wire, Content-Length derived.
    pub fn to_bytes(&self) -> Bytes {
        compose::wire(self)
    }

    /// The request line or status line.
    pub(super) fn start(&self) -> &str {
        &self.start
    }

    /// Every header line in order: name and value.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether this is a request.
    pub fn is_request(&self) -> bool {
        !self.start.starts_with("SIP/2.0 ")
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The status code of a response, 0 for a request: for comparing in assertions.
    pub fn code(&self) -> u16 {
        self.status().unwrap_or(0)
    }

    /// The method of a request, or the one in CSeq of a response.
    pub fn method(&self) -> &str {
        if self.is_request() { self.start.split(' ').next().unwrap_or("") } else { self.cseq().1 }
    }

    /// The Request-URI; empty for responses.
    pub fn uri(&self) -> &str {
        if self.is_request() { self.start.split(' ').nth(1).unwrap_or("") } else { "" }
    }

    /// The first line of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// Every line of a header, in order.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let name = long_name(name).to_owned();
        self.headers.iter().filter(move |(have, _)| have.eq_ignore_ascii_case(&name)).map(|(_, value)| value.as_str())
    }

    /// Every value of a header that may be a comma list, in order.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.headers(name).flat_map(split_list).map(str::to_owned).collect()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Call-ID; empty where missing.
    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or("")
    }

    /// CSeq number and method; 0 and empty where unreadable.
    pub fn cseq(&self) -> (u32, &str) {
        let parts = self.header("CSeq").and_then(|cseq| cseq.split_once(' '));
        parts.map_or((0, ""), |(number, method)| (number.parse().unwrap_or(0), method.trim()))
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> Option<&str> {
        param(split_list(self.header("Via")?).next()?, "branch")
    }

    /// The tag in From.
    pub fn from_tag(&self) -> Option<&str> {
        param(after_uri(self.header("From")?), "tag")
    }

    /// The tag in To.
    pub fn to_tag(&self) -> Option<&str> {
        param(after_uri(self.header("To")?), "tag")
    }

    /// The URI of the first Contact.
    pub fn contact_uri(&self) -> Option<&str> {
        Some(uri_of(split_list(self.header("Contact")?).next()?))
    }

    /// The value of a Feature-Caps indicator, e.g. `+sip.pns`, over all Feature-Caps lines.
    pub fn feature_cap(&self, name: &str) -> Option<String> {
        self.values("Feature-Caps")
            .iter()
            .find_map(|value| param(value, name).map(|found| found.trim_matches('"').to_owned()))
    }
}

impl From<rsip::Request> for SipMessage {
    fn from(request: rsip::Request) -> Self {
        let rsip::Request { method, uri, version, headers, body } = request;
        let headers = headers.iter().map(line).collect();
        Self { start: format!("{method} {uri} {version}"), headers, body: body.into() }
    }
}

impl From<rsip::Response> for SipMessage {
    fn from(response: rsip::Response) -> Self {
        let rsip::Response { status_code, version, headers, body } = response;
        let headers = headers.iter().map(line).collect();
        Self { start: format!("{version} {status_code}"), headers, body: body.into() }
    }
}

/// Name and value of a header as rsip prints it.
fn line(header: &Header) -> (String, String) {
    let text = header.to_string();
    let (name, value) = text.split_once(": ").unwrap_or((&text, ""));
    (name.to_owned(), value.to_owned())
}

/// The URI inside a name-addr or addr-spec header value.
pub(super) fn uri_of(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or(""),
        None => value.split(';').next().unwrap_or("").trim(),
    }
}

fn after_uri(value: &str) -> &str {
    value.rfind('>').and_then(|end| value.get(end + 1..)).unwrap_or(value)
}

/// The value of a `;name=value` parameter.
fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|param| {
        let (have, value) = param.split_once('=')?;
        have.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Splits at commas outside quotes and angle brackets.
fn split_list(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut depth) = (false, 0_i32);
    line.split(move |c| {
        match c {
            '"' => quoted = !quoted,
            '<' if !quoted => depth += 1,
            '>' if !quoted => depth -= 1,
            _ => {}
        }
        c == ',' && !quoted && depth == 0
    })
    .map(str::trim)
    .filter(|value| !value.is_empty())
}

fn long_name(name: &str) -> &str {
    match name {
        "v" => "Via",
        "f" => "From",
        "t" => "To",
        "i" => "Call-ID",
        "m" => "Contact",
        "l" => "Content-Length",
        "c" => "Content-Type",
        "k" => "Supported",
        "s" => "Subject",
        "e" => "Content-Encoding",
        "o" => "Event",
        "r" => "Refer-To",
        _ if name.eq_ignore_ascii_case("content-length") => "Content-Length",
        other => other,
    }
}

/// What a stream holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Message(SipMessage),
    /// One CRLF between messages: the answer to our keep-alive (RFC 5626 §3.5.1).
    Pong,
}

/// Takes the next item off the front of `buffer`.
pub(super) fn next_item(buffer: &mut BytesMut) -> Option<Item> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Some(Item::Pong);
    }
    let (message, taken) = SipMessage::parse(buffer, true)?;
    buffer.advance(taken);
    Some(Item::Message(message))
}

/// Percent-encodes what a `pvalue` of RFC 8599 §8.7 cannot hold raw.
pub fn escape_pvalue(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"SIP/2.0 200 OK\r\nv: SIP/2.0/TLS a;branch=z9hG4bK1, SIP/2.0/TCP b;branch=z9hG4bK2\r\n\
        f: \"x, y\" <sip:a@b;p=1>;tag=f1\r\nTo: <sip:c@d>;tag=t1\r\ni: id\r\nCSeq: 7 INVITE\r\n\
        Record-Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nFeature-Caps: *;+sip.pns=\"apns\";+sip.pnspurr=\"ab\"\r\nl: 3\r\n\r\nabcNEXT";

    #[test]
    fn reads_compact_folded_and_listed_headers() {
        let (message, taken) = SipMessage::parse(OK, true).unwrap();
        assert_eq!(OK.len() - taken, 4);
        assert_eq!((message.code(), message.method(), message.cseq().0), (200, "INVITE", 7));
        assert_eq!(
            (message.branch(), message.from_tag(), message.to_tag()),
            (Some("z9hG4bK1"), Some("f1"), Some("t1"))
        );
        assert_eq!(message.values("Record-Route"), ["<sip:p1;lr>", "<sip:p2;lr>"]);
        assert_eq!(message.feature_cap("+sip.pnspurr").as_deref(), Some("ab"));
        assert_eq!(&message.body()[..], b"abc");
    }

    #[test]
    fn a_message_split_anywhere_is_the_same_message() {
        let whole = SipMessage::parse(OK, true).unwrap();
        for cut in 0..whole.1 {
            let mut buffer = BytesMut::from(&OK[..cut]);
            assert_eq!(next_item(&mut buffer), None);
            buffer.extend_from_slice(&OK[cut..whole.1]);
            assert_eq!(next_item(&mut buffer), Some(Item::Message(whole.0.clone())));
        }
    }

    #[test]
    fn written_messages_read_back() {
        let mut request = compose::request(rsip::Method::Message, compose::uri("sip:a@b"), Vec::new())
            .with("Via", "SIP/2.0/UDP x;branch=z9hG4bKq")
            .with("i", "c");
        request.set_body("text/plain", "hi");
        let (back, _) = SipMessage::parse(&request.to_bytes(), true).unwrap();
        assert_eq!((back.uri(), back.call_id(), &back.body()[..]), ("sip:a@b", "c", &b"hi"[..]));
    }

    #[test]
    fn p003_pvalue_escaping() {
        assert_eq!(escape_pvalue("https://p.example/k7?v=2%"), "https://p.example/k7%3Fv%3D2%25");
        assert_eq!(escape_pvalue("AA:voip&BB:remote"), "AA:voip&BB:remote");
    }
}
