use std::net::IpAddr;

use bytes::Bytes;
use reveille_sip::{
    header::HeaderId,
    response::{ResponseBuilder, best_effort, reason},
    validate,
};

use crate::{INVITE, parse};

/// RFC 3261 §8.2.6; S-045.
#[test]
fn an_answer_has_what_the_request_had() {
    let request = parse(INVITE).unwrap();
    let bytes = ResponseBuilder::to(&request, 480)
        .to_tag("t1")
        .received(IpAddr::from([203, 0, 113, 1]), Some(9))
        .header(HeaderId::RetryAfter, "5")
        .named("X-Why", "because")
        .body("text/plain", Bytes::from_static(b"\0x"))
        .build();
    let response = parse(&bytes).unwrap();
    assert!(validate::response(&response).is_ok());
    assert_eq!((response.status(), response.reason_phrase()), (Some(480), "Temporarily Unavailable"));
    assert_eq!(
        response.values(HeaderId::Via).collect::<Vec<_>>(),
        [
            "SIP/2.0/TLS 192.0.2.4:5061;branch=z9hG4bKnashds8;received=203.0.113.1;rport=9",
            "SIP/2.0/UDP [2001:db8::1]:5070;branch=z9hG4bKlower",
            "SIP/2.0/TCP inner.example.com;branch=z9hG4bKinner",
        ]
    );
    assert_eq!(response.value(HeaderId::From), request.value(HeaderId::From));
    assert_eq!((response.to_tag(), response.call_id()), (Some("t1"), request.call_id()));
    assert_eq!((response.cseq(), response.method()), (request.cseq(), request.method()));
    assert_eq!((response.value(HeaderId::RetryAfter), response.body().as_ref()), (Some("5"), &b"\0x"[..]));
    assert_eq!(response.lines_named("x-why").next(), Some("because"));
}

/// S-044, S-045: 100 has the Timestamp and no tag; a tag that is there stays.
#[test]
fn tags_and_timestamps() {
    let request = parse(INVITE.replacen("X-Odd: ;;,,;;,;", "Timestamp: 54", 1)).unwrap();
    let trying = parse(ResponseBuilder::to(&request, 100).to_tag("t").build()).unwrap();
    assert_eq!((trying.to_tag(), trying.value(HeaderId::Timestamp)), (None, Some("54")));
    let ringing = parse(ResponseBuilder::to(&request, 180).to_tag("t").reason("Soon").build()).unwrap();
    assert_eq!((ringing.to_tag(), ringing.value(HeaderId::Timestamp)), (Some("t"), None));
    assert_eq!(ringing.reason_phrase(), "Soon");
    let tagged = parse(INVITE.replacen("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=old", 1)).unwrap();
    let answer = parse(ResponseBuilder::to(&tagged, 481).to_tag("new").build()).unwrap();
    assert_eq!(answer.to_tag(), Some("old"));
}

#[test]
fn reasons() {
    for (status, phrase) in [
        (200, "OK"),
        (430, "Flow Failed"),
        (439, "First Hop Lacks Outbound Support"),
        (440, "Max-Breadth Exceeded"),
        (491, "Request Pending"),
        (555, "Push Notification Service Not Supported"),
        (299, "Unknown"),
    ] {
        assert_eq!(reason(status), phrase);
    }
}

/// S-017, S-018: as much of an answer as can be made, or none.
#[test]
fn answers_to_the_broken() {
    let broken = INVITE.replacen("Content-Length: 5", "Content-Length: -5", 1);
    let bytes = best_effort(broken.as_bytes(), 400, "Bad Content-Length").unwrap();
    let answer = parse(&bytes).unwrap();
    assert!(validate::response(&answer).is_ok());
    assert_eq!((answer.status(), answer.vias().count()), (Some(400), 3));
    assert!(answer.to_tag().is_some(), "S-045");
    assert_eq!(best_effort(broken.as_bytes(), 400, "Bad Content-Length"), Some(bytes), "the same tag for a copy");
    let folded = broken.replacen("To: <sip:bob@example.com>", "To: <sip:bob@example.com>\r\n ;tag=x", 1);
    let answer = parse(best_effort(folded.as_bytes(), 400, "x").unwrap()).unwrap();
    assert_eq!(answer.to_tag(), Some("x"));
    for (name, text) in [
        ("ACK", broken.replace("INVITE", "ACK")),
        ("ACK by CSeq", broken.replace("31862 INVITE", "31862 ACK")),
        ("response", broken.replacen("INVITE sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK", 1)),
        ("no Via", broken.replace("Via:", "X-Via:").replace("v:", "X-V:")),
        ("bad Via", broken.replacen("SIP/2.0/TLS", "SIP", 1)),
        ("no Call-ID", broken.replacen("Call-ID", "X-Call", 1)),
        ("CSeq cut off", broken.split("CSeq").next().unwrap().to_owned() + "CSeq: 1 INV"),
        ("nothing", String::new()),
        ("garbage", "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
    ] {
        assert_eq!(best_effort(text.as_bytes(), 400, "Bad Request"), None, "{name}");
    }
}
