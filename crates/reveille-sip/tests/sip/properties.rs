//! Properties that hold for any input (S-023, S-035).

use bytes::Bytes;
use proptest::prelude::*;
use reveille_sip::{
    edit::Edit,
    frame::{Frame, Framer},
    header::HeaderId,
    limits::Limits,
    message::Message,
    response::{ResponseBuilder, best_effort},
    typed::{CSeq, NameAddr, Via},
    uri::{Uri, equal, escape_user, unescape},
    validate,
};

use crate::INVITE;

/// Everything that reads a message, on one that may be anything.
fn read_all(bytes: Bytes) {
    let limits = Limits::default();
    let _ = best_effort(&bytes, 400, "Bad Request");
    let mut framer = Framer::new(limits.clone());
    framer.push(&bytes);
    while let Ok(Some(_)) = framer.next() {}
    let Ok(message) = Message::parse(bytes, &limits) else { return };
    let _ = (message.redacted(), format!("{message:?}"), message.method(), message.method_name());
    let _ = (message.contacts(), message.max_forwards(), message.expires(), message.from_tag(), message.to_tag());
    let _ = (message.vias().count(), message.routes().count(), message.values(HeaderId::Supported).count());
    let verdict =
        if message.is_request() { validate::request(&message).is_ok() } else { validate::response(&message).is_ok() };
    let mut edit = Edit::new(&message);
    edit.pop_via();
    edit.pop_routes(2);
    edit.add_top_via_params(Some([192, 0, 2, 1].into()), Some(1));
    edit.push_via("SIP/2.0/UDP h;branch=z9hG4bKx");
    edit.set_max_forwards(1);
    edit.remove_named("x-odd");
    let forwarded = Message::parse(edit.finish(), &limits);
    assert!(forwarded.is_ok() || !verdict, "what was sound is sound after an edit");
    // Nothing changed: the same headers in the same order, and the same body.
    let copy = Message::parse(Edit::new(&message).finish(), &limits);
    assert_eq!(copy.map(|c| c.body()), Ok(message.body()));
    if message.is_request() && verdict {
        let answer = Message::parse(ResponseBuilder::to(&message, 400).to_tag("t").build(), &limits);
        assert!(answer.is_ok_and(|a| validate::response(&a).is_ok()), "what is sound can be answered");
    }
}

/// A valid message with some octets overwritten, cut out or put in.
fn mutated() -> impl Strategy<Value = Bytes> {
    let octet = prop_oneof![
        Just(b'\r'),
        Just(b'\n'),
        Just(b' '),
        Just(b':'),
        Just(b';'),
        Just(b','),
        Just(b'"'),
        Just(b'<'),
        Just(b'>'),
        Just(b'\\'),
        Just(b'='),
        Just(b'%'),
        Just(b'@'),
        Just(0),
        any::<u8>()
    ];
    let change = (any::<prop::sample::Index>(), 0..4_u8, octet);
    prop::collection::vec(change, 0..12).prop_map(|changes| {
        let mut bytes = INVITE.as_bytes().to_vec();
        for (at, kind, octet) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = octet,
                1 => bytes.insert(at, octet),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.splice(at..at, *b"\r\n ").for_each(drop),
            }
        }
        Bytes::from(bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// S-023.
    #[test]
    fn split_anywhere_the_frames_are_the_same(
        kinds in prop::collection::vec(0..4_u8, 1..6),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let parts: Vec<&str> = kinds.iter().map(|k| match k {
            0 => INVITE,
            1 => "\r\n\r\n",
            2 => "SIP/2.0 200 OK\r\nl: 4\r\n\r\n\r\n\r\n",
            _ => "MESSAGE sip:a SIP/2.0\r\nContent-Length:\r\n 2\r\n\r\n\u{e9}",
        }).collect();
        let stream = parts.concat();
        let mut at: Vec<usize> = cuts.drain(..).map(|i| i.index(stream.len())).collect();
        at.push(stream.len());
        at.sort_unstable();
        let (mut framer, mut got, mut from) = (Framer::new(Limits::default()), Vec::new(), 0);
        for to in at {
            framer.push(&stream.as_bytes()[from..to]);
            from = to;
            while let Some(frame) = framer.next().unwrap() {
                got.push(match frame {
                    Frame::Message(framed) => String::from_utf8(framed.bytes().to_vec()).unwrap(),
                    Frame::KeepAlivePing => "\r\n\r\n".to_owned(),
                    Frame::KeepAlivePong => "\r\n".to_owned(),
                });
            }
        }
        prop_assert_eq!(got, parts);
        prop_assert!(!framer.is_mid_message());
    }

    #[test]
    fn any_octets_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read_all(bytes.into());
    }

    #[test]
    fn any_head_is_read_without_panic(head in "[A-Z]{0,8} ?(sips?:)?[ -~]{0,20} SIP/2.0\r\n([A-Za-z-]{1,8} ?: ?[\\PC\r\n \"<>;,=\\\\]{0,30}\r\n){0,8}\r\n") {
        read_all(head.into());
    }

    #[test]
    fn any_mutation_is_read_without_panic(bytes in mutated()) {
        read_all(bytes);
    }

    #[test]
    fn any_value_is_read_without_panic(text in "[\\PC\0\r\n\t]{0,60}|[a-z:;@<>\"\\\\,=%/?\\[\\] .0-9]{0,60}") {
        let _ = (NameAddr::parse(&text).map(|a| (a.q(), a.expires(), a.params.iter().count())), CSeq::parse(&text));
        let _ = Via::parse(&text).map(|v| (v.branch(), v.received_ip(), v.rport()));
        for separator in [b',', b';', b'=', b'<', 0] {
            let _ = reveille_sip::split::outside_quotes(&text, separator).count();
        }
        if let Ok(uri) = Uri::parse(&text) {
            let repeated = uri.params().any(|(n, v)| uri.param(n) != Some(v));
            prop_assert!(repeated || equal(&uri, &uri), "a URI equals itself");
            let _ = (uri.params().count(), uri.host_ip(), uri.user_decoded(), uri.param("x"), uri.headers());
        }
    }

    #[test]
    fn what_is_escaped_comes_back(user in prop::collection::vec(any::<u8>(), 1..30)) {
        let text = format!("sip:{}@h", escape_user(&user));
        let uri = Uri::parse(&text).unwrap();
        prop_assert_eq!(uri.user_decoded().unwrap().into_owned(), user);
        prop_assert_eq!(unescape(uri.user().unwrap()), uri.user_decoded().unwrap());
    }
}
