//! UDP and TCP on real sockets: what comes in, what goes out, connections that we open.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::{Bench, call_id, loopback, read_some, request, settings, soon};
use reveille_edge::{Edge, LimitsSettings, ListenerSettings, TokenKey, TokenRing};
use reveille_proxy::{
    egress::{Destination, SendError},
    ingress::Purpose,
};
use reveille_registrar::flow::{FlowRef, Liveness, NodeTag, Transport};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UdpSocket},
};

async fn udp(bench: &Bench) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bench.addr(0)).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut space = vec![0; 65_535];
    let count = soon(socket.recv(&mut space)).await.unwrap();
    space.truncate(count);
    space
}

// S-020, S-088: octets past Content-Length are cut; the answer goes back to where the request came from.
#[tokio::test]
async fn s020_s088_datagrams_come_and_answers_go_back() {
    let bench = Bench::start(settings(vec![loopback(Transport::Udp)]));
    let phone = udp(&bench).await;
    phone.send(format!("{}trailing", request("OPTIONS", "one")).as_bytes()).await.unwrap();
    let inbound = bench.next().await;
    assert_eq!(inbound.message.bytes(), request("OPTIONS", "one").as_bytes());
    assert_eq!((inbound.remote, inbound.transport), (phone.local_addr().unwrap(), Transport::Udp));
    let flows = bench.edge.flows();
    assert_eq!(flows.liveness(&inbound.flow), Liveness::Connectionless);
    flows.send(&inbound.flow, Bytes::from_static(b"answer")).unwrap();
    assert_eq!(receive(&phone).await, b"answer");
    let local = flows.local(&inbound.flow).unwrap();
    assert_eq!((local.host.as_str(), local.port), ("127.0.0.1", bench.addr(0).port()));
    assert!(flows.names_us("127.0.0.1", Some(local.port)));
    // The token survives a restart of the node, as the peer does (S-127).
    assert_eq!(flows.unseal(&flows.seal(&inbound.flow)), Ok(inbound.flow));
}

// S-020: Content-Length beyond the datagram: 400 for a request, nothing for a response, an ACK (S-233) or noise.
#[tokio::test]
async fn s020_s233_datagrams_that_are_too_short() {
    let bench = Bench::start(settings(vec![loopback(Transport::Udp)]));
    let phone = udp(&bench).await;
    let long = |text: String| text.replace("Content-Length: 0", "Content-Length: 900");
    let response = request("OPTIONS", "r").replace("OPTIONS sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK");
    for silent in
        [long(response), long(request("ACK", "a")), "complete nonsense\r\n\r\n".to_owned(), "\r\n\r\n".to_owned()]
    {
        phone.send(silent.as_bytes()).await.unwrap();
    }
    phone.send(long(request("OPTIONS", "short")).as_bytes()).await.unwrap();
    let answer = String::from_utf8(receive(&phone).await).unwrap();
    assert!(answer.starts_with("SIP/2.0 400 ") && answer.contains("short"), "{answer}");
}

// S-126: STUN on the SIP port.
#[tokio::test]
async fn s126_stun_binding_on_the_sip_port() {
    let bench = Bench::start(settings(vec![loopback(Transport::Udp)]));
    let phone = udp(&bench).await;
    let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    binding.extend_from_slice(b"transaction1");
    phone.send(&[]).await.unwrap();
    phone.send(&[0; 4]).await.unwrap();
    phone.send(&binding).await.unwrap();
    let answer = receive(&phone).await;
    assert_eq!(answer[..2], [1, 1]);
    assert_eq!(answer[8..20], binding[8..20]);
    let port = u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112;
    assert_eq!(port, phone.local_addr().unwrap().port());
    assert_eq!([answer[28] ^ 0x21, answer[29] ^ 0x12, answer[30] ^ 0xA4, answer[31] ^ 0x42], [127, 0, 0, 1]);
}

