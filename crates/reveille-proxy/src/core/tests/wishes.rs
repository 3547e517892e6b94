//! What a Contact wishes of push, judged by who says it, how, and over what.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use reveille_push::{
    Provider, PushTarget,
    caps::Announcement,
    service::{PushJob, PushServices, Unsupported},
};
use reveille_registrar::shard::{ContactUpdate, HomeEvent, ShardInput};
use reveille_runtime::telemetry::{LogFormat, subscriber};
use reveille_sip::header::HeaderId;

use super::{
    bench::{Bench, FakeFlows, answer, invite, settings, target, tls, udp},
    bob,
    registrations::{accepted, register, updates, view},
};
use crate::{peers::Alone, settings::Settings};

const PN: &str = "pn-provider=apns;pn-param=TEAMID0001.org.example.phone.voip;pn-prid=00112233445566778899aabbccddeeff";
const ALICE: &str = "sip:alice@198.51.100.1:5070";

/// What a REGISTER from a trusted neighbour makes of a Contact, or how it is refused.
fn judged(settings: Settings, text: &str) -> Result<(ContactUpdate, Vec<String>), u16> {
    let mut bench = Bench::with(settings, None);
    bench.peer(tls(1), text);
    let Some(ShardInput::Register(ask)) = bench.asked().pop() else { return Err(bench.statuses(tls(1))[0]) };
    let update = updates(&ask)[0].clone();
    let mut bound = view(&update.uri, true);
    bound.push = update.push.as_ref().map(|push| push.provider);
    bench.home(ask.reply, HomeEvent::Registered(Ok(vec![bound])));
    let ok = bench.sent().remove(0).1;
    Ok((update, ok.lines(HeaderId::FeatureCaps).map(str::to_owned).collect()))
}

/// P-112, P-010: whatever is a push parameter, known or not, with a provider or without, in the URI or behind it, is refused in the
/// clear and nothing is kept, in a removal too.
#[test]
fn p112_no_push_parameter_is_taken_in_the_clear() {
    let contacts = [
        format!("<{ALICE};pn-prid=0011>"),
        format!("<{ALICE};pn-type=google;pn-tok=0011;app-id=1>"),
        format!("<{ALICE};pn-provider>"),
        format!("<{ALICE};p%6E-prid=0011>"),
        format!("<{ALICE}>;pn-provider=apns;pn-prid=0011"),
        format!("{ALICE};pn-tok=\"0011\""),
        format!("<{ALICE};{PN}>;expires=0"),
    ];
    for contact in contacts {
        let mut bench = Bench::new();
        bench.peer(udp(5060), &register("", &format!("Contact: {contact}")).replace("TLS", "UDP"));
        assert_eq!(bench.statuses(udp(5060)), [403], "{contact}");
        assert!(!bench.asked().iter().any(|a| matches!(a, ShardInput::Register(_))), "{contact}");
    }
    // What protects as well as TLS does lets them through, and so does TLS.
    let mut settings = settings();
    settings.strong_alternative = vec!["192.0.2.0/24".parse().unwrap()];
    let mut bench = Bench::with(settings, None);
    bench.peer(udp(5060), &register("", &format!("Contact: <{ALICE};pn-tok=0011>")).replace("TLS", "UDP"));
    assert!(bench.asked().iter().any(|a| matches!(a, ShardInput::Register(_))));
    assert!(judged(super::bench::settings(), &register("", &format!("Contact: <{ALICE};pn-tok=0011>"))).is_ok());
}

