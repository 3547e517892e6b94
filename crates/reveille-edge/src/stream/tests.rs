//! Connections over an in-memory pipe, under a paused clock.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;
use proptest::prelude::*;
use reveille_proxy::egress::{Destination, Flows, SendError};
use reveille_registrar::flow::{FlowProbe, FlowRef, Liveness, NodeTag, Transport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

use super::*;
use crate::{Edge, EdgeSettings, LimitsSettings, OutboundSettings, Roots, TimeoutSettings, TokenRing, flows::Origin};

/// An ingress that notes what it gets.
struct Recorder {
    messages: mpsc::UnboundedSender<Message>,
    closed: mpsc::UnboundedSender<FlowRef>,
    overloaded: AtomicBool,
}

impl reveille_proxy::ingress::Ingress for Recorder {
    fn deliver(&self, inbound: Inbound) -> Result<(), Inbound> {
        if self.overloaded.load(Ordering::Relaxed) {
            return Err(inbound);
        }
        let _ = self.messages.send(inbound.message);
        Ok(())
    }

    fn flow_closed(&self, flow: &FlowRef) {
        let _ = self.closed.send(*flow);
    }
}

struct Bench {
    edge: Edge,
    recorder: Arc<Recorder>,
    messages: mpsc::UnboundedReceiver<Message>,
    closed: mpsc::UnboundedReceiver<FlowRef>,
}

impl Bench {
    fn new(limits: LimitsSettings) -> Self {
        let settings = EdgeSettings {
            node: NodeTag(1),
            epoch: 1,
            listeners: Vec::new(),
            limits,
            timeouts: TimeoutSettings::default(),
            outbound: OutboundSettings { roots: Roots::None, ..OutboundSettings::default() },
            cluster: None,
            tokens: TokenRing::random(),
            tickets: None,
            sip: reveille_sip::limits::Limits::default(),
        };
        let (message_sender, messages) = mpsc::unbounded_channel();
        let (closed_sender, closed) = mpsc::unbounded_channel();
        let recorder =
            Arc::new(Recorder { messages: message_sender, closed: closed_sender, overloaded: AtomicBool::new(false) });
        let edge = Edge::bind(settings, Arc::clone(&recorder) as Arc<_>, &Registry::new()).unwrap();
        Self { edge, recorder, messages, closed }
    }

    /// The phone's end of a new connection, and its flow.
    fn connect(&self, purpose: Purpose, pipe: usize) -> (DuplexStream, FlowRef) {
        let (ours, theirs) = tokio::io::duplex(pipe);
        (theirs, self.accepted(purpose, ours))
    }

    fn accepted(&self, purpose: Purpose, ours: DuplexStream) -> FlowRef {
        self.begin(purpose, ours, Origin::Accepted { listener: 0, local: "192.0.2.1:5060".parse().unwrap() })
    }

    fn dialled(&self, purpose: Purpose, ours: DuplexStream) -> FlowRef {
        let address = "198.51.100.7:5071".parse().unwrap();
        let destination = Destination { transport: Transport::Tls, address, server_name: None, lane: 0 };
        self.begin(purpose, ours, Origin::Dialled(destination))
    }

    fn begin(&self, purpose: Purpose, ours: DuplexStream, origin: Origin) -> FlowRef {
        let core = self.edge.core();
        let registration = core.table.register(&core, "198.51.100.7:40000".parse().unwrap(), purpose, origin);
        let flow = registration.link().flow;
        tokio::spawn(drive(ours, Framer::new(core.sip.clone()), registration, core, None));
        flow
    }

    async fn next(&mut self) -> Message {
        self.messages.recv().await.unwrap()
    }
}

fn request(method: &str, call_id: &str) -> String {
    format!(
        "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1:5060;rport;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
         Content-Type: text/plain\r\nContent-Length: 7\r\n\r\nh\u{e9}\r\n\r\n"
    )
}

fn call_id(message: &Message) -> String {
    message.call_id().unwrap().to_owned()
}

async fn read_all(peer: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

// S-023: octet by octet, coalesced, and with keep-alives between: the same messages.
#[tokio::test(start_paused = true)]
async fn s023_segment_boundaries_do_not_matter() {
    let mut bench = Bench::new(LimitsSettings::default());
    let text: String = ["a", "b", "c"].map(|id| request("OPTIONS", id)).join("\r\n");
    let (mut peer, _) = bench.connect(Purpose::Public, 64 * 1024);
    peer.write_all(text.as_bytes()).await.unwrap();
    let mut coalesced = Vec::new();
    for _ in 0..3 {
        coalesced.push(bench.next().await.bytes().clone());
    }
    let (mut peer, _) = bench.connect(Purpose::Public, 1);
    tokio::spawn(async move {
        for octet in text.as_bytes() {
            peer.write_all(&[*octet]).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    for want in coalesced {
        assert_eq!(*bench.next().await.bytes(), want);
    }
}

// S-125: a double CRLF is answered by one CRLF, a lone one by nothing, and neither is a message.
#[tokio::test(start_paused = true)]
async fn s125_ping_is_answered_with_pong() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, flow) = bench.connect(Purpose::Public, 1024);
    peer.write_all(request("OPTIONS", "first").as_bytes()).await.unwrap();
    bench.next().await;
    tokio::time::advance(Duration::from_secs(30)).await;
    peer.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    peer.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"\r\n");
    let Liveness::Open { last_heard } = bench.edge.table().liveness(&flow) else { panic!("flow is gone") };
    assert!(Instant::now().into_std().saturating_duration_since(last_heard) < Duration::from_secs(1));
    peer.write_all(b"\r\n").await.unwrap();
    peer.write_all(request("OPTIONS", "second").as_bytes()).await.unwrap();
    assert_eq!(call_id(&bench.next().await), "second");
    drop(peer);
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert_eq!(bench.edge.table().liveness(&flow), Liveness::Gone);
}

// S-125: half a ping is no message begun: it neither ends the connection nor shortens the time of the message after it.
#[tokio::test(start_paused = true)]
async fn s125_lone_crlf_starts_no_clock() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, _flow) = bench.connect(Purpose::Public, 4096);
    peer.write_all(request("OPTIONS", "one").as_bytes()).await.unwrap();
    bench.next().await;
    peer.write_all(b"\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let text = request("OPTIONS", "two");
    let (begin, end) = text.as_bytes().split_at(20);
    peer.write_all(begin).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    peer.write_all(end).await.unwrap();
    assert_eq!(call_id(&bench.next().await), "two");
}

// S-225: an octet per second does not keep a connection: neither before the first message nor within a later one.
#[tokio::test(start_paused = true)]
async fn s225_slow_loris_is_cut_off() {
    for greeted in [false, true] {
        let mut bench = Bench::new(LimitsSettings::default());
        let (mut peer, flow) = bench.connect(Purpose::Public, 64 * 1024);
        if greeted {
            peer.write_all(request("OPTIONS", "greeting").as_bytes()).await.unwrap();
            bench.next().await;
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let begun = Instant::now();
        let drip = tokio::spawn(async move {
            for octet in request("OPTIONS", "slow").into_bytes() {
                if peer.write_all(&[octet]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        assert_eq!(bench.closed.recv().await, Some(flow));
        assert_eq!(begun.elapsed().as_secs(), 10, "greeted: {greeted}");
        drip.abort();
    }
}

// S-225: silence ends a connection after the idle limit; keep-alives put it off.
#[tokio::test(start_paused = true)]
async fn s225_idle_connection_is_closed_and_keepalives_count() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, flow) = bench.connect(Purpose::Public, 4096);
    peer.write_all(request("OPTIONS", "one").as_bytes()).await.unwrap();
    bench.next().await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(19 * 60)).await;
        peer.write_all(b"\r\n\r\n").await.unwrap();
        let mut pong = [0; 2];
        peer.read_exact(&mut pong).await.unwrap();
    }
    let quiet = Instant::now();
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert_eq!(quiet.elapsed().as_secs(), 20 * 60);
}

// S-225: nodes of the cluster may connect before they have something to say; but from whoever sends no keep-alives either,
// nothing more is to be expected.
#[tokio::test(start_paused = true)]
async fn cluster_connections_need_not_speak_first() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, flow) = bench.connect(Purpose::Cluster, 4096);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        peer.write_all(b"\r\n\r\n").await.unwrap();
    }
    let begun = Instant::now();
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert_eq!(begun.elapsed().as_millis(), 1_500);
}

