//! Several phones of one user, all awake.

use reveille::lab::LabOptions;
use reveille_registrar::Transport;
use reveille_testkit::ua::{IncomingCall, OutgoingCall, Phone};

use super::stage::{BOB, SOON, Stage, answer, call, copies, device, ended, hang_up, play, registered};

/// Two phones of bob over different transports, a caller, and a call that both have.
struct Forked {
    phones: [Phone; 2],
    caller: Phone,
    call: OutgoingCall,
    offers: [IncomingCall; 2],
}

async fn forked(stage: &Stage, transports: [Transport; 2]) -> Forked {
    let [one, other] = transports;
    let mut one = registered(device(stage.plain("bob", one), 1)).await;
    let mut other = registered(device(stage.plain("bob", other), 2)).await;
    let caller = stage.caller().await;
    let call = call(&caller, BOB).await;
    let offers = [one.expect_invite(SOON).await.unwrap(), other.expect_invite(SOON).await.unwrap()];
    let branches = offers.each_ref().map(|offer| offer.invite().branch().map(str::to_owned));
    assert_ne!(branches[0], branches[1], "S-073: a branch of its own for each");
    Forked { phones: [one, other], caller, call, offers }
}

/// S-079, S-080, S-096: both ring, one answers, the other is told why it stops ringing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_elsewhere() {
    play(LabOptions::default(), async |stage| {
        for transports in
            [[Transport::Tls, Transport::Tcp], [Transport::Udp, Transport::Tls], [Transport::Tcp, Transport::Udp]]
        {
            let Forked { mut phones, mut call, offers: [mut one, mut other], caller: _caller } =
                forked(stage, transports).await;
            one.ring().unwrap();
            other.ring().unwrap();
            answer(&mut call, &mut one).await;
            let cancel = other.expect_cancel(SOON).await.expect("the other phone stops ringing").message;
            let reason = cancel.header("Reason").unwrap_or_default();
            assert!(reason.starts_with("SIP") && reason.contains("cause=200"), "{transports:?}: {reason}");
            hang_up(&mut call, &mut one).await;
            for phone in &mut phones {
                assert_eq!(copies(phone, call.call_id()), 1, "{transports:?}");
                assert_eq!(phone.unregister().await.unwrap().code(), 200);
            }
        }
    })
    .await;
}

/// S-081: one is busy, the other answers; the caller never hears of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_here_answered_there() {
    play(LabOptions::default(), async |stage| {
        let Forked { mut call, offers: [one, mut other], caller: _caller, phones: _phones } =
            forked(stage, [Transport::Tls, Transport::Udp]).await;
        one.reject(486, "Busy Here").unwrap();
        answer(&mut call, &mut other).await;
        hang_up(&mut call, &mut other).await;
    })
    .await;
}

/// S-080, S-081: both refuse: the best refusal; and a 6xx ends everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_by_both() {
    play(LabOptions::default(), async |stage| {
        for (first, second, heard) in [(486, 486, 486), (486, 404, 404), (480, 503, 480), (486, 603, 603)] {
            let Forked { mut phones, mut call, offers: [one, other], caller: _caller } =
                forked(stage, [Transport::Tls, Transport::Tcp]).await;
            one.reject(first, "No").unwrap();
            other.reject(second, "No").unwrap();
            let status = ended(&mut call).await;
            if heard == 404 {
                assert!([first, second].contains(&status), "either 4xx will do, {status}");
            } else {
                assert_eq!(status, heard, "{first} and {second}");
            }
            for phone in &mut phones {
                assert_eq!(phone.unregister().await.unwrap().code(), 200);
            }
        }
    })
    .await;
}

/// S-080: declined for good on one phone: the other stops ringing before the caller hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declined_everywhere() {
    play(LabOptions::default(), async |stage| {
        let Forked { mut call, offers: [one, mut other], caller: _caller, phones: _phones } =
            forked(stage, [Transport::Tls, Transport::Tcp]).await;
        other.ring().unwrap();
        call.expect_provisional(180, SOON).await.unwrap();
        one.reject(603, "Decline").unwrap();
        other.expect_cancel(SOON).await.expect("a 6xx ends every branch");
        assert_eq!(ended(&mut call).await, 603);
    })
    .await;
}

/// S-050: the caller gives up: both stop ringing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled() {
    play(LabOptions::default(), async |stage| {
        let Forked { mut call, offers: [mut one, mut other], caller: _caller, phones: _phones } =
            forked(stage, [Transport::Udp, Transport::Tls]).await;
        one.ring().unwrap();
        other.ring().unwrap();
        call.expect_provisional(180, SOON).await.unwrap();
        assert_eq!(call.cancel(SOON).await.unwrap().code(), 200);
        assert_eq!(ended(&mut call).await, 487);
        one.expect_cancel(SOON).await.unwrap();
        other.expect_cancel(SOON).await.unwrap();
    })
    .await;
}