/// P-010: outside the brackets, or without any, push parameters wish for nothing; by option they do, but not beside a URI that
/// speaks for itself.
#[test]
fn p010_header_parameters_count_by_option_only() {
    let tolerant = || {
        let mut settings = settings();
        settings.registration.header_pn_params = true;
        settings
    };
    let quoted = PN.replace("pn-prid=00112233445566778899aabbccddeeff", "pn-prid=\"00112233445566778899aabbccddeeff\"");
    for contact in [format!("<{ALICE}>;{PN}"), format!("{ALICE};{PN}"), format!("<{ALICE}>;q=0.5;{quoted}")] {
        let text = register("", &format!("Contact: {contact}"));
        let (update, announced) = judged(settings(), &text).unwrap();
        assert_eq!((update.push, announced.len()), (None, 0), "{contact}");
        let (update, announced) = judged(tolerant(), &text).unwrap();
        assert_eq!(update.push.map(|push| push.provider), Some(Provider::Apns), "{contact}");
        assert_eq!(announced, ["*;+sip.pns=\"apns\""]);
    }
    let within = register("", &format!("Contact: <{ALICE};pn-provider=apns>;pn-prid=00112233"));
    assert_eq!(judged(tolerant(), &within).unwrap().0.push, None, "a question, whatever stands outside");
    let unknown = register("", &format!("Contact: <{ALICE}>;pn-provider=acme;pn-prid=0011"));
    assert_eq!(judged(tolerant(), &unknown).err(), Some(555));
}

/// P-028: the tag may be written in the long form of a boolean, and then its value counts.
#[test]
fn p028_a_phone_that_says_it_cannot_refresh_is_believed() {
    for (tag, says) in
        [("", false), (";+sip.pnsreg", true), (";+sip.pnsreg=\"TRUE\"", true), (";+sip.pnsreg=\"FALSE\"", false)]
    {
        let (update, announced) = judged(settings(), &register("", &format!("Contact: <{ALICE};{PN}>{tag}"))).unwrap();
        assert_eq!(update.pnsreg, says, "{tag}");
        assert_eq!(announced[0].contains("+sip.pnsreg=\"180\""), says, "{tag}");
    }
}

/// P-035, P-041: a neighbour that announces the phone's own service does the pushing; one that announces another service does not,
/// and a stranger is not listened to.
#[test]
fn p035_another_proxy_pushes_for_its_own_service_only() {
    let contact = |pn: &str| format!("Contact: <{ALICE};{pn}>");
    let cases = [
        ("*;+sip.pns=\"apns\"", PN, Ok(false)),
        ("*;+sip.pns=\"fcm\", *;+sip.pns=\"APNS\"", PN, Ok(false)),
        ("*;+sip.pns=\"fcm\"", PN, Ok(true)),
        ("*;+g.3gpp.x=\"apns\"", PN, Ok(true)),
        ("*;+sip.pns=\"acme\"", "pn-provider=acme;pn-prid=0011", Ok(false)),
        ("*;+sip.pns=\"apns\"", "pn-provider=acme;pn-prid=0011", Err(555)),
        ("*;+sip.pns=\"acme\"", "pn-provider=acme", Ok(false)),
    ];
    for (caps, pn, expected) in cases {
        let text = register(&format!("Feature-Caps: {caps}\n"), &contact(pn));
        let found = judged(settings(), &text).map(|(update, announced)| {
            assert_eq!(update.push.is_some(), !announced.is_empty(), "{caps}: announced is what is done");
            update.push.is_some()
        });
        assert_eq!(found, expected, "{caps} for {pn}");
    }
    // A bare question is answered with what nobody nearer has answered.
    let ask = |caps: &str| judged(settings(), &register(caps, &contact("pn-provider"))).unwrap().1;
    assert_eq!(ask("Feature-Caps: *;+sip.pns=\"fcm\"\n"), ["*;+sip.pns=\"apns\""]);
    assert!(ask("Feature-Caps: *;+sip.pns=\"apns\"\n").is_empty());

    let mut bench = bob::guarded(settings());
    bob::register(&mut bench, tls(1), &format!("<sip:bob@192.0.2.7:5061;{PN}>\nFeature-Caps: *;+sip.pns=\"apns\""));
    let asked = bench.asked();
    let Some(ShardInput::Register(ask)) = asked.last() else { panic!("{:?}", bench.statuses(tls(1))) };
    assert!(updates(ask)[0].push.is_some(), "a phone cannot switch its push off so");
}

/// Push services, none of which is on.
struct Nothing;

impl PushServices for Nothing {
    fn check(&self, _: &PushTarget) -> Result<(), Unsupported> {
        Err(Unsupported::Provider)
    }
    fn announce(&self, _: Provider) -> Option<Announcement> {
        None
    }
    fn announced(&self) -> Vec<Announcement> {
        Vec::new()
    }
    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        Err(job)
    }
}

