//! What a node must not forget.

use reveille::lab::LabOptions;
use reveille_testkit::pns::Provider;

use super::stage::{BOB, SOON, Stage, answer, call, copies, each_provider, hang_up};

/// P-170, S-110: a phone that registered before the restart is woken after it; the token came back from the store.
async fn registered_before_the_restart(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.asleep("bob", provider).await;
    for round in 1..=2 {
        stage.restart().await;
        let caller = stage.caller().await;
        let mut call = call(&caller, BOB).await;
        stage.wake(&mut phone).await;
        let mut incoming = phone.expect_invite(SOON).await.expect("the call reaches the phone it woke");
        answer(&mut call, &mut incoming).await;
        hang_up(&mut call, &mut incoming).await;
        phone.sleep().await;
        assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, round));
    }
}
each_provider!(registered_before_the_restart, LabOptions::default());

/// P-086: a connection of the former life is no connection: a phone that was connected when the node went is pushed.
async fn connected_at_the_restart(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    stage.restart().await;
    phone.wait_closed(SOON).await.expect("the node closed its connections");
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    stage.wake(&mut phone).await;
    let mut incoming = phone.expect_invite(SOON).await.unwrap();
    answer(&mut call, &mut incoming).await;
    hang_up(&mut call, &mut incoming).await;
    assert_eq!((copies(&phone, call.call_id()), stage.pushes(&phone)), (1, 1));
}
each_provider!(connected_at_the_restart, LabOptions::default());

/// P-047, P-119: what was removed before the restart stays removed.
async fn removed_before_the_restart(stage: &mut Stage, provider: Provider) {
    let mut phone = stage.awake("bob", provider).await;
    assert_eq!(phone.unregister().await.unwrap().code(), 200);
    stage.restart().await;
    let caller = stage.caller().await;
    super::stage::unavailable_at_once(&caller, BOB).await;
    assert_eq!(stage.pushes(&phone), 0);
}
each_provider!(removed_before_the_restart, LabOptions::default());
