//! The phones against a tiny proxy: registration, calls both ways, sleep and wake.

#![allow(clippy::unwrap_used, reason = "a test may stop where something is not as it should be")]

mod support;

use std::time::Duration;

use reveille_testkit::ca::LabCa;
use reveille_testkit::pns::{DeviceKind, LabConfig, LabPns};
use reveille_testkit::ua::{Ending, Method, Phone, PushParams, SleepyConfig, SleepyPhone, Step, Transport};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use support::proxy::Proxy;
use support::sender::Sender;

const SOON: Duration = Duration::from_secs(10);

async fn registered(proxy: &Proxy, user: &str) -> Phone {
    let mut phone = Phone::builder(user, "example.com", proxy.addr, Transport::Tcp).password("pw").build();
    phone.connect().await.unwrap();
    assert_eq!(phone.register(600).await.unwrap().code(), 200);
    phone
}

#[tokio::test]
async fn registers_over_tls_and_answers_the_strongest_challenge() {
    let ca = LabCa::new().unwrap();
    let cert = ca.issue(&["sip.example.com"]).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(cert.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let proxy = Proxy::start(Some(config)).await;
    let wrong = Transport::tls(&LabCa::new().unwrap().pem(), "sip.example.com").unwrap();
    assert!(Phone::builder("alice", "example.com", proxy.addr, wrong).build().connect().await.is_err());

    let transport = Transport::tls(&ca.pem(), "sip.example.com").unwrap();
    let push = PushParams {
        provider: Some("webpush".to_owned()),
        param: None,
        prid: Some("https://push.example/p?v=2".to_owned()),
    };
    let mut phone = Phone::builder("alice", "example.com", proxy.addr, transport)
        .password("pw")
        .push(push)
        .instance(uuid::Uuid::nil())
        .reg_id(1)
        .pnsreg()
        .build();
    phone.connect().await.unwrap();
    assert_eq!(phone.register_raw(600).await.unwrap().code(), 401);
    assert_eq!(phone.register(600).await.unwrap().code(), 200);
    assert_eq!(phone.purr().as_deref(), Some("0123abcd"));
    assert_eq!(phone.register(600).await.unwrap().code(), 200);
    phone.ping().await.unwrap();

    let seen = proxy.seen();
    assert_eq!(seen.iter().map(|one| one.cseq().0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let contact = seen[0].header("Contact").unwrap();
    assert!(contact.contains(
        ";transport=tls;ob;pn-provider=webpush;pn-prid=https://push.example/p%3Fv=2".replace("=2", "%3D2").as_str()
    ));
    assert!(
        contact.ends_with(r#">;+sip.instance="<urn:uuid:00000000-0000-0000-0000-000000000000>";reg-id=1;+sip.pnsreg"#)
    );
    assert!(seen[2].header("Authorization").unwrap().contains("algorithm=SHA-256, qop=auth, nc=00000001"));
    assert!(seen[3].header("Authorization").unwrap().contains("nc=00000002"), "the nonce is used again");

    assert_eq!(phone.unregister().await.unwrap().code(), 200);
    let removal = proxy.seen().pop().unwrap();
    assert_eq!(removal.header("Expires"), Some("0"));
    assert!(!removal.header("Contact").unwrap().contains("pn-prid"));
    assert!(phone.push().unwrap().prid.is_some(), "the phone keeps its PRID for the next registration");
}

#[tokio::test]
async fn a_call_runs_through_and_either_side_hangs_up() {
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let mut bob = registered(&proxy, "bob").await;
    for caller_hangs_up in [true, false] {
        let mut call = alice.invite("sip:bob@example.com").unwrap();
        let mut offered = bob.expect_invite(SOON).await.unwrap();
        offered.ring().unwrap();
        call.expect_provisional(180, SOON).await.unwrap();
        offered.answer().unwrap();
        assert!(offered.reject(486, "Busy Here").is_err(), "one final answer per call");
        assert_eq!(call.final_response(SOON).await.unwrap().message.code(), 200);
        offered.expect_ack(SOON).await.unwrap();
        if caller_hangs_up {
            assert_eq!(call.bye(SOON).await.unwrap().code(), 200);
            offered.expect_bye(SOON).await.unwrap();
        } else {
            assert_eq!(offered.bye(SOON).await.unwrap().code(), 200);
            call.expect_bye(SOON).await.unwrap();
        }
        assert_eq!(bob.invites()[call.call_id()], 1);
    }
    let bye = proxy.seen().into_iter().rev().find(|one| one.method() == "BYE").unwrap();
    assert_eq!(bye.values("Route"), ["<sip:proxy;lr>"], "the route set is followed");
    let invite = proxy.seen().into_iter().find(|one| one.method() == "INVITE").unwrap();
    assert!(
        invite.header("Contact").unwrap().contains(";ob;pn-purr=0123abcd>"),
        "the PURR is the peer's to see (P-108)"
    );
    assert!(!String::from_utf8(bob.transcript()).unwrap().contains("pn-prid"));
}

/// RFC 3261 §12.2.1.2: nothing about a re-INVITE says where its ACK has to pass, except the dialog.
#[tokio::test]
async fn a_changed_call_is_acknowledged_along_the_route_set() {
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let mut bob = registered(&proxy, "bob").await;
    let mut call = alice.invite("sip:bob@example.com").unwrap();
    let mut offered = bob.expect_invite(SOON).await.unwrap();
    offered.answer().unwrap();
    call.final_response(SOON).await.unwrap();
    offered.expect_ack(SOON).await.unwrap();
    let (changed, again) = tokio::join!(call.request(Method::Invite, SOON), async {
        let again = offered.expect_request("INVITE", SOON).await.unwrap().message;
        offered.respond_to(&again, 200, "OK").unwrap();
        again
    });
    let changed = changed.unwrap();
    assert_eq!((changed.code(), changed.header("Record-Route")), (200, None));
    assert_eq!(offered.expect_ack(SOON).await.unwrap().message.cseq().0, again.cseq().0);
    let (changed, ()) = tokio::join!(offered.request(Method::Invite, SOON), async {
        let again = call.expect_request("INVITE", SOON).await.unwrap().message;
        call.respond_to(&again, 200, "OK").unwrap();
        call.expect_request("ACK", SOON).await.unwrap();
    });
    assert_eq!(changed.unwrap().code(), 200);
    let acks: Vec<_> = proxy.seen().into_iter().filter(|one| one.method() == "ACK").collect();
    assert_eq!(acks.len(), 3, "one for each INVITE");
    for ack in acks {
        assert_eq!(ack.values("Route"), ["<sip:proxy;lr>"]);
    }
}

#[tokio::test]
async fn a_call_is_cancelled_or_refused() {
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let mut bob = registered(&proxy, "bob").await;
    let mut call = alice.invite("sip:bob@example.com").unwrap();
    let mut offered = bob.expect_invite(SOON).await.unwrap();
    offered.ring().unwrap();
    call.expect_provisional(180, SOON).await.unwrap();
    assert_eq!(call.cancel(SOON).await.unwrap().code(), 200);
    offered.expect_cancel(SOON).await.unwrap();
    assert_eq!(call.final_response(SOON).await.unwrap().message.code(), 487);
    offered.expect_ack(SOON).await.unwrap();

    let mut call = alice.invite("sip:bob@example.com").unwrap();
    let mut offered = bob.expect_invite(SOON).await.unwrap();
    offered.reject(603, "Decline").unwrap();
    assert_eq!(call.final_response(SOON).await.unwrap().message.code(), 603);
    offered.expect_ack(SOON).await.unwrap();
}

#[tokio::test]
async fn messages_are_answered_and_kept_for_the_script() {
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let mut bob = registered(&proxy, "bob").await;
    assert_eq!(alice.message("sip:bob@example.com", "hello").await.unwrap().code(), 200);
    let received = bob.expect_request("MESSAGE", SOON).await.unwrap();
    assert_eq!(&received.message.body()[..], b"hello");
    assert_eq!(alice.options("sip:bob@example.com").await.unwrap().code(), 200);
}

#[tokio::test]
async fn a_sleepy_phone_wakes_by_push_and_takes_the_call() {
    let lab = LabPns::start(LabConfig::default()).await.unwrap();
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let device = lab.register_device(DeviceKind::ApnsVoip);
    let prid = device.prid.clone();
    let bob = Phone::builder("bob", "example.com", proxy.addr, Transport::Tcp).password("pw").device(device).build();
    let config = SleepyConfig { ending: Ending::SendBye, ..SleepyConfig::default() };
    let mut bob = SleepyPhone::spawn(bob, config);
    bob.until(SOON, |step| *step == Step::Asleep).await.unwrap();

    let mut call = alice.invite("sip:bob@example.com").unwrap();
    proxy.parked().await;
    let mut sender = Sender::connect(&lab, "localhost").await;
    assert_eq!(sender.apns_voip(&prid, &[]).await.status, 200);
    assert_eq!(call.final_response(SOON).await.unwrap().message.code(), 200);
    call.expect_bye(SOON).await.unwrap();

    let timeline = bob.until(SOON, |step| *step == Step::Asleep).await.unwrap();
    assert!(timeline.is_sorted_by_key(|event| event.at));
    let steps: Vec<_> = timeline.iter().map(|event| format!("{:?}", event.step)).collect();
    let names: Vec<_> = steps.iter().map(|step| step.split(' ').next().unwrap()).collect();
    let expected =
        ["Woken", "Connected", "Reregistered", "InviteReceived", "Ringing", "Answered", "Acked", "Ended", "Asleep"];
    assert_eq!(names, expected);
    let phone = bob.stop().await.unwrap();
    assert_eq!(phone.invites().values().copied().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_silent_phone_holds_its_socket_and_says_nothing() {
    let proxy = Proxy::start(None).await;
    let alice = registered(&proxy, "alice").await;
    let mut bob = registered(&proxy, "bob").await;
    let dead = bob.drop_silently().await;
    assert!(!bob.is_connected());
    let mut call = alice.invite("sip:bob@example.com").unwrap();
    assert!(call.final_response(Duration::from_millis(50)).await.is_err());
    assert!(bob.invites().is_empty());
    bob.connect().await.unwrap();
    drop(dead);
    assert_eq!(bob.register(600).await.unwrap().code(), 200);
}
