//! Credentials that expire, are refused, are rotated, or belong elsewhere.

use std::time::Duration;

use reveille_pns::{ApnsSettings, Limits, Settings};
use reveille_push::{Outcome, Provider, PushClass, PushServices, PushTarget, Unsupported};
use reveille_testkit::pns::{self, DeviceKind, LabConfig, Verdict};

use crate::{Field, apns, sandbox, support::node, target, webpush};

#[tokio::test]
async fn an_expired_access_token_is_renewed_once_and_the_push_repeated_p159_p164() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::Fcm);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    field.lab.revoke_credentials(pns::Provider::Fcm);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    let counts = field.lab.counts(pns::Provider::Fcm);
    assert_eq!((counts.expired, counts.tokens_issued), (1, 2));

    field.lab.set_verdict(&device.prid, Verdict::ExpiredCredential);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::CredentialFault);
    assert_eq!(field.lab.pushed(&device.prid), 4, "renewed once, not for ever");
    field.was_sound();
}

#[tokio::test]
async fn an_expired_vapid_token_is_signed_anew_p135() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::WebPush);
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    field.lab.revoke_credentials(pns::Provider::WebPush);
    // Two tokens signed within one second may be the same to the octet where the signature is deterministic.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    assert_eq!(field.lab.counts(pns::Provider::WebPush).expired, 1);
    field.was_sound();
}