/// P-041: where no service is on, the bare question is answered 555, or by option with a registration that announces nothing.
#[test]
fn p041_a_bare_question_where_no_service_is_on() {
    for (reject, expected) in [(true, Some(555)), (false, None)] {
        let mut settings = settings();
        settings.registration.reject_unsupported_push = reject;
        let flows = Arc::new(FakeFlows::default());
        let mut bench = Bench::served_by(Arc::new(Nothing), settings, None, flows, Arc::new(Alone));
        bench.peer(tls(1), &register("", &format!("Contact: <{ALICE};pn-provider>")));
        assert_eq!(bench.statuses(tls(1)).first().copied(), expected);
        if !reject {
            let Some(ShardInput::Register(ask)) = bench.asked().pop() else { panic!("registered") };
            bench.home(ask.reply, HomeEvent::Registered(Ok(vec![view(&format!("{ALICE};pn-provider"), true)])));
            assert!(!bench.sent().remove(0).1.has(HeaderId::FeatureCaps));
        }
    }
}

/// P-034: a lifetime of 0 removes whatever else the Contact says, a PRID or nonsense included.
#[test]
fn p034_a_removal_is_one_whatever_it_says_of_push() {
    for pn in [PN, "pn-provider=apns", "pn-provider;pn-prid=0011", "pn-provider=acme;pn-prid=0011", "pn-prid=0011"] {
        let (update, announced) =
            judged(settings(), &register("Expires: 0\n", &format!("Contact: <{ALICE};{pn}>"))).unwrap();
        assert_eq!((update.expires, update.push, announced.len()), (0, None, 0), "{pn}");
    }
    let asks_all = format!("Contact: <{ALICE};pn-provider;pn-prid=0011>");
    assert_eq!(judged(settings(), &register("", &asks_all)).err(), Some(555), "with a lifetime it is invalid");
}

/// P-051: a phone that answers a call with 555 fails the call; its word is not passed on.
#[test]
fn p051_no_other_request_is_answered_555() {
    for method in ["INVITE", "MESSAGE", "SUBSCRIBE", "OPTIONS"] {
        let mut bench = Bench::new();
        bench.peer(tls(1), &invite("z9hG4bKp").replace("INVITE", method));
        let waiter = bench.resolving();
        bench.home(
            waiter,
            HomeEvent::Resolved { targets: vec![target(1, tls(2), false)], waiting: vec![], known: true },
        );
        let forwarded = bench.requests(tls(2)).remove(0);
        bench.public(tls(2), &answer(&forwarded, 555));
        assert_eq!(bench.statuses(tls(1)).last(), Some(&500), "{method}");
    }
    // P-036: nor is a call to somebody with push of an unknown service; nothing of push is looked at.
    let mut bench = Bench::new();
    bench.peer(
        tls(1),
        &invite("z9hG4bKq")
            .replace("Contact: <sip:bob@trunk.test", "Contact: <sip:bob@trunk.test;pn-provider=acme;pn-prid=0"),
    );
    bench.resolving();
}

/// P-055: an ACK wakes nobody, nor does a caller who has not proven who he is, nor one who may not speak for whom he says.
#[test]
fn p055_neither_an_ack_nor_a_stranger_wakes_a_phone() {
    let mut bench = bob::guarded(settings());
    let from_bob = |text: String| text.replace("sip:bob@trunk.test>;tag", "sip:bob@example.com>;tag");
    bench.public(tls(1), &from_bob(invite("z9hG4bK1")));
    assert_eq!(bench.statuses(tls(1)).last(), Some(&407));
    bench.public(tls(1), &from_bob(invite("z9hG4bK2")).replace("INVITE", "MESSAGE"));
    assert_eq!(bench.statuses(tls(1)).last(), Some(&407));
    bench.public(tls(1), &invite("z9hG4bK3").replace("INVITE", "ACK"));
    bench.peer(tls(2), &invite("z9hG4bK4").replace("INVITE", "ACK"));
    assert_eq!(bench.asked().len(), 0, "no home is asked for a phone to wake");
    // A trunk's INVITE is what asks.
    bench.peer(tls(2), &invite("z9hG4bK5"));
    bench.resolving();
}

