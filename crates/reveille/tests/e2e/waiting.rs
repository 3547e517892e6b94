//! What releases a request that waits for its phone, and what does not.

use reveille::lab::LabOptions;
use reveille_registrar::Transport;
use reveille_testkit::pns::Provider;

use super::stage::{
    BOB, SOON, Stage, answer, call, copies, device, each_provider, ended, hang_up, push, registered, settle,
    unavailable_at_once,
};

/// P-060, P-064, P-048: a REGISTER without credentials is answered 401 and releases nothing; the one with credentials does.
async fn challenge_does_not_release(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    phone.connect().await.unwrap();
    for _ in 0..2 {
        assert_eq!(phone.register_raw(3600).await.unwrap().code(), 401);
        settle(&caller, call.call_id(), &phone).await;
        assert_eq!(phone.invites().len(), 0, "nobody has proved to be bob");
    }
    assert_eq!(phone.register(3600).await.unwrap().code(), 200);
    let mut incoming = phone.expect_invite(SOON).await.expect("the refresh was accepted");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!(copies(&phone, call.call_id()), 1);
    assert_eq!(stage.pushes(&phone), 1);
}
each_provider!(challenge_does_not_release, LabOptions::default());

/// P-115: whoever knows the token but not the password gets nothing.
async fn stranger_with_the_token_gets_nothing(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    let token = phone.push().cloned().unwrap();
    let builders =
        [(stage.plain("bob", Transport::Tls).password("guess"), 401), (stage.plain("carol", Transport::Tls), 200)];
    for (builder, status) in builders {
        let mut stranger = builder.push(token.clone()).build();
        stranger.connect().await.unwrap();
        assert_eq!(stranger.register(3600).await.unwrap().code(), status);
        settle(&caller, call.call_id(), &stranger).await;
        assert_eq!(stranger.invites().len(), 0);
    }
    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call waited for its own phone");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!(copies(&phone, call.call_id()), 1);
}
each_provider!(stranger_with_the_token_gets_nothing, LabOptions::default());

/// P-059, P-070: two phones of one user sleep; the refresh of one releases its own branch alone.
async fn other_device_does_not_release(stage: &mut Stage, provider: Provider) {
    let other_provider = match provider {
        Provider::Apns => Provider::Fcm,
        Provider::Fcm => Provider::WebPush,
        _ => Provider::Apns,
    };
    let with_instance = |provider, number| device(stage.phone("bob", provider), number);
    let (mut phone, mut other) =
        (registered(with_instance(provider, 1)).await, registered(with_instance(other_provider, 2)).await);
    phone.sleep().await;
    other.sleep().await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("the first phone is pushed");
    stage.wake(&mut other).await;
    let mut at_other = other.expect_invite(SOON).await.expect("the other phone has a branch of its own");
    at_other.ring().unwrap();
    call.expect_provisional(180, SOON).await.unwrap();
    // Another refresh of it is no news for anybody.
    assert_eq!(other.register(3600).await.unwrap().code(), 200);
    settle(&caller, call.call_id(), &other).await;
    assert_eq!(copies(&other, call.call_id()), 1, "the first phone's branch did not go to the other phone");

    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("its branch still waited");
    incoming.answer().unwrap();
    assert_eq!(ended(&mut call).await, 200);
    incoming.expect_ack(SOON).await.unwrap();
    let cancel = at_other.expect_cancel(SOON).await.expect("S-080: answered elsewhere").message;
    assert!(cancel.header("Reason").is_some_and(|reason| reason.contains("cause=200")), "S-096");
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), copies(&other, call.call_id())), (1, 1));
    assert_eq!((stage.pushes(&phone), stage.pushes(&other)), (1, 1));
}
each_provider!(other_device_does_not_release, LabOptions::default());