// S-220 over UDP; S-226: a flooding peer is cut, its neighbour served.
#[tokio::test]
async fn s220_s226_overload_and_floods_over_udp() {
    let mut with = settings(vec![loopback(Transport::Udp)]);
    with.limits = LimitsSettings { messages_per_flow: 1, messages_burst: 5, ..LimitsSettings::default() };
    let bench = Bench::start(with);
    let (flooder, neighbour) = (udp(&bench).await, udp(&bench).await);
    for n in 0..50 {
        flooder.send(request("OPTIONS", &format!("f{n}")).as_bytes()).await.unwrap();
    }
    neighbour.send(request("OPTIONS", "n").as_bytes()).await.unwrap();
    let mut taken = 0;
    while call_id(&bench.next().await) != "n" {
        taken += 1;
    }
    assert!(taken <= 10, "{taken}");
    bench.recorder.overloaded.store(true, Ordering::Relaxed);
    neighbour.send(request("INVITE", "busy").as_bytes()).await.unwrap();
    let answer = String::from_utf8(receive(&neighbour).await).unwrap();
    assert!(answer.starts_with("SIP/2.0 503 ") && answer.contains("Retry-After: "), "{answer}");
}

// S-023, S-088, S-125 over TCP.
#[tokio::test]
async fn tcp_messages_both_ways() {
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp)]));
    let mut phone = TcpStream::connect(bench.addr(0)).await.unwrap();
    phone
        .write_all(format!("{}\r\n\r\n{}", request("OPTIONS", "one"), request("OPTIONS", "two")).as_bytes())
        .await
        .unwrap();
    let (one, two) = (bench.next().await, bench.next().await);
    assert_eq!((call_id(&one).as_str(), call_id(&two).as_str()), ("one", "two"));
    assert_eq!(read_some(&mut phone).await, "\r\n");
    let flows = bench.edge.flows();
    assert!(matches!(flows.liveness(&one.flow), Liveness::Open { .. }));
    flows.send(&one.flow, Bytes::from_static(b"response")).unwrap();
    assert_eq!(read_some(&mut phone).await, "response");
    let of_last_start = match one.flow {
        FlowRef::Stream { node, connection, transport, .. } => {
            FlowRef::Stream { node, epoch: 6, connection, transport }
        }
        FlowRef::Datagram { .. } => panic!("not a stream"),
    };
    assert_eq!(flows.liveness(&of_last_start), Liveness::Gone);
    assert_eq!(flows.send(&of_last_start, Bytes::from_static(b"x")), Err(SendError::Gone));
    drop(phone);
    assert_eq!(bench.closed().await, one.flow);
    assert_eq!(bench.metric("reveille_edge_flows"), 0.0);
}

// S-021: the answer to what cannot be framed arrives, though more octets follow it.
#[tokio::test]
async fn s021_answer_is_not_lost_to_a_reset() {
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp)]));
    let mut phone = TcpStream::connect(bench.addr(0)).await.unwrap();
    let broken = request("OPTIONS", "broken").replace("Content-Length: 0\r\n", "");
    phone.write_all(format!("{broken}{}", "x".repeat(100_000)).as_bytes()).await.unwrap();
    let answer = read_some(&mut phone).await;
    assert!(answer.starts_with("SIP/2.0 400 "), "{answer}");
    assert_eq!(read_some(&mut phone).await, "");
}

