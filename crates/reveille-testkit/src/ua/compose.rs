//! What a phone says, put together from rsip's types and printed by rsip: so neither the words nor the grammar that the product
//! is tested with are our own.
//!
//! rsip 0.4 prints what its public structs hold, and those are filled here by hand, because its readers lose things. What has to
//! be kept in mind, each with a test below:
//!
//! - `Uri::try_from` stops without an error at what it does not know: a parameter ends at `:` (which RFC 8599 allows in
//!   `pn-prid`), URI headers are gone or part of the host, as is a user with a dot, and `transport=tls` comes out in capitals. A
//!   scheme other than `sip` and `sips` is printed with `//`. An IPv6 address is printed without its brackets.
//! - `Method` has no extension methods, and reads `invite` as INVITE.
//! - `StatusCode` prints the name of its variant, `480 TemporarilyUnavailable`; `Other` prints the phrase it was given.
//! - `Request` and `Response` print a body as UTF-8, whatever it was, and no Content-Length that they were not given.
//!
//! Push parameters, `ob`, `rport`, `+sip.instance` and `reg-id` are `Param::Other`; Path, Feature-Caps and what a test makes up
//! are `Header::Other`.

use bytes::Bytes;
use rsip::common::uri::{Auth, Host, HostWithPort, Param, Scheme, param::Tag};
use rsip::headers::header::Tokenizer;
use rsip::prelude::UntypedHeader as _;
use rsip::{Header, Headers, Method, Request, Response, StatusCode, Uri, Version, headers, typed};

use super::wire::SipMessage;

/// A request with these headers and no body.
pub(super) fn request(method: Method, uri: Uri, headers: Vec<Header>) -> SipMessage {
    Request { method, uri, version: Version::V2, headers: headers.into(), body: Vec::new() }.into()
}

/// What a response to `request` repeats (RFC 3261 §8.2.6.2); `to_tag` is added where the request's To has none.
pub(super) fn response(request: &SipMessage, status: u16, reason: &str, to_tag: Option<&str>) -> SipMessage {
    let mut headers: Vec<Header> = request.headers("Via").map(|via| headers::Via::new(via).into()).collect();
    headers.extend(request.header("From").map(|from| headers::From::new(from).into()));
    headers.extend(request.header("To").map(|to| {
        let tag = to_tag.filter(|_| request.to_tag().is_none());
        headers::To::new(tag.map_or_else(|| to.to_owned(), |tag| tagged(to, tag))).into()
    }));
    headers.extend(request.header("Call-ID").map(|id| headers::CallId::new(id).into()));
    headers.extend(request.header("CSeq").map(|cseq| headers::CSeq::new(cseq).into()));
    if status > 100 && status < 300 {
        headers.extend(request.headers("Record-Route").map(|route| headers::RecordRoute::new(route).into()));
    }
    let status_code = StatusCode::Other(status, reason.to_owned());
    Response { status_code, version: Version::V2, headers: headers.into(), body: Vec::new() }.into()
}

/// The message on the wire as rsip prints it, with the body as it is and its length.
pub(super) fn wire(message: &SipMessage) -> Bytes {
    let length = headers::ContentLength::from(u32::try_from(message.body().len()).unwrap_or(u32::MAX));
    let lines = message.lines().filter(|(name, _)| *name != "Content-Length").map(|(name, value)| header(name, value));
    let headers: Headers = lines.chain([length.into()]).collect::<Vec<_>>().into();
    let known = Method::all().into_iter().find(|known| known.to_string() == message.method());
    let head = match (message.start().split(' ').nth(2), message.status(), known) {
        (_, Some(status), _) => {
            let reason = message.start().splitn(3, ' ').nth(2).unwrap_or_default();
            let status_code = StatusCode::Other(status, reason.to_owned());
            Response { status_code, version: Version::V2, headers, body: Vec::new() }.to_string()
        }
        (Some("SIP/2.0"), None, Some(method)) => {
            Request { method, uri: uri(message.uri()), version: Version::V2, headers, body: Vec::new() }.to_string()
        }
        // A start line for which rsip has no words.
        _ => format!("{}\r\n{headers}\r\n", message.start()),
    };
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(message.body());
    bytes.into()
}