#[tokio::test]
async fn a_refused_credential_is_withdrawn_with_an_alarm_and_comes_back_by_itself_p122() {
    let limits = Limits { breaker_threshold: 3, breaker_probe: Duration::from_millis(300), ..Limits::default() };
    let field = Field::with(LabConfig::default(), limits).await;
    let devices: Vec<_> = (0..4).map(|_| field.device(DeviceKind::ApnsVoip)).collect();
    let services = &field.node.services;
    assert!(services.announce(Provider::Apns).is_some());
    field.lab.set_next(pns::Provider::Apns, Verdict::CredentialFault, 3);
    for device in &devices[..3] {
        assert_eq!(field.push(device, PushClass::Call).await, Outcome::CredentialFault);
    }
    assert_eq!(services.announce(Provider::Apns), None);
    assert_eq!(services.check(&target(&devices[3])), Err(Unsupported::Credential));
    assert!(services.announce(Provider::ApnsSandbox).is_some(), "another credential is another matter");
    let alarm = r#"reveille_push_alarms_total{credential="lab",pns="apns",reason="credential_withdrawn"} 1"#;
    assert!(field.node.metric(alarm));

    let back = async {
        while services.announce(Provider::Apns).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.unwrap();
    assert_eq!(field.push(&devices[3], PushClass::Call).await, Outcome::Accepted);
    assert!(field.node.metric(r#"reveille_push_breaker_state{credential="lab",pns="apns"} 0"#));
    field.was_sound();
}

#[tokio::test]
async fn the_sandbox_is_a_world_of_its_own_p014() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::ApnsSandbox);
    assert_eq!(device.provider.as_str(), "apns.dev");
    assert_eq!(field.push(&device, PushClass::Call).await, Outcome::Accepted);
    assert_eq!(field.lab.counts(pns::Provider::ApnsSandbox).accepted, 1);
    assert_eq!(field.lab.counts(pns::Provider::Apns).requests, 0);
    let announced = field.node.services.announce(Provider::ApnsSandbox).unwrap();
    assert_eq!(announced.to_header_value(), r#"*;+sip.pns="apns.dev""#);

    // The same token at the other environment is not known there, and dead for all purposes (P-153).
    let elsewhere = PushTarget::new(Provider::Apns, device.param.as_deref(), &device.prid).unwrap();
    assert_eq!(field.node.push(&elsewhere, PushClass::Call).await, Outcome::Unregistered { since: None });
    field.was_sound();
}

#[tokio::test]
async fn without_a_sandbox_credential_the_sandbox_is_not_there_p014() {
    let field = Field::new().await;
    let production = node(Settings { apns: vec![apns(&field.files)], ..Settings::default() }).await;
    let device = field.device(DeviceKind::ApnsSandbox);
    assert_eq!(production.services.check(&target(&device)), Err(Unsupported::Provider));
    assert_eq!(production.services.announce(Provider::ApnsSandbox), None);
}

#[tokio::test]
async fn a_key_of_the_other_environment_is_a_credential_fault_p144_p153() {
    let field = Field::new().await;
    let wrong = ApnsSettings {
        key_id: field.files.apns_key_id.clone(),
        key_file: field.files.apns_key_p8.clone(),
        ..sandbox(&field.files)
    };
    let limits = Limits { breaker_threshold: 1, ..Limits::default() };
    let node = node(Settings { apns: vec![wrong], limits, ..Settings::default() }).await;
    let device = field.device(DeviceKind::ApnsSandbox);
    assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::CredentialFault);
    assert_eq!(node.services.announce(Provider::ApnsSandbox), None, "P-122");
    let counted =
        r#"reveille_push_requests_total{outcome="credential_fault",pns="apns",reason="bad_environment_key_id"} 1"#;
    assert!(node.metric(counted));
    assert_eq!(field.lab.pushed(&device.prid), 0);
    field.was_sound();
}

/// Subscriptions made before and after a rotation of the VAPID key, in the eyes of a push service that holds each to its key.
#[tokio::test]
async fn old_subscriptions_are_signed_with_the_old_key_and_new_ones_with_the_new_p132() {
    let field = Field::new().await;
    let (known, unknown) = (field.device(DeviceKind::WebPush), field.device(DeviceKind::WebPush));
    assert_eq!(field.push(&known, PushClass::Call).await, Outcome::Accepted);
    let announced = || field.node.services.announce(Provider::WebPush).unwrap().vapid.unwrap();
    let old = announced();

    field.lab.rotate_vapid().unwrap();
    field.lab.write_credentials(field.files.ca_pem.parent().unwrap()).unwrap();
    field.node.services.reload().unwrap();
    assert_eq!(announced(), field.lab.vapid_public_key(), "the new key is announced");
    assert_ne!(announced(), old);

    let new = field.device(DeviceKind::WebPush);
    for device in [&known, &unknown, &new, &unknown] {
        assert_eq!(field.push(device, PushClass::Call).await, Outcome::Accepted);
    }
    let requests = field.lab.counts(pns::Provider::WebPush).requests;
    assert_eq!(requests, 6, "one refusal, for the subscription that had never been pushed to, and never again");
    assert!(field.node.metric(r#"reveille_push_breaker_state{credential="webpush",pns="webpush"} 0"#));
    field.was_sound();
}

#[tokio::test]
async fn after_a_restart_a_former_key_from_its_file_serves_old_subscriptions_p132() {
    let field = Field::new().await;
    let device = field.device(DeviceKind::WebPush);
    let folder = field.files.ca_pem.parent().unwrap();
    let former = folder.join("vapid-former.pem");
    std::fs::copy(&field.files.vapid_key_pem, &former).unwrap();
    field.lab.rotate_vapid().unwrap();
    field.lab.write_credentials(folder).unwrap();

    let mut settings = webpush(&field.files, field.files.vapid_key_pem.clone());
    let forgetful = node(Settings { webpush: Some(settings.clone()), ..Settings::default() }).await;
    assert_eq!(forgetful.push(&target(&device), PushClass::Call).await, Outcome::CredentialFault);
    settings.former_vapid_key_files = vec![former];
    let mindful = node(Settings { webpush: Some(settings), ..Settings::default() }).await;
    assert_eq!(mindful.push(&target(&device), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(mindful.services.announce(Provider::WebPush).unwrap().vapid.unwrap(), field.lab.vapid_public_key());
    field.was_sound();
}

#[tokio::test]
async fn credentials_and_keys_share_no_connection_p144() {
    let field = Field::new().await;
    let one = apns(&field.files);
    let other = ApnsSettings { name: "other".to_owned(), topics: vec!["org.example.other".to_owned()], ..one.clone() };
    let node = node(Settings { apns: vec![one, other, sandbox(&field.files)], ..Settings::default() }).await;
    let before = field.lab.connections();
    let device = field.device(DeviceKind::ApnsVoip);
    assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(node.push(&target(&field.device(DeviceKind::ApnsSandbox)), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(field.lab.connections(), before + 2, "one for each environment");
    let param = format!("{}.org.example.other.voip", field.files.apns_team_id);
    let elsewhere = PushTarget::new(Provider::Apns, Some(&param), &device.prid).unwrap();
    // The lab knows no such topic; it is the connection that counts.
    assert_eq!(node.push(&elsewhere, PushClass::Call).await, Outcome::Refused);
    assert_eq!(field.lab.connections(), before + 3, "one for each credential");
    node.services.reload().unwrap();
    assert_eq!(node.push(&target(&device), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(field.lab.connections(), before + 4, "what has seen the old key does not carry the new one");
    assert_eq!(field.lab.unauthenticated_total(), 0);
}
