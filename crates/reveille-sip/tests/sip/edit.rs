use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use reveille_sip::{edit::Edit, header::HeaderId, message::Message};

use crate::{INVITE, parse};

/// The message with some changes made; what they do is told by the lines that differ.
fn edited(text: &str, change: impl Fn(&mut Edit<'_>)) -> String {
    let message = parse(text).unwrap();
    let mut edit = Edit::new(&message);
    change(&mut edit);
    let out = edit.finish();
    // Into a buffer that is kept, behind what it holds, goes the same.
    let mut edit = Edit::new(&message);
    change(&mut edit);
    let mut kept = BytesMut::from("before");
    edit.finish_into(&mut kept);
    assert_eq!(kept.strip_prefix(b"before"), Some(out.as_ref()));
    let again = parse(&out).unwrap();
    assert_eq!(again.bytes(), &out, "what leaves is one whole message");
    String::from_utf8(out.to_vec()).unwrap()
}

fn lines(text: &str, id: HeaderId) -> Vec<String> {
    let message = parse(text).unwrap();
    message.lines(id).map(str::to_owned).collect()
}

/// S-009, S-025, S-075.
#[test]
fn nothing_changed_is_byte_for_byte_the_same() {
    assert_eq!(edited(INVITE, |_| {}), INVITE);
}

/// S-028: start line and Content-Length leave canonical, once.
#[test]
fn what_is_liberal_leaves_canonical() {
    let text = "OPTIONS sip:a sip/2.0\r\nl : 002\r\nX:  y \r\nl: 2\r\n\r\nhi and more";
    assert_eq!(edited(text, |_| {}), "OPTIONS sip:a SIP/2.0\r\nContent-Length: 2\r\nX:  y \r\n\r\nhi");
    assert_eq!(
        edited("OPTIONS sip:a SIP/2.0\r\nl: 00\r\nTo\t:a\r\n\r\n", |edit| edit.replace(HeaderId::To, "b")),
        "OPTIONS sip:a SIP/2.0\r\nContent-Length: 0\r\nTo: b\r\n\r\n"
    );
    assert_eq!(edited("sip/2.0 180 \r\nX: y\r\n\r\n", |_| {}), "SIP/2.0 180 \r\nX: y\r\nContent-Length: 0\r\n\r\n");
}

/// S-073, S-087: as a proxy forwards.
#[test]
fn forwarding() {
    let text = edited(INVITE, |edit| {
        edit.add_top_via_params(Some(IpAddr::from([203, 0, 113, 255])), Some(40000));
        edit.push_via("SIP/2.0/TLS proxy.example;branch=z9hG4bKp");
        edit.set_max_forwards(69);
        edit.pop_routes(1);
        edit.prepend(HeaderId::RecordRoute, "<sip:one;lr>");
        edit.prepend(HeaderId::RecordRoute, "<sip:two;lr>");
        edit.set_request_uri("sip:bob@192.0.2.9");
    });
    let expected = INVITE
        .replacen(
            "sip:bob@example.com SIP/2.0\r\n",
            "sip:bob@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/TLS proxy.example;branch=z9hG4bKp\r\n",
            1,
        )
        .replacen(";rport, SIP", ";received=203.0.113.255;rport=40000, SIP", 1)
        .replacen("Max-Forwards: 70", "Max-Forwards: 69", 1)
        .replacen("<sip:edge.example.com;lr>, ", "", 1)
        .replacen("\r\n\r\na", "\r\nRecord-Route: <sip:two;lr>\r\nRecord-Route: <sip:one;lr>\r\n\r\na", 1);
    assert_eq!(text, expected);
}

/// S-005, S-086: one value at a time, through lists and lines.
#[test]
fn popping() {
    let mut text = INVITE.to_owned();
    for left in [2, 1, 0] {
        text = edited(&text, |edit| edit.pop_via());
        assert_eq!(parse(&text).unwrap().vias().count(), left);
    }
    assert_eq!(text, edited(&text, |edit| edit.pop_via()), "there is nothing left to pop");
    let twice = edited(INVITE, |edit| {
        edit.pop_via();
        edit.pop_via();
        edit.pop_routes(1);
        edit.pop_routes(1);
    });
    assert_eq!(lines(&twice, HeaderId::Via), ["SIP/2.0/TCP inner.example.com;branch=z9hG4bKinner"]);
    assert_eq!(lines(&twice, HeaderId::Route), ["<sip:far.example.com;lr>"]);
    let none = edited(INVITE, |edit| edit.pop_routes(99));
    assert_eq!(lines(&none, HeaderId::Route), Vec::<String>::new());
    let one_left = edited(INVITE, |edit| edit.pop_routes(1));
    assert_eq!(lines(&one_left, HeaderId::Route), ["\"a,b\" <sip:home.example.com;lr>", "<sip:far.example.com;lr>"]);
}

/// S-087: what a Via claims of itself is overwritten.
#[test]
fn via_parameters() {
    let via = |value: &str, received: Option<&str>, rport| {
        let text = INVITE.replacen("SIP/2.0/TLS 192.0.2.4:5061;branch=z9hG4bKnashds8;rport", value, 1);
        let text = edited(&text, |edit| edit.add_top_via_params(received.map(|a| a.parse().unwrap()), rport));
        let message = parse(text).unwrap();
        message.values(HeaderId::Via).next().unwrap().to_owned()
    };
    let plain = "SIP/2.0/UDP h;branch=z9";
    assert_eq!(via(plain, None, None), plain);
    assert_eq!(via(plain, Some("192.0.2.1"), None), "SIP/2.0/UDP h;branch=z9;received=192.0.2.1");
    assert_eq!(via("SIP/2.0/UDP h;rport;branch=z9", None, Some(5)), "SIP/2.0/UDP h;branch=z9;rport=5");
    assert_eq!(
        via("SIP/2.0/UDP h;Received=1.1.1.1;RPORT = 9;rportx=1;branch=z9", Some("2001:db8::1"), Some(65535)),
        "SIP/2.0/UDP h;rportx=1;branch=z9;received=2001:db8::1;rport=65535"
    );
    assert_eq!(via("SIP/2.0/UDP h;x=\";rport\"", None, Some(7)), "SIP/2.0/UDP h;x=\";rport\";rport=7");
}

#[test]
fn lines_come_and_go() {
    let text = edited(INVITE, |edit| edit.remove(HeaderId::Route));
    assert_eq!(lines(&text, HeaderId::Route), Vec::<String>::new());
    let text = edited(INVITE, |edit| edit.remove_named("x-ODD"));
    assert_eq!(text, INVITE.replacen("X-Odd: ;;,,;;,;\r\n", "", 1));
    let text = edited(INVITE, |edit| edit.remove_named("max-forwards"));
    assert!(!text.contains("Max-Forwards"));
    let text = edited(INVITE, |edit| edit.replace(HeaderId::Route, "<sip:only;lr>"));
    assert_eq!(lines(&text, HeaderId::Route), ["<sip:only;lr>"]);
    let text = edited(INVITE, |edit| edit.replace(HeaderId::Expires, "60"));
    assert_eq!(lines(&text, HeaderId::Expires), ["60"]);
    let text = edited(INVITE, |edit| {
        edit.replace(HeaderId::Expires, "60");
        edit.replace(HeaderId::Expires, "70");
    });
    assert_eq!(lines(&text, HeaderId::Expires), ["70"], "the last one decides");
    let text = edited(INVITE, |edit| edit.retain_lines(HeaderId::Route, |l| l.contains("far")));
    assert_eq!(lines(&text, HeaderId::Route), ["<sip:far.example.com;lr>"]);
    let text = edited(INVITE, |edit| {
        edit.prepend(HeaderId::Route, "<sip:new;lr>");
        edit.append(HeaderId::Route, "<sip:last;lr>");
        edit.append_named("X-New", "1");
    });
    let routes = lines(&text, HeaderId::Route);
    assert_eq!((routes.len(), routes[0].as_str(), routes[3].as_str()), (4, "<sip:new;lr>", "<sip:last;lr>"));
    assert!(text.contains("\r\nX-New: 1\r\n"));
    let text = edited(INVITE, |edit| {
        edit.remove(HeaderId::Route);
        edit.prepend(HeaderId::Route, "<sip:b;lr>");
        edit.prepend(HeaderId::Route, "<sip:a;lr>");
    });
    assert_eq!(lines(&text, HeaderId::Route), ["<sip:a;lr>", "<sip:b;lr>"]);
}

/// S-025: NUL and all.
#[test]
fn bodies() {
    let body = Bytes::from_static(b"\0\r\n\r\n\0");
    let message = parse(INVITE).unwrap();
    let mut edit = Edit::new(&message);
    edit.set_body("application/x", body.clone());
    let out = Message::parse(edit.finish(), &Default::default()).unwrap();
    assert_eq!(out.body(), body);
    assert_eq!(
        (out.value(HeaderId::ContentType), out.value(HeaderId::ContentLength)),
        (Some("application/x"), Some("6"))
    );
}

/// S-029: nothing that is put into a value makes a header.
#[test]
fn line_breaks_do_not_get_in() {
    let text = edited(INVITE, |edit| {
        edit.append_named("X-New", "a\r\nVia: evil");
        edit.push_via("SIP/2.0/UDP h\r\nRoute: <sip:evil>");
    });
    assert!(text.contains("X-New: a  Via: evil\r\n"));
    assert!(text.contains("\r\nVia: SIP/2.0/UDP h  Route: <sip:evil>\r\n"));
}

/// P-105: each line, of any header, stays, changes or goes by itself; what is said of it later counts more.
#[test]
fn every_line_can_be_given_another_value() {
    let text =
        "OPTIONS sip:a SIP/2.0\r\nX-One: 1\r\nm: <sip:b>\r\nX-Two: 2\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n";
    let out = edited(text, |edit| {
        edit.rewrite_lines(|id, value| match (id, value) {
            (HeaderId::Contact, b"<sip:b>") => Some(Some("<sip:c>")),
            (HeaderId::Other, b"2") => Some(None),
            (HeaderId::MaxForwards, _) => Some(Some("1")),
            _ => None,
        });
        edit.set_max_forwards(8);
    });
    assert_eq!(out, text.replace("sip:b", "sip:c").replace("X-Two: 2\r\n", "").replace("s: 9", "s: 8"));
}