/// A header from its text: rsip's own variant where it prints the same text again, otherwise `Other`.
pub(super) fn header(name: &str, value: &str) -> Header {
    let given = Header::Other(name.to_owned(), value.to_owned());
    let known: Result<Header, _> = Tokenizer::from((name.as_bytes(), value.as_bytes())).try_into();
    known.ok().filter(|known| known.to_string() == given.to_string()).unwrap_or(given)
}

/// A URI from its text: printed, it is that text again, whatever it is.
pub(super) fn uri(text: &str) -> Uri {
    read_uri(text).filter(|uri| uri.to_string() == text).unwrap_or_else(|| Uri {
        // Neither scheme nor user: rsip prints such a host as it stands.
        scheme: None,
        host_with_port: Host::Domain(text.into()).into(),
        ..Uri::default()
    })
}

fn read_uri(text: &str) -> Option<Uri> {
    let (scheme, rest) = match text.split_once(':')? {
        ("sip", rest) => (Scheme::Sip, rest),
        ("sips", rest) => (Scheme::Sips, rest),
        _ => return None,
    };
    // The user part may hold `;` (RFC 3261 §25.1); nothing behind it may hold a raw `@`.
    let (auth, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(Auth { user: user.to_owned(), password: None }), rest),
        None => (None, rest),
    };
    let mut parts = rest.split(';');
    let host_with_port = host_with_port(parts.next()?);
    let params = parts.map(|part| match part.split_once('=') {
        Some((name, value)) => param(name, Some(value)),
        None => param(part, None),
    });
    Some(Uri { scheme: Some(scheme), auth, host_with_port, params: params.collect(), headers: Vec::new() })
}

/// `sip:user@host`; `host` is a name or an address, with or without a port.
pub(super) fn user_at(user: &str, host: &str) -> Uri {
    let auth = Some(Auth { user: user.to_owned(), password: None });
    Uri { scheme: Some(Scheme::Sip), auth, host_with_port: host_with_port(host), ..Uri::default() }
}

fn host_with_port(text: &str) -> HostWithPort {
    let with_port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    // A domain even where it is an address: rsip would print IPv6 without brackets.
    match with_port {
        Some((host, port)) => (Host::Domain(host.into()), port).into(),
        None => Host::Domain(text.into()).into(),
    }
}

/// A parameter spelled as it is here.
pub(super) fn param(name: &str, value: Option<&str>) -> Param {
    Param::Other(name.into(), value.map(Into::into))
}

/// Via with this branch, asking for `rport` (RFC 3581 §3).
pub(super) fn via(transport: rsip::Transport, sent_by: &str, branch: &str) -> typed::Via {
    let params = vec![Param::Branch(branch.into()), param("rport", None)];
    typed::Via { version: Version::V2, transport, uri: host_with_port(sent_by).into(), params }
}

/// From with a tag.
pub(super) fn from(uri: Uri, tag: &str) -> typed::From {
    typed::From::from(uri).with_tag(tag.into())
}

/// CSeq as a header.
pub(super) fn cseq(number: u32, method: Method) -> Header {
    typed::CSeq::from((number, method)).into()
}

