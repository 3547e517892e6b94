//! Calls between phones that are registered and awake, over every pair of transports; and who may make them.

use std::time::Duration;

use reveille::lab::{DOMAIN, LabOptions};
use reveille_registrar::Transport;
use reveille_testkit::pns::Provider;
use reveille_testkit::ua::{Method, SipMessage};

use super::stage::{BOB, SOON, Stage, TRANSPORTS, answer, call, copies, ended, hang_up, play, registered};

/// S-049, S-067, S-070, S-071: INVITE, ACK, re-INVITE and BYE from either side, whatever the two legs are.
async fn whole_calls_to(stage: &mut Stage, to: Transport) {
    let mut bob = registered(stage.plain("bob", to)).await;
    for from in TRANSPORTS {
        for caller_hangs_up in [true, false] {
            let case = format!("{from:?} to {to:?}, caller hangs up: {caller_hangs_up}");
            let mut caller = stage.plain("caller", from).build();
            caller.connect().await.unwrap();
            let mut call = call(&caller, BOB).await;
            let mut incoming = bob.expect_invite(SOON).await.expect(&case);
            let routes = incoming.invite().values("Record-Route");
            assert_eq!(routes.len(), 2, "{case}: S-071: one for each side");
            assert!(incoming.invite().header("Max-Forwards") == Some("69"), "{case}: S-073");
            assert!(incoming.invite().header("Proxy-Authorization").is_none(), "{case}: S-149");
            answer(&mut call, &mut incoming).await;

            // The caller changes the session …
            let (accepted, ()) = tokio::join!(call.request(Method::Invite, SOON), async {
                let again = incoming.expect_request("INVITE", SOON).await.expect(&case).message;
                assert_eq!(again.headers("Route").count(), 0, "{case}: S-067");
                incoming.respond_to(&again, 200, "OK").unwrap();
                let ack = incoming.expect_ack(SOON).await.expect(&case).message;
                assert_eq!(ack.cseq().0, again.cseq().0, "{case}");
            });
            assert_eq!(accepted.expect(&case).code(), 200, "{case}");
            // … and so does the called phone.
            let (accepted, ()) = tokio::join!(incoming.request(Method::Invite, SOON), async {
                let again = call.expect_request("INVITE", SOON).await.expect(&case).message;
                assert_eq!(again.headers("Route").count(), 0, "{case}: S-067");
                call.respond_to(&again, 200, "OK").unwrap();
                let ack = call.expect_request("ACK", SOON).await.expect(&case).message;
                assert_eq!(ack.cseq().0, again.cseq().0, "{case}");
            });
            assert_eq!(accepted.expect(&case).code(), 200, "{case}");
            for method in [Method::Info, Method::Update] {
                assert_eq!(call.request(method, SOON).await.expect(&case).code(), 200, "{case}: {method}, S-095");
                assert_eq!(incoming.request(method, SOON).await.expect(&case).code(), 200, "{case}: {method}");
            }
            if caller_hangs_up {
                hang_up(&mut call, &mut incoming).await;
            } else {
                assert_eq!(incoming.bye(SOON).await.expect(&case).code(), 200, "{case}");
                call.expect_bye(SOON).await.expect(&case);
            }
            assert_eq!(copies(&bob, call.call_id()), 1, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_calls_to_udp() {
    play(LabOptions::default(), async |stage| whole_calls_to(stage, Transport::Udp).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_calls_to_tcp() {
    play(LabOptions::default(), async |stage| whole_calls_to(stage, Transport::Tcp).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_calls_to_tls() {
    play(LabOptions::default(), async |stage| whole_calls_to(stage, Transport::Tls).await).await;
}

/// S-075, P-105: what a phone should not have put into its Contact does not reach the other; everything else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on() {
    play(LabOptions::default(), async |stage| {
        let mut bob = registered(stage.plain("bob", Transport::Tls)).await;
        let caller = stage.caller().await;
        let mut invite = caller.invite_request(BOB);
        let contact = format!(
            "<sip:caller@{};transport=tls;pn-provider=fcm;pn-param=p;pn-prid=a-secret-token;ob>",
            caller.local_addr().unwrap()
        );
        invite.set("Contact", &contact);
        invite.push("X-Odd", ";;,,;;,;");
        invite.push("Subject", "lunch");
        invite.push("P-Asserted-Identity", "<sip:president@lab.example>");
        let mut call = caller.invite_with(invite.clone()).unwrap();
        let mut incoming = bob.expect_invite(SOON).await.unwrap();
        let seen = incoming.invite();
        for name in ["From", "To", "Call-ID", "X-Odd", "Subject", "Content-Type", "Allow"] {
            assert_eq!(seen.header(name), invite.header(name), "{name}");
        }
        assert_eq!(seen.body(), invite.body());
        assert_eq!(seen.header("P-Asserted-Identity"), None, "S-230: a stranger asserts nothing");
        let contact = seen.header("Contact").unwrap();
        assert!(!contact.contains("pn-") && contact.contains(";ob"), "only the push parameters are gone");
        answer(&mut call, &mut incoming).await;
        hang_up(&mut call, &mut incoming).await;
        assert!(!String::from_utf8_lossy(&bob.transcript()).contains("a-secret-token"));
    })
    .await;
}

/// S-080, S-081: refusals reach the caller as they are; a 503 of the phone's is not ours (S-082).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    play(LabOptions::default(), async |stage| {
        for transport in TRANSPORTS {
            let mut bob = registered(stage.plain("bob", transport)).await;
            let caller = stage.caller().await;
            for (status, heard) in [(486, 486), (603, 603), (404, 404), (503, 500)] {
                let mut call = call(&caller, BOB).await;
                bob.expect_invite(SOON).await.unwrap().reject(status, "No").unwrap();
                assert_eq!(ended(&mut call).await, heard, "{transport:?}");
            }
            assert_eq!(bob.unregister().await.unwrap().code(), 200);
        }
    })
    .await;
}

/// S-050 to S-052: the caller gives up while the phone rings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_ringing() {
    play(LabOptions::default(), async |stage| {
        for to in TRANSPORTS {
            let mut bob = registered(stage.plain("bob", to)).await;
            for from in TRANSPORTS {
                let mut caller = stage.plain("caller", from).build();
                caller.connect().await.unwrap();
                let mut call = call(&caller, BOB).await;
                let mut incoming = bob.expect_invite(SOON).await.unwrap();
                incoming.ring().unwrap();
                call.expect_provisional(180, SOON).await.unwrap();
                assert_eq!(call.cancel(SOON).await.unwrap().code(), 200, "{from:?} to {to:?}");
                assert_eq!(ended(&mut call).await, 487, "{from:?} to {to:?}");
                let cancel = incoming.expect_cancel(SOON).await.unwrap().message;
                let invite = incoming.invite();
                assert_eq!((cancel.uri(), cancel.branch()), (invite.uri(), invite.branch()), "S-052");
                assert_eq!(cancel.cseq().0, invite.cseq().0);
                assert!(cancel.header("Reason").is_none_or(|reason| !reason.contains("200")), "nobody answered");
                // After the final, a CANCEL has no effect (S-050).
                assert!(matches!(call.cancel(SOON).await.unwrap().code(), 200 | 481));
            }
            assert_eq!(bob.unregister().await.unwrap().code(), 200);
        }
    })
    .await;
}

/// S-140, S-146, S-228: callers prove who they are, speak for themselves, and are not relayed elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_call() {
    play(LabOptions::default(), async |stage| {
        let mut bob = registered(stage.plain("bob", Transport::Tls)).await;
        for transport in TRANSPORTS {
            let table = [
                ("wrong password", stage.plain("caller", transport).password("guess"), BOB, 407),
                ("nobody of that name", stage.plain("nobody", transport), BOB, 407),
                ("spoofed From", stage.plain("alice", transport).auth_user("caller"), BOB, 403),
                ("elsewhere", stage.plain("caller", transport), "sip:bob@elsewhere.example", 403),
                ("nobody there", stage.plain("caller", transport), "sip:nobody@lab.example", 404),
                ("not registered", stage.plain("caller", transport), "sip:carol@lab.example", 480),
            ];
            for (case, builder, target, status) in table {
                let mut caller = builder.build();
                caller.connect().await.unwrap();
                let mut call = caller.invite(target).unwrap();
                assert_eq!(ended(&mut call).await, status, "{case} over {transport:?}");
                assert_eq!(caller.message(target, "hello").await.unwrap().code(), status, "{case}, MESSAGE");
            }
            let mut caller = stage.plain("caller", transport).build();
            caller.connect().await.unwrap();
            let mut foreign = caller.invite_request(BOB);
            foreign.set("From", "<sip:caller@elsewhere.example>;tag=1");
            let mut call = caller.invite_with(foreign).unwrap();
            assert_eq!(ended(&mut call).await, 403, "a From of another domain over {transport:?}");
            let mut call = caller.invite_raw(caller.invite_request(BOB)).unwrap();
            let challenge = call.final_response(SOON).await.unwrap().message;
            assert_eq!((challenge.code(), challenge.headers("Proxy-Authenticate").count()), (407, 2));
        }
        assert!(bob.expect_invite(Duration::ZERO).await.is_err(), "nothing of this reached the phone");
        assert_eq!(bob.invites().len(), 0);
    })
    .await;
}

/// S-061, S-063, S-092, S-093: requests to the node itself, and requests that have come too far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_the_node_itself() {
    play(LabOptions::default(), async |stage| {
        let _bob = stage.awake("bob", Provider::Fcm).await;
        for transport in TRANSPORTS {
            let mut caller = stage.plain("caller", transport).build();
            caller.connect().await.unwrap();
            let domain = format!("sip:{DOMAIN}");
            let answer = caller.exchange_once(caller.request(Method::Options, &domain, &domain)).await.unwrap();
            assert_eq!(answer.code(), 200, "without authentication");
            for name in ["Allow", "Accept", "Supported"] {
                assert!(answer.header(name).is_some(), "{name}");
            }
            let mut last_hop = caller.request(Method::Options, &domain, &domain);
            last_hop.set("Max-Forwards", "0");
            assert_eq!(caller.exchange_once(last_hop).await.unwrap().code(), 200);
            let mut too_far = caller.request(Method::Message, BOB, BOB);
            too_far.set("Max-Forwards", "0");
            assert_eq!(caller.exchange(too_far).await.unwrap().code(), 483);
            let to_us = caller.exchange(caller.request(Method::Message, &domain, &domain)).await.unwrap();
            assert_eq!((to_us.code(), to_us.header("Allow").is_some()), (405, true));
            let known = caller.request(Method::Options, &domain, &domain).to_bytes();
            let unknown = String::from_utf8_lossy(&known).replace("OPTIONS", "FROBNICATE");
            let (unknown, _) = SipMessage::parse(unknown.as_bytes(), false).unwrap();
            assert_eq!(caller.exchange(unknown).await.unwrap().code(), 501);
            let mut extension = caller.request(Method::Message, BOB, BOB);
            extension.push("Proxy-Require", "time-travel");
            let refused = caller.exchange(extension).await.unwrap();
            assert_eq!((refused.code(), refused.header("Unsupported")), (420, Some("time-travel")), "S-062");
        }
    })
    .await;
}
