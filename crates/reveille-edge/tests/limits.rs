//! What one peer may take, and how the edge ends.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Authority, Bench, call_id, loopback, read_some, request, settings, soon};
use reveille_edge::LimitsSettings;
use reveille_proxy::egress::SendError;
use reveille_registrar::flow::Transport;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Connects and sends a request. `None` if the edge would not have us.
async fn enter(bench: &Bench) -> Option<TcpStream> {
    let mut phone = TcpStream::connect(bench.addr(0)).await.unwrap();
    let mut pong = [0; 2];
    phone.write_all(b"\r\n\r\n").await.ok()?;
    soon(phone.read_exact(&mut pong)).await.ok()?;
    Some(phone)
}

// S-226: connections per source; a place that becomes free can be taken again.
#[tokio::test]
async fn s226_connections_per_source() {
    let mut with = settings(vec![loopback(Transport::Tcp)]);
    with.limits = LimitsSettings { connections_per_source: 2, ..LimitsSettings::default() };
    let bench = Bench::start(with);
    let first = enter(&bench).await.unwrap();
    let _second = enter(&bench).await.unwrap();
    assert!(enter(&bench).await.is_none());
    assert_eq!(bench.metric("reveille_edge_refused_total"), 1.0);
    drop(first);
    bench.closed().await;
    soon(async { while enter(&bench).await.is_none() {} }).await;
}

// S-226: the bound on all connections makes the node not ready.
#[tokio::test]
async fn s226_connections_in_all() {
    let mut with = settings(vec![loopback(Transport::Tcp)]);
    with.limits = LimitsSettings { connections: 1, ..LimitsSettings::default() };
    let bench = Bench::start(with);
    assert!(!bench.edge.is_full());
    let _only = enter(&bench).await.unwrap();
    assert!(bench.edge.is_full());
    assert!(enter(&bench).await.is_none());
}

// S-172: handshakes that do not end are reaped, and only so many may be in progress.
#[tokio::test]
async fn s172_half_open_handshakes_are_reaped() {
    let authority = Authority::new();
    let mut with = settings(vec![authority.listener()]);
    with.limits = LimitsSettings { handshakes: 1, ..LimitsSettings::default() };
    with.timeouts.handshake = Duration::from_millis(200);
    let bench = Bench::start(with);
    let mut half_open = TcpStream::connect(bench.addr(0)).await.unwrap();
    half_open.write_all(&[22, 3, 1]).await.unwrap();
    let mut second = TcpStream::connect(bench.addr(0)).await.unwrap();
    assert_eq!(read_some(&mut second).await, "");
    assert_eq!(bench.metric("reveille_edge_refused_total"), 1.0);
    assert_eq!(read_some(&mut half_open).await, "");
    assert_eq!(bench.metric("reveille_tls_handshake_failures_total"), 1.0);
}

// S-227: a peer that does not read loses its flow; another is served meanwhile.
#[tokio::test]
async fn s227_stuck_reader_does_not_block_others() {
    let authority = Authority::new();
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp), authority.listener()]));
    let mut stuck = enter(&bench).await.unwrap();
    stuck.write_all(request("OPTIONS", "stuck").as_bytes()).await.unwrap();
    let stuck_flow = bench.next().await.flow;
    let mut healthy = enter(&bench).await.unwrap();
    healthy.write_all(request("OPTIONS", "healthy").as_bytes()).await.unwrap();
    let healthy_flow = bench.next().await.flow;
    let flows = bench.edge.flows();
    let flood = Bytes::from(vec![b'x'; 60_000]);
    soon(async {
        loop {
            match flows.send(&stuck_flow, flood.clone()) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => return assert_eq!(error, SendError::Full),
            }
        }
    })
    .await;
    assert_eq!(bench.closed().await, stuck_flow);
    flows.send(&healthy_flow, Bytes::from_static(b"still here")).unwrap();
    assert_eq!(read_some(&mut healthy).await, "still here");
}

