//! What an operator does to a `reveille serve` process: ends it, reloads it, starts it with a bad file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
};

use process::{PATIENCE, Server};
use reveille::lab::{DOMAIN, Lab, LabOptions};
use reveille_testkit::pns::{Provider, Verdict};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_reveille");

// SIGTERM: no longer ready, still alive, the waiting call hears how it ends, exit code 0.
#[tokio::test]
async fn sigterm_drains() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let environment = [("REVEILLE__NODE__DRAIN_TIMEOUT", "8s")];
    let mut server = Server::start(Path::new(PROGRAM), &lab.config_file(), &environment).await;
    let mut alice = lab.phone("alice", Provider::Fcm, server.addr("tls")).unwrap().build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    alice.sleep().await;
    assert!(lab.pns.set_verdict(&alice.push().unwrap().prid.clone().unwrap(), Verdict::Blackhole));
    let mut caller = lab.plain_phone("caller", server.addr("tls")).unwrap().build();
    caller.connect().await.unwrap();
    assert_eq!(caller.register(3600).await.unwrap().code(), 200);
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    server.until_metric("reveille_registrar_waiters", 1.0).await;
    assert_eq!(server.get("/health/ready").await.unwrap().0, 200);

    server.signal("-TERM");
    server.line("draining").await;
    let (status, reasons) = server.get("/health/ready").await.unwrap();
    assert_eq!(status, 503);
    assert!(reasons.contains("draining"), "{reasons}");
    assert_eq!(server.get("/health/live").await.unwrap().0, 200);
    let last = call.final_response(PATIENCE).await.unwrap().message.code();
    assert!((400..700).contains(&last), "{last}");
    caller.wait_closed(PATIENCE).await.unwrap();
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_sigterm_stops_at_once() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let environment = [("REVEILLE__NODE__DRAIN_TIMEOUT", "1h")];
    let mut server = Server::start(Path::new(PROGRAM), &lab.config_file(), &environment).await;
    let mut caller = lab.plain_phone("caller", server.addr("tls")).unwrap().build();
    caller.connect().await.unwrap();
    server.signal("-TERM");
    server.line("draining").await;
    server.signal("-TERM");
    assert_eq!(server.ended().await.code(), Some(0));
}

// S-163: SIGHUP puts a new certificate in front of new connections and leaves open ones alone.
#[tokio::test]
async fn sighup_reads_certificates_again() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let mut server = Server::start(Path::new(PROGRAM), &lab.config_file(), &[]).await;
    let node = server.addr("tls");
    let mut alice = lab.phone("alice", Provider::Apns, node).unwrap().build();
    alice.connect().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    let ca = lab.pns.ca().pem();
    let before = shown(node, &ca).await;
    assert_eq!(before, file(&lab.folder().join("node-cert.pem")));

    let renewed = lab.pns.ca().issue(&["localhost", "127.0.0.1"]).unwrap();
    fs::write(lab.folder().join("node-key.pem"), &renewed.key_pem).unwrap();
    fs::write(lab.folder().join("node-cert.pem"), &renewed.cert_pem).unwrap();
    server.signal("-HUP");
    server.line("files were read again").await;
    let after = shown(node, &ca).await;
    assert_eq!(after, file(&lab.folder().join("node-cert.pem")));
    assert_ne!(after, before);
    alice.ping().await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200, "on the connection of before");

    // A certificate that does not fit its key is not taken.
    let other = lab.pns.ca().issue(&["localhost"]).unwrap();
    fs::write(lab.folder().join("node-cert.pem"), &other.cert_pem).unwrap();
    server.signal("-HUP");
    server.line("files were read again").await;
    assert_eq!(shown(node, &ca).await, after);
    assert!(server.metric("reveille_certificate_reload_failures_total").await >= 1.0);
}

#[test]
fn serve_refuses_a_bad_file_with_78_before_any_port_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reveille.toml");
    let faulty = "domains = [\"example.com\"]\nauth.mode = \"none\"\n[[listener]]\ntransport = \"pigeon\"\naddr = \"127.0.0.1:0\"\n\
                  [registrar]\nshards = 48\n";
    fs::write(&path, faulty).unwrap();
    let output = Command::new(PROGRAM).arg("serve").arg("-c").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in ["listener[0].transport: ", "registrar.shards: must be a power of two"] {
        assert!(printed.lines().any(|line| line.starts_with(key)), "{key}: {printed}");
    }
    assert!(!printed.contains("listening"), "{printed}");
}

/// The certificate that a new connection is shown.
async fn shown(node: SocketAddr, ca: &str) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    tokio::task::spawn_blocking(move || {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut tcp = TcpStream::connect(node).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        stream.write_all(b"\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        tls.peer_certificates().unwrap()[0].clone().into_owned()
    })
    .await
    .unwrap()
}

fn file(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}
