//! Calls and messages to phones that sleep, and that wake in time.

use reveille::lab::LabOptions;
use reveille_testkit::pns::{DeviceKind, Provider, Service, Verdict};
use reveille_testkit::ua::{Ending, SleepyConfig, SleepyPhone, Step};

use super::stage::{
    BOB, SOON, Stage, answer, call, copies, device, each_provider, ended, hang_up, play, prid, registered,
    unavailable_at_once,
};

/// P-052, P-058, P-061, P-062, S-043: one push, the INVITE once, and a whole call; each side hangs up once.
async fn answered(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    for caller_hangs_up in [true, false] {
        let mut call = call(&caller, BOB).await;
        stage.wake(&mut phone).await;
        let mut incoming = phone.expect_invite(SOON).await.expect("the call reaches the phone it woke");
        answer(&mut call, &mut incoming).await;
        if caller_hangs_up {
            hang_up(&mut call, &mut incoming).await;
        } else {
            assert_eq!(incoming.bye(SOON).await.expect("the BYE is answered").code(), 200);
            call.expect_bye(SOON).await.expect("the BYE reaches the caller");
        }
        let trying = call.provisionals().iter().filter(|one| one.message.code() == 100).count();
        assert_eq!(trying, 1, "S-043: the phone's own 100 stays below");
        assert_eq!(copies(&phone, call.call_id()), 1);
        phone.sleep().await;
    }
    assert_eq!(stage.pushes(&phone), 2, "one push for each call");
    assert_eq!(phone.retransmissions(), 0);
}
each_provider!(answered, LabOptions::default());

/// P-021, P-052: a push service that nobody here knows, behind a webhook, wakes its phone just so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_by_webhook() {
    let options = LabOptions { webhook: true, ..LabOptions::default() };
    play(options, async |stage| answered(stage, Provider::Webhook).await).await;
}

/// P-134, P-156: its word that a token is gone counts like any other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_by_webhook() {
    let options = LabOptions { webhook: true, ..LabOptions::default() };
    play(options, async |stage| {
        let phone = stage.asleep("bob", Provider::Webhook).await;
        stage.lab.pns.set_verdict(prid(&phone), Verdict::Gone { since: None });
        let caller = stage.caller().await;
        for _ in 0..2 {
            unavailable_at_once(&caller, BOB).await;
        }
        assert_eq!(stage.lab.pns.pushed(prid(&phone)), 1, "a dead token is not pushed to again");
    })
    .await;
}

/// The same by a phone that plays by itself, several times over, as phones do all day.
async fn again_and_again(stage: &mut Stage, provider: Provider) {
    let config = SleepyConfig { ending: Ending::SendBye, patience: SOON, ..SleepyConfig::default() };
    let mut sleepy = SleepyPhone::spawn(stage.phone("bob", provider).pnsreg().build(), config);
    let caller = stage.caller().await;
    for _ in 0..5 {
        sleepy.until(SOON, |step| *step == Step::Asleep).await.expect("the phone falls asleep");
        let mut call = caller.invite(BOB).unwrap();
        assert_eq!(ended(&mut call).await, 200);
        sleepy.until(SOON, |step| *step == Step::Ended { by_us: true }).await.expect("the phone hangs up");
        call.expect_bye(SOON).await.expect("the BYE reaches the caller");
    }
    let phone = sleepy.stop().await.unwrap();
    assert_eq!(phone.invites().len(), 5);
    assert!(phone.invites().values().all(|copies| *copies == 1), "{:?}", phone.invites());
    assert_eq!(stage.pushes(&phone), 5);
}
each_provider!(again_and_again, LabOptions::default());

/// P-057: two calls at once share one push, and both ring.
async fn two_calls_share_a_push(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let (one, other) = (stage.caller().await, stage.caller_named("carol").await);
    let (mut first, mut second) = (call(&one, BOB).await, call(&other, BOB).await);
    stage.wake(&mut phone).await;
    let mut incoming = [phone.expect_invite(SOON).await.unwrap(), phone.expect_invite(SOON).await.unwrap()];
    incoming.sort_by_key(|call| call.call_id() != first.call_id());
    let [mut to_first, mut to_second] = incoming;
    answer(&mut first, &mut to_first).await;
    answer(&mut second, &mut to_second).await;
    hang_up(&mut first, &mut to_first).await;
    hang_up(&mut second, &mut to_second).await;
    assert_eq!((copies(&phone, first.call_id()), copies(&phone, second.call_id())), (1, 1));
    assert_eq!(stage.pushes(&phone), 1);
}
each_provider!(two_calls_share_a_push, LabOptions::default());

