//! Refreshes over UDP by a client that costs next to nothing, so that the node is kept as busy as the measurement says.

use std::{
    fmt::Write as _,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    time::{Duration, Instant},
};

use reveille::lab::{DOMAIN, PASSWORD};
use reveille_proxy::auth::{Algorithm, ha1};
use reveille_testkit::pns::DeviceKind;
use sha2::{Digest as _, Sha256};

use crate::{each, field, quantile, user};

/// Without any answer for this long, everything in flight is sent again.
const SILENCE: Duration = Duration::from_millis(500);
/// Users that refresh.
const USERS: usize = 10_000;

/// Processor time and latency of a refresh with digest (SHA-256) and an APNs token, by the number in flight.
pub(crate) async fn refreshes(count: usize) {
    let (lab, server) = field(USERS).await;
    let mut load =
        Load::new(0..USERS, server.addr("udp"), lab.pns.register_device(DeviceKind::ApnsVoip).param.unwrap());
    load.run(USERS, 64); // everybody registers
    load.run(USERS, 64); // and refreshes once
    println!(
        "| In flight | Refreshes/s | CPU µs/refresh | of it system | writes per flush | p50 ms | p99 ms |\n|---:|---:|---:|---:|---:|---:|---:|"
    );
    for in_flight in [1, 16, 64, 256, 1024] {
        let count = if in_flight == 1 { count / 10 } else { count };
        let flushes = server.metric("reveille_store_batch_size_count").await;
        let (before, start) = (server.cpu_split(), now());
        let mut latencies = load.run(count, in_flight);
        let (after, took) = (server.cpu_split(), start.elapsed());
        let (user, system) = (after.0 - before.0, after.1 - before.1);
        let batch = count as f64 / (server.metric("reveille_store_batch_size_count").await - flushes);
        let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
        let rate = count as f64 / took.as_secs_f64();
        let (all, system) = (each(user + system, count), each(system, count));
        println!("| {in_flight} | {rate:.0} | {all:.1} | {system:.1} | {batch:.1} | {p50:.2} | {p99:.2} |");
    }
    println!("{} datagrams sent again, {} REGISTERs refused or challenged again", load.resent, load.refused);
}

/// Resident memory of the whole process, per binding.
pub(crate) async fn memory(bindings: usize) {
    let (lab, server) = field(bindings).await;
    let before = server.resident();
    let mut load =
        Load::new(0..bindings, server.addr("udp"), lab.pns.register_device(DeviceKind::ApnsVoip).param.unwrap());
    for round in ["registered", "refreshed"] {
        let (cpu, start) = (server.cpu(), now());
        load.run(bindings, 256);
        let (cpu, took) = (server.cpu() - cpu, start.elapsed());
        let settled = server.metric("reveille_registrar_bindings").await;
        assert_eq!(settled as usize, bindings);
        let now = server.resident();
        println!(
            "{bindings} bindings {round} in {:.1} s ({:.1} µs of CPU each): {} MiB with the users alone, {} MiB now, {} bytes per binding",
            took.as_secs_f64(),
            each(cpu, bindings),
            before >> 20,
            now >> 20,
            (now - before) / bindings as u64,
        );
    }
    // What a transaction keeps for retransmissions is gone after 32 s (Timer J).
    tokio::time::sleep(Duration::from_secs(40)).await;
    let now = server.resident();
    println!("after 40 s of rest: {} MiB, {} bytes per binding", now >> 20, (now - before) / bindings as u64);
}

/// Phones at one socket, and the node that they register at.
pub(crate) struct Load {
    socket: UdpSocket,
    param: String,
    /// The number of the first phone's user.
    first: usize,
    phones: Vec<Phone>,
    next: usize,
    pub(crate) resent: u64,
    pub(crate) refused: u64,
}

struct Phone {
    cseq: u32,
    nonce: String,
    count: u32,
    sent: Instant,
    last: Vec<u8>,
    waiting: bool,
}

