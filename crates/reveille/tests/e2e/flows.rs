//! Phones that are connected, phones whose connection only looks as if, and phones whose connection is gone.

use reveille::lab::LabOptions;
use reveille_testkit::pns::Provider;
use tokio::time::{Instant, timeout};

use super::stage::{
    AT_ONCE, BOB, SOON, Stage, answer, call, copies, device, each_provider, ended, hang_up, push, registered, settle,
};

/// P-054: a phone that was heard a moment ago is not pushed.
async fn live_flow_needs_no_push(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call takes the open connection");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!(caller.message(BOB, "hello").await.unwrap().code(), 200);
    phone.expect_request("MESSAGE", SOON).await.expect("so does a message");
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 0));
    assert!(phone.take_wake().is_none());
}
each_provider!(live_flow_needs_no_push, LabOptions::default());

/// P-054: a connection on which nothing was heard lately proves nothing: the phone is pushed, and may use that same
/// connection to refresh.
async fn silent_flow_is_pushed(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    phone.wait_wake(SOON).await.expect("an open socket alone is no proof of life");
    assert_eq!(phone.register(3600).await.unwrap().code(), 200);
    let mut incoming = phone.expect_invite(SOON).await.unwrap();
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 1));
}
each_provider!(silent_flow_is_pushed, push("awake_window = \"0s\""));

/// P-054, P-086: the phone died without a FIN. The call is tried on the old connection, falls back to a push, and rings once.
async fn dead_flow_falls_back_to_push(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let dead = phone.drop_silently().await;
    let caller = stage.caller().await;
    let start = Instant::now();
    let mut call = call(&caller, BOB).await;
    stage.wake(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call follows the phone to its new connection");
    assert!(start.elapsed() < AT_ONCE, "the fallback took {:?}", start.elapsed());
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    drop(dead);
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 1));
    let (_, metrics) = stage.get("/metrics").await;
    assert!(metrics.contains("reveille_flows_found_dead_total 1"), "the dead connection is counted");
}
each_provider!(dead_flow_falls_back_to_push, push("flow_patience = \"500ms\""));

/// The same with a MESSAGE.
async fn message_on_a_dead_flow_falls_back_to_push(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let dead = phone.drop_silently().await;
    let caller = stage.caller().await;
    let (status, ()) = tokio::join!(async { caller.message(BOB, "hello").await.unwrap().code() }, async {
        stage.wake(&mut phone).await;
        phone.expect_request("MESSAGE", SOON).await.expect("the MESSAGE follows the phone");
    });
    drop(dead);
    assert_eq!((status, stage.pushes(&phone)), (200, 1));
}
each_provider!(message_on_a_dead_flow_falls_back_to_push, push("flow_patience = \"500ms\""));

/// S-050, S-051: the caller gives up before anybody knows that the connection is dead. Its 487 does not wait for Timer B.
async fn cancelled_on_a_dead_flow(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let dead = phone.drop_silently().await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let start = Instant::now();
    assert_eq!(call.cancel(SOON).await.unwrap().code(), 200);
    assert_eq!(ended(&mut call).await, 487);
    assert!(start.elapsed() < AT_ONCE, "487 took {:?}", start.elapsed());
    drop(dead);
    stage.refresh(&mut phone).await;
    settle(&caller, call.call_id(), &phone).await;
    assert_eq!((phone.invites().len(), stage.pushes(&phone)), (0, 0), "a call that is over wakes nobody");
}
each_provider!(cancelled_on_a_dead_flow, LabOptions::default());

/// P-086: the connection was closed in order; the binding lives on by its token.
async fn closed_flow_is_pushed(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    phone.sleep().await;
    let open = stage.sum_when("reveille_edge_flows{transport=\"tls\"", |open| open == 0.0);
    timeout(SOON, open).await.expect("the node sees the connection end");
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    stage.wake(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.unwrap();
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 1));
}
each_provider!(closed_flow_is_pushed, LabOptions::default());

/// P-084, P-045: the phone moved to another connection by itself: calls go there, and nowhere else.
async fn moved_phone_is_found(stage: &mut Stage, provider: Provider) {
    let builder = device(stage.phone("bob", provider), 3).reg_id(1);
    let mut phone = registered(builder).await;
    let dead = phone.drop_silently().await;
    stage.refresh(&mut phone).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call takes the new connection");
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    drop(dead);
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 0));
}
each_provider!(moved_phone_is_found, LabOptions::default());

/// S-056, S-131: the connection ends while the phone is being rung on it and has said nothing yet: a push follows.
async fn flow_cut_while_ringing_is_pushed(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    let dead = phone.drop_silently().await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    drop(dead);
    stage.wake(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.unwrap();
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 1));
}
each_provider!(flow_cut_while_ringing_is_pushed, push("flow_patience = \"20s\""));
