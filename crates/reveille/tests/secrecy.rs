//! P-104 to P-109, P-125: push tokens, passwords and keys stay where they belong. Everything that can happen to a token
//! happens here once, badly and well; then every byte that other parties received, every log line at the most verbose level
//! and the metrics are searched for it.
//!
//! A binary of its own, because there is one log per process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where something is not as it should be")]

#[path = "e2e/stage.rs"]
#[allow(dead_code, unused_macros, unused_imports, reason = "the moves of the stage that this play does not need")]
mod stage;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use reveille::lab::{LabOptions, PASSWORD};
use reveille_registrar::Transport;
use reveille_runtime::telemetry::{LogFormat, subscriber};
use reveille_testkit::pns::{Provider, Verdict};
use reveille_testkit::ua::{Phone, PushParams, SipMessage, escape_pvalue};

use stage::{BOB, SOON, Stage, answer, call, device, ended, hang_up, play, prid, registered, settle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_gets_out() {
    let log = Log::default();
    let writer = log.clone();
    let everything = subscriber(LogFormat::Text, "trace", false, move || writer.clone()).unwrap();
    tracing::subscriber::set_global_default(everything).unwrap();
    let options = stage::push("flow_patience = \"500ms\"\ncall_wait = \"3s\"");
    let options = LabOptions { users: vec!["fcm".into(), "apns".into(), "webpush".into()], ..options };
    play(options, async |stage| {
        let mut secrets = Secrets::default();
        let mut heard = Vec::new();
        for provider in [Provider::Apns, Provider::Fcm, Provider::WebPush] {
            let mut act = Act::begin(stage, provider, &mut secrets).await;
            act.accepted_calls(stage).await;
            act.failed_calls(stage).await;
            act.dead_flow(stage).await;
            act.bad_registrations(stage, &mut secrets).await;
            act.end(stage, &mut secrets, &mut heard).await;
        }
        let (_, metrics) = stage.get("/metrics").await;
        heard.push(("metrics".to_owned(), metrics.into_bytes()));
        for user in ["apns", "fcm", "webpush"] {
            let (status, shown) = stage.get(&format!("/api/v1/bindings?aor={user}@{}", reveille::lab::DOMAIN)).await;
            assert_eq!(status, 200, "{shown}");
            heard.push(("bindings".to_owned(), shown.into_bytes()));
        }
        heard.push(("readiness".to_owned(), stage.get("/health/ready").await.1.into_bytes()));
        stage.restart().await;
        secrets.keys_of(stage);
        // The log last: what is written while the node stops counts too.
        stage.take_node().drain().await;
        let lines = log.text();
        for part in ["reveille_edge", "reveille_proxy", "reveille_pns", "reveille::node", "DEBUG"] {
            assert!(lines.contains(part), "the log was captured, {part} too");
        }
        assert!(!lines.contains("eyJ"), "a JSON web token in the log");
        assert!(!lines.contains("response=\""), "a digest response in the log");
        heard.push(("log".to_owned(), lines.into_bytes()));
        secrets.search(&heard);

        // P-106: the push itself says nothing about the call, neither to the service nor to the phone.
        for request in stage.lab.pns.requests() {
            let said = format!("{:?} {}", request.headers, String::from_utf8_lossy(&request.body));
            for word in ["caller", "carol", "bob", "lab.example", "sip:"] {
                assert!(!said.contains(word), "{:?}: a push that says {word:?}", request.provider);
            }
        }
    })
    .await;
}

/// What happens around one phone.
struct Act {
    user: String,
    uri: String,
    provider: Provider,
    phone: Phone,
    /// Another device of the same user, always connected.
    desk: Phone,
    caller: Phone,
    /// A caller in the clear.
    carol: Phone,
}

impl Act {
    async fn begin(stage: &Stage, provider: Provider, secrets: &mut Secrets) -> Self {
        let user = provider.as_str().to_owned();
        let phone = registered(device(stage.phone(&user, provider), 1)).await;
        secrets.token(prid(&phone));
        let desk = registered(device(stage.plain(&user, Transport::Tls), 2)).await;
        let caller = stage.caller().await;
        let mut carol = stage.plain("carol", Transport::Udp).build();
        carol.connect().await.unwrap();
        Self { uri: format!("sip:{user}@lab.example"), user, provider, phone, desk, caller, carol }
    }

    /// Calls and a message that arrive; the phone puts its token where it does not belong.
    async fn accepted_calls(&mut self, stage: &Stage) {
        let Self { phone, desk, caller, carol, uri, .. } = self;
        phone.sleep().await;
        for caller in [caller, carol] {
            let mut call = call(caller, uri).await;
            let at_desk = desk.expect_invite(SOON).await.unwrap();
            at_desk.reject(486, "Busy Here").unwrap();
            stage.wake(phone).await;
            let mut incoming = phone.expect_invite(SOON).await.unwrap();
            // P-105: Contact of a provisional and of a 2xx.
            for (status, reason) in [(183, "Session Progress"), (200, "OK")] {
                let response = SipMessage::response(incoming.invite(), status, reason, Some("indiscreet"))
                    .with("Contact", &phone.register_contact());
                phone.send_raw(response.to_bytes()).unwrap();
            }
            call.expect_provisional(183, SOON).await.unwrap();
            assert_eq!(ended(&mut call).await, 200);
            // The dialog's tag is not the one the phone's own machinery knows, which therefore answers 481; that will do.
            let _ = call.bye(SOON).await.unwrap();
            let _ = incoming.expect_ack(Duration::ZERO).await;
            // P-105: Contact of a redirection.
            let mut redirected = stage::call(caller, uri).await;
            desk.expect_invite(SOON).await.unwrap().reject(486, "Busy Here").unwrap();
            let incoming = phone.expect_invite(SOON).await.unwrap();
            let elsewhere = SipMessage::response(incoming.invite(), 302, "Moved", Some("indiscreet"))
                .with("Contact", &phone.register_contact());
            phone.send_raw(elsewhere.to_bytes()).unwrap();
            ended(&mut redirected).await;
            phone.sleep().await;
        }
        // P-105: the Contact of a request of the phone's.
        stage.refresh(phone).await;
        let mut invite = phone.invite_request(BOB);
        invite.set("Contact", &phone.register_contact());
        let mut bob = registered(stage.plain("bob", Transport::Tls)).await;
        let mut outgoing = phone.invite_with(invite).unwrap();
        let mut at_bob = bob.expect_invite(SOON).await.unwrap();
        answer(&mut outgoing, &mut at_bob).await;
        hang_up(&mut outgoing, &mut at_bob).await;
        assert!(!contains(&bob.transcript(), b"pn-prid"), "P-105");
        // The searching itself works: the phone is told its own token (P-049).
        assert!(contains(&phone.transcript(), escape_pvalue(prid(phone)).as_bytes()));
        assert_eq!(bob.unregister().await.unwrap().code(), 200);
    }

    /// Pushes that fail in every way there is.
    async fn failed_calls(&mut self, stage: &Stage) {
        let Self { phone, desk, caller, carol, uri, .. } = self;
        phone.sleep().await;
        assert_eq!(desk.unregister().await.unwrap().code(), 200);
        let long_ago = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        let verdicts = [
            Verdict::Refuse,
            Verdict::Throttle { retry_after: Some(Duration::from_secs(60)) },
            Verdict::Unavailable,
            Verdict::Gone { since: long_ago },
        ];
        for verdict in verdicts {
            stage.lab.pns.set_verdict(prid(phone), verdict);
            for caller in [&*caller, &*carol] {
                let mut refused = caller.invite(uri).unwrap();
                assert_eq!(ended(&mut refused).await, 480);
            }
        }
        stage.lab.pns.set_verdict(prid(phone), Verdict::Accept);
        assert_eq!(desk.register(3600).await.unwrap().code(), 200);
    }

    /// A call that finds a connection dead, and one that is cancelled.
    async fn dead_flow(&mut self, stage: &Stage) {
        let Self { phone, desk, caller, uri, .. } = self;
        phone.connect_to(stage.tls()).await.unwrap();
        // A token that was found dead may have to be replaced by now; both answers are fine here.
        let status = phone.register(3600).await.unwrap().code();
        assert!(matches!(status, 200 | 555), "{status}");
        let dead = phone.drop_silently().await;
        let mut cancelled = call(caller, uri).await;
        desk.expect_invite(SOON).await.unwrap().ring().unwrap();
        cancelled.expect_provisional(180, SOON).await.unwrap();
        cancelled.cancel(SOON).await.unwrap();
        assert_eq!(ended(&mut cancelled).await, 487);
        drop(dead);
    }

    /// Registrations that are refused, or that are no SIP at all.
    async fn bad_registrations(&mut self, stage: &Stage, secrets: &mut Secrets) {
        for (transport, password) in [
            (Transport::Tls, "not-the-password-either"),
            (Transport::Tls, PASSWORD),
            (Transport::Tcp, PASSWORD),
            (Transport::Udp, PASSWORD),
        ] {
            secrets.word("password", password);
            let spare = stage.lab.pns.register_device(self.provider);
            let (param, token) = (spare.param.clone(), spare.prid.clone());
            secrets.token(&token);
            let mut phone = stage.plain(&self.user, transport).password(password).build();
            phone.connect().await.unwrap();
            let other = |provider: &str| PushParams {
                provider: Some(provider.to_owned()),
                param: param.clone(),
                prid: Some(token.clone()),
            };
            for push in [other("acme"), other("apns"), other("fcm"), other("webpush"), other(self.provider.as_str())] {
                phone.set_push(Some(push));
                phone.register(100).await.unwrap();
            }
            let escaped = escape_pvalue(&token);
            let sip = format!("sip:{}@192.0.2.7;transport=tls", self.user);
            let contacts = [
                format!("<{sip};pn-provider=fcm;pn-prid={escaped};pn-prid={escaped}>"),
                format!("<{sip};pn-provider=fcm;pn-prid={escaped}%ZZ>"),
                format!("<{sip};PN-PROVIDER=fcm;PN-PRID={escaped}"),
                format!("<tel:+1;pn-prid={escaped}>"),
                format!("<{sip};pn-type=google;pn-tok={escaped};app-id=1>"),
                // P-010: these two stay, and the desk is told of them.
                format!("<sip:{}@192.0.2.8;transport=tls;pn-tok={escaped}>;pn-prid=\"{token}\"", self.user),
                format!("sip:{}@192.0.2.9;pn-provider=fcm;pn-prid={escaped}", self.user),
            ];
            for contact in contacts {
                let mut request = phone.register_request(3600);
                request.set("Contact", &contact);
                phone.exchange(request).await.unwrap();
            }
            // No CSeq, no Via, and nothing that anyone could answer.
            let mut broken = phone.register_request(3600);
            broken.set("Contact", &format!("<{sip};pn-provider=fcm;pn-prid={escaped}>"));
            broken.remove("CSeq");
            phone.send_raw(broken.to_bytes()).unwrap();
            broken.remove("Via");
            phone.send_raw(broken.to_bytes()).unwrap();
            phone.send_raw(format!("REGISTER {escaped}\r\nContact {escaped}\r\n\r\n").into_bytes()).unwrap();
        }
    }

    async fn end(self, stage: &Stage, secrets: &mut Secrets, heard: &mut Vec<(String, Vec<u8>)>) {
        let Self { mut phone, mut desk, caller, carol, provider, user, .. } = self;
        let spare = stage.lab.pns.register_device(provider);
        secrets.token(&spare.prid);
        phone.connect_to(stage.tls()).await.unwrap();
        phone.set_push(Some(PushParams::of(&spare)));
        assert_eq!(phone.register(3600).await.unwrap().code(), 200);
        // P-049: what the other device is told of it.
        assert_eq!(desk.register(3600).await.unwrap().code(), 200);
        settle(&caller, "the-last-word", &desk).await;
        for (who, party) in [("caller", &caller), ("carol", &carol), ("other device", &desk)] {
            let transcript = party.transcript();
            assert!(transcript.len() > 1000, "{who} heard a lot");
            assert!(!contains(&transcript, b"pn-"), "{who} of {user} heard of push parameters");
            heard.push((format!("{who} of {user}"), transcript));
        }
    }
}

/// What must not be found, with what it is.
#[derive(Default)]
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn word(&mut self, kind: &'static str, word: &str) {
        self.0.push((kind, word.to_ascii_lowercase()));
    }

    /// A PRID: whole, in each way it can be escaped, and each part of it that says anything.
    fn token(&mut self, prid: &str) {
        let all_escaped = |hex: fn(u8) -> String| -> String {
            prid.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { hex(b) }).collect()
        };
        self.word("token", prid);
        self.word("token, escaped", &escape_pvalue(prid));
        self.word("token, all escaped", &all_escaped(|byte| format!("%{byte:02X}")));
        for part in prid.split(['&', ':', '/', '?']).filter(|part| part.len() >= 16) {
            self.word("part of a token", part);
            // A prefix is enough to be somebody's; a shortened token is no redacted one.
            self.word("most of a token", part.get(..part.len() * 3 / 4).unwrap());
        }
    }

    /// The node's credentials and the users' hashes, from its folder.
    fn keys_of(&mut self, stage: &Stage) {
        self.word("password", PASSWORD);
        let read = |name: &str| std::fs::read_to_string(stage.lab.folder().join(name)).unwrap();
        let account: serde_json::Value = serde_json::from_str(&read("fcm.json")).unwrap();
        let service_account = account["private_key"].as_str().unwrap().to_owned();
        for (kind, pem) in [
            ("APNs key", read("apns.p8")),
            ("VAPID key", read("vapid.pem")),
            ("service account key", service_account),
            ("TLS key", read("node-key.pem")),
        ] {
            // Short last lines are left out: they could be anything.
            let body = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 24);
            let lines: Vec<&str> = body.collect();
            assert!(!lines.is_empty(), "{kind}");
            lines.iter().for_each(|line| self.word(kind, line));
        }
        for line in read("users.txt").lines().filter(|line| !line.starts_with('#')) {
            self.word("HA1", line.rsplit(':').next().unwrap());
        }
    }

    fn search(&self, heard: &[(String, Vec<u8>)]) {
        for (who, bytes) in heard {
            let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
            for (kind, secret) in &self.0 {
                assert!(secret.len() >= 8, "{kind}: too short to be searched for");
                if let Some(at) = text.find(secret.as_str()) {
                    let around = text.as_bytes().get(at.saturating_sub(200)..(at + 200).min(text.len())).unwrap();
                    panic!("{kind} in what went to the {who}: …{}…", String::from_utf8_lossy(around));
                }
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Every line that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