// Connections that we open: reused by destination, bytes wait until they stand, a failure is a closed flow.
#[tokio::test]
async fn connections_are_opened_and_reused() {
    let mut with = settings(vec![loopback(Transport::Tcp), loopback(Transport::Udp)]);
    with.outbound.peers = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = Bench::start(with);
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = |address, transport| Destination { transport, address, server_name: None, lane: 0 };
    let destination = to(peer.local_addr().unwrap(), Transport::Tcp);
    let flows = bench.edge.flows();
    let flow = flows.open(&destination).unwrap();
    flows.send(&flow, Bytes::from_static(b"before it stands")).unwrap();
    assert_eq!(flows.open(&destination), Ok(flow));
    let (mut accepted, _) = soon(peer.accept()).await.unwrap();
    assert_eq!(read_some(&mut accepted).await, "before it stands");
    accepted.write_all(request("OPTIONS", "reverse").as_bytes()).await.unwrap();
    let inbound = bench.next().await;
    assert_eq!((inbound.flow, inbound.purpose), (flow, Purpose::Peer));
    // Via names the listener of that transport, so that the peer finds us when the connection is gone.
    assert_eq!(flows.local(&flow).unwrap().port, bench.addr(0).port());
    drop(accepted);
    assert_eq!(bench.closed().await, flow);
    let again = flows.open(&destination).unwrap();
    assert_ne!(again, flow);
    drop(soon(peer.accept()).await.unwrap());
    assert_eq!(bench.closed().await, again);
    drop(peer);
    let refused = flows.open(&destination).unwrap();
    assert_eq!(bench.closed().await, refused);
    assert_eq!(flows.send(&refused, Bytes::from_static(b"x")), Err(SendError::Gone));
    assert_eq!(flows.open(&to(destination.address, Transport::Tls)), Err(SendError::NoListener));
    let datagram = flows.open(&to(destination.address, Transport::Udp)).unwrap();
    assert_eq!(datagram, FlowRef::Datagram { node: NodeTag(1), listener: 1, remote: destination.address });
    assert_eq!(flows.open(&to("[::1]:5060".parse().unwrap(), Transport::Udp)), Err(SendError::NoListener));
}

// S-127: tokens pass between nodes, and keys are changed while running.
#[tokio::test]
async fn s127_tokens_between_nodes() {
    let nodes = [(); 2].map(|()| {
        let mut with = settings(vec![loopback(Transport::Udp)]);
        with.tokens = TokenRing::new(TokenKey::new(1, b"the secret of the cluster"), []);
        Bench::start(with)
    });
    let flow = FlowRef::Stream { node: NodeTag(1), epoch: 1, connection: 5, transport: Transport::Tls };
    let token = nodes[0].edge.flows().seal(&flow);
    assert_eq!(nodes[1].edge.flows().unseal(&token), Ok(flow));
    nodes[1].edge.table().set_tokens(TokenRing::random());
    assert!(nodes[1].edge.flows().unseal(&token).is_err());
}

#[tokio::test]
async fn what_cannot_be_bound_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let with = |listener: ListenerSettings| settings(vec![loopback(Transport::Udp), listener]);
    let cases = [
        (ListenerSettings { addr: taken.local_addr().unwrap(), ..loopback(Transport::Tcp) }, "listener[1].addr"),
        (loopback(Transport::Tls), "listener[1].cert"),
        (
            ListenerSettings {
                cert: Some("/nowhere.pem".into()),
                key: Some("/nowhere.key".into()),
                ..loopback(Transport::Tls)
            },
            "listener[1].cert",
        ),
        (loopback(Transport::Quic), "listener[1].transport"),
    ];
    for (listener, key) in cases {
        let addr = listener.addr;
        let fault = Edge::prepare(with(listener), &prometheus::Registry::new()).map(drop).unwrap_err();
        assert_eq!((fault.key.as_str(), fault.addr), (key, Some(addr)), "{fault}");
    }
}

// A connection given up before it stood is reported like any other, and at once.
#[tokio::test]
async fn connection_in_the_making_can_be_closed() {
    let bench = Bench::start(settings(Vec::new()));
    // TEST-NET-1: nobody answers.
    let address = "192.0.2.1:5060".parse().unwrap();
    let flows = bench.edge.flows();
    let flow = flows.open(&Destination { transport: Transport::Tcp, address, server_name: None, lane: 0 }).unwrap();
    flows.close(&flow);
    assert_eq!(bench.closed().await, flow);
}

// One message that makes the proxy fail ends neither the datagram listener nor other connections.
#[tokio::test]
async fn a_fault_in_the_proxy_stays_with_its_message() {
    let bench = Bench::start(settings(vec![loopback(Transport::Udp), loopback(Transport::Tcp)]));
    let phone = udp(&bench).await;
    let mut unlucky = TcpStream::connect(bench.addr(1)).await.unwrap();
    unlucky.write_all(request("OPTIONS", common::FAULT).as_bytes()).await.unwrap();
    bench.closed().await;
    phone.send(request("OPTIONS", common::FAULT).as_bytes()).await.unwrap();
    phone.send(request("OPTIONS", "after").as_bytes()).await.unwrap();
    assert_eq!(call_id(&bench.next().await), "after");
}