impl Load {
    pub(crate) fn new(users: Range<usize>, node: SocketAddr, param: String) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(node).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let phone = || Phone { cseq: 0, nonce: String::new(), count: 0, sent: now(), last: Vec::new(), waiting: false };
        let (first, phones) = (users.start, users.map(|_| phone()).collect());
        Self { socket, param, first, phones, next: 0, resent: 0, refused: 0 }
    }

    /// `count` REGISTERs in turn of the phones, `in_flight` of them under way at any time; latencies, challenges not counted.
    pub(crate) fn run(&mut self, count: usize, in_flight: usize) -> Vec<Duration> {
        let mut latencies = Vec::with_capacity(count);
        let mut started = 0;
        while started < in_flight.min(count) {
            self.start();
            started += 1;
        }
        let mut buffer = [0; 4096];
        while latencies.len() < count {
            // Blocking: a client that spins would take a core from the node.
            let Ok(length) = self.socket.recv(&mut buffer) else {
                self.again();
                continue;
            };
            let Some(latency) = self.answered(&buffer[..length]) else { continue };
            latencies.push(latency);
            if started < count {
                self.start();
                started += 1;
            }
        }
        latencies
    }

    fn start(&mut self) {
        while self.phones[self.next].waiting {
            self.next = (self.next + 1) % self.phones.len();
        }
        let at = self.next;
        self.next = (self.next + 1) % self.phones.len();
        self.phones[at].sent = now();
        self.send(at);
    }

    fn send(&mut self, at: usize) {
        let phone = &mut self.phones[at];
        phone.cseq += 1;
        phone.waiting = true;
        let n = self.first + at;
        let (name, local) = (user(n), self.socket.local_addr().unwrap());
        let mut text = format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKm{n}x{};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{name}@{DOMAIN}>;tag=m{n}\r\nTo: <sip:{name}@{DOMAIN}>\r\nCall-ID: {n}@measure\r\n\
             CSeq: {} REGISTER\r\nContact: <sip:{name}@{local};pn-provider=apns;pn-param={};pn-prid={n:064x}>\
             ;+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-{n:012x}>\"\r\nExpires: 3600\r\nSupported: path, outbound, gruu\r\n\
             Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, UPDATE, NOTIFY\r\nUser-Agent: measure/1.0\r\n",
            phone.cseq, phone.cseq, self.param
        );
        if !phone.nonce.is_empty() {
            phone.count += 1;
            authorize(&mut text, &name, &phone.nonce, phone.count);
        }
        text.push_str("Content-Length: 0\r\n\r\n");
        phone.last = text.into_bytes();
        let _ = self.socket.send(&phone.last);
    }

    /// The latency of a phone's REGISTER, if this was its 200.
    fn answered(&mut self, answer: &[u8]) -> Option<Duration> {
        let text = std::str::from_utf8(answer).unwrap();
        let status = &text[8..11];
        let (_, rest) = text.split_once("\r\nCall-ID: ").unwrap();
        let at = rest.split_once('@').unwrap().0.parse::<usize>().unwrap() - self.first;
        let (_, rest) = text.split_once("\r\nCSeq: ").unwrap();
        let cseq: u32 = rest.split_once(' ').unwrap().0.parse().unwrap();
        let phone = &mut self.phones[at];
        if cseq != phone.cseq || !phone.waiting || status == "100" {
            return None;
        }
        if status == "200" {
            phone.waiting = false;
            return Some(phone.sent.elapsed());
        }
        assert_eq!(status, "401", "{text}");
        self.refused += u64::from(phone.count > 0);
        let (_, rest) = text.split_once("nonce=\"").unwrap();
        phone.nonce = rest.split_once('"').unwrap().0.to_owned();
        phone.count = 0;
        self.send(at);
        None
    }

    fn again(&mut self) {
        for at in 0..self.phones.len() {
            if self.phones[at].waiting {
                self.resent += 1;
                let _ = self.socket.send(&self.phones[at].last);
            }
        }
    }
}

/// Adds credentials for a SHA-256 challenge (RFC 7616 §3.4).
pub(crate) fn authorize(text: &mut String, name: &str, nonce: &str, count: u32) {
    let hash = |text: String| hex::encode(Sha256::digest(text));
    let ha1 = ha1(name, DOMAIN, PASSWORD, Algorithm::Sha256);
    let ha2 = hash(format!("REGISTER:sip:{DOMAIN}"));
    let response = hash(format!("{ha1}:{nonce}:{count:08x}:abcdef:auth:{ha2}"));
    write!(
        text,
        "Authorization: Digest username=\"{name}\", realm=\"{DOMAIN}\", nonce=\"{nonce}\", uri=\"sip:{DOMAIN}\", \
         response=\"{response}\", algorithm=SHA-256, qop=auth, nc={count:08x}, cnonce=\"abcdef\"\r\n"
    )
    .unwrap();
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
