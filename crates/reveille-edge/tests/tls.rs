//! TLS on real sockets.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use common::{Authority, Bench, call_id, read_some, request, settings, soon};
use reveille_edge::{EdgeSettings, ListenerSettings, OutboundSettings, Roots, TicketKey, TicketKeys};
use reveille_proxy::{egress::Destination, ingress::Purpose};
use reveille_registrar::flow::{Liveness, Transport};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, pki_types::ServerName};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Connects and proves by a keep-alive that the server took us in: with TLS 1.3 a refusal comes after the client's handshake.
async fn connect(to: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
    stream.write_all(b"\r\n\r\n").await?;
    let mut pong = [0; 2];
    soon(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut pong)).await?;
    Ok(stream)
}

// S-163: four offers.
#[tokio::test]
async fn s163_alpn_offers() {
    let authority = Authority::new();
    let bench = Bench::start(settings(vec![authority.listener()]));
    let cases: [(&[&str], Option<Option<&str>>); 4] = [
        (&["sip/2"], Some(Some("sip/2"))),
        (&["h2", "sip/2"], Some(Some("sip/2"))),
        (&["h2", "http/1.1"], None),
        (&[], Some(None)),
    ];
    for (offer, want) in cases {
        let got = connect(bench.addr(0), authority.client(offer, None)).await.ok();
        let got = got.map(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(got, want.map(|protocol| protocol.map(|p| p.as_bytes().to_vec())), "{offer:?}");
    }
    assert_eq!(bench.metric("reveille_tls_handshake_failures_total"), 1.0);
}

// S-160, S-161: both versions work; each with what it negotiated.
#[tokio::test]
async fn s160_versions() {
    let authority = Authority::new();
    let bench = Bench::start(settings(vec![authority.listener()]));
    for (version, want) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(authority.ca()).unwrap();
        roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&ca).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut stream = connect(bench.addr(0), config).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(want));
        stream.write_all(request("OPTIONS", "v").as_bytes()).await.unwrap();
        let inbound = bench.next().await;
        assert_eq!(inbound.transport, Transport::Tls);
        bench.edge.flows().send(&inbound.flow, Bytes::from(vec![b'x'; 4000])).unwrap();
        assert_eq!(read_some(&mut stream).await.len(), 4000);
    }
}

// S-160: a ClientHello of TLS 1.1 is refused with an alert.
#[tokio::test]
async fn s160_tls_1_1_is_refused() {
    let authority = Authority::new();
    let bench = Bench::start(settings(vec![authority.listener()]));
    let mut hello = vec![0x03, 0x02];
    hello.extend_from_slice(&[7; 32]); // random
    hello.push(0); // no session
    hello.extend_from_slice(&[0, 4, 0xC0, 0x13, 0x00, 0x2F]); // ECDHE-RSA-AES128-SHA, RSA-AES128-SHA
    hello.extend_from_slice(&[1, 0]); // no compression
    hello.extend_from_slice(&[0, 0]); // no extensions
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend_from_slice(&hello);
    let mut tcp = TcpStream::connect(bench.addr(0)).await.unwrap();
    tcp.write_all(&record).await.unwrap();
    let mut alert = Vec::new();
    soon(tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut alert)).await.unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert: {alert:?}");
}

// S-171: a new certificate serves new handshakes, open flows go on; a bad one changes nothing.
#[tokio::test]
async fn s171_certificates_are_swapped_under_open_flows() {
    let authority = Authority::new();
    let bench = Bench::start(settings(vec![authority.listener()]));
    let leaf = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut old = connect(bench.addr(0), authority.client(&[], None)).await.unwrap();
    assert_eq!(bench.edge.reload().await, 0);
    authority.issue("server", &["localhost"]);
    assert_eq!(bench.edge.reload().await, 1);
    let new = connect(bench.addr(0), authority.client(&[], None)).await.unwrap();
    assert_ne!(leaf(&old), leaf(&new));
    std::fs::write(authority.dir.path().join("server.pem"), "no certificate").unwrap();
    assert_eq!(bench.edge.reload().await, 0);
    assert_eq!(bench.metric("reveille_certificate_reload_failures_total"), 1.0);
    let after = connect(bench.addr(0), authority.client(&[], None)).await.unwrap();
    assert_eq!(leaf(&after), leaf(&new));
    old.write_all(request("OPTIONS", "old").as_bytes()).await.unwrap();
    assert_eq!(call_id(&bench.next().await), "old");
    assert!(bench.metric("reveille_certificate_expiry_timestamp_seconds") > 1.7e9);
}

// S-171: nobody need ask; files are looked at from time to time.
#[tokio::test]
async fn s171_changed_files_are_noticed() {
    let authority = Authority::new();
    let mut with = settings(vec![authority.listener()]);
    with.timeouts.reload = std::time::Duration::from_millis(5);
    let bench = Bench::start(with);
    let first = connect(bench.addr(0), authority.client(&[], None)).await.unwrap();
    let first = first.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    authority.issue("server", &["localhost"]);
    soon(async {
        loop {
            let next = connect(bench.addr(0), authority.client(&[], None)).await.unwrap();
            if next.get_ref().1.peer_certificates().unwrap()[0].to_vec() != first {
                return;
            }
        }
    })
    .await;
}

