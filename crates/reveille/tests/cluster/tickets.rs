//! TLS sessions across edges (S-170), over a real Redis.

use std::{net::SocketAddr, sync::Arc};

use reveille::cluster::TicketSharing;
use reveille_edge::TicketKeys;
use reveille_testkit::redis::Redis;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::ProducesTickets,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{SOON, credentials::store, field::Field};

/// Connects, hears an answer to a keep-alive, by when TLS 1.3 has brought its ticket, and says how the handshake went.
async fn handshake(client: &Arc<ClientConfig>, to: SocketAddr) -> HandshakeKind {
    let connecting = async {
        let tcp = TcpStream::connect(to).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, tcp).await?;
        stream.write_all(b"\r\n\r\n").await?;
        stream.read_exact(&mut [0; 2]).await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.handshake_kind().unwrap())
    };
    tokio::time::timeout(SOON, connecting).await.unwrap().unwrap()
}

fn client(ca: &str, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A phone's TLS session goes on at whichever edge it reaches next; with Redis away as well.
#[tokio::test]
async fn a_tls_session_is_resumed_at_another_edge_s170() {
    let mut field = Field::start(&["n1", "n2"]).await;
    let (one, two) = (field.node("n1").addr("tls"), field.node("n2").addr("tls"));
    let ca = field.lab.pns.ca().pem();
    for version in [&TLS13, &TLS12] {
        let client = client(&ca, version);
        assert_eq!(handshake(&client, one).await, HandshakeKind::Full, "{version:?}");
        assert_eq!(handshake(&client, two).await, HandshakeKind::Resumed, "{version:?}");
    }
    field.redis.kill();
    let client = client(&ca, &TLS13);
    assert_eq!(handshake(&client, two).await, HandshakeKind::Full);
    assert_eq!(handshake(&client, one).await, HandshakeKind::Resumed);
}

/// An edge as far as tickets go.
async fn edge(redis: &Redis, node: &str) -> (TicketSharing, Arc<TicketKeys>) {
    let keys = TicketKeys::new();
    (TicketSharing::new(store(redis, node).await, Arc::clone(&keys)), keys)
}

/// S-170: keys are replaced after half their life, the last one opens on, and the first edge to look decides for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_keys_are_rotated_for_all_edges_s170() {
    let mut redis = Redis::start().unwrap();
    let ((mut one, ours), (mut two, theirs)) = (edge(&redis, "1").await, edge(&redis, "2").await);
    let (looked, also) = tokio::join!(one.look(), two.look());
    assert!(looked && also);
    let first = ours.encrypt(b"first").unwrap();
    assert_eq!(theirs.decrypt(&first).as_deref(), Some(&b"first"[..]), "of two that made keys at once one won");
    let name = redis.ask(&["KEYS", "*tickets*"]).unwrap();
    assert_eq!(name.lines().count(), 1, "{name}");

    // Twelve hours later and a bit: one edge looks and replaces the key, the other looks and has it.
    let left: u64 = redis.ask(&["PTTL", &name]).unwrap().trim_start_matches(':').parse().unwrap();
    assert!(left > 23 * 3_600_000, "{left}");
    redis.ask(&["PEXPIRE", &name, &(12 * 3_600_000 - 1).to_string()]).unwrap();
    assert!(one.look().await);
    let second = ours.encrypt(b"second").unwrap();
    assert_ne!(second[..16], first[..16]);
    assert_eq!(theirs.decrypt(&second), None, "it has not looked");
    assert!(two.look().await);
    assert_eq!(theirs.decrypt(&second).as_deref(), Some(&b"second"[..]));
    assert_eq!(theirs.encrypt(b"x").unwrap()[..16], second[..16]);
    assert_eq!(theirs.decrypt(&first).as_deref(), Some(&b"first"[..]), "the last key opens on");
    // A newcomer has both.
    let (mut three, newcomers) = edge(&redis, "3").await;
    assert!(three.look().await);
    assert_eq!(newcomers.decrypt(&first).as_deref(), Some(&b"first"[..]));

    // Another twelve hours later: the first is destroyed everywhere, its 24 hours being over.
    redis.ask(&["PEXPIRE", &name, &(12 * 3_600_000 - 1).to_string()]).unwrap();
    assert!(two.look().await && one.look().await);
    assert_eq!((ours.decrypt(&first), theirs.decrypt(&first)), (None, None));
    assert_eq!(ours.decrypt(&second).as_deref(), Some(&b"second"[..]));

    // Redis away: what is in hand goes on.
    redis.kill();
    assert!(!one.look().await);
    let away = ours.encrypt(b"away").unwrap();
    assert_eq!(theirs.decrypt(&away).as_deref(), Some(&b"away"[..]));
    // Redis back, and empty: there are new keys, and what was begun is resumed by who knew the old ones.
    redis.restart().unwrap();
    assert!(one.look().await && two.look().await);
    assert_eq!(theirs.decrypt(&ours.encrypt(b"new").unwrap()).as_deref(), Some(&b"new"[..]));
    assert_eq!(ours.decrypt(&away).as_deref(), Some(&b"away"[..]));
}
