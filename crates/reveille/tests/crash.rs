//! What `kill -9` at any moment leaves behind: every binding that a phone was told of, and none that it was told is gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use process::{PATIENCE, Server};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reveille::lab::{DOMAIN, Lab, LabOptions, PASSWORD};
use reveille_testkit::{
    pns::Provider,
    ua::{Phone, Transport},
};
use tokio::{sync::watch, task::JoinSet};

/// How often the node is killed.
const CYCLES: usize = 5;
/// Phones that register at the same time.
const WORKERS: usize = 24;
/// The kill comes after so many answers, drawn anew each time.
const ANSWERS: std::ops::Range<usize> = 20..300;
/// Users for a cycle; each has its own, so that what an earlier cycle left is not touched again.
const USERS: usize = 600;
/// What a phone waits for an answer that a dead node will not give. UDP phones learn of the death by this alone.
const SHORT: Duration = Duration::from_secs(3);

/// What a phone knows of its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Knowledge {
    /// A request is on its way: the node may have carried it out or not.
    Nothing,
    /// 200 to a registration of this contact.
    Bound(String),
    /// 200 to its removal.
    Removed,
}

type Ledger = Arc<Mutex<BTreeMap<String, Knowledge>>>;

// S-109, P-170, and the case "restart between REGISTER and call" with a restart that nobody announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_killed_nodes_forget_no_acknowledged_binding() {
    let seed = std::env::var("REVEILLE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}: set REVEILLE_TEST_SEED to it to draw the same moments again");
    let mut random = StdRng::seed_from_u64(seed);
    let users = (0..CYCLES * USERS).map(user).chain(["sleeper".to_owned()]).collect();
    let extra = "[limits]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    let lab = Lab::start(LabOptions { users, extra, ..LabOptions::default() }).await.unwrap();
    let tls = Transport::tls(&lab.pns.ca().pem(), "localhost").unwrap();
    let ledger = Ledger::default();

    let mut server = serve(&lab).await;
    let mut sleeper = lab.phone("sleeper", Provider::Apns, server.addr("tls")).unwrap().patience(PATIENCE).build();
    sleeper.connect().await.unwrap();
    assert_eq!(sleeper.register(3600).await.unwrap().code(), 200);
    sleeper.sleep().await;

    for cycle in 0..CYCLES {
        let answers = watch::Sender::new(0);
        let next = Arc::new(AtomicUsize::new(cycle * USERS));
        let mut workers = JoinSet::new();
        for n in 0..WORKERS {
            let worker = Worker {
                node: if n % 3 == 0 { server.addr("tls") } else { server.addr("udp") },
                transport: if n % 3 == 0 { tls.clone() } else { Transport::Udp },
                next: Arc::clone(&next),
                last: (cycle + 1) * USERS,
                answers: answers.clone(),
                ledger: Arc::clone(&ledger),
                taken: ["tcp", "tls"].map(|transport| server.addr(transport)).to_vec(),
            };
            workers.spawn(worker.run());
        }
        let moment = random.random_range(ANSWERS);
        let mut counted = answers.subscribe();
        tokio::time::timeout(PATIENCE, counted.wait_for(|count| *count >= moment)).await.unwrap().unwrap();
        server.kill();
        workers.join_all().await;
        let used = next.load(Ordering::Relaxed).min((cycle + 1) * USERS) - cycle * USERS;
        assert!(used < USERS, "the load ended before the kill");

        server = serve(&lab).await;
        let checked = check(&ledger, server.addr("udp")).await;
        println!("cycle {cycle}: killed after {moment} answers, {used} users of this cycle, {checked} of all checked");
    }
    wake_after_restarts(&lab, &server, sleeper).await;
    assert_eq!(server.metric("reveille_registrar_records_unreadable_total").await, 0.0);
}

async fn serve(lab: &Lab) -> Server {
    Server::start(Path::new(env!("CARGO_BIN_EXE_reveille")), &lab.config_file(), &[]).await
}

struct Worker {
    node: SocketAddr,
    transport: Transport,
    next: Arc<AtomicUsize>,
    last: usize,
    answers: watch::Sender<usize>,
    ledger: Ledger,
    /// Where the node listens.
    taken: Vec<SocketAddr>,
}

