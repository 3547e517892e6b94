//! What a phone says of push stays between it and us (P-104, P-105, P-010).

use proptest::prelude::*;
use reveille_registrar::shard::HomeEvent;
use reveille_sip::{header::HeaderId, message::Message};

use super::{
    bench::{Bench, answer, invite, target, tls},
    registrations::{accepted, register, view},
};

/// What no other party may ever see.
const TOKEN: &str = "5ec12e7aa5ec12e7";

fn shows(message: &Message) -> bool {
    message.bytes().windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes())
}

/// Every way in which phones write a token into a Contact.
fn indiscreet() -> [String; 5] {
    [
        format!("<sip:alice@198.51.100.1:5070;pn-provider=fcm;pn-prid={TOKEN}>"),
        format!("<sip:alice@198.51.100.1:5070>;pn-provider=fcm;pn-prid={TOKEN}"),
        format!("\"A, B\" <sip:alice@198.51.100.1:5070;lr>;q=0.5;PN-Tok=\"{TOKEN}\";+x=\"y\""),
        format!("sip:alice@198.51.100.1:5070;pn-tok={TOKEN};expires=600"),
        format!("<sip:alice@198.51.100.1:5070;p%6e-x={TOKEN}>;pn-msg-str=IM_MSG"),
    ]
}

/// P-010, P-049: another device of the same user is told its sibling's address, and nothing else; the phone itself is told all.
#[test]
fn p049_header_parameters_are_for_their_own_phone() {
    let (mut bench, ask) = accepted(&register("", "Contact: <sip:alice@192.0.2.50>"));
    let mut sibling = view("sip:alice@198.51.100.1:5070", false);
    sibling.params = format!(";+sip.instance=\"<urn:uuid:2>\";pn-provider=fcm;pn-prid={TOKEN}");
    let mut own = view("sip:alice@192.0.2.50", true);
    own.params = ";pn-tok=00112233".into();
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![own, sibling])));
    let ok = bench.sent().remove(0).1;
    assert!(!shows(&ok));
    let contacts: Vec<&str> = ok.lines(HeaderId::Contact).collect();
    assert!(contacts[0].contains("pn-tok=00112233"));
    assert!(contacts[1].contains("+sip.instance=\"<urn:uuid:2>\"") && !contacts[1].contains("pn-"));
}

/// P-010, P-104, P-105: no Contact shows the other party a token, whichever side of the bracket it stands on.
#[test]
fn p105_contacts_are_passed_on_without_tokens() {
    for (number, contact) in indiscreet().into_iter().enumerate() {
        let mut bench = Bench::new();
        let request = invite(&format!("z9hG4bKa{number}"))
            .replace("Contact: <sip:bob@trunk.test;transport=tls>", &format!("Contact: {contact}"));
        bench.peer(tls(1), &request);
        let waiter = bench.resolving();
        bench.home(
            waiter,
            HomeEvent::Resolved { targets: vec![target(1, tls(2), false)], waiting: vec![], known: true },
        );
        let forwarded = bench.requests(tls(2)).remove(0);
        assert!(!shows(&forwarded), "request with {contact}");
        assert!(forwarded.value(HeaderId::Contact).is_some_and(|c| c.contains("sip:alice@198.51.100.1:5070")));
        for status in [183, 302] {
            let response = answer(&forwarded, status).replace(
                "Contact: <sip:alice@198.51.100.1:5070;transport=tls;pn-provider=apns;pn-prid=aabbccdd>",
                &format!("Contact: {contact}"),
            );
            bench.public(tls(2), &response);
            let passed: Vec<Message> = bench.sent().into_iter().filter(|(f, _)| *f == tls(1)).map(|(_, m)| m).collect();
            assert!(passed.iter().any(|m| m.status() == Some(status)), "{status}");
            assert!(!passed.iter().any(shows), "{status} with {contact}");
        }
    }
}

