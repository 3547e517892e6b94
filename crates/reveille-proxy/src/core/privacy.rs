//! Push parameters stay between a phone and us (RFC 8599 §13; P-104, P-105): what passes from one party to another loses them,
//! wherever it names a URI. Only `pn-purr` stays (P-108).

use bytes::Bytes;
use reveille_push::scrub::{may_carry, scrub};
use reveille_sip::{edit::Edit, header::HeaderId, message::Message};

/// Takes push parameters out of a message that is passed on, REGISTER aside. Must come before all other changes to the lines.
pub(super) fn hide_push_parameters(message: &Message, edit: &mut Edit<'_>) {
    if !may_carry(message.bytes()) {
        return;
    }
    edit.rewrite_lines(|header, value| {
        if is_kept_whole(header) || !may_carry(value) {
            return None;
        }
        // What is not even text cannot be cleaned.
        let Ok(text) = std::str::from_utf8(value) else { return Some(None) };
        match scrub(text) {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(less) => Some((!less.trim().is_empty()).then_some(less)),
        }
    });
    if let Some(body) = cleaned_body(message)
        && let Some(content_type) = message.value(HeaderId::ContentType)
    {
        edit.set_body(content_type, body);
    }
}

/// Headers that name hops, or that their maker must find again as they were, or that are signed.
fn is_kept_whole(header: HeaderId) -> bool {
    matches!(
        header,
        HeaderId::Via
            | HeaderId::Route
            | HeaderId::RecordRoute
            | HeaderId::CallId
            | HeaderId::CSeq
            | HeaderId::Authorization
            | HeaderId::ProxyAuthorization
            | HeaderId::WwwAuthenticate
            | HeaderId::ProxyAuthenticate
    )
}

/// A body that quotes another SIP message, or tells of registrations (RFC 3680), without push parameters; `None` for one that may
/// stay as it is, and for any other. That a proxy leaves bodies alone (RFC 3261 §16.6) gives way to P-105 here.
fn cleaned_body(message: &Message) -> Option<Bytes> {
    let kind = message.value(HeaderId::ContentType)?.to_ascii_lowercase();
    let quotes =
        ["message/sip", "application/reginfo+xml", "multipart/"].iter().any(|quoting| kind.starts_with(quoting));
    let body = message.body();
    if !quotes || message.has(HeaderId::ContentEncoding) || !may_carry(&body) {
        return None;
    }
    match scrub(std::str::from_utf8(&body).ok()?) {
        std::borrow::Cow::Borrowed(_) => None,
        std::borrow::Cow::Owned(less) => Some(Bytes::from(less)),
    }
}
