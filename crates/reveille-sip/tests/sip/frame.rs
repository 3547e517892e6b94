use std::iter::repeat_n;

use reveille_sip::{
    frame::{Frame, FrameError, Framer},
    limits::Limits,
};

use crate::INVITE;

const SHORT: &str = "OPTIONS sip:a SIP/2.0\r\nl: 3\r\n\r\n\r\n\r";
const RESPONSE: &str = "SIP/2.0 200 \u{436}\r\nContent-Length: 0\r\n\r\n";

fn frames(framer: &mut Framer) -> Result<Vec<Frame>, FrameError> {
    let mut all = Vec::new();
    while let Some(frame) = framer.next()? {
        all.push(frame);
    }
    Ok(all)
}

fn message(text: &str) -> Frame {
    Frame::Message(bytes::Bytes::copy_from_slice(text.as_bytes()).into())
}

fn lost(text: &str, limits: &Limits) -> FrameError {
    let mut framer = Framer::new(limits.clone());
    framer.push(text.as_bytes());
    frames(&mut framer).unwrap_err()
}

/// S-022, S-023, S-125.
#[test]
fn octet_by_octet_and_all_at_once_are_the_same() {
    let stream = format!("\r\n\r\n{INVITE}\r\n{SHORT}{RESPONSE}\r\n\r\n\r\n\r\n{INVITE}");
    let expected = vec![
        Frame::KeepAlivePing,
        message(INVITE),
        Frame::KeepAlivePong,
        message(SHORT),
        message(RESPONSE),
        Frame::KeepAlivePing,
        Frame::KeepAlivePing,
        message(INVITE),
    ];
    let mut framer = Framer::new(Limits::default());
    framer.push(stream.as_bytes());
    assert_eq!(frames(&mut framer).unwrap(), expected);
    for step in [1, 2, 3, 7, 100] {
        let (mut framer, mut got) = (Framer::new(Limits::default()), Vec::new());
        for piece in stream.as_bytes().chunks(step) {
            framer.push(piece);
            got.extend(frames(&mut framer).unwrap());
        }
        assert_eq!(got, expected, "in pieces of {step}");
    }
}

/// S-125: only a side that awaits a pong may take a lone CRLF for one at once.
#[test]
fn a_lone_crlf_waits_for_what_follows_unless_a_pong_is_awaited() {
    let mut framer = Framer::new(Limits::default());
    framer.push(b"\r\n");
    assert_eq!(framer.next(), Ok(None));
    assert!(!framer.is_mid_message());
    assert!(framer.take_pong());
    assert!(!framer.take_pong());
    framer.push(b"\r\n\r\n");
    assert!(!framer.take_pong());
    assert_eq!(framer.next(), Ok(Some(Frame::KeepAlivePing)));
    framer.push(&INVITE.as_bytes()[..40]);
    assert_eq!(framer.next(), Ok(None));
    assert!(framer.is_mid_message());
}

/// S-003, S-004, S-021: every way to write Content-Length, and every way to lose framing.
#[test]
fn content_length_decides() {
    for header in [
        "Content-Length: 2",
        "l:2",
        "cOnTeNt-LeNgTh \t:\t2 ",
        "L:\r\n 2",
        "l: 2\r\n \r\nl: 02",
        "l: 2\r\nX: y\r\n l: 9",
    ] {
        let mut framer = Framer::new(Limits::default());
        framer.push(format!("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\n{header}\r\n\r\nhi").as_bytes());
        assert!(matches!(framer.next(), Ok(Some(Frame::Message(_)))), "{header}");
        assert_eq!(framer.next(), Ok(None));
    }
    for header in [
        "X: y",
        "l: -1",
        "l: 2\r\nContent-Length: 3",
        "l: two",
        "l:",
        "l: 99999999999",
        "l: 1\r\n 2",
        "l: +2",
        "l: 2, 2",
    ] {
        let error = lost(&format!("OPTIONS sip:a SIP/2.0\r\n{header}\r\n\r\nhi"), &Limits::default());
        assert_eq!(error.status, 400, "{header}");
        assert!(error.head.is_some_and(|h| h.ends_with(b"\r\n\r\n")), "{header}");
    }
}

/// S-024: each limit ends the stream before what is over it has been taken in.
#[test]
fn limits_are_enforced_while_reading() {
    let limits = Limits { start_line: 100, header_section: 400, body: 1000, message: 1200, ..Limits::default() };
    let long = |n: usize| repeat_n('x', n).collect::<String>();
    assert_eq!(lost(&format!("OPTIONS sip:{}", long(200)), &limits).status, 414);
    assert_eq!(lost(&format!("OPTIONS sip:{} SIP/2.0\r\nl: 0\r\n\r\n", long(100)), &limits).status, 414);
    assert_eq!(lost(&format!("OPTIONS sip:a SIP/2.0\r\nX: {}", long(600)), &limits).status, 400);
    assert_eq!(lost("OPTIONS sip:a SIP/2.0\r\nl: 1001\r\n\r\n", &limits).status, 513);
    assert_eq!(lost(&format!("OPTIONS sip:a SIP/2.0\r\nX: {}\r\nl: 990\r\n\r\n", long(300)), &limits).status, 513);
    assert_eq!(lost("\rOPTIONS", &limits).status, 400);
    assert_eq!(lost("\r\n\rOPTIONS", &limits).status, 400);
    // What comes an octet at a time is stopped all the same.
    let mut framer = Framer::new(limits);
    framer.push(b"OPTIONS sip:a SIP/2.0\r\nX: ");
    let stopped = (0..100_000).find(|_| {
        framer.push(b"x");
        framer.next().is_err()
    });
    assert!(stopped.is_some_and(|n| n < 600));
}
