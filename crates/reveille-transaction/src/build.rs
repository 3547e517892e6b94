//! The two requests a client transaction makes itself: the ACK to a final response of 300 and above (RFC 3261 §17.1.1.3) and CANCEL
//! (§9.1). Both copy what identifies the INVITE from the bytes that were sent.

use bytes::Bytes;
use reveille_sip::rsip::{
    Header, Method, Request, Uri, Version,
    common::uri::Host,
    headers::{self, UntypedHeader as _},
    typed,
};
use reveille_sip::{header::HeaderId, limits::Limits, message::Message};

/// The ACK for `response` to the INVITE in `invite`: same branch, Request-URI and Route, To from the response, one Via.
pub(crate) fn ack(invite: &Bytes, response: &Message) -> Option<Bytes> {
    let invite = own(invite)?;
    let to = response.value(HeaderId::To).or_else(|| invite.value(HeaderId::To))?;
    derive(&invite, Method::Ack, to, None)
}

/// The CANCEL for the INVITE in `invite`, with a Reason where there is one to give (RFC 3326).
pub(crate) fn cancel(invite: &Bytes, reason: Option<&str>) -> Option<Bytes> {
    let invite = own(invite)?;
    let to = invite.value(HeaderId::To)?;
    derive(&invite, Method::Cancel, to, reason)
}

/// Reads back bytes that passed our limits once; they are not checked against them again.
pub(crate) fn own(bytes: &Bytes) -> Option<Message> {
    let lenient = Limits {
        message: LENIENT,
        start_line: LENIENT,
        header_line: LENIENT,
        header_section: LENIENT,
        headers: LENIENT,
        body: LENIENT,
        vias: LENIENT,
        routes: LENIENT,
        uri: LENIENT,
    };
    Message::parse(bytes.clone(), &lenient).ok()
}

/// The sent-by of the topmost Via in `request`, without parsing the rest of it.
pub(crate) fn sent_by(request: &[u8]) -> Option<&str> {
    let text = request.get(..request.len().min(SEARCHED))?;
    let mut lines = text.split(|&byte| byte == b'\n').skip(1);
    let line = lines.find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = line.get(..colon)?.trim_ascii();
        (name.eq_ignore_ascii_case(b"via") || name.eq_ignore_ascii_case(b"v")).then(|| line.get(colon + 1..))?
    })?;
    let end = line.iter().position(|&byte| byte == b';').unwrap_or(line.len());
    let value = std::str::from_utf8(line.get(..end)?).ok()?.trim();
    value.split_ascii_whitespace().next_back()
}

/// Above any limit a listener is given.
const LENIENT: usize = 1 << 24;
/// Our own Via is the first header of what we forward, right below a start line that is seldom longer than this.
const SEARCHED: usize = 4096;

