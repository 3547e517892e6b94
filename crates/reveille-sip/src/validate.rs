//! Whether a message that could be indexed also means something (RFC 3261 §16.3 step 1, §8.2, §18.1.2).

use crate::{
    header::{HeaderError, HeaderId},
    message::{Contacts, Line, Message},
    method::Method,
    typed::NameAddr,
    uri::{Scheme, Uri},
};

/// The answer to a request that may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: &'static str,
    /// A header the answer must carry.
    pub extra: Option<(HeaderId, String)>,
}

/// A response that may be neither forwarded nor answered (S-019).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct Dropped(pub HeaderError);

const fn bad(reason: &'static str) -> Rejection {
    Rejection { status: 400, reason, extra: None }
}

impl From<HeaderError> for Rejection {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Missing(_) => bad("Missing Header"),
            HeaderError::Malformed(_) => bad("Malformed Header"),
            HeaderError::Duplicate(_) => bad("Duplicate Header"),
        }
    }
}

/// Judges a request; `Ok` says only that it may be processed by the normal rules.
///
/// # Errors
/// With what to answer; an ACK is never answered all the same (S-018).
pub fn request(message: &Message) -> Result<(), Rejection> {
    if !message.version().eq_ignore_ascii_case("SIP/2.0") {
        return Err(Rejection { status: 505, reason: "Version Not Supported", extra: None }); // S-015
    }
    singles(message)?;
    let cseq = common(message)?;
    if cseq != message.method_name() {
        // S-014: a method we do not know is refused as such.
        return Err(match message.method() {
            Method::Extension => Rejection { status: 501, reason: "Not Implemented", extra: None },
            _ => bad("CSeq Method Mismatch"),
        });
    }
    if message.max_forwards().is_err() {
        return Err(bad("Bad Max-Forwards"));
    }
    request_uri(message)?;
    for route in message.routes().chain(message.record_routes()).chain(message.paths()) {
        // `route` also fails here when a list holds an empty value.
        Uri::parse(route?.uri).map_err(|_| bad("Bad Route"))?;
    }
    if let Contacts::List(list) = message.contacts()? {
        for contact in &list {
            address(contact)?;
            contact.q().map_err(|()| bad("Bad q"))?;
        }
    }
    Ok(())
}

/// Judges a response.
///
/// # Errors
/// With the header at fault.
pub fn response(message: &Message) -> Result<(), Dropped> {
    if !message.version().eq_ignore_ascii_case("SIP/2.0") {
        return Err(Dropped(HeaderError::Malformed(HeaderId::Via)));
    }
    singles(message).map_err(Dropped)?;
    common(message).map(|_| ()).map_err(Dropped)
}

/// What requests and responses must have alike; returns CSeq's method.
fn common(message: &Message) -> Result<&str, HeaderError> {
    // A line that we cannot read must not be passed over.
    let unreadable = |line: &&Line| STRUCTURED & line.id.bit() != 0 && message.text(line.value).is_none();
    if !message.index().ascii
        && let Some(line) = message.index().lines().iter().find(unreadable)
    {
        return Err(HeaderError::Malformed(line.id));
    }
    if !message.has(HeaderId::Via) {
        return Err(HeaderError::Missing(HeaderId::Via));
    }
    for via in message.vias() {
        via?;
    }
    for (id, address) in [(HeaderId::From, message.from()), (HeaderId::To, message.to())] {
        let address = address?;
        self::address(&address).map_err(|_| HeaderError::Malformed(id))?;
    }
    message.call_id()?;
    Ok(message.cseq()?.name)
}

/// Headers that decide where a message goes and what becomes of it.
const STRUCTURED: u64 = HeaderId::Via.bit()
    | HeaderId::From.bit()
    | HeaderId::To.bit()
    | HeaderId::CallId.bit()
    | HeaderId::CSeq.bit()
    | HeaderId::Contact.bit()
    | HeaderId::MaxForwards.bit()
    | HeaderId::Route.bit()
    | HeaderId::RecordRoute.bit()
    | HeaderId::Path.bit()
    | HeaderId::Expires.bit()
    | HeaderId::Supported.bit()
    | HeaderId::Require.bit()
    | HeaderId::ProxyRequire.bit()
    | HeaderId::Authorization.bit()
    | HeaderId::ProxyAuthorization.bit();

/// Headers that may be there only once (S-013). Content-Length may be repeated if it says the same, which was seen before.
fn singles(message: &Message) -> Result<(), HeaderError> {
    if message.index().repeated() == 0 {
        return Ok(());
    }
    let mut seen = 0_u64;
    for line in message.index().lines().iter().filter(|l| l.id.is_single()) {
        if seen & line.id.bit() != 0 && line.id != HeaderId::ContentLength {
            return Err(HeaderError::Duplicate(line.id));
        }
        seen |= line.id.bit();
    }
    Ok(())
}

/// An address must hold a URI; one of another scheme may be unreadable to us and still stand (unksm2).
fn address(address: &NameAddr<'_>) -> Result<(), Rejection> {
    match Uri::parse(address.uri) {
        Ok(_) => Ok(()),
        Err(_) => Err(bad("Bad Address")),
    }
}

fn request_uri(message: &Message) -> Result<(), Rejection> {
    let text = message.request_uri();
    if text.starts_with('<') {
        return Err(bad("Bad Request-URI")); // ltgtruri
    }
    let uri = Uri::parse(text).map_err(|_| bad("Bad Request-URI"))?;
    match uri.scheme() {
        // A Route may take it to someone who knows the scheme; where that is ourselves, the router refuses it.
        Scheme::Other if message.has(HeaderId::Route) => Ok(()),
        Scheme::Other => Err(Rejection { status: 416, reason: "Unsupported URI Scheme", extra: None }), // S-016
        _ if uri.has_headers() => Err(bad("Headers in Request-URI")),                                   // S-029
        _ => Ok(()),
    }
}
