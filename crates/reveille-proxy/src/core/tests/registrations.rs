//! REGISTER: what is checked before the home is asked, and what the 200 says.

use reveille_registrar::{
    aor::Aor,
    flow::NodeTag,
    shard::{BindingView, ContactsUpdate, HomeEvent, RegisterError, RegisterRequest, ShardInput, WorkerRef},
};
use reveille_sip::{header::HeaderId, message::Message};

use super::bench::{Bench, between, message, settings, tls, udp};

const PN: &str = "pn-provider=apns;pn-param=TEAMID0001.org.example.phone.voip;pn-prid=00112233445566778899aabbccddeeff";

pub(super) fn register(extra: &str, contact: &str) -> String {
    format!(
        "
REGISTER sip:example.com SIP/2.0
Via: SIP/2.0/TLS 198.51.100.1:5070;branch=z9hG4bKr{extra_hash:x};rport
Max-Forwards: 70
From: <sip:alice@example.com>;tag=x
To: <sip:alice@example.com>
Call-ID: reg-1
CSeq: 5 REGISTER
{contact}
{extra}Content-Length: 0

",
        extra_hash = xxhash_rust::xxh3::xxh3_64(format!("{extra}{contact}").as_bytes()),
    )
    .replace("\n\nContent", "\nContent")
}

/// Trunks stand for authenticated senders here; the digest has its own tests.
fn sent_by_peer(text: &str) -> (Bench, Vec<ShardInput>) {
    let mut bench = Bench::new();
    bench.peer(tls(1), text);
    let asked = bench.asked();
    (bench, asked)
}

fn status_of(text: &str) -> u16 {
    let (bench, asked) = sent_by_peer(text);
    assert!(asked.iter().all(|a| matches!(a, ShardInput::RegisterRejected { .. })), "nothing may be stored");
    bench.statuses(tls(1))[0]
}

pub(super) fn accepted(text: &str) -> (Bench, Box<RegisterRequest>) {
    let (bench, mut asked) = sent_by_peer(text);
    match asked.pop() {
        Some(ShardInput::Register(ask)) => (bench, ask),
        _ => panic!("the home was not asked: {:?}", bench.statuses(tls(1))),
    }
}

pub(super) fn updates(ask: &RegisterRequest) -> &[reveille_registrar::shard::ContactUpdate] {
    match &ask.contacts {
        ContactsUpdate::Update(list) => list,
        _ => panic!("an update"),
    }
}

pub(super) fn view(contact: &str, updated_now: bool) -> BindingView {
    BindingView {
        key: reveille_registrar::BindingKey(1),
        generation: 1,
        contact: contact.into(),
        params: ";+sip.instance=\"<urn:uuid:1>\"".into(),
        q: 700,
        expires_in: 3600,
        instance: None,
        reg_id: None,
        push: None,
        wakes_in_dialogs: false,
        updated_now,
    }
}

/// S-105: the parameter before the header before the default; S-106: shortened silently.
#[test]
fn lifetimes() {
    let contact = |params: &str| format!("Contact: <sip:alice@198.51.100.1:5070>{params}");
    let (_, ask) = accepted(&register("Expires: 500\n", &contact(";expires=700")));
    assert_eq!(updates(&ask)[0].expires, 700);
    let (_, ask) = accepted(&register("Expires: 500\n", &contact("")));
    assert_eq!(updates(&ask)[0].expires, 500);
    let (_, ask) = accepted(&register("", &contact("")));
    assert_eq!(updates(&ask)[0].expires, 3600);
    let (_, ask) = accepted(&register("", &contact(";expires=99999999")));
    assert_eq!(updates(&ask)[0].expires, settings().registration.max_expires);
    assert_eq!(status_of(&register("", &contact(";expires=10"))), 423);
}

/// S-103, S-104, S-112, S-114, S-120, S-232, S-102, S-093.
#[test]
fn contacts_that_are_refused() {
    let good = "Contact: <sip:alice@198.51.100.1:5070>";
    let cases: Vec<(&str, String, u16)> = vec![
        ("* without Expires: 0", register("", "Contact: *"), 400),
        ("* with another value", register("Expires: 60\n", "Contact: *"), 400),
        ("a contact that is us", register("", "Contact: <sip:x@edge.test:5061>"), 403),
        ("a contact that is the domain", register("", "Contact: <sip:alice@example.com>"), 403),
        ("eleven contacts", register("", &[good; 11].join("\n")), 403),
        (
            "reg-id with two contacts",
            register("", &format!("Contact: <sip:a@192.0.2.1>;+sip.instance=\"<urn:uuid:1>\";reg-id=1\n{good}")),
            400,
        ),
        ("unknown Require", register("Require: gruu\n", good), 420),
        ("To not SIP", register("", good).replace("To: <sip:alice@example.com>", "To: <isbn:12345>"), 400),
        ("another domain", register("", good).replace("sip:example.com SIP", "sip:elsewhere.test SIP"), 404),
    ];
    for (what, text, status) in cases {
        assert_eq!(status_of(&text), status, "{what}");
    }
}