fn derive(invite: &Message, method: Method, to: &str, reason: Option<&str>) -> Option<Bytes> {
    let mut headers: Vec<Header> = vec![headers::Via::new(invite.values(HeaderId::Via).next()?).into()];
    headers.extend(invite.lines(HeaderId::Route).map(|route| headers::Route::new(route).into()));
    headers.extend([
        headers::MaxForwards::from(70).into(),
        headers::From::new(invite.value(HeaderId::From)?).into(),
        headers::To::new(to).into(),
        headers::CallId::new(invite.call_id().ok()?).into(),
        typed::CSeq { seq: invite.cseq().ok()?.number, method }.into(),
    ]);
    headers.extend(reason.filter(|one| !one.is_empty()).map(|one| Header::Other("Reason".to_owned(), one.to_owned())));
    headers.push(headers::ContentLength::from(0).into());
    // As it was sent, octet by octet: rsip's own reader of URIs would change it.
    let uri = Uri { scheme: None, ..Host::Domain(invite.request_uri().into()).into() };
    Some(Request { method, uri, version: Version::V2, headers: headers.into(), body: Vec::new() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{forwarded_invite, response};

    #[test]
    fn ack_copies_branch_uri_and_route_and_takes_to_from_the_response_s046() {
        let invite = forwarded_invite("z9hG4bK-out");
        let ack = own(&ack(&invite, &response(486, "z9hG4bK-out", "INVITE", "callee")).unwrap()).unwrap();
        let invite = own(&invite).unwrap();
        assert_eq!(ack.method_name(), "ACK");
        assert_eq!(ack.request_uri(), invite.request_uri());
        assert_eq!(ack.vias().count(), 1);
        assert_eq!(ack.top_via().unwrap().branch(), Some("z9hG4bK-out"));
        assert_eq!(ack.lines(HeaderId::Route).collect::<Vec<_>>(), invite.lines(HeaderId::Route).collect::<Vec<_>>());
        assert_eq!(ack.to_tag(), Some("callee"));
        assert_eq!(ack.from_tag(), invite.from_tag());
        assert_eq!(ack.call_id().unwrap(), invite.call_id().unwrap());
        assert_eq!((ack.cseq().unwrap().number, ack.cseq().unwrap().name), (1, "ACK"));
        assert!(ack.body().is_empty());
    }

    #[test]
    fn cancel_is_the_invite_by_another_name_s052_s096() {
        let invite = forwarded_invite("z9hG4bK-out");
        let reason = "SIP;cause=200;text=\"Call completed elsewhere\"";
        let cancel = own(&cancel(&invite, Some(reason)).unwrap()).unwrap();
        let invite = own(&invite).unwrap();
        assert_eq!(cancel.method_name(), "CANCEL");
        assert_eq!(cancel.request_uri(), invite.request_uri());
        for header in [HeaderId::From, HeaderId::To, HeaderId::CallId, HeaderId::Route] {
            assert_eq!(cancel.lines(header).collect::<Vec<_>>(), invite.lines(header).collect::<Vec<_>>());
        }
        assert_eq!(
            cancel.values(HeaderId::Via).collect::<Vec<_>>(),
            invite.values(HeaderId::Via).take(1).collect::<Vec<_>>()
        );
        assert_eq!(cancel.value(HeaderId::Reason), Some(reason));
        assert_eq!(cancel.cseq().unwrap().number, invite.cseq().unwrap().number);
        assert!(!cancel.has(HeaderId::Require) && !cancel.has(HeaderId::ProxyRequire));
    }

    /// rsip's own reader would print this URI with `transport=TLS`, and nothing from the `:` on.
    #[test]
    fn nothing_copied_is_changed_s046() {
        let uri = "sip:a.b@[2001:db8::1]:5061;transport=tls;pn-prid=x:y&z?h=1";
        let invite = String::from_utf8(forwarded_invite("z9hG4bK-out").to_vec()).unwrap();
        let invite = Bytes::from(invite.replacen("sip:bob@10.0.0.9", uri, 1));
        assert_eq!(
            cancel(&invite, None).unwrap(),
            format!(
                "CANCEL {uri} SIP/2.0\r\nVia: SIP/2.0/UDP proxy.example:5060;branch=z9hG4bK-out\r\nRoute: <sip:edge.example;lr>\r\n\
                 Route: <sip:next.example;lr>, <sip:last.example;lr>\r\nMax-Forwards: 70\r\n\
                 From: <sip:alice@example.com>;tag=from-1\r\nTo: <sip:bob@example.com>\r\nCall-ID: call-1\r\nCSeq: 1 CANCEL\r\n\
                 Content-Length: 0\r\n\r\n"
            )
        );
    }

    #[test]
    fn sent_by_is_read_from_the_first_via() {
        assert_eq!(sent_by(&forwarded_invite("z9hG4bK-1")), Some("proxy.example:5060"));
        assert_eq!(
            sent_by(b"INVITE sip:a SIP/2.0\r\nv: SIP / 2.0 / TLS [2001:db8::1]:5061 ;branch=x\r\n"),
            Some("[2001:db8::1]:5061")
        );
        assert_eq!(sent_by(b"INVITE sip:a SIP/2.0\r\n\r\n"), None);
        assert_eq!(sent_by(b""), None);
    }
}