/// P-120: what is refused is refused in the words of the RFCs, with the headers that they ask for and no others.
#[test]
fn p120_refusals_say_no_more_than_they_must() {
    let contact = |pn: &str| format!("Contact: <{ALICE};{pn}>");
    let cases = [
        (555, "Push Notification Service Not Supported", register("", &contact("pn-provider=acme;pn-prid=abc"))),
        (555, "Push Notification Service Not Supported", register("", &contact(&PN.replace("phone", "other")))),
        (555, "Push Notification Service Not Supported", register("", &contact("pn-provider=apns;pn-prid=0011"))),
        (423, "Interval Too Brief", register("Expires: 300\n", &contact(PN))),
        (403, "Forbidden", register("", &vec![contact("pn-provider"); 11].join("\n"))),
        (400, "Bad Request", register("", &contact(&format!("{PN};pn-prid=aa")))),
    ];
    let plain = ["Via", "From", "To", "Call-ID", "CSeq", "Content-Length"];
    let check = |bench: &Bench, status: u16, reason: &str| {
        let (_, reply) = bench.sent().pop().unwrap();
        assert_eq!((reply.status(), reply.reason_phrase()), (Some(status), reason));
        assert!(reply.body().is_empty());
        let text = String::from_utf8(reply.bytes().to_vec()).unwrap();
        for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap();
            assert!(plain.contains(&name) || (status == 423 && name == "Min-Expires"), "{status}: {line}");
        }
    };
    for (status, reason, text) in cases {
        let mut bench = Bench::new();
        bench.peer(tls(1), &text);
        check(&bench, status, reason);
    }
    // A phone that does not wake, for whatever reason.
    for why in [
        reveille_push::WakeFailure::Deadline,
        reveille_push::WakeFailure::Overflow,
        reveille_push::WakeFailure::BindingGone,
    ] {
        let mut bench = Bench::new();
        bench.peer(tls(1), &invite("z9hG4bKw"));
        let waiter = bench.resolving();
        let key = reveille_registrar::BindingKey(1);
        bench.home(waiter, HomeEvent::Resolved { targets: vec![], waiting: vec![(key, 1000)], known: true });
        bench.home(waiter, HomeEvent::WakeFailed { key, why });
        check(&bench, 480, "Temporarily Unavailable");
    }
}

/// Every line that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// P-017: an operator is told once of each kind of client that names a service nobody knows, and never of a token.
#[test]
fn p017_a_mistaken_name_is_logged_once_per_kind_of_client() {
    let log = Log::default();
    let writer = log.clone();
    let lines = subscriber(LogFormat::Text, "warn", false, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(lines, || {
        let mut bench = Bench::new();
        for (agent, name) in [
            ("Wombat/5.2 (Pixel 9)", "firebase"),
            ("Wombat/6.0 (iPhone)", "firebase"),
            ("Wombat/6.0", "android"),
            ("Numbat/1", "firebase"),
            ("Numbat/1", "apns"),
        ] {
            let contact = format!("Contact: <{ALICE};pn-provider={name};pn-prid=5ec12e7aa5ec12e7>");
            bench.peer(tls(1), &register(&format!("User-Agent: {agent}\n"), &contact));
            assert_eq!(bench.statuses(tls(1)).last(), Some(&555));
        }
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let told = |client: &str, service: &str| {
        let line = |line: &&str| line.contains(&format!("{client:?}")) && line.contains(&format!("{service:?}"));
        text.lines().filter(line).count()
    };
    assert_eq!(
        [told("Wombat", "firebase"), told("Wombat", "android"), told("Numbat", "firebase")],
        [1, 1, 1],
        "{text}"
    );
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(!text.contains("5ec12e7a"));
}

/// P-051, P-036: one that is accepted all the same announces nothing, as ever.
#[test]
fn p036_an_unknown_service_is_registered_without_push_by_option() {
    let mut tolerant = settings();
    tolerant.registration.reject_unsupported_push = false;
    let (update, announced) =
        judged(tolerant, &register("", &format!("Contact: <{ALICE};pn-provider=firebase;pn-prid=0011>"))).unwrap();
    assert_eq!((update.push, announced.len()), (None, 0));
    let (_, ask) = accepted(&register("", &format!("Contact: <{ALICE}>")));
    assert!(updates(&ask)[0].push.is_none());
}