impl Worker {
    /// Registers one user after the other, refreshes every other and removes every fourth, until the node answers no more.
    async fn run(self) {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.last || self.phone(n).await.is_none() {
                return;
            }
        }
    }

    async fn phone(&self, n: usize) -> Option<()> {
        let name = user(n);
        let phone = Phone::builder(&name, DOMAIN, self.node, self.transport.clone()).password(PASSWORD);
        let mut phone = phone.patience(SHORT).without_transcript().build();
        phone.connect().await.ok()?;
        // A datagram phone on the node's own host that got a port of the node's for another transport: its Contact would name the
        // node (S-114).
        while phone.local_addr().is_some_and(|addr| self.taken.contains(&addr)) {
            phone.connect().await.ok()?;
        }
        let contact = phone.register_contact().trim_matches(['<', '>']).to_owned();
        self.note(&name, Knowledge::Nothing);
        self.answered(phone.register(3600).await.ok()?.code());
        self.note(&name, Knowledge::Bound(contact));
        if n.is_multiple_of(2) {
            self.answered(phone.register(3600).await.ok()?.code());
        }
        if n % 4 == 1 {
            self.note(&name, Knowledge::Nothing);
            self.answered(phone.register(0).await.ok()?.code());
            self.note(&name, Knowledge::Removed);
        }
        Some(())
    }

    fn answered(&self, code: u16) {
        assert_eq!(code, 200);
        self.answers.send_modify(|count| *count += 1);
    }

    fn note(&self, user: &str, knowledge: Knowledge) {
        self.ledger.lock().insert(user.to_owned(), knowledge);
    }
}

/// Asks the node for the bindings of every user and compares with what the phones were told; returns how many were asked for.
async fn check(ledger: &Ledger, node: SocketAddr) -> usize {
    let known: Vec<_> = ledger.lock().clone().into_iter().filter(|(_, known)| *known != Knowledge::Nothing).collect();
    let count = known.len();
    let known = Arc::new(Mutex::new(known));
    let mut asking = JoinSet::new();
    for _ in 0..WORKERS {
        let known = Arc::clone(&known);
        asking.spawn(async move {
            loop {
                let Some((user, knowledge)) = known.lock().pop() else { return };
                let listed = bindings(&user, node).await;
                match knowledge {
                    Knowledge::Bound(contact) => assert_eq!(listed, [contact], "{user} was told of its binding"),
                    Knowledge::Removed => assert!(listed.is_empty(), "{user} was told that it has none: {listed:?}"),
                    Knowledge::Nothing => {}
                }
            }
        });
    }
    asking.join_all().await;
    count
}

/// The Contact URIs in the answer to a REGISTER without Contact (RFC 3261 §10.2.3).
async fn bindings(user: &str, node: SocketAddr) -> Vec<String> {
    let phone = Phone::builder(user, DOMAIN, node, Transport::Udp).password(PASSWORD);
    let mut phone = phone.patience(PATIENCE).without_transcript().build();
    phone.connect().await.unwrap();
    let mut fetch = phone.register_request(0);
    fetch.remove("Contact");
    fetch.remove("Expires");
    let answer = phone.exchange(fetch).await.unwrap();
    assert_eq!(answer.code(), 200, "{user}");
    let uri = |value: &String| value.split_once('<')?.1.split_once('>').map(|(uri, _)| uri.to_owned());
    answer.values("Contact").iter().filter_map(uri).collect()
}

/// The phone that registered with the first process is called through the last.
async fn wake_after_restarts(lab: &Lab, server: &Server, mut sleeper: Phone) {
    let mut caller = lab.plain_phone("caller", server.addr("tls")).unwrap().patience(PATIENCE).build();
    caller.connect().await.unwrap();
    assert_eq!(caller.register(3600).await.unwrap().code(), 200);
    let mut call = caller.invite(&format!("sip:sleeper@{DOMAIN}")).unwrap();
    sleeper.wait_wake(PATIENCE).await.unwrap();
    sleeper.connect_to(server.addr("tls")).await.unwrap();
    assert_eq!(sleeper.register(3600).await.unwrap().code(), 200);
    let mut incoming = sleeper.expect_invite(PATIENCE).await.unwrap();
    incoming.ring().unwrap();
    incoming.answer().unwrap();
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 200);
    incoming.expect_ack(PATIENCE).await.unwrap();
    assert_eq!(call.bye(PATIENCE).await.unwrap().code(), 200);
    assert_eq!(sleeper.invites().into_values().collect::<Vec<_>>(), [1]);
}

fn user(n: usize) -> String {
    format!("k{n}")
}