// RFC 5626 §4.4.1: a node that takes what is sent and never answers is given up, and the proxy hears of it, within two seconds.
#[tokio::test(start_paused = true)]
async fn silence_of_another_node_is_noticed() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (ours, mut peer) = tokio::io::duplex(4096);
    let flow = bench.dialled(Purpose::Cluster, ours);
    let begun = Instant::now();
    // Messages of our own do not count as a sign of the other's life.
    for n in 0..7 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bench.edge.table().send(&flow, Bytes::from(format!("message {n}"))).unwrap();
    }
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert_eq!(begun.elapsed().as_millis(), 1_500);
    let sent = read_all(&mut peer).await;
    assert_eq!((sent.matches("\r\n\r\n").count(), sent.matches("message").count()), (2, 7));
}

// A message is as good a sign of life as an answer.
#[tokio::test(start_paused = true)]
async fn a_node_that_talks_is_alive() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (ours, mut peer) = tokio::io::duplex(64 * 1024);
    let flow = bench.dialled(Purpose::Cluster, ours);
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        peer.write_all(request("OPTIONS", &n.to_string()).as_bytes()).await.unwrap();
        bench.next().await;
    }
    assert!(matches!(bench.edge.table().liveness(&flow), Liveness::Open { .. }));
}

// Two nodes with nothing to say keep their connection, by one keep-alive and one answer each half second and no more: two
// answers in a row look like a keep-alive, and must not be answered in turn.
#[tokio::test(start_paused = true)]
async fn idle_nodes_stay_connected() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (ours, theirs) = tokio::io::duplex(4096);
    let (dialled, accepted) = (bench.dialled(Purpose::Cluster, ours), bench.accepted(Purpose::Cluster, theirs));
    tokio::time::sleep(Duration::from_millis(60_250)).await;
    for flow in [dialled, accepted] {
        assert!(matches!(bench.edge.table().liveness(&flow), Liveness::Open { .. }));
    }
    assert_eq!(bench.edge.core().metrics.keepalives_crlf.get(), 120);
    assert!(bench.messages.try_recv().is_err() && bench.closed.try_recv().is_err());
}

