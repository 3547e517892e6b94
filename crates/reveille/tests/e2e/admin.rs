//! The operator's port during ordinary traffic.

use std::time::Duration;

use reveille::lab::{DOMAIN, LabOptions};
use reveille_registrar::Transport;
use reveille_testkit::pns::{Provider, Verdict};
use reveille_testkit::ua::Method;

use super::stage::{BOB, SOON, Stage, answer, call, hang_up, play, prid, registered};

/// Probes answer, and what happened is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_health() {
    play(LabOptions::default(), async |stage| {
        let mut phone = stage.asleep("bob", Provider::WebPush).await;
        let caller = stage.caller().await;
        let mut call = call(&caller, BOB).await;
        stage.wake(&mut phone).await;
        let mut incoming = phone.expect_invite(SOON).await.unwrap();
        answer(&mut call, &mut incoming).await;
        hang_up(&mut call, &mut incoming).await;

        assert_eq!(stage.get("/health/live").await.0, 200);
        assert_eq!(stage.get("/health/ready").await.0, 200);
        assert_eq!(stage.get("/no-such-thing").await.0, 404);
        let (status, metrics) = stage.get("/metrics").await;
        assert_eq!(status, 200);
        let value = |name: &str, labels: &[&str]| -> f64 {
            metrics
                .lines()
                .filter(|line| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|l| line.contains(l)))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        assert!((value("reveille_registrar_bindings", &[]) - 1.0).abs() < f64::EPSILON, "{metrics}");
        assert!(value("reveille_sip_requests_total", &["method=\"INVITE\"", "tls"]) >= 1.0, "{metrics}");
        assert!(value("reveille_push_requests_total", &["webpush"]) >= 1.0, "{metrics}");
        assert!(value("reveille_wakeup_duration_seconds_count", &[]) >= 1.0, "{metrics}");
        assert!(value("reveille_ready", &[]) >= 1.0, "{metrics}");
        assert!(metrics.contains("reveille_build_info"));
    })
    .await;
}

/// `reveille bindings show`, the real command against a running node: awake, asleep, and unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_are_shown() {
    play(LabOptions::default(), async |stage| {
        let show = async |stage: &Stage, aor: &str, more: &[&str]| {
            let shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_reveille"))
                .args(["bindings", "show", aor, "-c"])
                .arg(stage.lab.config_file())
                .args(more)
                .env("REVEILLE__ADMIN__ADDR", stage.node().admin_addr().to_string())
                .output()
                .await
                .unwrap();
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            (shown.status.success(), text(&shown.stdout), text(&shown.stderr))
        };
        let phone = stage.awake("bob", Provider::Apns).await;
        let (ok, shown, _) = show(stage, BOB, &[]).await;
        assert!(ok && shown.contains("tls connection open") && shown.contains("can be woken by apns"), "{shown}");
        phone.sleep().await;
        let gone = stage.sum_when("reveille_edge_flows{transport=\"tls\"", |open| open == 0.0);
        tokio::time::timeout(SOON, gone).await.expect("the node sees the connection end");
        let (ok, shown, _) = show(stage, &format!("bob@{DOMAIN}"), &["--json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert!(ok && shown["bindings"][0]["flow"] == "gone" && shown["bindings"][0]["push"] == "apns", "{shown}");
        assert!(!shown.to_string().contains("pn-"), "{shown}");
        let (ok, shown, _) = show(stage, "sip:nobody@lab.example", &[]).await;
        assert!(ok && shown.contains("no bindings"), "{shown}");
        let (ok, _, error) = show(stage, "mailto:bob", &[]).await;
        assert!(!ok && error.contains("not an address-of-record"), "{error}");
    })
    .await;
}

/// S-139, S-092: a node that drains sends new business elsewhere, while it still answers, and comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain() {
    play(LabOptions::default(), async |stage| {
        // A call that waits for a phone which will not come keeps the drain going.
        let phone = stage.asleep("bob", Provider::Apns).await;
        stage.lab.pns.set_verdict(prid(&phone), Verdict::Blackhole);
        let caller = registered(stage.plain("caller", Transport::Udp)).await;
        let mut call = call(&caller, BOB).await;
        let mut draining = tokio::spawn(stage.take_node().drain());
        let domain = format!("sip:{DOMAIN}");
        let refused = async {
            // The drain begins when its task does: until then the probe is welcome.
            loop {
                let probe = caller.exchange_once(caller.request(Method::Options, &domain, &domain)).await.unwrap();
                if probe.code() == 503 {
                    return probe;
                }
                assert_eq!(probe.code(), 200);
            }
        };
        let probe = tokio::select! {
            probe = refused => probe,
            _ = &mut draining => panic!("the drain was over before a probe saw it"),
        };
        assert!(probe.header("Retry-After").is_some());
        let last_word = call.final_response(SOON).await.expect("who waits is told before the node goes");
        assert_eq!(last_word.message.code(), 480);
        tokio::time::timeout(Duration::from_secs(20), draining).await.expect("the drain ends").unwrap();
    })
    .await;
}
