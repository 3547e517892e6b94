//! A push URL that a phone chose must lead nowhere but to the push service it names, and what comes back must not cost much
//! (P-138 to P-141). The tables of hosts and addresses are beside the code; here connections are made.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reveille_pns::{BoxFuture, Limits, Resolver, Settings};
use reveille_push::{Outcome, Provider, PushClass, PushServices, PushTarget, Ticket, Unsupported};
use support::{Files, HOST, Server, answer, node, node_with, webpush, webpush_target};

/// Answers each lookup with the next address, the last for ever, and counts.
struct Rebinding {
    answers: Mutex<VecDeque<IpAddr>>,
    lookups: AtomicUsize,
}

impl Rebinding {
    fn new(answers: &[&str]) -> Arc<Self> {
        let answers = answers.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers), lookups: AtomicUsize::new(0) })
    }
}

impl Resolver for Rebinding {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<IpAddr>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
        Box::pin(std::future::ready(next.into_iter().collect()))
    }
}

#[tokio::test]
async fn the_address_that_was_vetted_is_the_one_connected_to_p139() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(201, "")).await;
    // The second lookup would lead to an address that is let past the check but where nobody listens.
    let resolver = Rebinding::new(&["127.0.0.1", "127.0.0.2"]);
    let node =
        node_with(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }, resolver.clone()).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/1"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(resolver.lookups.load(Ordering::SeqCst), 1, "vetting looks up, connecting does not");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_name_that_turns_inward_is_refused_though_its_connection_stands_p139() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(201, "")).await;
    let resolver = Rebinding::new(&["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "127.0.0.1"]);
    let node = node_with(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }, resolver).await;
    let target = webpush_target(&server, "/p/1");
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Accepted);
    for _ in 0..3 {
        assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Refused);
    }
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Accepted);
    assert_eq!(server.seen().len(), 2);
    assert_eq!(node.value(r#"reveille_push_ssrf_rejections_total{class="private"}"#), 2);
    assert_eq!(node.value(r#"reveille_push_ssrf_rejections_total{class="metadata"}"#), 1);
}

#[tokio::test]
async fn a_phone_cannot_tell_why_its_url_is_refused_p120_p140() {
    let files = Files::new();
    let server = Server::start(&files, |_| answer(201, "")).await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    for url in [
        "https://elsewhere.example.net/p".to_owned(),
        format!("https://{HOST}/p"),
        format!("https://{HOST}:22/p"),
        format!("https://internal.{HOST}:{}/p", server.port),
    ] {
        let target = PushTarget::new(Provider::WebPush, None, &url).unwrap();
        assert_eq!(node.services.check(&target), Err(Unsupported::App), "{url}");
    }
}

#[tokio::test]
async fn nothing_an_answer_says_leads_elsewhere_p140() {
    let files = Files::new();
    let server = Server::start(&files, |seen| {
        let mut response = answer(if seen.path == "/p/moved" { 308 } else { 201 }, "");
        for (name, value) in [
            ("location", "https://169.254.169.254/latest"),
            ("alt-svc", "h2=\"127.0.0.2:443\"; ma=86400"),
            ("set-cookie", "id=1"),
        ] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    assert_eq!(node.push(&webpush_target(&server, "/p/1"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(node.push(&webpush_target(&server, "/p/moved"), PushClass::Call).await, Outcome::Refused);
    assert_eq!(node.push(&webpush_target(&server, "/p/2"), PushClass::Call).await, Outcome::Accepted);
    let seen = server.seen();
    assert_eq!((seen.len(), server.connections()), (3, 1));
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("cookie")));
}

#[tokio::test]
async fn large_answers_cost_little_p140() {
    let files = Files::new();
    let server = Server::start(&files, |seen| match seen.path.as_str() {
        "/p/body" => answer(201, &"x".repeat(1024 * 1024)),
        "/p/gone" => answer(410, &"x".repeat(1024 * 1024)),
        _ => {
            let mut response = answer(201, "");
            for n in 0..40 {
                let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
                response.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
            }
            response
        }
    })
    .await;
    let node = node(Settings { webpush: Some(webpush(&files, &server)), ..Settings::default() }).await;
    let push = |path: &str| {
        let target = webpush_target(&server, path);
        node.submit(&target, PushClass::Call, Duration::from_secs(2), Ticket::new())
    };
    assert_eq!(push("/p/body").await.unwrap(), Outcome::Accepted, "the status decides");
    assert_eq!(push("/p/gone").await.unwrap(), Outcome::Unregistered { since: None });
    assert_eq!(push("/p/headers").await.unwrap(), Outcome::Unavailable, "more than 16 KiB of headers are not read");
}

#[tokio::test]
async fn each_new_connection_looks_the_name_up_afresh_p149() {
    let files = Files::new();
    let server = Server::with_first(
        &files,
        |_| answer(200, ""),
        // The first connection ends at once, so that there is a second.
        |number| (number == 0).then_some((|_| Box::pin(std::future::ready(()))) as fn(_) -> BoxFuture<'static, ()>),
    )
    .await;
    let resolver = Rebinding::new(&["127.0.0.1"]);
    let settings = Settings { apns: vec![support::apns(&files, &server)], ..Settings::default() };
    let node = node_with(settings, resolver.clone()).await;
    let _ = node.push(&support::apns_target("aabbccdd"), PushClass::Call).await;
    assert_eq!(node.push(&support::apns_target("aabbccdd"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(server.connections(), resolver.lookups.load(Ordering::SeqCst));
    assert!(server.connections() >= 2);
}

/// Not waited for: the defaults are looked at, and that they are obeyed is shown with shorter ones.
#[tokio::test]
async fn a_host_that_does_not_answer_costs_three_seconds_to_connect_and_ten_in_all_p140() {
    let defaults = Limits::default();
    assert_eq!((defaults.connect_timeout.as_secs(), defaults.request_timeout.as_secs()), (3, 10));

    let files = Files::new();
    // Takes connections and says nothing, not even a TLS hello.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = webpush(&files, &Server::start(&files, |_| answer(201, "")).await);
    let port = silent.local_addr().unwrap().port();
    settings.allow_hosts = vec![format!("{HOST}:{port}")];
    let short = Duration::from_millis(200);
    let limits = Limits { connect_timeout: short, request_timeout: short * 3, ..defaults };
    let node = node(Settings { webpush: Some(settings), limits, ..Settings::default() }).await;
    let target = PushTarget::new(Provider::WebPush, None, &format!("https://{HOST}:{port}/p")).unwrap();
    let start = reveille_runtime::clock::now();
    let verdict = node.submit(&target, PushClass::Call, short * 10, Ticket::new()).await.unwrap();
    assert_eq!(verdict, Outcome::Unavailable);
    assert!(reveille_runtime::clock::now() - start < short * 50);
    assert!(node.value(r#"reveille_push_retries_total{pns="webpush",reason="connect"}"#) >= 1, "given up by itself");
}
