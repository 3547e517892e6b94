//! Phones that cannot be woken: what the push service says, and what the caller hears.

use std::time::{Duration, SystemTime};

use reveille::lab::LabOptions;
use reveille_testkit::pns::{Provider, Verdict};
use reveille_testkit::ua::{Phone, PushParams};
use tokio::time::Instant;

use super::stage::{
    AT_ONCE, BOB, SOON, Stage, answer, call, copies, device, each_provider, ended, hang_up, play, prid, push,
    registered, settle, unavailable_at_once,
};

/// P-065, P-153: the request was at fault, not the token: 480 at once, and the next call tries again.
async fn push_refused(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Refuse);
    let caller = stage.caller().await;
    unavailable_at_once(&caller, BOB).await;
    assert_eq!(stage.pushes(&phone), 1, "P-153: never repeated");
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Accept);
    rings(stage, &caller, &mut phone).await;
    assert_eq!(stage.pushes(&phone), 2, "the token was kept");
}
each_provider!(push_refused, LabOptions::default());

/// P-134, P-154, P-164: 410 from APNs, `UNREGISTERED` from FCM, 410 from a Web Push service.
async fn token_gone(stage: &mut Stage, provider: Provider) {
    // Later than the registration, whatever the second: P-154 spares a token that was registered since.
    let since = SystemTime::now() + Duration::from_secs(2);
    dead_token(stage, provider, Verdict::Gone { since: Some(since) }).await;
}
each_provider!(token_gone, LabOptions::default());

/// P-134: 404 says the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_not_found_webpush() {
    play(LabOptions::default(), async |stage| dead_token(stage, Provider::WebPush, Verdict::NotFound).await).await;
}

/// The caller hears 480 at once, the binding stays without its token (P-134, P-156), nothing is pushed to it any more (P-119).
async fn dead_token(stage: &mut Stage, provider: Provider, verdict: Verdict) {
    let mut phone = registered(device(stage.phone("bob", provider), 1)).await;
    phone.sleep().await;
    let caller = stage.caller().await;
    dies(stage, &caller, &phone, verdict).await;
    assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 480);
    assert_eq!(stage.pushes(&phone), 1, "a dead token is not pushed to");
    phone.connect().await.unwrap();
    assert_eq!(fetch(&mut phone).await, 1, "P-134: the binding stays");
    comes_back(stage, &mut phone, provider).await;
    let new = stage.lab.pns.register_device(provider);
    phone.set_push(Some(PushParams::of(&new)));
    assert_eq!(phone.register(3600).await.unwrap().code(), 200, "a new token is as good as any");
    assert_eq!(fetch(&mut phone).await, 1);
}

/// P-156 for a phone without instance-id, which no one can tell from a new one but by its token.
async fn dead_token_of_a_nameless_phone(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let since = SystemTime::now() + Duration::from_secs(2);
    dies(stage, &caller, &phone, Verdict::Gone { since: Some(since) }).await;
    phone.connect().await.unwrap();
    comes_back(stage, &mut phone, provider).await;
    assert_eq!(fetch(&mut phone).await, 1, "P-045: the same token is the same binding");
}
each_provider!(dead_token_of_a_nameless_phone, LabOptions::default());

/// Two calls, of which the first finds the token dead and the second does not try it.
async fn dies(stage: &Stage, caller: &Phone, phone: &Phone, verdict: Verdict) {
    stage.lab.pns.set_verdict(prid(phone), verdict);
    unavailable_at_once(caller, BOB).await;
    unavailable_at_once(caller, BOB).await;
    assert_eq!(stage.pushes(phone), 1, "a dead token is not pushed to");
    stage.lab.pns.set_verdict(prid(phone), Verdict::Accept);
}

/// The phone registers with its dead token again (P-156).
async fn comes_back(stage: &Stage, phone: &mut Phone, provider: Provider) {
    let answer = phone.register(3600).await.unwrap();
    if provider == Provider::Apns {
        // APNs revives tokens, so the first verdict is forgiven to a phone that registers again.
        assert_eq!((answer.code(), answer.feature_cap("+sip.pns").as_deref()), (200, Some("apns")));
        phone.sleep().await;
        let caller = stage.caller().await;
        rings(stage, &caller, phone).await;
    } else {
        assert_eq!(answer.code(), 555, "P-156: elsewhere a dead token stays dead for a day");
    }
}