// S-166: with a client authority set, a certificate of it is required, and one of the names where names are listed.
#[tokio::test]
async fn s166_client_certificates_are_required_and_mapped() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mutual = |names: &[&str]| ListenerSettings {
        client_ca: Some(authority.ca()),
        client_names: names.iter().map(|&name| name.to_owned()).collect(),
        purpose: Purpose::Cluster,
        ..authority.listener()
    };
    let bench = Bench::start(settings(vec![mutual(&[]), mutual(&["node.example.com"])]));
    let cases: [(usize, Option<&[&str]>, bool); 4] = [
        (0, None, false),
        (0, Some(&["anybody.example.com"]), true),
        (1, Some(&["anybody.example.com"]), false),
        (1, Some(&["node.example.com"]), true),
    ];
    for (listener, own, admitted) in cases {
        let got = connect(bench.addr(listener), authority.client(&["sip/2"], own)).await;
        assert_eq!(got.is_ok(), admitted, "{listener} {own:?}");
    }
    // Signed by somebody else.
    let mut config = authority.client(&[], None);
    config.client_auth_cert_resolver = stranger.client(&[], Some(&["node.example.com"])).client_auth_cert_resolver;
    assert!(connect(bench.addr(1), config).await.is_err());
}

// S-162, S-166: connections of ours verify the name and show our certificate.
#[tokio::test]
async fn s162_dialled_connections_verify_and_identify() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("node", &["node.example.com"]);
    let server = ListenerSettings {
        client_ca: Some(authority.ca()),
        client_names: vec!["node.example.com".to_owned()],
        purpose: Purpose::Peer,
        ..authority.listener()
    };
    let home = Bench::start(settings(vec![server]));
    let mut with = settings(Vec::new());
    with.outbound =
        OutboundSettings { roots: Roots::File(authority.ca()), cert: Some(cert), key: Some(key), peers: Vec::new() };
    let edge = Bench::start(with);
    let flows = edge.edge.flows();
    let to = |name: Option<&str>| Destination {
        transport: Transport::Tls,
        address: home.addr(0),
        server_name: name.map(str::to_owned),
        lane: 0,
    };
    for name in [Some("localhost"), None] {
        let flow = edge.edge.table().open_as(&to(name), Purpose::Peer).unwrap();
        flows.send(&flow, Bytes::from(request("OPTIONS", "hop"))).unwrap();
        let inbound = home.next().await;
        assert_eq!((call_id(&inbound).as_str(), inbound.purpose), ("hop", Purpose::Peer));
        home.edge.flows().send(&inbound.flow, Bytes::from(request("OPTIONS", "back"))).unwrap();
        let back = edge.next().await;
        assert_eq!((back.flow, back.purpose), (flow, Purpose::Peer));
        assert!(matches!(flows.liveness(&flow), Liveness::Open { .. }));
    }
    let wrong = flows.open(&to(Some("other.example.com"))).unwrap();
    assert_eq!(edge.closed().await, wrong);
}

fn ticket_keys(life: std::time::Duration) -> Arc<TicketKeys> {
    let keys = TicketKeys::new();
    keys.set(vec![TicketKey::new([1; 16], &[7; 32], tokio::time::Instant::now() + life).unwrap()]);
    keys
}

/// A listener of an edge whose ticket keys are these.
fn edge_with(listener: ListenerSettings, keys: &Arc<TicketKeys>) -> Bench {
    Bench::start(EdgeSettings { tickets: Some(Arc::clone(keys)), ..settings(vec![listener]) })
}

/// How the handshakes went of a client that connects to one edge and then to another.
async fn handshakes(client: &ClientConfig, edges: [&Bench; 2]) -> [HandshakeKind; 2] {
    let mut kinds = Vec::new();
    for edge in edges {
        let stream = connect(edge.addr(0), client.clone()).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
    }
    kinds.try_into().unwrap()
}

// S-170: a session begun at one edge is resumed at another that has its keys, in both versions, and at no other.
#[tokio::test]
async fn s170_sessions_are_resumed_at_other_edges() {
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let authority = Authority::new();
    let one = edge_with(authority.listener(), &ticket_keys(DAY));
    let two = edge_with(authority.listener(), &ticket_keys(DAY));
    let stranger = Bench::start(settings(vec![authority.listener()]));
    let expired = edge_with(authority.listener(), &ticket_keys(std::time::Duration::ZERO));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = || {
            let mut roots = rustls::RootCertStore::empty();
            let ca = std::fs::read(authority.ca()).unwrap();
            roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&ca).unwrap()).unwrap();
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth()
        };
        let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
        assert_eq!(handshakes(&client(), [&one, &two]).await, [full, resumed], "{version:?}");
        assert_eq!(handshakes(&client(), [&one, &stranger]).await, [full, full], "{version:?}");
        // Whose keys have ended begins every session anew, and refuses none.
        assert_eq!(handshakes(&client(), [&one, &expired]).await, [full, full], "{version:?}");
        assert_eq!(handshakes(&client(), [&expired, &expired]).await, [full, full], "{version:?}");
    }
    // A listener that asks for certificates does so each time.
    let mutual = || ListenerSettings { client_ca: Some(authority.ca()), ..authority.listener() };
    let keys = ticket_keys(DAY);
    let (one, two) = (edge_with(mutual(), &keys), edge_with(mutual(), &keys));
    let client = authority.client(&[], Some(&["phone"]));
    assert_eq!(handshakes(&client, [&one, &two]).await, [HandshakeKind::Full; 2]);
}
