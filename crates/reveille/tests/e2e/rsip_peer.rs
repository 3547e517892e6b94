//! What the node says, read by a parser that is not ours: rsip takes every message, and every header with its value.

use std::collections::BTreeSet;

use reveille::lab::{DOMAIN, LabOptions};
use reveille_sip::rsip::{self, Header, headers::ToTypedHeader as _, headers::UntypedHeader as _};
use reveille_testkit::pns::Provider;
use reveille_testkit::ua::{Method, Phone, PushParams, SipMessage};

use super::stage::{BOB, SOON, Stage, answer, call, device, ended, hang_up, play};

/// What the node has said once all is over, to the phone and to the caller.
const HEARD: [&str; 19] = [
    "100 INVITE",
    "180 INVITE",
    "200 BYE",
    "200 CANCEL",
    "200 INVITE",
    "200 MESSAGE",
    "200 OPTIONS",
    "200 REGISTER",
    "401 REGISTER",
    "407 INVITE",
    "420 MESSAGE",
    "480 INVITE",
    "487 INVITE",
    "555 REGISTER",
    "ACK",
    "BYE",
    "CANCEL",
    "INVITE",
    "MESSAGE",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsip_reads_whatever_the_node_says() {
    play(LabOptions::default(), async |stage| {
        let mut heard = BTreeSet::new();
        for provider in [Provider::Apns, Provider::Fcm, Provider::WebPush] {
            let phones = scenario(stage, provider).await;
            for phone in &phones {
                read_all(&phone.transcript(), &mut heard);
            }
        }
        assert_eq!(heard.into_iter().collect::<Vec<_>>(), HEARD);
    })
    .await;
}

/// Registration refused, asked for credentials and accepted, with an outbound flow and a Path; a call through a push, one that
/// is cancelled, one that finds nobody; requests to the node itself.
async fn scenario(stage: &Stage, provider: Provider) -> [Phone; 2] {
    let domain = format!("sip:{DOMAIN}");
    let mut bob = device(stage.phone("bob", provider), 1).reg_id(1).pnsreg().build();
    bob.connect().await.unwrap();
    assert_eq!(bob.register_raw(3600).await.unwrap().code(), 401);
    let push = bob.push().cloned();
    bob.set_push(Some(PushParams { provider: Some("carrier-pigeon".into()), param: None, prid: Some("coo".into()) }));
    assert_eq!(bob.register(3600).await.unwrap().code(), 555);
    bob.set_push(push);
    let mut register = bob.register_request(3600);
    register.push("Path", "<sip:token@edge.example;lr;ob>");
    let accepted = bob.exchange(register).await.unwrap();
    assert_eq!((accepted.code(), accepted.header("Path")), (200, Some("<sip:token@edge.example;lr;ob>")));
    assert!(accepted.header("Feature-Caps").is_some() && accepted.header("Contact").is_some());

    let caller = stage.caller().await;
    bob.sleep().await;
    let mut answered = call(&caller, BOB).await;
    stage.wake(&mut bob).await;
    let mut incoming = bob.expect_invite(SOON).await.unwrap();
    assert_eq!(incoming.invite().headers("Record-Route").count(), 2);
    answer(&mut answered, &mut incoming).await;
    hang_up(&mut answered, &mut incoming).await;

    let mut cancelled = call(&caller, BOB).await;
    let mut incoming = bob.expect_invite(SOON).await.unwrap();
    cancelled.cancel(SOON).await.unwrap();
    incoming.expect_cancel(SOON).await.unwrap();
    assert_eq!(ended(&mut cancelled).await, 487);

    let mut nobody = call(&caller, "sip:carol@lab.example").await;
    assert_eq!(ended(&mut nobody).await, 480);
    assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 200);
    assert_eq!(caller.options(&domain).await.unwrap().code(), 200);
    let mut refused = caller.request(Method::Message, BOB, BOB);
    refused.push("Proxy-Require", "time-travel");
    assert_eq!(caller.exchange(refused).await.unwrap().code(), 420);
    assert_eq!(bob.unregister().await.unwrap().code(), 200);
    [bob, caller]
}