/// P-154: a verdict about the time before the registration does not count against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_registered_since_is_kept_apns() {
    play(LabOptions::default(), async |stage| {
        let phone = stage.asleep("bob", Provider::Apns).await;
        let before = SystemTime::now() - Duration::from_secs(3600);
        stage.lab.pns.set_verdict(prid(&phone), Verdict::Gone { since: Some(before) });
        let caller = stage.caller().await;
        unavailable_at_once(&caller, BOB).await;
        unavailable_at_once(&caller, BOB).await;
        assert_eq!(stage.pushes(&phone), 2, "the token is still tried");
    })
    .await;
}

/// P-066: the push went out and the phone does not come. It gets nothing when it comes later.
async fn no_refresh_in_time(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let start = Instant::now();
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("the push arrives");
    assert_eq!(ended(&mut call).await, 480);
    let took = start.elapsed();
    assert!((Duration::from_secs(1)..AT_ONCE).contains(&took), "480 after {took:?}");
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!(phone.invites().len(), 0, "a call that is over never rings");
    assert_eq!(stage.pushes(&phone), 1);
}
each_provider!(no_refresh_in_time, push("call_wait = \"1s\""));

/// P-066, P-067: the same for a MESSAGE: 480, never 408 (S-055), and nothing before it (S-054).
async fn message_is_not_held_for_ever(stage: &mut Stage, provider: Provider) {
    let phone = stage.asleep("bob", provider).await;
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Blackhole);
    let caller = stage.caller().await;
    assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 480);
    assert_eq!(stage.pushes(&phone), 1);
    assert_eq!(trying(&caller), 0, "S-054: no 100 within the first seconds");
}
each_provider!(message_is_not_held_for_ever, push("request_wait = \"1s\""));

/// S-054: a MESSAGE that has waited past the point where Timer E would have reached T2 is told so, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_that_waits_long_gets_100() {
    play(push("request_wait = \"6s\""), async |stage| {
        let phone = stage.asleep("bob", Provider::Fcm).await;
        stage.lab.pns.set_verdict(prid(&phone), Verdict::Blackhole);
        let caller = stage.caller().await;
        assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 480);
        assert_eq!(trying(&caller), 1);
    })
    .await;
}

/// How many 100 this phone has received.
fn trying(caller: &Phone) -> usize {
    String::from_utf8_lossy(&caller.transcript()).matches("SIP/2.0 100 ").count()
}

/// P-065: a push service that is overloaded or broken fails the call by its deadline, and is well again afterwards.
async fn push_service_ill(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    for verdict in [Verdict::Unavailable, Verdict::Throttle { retry_after: Some(Duration::from_secs(60)) }] {
        stage.lab.pns.set_verdict(prid(&phone), verdict.clone());
        let start = Instant::now();
        let mut call = caller.invite(BOB).unwrap();
        assert_eq!(ended(&mut call).await, 480, "{verdict:?}");
        assert!(start.elapsed() < AT_ONCE, "{verdict:?}: 480 took {:?}", start.elapsed());
    }
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Accept);
    let bindings = {
        phone.connect().await.unwrap();
        fetch(&mut phone).await
    };
    assert_eq!(bindings, 1, "nothing of this says that the phone is gone");
}
each_provider!(push_service_ill, push("call_wait = \"2s\""));

/// S-053, P-069: the caller gives up while the phone sleeps: 200 and 487 at once, and the phone that comes gets nothing.
async fn cancelled_while_waiting(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    let start = Instant::now();
    assert_eq!(call.cancel(SOON).await.expect("the CANCEL is answered").code(), 200);
    assert_eq!(ended(&mut call).await, 487);
    assert!(start.elapsed() < AT_ONCE);
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!(phone.invites().len(), 0, "a call that is over never rings");
    // S-050: there is nothing to cancel any more; and the phone is as good as before.
    phone.sleep().await;
    rings(stage, &caller, &mut phone).await;
    assert_eq!(stage.pushes(&phone), 2);
}
each_provider!(cancelled_while_waiting, LabOptions::default());

/// A whole call to a sleeping phone.
async fn rings(stage: &Stage, caller: &Phone, phone: &mut Phone) {
    let mut call = call(caller, BOB).await;
    stage.wake(phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call reaches the phone it woke");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!(copies(phone, call.call_id()), 1);
}

/// How many bindings a REGISTER without Contact lists (S-103).
async fn fetch(phone: &mut Phone) -> usize {
    let mut fetch = phone.register_request(3600);
    fetch.remove("Contact");
    let answer = phone.exchange(fetch).await.unwrap();
    assert_eq!(answer.code(), 200);
    answer.values("Contact").len()
}
