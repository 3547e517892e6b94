use reveille_sip::{
    header::HeaderId,
    limits::Limits,
    message::{Contacts, Message},
    method::Method,
    rsip,
    typed::{CSeq, NameAddr, Via},
};

use crate::{INVITE, parse};

/// S-001, S-004: every compact name and some spellings; names that only resemble ours are others.
#[test]
fn names() {
    for (letter, id) in [
        (b'i', HeaderId::CallId),
        (b'm', HeaderId::Contact),
        (b'e', HeaderId::ContentEncoding),
        (b'l', HeaderId::ContentLength),
        (b'c', HeaderId::ContentType),
        (b'f', HeaderId::From),
        (b's', HeaderId::Subject),
        (b'k', HeaderId::Supported),
        (b't', HeaderId::To),
        (b'v', HeaderId::Via),
        (b'u', HeaderId::AllowEvents),
        (b'o', HeaderId::Event),
        (b'r', HeaderId::ReferTo),
        (b'b', HeaderId::ReferredBy),
        (b'x', HeaderId::SessionExpires),
        (b'a', HeaderId::AcceptContact),
        (b'j', HeaderId::RejectContact),
        (b'd', HeaderId::RequestDisposition),
        (b'y', HeaderId::Identity),
    ] {
        let long = id.name().as_bytes();
        for name in [
            &[letter][..],
            &[letter.to_ascii_uppercase()],
            long,
            &long.to_ascii_uppercase(),
            &long.to_ascii_lowercase(),
        ] {
            assert_eq!(HeaderId::from_name(name), id, "{}", String::from_utf8_lossy(name));
        }
    }
    for other in ["", "z", "Vib", "Froma", "Call_ID", "Content-Lengthy", "X-Custom", "To ", "Ta\u{fc}"] {
        assert_eq!(HeaderId::from_name(other.as_bytes()), HeaderId::Other, "{other}");
    }
}

/// S-001: methods compare case-sensitively.
#[test]
fn methods() {
    for name in [
        "INVITE",
        "ACK",
        "CANCEL",
        "BYE",
        "REGISTER",
        "OPTIONS",
        "PRACK",
        "UPDATE",
        "INFO",
        "REFER",
        "SUBSCRIBE",
        "NOTIFY",
        "MESSAGE",
        "PUBLISH",
    ] {
        assert_eq!(Method::from_token(name).as_str(), name);
    }
    assert_eq!(Method::from_token("invite"), Method::Extension);
    assert_eq!(Method::from(rsip::Method::Refer), Method::Refer);
}

/// S-005, S-006, S-007: lists and lines.
#[test]
fn lists() {
    let message = parse(INVITE).unwrap();
    let hosts: Vec<_> = message.vias().map(|v| v.unwrap().host.to_owned()).collect();
    assert_eq!(hosts, ["192.0.2.4", "[2001:db8::1]", "inner.example.com"]);
    let routes: Vec<_> = message.routes().map(|r| r.unwrap().uri.to_owned()).collect();
    assert_eq!(routes, ["sip:edge.example.com;lr", "sip:home.example.com;lr", "sip:far.example.com;lr"]);
    assert_eq!(message.from().unwrap().display, Some("\"Alice, A.\""));
    assert_eq!((message.from_tag(), message.to_tag()), (Some("88sja8x"), None));
    assert_eq!(message.lines_named("x-odd").collect::<Vec<_>>(), [";;,,;;,;"]);
    let text = INVITE.replacen(
        "X-Odd: ;;,,;;,;",
        "Proxy-Authorization: Digest a=\"1,2\", b=3\r\nRequire: A, b\r\nRequire: c",
        1,
    );
    let message = parse(text).unwrap();
    assert_eq!(message.values(HeaderId::ProxyAuthorization).collect::<Vec<_>>(), ["Digest a=\"1,2\", b=3"]);
    assert!(["a", "B", "c"].iter().all(|t| message.lists_option(HeaderId::Require, t)));
    assert!(!message.lists_option(HeaderId::Require, "d"));
    assert!(!format!("{message:?}").contains("alice"), "S-235");
}

/// S-024: limits that only the index sees.
#[test]
fn limits() {
    let status = |limits: Limits| Message::parse(INVITE.into(), &limits).map_or_else(|e| e.status, |_| 0);
    let limits = Limits::default;
    assert_eq!(status(Limits { vias: 3, routes: 3, headers: 13, uri: 19, body: 5, ..limits() }), 0);
    assert_eq!(status(Limits { vias: 2, ..limits() }), 400, "values, not lines");
    assert_eq!(status(Limits { routes: 2, ..limits() }), 400);
    assert_eq!(status(Limits { headers: 12, ..limits() }), 400);
    assert_eq!(status(Limits { header_line: 60, ..limits() }), 400);
    assert_eq!(status(Limits { header_section: 300, ..limits() }), 400);
    assert_eq!(status(Limits { uri: 10, ..limits() }), 414);
    assert_eq!(status(Limits { start_line: 20, ..limits() }), 414);
    assert_eq!(status(Limits { body: 4, ..limits() }), 513);
    assert_eq!(status(Limits { message: 200, ..limits() }), 513);
}