/// P-052, P-106: a MESSAGE waits for its phone and arrives whole; the push says nothing of it.
async fn message_is_held(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let (status, ()) = tokio::join!(async { caller.message(BOB, "are you there?").await.unwrap().code() }, async {
        let wake = phone.wait_wake(SOON).await.expect("a push arrives");
        let expected = if provider == Provider::Apns { Service::Remote } else { Service::Any };
        assert_eq!(wake.service, expected, "P-151: what is no call goes to the remote token");
        assert!(!String::from_utf8_lossy(&wake.body).contains("there"), "P-106");
        stage.refresh(&mut phone).await;
        let message = phone.expect_request("MESSAGE", SOON).await.expect("the MESSAGE follows").message;
        assert_eq!(&message.body()[..], b"are you there?");
        assert_eq!(message.header("Content-Type"), Some("text/plain"));
    });
    assert_eq!(status, 200);
    assert_eq!(stage.pushes(&phone), 1);
}
each_provider!(message_is_held, LabOptions::default());

/// P-063, P-121: a phone that registers by itself is given its call; the push need not have caused it.
async fn wakes_by_itself(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Blackhole);
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("any refresh releases");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!(copies(&phone, call.call_id()), 1);
}
each_provider!(wakes_by_itself, LabOptions::default());

/// P-007, P-045, P-085: the token changes while a call waits; the phone is the same and gets it.
async fn token_changes_while_a_call_waits(stage: &mut Stage, provider: Provider) {
    let mut new = stage.lab.pns.register_device(provider);
    let old = stage.lab.pns.register_device(provider);
    let old_prid = old.prid.clone();
    let plain = stage.lab.plain_phone("bob", stage.tls()).unwrap();
    let mut phone = registered(device(plain, 1).reg_id(1).device(old)).await;
    phone.sleep().await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("the old token is pushed");
    phone.set_push(Some(reveille_testkit::ua::PushParams::of(&new)));
    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the phone is the same");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    phone.sleep().await;
    // P-044: the new token replaced the old one, and nothing rings twice.
    let mut again = caller.invite(BOB).unwrap();
    tokio::time::timeout(SOON, new.wakes.recv()).await.expect("the new token is pushed");
    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.unwrap();
    answer(&mut again, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), copies(&phone, again.call_id())), (1, 1));
    assert_eq!(stage.lab.pns.pushed(&old_prid), 1);
}
each_provider!(token_changes_while_a_call_waits, LabOptions::default());

/// P-149, P-150: connections to the push service that broke in the meantime cost no call.
async fn push_connections_lost(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    for lose in [None, Some(true), Some(false)] {
        match lose {
            Some(true) => {
                stage.lab.pns.cut_connections();
                // A call's push that is on its way just then is not sent twice to APNs (P-150), so the cut comes first.
                let open = stage.sum_when("reveille_push_connections", |open| open == 0.0);
                tokio::time::timeout(SOON, open).await.expect("the node sees the connections end");
            }
            Some(false) => stage.lab.pns.drain_connections(),
            None => {}
        }
        let mut call = call(&caller, BOB).await;
        stage.wake(&mut phone).await;
        let mut incoming = phone.expect_invite(SOON).await.unwrap();
        answer(&mut call, &mut incoming).await;
        hang_up(&mut call, &mut incoming).await;
        phone.sleep().await;
    }
    assert_eq!(stage.lab.pns.accepted(prid(&phone)), 3);
}
each_provider!(push_connections_lost, LabOptions::default());

/// P-151: a phone with nothing but a VoIP token is woken for calls alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voip_token_is_for_calls_alone() {
    play(LabOptions::default(), async |stage| {
        let device = stage.lab.pns.register_device(DeviceKind::ApnsVoip);
        let mut phone = registered(stage.lab.plain_phone("bob", stage.tls()).unwrap().device(device)).await;
        phone.sleep().await;
        let caller = stage.caller().await;
        // Until the node has seen the connection end, the message may be sent down it; both ways it is refused.
        assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 480);
        assert_eq!(stage.pushes(&phone), 0);
        let mut call = call(&caller, BOB).await;
        let wake = phone.wait_wake(SOON).await.expect("a call wakes it");
        assert_eq!(wake.service, Service::Voip);
        assert!(wake.urgent);
        stage.refresh(&mut phone).await;
        let mut incoming = phone.expect_invite(SOON).await.unwrap();
        answer(&mut call, &mut incoming).await;
        hang_up(&mut call, &mut incoming).await;
    })
    .await;
}

/// S-094: nobody of that name, and somebody who never registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_wake() {
    play(LabOptions::default(), async |stage| {
        let caller = stage.caller().await;
        let mut call = caller.invite("sip:nobody@lab.example").unwrap();
        assert_eq!(ended(&mut call).await, 404);
        unavailable_at_once(&caller, "sip:alice@lab.example").await;
    })
    .await;
}