// Others keep their rules: whoever we dialled and is no node hears no keep-alive of ours, and may be silent for long.
#[tokio::test(start_paused = true)]
async fn only_nodes_get_keep_alives() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (ours, mut peer) = tokio::io::duplex(4096);
    let flow = bench.dialled(Purpose::Peer, ours);
    let begun = Instant::now();
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert_eq!(begun.elapsed().as_secs(), 20 * 60);
    assert_eq!(read_all(&mut peer).await, "");
}

// S-021, S-024, S-030: what loses the framing, or is no SIP, is answered as well as it can be and ends the connection.
#[tokio::test(start_paused = true)]
async fn s021_s024_s030_unreadable_messages_are_answered_and_close() {
    let good = request("OPTIONS", "bad");
    let cases = [
        (good.replace("Content-Length: 7\r\n", ""), "SIP/2.0 400 "),
        (good.replace("Content-Length: 7", "Content-Length: 7\r\nContent-Length: 8"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 7", "Content-Length: -7"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 7", "Content-Length: 99999999"), "SIP/2.0 513 "),
        (good.replace("Max-Forwards: 70\r\n", "Max-Forwards: 70\r\nFoo: a\nVia: x\r\n"), "SIP/2.0 400 "),
        (good.replace("bob@example.com SIP", &format!("{}@example.com SIP", "b".repeat(5000))), "SIP/2.0 414 "),
    ];
    for (text, answer) in cases {
        let mut bench = Bench::new(LimitsSettings::default());
        let (mut peer, flow) = bench.connect(Purpose::Public, 64 * 1024);
        peer.write_all(text.as_bytes()).await.unwrap();
        let answered = read_all(&mut peer).await;
        assert!(answered.starts_with(answer), "{text}\n--\n{answered}");
        assert_eq!(bench.closed.recv().await, Some(flow));
        assert!(bench.messages.try_recv().is_err());
    }
}

