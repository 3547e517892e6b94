//! The load: phones that sleep and refresh, callers that call them, and one probe for each shard that registers all the time.

mod call;
mod phone;
mod probe;

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use reveille_testkit::{pns::Provider, ua::Phone};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    cluster::{Cluster, Edge, Edges, Killed, probes},
    ledger::Ledger,
    report::Tallies,
};

/// An INVITE must have its final answer by then (RFC 3261 §17.1.1.2, timer B).
const CALL_LIMIT: Duration = Duration::from_secs(32);
/// How long a REGISTER or a connection may take before the phone tries another edge.
const PHONE_PATIENCE: Duration = Duration::from_secs(4);
/// How long what is refused or fails waits before it is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long the phones may take to come to rest at the end: every call has its answer by then, and was ended or given up.
const REST_PATIENCE: Duration = Duration::from_secs(150);
/// Pushes and answers of the shortest registration that is asked for, seconds: longer than any run.
const EXPIRES: u32 = 86_400;

/// What all phones share.
pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    pub(crate) tallies: Tallies,
    edges: Edges,
    killed: Killed,
    calls: Mutex<HashMap<String, Arc<CallPlan>>>,
    under_way: AtomicUsize,
    trace: Trace,
    /// No more calls are begun.
    resting: AtomicBool,
    /// Everybody stops.
    stopping: AtomicBool,
}

/// What phones did, line by line: the evidence where something went wrong.
struct Trace {
    file: Mutex<std::fs::File>,
    start: Instant,
}

impl Trace {
    fn say(&self, what: std::fmt::Arguments<'_>) {
        let at = self.start.elapsed().as_secs_f64();
        // A line that cannot be written is no reason to stop.
        let _ = writeln!(self.file.lock(), "{at:9.3} {what}");
    }
}

/// What both sides of a call have agreed upon.
struct CallPlan {
    /// The phone hangs up, rather than the caller.
    phone_ends: bool,
    /// How long they talk.
    talk: Duration,
    /// Why the phone could not hang up.
    failure: Mutex<Option<String>>,
    /// The call is over, one way or another.
    over: AtomicBool,
    /// The one who doesn't hang up waits for this.
    changed: Notify,
}

