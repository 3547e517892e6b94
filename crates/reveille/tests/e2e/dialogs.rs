//! Requests within a dialog: they wake the phone that the dialog is with, and where they fail the dialog goes on (P-081, P-089, P-090).

use reveille_testkit::pns::{Provider, Service, Verdict};
use reveille_testkit::ua::{IncomingCall, Method, OutgoingCall, Phone};
use tokio::time::timeout;

use super::stage::{BOB, SOON, Stage, answer, call, each_provider, hang_up, prid, push};

/// Bob's phone and a caller, in a call.
async fn talking(stage: &Stage, provider: Provider) -> (Phone, OutgoingCall, IncomingCall, Phone) {
    let mut phone = stage.awake("bob", provider).await;
    let caller = stage.caller().await;
    let mut call = call(&caller, BOB).await;
    let mut incoming = phone.expect_invite(SOON).await.expect("the call takes the open connection");
    answer(&mut call, &mut incoming).await;
    (phone, call, incoming, caller)
}

/// The phone goes to sleep, and the node knows.
async fn sleeps(stage: &Stage, phone: &Phone) {
    let open = stage.sum_when("reveille_edge_flows{transport=\"tls\"", |open| open <= 1.0);
    phone.sleep().await;
    timeout(SOON, open).await.expect("the node sees the connection end");
}

/// Wakes as urgently as can be, and refreshes.
async fn wakes(stage: &Stage, phone: &mut Phone) {
    let wake = phone.wait_wake(SOON).await.expect("a push arrives");
    assert!(wake.urgent, "P-090, P-129");
    assert_ne!(wake.service, Service::Voip, "P-151: nothing rings");
    stage.refresh(phone).await;
}

/// P-089, P-090: every method wakes a sleeping phone, urgently, and arrives.
async fn every_method_wakes_the_phone(stage: &mut Stage, provider: Provider) {
    let (mut phone, mut call, mut incoming, _caller) = talking(stage, provider).await;
    let methods = [
        (Method::Notify, "NOTIFY"),
        (Method::Invite, "INVITE"),
        (Method::Update, "UPDATE"),
        (Method::Info, "INFO"),
        (Method::Message, "MESSAGE"),
        (Method::Bye, "BYE"),
    ];
    for (number, (method, name)) in (1..).zip(methods) {
        sleeps(stage, &phone).await;
        let (answered, ()) = tokio::join!(call.request(method, SOON), async {
            wakes(stage, &mut phone).await;
            let received = incoming.expect_request(name, SOON).await.expect("the request follows the phone");
            if method == Method::Invite {
                incoming.respond_to(&received.message, 200, "OK").unwrap();
            }
        });
        assert_eq!((answered.expect(name).code(), stage.pushes(&phone)), (200, number), "{name}");
    }
}
each_provider!(every_method_wakes_the_phone, push(""));

/// P-089: the phone died without a FIN. What is sent to it within the dialog is not lost in the dead connection.
async fn dead_flow_in_a_dialog_is_pushed(stage: &mut Stage, provider: Provider) {
    let (mut phone, mut call, mut incoming, _caller) = talking(stage, provider).await;
    for (method, name) in [(Method::Info, "INFO"), (Method::Bye, "BYE")] {
        let dead = phone.drop_silently().await;
        let (answered, ()) = tokio::join!(call.request(method, SOON), async {
            wakes(stage, &mut phone).await;
            incoming.expect_request(name, SOON).await.expect("the request follows the phone");
        });
        assert_eq!(answered.expect(name).code(), 200, "{name}");
        drop(dead);
    }
    assert_eq!(stage.pushes(&phone), 2);
}
each_provider!(dead_flow_in_a_dialog_is_pushed, push("flow_patience = \"500ms\""));

/// P-081: a re-INVITE and a NOTIFY that cannot be delivered fail with codes that spare the dialog, whatever the reason; both sides go on
/// talking in it when the phone is back.
async fn p081_the_dialog_lives_on(stage: &mut Stage, provider: Provider) {
    let (mut phone, mut call, mut incoming, _caller) = talking(stage, provider).await;
    sleeps(stage, &phone).await;
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Refuse);
    for method in [Method::Invite, Method::Notify] {
        assert_eq!(call.request(method, SOON).await.unwrap().code(), 500, "the push failed: {method}");
    }
    stage.lab.pns.set_verdict(prid(&phone), Verdict::Accept);
    for method in [Method::Invite, Method::Notify] {
        assert_eq!(call.request(method, SOON).await.unwrap().code(), 504, "nobody came: {method}");
    }
    stage.refresh(&mut phone).await;
    assert_eq!(call.request(Method::Info, SOON).await.unwrap().code(), 200);
    incoming.expect_request("INFO", SOON).await.expect("the dialog is as it was");
    assert_eq!(incoming.request(Method::Info, SOON).await.unwrap().code(), 200, "for the phone too");
    hang_up(&mut call, &mut incoming).await;
}
each_provider!(p081_the_dialog_lives_on, push("call_wait = \"2s\"\nrequest_wait = \"2s\""));