/// S-003: folded is the same as not, and a copy leaves unfolded.
#[test]
fn folding() {
    let text =
        "OPTIONS sip:a SIP/2.0\r\nRoute: <sip:a;lr>,\r\n\t <sip:b;lr>\r\n \r\nCSeq: 1\r\n\tOPTIONS\r\nl: 0\r\n\r\n";
    let message = parse(text).unwrap();
    assert_eq!(message.routes().map(|r| r.unwrap().uri.to_owned()).collect::<Vec<_>>(), ["sip:a;lr", "sip:b;lr"]);
    assert_eq!(message.cseq().unwrap(), CSeq { number: 1, method: Method::Options, name: "OPTIONS" });
    assert!(parse("OPTIONS sip:a SIP/2.0\r\n Via: x\r\nl: 0\r\n\r\n").is_err());
    // Folds in the body are none.
    let body = parse("OPTIONS sip:a SIP/2.0\r\nl: 6\r\n\r\na\r\n b\n").unwrap();
    assert_eq!(body.body(), "a\r\n b\n".as_bytes());
}

/// S-008, S-028, RFC 3261 §25.1.
#[test]
fn addresses() {
    let read = |text: &'static str| NameAddr::parse(text).map(|a| (a.display, a.uri, a.params.as_str(), a.bracketed));
    assert_eq!(read("sip:a@b;tag=1"), Ok((None, "sip:a@b", ";tag=1", false)));
    assert_eq!(read("<sip:a@b;lr>;tag=1"), Ok((None, "sip:a@b;lr", ";tag=1", true)));
    assert_eq!(read("A B. <sip:a@b> ; x"), Ok((Some("A B."), "sip:a@b", "; x", true)));
    assert_eq!(read("\"<x> \\\" ;\" <sip:a>"), Ok((Some("\"<x> \\\" ;\""), "sip:a", "", true)));
    for bad in
        ["", "<>", "<sip:a", "\"a <sip:a>", "A, B <sip:a>", "< sip:a>", "sip:a?b=c", "<sip:a>x", "<sip:a>;x=\"y", "a>b"]
    {
        assert!(NameAddr::parse(bad).is_err(), "{bad}");
    }
    let contact = NameAddr::parse("<sip:a@b>;q=0.7;+sip.instance=\"<urn:uuid:1>\";Expires=60;x;tag=").unwrap();
    assert_eq!((contact.q(), contact.expires(), contact.tag()), (Ok(Some(700)), Some(60), None));
    assert_eq!(contact.params.get("+SIP.instance"), Some(Some("\"<urn:uuid:1>\"")));
    assert_eq!(contact.params.get_unquoted("+sip.instance"), Some("<urn:uuid:1>"));
    assert_eq!((contact.params.get("x"), contact.params.get("y")), (Some(None), None));
}

/// S-012.
#[test]
fn numbers() {
    for (q, value) in [("0", 0), ("1", 1000), ("0.5", 500), ("0.333", 333), ("1.000", 1000), ("0.", 0), ("0.05", 50)] {
        assert_eq!(NameAddr::parse(&format!("<sip:a>;q={q}")).unwrap().q(), Ok(Some(value)), "{q}");
    }
    for q in ["1.1", "2", "-1", "0.1234", "1.001", "x", ".", "0,5", "", "+1"] {
        assert!(NameAddr::parse(&format!("<sip:a>;q={q}")).unwrap().q().is_err(), "{q}");
    }
    assert_eq!(NameAddr::parse("<sip:a>").unwrap().q(), Ok(None));
    for (text, value) in
        [("0", Some(0)), ("4294967295", Some(u32::MAX)), ("4294967296", None), ("", None), ("-1", None), ("+1", None)]
    {
        assert_eq!(reveille_sip::typed::delta_seconds(text), value, "{text}");
    }
}

/// S-028, S-031, S-087.
#[test]
fn vias() {
    let via =
        Via::parse("SIP / 2.0 / UDP  [2001:db8::1] : 5060 ; branch = z9hG4bKx;rport;received=[2001:db8::2]").unwrap();
    assert_eq!((via.transport, via.host, via.port), ("UDP", "[2001:db8::1]", Some(5060)));
    assert_eq!((via.branch(), via.rport()), (Some("z9hG4bKx"), Some(None)));
    assert_eq!(via.received_ip(), "2001:db8::2".parse().ok());
    let via = Via::parse("SIP/2.0/QUIC host;received=2001:db8::2;rport=5062;branch=").unwrap();
    assert_eq!((via.branch(), via.rport(), via.received_ip()), (None, Some(Some(5062)), "2001:db8::2".parse().ok()));
    for bad in [
        "",
        "SIP/2.0",
        "SIP/2.0/UDP",
        "SIP/2.0/UDP ;branch=1",
        "SIP/2.0/UDP h:0",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/UDP a b",
        "SIP/2.0/U;DP h",
        "SIP/2.0/UDP [::1",
        "SIP/2.0/UDP h;x=\"y",
    ] {
        assert!(Via::parse(bad).is_none(), "{bad}");
    }
}

/// S-104.
#[test]
fn wildcard_contact() {
    let contacts = |text: &str| {
        let message = parse(INVITE.replacen("Contact: <sip:alice@192.0.2.4:5061;transport=tls>", text, 1)).unwrap();
        match message.contacts() {
            Ok(Contacts::None) => "none",
            Ok(Contacts::Wildcard) => "wildcard",
            Ok(Contacts::List(_)) => "list",
            Err(_) => "malformed",
        }
    };
    assert_eq!(contacts("X: y"), "none");
    assert_eq!(contacts("Contact: *"), "wildcard");
    assert_eq!(contacts("m: <sip:a>, sip:b;q=0"), "list");
    for bad in ["Contact: *\r\nm: *", "Contact: *, <sip:a>", "Contact: ,", "Contact: <sip:a>,"] {
        assert_eq!(contacts(bad), "malformed", "{bad}");
    }
}