// S-024: a header without end is bounded.
#[tokio::test(start_paused = true)]
async fn s024_endless_header_is_cut_off() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, flow) = bench.connect(Purpose::Public, 64 * 1024);
    let mut sent = 0;
    let _ = peer.write_all(b"OPTIONS sip:bob@example.com SIP/2.0\r\nSubject: ").await;
    while sent < 1 << 20 && peer.write_all(&[b'x'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert_eq!(bench.closed.recv().await, Some(flow));
    assert!(sent < 1 << 20, "took a megabyte");
}

// S-220: without room in the proxy requests get 503 with Retry-After; ACKs and responses get nothing.
#[tokio::test(start_paused = true)]
async fn s220_overload_is_answered_with_503() {
    let bench = Bench::new(LimitsSettings::default());
    bench.recorder.overloaded.store(true, Ordering::Relaxed);
    let (mut peer, _) = bench.connect(Purpose::Public, 64 * 1024);
    let response = request("OPTIONS", "r").replace("OPTIONS sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK");
    let text = format!("{}{}{}", request("ACK", "a"), response, request("INVITE", "i"));
    peer.write_all(text.as_bytes()).await.unwrap();
    peer.shutdown().await.unwrap();
    let answers = read_all(&mut peer).await;
    assert_eq!(answers.matches("SIP/2.0 503 ").count(), 1, "{answers}");
    assert!(answers.contains("Call-ID: i\r\n"), "{answers}");
    // S-087
    assert!(answers.contains("received=198.51.100.7") && answers.contains("rport=40000"), "{answers}");
    let retry = answers.lines().find_map(|line| line.strip_prefix("Retry-After: ")).unwrap();
    assert!((5..=15).contains(&retry.parse::<u32>().unwrap()), "{retry}");
}

// S-226: a public peer above its rate is read more slowly, a trusted one is not.
#[tokio::test(start_paused = true)]
async fn s226_messages_per_flow() {
    // Above the burst of 10, 100 messages take 9 seconds, less what one read may bring on credit.
    for (purpose, seconds) in [(Purpose::Public, 6.0..9.5), (Purpose::Peer, 0.0..0.1)] {
        let limits = LimitsSettings { messages_per_flow: 10, messages_burst: 10, ..LimitsSettings::default() };
        let mut bench = Bench::new(limits);
        let (mut peer, _flow) = bench.connect(purpose, 1024);
        let begun = Instant::now();
        tokio::spawn(async move {
            for n in 0..100 {
                peer.write_all(request("OPTIONS", &n.to_string()).as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        for n in 0..100 {
            assert_eq!(call_id(&bench.next().await), n.to_string());
        }
        let taken = begun.elapsed().as_secs_f32();
        assert!(seconds.contains(&taken), "{purpose:?}: {taken}");
    }
}

// S-227: a peer that does not read loses its flow, and no other notices.
#[tokio::test(start_paused = true)]
async fn s227_stuck_reader_is_dropped() {
    let limits = LimitsSettings { queue_messages: 8, ..LimitsSettings::default() };
    let mut bench = Bench::new(limits);
    let (mut prober, healthy) = bench.connect(Purpose::Public, 4096);
    let (stuck_peer, stuck) = bench.connect(Purpose::Public, 64);
    let flows = bench.edge.table();
    let mut refused = 0;
    for _ in 0..20 {
        let message = Bytes::from(request("MESSAGE", "flood"));
        match flows.send(&stuck, message) {
            Ok(()) => assert_eq!(refused, 0),
            Err(error) => {
                assert_eq!(error, if refused == 0 { SendError::Full } else { SendError::Gone });
                refused += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(refused > 0);
    assert_eq!(flows.liveness(&stuck), Liveness::Gone);
    assert_eq!(bench.closed.recv().await, Some(stuck));
    flows.send(&healthy, Bytes::from_static(b"hello")).unwrap();
    let mut hello = [0; 5];
    prober.read_exact(&mut hello).await.unwrap();
    drop(stuck_peer);
}

// What was accepted before a close still leaves.
#[tokio::test(start_paused = true)]
async fn close_flushes_what_was_queued() {
    let mut bench = Bench::new(LimitsSettings::default());
    let (mut peer, flow) = bench.connect(Purpose::Public, 16);
    let flows = bench.edge.table();
    for text in ["one ", "two ", "and a third that is longer than the pipe"] {
        flows.send(&flow, Bytes::from(text)).unwrap();
    }
    flows.close(&flow);
    assert_eq!(flows.send(&flow, Bytes::from_static(b"late")), Err(SendError::Gone));
    assert_eq!(read_all(&mut peer).await, "one two and a third that is longer than the pipe");
    assert_eq!(bench.closed.recv().await, Some(flow));
}

// An idle connection is cheap: what its task holds beside the stream itself.
#[tokio::test(start_paused = true)]
async fn idle_task_is_small() {
    let bench = Bench::new(LimitsSettings::default());
    let core = bench.edge.core();
    let origin = Origin::Accepted { listener: 0, local: "192.0.2.1:5060".parse().unwrap() };
    let registration = core.table.register(&core, "198.51.100.7:1".parse().unwrap(), Purpose::Public, origin);
    let (ours, _theirs) = tokio::io::duplex(1);
    let task = drive(Box::new(ours), Framer::new(core.sip.clone()), registration, Arc::clone(&core), None);
    assert!(std::mem::size_of_val(&task) <= 2048, "{} octets", std::mem::size_of_val(&task));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // S-023: messages queued in any sizes leave in order and whole through a pipe of any width.
    #[test]
    fn queued_messages_leave_in_order(lengths in proptest::collection::vec(1_usize..200, 1..40), pipe in 1_usize..300) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(LimitsSettings::default());
            let (mut peer, flow) = bench.connect(Purpose::Peer, pipe);
            let mut want = Vec::new();
            for (n, length) in lengths.into_iter().enumerate() {
                let message = vec![n as u8; length];
                want.extend_from_slice(&message);
                bench.edge.table().send(&flow, message.into()).unwrap();
            }
            let mut got = vec![0; want.len()];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(got, want);
        });
    }
}
