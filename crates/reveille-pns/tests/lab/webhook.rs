//! The push service that an operator adds: batches, each with its own results.

use std::time::Duration;

use reveille_pns::{Limits, Settings, WebhookSettings};
use reveille_push::{Outcome, Provider, PushClass, PushServices, PushTarget, Ticket, Unsupported, WebhookName};
use reveille_testkit::pns::{self, DeviceKind, LabConfig, LabFiles, Verdict};

use crate::{
    Field,
    support::{Node, node},
    target,
};

fn webhook(files: &LabFiles) -> WebhookSettings {
    WebhookSettings {
        name: "lab".to_owned(),
        provider: files.webhook_provider.clone(),
        url: files.endpoints.webhook.parse().unwrap(),
        params: vec![files.webhook_param.clone()],
        key_file: files.webhook_key.clone(),
        ca_file: Some(files.ca_pem.clone()),
        batch: 50,
        batch_time: Duration::from_millis(5),
        headers: vec![("x-region".to_owned(), "north".to_owned())],
    }
}

async fn field(limits: Limits) -> (Field, Node) {
    let field = Field::with(LabConfig::default(), Limits::default()).await;
    let node = node(Settings { webhooks: vec![webhook(&field.files)], limits, ..Settings::default() }).await;
    (field, node)
}

fn batches(field: &Field) -> Vec<usize> {
    let requests = field.lab.requests();
    let hook = requests.iter().filter(|request| request.provider == pns::Provider::Webhook);
    hook.map(|request| serde_json::from_slice::<Vec<serde_json::Value>>(&request.body).unwrap().len()).collect()
}

#[tokio::test]
async fn a_burst_goes_in_a_few_signed_batches_and_every_phone_is_woken_p021_p122() {
    let (field, node) = field(Limits::default()).await;
    let mut devices: Vec<_> = (0..200).map(|_| field.device(DeviceKind::Webhook)).collect();
    let patience = Duration::from_secs(8);
    let verdicts: Vec<_> =
        devices.iter().map(|device| node.submit(&target(device), PushClass::Call, patience, Ticket::new())).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    for device in &mut devices {
        assert!(device.wakes.recv().await.unwrap().urgent);
        assert_eq!(field.lab.accepted(&device.prid), 1);
    }
    let batches = batches(&field);
    assert_eq!(batches.iter().sum::<usize>(), 200);
    assert!(batches.len() < 100, "{batches:?}");
    assert!(batches.iter().all(|batch| *batch <= 50), "{batches:?}");
    let request = &field.lab.requests()[0];
    assert_eq!(request.headers["x-region"], "north");
    assert_eq!(request.headers["reveille-key"].len(), 8);
    assert!(node.metric(r#"reveille_push_requests_total{outcome="accepted",pns="webhook",reason="ok"} 200"#));
    field.was_sound();
}

#[tokio::test]
async fn every_result_in_a_batch_is_its_own() {
    let (field, node) = field(Limits::default()).await;
    let since = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let cases = [
        (Verdict::Accept, Outcome::Accepted),
        (Verdict::Gone { since: Some(since) }, Outcome::Unregistered { since: Some(since) }),
        (Verdict::NotFound, Outcome::Unregistered { since: None }),
        (Verdict::Refuse, Outcome::Refused),
        (
            Verdict::Throttle { retry_after: Some(Duration::from_secs(60)) },
            Outcome::Throttled { retry_after: Some(Duration::from_secs(60)) },
        ),
    ];
    let devices = cases.clone().map(|(verdict, _)| {
        let device = field.device(DeviceKind::Webhook);
        field.lab.set_verdict(&device.prid, verdict);
        device
    });
    // None of them a call: they wait for each other and go together.
    let patience = Duration::from_secs(8);
    let verdicts =
        devices.each_ref().map(|device| node.submit(&target(device), PushClass::Request, patience, Ticket::new()));
    for (verdict, (order, outcome)) in verdicts.into_iter().zip(cases) {
        assert_eq!(verdict.await.unwrap(), outcome, "{order:?}");
    }
    assert!(batches(&field).iter().any(|batch| *batch > 1), "{:?}", batches(&field));
    field.was_sound();
}

#[tokio::test]
async fn failures_of_the_service_are_repeated_within_the_deadline_p065_p150() {
    let (field, node) = field(Limits::default()).await;
    let device = field.device(DeviceKind::Webhook);
    for verdict in [
        Verdict::Unavailable,
        Verdict::Html(502),
        Verdict::Reset { processed: false },
        Verdict::Throttle { retry_after: Some(Duration::ZERO) },
    ] {
        field.lab.set_next(pns::Provider::Webhook, verdict.clone(), 1);
        assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::Accepted, "{verdict:?}");
    }
    assert_eq!(field.lab.pushed(&device.prid), 8);
    field.was_sound();
}

#[tokio::test]
async fn a_key_that_is_refused_is_withdrawn_and_a_new_one_comes_with_reload_p122_p125() {
    let (field, _) = field(Limits::default()).await;
    let mut settings = webhook(&field.files);
    let other = field.files.ca_pem.with_file_name("other.key");
    std::fs::write(&other, "not the key that the service knows, though long enough\n").unwrap();
    settings.key_file = other.clone();
    let limits = Limits { breaker_threshold: 2, ..Limits::default() };
    let node = node(Settings { webhooks: vec![settings], limits, ..Settings::default() }).await;
    let provider = Provider::Webhook(WebhookName::new(&field.files.webhook_provider).unwrap());
    assert_eq!(node.services.announce(provider).unwrap().to_header_value(), r#"*;+sip.pns="lab-hook""#);
    assert_eq!(node.services.announced().len(), 1);
    for _ in 0..2 {
        let device = field.device(DeviceKind::Webhook);
        assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::CredentialFault);
    }
    assert_eq!(node.services.announce(provider), None);

    std::fs::copy(&field.files.webhook_key, &other).unwrap();
    node.services.reload().unwrap();
    let device = field.device(DeviceKind::Webhook);
    assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::Accepted);
    assert!(node.services.announce(provider).is_some());
    assert_eq!(field.lab.unauthenticated(pns::Provider::Webhook), 2, "the lab sees what is wrongly signed");
}