/// The value of somebody's From or To with a tag behind it.
pub(super) fn tagged(value: &str, tag: &str) -> String {
    format!("{value}{}", Param::Tag(Tag::new(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything a phone is given to repeat, and much that no phone would say.
    const URIS: [&str; 14] = [
        "sip:lab.example",
        "sip:first.last@lab.example",
        "sip:+4930;phone-context=x@10.0.0.1:5060;transport=tls;ob",
        "sips:a@[2001:db8::1]:5061;transport=quic;lr",
        "sip:a@[2001:db8::1];pn-provider=apns;pn-param=T.i;pn-prid=https://p.example/k7%3Fv",
        "sip:a:secret@b;pn-provider;x=;;lr=on",
        "sip:a@b?Subject=x%20y&Route=%3Csip:c%3E",
        "sip:a@b;p=1?h=v",
        "tel:+49301234;phone-context=example.com",
        "urn:service:sos",
        "sip:a@b:05060",
        "SIP:a@B",
        "*",
        "",
    ];

    #[test]
    fn a_uri_is_printed_as_it_was_given() {
        for text in URIS {
            assert_eq!(uri(text).to_string(), text);
        }
        let known = uri(URIS[4]);
        assert_eq!((known.user(), known.scheme.as_ref()), (Some("a"), Some(&Scheme::Sip)));
        assert_eq!(known.params.last(), Some(&param("pn-prid", Some("https://p.example/k7%3Fv"))));
        assert_eq!(uri(URIS[2]).port(), Some(&5060.into()));
    }

    /// The reason for reading URIs here. A new rsip that passes this is one to use directly.
    #[test]
    fn rsip_reads_less_than_it_is_given() {
        for (text, kept) in [
            ("sip:a@b;pn-prid=https://p.example", "sip:a@b;pn-prid=https"),
            ("sip:a@b;ob?Subject=x", "sip:a@b;ob"),
            ("sip:a@b;transport=tls", "sip:a@b;transport=TLS"),
        ] {
            assert_eq!(Uri::try_from(text).unwrap().to_string(), kept);
        }
        assert_eq!(
            Uri::try_from("sip:first.last@b").unwrap().host_with_port,
            HostWithPort::from(Host::from("first.last@b"))
        );
        assert_eq!(
            Uri::try_from("sip:a@b?Subject=x").unwrap().host_with_port,
            HostWithPort::from(Host::from("b?Subject=x"))
        );
        assert!(Uri::try_from("sip:a@b;transport=quic").is_err());
        assert_eq!(Uri::from(std::net::IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])).to_string(), "::1");
        assert_eq!(Uri { scheme: Some(Scheme::Other("tel".into())), ..Uri::default() }.to_string(), "tel://127.0.0.1");
        assert_eq!("invite".parse(), Ok(Method::Invite));
        assert!("FROBNICATE".parse::<Method>().is_err());
        assert_eq!(StatusCode::from(480).to_string(), "480 TemporarilyUnavailable");
        let body = vec![0xff];
        assert!(Response { body, ..Response::default() }.to_string().ends_with("\r\n\r\n\u{fffd}"));
    }

    #[test]
    fn a_header_is_rsips_own_only_where_nothing_changes() {
        assert_eq!(header("Call-ID", "x"), headers::CallId::new("x").into());
        for (name, value) in [("call-id", "x"), ("Path", "<sip:p;lr>"), ("X-Odd", ";;,,;;,;"), ("Expires", "never")] {
            assert_eq!(header(name, value).to_string(), format!("{name}: {value}"));
        }
    }

    #[test]
    fn what_was_read_is_written_again_octet_by_octet() {
        for start in [
            "INVITE sip:first.last@[::1];transport=quic;lr SIP/2.0",
            "FROBNICATE tel:+49 SIP/2.0",
            "invite sip:a SIP/2.0",
            "SIP/2.0 555 Push Notification Service Not Supported",
            "SIP/2.0 480 ",
        ] {
            let text = format!("{start}\r\nVia: SIP/2.0/WSS x;branch=y\r\nX-Odd: ;;\r\nContent-Length: 2\r\n\r\n");
            let octets = [text.as_bytes(), b"\xff\0"].concat();
            let (message, _) = SipMessage::parse(&octets, true).unwrap();
            assert_eq!(wire(&message), octets, "{start}");
        }
    }
}
