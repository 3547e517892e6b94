//! Asks for the bindings of many users through the edges, each until it has been answered: when does the first 200 come?

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use reveille::lab::DOMAIN;

use crate::{datagram::authorize, fill::instance, user};

/// How long answers are waited for before what is due is looked for.
const TICK: Duration = Duration::from_millis(1);
/// Sockets toward each edge: answers come all at once, and more than one socket's buffer holds.
const SOCKETS: usize = 8;
/// How often a thread that listens looks whether it is still wanted.
const LISTEN: Duration = Duration::from_millis(100);
/// The pause after a refusal.
const PAUSE: Duration = Duration::from_millis(20);
/// A request without any answer is repeated after this long (Timer E reaches it, RFC 3261 §17.1.2.1).
const AGAIN: Duration = Duration::from_secs(2);
/// When to give up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user whose bindings are asked for.
struct Asker {
    n: usize,
    cseq: u32,
    nonce: String,
    count: u32,
    /// When to send next, and whether that is a repetition.
    due: Option<Instant>,
    last: Vec<u8>,
    waits: bool,
    socket: usize,
}

/// The users, and sockets toward each edge.
pub(crate) struct Probe {
    sockets: Vec<UdpSocket>,
    answers: Receiver<(Instant, Vec<u8>)>,
    wanted: Arc<AtomicBool>,
    askers: Vec<Asker>,
    /// Final answers other than 200 and 401, by status.
    pub(crate) refused: std::collections::BTreeMap<String, usize>,
}

impl Probe {
    pub(crate) fn new(users: &[usize], edges: &[SocketAddr]) -> Self {
        let wanted = Arc::new(AtomicBool::new(true));
        let (heard, answers) = channel();
        let connect = |edge: &SocketAddr| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(edge).unwrap();
            socket.set_read_timeout(Some(LISTEN)).unwrap();
            let (ear, wanted, heard) = (socket.try_clone().unwrap(), Arc::clone(&wanted), heard.clone());
            std::thread::spawn(move || listen(&ear, &wanted, &heard));
            socket
        };
        let sockets: Vec<_> = edges.iter().cycle().take(edges.len() * SOCKETS).map(connect).collect();
        let asker = |(at, &n): (usize, &usize)| Asker {
            n,
            cseq: 0,
            nonce: String::new(),
            count: 0,
            due: None,
            last: Vec::new(),
            waits: false,
            socket: at % sockets.len(),
        };
        let askers = users.iter().enumerate().map(asker).collect();
        Self { sockets, answers, wanted, askers, refused: Default::default() }
    }

    /// Asks for each user's bindings, beginning `starts[i]` after `zero`, again and again until there is a 200, and sees that
    /// the binding is in it. Returns the time of each 200, counted from `zero`.
    pub(crate) fn run(&mut self, zero: Instant, starts: &[Duration]) -> Vec<Duration> {
        for (asker, start) in self.askers.iter_mut().zip(starts) {
            (asker.due, asker.waits) = (Some(zero + *start), false);
        }
        let mut answered = vec![None; self.askers.len()];
        while answered.iter().any(Option::is_none) {
            let now = now();
            assert!(now < zero + PATIENCE, "no 200 for {} users", answered.iter().filter(|at| at.is_none()).count());
            for at in 0..self.askers.len() {
                if self.askers[at].due.is_some_and(|due| due <= now) {
                    self.send(at, now);
                }
            }
            let mut next = self.answers.recv_timeout(TICK).ok();
            while let Some((at, answer)) = next {
                if let Some(asker) = self.hear(&answer) {
                    answered[asker] = Some(at - zero);
                }
                next = self.answers.try_recv().ok();
            }
        }
        answered.into_iter().flatten().collect()
    }

    fn send(&mut self, at: usize, now: Instant) {
        let asker = &mut self.askers[at];
        let socket = &self.sockets[asker.socket];
        if !asker.waits {
            asker.waits = true;
            asker.cseq += 1;
            let (name, local, cseq) = (user(asker.n), socket.local_addr().unwrap(), asker.cseq);
            let mut text = format!(
                "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKp{at}x{cseq};rport\r\nMax-Forwards: 70\r\n\
                 From: <sip:{name}@{DOMAIN}>;tag=p{at}\r\nTo: <sip:{name}@{DOMAIN}>\r\nCall-ID: {at}@probe{}\r\n\
                 CSeq: {cseq} REGISTER\r\nSupported: path\r\n",
                local.port()
            );
            if !asker.nonce.is_empty() {
                asker.count += 1;
                authorize(&mut text, &name, &asker.nonce, asker.count);
            }
            text.push_str("Content-Length: 0\r\n\r\n");
            asker.last = text.into_bytes();
        }
        asker.due = Some(now + AGAIN);
        let _ = socket.send(&asker.last);
    }

    /// The user to whom this was the 200.
    fn hear(&mut self, answer: &[u8]) -> Option<usize> {
        let text = std::str::from_utf8(answer).unwrap();
        let status = &text[8..11];
        let after = |name: &str| text.split_once(name).unwrap().1;
        let at: usize = after("\r\nCall-ID: ").split_once('@').unwrap().0.parse().unwrap();
        let cseq: u32 = after("\r\nCSeq: ").split_once(' ').unwrap().0.parse().unwrap();
        let asker = &mut self.askers[at];
        if cseq != asker.cseq || !asker.waits || status == "100" {
            return None;
        }
        asker.waits = false;
        match status {
            "200" => {
                assert!(text.contains(&instance(asker.n)), "the binding of {} is lost: {text}", user(asker.n));
                asker.due = None;
                Some(at)
            }
            "401" => {
                let (_, rest) = text.split_once("nonce=\"").unwrap();
                asker.nonce = rest.split_once('"').unwrap().0.to_owned();
                asker.count = 0;
                self.send(at, now());
                None
            }
            _ => {
                *self.refused.entry(status.to_owned()).or_default() += 1;
                asker.due = Some(now() + PAUSE);
                None
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

/// Passes on what comes, with the time at which it came.
fn listen(socket: &UdpSocket, wanted: &AtomicBool, heard: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = [0; 8192];
    while wanted.load(Ordering::Relaxed) {
        if let Ok(length) = socket.recv(&mut buffer) {
            let _ = heard.send((now(), buffer[..length].to_vec()));
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