/// S-114, S-232: who names us as his Contact is refused, but for a phone on our own host whose connection has a port that we use for
/// another transport; a home believes the edge of where that connection comes from, and nobody else.
#[test]
fn s114_a_contact_that_names_us_is_refused_unless_it_is_where_the_phone_is() {
    let contact = "Contact: <sip:alice@192.0.2.7:40001;transport=tls>";
    let behind = |transport: &str, source: &str| {
        let via = format!(
            "Via: SIP/2.0/TLS edge.test:7000;branch=z9hG4bKe\nVia: SIP/2.0/{transport} 198.51.100.1:5070;{source}branch"
        );
        register("", contact).replace("Via: SIP/2.0/TLS 198.51.100.1:5070;branch", &via)
    };
    let node = between(NodeTag(0), NodeTag(1));
    for (transport, source, is_taken) in [
        ("TLS", "received=192.0.2.7;rport=40001;", true),
        ("TLS", "received=192.0.2.7;rport=40002;", false),
        ("TLS", "received=192.0.2.8;rport=40001;", false),
        ("TLS", "", false),
        ("UDP", "received=192.0.2.7;rport=40001;", false),
    ] {
        let mut bench = Bench::new();
        bench.cluster(node, message(&behind(transport, source)));
        let asked = bench.asked().iter().any(|asked| matches!(asked, ShardInput::Register(_)));
        assert_eq!((asked, bench.statuses(node)), (is_taken, if is_taken { vec![] } else { vec![403] }), "{source}");
        let (stranger, asked) = sent_by_peer(&behind(transport, source));
        assert!(!asked.iter().any(|asked| matches!(asked, ShardInput::Register(_))), "a stranger may write anything");
        assert_eq!(stranger.statuses(tls(1)), [403]);
    }
}

/// P-112: push parameters over plain UDP are refused and nothing is stored.
#[test]
fn push_needs_protection() {
    let mut bench = Bench::new();
    bench.peer(udp(5060), &register("", &format!("Contact: <sip:alice@198.51.100.1;{PN}>")).replace("TLS", "UDP"));
    assert_eq!(bench.statuses(udp(5060)), [403]);
    assert!(!bench.asked().iter().any(|a| matches!(a, ShardInput::Register(_))));
}

/// P-115: where nobody is authenticated, strangers' push parameters are refused.
#[test]
fn push_needs_authentication() {
    let mut bench = Bench::new();
    bench.public(tls(1), &register("", &format!("Contact: <sip:alice@198.51.100.1;{PN}>")));
    assert_eq!(bench.statuses(tls(1)), [403]);
}

/// P-036, P-118, P-037, P-004, P-041.
#[test]
fn push_wishes_that_are_refused() {
    let contact = |pn: &str| register("", &format!("Contact: <sip:alice@198.51.100.1;{pn}>"));
    let cases = [
        ("unknown service", contact("pn-provider=acme;pn-prid=abc"), 555),
        ("service not configured", contact("pn-provider=fcm;pn-param=acme-phone;pn-prid=dQw4w9WgXcQabcdefgh"), 555),
        ("app not allowed", contact(&PN.replace("phone", "other")), 555),
        ("query of an unknown service", contact("pn-provider=acme"), 555),
        ("twice the same parameter", contact(&format!("{PN};pn-prid=aa")), 400),
        ("too brief to push in", register("Expires: 300\n", &format!("Contact: <sip:alice@198.51.100.1;{PN}>")), 423),
    ];
    for (what, text, status) in cases {
        assert_eq!(status_of(&text), status, "{what}");
    }
}

/// P-040, P-042, S-242: a query announces and stores no target.
#[test]
fn queries_announce_only() {
    for pn in ["pn-provider", "pn-provider=apns"] {
        let (mut bench, ask) = accepted(&register("", &format!("Contact: <sip:alice@198.51.100.1;{pn}>")));
        assert!(updates(&ask)[0].push.is_none());
        let contact = format!("sip:alice@198.51.100.1;{pn}");
        bench.home(ask.reply, HomeEvent::Registered(Ok(vec![view(&contact, true)])));
        let ok = bench.sent().remove(0).1;
        assert_eq!(ok.lines(HeaderId::FeatureCaps).collect::<Vec<_>>(), ["*;+sip.pns=\"apns\""]);
    }
}

