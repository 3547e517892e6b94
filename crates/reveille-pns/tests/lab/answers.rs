//! What the push services answer, and what is made of it within a deadline.

use std::time::{Duration, SystemTime};

use reveille_pns::{Limits, Settings};
use reveille_push::{Outcome, PushClass};
use reveille_runtime::clock;
use reveille_testkit::pns::{DeviceKind, LabConfig, Provider, Verdict};

use crate::{Field, support::node, target, webpush};

const PATIENCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn retry_after_is_waited_for_or_the_caller_is_told_at_once_p135_p164() {
    let field = Field::new().await;
    for (kind, provider) in [
        (DeviceKind::ApnsVoip, Provider::Apns),
        (DeviceKind::Fcm, Provider::Fcm),
        (DeviceKind::WebPush, Provider::WebPush),
    ] {
        let device = field.device(kind);
        let second = Duration::from_secs(1);
        field.lab.set_next(provider, Verdict::Throttle { retry_after: Some(second) }, 1);
        let start = clock::now();
        assert_eq!(field.call(&device, PATIENCE).await.unwrap(), Outcome::Accepted, "{kind:?}");
        assert!(clock::now() - start >= second, "{kind:?}");

        let minute = Some(Duration::from_secs(60));
        field.lab.set_next(provider, Verdict::Throttle { retry_after: minute }, 1);
        let start = clock::now();
        let verdict = field.call(&device, PATIENCE).await.unwrap();
        assert_eq!(verdict, Outcome::Throttled { retry_after: minute }, "{kind:?}");
        assert!(clock::now() - start < PATIENCE, "{kind:?}");
        assert_eq!(field.lab.pushed(&device.prid), 3);
    }
    field.was_sound();
}

#[tokio::test]
async fn a_slow_answer_ends_with_the_deadline_and_holds_nobody_else_up() {
    let field = Field::new().await;
    let (slow, quick) = (field.device(DeviceKind::Fcm), field.device(DeviceKind::Fcm));
    field.lab.set_verdict(&slow.prid, Verdict::SlowAnswer(Duration::from_secs(60)));
    let start = clock::now();
    let late = field.call(&slow, Duration::from_secs(1));
    assert_eq!(field.push(&quick, PushClass::Call).await, Outcome::Accepted);
    assert!(clock::now() - start < Duration::from_secs(1));
    assert_eq!(late.await.unwrap(), Outcome::Unavailable);
    assert!(clock::now() - start < Duration::from_secs(3));
    field.was_sound();
}

#[tokio::test]
async fn a_request_has_a_time_of_its_own_and_is_made_again_p140_p165() {
    let limits = Limits { request_timeout: Duration::from_millis(500), ..Limits::default() };
    let field = Field::with(LabConfig::default(), limits).await;
    for (kind, provider, pns) in
        [(DeviceKind::Fcm, Provider::Fcm, "fcm"), (DeviceKind::WebPush, Provider::WebPush, "webpush")]
    {
        let device = field.device(kind);
        field.lab.set_next(provider, Verdict::SlowAnswer(Duration::from_secs(60)), 1);
        assert_eq!(field.push(&device, PushClass::Refresh).await, Outcome::Accepted, "{kind:?}");
        assert_eq!((field.lab.pushed(&device.prid), field.retries(pns, "timeout")), (2, 1));
    }
    field.was_sound();
}

#[tokio::test]
async fn pages_of_html_are_failures_like_others_p164() {
    let field = Field::new().await;
    for (kind, provider) in [(DeviceKind::Fcm, Provider::Fcm), (DeviceKind::WebPush, Provider::WebPush)] {
        let device = field.device(kind);
        field.lab.set_next(provider, Verdict::Html(502), 1);
        assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted, "{kind:?}");
        assert_eq!(field.lab.pushed(&device.prid), 2);
        field.lab.set_next(provider, Verdict::Html(400), 1);
        assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Refused, "{kind:?}");
    }
    // Apple asks for a quarter of an hour: a call has not that long.
    let device = field.device(DeviceKind::ApnsVoip);
    field.lab.set_next(Provider::Apns, Verdict::Html(503), 1);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Unavailable);
    assert_eq!(field.lab.pushed(&device.prid), 1);
    field.was_sound();
}

