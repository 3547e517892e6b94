//! The address checks as a whole, and the shape of a request.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use reveille_push::PushClass;

use super::*;
use crate::metrics::Metrics;

/// Answers each lookup with the next list.
struct Scripted(Mutex<VecDeque<Vec<IpAddr>>>);

impl Resolver for Scripted {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
        Box::pin(std::future::ready(self.0.lock().pop_front().unwrap_or_default()))
    }
}

fn webpush(lookups: &[&[&str]], allow_addresses: &[&str]) -> (WebPush, Arc<Scripted>, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["push.example.net".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(files.path().join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(files.path().join("vapid.pem"), key.serialize_pem()).unwrap();
    let lookups = lookups.iter().map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
    let resolver = Arc::new(Scripted(Mutex::new(lookups)));
    let settings = WebPushSettings {
        vapid_key_file: files.path().join("vapid.pem"),
        former_vapid_key_files: Vec::new(),
        payload_keys_file: None,
        urgent_requests: false,
        subject: "mailto:ops@example.net".to_owned(),
        allow_hosts: vec![
            "push.example.net".to_owned(),
            "push.example.net:8443".to_owned(),
            "*.example.org".to_owned(),
        ],
        allow_addresses: allow_addresses.iter().map(|net| net.parse().unwrap()).collect(),
        ca_file: Some(files.path().join("ca.pem")),
    };
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let webpush = WebPush::new(settings, resolver.clone(), &Limits::default(), &metrics);
    (webpush.unwrap(), resolver, files)
}

/// A target as a REGISTER could bring it, unchecked.
fn target(url: &str) -> PushTarget {
    PushTarget { provider: Pns::WebPush, param: "".into(), prid: url.into() }
}

fn push(target: &PushTarget, class: PushClass, attempt: u32) -> Push<'_> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Push { target, class, ttl: Duration::from_secs(600), attempt, repeat: attempt, refusals: 0, id: 1, now }
}

#[test]
fn urls_that_may_not_be_pushed_to_p138_p139() {
    let (webpush, _, _files) = webpush(&[], &[]);
    for (url, allowed) in [
        ("https://push.example.net/p/k7?v=2", true),
        ("https://PUSH.example.net/p", true),
        ("https://push.example.net:443/p", true),
        ("https://push.example.net:8443/p", true),
        ("https://a.example.org/p", true),
        ("http://push.example.net/p", false),
        ("https://push.example.net:444/p", false),
        ("https://other.example.com/p", false),
        ("https://user@push.example.net/p", false),
        ("https://push.example.net@evil.com/p", false),
        ("https://push.example.net/p#f", false),
        ("https://push.example.net./p", false),
        ("https://localhost/p", false),
        ("https://127.0.0.1/p", false),
        ("https://127.1/p", false),
        ("https://2130706433/p", false),
        ("https://0177.0.0.1/p", false),
        ("https://0x7f.0.0.1/p", false),
        ("https://169.254.169.254/latest", false),
        ("https://[::ffff:10.0.0.1]/p", false),
        ("https://[::1]/p", false),
        ("https://püsh.example.org/p", false),
        ("https://push.example.net\\@evil.com/p", false),
        ("https://push.example.net /p", false),
        ("https:///p", false),
        ("", false),
    ] {
        assert_eq!(webpush.allows(&target(url)), allowed, "{url}");
    }
    let with_param = PushTarget { param: "x".into(), ..target("https://push.example.net/p") };
    assert!(!webpush.allows(&with_param), "P-019");
}

#[tokio::test]
async fn one_forbidden_answer_condemns_the_name_p139() {
    for (answers, reason) in [
        (&["142.250.74.10"][..], None),
        (&["142.250.74.10", "10.0.0.1"], Some("forbidden_address")),
        (&["169.254.169.254"], Some("forbidden_address")),
        (&["::ffff:10.0.0.1"], Some("forbidden_address")),
        (&["2a00:1450:4001:80b::200a", "fe80::1"], Some("forbidden_address")),
        (&[], Some("no_address")),
    ] {
        let (webpush, _, _files) = webpush(&[answers], &[]);
        let target = target("https://push.example.net/p");
        let found = webpush.route(&push(&target, PushClass::Call, 0)).await.err().map(|refused| refused.reason);
        assert_eq!(found, reason, "{answers:?}");
    }
}

#[tokio::test]
async fn a_rebinding_name_is_caught_at_the_send_p139() {
    let (webpush, resolver, _files) = webpush(&[&["142.250.74.10"], &["127.0.0.1"], &["142.250.74.10"]], &[]);
    let target = target("https://push.example.net/p");
    let call = push(&target, PushClass::Call, 0);
    assert!(webpush.route(&call).await.is_ok());
    let refused = webpush.route(&call).await.err().unwrap();
    assert_eq!((refused.outcome, refused.reason), (Outcome::Refused, "forbidden_address"));
    // The pool connects to the vetted address by number: choosing it looks up once, and connecting not at all.
    assert!(webpush.route(&call).await.is_ok());
    assert!(resolver.0.lock().is_empty());
    assert_eq!(webpush.rejections.with_label_values(&["loopback"]).get(), 1);
}

#[tokio::test]
async fn a_lab_network_passes_the_address_check_and_nothing_else() {
    let (webpush, _, _files) = webpush(&[&["127.0.0.1"], &["10.0.0.1"]], &["127.0.0.0/8"]);
    let listed = target("https://push.example.net/p");
    assert!(webpush.route(&push(&listed, PushClass::Call, 0)).await.is_ok());
    assert!(webpush.route(&push(&listed, PushClass::Call, 0)).await.is_err());
    let unlisted = target("https://other.example.com/p");
    let refused = webpush.route(&push(&unlisted, PushClass::Call, 0)).await.err().unwrap();
    assert_eq!(refused.reason, "forbidden_host");
    assert!(!webpush.allows(&target("https://127.0.0.1/p")));
}

#[tokio::test]
async fn requests_are_empty_and_say_how_urgent_they_are_p128_p129_p130_p133() {
    let (webpush, _, _files) = webpush(&[], &[]);
    let target = target("https://Push.example.net:8443?k=secret");
    let mut topics = Vec::new();
    for (class, attempt, ttl, urgency) in [
        (PushClass::Call, 0, "30", "high"),
        (PushClass::Dialog, 0, "600", "high"),
        (PushClass::Request, 0, "600", "normal"),
        (PushClass::Refresh, 0, "600", "low"),
        (PushClass::Refresh, 1, "600", "normal"),
    ] {
        let push = push(&target, class, attempt);
        let auth = webpush.authorize(&push).await.unwrap();
        let request = webpush.request(&push, &auth).unwrap();
        assert_eq!(request.uri(), "https://push.example.net:8443/?k=secret");
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((header("ttl").as_str(), header("urgency").as_str()), (ttl, urgency));
        assert_eq!(header("content-length"), "0");
        assert!(!request.headers().contains_key("content-encoding"));
        assert!(header("authorization").starts_with("vapid t="));
        assert!(request.headers()["authorization"].is_sensitive());
        let topic = header("topic");
        assert!(topic.len() <= 32);
        topics.push(topic);
    }
    let settings = WebPushSettings { urgent_requests: true, ..webpush.settings.clone() };
    let urgent = WebPush { settings, ..webpush };
    let push = push(&target, PushClass::Request, 0);
    let auth = urgent.authorize(&push).await.unwrap();
    assert_eq!(urgent.request(&push, &auth).unwrap().headers()["urgency"], "high", "by configuration");
    assert_ne!(topics[0], topics[3]);
    assert_eq!(topics[3], topics[4]);
}

#[tokio::test]
async fn a_pool_belongs_to_one_host_port_address_and_key_p141() {
    let same = &["142.250.74.10"][..];
    let (webpush, _, _files) = webpush(&[same, same, same, same, &["142.250.74.11"], same], &[]);
    let first = target("https://push.example.net/p/1");
    let pool = webpush.route(&push(&first, PushClass::Call, 0)).await.ok().unwrap();
    let other_path = target("https://push.example.net/p/2");
    assert!(Arc::ptr_eq(&pool, &webpush.route(&push(&other_path, PushClass::Call, 0)).await.ok().unwrap()));
    for (url, what) in [
        ("https://push.example.net:8443/p/1", "port"),
        ("https://a.example.org/p/1", "host, though its address is the same"),
        ("https://push.example.net/p/1", "address"),
    ] {
        let target = target(url);
        let other = webpush.route(&push(&target, PushClass::Call, 0)).await.ok().unwrap();
        assert!(!Arc::ptr_eq(&pool, &other), "{what}");
    }
    let newer = Vapid::new(p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap(), "mailto:ops@example.net");
    let ring = webpush.ring.load().succeed(Ring::new(newer, []));
    webpush.ring.store(Arc::new(ring));
    let other = webpush.route(&push(&first, PushClass::Call, 0)).await.ok().unwrap();
    assert!(!Arc::ptr_eq(&pool, &other), "key");
}