/// Reads a phone's transcript and notes what was in it.
fn read_all(transcript: &[u8], heard: &mut BTreeSet<String>) {
    let mut rest = transcript;
    while !rest.is_empty() {
        // Only the cutting is the phone's own.
        let (ours, taken) = SipMessage::parse(rest, true).expect("whole messages and no keep-alives");
        let (octets, after) = rest.split_at(taken);
        let code = ours.status().map(|status| format!("{status} ")).unwrap_or_default();
        heard.insert(format!("{code}{}", ours.method()));
        read(std::str::from_utf8(octets).expect("nobody sent anything but text"));
        rest = after;
    }
}

fn read(text: &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (start, lines) = head.split_once("\r\n").unwrap();
    let read = rsip::SipMessage::try_from(text);
    assert_eq!(read.is_ok(), start.starts_with("SIP/2.0 ") || readable(start), "{start}: {read:?}");
    // What rsip cannot read in the Request-URI must not keep it from the headers.
    let read = read.or_else(|_| {
        let uri = start.split(' ').nth(1).unwrap();
        rsip::SipMessage::try_from(text.replacen(uri, "sip:elsewhere", 1))
    });
    let (headers, carried) = match read.unwrap_or_else(|error| panic!("{error}: {text}")) {
        rsip::SipMessage::Request(request) => {
            let rsip::Request { method, uri, version, headers, body } = request;
            let printed = in_small(&format!("{method} {uri} {version}"));
            assert!(printed == start || !readable(start), "{printed} is not {start}");
            (headers, body)
        }
        rsip::SipMessage::Response(rsip::Response { status_code, version, headers, body }) => {
            // rsip forgets the phrase of a status that it knows.
            assert!(start.starts_with(&format!("{version} {} ", status_code.code())), "{start}");
            (headers, body)
        }
    };
    assert_eq!(String::from_utf8(carried).unwrap(), body);
    assert!(headers.iter().map(Header::to_string).eq(lines.split("\r\n")), "{headers:?} are not {lines}");
    headers.iter().for_each(read_typed);
}

/// Headers with a meaning to rsip: where it can read the value it is the same one.
fn read_typed(header: &Header) {
    let (value, typed) = match header {
        Header::Via(via) => (via.value(), via.typed().map(|typed| typed.to_string())),
        Header::From(from) => (from.value(), from.typed().map(|typed| typed.to_string())),
        Header::To(to) => (to.value(), to.typed().map(|typed| typed.to_string())),
        Header::CSeq(cseq) => (cseq.value(), cseq.typed().map(|typed| typed.to_string())),
        Header::Contact(contact) => (contact.value(), contact.typed().map(|typed| typed.to_string())),
        Header::RecordRoute(route) => (route.value(), route.typed().map(|typed| typed.to_string())),
        Header::Allow(allow) => (allow.value(), allow.typed().map(|typed| typed.to_string())),
        Header::WwwAuthenticate(challenge) => (challenge.value(), challenge.typed().map(|typed| typed.to_string())),
        Header::ProxyAuthenticate(challenge) => (challenge.value(), challenge.typed().map(|typed| typed.to_string())),
        _ => return,
    };
    match typed {
        Ok(printed) => assert_eq!(in_small(&printed), value),
        // rsip has no `SHA-256` but `SHA256`, which no RFC knows.
        Err(error) => assert!(value.contains(" algorithm=SHA-256") || !readable(value), "{header}: {error}"),
    }
}

/// Whether rsip reads these URI or header parameters: it takes a value for a token, while RFC 3261 §25.1 has `:`, `/` and `&` in
/// a URI's, which is where push tokens have them, and a quoted string in a header's, which is what `+sip.instance` is.
fn readable(text: &str) -> bool {
    text.split(';').skip(1).filter_map(|param| param.split_once('=')).all(|(_, value)| {
        let value = value.split(['>', ' ']).next().unwrap_or("");
        value.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&octet))
    })
}

/// rsip prints transports in capitals.
fn in_small(text: &str) -> String {
    text.replace(";transport=TLS", ";transport=tls")
}