impl CallPlan {
    /// Nobody has to do anything for this call any more.
    fn finish(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// A phone that can be called, as callers see it.
struct Callee {
    user: String,
    /// A call to it is under way: phones have one call at a time.
    busy: AtomicBool,
}

/// The INVITEs of a phone.
#[derive(Default)]
struct Seen {
    /// Those that came over a connection which was closed before the phone could take them up, by Call-ID. A phone cannot
    /// answer them any more (RFC 3261 §18.2.2 wants the same connection), so the proxy may send them over the next one.
    dropped: HashMap<String, u32>,
    /// Calls for which a violation was reported.
    reported: HashSet<String>,
}

impl Seen {
    /// Closes the connection, and everything that came over it and was not taken up.
    async fn forget_connection(&mut self, phone: &mut Phone) {
        phone.sleep().await;
        while let Ok(incoming) = phone.expect_invite(Duration::ZERO).await {
            *self.dropped.entry(incoming.call_id().to_owned()).or_default() += 1;
        }
    }

    /// No phone gets two INVITEs of one call.
    fn check(&mut self, shared: &Shared, phone: &Phone, user: &str) {
        for (call_id, count) in phone.invites() {
            let dropped = self.dropped.get(&call_id).copied().unwrap_or_default();
            if count > 1 + dropped && self.reported.insert(call_id.clone()) {
                shared.ledger.violation(format!("{user} got {count} INVITEs of call {call_id}, {dropped} in vain"));
            }
        }
    }
}

/// Running traffic.
pub(crate) struct Traffic {
    pub(crate) shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// How much traffic.
#[derive(Clone, Copy)]
pub(crate) struct Volume {
    pub(crate) phones: u16,
    pub(crate) calls: f64,
    pub(crate) seed: u64,
}

/// Callers: as many as calls can be under way.
pub(crate) const CALLERS: u16 = 40;
/// Between the first registrations of two phones.
const STAGGER: Duration = Duration::from_millis(25);

/// All users of a run.
pub(crate) fn users(volume: Volume) -> Vec<String> {
    let phones = (0..volume.phones).map(phone_name);
    let callers = (0..CALLERS).map(caller_name);
    phones.chain(callers).chain(probes()).collect()
}

fn phone_name(number: u16) -> String {
    format!("phone{number}")
}

fn caller_name(number: u16) -> String {
    format!("caller{number}")
}

impl Traffic {
    /// Starts everybody.
    pub(crate) fn start(cluster: &Cluster, volume: Volume, logs: &Path) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            ledger: Ledger::default(),
            tallies: Tallies::default(),
            edges: Arc::clone(&cluster.edges),
            killed: Arc::clone(&cluster.killed),
            calls: Mutex::default(),
            under_way: AtomicUsize::new(0),
            trace: Trace { file: Mutex::new(std::fs::File::create(logs.join("trace.log"))?), start: Instant::now() },
            resting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        let mut seeds = StdRng::seed_from_u64(volume.seed);
        let mut rng = || StdRng::seed_from_u64(seeds.random());
        let somewhere = shared.edges.lock()[0].addr;
        let mut callees = Vec::new();
        let mut stagger = (0..).map(|number| STAGGER * number);
        let mut turn = || stagger.next().unwrap_or_default();
        for number in 0..volume.phones {
            let user = phone_name(number);
            let provider = [Provider::Apns, Provider::Fcm, Provider::WebPush][usize::from(number % 3)];
            let phone =
                cluster.lab.phone(&user, provider, somewhere)?.patience(PHONE_PATIENCE).without_transcript().build();
            let callee = Arc::new(Callee { user, busy: AtomicBool::new(true) });
            tasks.spawn(phone::live(Arc::clone(&shared), phone, Arc::clone(&callee), turn(), rng()));
            callees.push(callee);
        }
        for user in probes() {
            let phone = cluster
                .lab
                .phone(&user, Provider::Fcm, somewhere)?
                .patience(PHONE_PATIENCE)
                .without_transcript()
                .build();
            tasks.spawn(probe::live(Arc::clone(&shared), phone, user, turn(), rng()));
        }
        let gap = Duration::from_secs_f64(f64::from(CALLERS) / volume.calls.max(0.01));
        let callees = Arc::new(callees);
        for number in 0..CALLERS {
            let user = caller_name(number);
            let builder = cluster.lab.plain_phone(&user, somewhere)?.instance(uuid::Uuid::new_v4()).reg_id(1);
            let phone = builder.patience(PHONE_PATIENCE).without_transcript().build();
            let caller = call::Caller { phone, user, edge: None, seen: Seen::default() };
            tasks.spawn(call::live(Arc::clone(&shared), caller, Arc::clone(&callees), gap, (turn(), rng())));
        }
        Ok(Self { shared, tasks })
    }

    /// Lets every call come to its end, and then everybody stop.
    pub(crate) async fn rest(mut self) -> Arc<Shared> {
        self.shared.resting.store(true, Ordering::Release);
        let start = Instant::now();
        while self.shared.under_way.load(Ordering::Acquire) > 0 && start.elapsed() < REST_PATIENCE {
            sleep(Duration::from_millis(50)).await;
        }
        self.shared.stopping.store(true, Ordering::Release);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(REST_PATIENCE, ended).await.is_err() {
            self.shared.ledger.violation("phones did not come to rest".to_owned());
        }
        Arc::clone(&self.shared)
    }
}

impl Shared {
    fn stops(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// An edge by chance; phones know of all, and not which of them live.
    fn edge(&self, rng: &mut StdRng) -> Edge {
        let edges = self.edges.lock();
        edges.choose(rng).copied().unwrap_or(edges[0])
    }

    /// Whether an edge's process was killed. One that was asked to stop was not.
    fn was_killed(&self, edge: Edge) -> bool {
        self.killed.lock().contains(&(edge.seat, edge.life))
    }

    /// Registers once. `None` when the phone should try again, elsewhere.
    async fn register(&self, phone: &mut Phone, user: &str) -> Option<()> {
        match phone.register_timed(EXPIRES).await {
            Ok(received) if received.message.code() == 200 => {
                self.ledger.acknowledged(user, received.message.call_id(), received.message.cseq().0);
                self.tallies.note(|tally| tally.registered += 1);
                Some(())
            }
            Ok(received) => {
                let code = received.message.code();
                self.tallies.note(|tally| *tally.register_refused.entry(code).or_default() += 1);
                self.trace.say(format_args!("{user} REGISTER refused {code}"));
                None
            }
            Err(error) => {
                self.trace.say(format_args!("{user} REGISTER failed: {error}"));
                self.tallies.note(|tally| tally.register_failed += 1);
                None
            }
        }
    }

    /// Connects and registers, wherever that is possible, for as long as it takes. `None` when everybody stops.
    async fn attach(&self, phone: &mut Phone, seen: &mut Seen, user: &str, rng: &mut StdRng) -> Option<Edge> {
        while !self.stops() {
            seen.forget_connection(phone).await;
            let edge = self.edge(rng);
            if phone.connect_to(edge.addr).await.is_ok() && self.register(phone, user).await.is_some() {
                self.trace.say(format_args!("{user} registered over {} life {}", edge.seat + 1, edge.life));
                return Some(edge);
            }
            seen.forget_connection(phone).await;
            sleep(RETRY).await;
        }
        None
    }
}