#[tokio::test]
async fn the_time_a_token_died_reaches_whoever_asked_older_or_newer_p154_p156() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::ApnsVoip);
    let hour = Duration::from_secs(3600);
    for since in [clock_at(hour, false), clock_at(hour, true)] {
        field.lab.set_verdict(&device.prid, Verdict::Gone { since: Some(since) });
        let verdict = field.push(&device, PushClass::Call).await;
        assert_eq!(verdict, Outcome::Unregistered { since: Some(since) });
    }
    for kind in [DeviceKind::Fcm, DeviceKind::WebPush] {
        let device = field.device(kind);
        for verdict in [Verdict::Gone { since: None }, Verdict::NotFound] {
            field.lab.set_verdict(&device.prid, verdict);
            let verdict = field.push(&device, PushClass::Call).await;
            assert_eq!(verdict, Outcome::Unregistered { since: None }, "{kind:?}");
        }
    }
    field.was_sound();
}

/// Now in whole milliseconds, moved back or forth.
fn clock_at(by: Duration, later: bool) -> SystemTime {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::unix_now_millis());
    if later { now + by } else { now - by }
}

#[tokio::test]
async fn each_class_goes_to_the_token_that_is_for_it_p013_p151() {
    let field = Field::new().await;
    let mut device = field.device(DeviceKind::ApnsVoipRemote);
    for (class, service) in [
        (PushClass::Call, reveille_testkit::pns::Service::Voip),
        (PushClass::Request, reveille_testkit::pns::Service::Remote),
        (PushClass::Refresh, reveille_testkit::pns::Service::Remote),
    ] {
        assert_eq!(field.push(&device, class).await, Outcome::Accepted);
        assert_eq!(device.wakes.recv().await.unwrap().service, service, "{class:?}");
    }
    let voip = field.device(DeviceKind::ApnsVoip);
    assert_eq!(field.push(&voip, PushClass::Refresh).await, Outcome::Refused);
    assert_eq!(field.lab.pushed(&voip.prid), 0);
    field.was_sound();
}

#[tokio::test]
async fn a_subscription_with_keys_gets_an_encrypted_payload_and_others_none_p130_p137() {
    let field = Field::new().await;
    let (mut with, mut without) = (field.device(DeviceKind::WebPush), field.device(DeviceKind::WebPush));
    let file = field.files.ca_pem.with_file_name("payload-keys.json");
    // The phone's keys of RFC 8291's example.
    let keys = serde_json::json!({ &with.prid: {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    } });
    std::fs::write(&file, keys.to_string()).unwrap();
    let mut settings = webpush(&field.files, field.files.vapid_key_pem.clone());
    settings.payload_keys_file = Some(file.clone());
    let node = node(Settings { webpush: Some(settings.clone()), ..Settings::default() }).await;
    for device in [&with, &without] {
        assert_eq!(node.push(&target(device), PushClass::Call).await, Outcome::Accepted);
    }
    let body = with.wakes.recv().await.unwrap().body;
    assert_eq!((body.len(), body[20]), (16 + 4 + 1 + 65 + 256 + 16, 65));
    assert!(without.wakes.recv().await.unwrap().body.is_empty());

    std::fs::write(&file, keys.to_string().replace("iw4", "ixA")).unwrap();
    let errors = reveille_pns::check(Settings { webpush: Some(settings), ..Settings::default() });
    assert_eq!(errors[0].key, "push.webpush.payload_keys_file", "a point that is not on the curve");
    assert!(!errors[0].to_string().contains("push.localhost"), "subscriptions are not named");
    field.was_sound();
}