/// P-024, P-027, P-031, P-049, S-109, S-121: the whole 200.
#[test]
fn the_200_says_everything() {
    let contact = format!("Contact: <sip:alice@198.51.100.1;{PN}>;+sip.instance=\"<urn:uuid:1>\";reg-id=1;+sip.pnsreg");
    let (mut bench, ask) = accepted(&register("Supported: outbound, path\n", &contact));
    assert!(ask.outbound);
    assert!(updates(&ask)[0].push.is_some());
    assert_eq!(updates(&ask)[0].reg_id, Some(1));
    let other = "sip:alice@203.0.113.9;pn-provider=apns;pn-prid=ffff0000ffff0000";
    let mut own = view(&format!("sip:alice@198.51.100.1;{PN}"), true);
    own.push = Some(reveille_push::Provider::Apns);
    let views = vec![own, view(other, false)];
    bench.home(ask.reply, HomeEvent::Registered(Ok(views)));
    let ok: Message = bench.sent().remove(0).1;
    assert_eq!(ok.status(), Some(200));
    let contacts: Vec<&str> = ok.lines(HeaderId::Contact).collect();
    assert_eq!(contacts.len(), 2);
    assert!(contacts[0].contains("pn-prid=0011") && contacts[0].contains(";q=0.7;expires=3600"));
    assert!(!contacts[1].contains("pn-"), "another device's push parameters stay here");
    assert_eq!(ok.value(HeaderId::FeatureCaps), Some("*;+sip.pns=\"apns\";+sip.pnsreg=\"180\""));
    assert_eq!(ok.value(HeaderId::Require), Some("outbound"));
    assert!(ok.has(HeaderId::Date));
    assert_eq!(ok.top_via().unwrap().rport(), Some(Some(40_000))); // S-087
}

/// P-032: removals and fetches announce nothing.
#[test]
fn nothing_is_announced_without_a_binding() {
    let (mut bench, ask) = accepted(&register("Expires: 0\n", "Contact: <sip:alice@198.51.100.1;pn-provider=apns>"));
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![])));
    assert!(!bench.sent().remove(0).1.has(HeaderId::FeatureCaps));
}

/// S-107, S-108, P-170: the home's refusals reach the phone as what they are.
#[test]
fn home_refusals() {
    for (error, status) in [(RegisterError::OutOfOrder, 500), (RegisterError::TooMany, 403)] {
        let (mut bench, ask) = accepted(&register("", "Contact: <sip:alice@198.51.100.1>"));
        bench.home(ask.reply, HomeEvent::Registered(Err(error)));
        assert_eq!(bench.statuses(tls(1)), [status]);
    }
}

/// A shard that never answers must not leave the phone without an answer.
#[test]
fn an_overdue_home_is_503() {
    let (mut bench, ask) = accepted(&register("", "Contact: <sip:alice@198.51.100.1>"));
    bench.advance(std::time::Duration::from_secs(11));
    assert_eq!(bench.statuses(tls(1)), [100, 503]); // RFC 4320 §4.1: a 100 when the sender has slowed down
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![])));
    assert!(bench.sent().is_empty());
}

/// S-101: the address-of-record is what it is however it was written.
#[test]
fn aor_is_canonical() {
    let (_, ask) = accepted(
        &register("", "Contact: <sip:a@192.0.2.1>")
            .replace("To: <sip:alice@example.com>", "To: <sip:%61lice@EXAMPLE.com;x=y>"),
    );
    assert_eq!(ask.aor, Aor::from_canonical("alice@example.com"));
    assert_eq!(ask.reply.worker, WorkerRef { worker: 3, context: 0 }.worker);
}

/// P-156: a token that the home knows to be dead is registered without push, and push is not promised.
#[test]
fn a_target_not_taken_on_is_not_announced() {
    let (mut bench, ask) = accepted(&register("", &format!("Contact: <sip:alice@198.51.100.1;{PN}>")));
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![view(&format!("sip:alice@198.51.100.1;{PN}"), true)])));
    assert!(!bench.sent().remove(0).1.has(HeaderId::FeatureCaps));
}

/// P-098: a phone that can be woken for calls alone gets a long lifetime, since nobody wakes it to refresh; others get what they ask.
#[test]
fn p098_a_voip_token_by_itself_lives_long() {
    let granted = |pn: &str| {
        let wish = register("Expires: 3600\n", &format!("Contact: <sip:alice@198.51.100.1;{pn}>"));
        updates(&accepted(&wish).1)[0].expires
    };
    assert_eq!(granted(PN), 7 * 86_400);
    let both =
        PN.replace(".voip;", ".voip&remote;").replace("eeff", "eeff:voip&99112233445566778899aabbccddeeff:remote");
    assert_eq!(granted(&both), 3600);
    let removal = register("Expires: 0\n", &format!("Contact: <sip:alice@198.51.100.1;{PN}>"));
    assert_eq!(updates(&accepted(&removal).1)[0].expires, 0);
}