/// P-059, P-053: the other phone is awake and has no push at all; it rings at once, and its refresh releases nothing.
async fn awake_device_does_not_release(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let desk = device(stage.plain("bob", Transport::Tls), 7);
    let mut desk = registered(desk).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let at_desk = desk.expect_invite(SOON).await.expect("P-070: an ordinary binding is tried at once");
    phone.wait_wake(SOON).await.expect("the sleeping one is woken meanwhile");
    assert_eq!(desk.register(3600).await.unwrap().code(), 200);
    settle(&caller, call.call_id(), &desk).await;
    assert_eq!(copies(&desk, call.call_id()), 1);
    at_desk.reject(486, "Busy Here").unwrap();
    // The sleeping phone may still answer, so the refusal waits.
    stage.refresh(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("its branch still waited");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), copies(&desk, call.call_id())), (1, 1));
}
each_provider!(awake_device_does_not_release, LabOptions::default());

/// P-070, S-081: one phone is busy and the other never comes: the caller hears the better answer, once the wait is over.
async fn better_answer_than_an_expired_wait(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let desk = device(stage.plain("bob", Transport::Tls), 7);
    let mut desk = registered(desk).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    desk.expect_invite(SOON).await.unwrap().reject(486, "Busy Here").unwrap();
    phone.wait_wake(SOON).await.expect("the sleeping one is woken meanwhile");
    assert_eq!(ended(&mut call).await, 486, "a real answer is better than none");
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!(phone.invites().len(), 0);
}
each_provider!(better_answer_than_an_expired_wait, push("call_wait = \"1s\""));

/// P-070, P-069: answered on the phone that is awake: the one that wakes later gets nothing.
async fn answered_elsewhere_while_waiting(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let desk = device(stage.plain("bob", Transport::Tls), 7);
    let mut desk = registered(desk).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let mut at_desk = desk.expect_invite(SOON).await.unwrap();
    phone.wait_wake(SOON).await.expect("the sleeping one is woken meanwhile");
    answer(&mut call, &mut at_desk).await;
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!(phone.invites().len(), 0, "a call that was answered elsewhere never rings");
    hang_up(&mut call, &mut at_desk).await;
}
each_provider!(answered_elsewhere_while_waiting, LabOptions::default());

/// S-098: another phone of the user registers for the first time while the call waits: it rings too, once.
async fn late_device_rings(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    let desk = device(stage.plain("bob", Transport::Tls), 7);
    let mut desk = registered(desk).await;
    let mut at_desk = desk.expect_invite(SOON).await.expect("a late fork");
    answer(&mut call, &mut at_desk).await;
    hang_up(&mut call, &mut at_desk).await;
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!((phone.invites().len(), copies(&desk, call.call_id())), (0, 1));
}
each_provider!(late_device_rings, LabOptions::default());

/// P-064: a REGISTER refused for good ends the wait with 480; one that was merely too short does not.
async fn refused_register_ends_the_wait(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    phone.connect().await.unwrap();
    assert_eq!(phone.register(100).await.unwrap().code(), 423);
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!(call.provisionals().len(), 1, "the call still waits");
    let mut forbidden = phone.register_request(3600);
    forbidden.push("Contact", "<sip:bob@lab.example>");
    assert_eq!(phone.exchange(forbidden).await.unwrap().code(), 403);
    assert_eq!(ended(&mut call).await, 480);
    assert_eq!(phone.invites().len(), 0);
}
each_provider!(refused_register_ends_the_wait, LabOptions::default());

/// P-046, P-047: the phone deregisters instead of refreshing: the call ends, and later ones push nothing.
async fn removal_ends_the_wait(stage: &mut Stage, provider: Provider) {
    let mut phone = registered(device(stage.phone("bob", provider), 1)).await;
    phone.sleep().await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("a push arrives");
    phone.connect().await.unwrap();
    assert_eq!(phone.unregister().await.unwrap().code(), 200);
    assert_eq!(ended(&mut call).await, 480);
    unavailable_at_once(&caller, BOB).await;
    assert_eq!((phone.invites().len(), stage.pushes(&phone)), (0, 1));
}
each_provider!(removal_ends_the_wait, LabOptions::default());
