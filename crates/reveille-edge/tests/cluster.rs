//! Connections between nodes, on real sockets.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use common::{Authority, Bench, call_id, request, settings};
use reveille_edge::{ClusterTls, EdgeSettings, LimitsSettings, ListenerSettings, OutboundSettings, Roots};
use reveille_proxy::{
    egress::{Destination, SendError},
    ingress::Purpose,
};
use reveille_registrar::flow::{FlowProbe, FlowRef, Liveness, Transport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

const NODE: &str = "reveille-node";

/// A node with a cluster listener, whose certificate carries these names.
fn node(authority: &Authority, file: &str, names: &[&str]) -> EdgeSettings {
    let (cert, key) = authority.issue(file, names);
    let listener = ListenerSettings {
        cert: Some(cert.clone()),
        key: Some(key.clone()),
        client_ca: Some(authority.ca()),
        client_names: vec![NODE.to_owned()],
        purpose: Purpose::Cluster,
        ..authority.listener()
    };
    EdgeSettings { cluster: Some(tls(authority.ca(), cert, key)), ..settings(vec![listener]) }
}

fn tls(ca: PathBuf, cert: PathBuf, key: PathBuf) -> ClusterTls {
    ClusterTls { ca, cert, key, server_name: NODE.to_owned() }
}

fn lane(address: SocketAddr, lane: u8) -> Destination {
    Destination { transport: Transport::Tls, address, server_name: None, lane }
}

/// Whether a message from one node arrives at the other; if not, the flow is reported closed.
async fn reaches(from: &Bench, to: &Bench) -> bool {
    let flow = from.edge.flows().open_node(&lane(to.addr(0), 0)).unwrap();
    let _ = from.edge.flows().send(&flow, Bytes::from(request("OPTIONS", "hop")));
    tokio::select! {
        inbound = to.next() => {
            assert_eq!((call_id(&inbound).as_str(), inbound.purpose), ("hop", Purpose::Cluster));
            true
        }
        closed = from.closed() => {
            assert_eq!(closed, flow);
            false
        }
    }
}

// S-166: each of two nodes knows the other by authority and name, whichever of them calls; the address plays no part.
#[tokio::test]
async fn s166_nodes_verify_each_other() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let home = Bench::start(node(&authority, "home", &["home-1.example.com", NODE]));
    let edge = Bench::start(node(&authority, "edge", &[NODE]));
    assert!(reaches(&edge, &home).await && reaches(&home, &edge).await);

    // Who calls has not the name that is let in, or it was given by somebody else.
    let other_name = Bench::start(node(&authority, "other", &["other.example.com"]));
    assert!(!reaches(&other_name, &home).await);
    let mut foreign = node(&authority, "node", &[NODE]);
    let (cert, key) = stranger.issue("node", &[NODE]);
    foreign.cluster = Some(tls(authority.ca(), cert, key));
    assert!(!reaches(&Bench::start(foreign), &home).await);

    // Who is called has not the name, though it has the address; or it was given by somebody else.
    let unnamed = Bench::start(node(&authority, "unnamed", &["127.0.0.1", "localhost"]));
    assert!(!reaches(&edge, &unnamed).await);
    let mut distrustful = node(&authority, "distrustful", &[NODE]);
    distrustful.cluster = distrustful.cluster.map(|tls| ClusterTls { ca: stranger.ca(), ..tls });
    assert!(!reaches(&Bench::start(distrustful), &home).await);
}

// S-166: there is no other way to another node.
#[tokio::test]
async fn s166_nodes_are_called_by_mutual_tls_only() {
    let authority = Authority::new();
    let home = Bench::start(node(&authority, "home", &[NODE, "127.0.0.1"]));
    let mut alone = settings(Vec::new());
    alone.outbound.roots = Roots::File(authority.ca());
    let alone = Bench::start(alone);
    assert_eq!(alone.edge.flows().open_node(&lane(home.addr(0), 0)), Err(SendError::NoListener));
    for transport in [Transport::Tcp, Transport::Udp] {
        let destination = Destination { transport, ..lane(home.addr(0), 0) };
        assert_eq!(home.edge.flows().open_node(&destination), Err(SendError::NoListener), "{transport:?}");
    }
}

// A connection that was opened under other rules is not taken for one to a node, nor the reverse.
#[tokio::test]
async fn nodes_and_others_share_no_connection() {
    let authority = Authority::new();
    let mut with = node(&authority, "edge", &[NODE, "127.0.0.1"]);
    let ClusterTls { ca, cert, key, .. } = with.cluster.clone().unwrap();
    with.outbound = OutboundSettings { roots: Roots::File(ca), cert: Some(cert), key: Some(key), peers: Vec::new() };
    let edge = Bench::start(with);
    let home = Bench::start(node(&authority, "home", &[NODE, "127.0.0.1"]));
    let (flows, to) = (edge.edge.flows(), lane(home.addr(0), 0));
    let (public, inner) = (flows.open(&to).unwrap(), flows.open_node(&to).unwrap());
    assert_ne!(public, inner);
    assert_eq!((flows.open(&to), flows.open_node(&to)), (Ok(public), Ok(inner)));
    for (flow, id, purpose) in [(public, "public", Purpose::Public), (inner, "inner", Purpose::Cluster)] {
        flows.send(&flow, Bytes::from(request("OPTIONS", id))).unwrap();
        let there = home.next().await;
        home.edge.flows().send(&there.flow, Bytes::from(request("OPTIONS", "back"))).unwrap();
        let back = edge.next().await;
        assert_eq!((back.flow, back.purpose), (flow, purpose));
    }
}

