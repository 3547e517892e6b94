//! Connections that end, refuse, limit or fall silent.

use std::time::Duration;

use reveille_pns::Limits;
use reveille_push::{Outcome, PushClass};
use reveille_testkit::pns::{DeviceKind, LabConfig, Listener, Provider, Verdict};

use crate::Field;

const PATIENCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_goaway_in_the_middle_of_a_batch_loses_no_call_and_repeats_none_p149_p150() {
    let field = Field::new().await;
    field.lab.go_away_after(3, 1);
    let devices: Vec<_> = (0..20).map(|_| field.device(DeviceKind::ApnsVoip)).collect();
    let verdicts: Vec<_> = devices.iter().map(|device| field.call(device, PATIENCE)).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    for device in &devices {
        assert_eq!(field.lab.accepted(&device.prid), 1, "exactly once");
    }
    assert!(field.retries("apns", "unprocessed") >= 1, "some were above the last stream the peer named");
    assert!(field.lab.connections() >= 2);
    field.was_sound();
}

#[tokio::test]
async fn a_refused_stream_is_replayed_once_and_no_more_p150() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::ApnsVoip);
    field.lab.set_next(Provider::Apns, Verdict::Reset { processed: false }, 1);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    assert_eq!((field.lab.pushed(&device.prid), field.lab.accepted(&device.prid)), (2, 1));
    assert_eq!(field.retries("apns", "unprocessed"), 1);

    field.lab.set_next(Provider::Apns, Verdict::Reset { processed: false }, 2);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Unavailable);
    assert_eq!(field.lab.pushed(&device.prid), 4, "one replay, and then it has failed");
    field.was_sound();
}

#[tokio::test]
async fn a_call_whose_stream_broke_after_it_was_seen_rings_once_p150_p151() {
    let field = Field::new().await;
    let mut device = field.device(DeviceKind::ApnsVoip);
    field.lab.set_next(Provider::Apns, Verdict::Reset { processed: true }, 1);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Unavailable);
    assert_eq!(field.lab.pushed(&device.prid), 1);
    assert!(device.wakes.try_recv().is_ok());

    // FCM collapses what arrives twice, so there the push is repeated.
    let device = field.device(DeviceKind::Fcm);
    field.lab.set_next(Provider::Fcm, Verdict::Reset { processed: true }, 1);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    assert_eq!(field.lab.pushed(&device.prid), 2);
    field.was_sound();
}

#[tokio::test]
async fn one_stream_until_the_first_authenticated_push_and_many_after_it_p149() {
    let config = LabConfig { streams_before_auth: Some(1), ..LabConfig::default() };
    let field = Field::with(config, Limits { max_connections: 1, ..Limits::default() }).await;
    let devices: Vec<_> = (0..50).map(|_| field.device(DeviceKind::ApnsVoip)).collect();
    // Held back, so that a sender who did not wait for its turn would be seen.
    for device in &devices {
        field.lab.set_verdict(&device.prid, Verdict::SlowAnswer(Duration::from_millis(20)));
    }
    let verdicts: Vec<_> = devices.iter().map(|device| field.call(device, PATIENCE)).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    assert_eq!(field.lab.over_limit(), 0);
    assert!(field.node.metric(r#"reveille_push_connections{pns="apns"} 1"#));
    field.was_sound();
}

#[tokio::test]
async fn a_limit_of_one_stream_is_obeyed_for_ever_p149() {
    let config = LabConfig { max_concurrent_streams: 1, ..LabConfig::default() };
    let field = Field::with(config, Limits { max_connections: 2, ..Limits::default() }).await;
    let devices: Vec<_> = (0..30).map(|_| field.device(DeviceKind::Fcm)).collect();
    let verdicts: Vec<_> = devices.iter().map(|device| field.call(device, PATIENCE)).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    assert_eq!(field.retries("fcm", "unprocessed"), 0, "no stream was refused");
    field.was_sound();
}

#[tokio::test]
async fn while_connections_are_refused_a_push_is_tried_again_until_its_deadline_p065_p135() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::WebPush);
    field.lab.set_listener(Listener::Refused).await;
    assert_eq!(field.call(&device, Duration::from_millis(700)).await.unwrap(), Outcome::Unavailable);
    assert!(field.retries("webpush", "connect") >= 1);

    let verdict = field.call(&device, PATIENCE);
    field.lab.set_listener(Listener::Sound).await;
    assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    assert_eq!(field.lab.accepted(&device.prid), 1);
    field.was_sound();
}

#[tokio::test]
async fn no_certificate_but_a_right_one_is_accepted_p113() {
    let field = Field::new().await;
    for listener in [Listener::UnknownRoot, Listener::WrongName, Listener::NoTls, Listener::Closed] {
        field.lab.set_listener(listener).await;
        for kind in [DeviceKind::ApnsVoip, DeviceKind::WebPush] {
            let device = field.device(kind);
            let verdict = field.call(&device, Duration::from_millis(500)).await.unwrap();
            assert_eq!(verdict, Outcome::Unavailable, "{listener:?}");
            assert_eq!(field.lab.pushed(&device.prid), 0);
        }
    }
    field.lab.set_listener(Listener::Sound).await;
    let device = field.device(DeviceKind::ApnsVoip);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    field.was_sound();
}

#[tokio::test]
async fn a_connection_that_drops_under_a_push_is_replaced_p135_p166() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::Fcm);
    field.lab.set_next(Provider::Fcm, Verdict::SlowAnswer(Duration::from_secs(60)), 1);
    let verdict = field.call(&device, PATIENCE);
    while field.lab.pushed(&device.prid) == 0 {
        tokio::task::yield_now().await;
    }
    field.lab.cut_connections();
    assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    assert_eq!(field.lab.pushed(&device.prid), 2);
    field.was_sound();
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_noticed_while_nothing_is_asked_of_it_p149() {
    let keep_alive = Duration::from_millis(100);
    let limits = Limits { keep_alive, keep_alive_timeout: keep_alive, ..Limits::default() };
    let field = Field::with(LabConfig::default(), limits).await;
    let device = field.device(DeviceKind::ApnsVoip);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    assert!(field.node.metric(r#"reveille_push_connections{pns="apns"} 1"#));
    field.lab.mute_connections();
    let noticed = async {
        while !field.node.metric(r#"reveille_push_connections{pns="apns"} 0"#) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    field.was_sound();
}