// Draining closes what is open, flushing it, and takes nobody new; shutdown ends datagrams too.
#[tokio::test]
async fn drain_and_shutdown() {
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp), loopback(Transport::Udp)]));
    let mut phones = Vec::new();
    for n in 0..5 {
        let mut phone = enter(&bench).await.unwrap();
        phone.write_all(request("OPTIONS", &n.to_string()).as_bytes()).await.unwrap();
        assert_eq!(call_id(&bench.next().await), n.to_string());
        phones.push(phone);
    }
    let flow = {
        phones[0].write_all(request("OPTIONS", "x").as_bytes()).await.unwrap();
        bench.next().await.flow
    };
    bench.edge.flows().send(&flow, Bytes::from_static(b"last words")).unwrap();
    soon(bench.edge.drain(50, common::PATIENCE)).await;
    for _ in 0..5 {
        bench.closed().await;
    }
    assert_eq!(read_some(&mut phones[0]).await, "last words");
    for phone in &mut phones {
        assert_eq!(read_some(phone).await, "");
    }
    assert!(TcpStream::connect(bench.addr(0)).await.is_err());
    let udp = bench.addr(1);
    soon(bench.edge.shutdown()).await;
    // The port is free again.
    tokio::net::UdpSocket::bind(udp).await.unwrap();
}

// S-139: what came as a datagram has no connection that could be kept, but the drain waits for its answer.
#[tokio::test]
async fn s139_a_drain_waits_for_what_came_as_a_datagram() {
    let bench = Bench::start(settings(vec![loopback(Transport::Udp)]));
    let phone = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    phone.send_to(request("INVITE", "a").as_bytes(), bench.addr(0)).await.unwrap();
    let inbound = bench.next().await;
    let drained = bench.edge.drain(50, common::PATIENCE);
    tokio::pin!(drained);
    let early = tokio::time::timeout(Duration::from_millis(1_500), &mut drained).await;
    assert!(early.is_err(), "somebody is owed an answer");
    drop(inbound);
    soon(drained).await;
}

// S-139: an idle connection is closed at once, one with a request in hand when that is answered; what crosses the end is not begun.
#[tokio::test]
async fn s139_a_drain_waits_for_what_is_in_hand() {
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp)]));
    let (mut idle, mut busy) = (enter(&bench).await.unwrap(), enter(&bench).await.unwrap());
    idle.write_all(request("OPTIONS", "idle").as_bytes()).await.unwrap();
    drop(bench.next().await);
    busy.write_all(request("INVITE", "busy").as_bytes()).await.unwrap();
    let inbound = bench.next().await;
    let drained = bench.edge.drain(0, common::PATIENCE);
    tokio::pin!(drained);
    tokio::select! {
        () = &mut drained => panic!("somebody is owed an answer"),
        text = read_some(&mut idle) => assert_eq!(text, ""),
    }
    bench.edge.flows().send(&inbound.flow, Bytes::from_static(b"the answer")).unwrap();
    drop(inbound);
    soon(drained).await;
    assert_eq!(read_some(&mut busy).await, "the answer");
    assert_eq!(read_some(&mut busy).await, "");
}

// The time for a drain ends, whatever is in hand.
#[tokio::test]
async fn a_drain_ends_in_time() {
    let bench = Bench::start(settings(vec![loopback(Transport::Tcp), loopback(Transport::Udp)]));
    let mut busy = enter(&bench).await.unwrap();
    busy.write_all(request("INVITE", "busy").as_bytes()).await.unwrap();
    let _held = bench.next().await;
    let phone = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    phone.send_to(request("INVITE", "a").as_bytes(), bench.addr(1)).await.unwrap();
    let _held_too = bench.next().await;
    soon(bench.edge.drain(0, Duration::from_millis(100))).await;
    assert_eq!(read_some(&mut busy).await, "");
}