// Each lane is a connection of its own, and what is sent on one arrives in order.
#[tokio::test]
async fn lanes_are_connections_that_keep_order() {
    const MESSAGES: usize = 200;
    let authority = Authority::new();
    let home = Bench::start(node(&authority, "home", &[NODE]));
    let edge = Bench::start(node(&authority, "edge", &[NODE]));
    let flows = edge.edge.flows();
    let open = |at: u8| flows.open_node(&lane(home.addr(0), at)).unwrap();
    let lanes = [open(0), open(1)];
    assert_ne!(lanes[0], lanes[1]);
    for n in 0..MESSAGES {
        let at = n % 2;
        assert_eq!(open(at as u8), lanes[at], "it stays open");
        flows.send(&lanes[at], Bytes::from(request("OPTIONS", &format!("{at}-{n}")))).unwrap();
    }
    let mut arrived: HashMap<FlowRef, Vec<String>> = HashMap::new();
    for _ in 0..MESSAGES {
        let inbound = home.next().await;
        arrived.entry(inbound.flow).or_default().push(call_id(&inbound));
    }
    let mut arrived: Vec<_> = arrived.into_values().collect();
    arrived.sort();
    let sent = |at: usize| (0..MESSAGES).filter(|n| n % 2 == at).map(|n| format!("{at}-{n}")).collect::<Vec<_>>();
    assert_eq!(arrived, [sent(0), sent(1)]);
    // One breaks; the other does not.
    flows.close(&lanes[0]);
    assert_eq!(edge.closed().await, lanes[0]);
    assert!(matches!(edge.edge.table().liveness(&lanes[1]), Liveness::Open { .. }));
    assert!(![lanes[0], lanes[1]].contains(&open(0)), "it is opened again when it is needed");
}

// S-171: a node's new certificate is used for the next call, without a restart of either side.
#[tokio::test]
async fn s171_certificates_between_nodes_are_replaced() {
    let authority = Authority::new();
    let home = Bench::start(node(&authority, "home", &[NODE]));
    let edge = Bench::start(node(&authority, "edge", &["mistake.example.com"]));
    assert!(!reaches(&edge, &home).await);
    authority.issue("edge", &[NODE]);
    assert_eq!(edge.edge.reload().await, 2, "to listen, and to call");
    assert!(reaches(&edge, &home).await && reaches(&home, &edge).await);
    assert_eq!(
        edge.metric("reveille_certificate_expiry_timestamp_seconds{listener=\"cluster\"}") as i64 / 1_000_000_000,
        67
    );
    std::fs::write(authority.dir.path().join("edge.pem"), "no certificate").unwrap();
    assert_eq!(edge.edge.reload().await, 0);
    assert_eq!(edge.metric("reveille_certificate_reload_failures_total{listener=\"cluster\"}"), 1.0);
}

// A node that takes connections and says nothing is found out while it is being called, too.
#[tokio::test]
async fn a_node_that_does_not_shake_hands_is_given_up() {
    let authority = Authority::new();
    let mut with = node(&authority, "edge", &[NODE]);
    (with.timeouts.cluster_ping, with.timeouts.cluster_pong) = (Duration::from_millis(50), Duration::from_millis(100));
    let connect = with.timeouts.connect;
    let edge = Bench::start(with);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let flow = edge.edge.flows().open_node(&lane(silent.local_addr().unwrap(), 0)).unwrap();
    assert_eq!(edge.closed().await, flow);
    assert!(begun.elapsed() >= Duration::from_millis(150) && begun.elapsed() < connect, "{:?}", begun.elapsed());
}

/// A connection of a phone that has said something, and its flow.
async fn phone(to: &Bench, listener: usize) -> (TcpStream, FlowRef) {
    let mut phone = TcpStream::connect(to.addr(listener)).await.unwrap();
    phone.write_all(request("OPTIONS", "phone").as_bytes()).await.unwrap();
    (phone, to.next().await.flow)
}

// S-172, S-226: a node that has no room for one more phone, and is busy with handshakes of others, still hears other nodes.
#[tokio::test]
async fn a_full_node_still_takes_other_nodes() {
    let authority = Authority::new();
    let mut with = node(&authority, "full", &[NODE]);
    with.listeners.extend([common::loopback(Transport::Tcp), authority.listener()]);
    with.limits = LimitsSettings { connections: 2, handshakes: 1, ..LimitsSettings::default() };
    let full = Bench::start(with);
    let other = Bench::start(node(&authority, "other", &[NODE]));
    let _phone = phone(&full, 1).await;
    let _undecided = TcpStream::connect(full.addr(2)).await.unwrap();
    common::soon(async {
        while !full.edge.is_full() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(reaches(&other, &full).await);
    let mut refused = TcpStream::connect(full.addr(1)).await.unwrap();
    assert_eq!(common::soon(refused.read(&mut [0; 1])).await.unwrap_or(0), 0, "one phone more has no place");
}

// A node that drains is reached by others until its last phone is gone, for their calls are for those phones.
#[tokio::test]
async fn a_draining_node_leaves_the_others_last() {
    let authority = Authority::new();
    let mut with = node(&authority, "leaving", &[NODE]);
    with.listeners.push(common::loopback(Transport::Tcp));
    let leaving = Bench::start(with);
    let other = Bench::start(node(&authority, "other", &[NODE]));
    let (_phone, phone) = phone(&leaving, 1).await;
    leaving.edge.stop_accepting();
    assert!(reaches(&other, &leaving).await, "it may be called while it drains");
    common::soon(leaving.edge.drain(1_000, common::PATIENCE)).await;
    assert_eq!(leaving.closed().await, phone);
    let _node = leaving.closed().await;
    assert_eq!(leaving.edge.table().open_flows(), 0);
    // The end of the first connection is heard before a second one is tried.
    let _ = other.closed().await;
    assert!(!reaches(&other, &leaving).await, "nobody is there any more");
}