#[tokio::test]
async fn only_listed_params_are_served_p118() {
    let (field, node) = field(Limits::default()).await;
    let device = field.device(DeviceKind::Webhook);
    let provider = target(&device).provider;
    for (param, expected) in
        [(Some("lab-app"), Ok(())), (Some("other"), Err(Unsupported::App)), (None, Err(Unsupported::App))]
    {
        let target = PushTarget::new(provider, param, "token").unwrap();
        assert_eq!(node.services.check(&target), expected, "{param:?}");
    }
    let unknown = Provider::Webhook(WebhookName::new("nobody-configured-this").unwrap());
    let target = PushTarget::new(unknown, Some("lab-app"), "token").unwrap();
    assert_eq!(node.services.check(&target), Err(Unsupported::Provider));
}

#[tokio::test]
async fn bad_settings_are_named() {
    let field = Field::new().await;
    let good = webhook(&field.files);
    let short = field.files.ca_pem.with_file_name("short.key");
    std::fs::write(&short, "short\n").unwrap();
    for (bad, key) in [
        (WebhookSettings { provider: "fcm".to_owned(), ..good.clone() }, "provider"),
        (WebhookSettings { provider: "a b".to_owned(), ..good.clone() }, "provider"),
        (WebhookSettings { url: "http://localhost/hook".parse().unwrap(), ..good.clone() }, "url"),
        (WebhookSettings { url: "https://user:pass@localhost/hook".parse().unwrap(), ..good.clone() }, "url"),
        (WebhookSettings { key_file: short, ..good.clone() }, "key_file"),
        (WebhookSettings { headers: vec![("reveille-key".to_owned(), "x".to_owned())], ..good.clone() }, "headers"),
        (WebhookSettings { headers: vec![("x".to_owned(), "a\nb".to_owned())], ..good.clone() }, "headers"),
    ] {
        let errors = reveille_pns::check(Settings { webhooks: vec![bad], ..Settings::default() });
        assert_eq!(errors[0].key, format!("push.webhook.lab.{key}"), "{}", errors[0]);
    }
    let twice = reveille_pns::check(Settings { webhooks: vec![good.clone(), good], ..Settings::default() });
    assert_eq!(twice[0].key, "push.webhook.lab.provider");
}
