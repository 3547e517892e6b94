//! The dispatchers against an HTTP/2 server that is not ours: nghttpd, of the distribution's `nghttp2-server`. It serves files
//! and knows nothing of push services, so a device whose token is the name of a file is well (200) and any other is not (404);
//! what is shown is connections, streams, limits and headers as an independent implementation sees them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use reveille_pns::{ApnsSettings, Limits, Settings};
use reveille_push::{Outcome, Provider, PushClass, PushTarget, Ticket};
use reveille_testkit::{ca::LabCa, port::free_port};
use support::{Files, HOST, Node, apns_target, node};

struct Nghttpd {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Nghttpd {
    async fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::new().unwrap();
        let cert = ca.issue(&[HOST]).unwrap();
        for (name, text) in [("ca.pem", ca.pem()), ("cert.pem", cert.cert_pem), ("key.pem", cert.key_pem)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("www/3/device")).unwrap();
        std::fs::create_dir_all(dir.path().join("www/p")).unwrap();
        std::fs::write(dir.path().join("www/p/live"), "ok").unwrap();
        let port = free_port().unwrap();
        let child = spawn(dir.path(), port, options);
        let server = Self { child, port, dir };
        server.until_it_listens().await;
        server
    }

    async fn restart(&mut self, options: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path(), self.port, options);
        self.until_it_listens().await;
    }

    async fn until_it_listens(&self) {
        let listening = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), listening).await.unwrap();
    }

    /// A device that the server has a file for.
    fn device(&self, token: &str) -> PushTarget {
        std::fs::write(self.dir.path().join("www/3/device").join(token), "{}").unwrap();
        apns_target(token)
    }

    /// What the server says it has seen.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn node(&self, files: &Files, limits: Limits) -> Node {
        let apns = ApnsSettings {
            name: "main".to_owned(),
            team_id: "9TEAM42XYZ".to_owned(),
            key_id: "ABC123DEFG".to_owned(),
            key_file: files.path("key.p8"),
            topics: vec!["org.example.phone".to_owned()],
            sandbox: false,
            voip_refresh: false,
            endpoint: Some(format!("https://{HOST}:{}", self.port).parse().unwrap()),
            ca_file: Some(self.dir.path().join("ca.pem")),
        };
        let webpush = reveille_pns::WebPushSettings {
            vapid_key_file: files.path("key.p8"),
            former_vapid_key_files: Vec::new(),
            payload_keys_file: None,
            urgent_requests: false,
            subject: "mailto:ops@example.net".to_owned(),
            allow_hosts: vec![format!("{HOST}:{}", self.port)],
            allow_addresses: vec!["127.0.0.0/8".parse().unwrap()],
            ca_file: Some(self.dir.path().join("ca.pem")),
        };
        node(Settings { apns: vec![apns], webpush: Some(webpush), limits, ..Settings::default() }).await
    }
}

impl Drop for Nghttpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, port: u16, options: &[&str]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = ["/usr/sbin/nghttpd", "/usr/bin/nghttpd"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .map(Command::new)
        .unwrap_or_else(|| panic!("nghttpd is missing: `cargo xtask test` installs it (nghttp2-server on Debian)"));
    command.args(["-v", "-a", "127.0.0.1", "-d"]).arg(dir.join("www")).args(options).arg(port.to_string());
    command.arg(dir.join("key.pem")).arg(dir.join("cert.pem"));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn statuses_and_headers_through_an_independent_server_p127_p142_p145() {
    let files = Files::new();
    let server = Nghttpd::start(&[]).await;
    let node = server.node(&files, Limits::default()).await;
    assert_eq!(node.push(&server.device("aabbccdd"), PushClass::Call).await, Outcome::Accepted);
    assert_eq!(node.push(&apns_target("deadbeef"), PushClass::Call).await, Outcome::Refused, "404 is our mistake");
    let subscription = |path: &str| {
        let url = format!("https://{HOST}:{}{path}", server.port);
        PushTarget::new(Provider::WebPush, None, &url).unwrap()
    };
    assert_eq!(node.push(&subscription("/p/live"), PushClass::Call).await, Outcome::Accepted);
    let gone = node.push(&subscription("/p/gone"), PushClass::Call).await;
    assert_eq!(gone, Outcome::Unregistered { since: None });

    let log = server.log();
    for seen in
        [":method: POST", ":path: /3/device/aabbccdd", "apns-topic: org.example.phone.voip", "apns-priority: 10"]
    {
        assert!(log.contains(seen), "{seen}");
    }
    // Credentials are marked never to be indexed (RFC 7541 §7.1.3), which the other end can tell.
    let credentials: Vec<_> = log.lines().filter(|line| line.contains("authorization: ")).collect();
    assert_eq!(credentials.len(), 4, "P-122: every request has one");
    assert!(credentials.iter().all(|line| line.contains("sensitive")), "{credentials:?}");
    assert_eq!(log.matches("recv SETTINGS frame").count(), 2 * 2, "one connection for each service, ACK included");
}

#[tokio::test]
async fn a_burst_keeps_to_the_limit_of_an_independent_server_p149_p166() {
    let files = Files::new();
    let server = Nghttpd::start(&["-m", "1"]).await;
    let node = server.node(&files, Limits { max_connections: 2, ..Limits::default() }).await;
    let targets: Vec<_> = (0..40).map(|n| server.device(&format!("{n:08x}"))).collect();
    let verdicts: Vec<_> =
        targets.iter().map(|target| node.submit(target, PushClass::Call, PATIENCE, Ticket::new())).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    let log = server.log();
    assert!(!log.contains("RST_STREAM"), "no stream had to be refused");
    assert_eq!(log.matches(":path: /3/device/").count(), 40, "each once");
}

#[tokio::test]
async fn many_streams_share_a_connection_to_an_independent_server_p149() {
    let files = Files::new();
    let server = Nghttpd::start(&["-m", "100"]).await;
    let node = server.node(&files, Limits { max_connections: 1, ..Limits::default() }).await;
    let targets: Vec<_> = (0..300).map(|n| server.device(&format!("{n:08x}"))).collect();
    let verdicts: Vec<_> =
        targets.iter().map(|target| node.submit(target, PushClass::Call, PATIENCE, Ticket::new())).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    assert!(node.metric(r#"reveille_push_connections{pns="apns"} 1"#));
    assert!(!server.log().contains("RST_STREAM"));
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_found_again_p135_p166() {
    let files = Files::new();
    let mut server = Nghttpd::start(&[]).await;
    let node = server.node(&files, Limits::default()).await;
    let target = server.device("aabbccdd");
    assert_eq!(node.push(&target, PushClass::Call).await, Outcome::Accepted);
    server.restart(&[]).await;
    let again = node.submit(&target, PushClass::Refresh, PATIENCE, Ticket::new());
    // A voip token is for calls alone (P-151).
    assert_eq!(again.await.unwrap(), Outcome::Refused);
    let again = node.submit(&target, PushClass::Call, PATIENCE, Ticket::new());
    assert_eq!(again.await.unwrap(), Outcome::Accepted);
}