/// P-105: what a phone says in a dialog, of any method, in any header that can hold a URI, and in the message within a message that
/// a NOTIFY of REFER carries.
fn in_any_header(header: &str, value: &str, body: Option<&str>) -> Message {
    let mut bench = Bench::new();
    let mut text = invite("z9hG4bKh").replace("X-Odd: ;;,,;;,;", &format!("{header}: {value}"));
    if let Some(body) = body {
        text = text.replace(
            "\nContent-Length: 0\n\n",
            "\nContent-Type: message/sipfrag;version=2.0\nContent-Length: LENGTH\n\n",
        );
        text = text.replace("LENGTH", &(body.len() + body.matches('\n').count()).to_string()) + body;
    }
    bench.peer(tls(1), &text);
    let waiter = bench.resolving();
    bench.home(waiter, HomeEvent::Resolved { targets: vec![target(1, tls(2), false)], waiting: vec![], known: true });
    bench.requests(tls(2)).remove(0)
}

/// Every header that can hold a URI and goes from end to end, and some that nobody has heard of.
const HEADERS: [&str; 24] = [
    "History-Info",
    "Diversion",
    "Referred-By",
    "Refer-To",
    "Reply-To",
    "Call-Info",
    "Alert-Info",
    "Error-Info",
    "Replaces",
    "P-Asserted-Identity",
    "P-Preferred-Identity",
    "P-Called-Party-ID",
    "P-Associated-URI",
    "P-Served-User",
    "Remote-Party-ID",
    "Geolocation",
    "Identity-Info",
    "Target-Dialog",
    "Trigger-Consent",
    "Permission-Missing",
    "Policy-Contact",
    "r",
    "b",
    "X-Contact",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// P-105.
    #[test]
    fn p105_no_header_that_can_hold_a_uri_shows_a_token(
        header in prop::sample::select(HEADERS.to_vec()),
        contact in prop::sample::select(indiscreet().to_vec()),
        more in prop::sample::select(vec!["", ";index=1", ", <sip:other@192.0.2.1>;index=1.1", "?Replaces=x"]),
        is_nested in any::<bool>(),
    ) {
        let escape = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let value = if is_nested { format!("<sip:x@192.0.2.2?Contact={}>{more}", escape(&contact)) } else { format!("{contact}{more}") };
        // Escapes all the way: the token itself is then no longer what we look for.
        let hidden = in_any_header(header, &value, None);
        let mut decoded = Vec::new();
        let octets = hidden.bytes();
        let mut at = 0;
        while at < octets.len() {
            let code = octets.get(at + 1..at + 3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
            match code.filter(|_| octets[at] == b'%') {
                Some(code) => { decoded.push(code); at += 3; }
                None => { decoded.push(octets[at]); at += 1; }
            }
        }
        prop_assert!(!String::from_utf8_lossy(&decoded).contains(TOKEN), "{header}: {value}");
        prop_assert!(hidden.lines_named(header).count() == 1 || header.len() == 1, "{header} itself stays");
    }
}

/// P-105: the message within a message loses its tokens too, and its length is right.
#[test]
fn p105_sipfrag_bodies_are_cleaned() {
    for contact in indiscreet() {
        let body = format!("SIP/2.0 200 OK\nContact: {contact}\nX: 1\n");
        let passed = in_any_header("X", "1", Some(&body));
        assert!(!shows(&passed), "{contact}");
        let text = String::from_utf8(passed.body().to_vec()).unwrap();
        assert!(text.starts_with("SIP/2.0 200 OK\r\nContact: ") && text.ends_with("\r\nX: 1\r\n"), "{text}");
        assert_eq!(passed.value(HeaderId::ContentType), Some("message/sipfrag;version=2.0"));
    }
    // P-108: what is made for the other party reaches it.
    let kept = in_any_header("Refer-To", "<sip:alice@192.0.2.1;pn-purr=12ab>", None);
    assert_eq!(kept.value(HeaderId::ReferTo), Some("<sip:alice@192.0.2.1;pn-purr=12ab>"));
}
