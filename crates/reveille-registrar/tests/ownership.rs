//! Shards that come to a node and leave it: served from the first moment, handed over without a loss.
#![allow(clippy::unwrap_used)] // a test fails loudly
#![allow(clippy::await_holding_lock)] // a lock held is what makes the store slow

mod support;

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use prometheus::Registry;
use reveille_push::{Outcome, PushClass};
use reveille_registrar::{
    ContactsUpdate, HomeEvent, RegisterRequest, Registrar, RegistrarConfig, ResolveRequest, ShardInput, WorkerRef,
    metrics::Metrics, replica::Inherited, shard::PushLimits,
};
use reveille_runtime::{Fatal, RuntimeMetrics, clock};
use reveille_sip::method::Method;
use support::{Events, Fate, Followed, Gone, Memory, Services, aor, register};
use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

const SHARDS: u16 = 4;

struct Home {
    registrar: Registrar,
    events: UnboundedReceiver<(WorkerRef, HomeEvent)>,
    metrics: Metrics,
}

impl Home {
    /// A node that owns nothing yet.
    async fn start(store: &Arc<Memory>) -> Self {
        Self::with(store, PushLimits::default()).await
    }

    async fn with(store: &Arc<Memory>, limits: PushLimits) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let mut config = RegistrarConfig::new(metrics.clone(), RuntimeMetrics::new(&registry).unwrap(), Fatal::new().0);
        (config.shards, config.assigned, config.shard.defers) = (SHARDS, true, true);
        config.shard.push_limits = limits;
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let (services, flows) = (Arc::new(Services(Fate::Answered(Outcome::Accepted))), Arc::new(Gone::default()));
        let registrar =
            Registrar::spawn(config, store.clone(), services, flows, Arc::new(Events(sender))).await.unwrap();
        Self { registrar, events, metrics }
    }

    async fn owner(store: &Arc<Memory>) -> Self {
        let home = Self::start(store).await;
        (0..SHARDS).for_each(|shard| home.registrar.acquire(shard));
        home
    }

    fn registers(&self, n: u32, cseq: u32) {
        self.registrar.send(&aor(n), ShardInput::Register(Box::new(register(n, cseq)))).unwrap();
    }

    fn fetches(&self, n: u32) {
        let fetch = RegisterRequest { contacts: ContactsUpdate::Fetch, ..register(n, 1) };
        self.registrar.send(&aor(n), ShardInput::Register(Box::new(fetch))).unwrap();
    }

    fn calls(&self, n: u32) {
        let request = ResolveRequest {
            aor: aor(n),
            waiter: WorkerRef { worker: 3, context: 77 },
            class: PushClass::Call,
            method: Method::Invite,
            deadline: clock::now() + Duration::from_secs(30),
            dialog_forming: true,
        };
        self.registrar.send(&aor(n), ShardInput::Resolve(Box::new(request))).unwrap();
    }

    async fn event(&mut self) -> HomeEvent {
        self.events.recv().await.unwrap().1
    }

    /// The bindings in the next event, which must be the answer to a REGISTER.
    async fn bindings(&mut self) -> usize {
        match self.event().await {
            HomeEvent::Registered(Ok(views)) => views.len(),
            other => panic!("{other:?}"),
        }
    }
}

/// Twenty phones registered at a node that is no more.
async fn inherited() -> Arc<Memory> {
    let store = Arc::new(Memory::default());
    let mut first = Home::owner(&store).await;
    for n in 0..20 {
        first.registers(n, 1);
        assert_eq!(first.bindings().await, 1);
    }
    store
}

/// Whether a REGISTER for that address-of-record is sent on to another node.
async fn is_sent_on(home: &mut Home, n: u32) -> bool {
    home.registers(n, 9);
    match home.event().await {
        HomeEvent::Moved => true,
        HomeEvent::Registered(Ok(_)) => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_serves_the_shards_it_was_given_and_no_others() {
    let mut home = Home::start(&Arc::default()).await;
    assert_eq!(home.registrar.serving(), 0);
    for n in 0..20 {
        assert!(is_sent_on(&mut home, n).await);
    }
    home.registrar.acquire(2);
    assert_eq!(home.registrar.serving(), 1);
    for n in 0..20 {
        let is_elsewhere = home.registrar.shard_of(&aor(n)) != 2;
        assert_eq!(is_sent_on(&mut home, n).await, is_elsewhere, "{n}");
    }
    home.registrar.acquire(SHARDS); // there is no such shard
    assert_eq!(home.registrar.serving(), 1);
}

/// Takeover: what is asked for is read first, while nothing else of the shard is there yet.
#[tokio::test]
async fn a_shard_serves_before_it_is_filled() {
    let store = inherited().await;
    let slow = store.loading.lock().unwrap();
    let mut second = Home::owner(&store).await;
    for n in 0..20 {
        second.fetches(n);
        assert_eq!(second.bindings().await, 1, "{n}");
    }
    assert_eq!(second.metrics.bindings.get(), 20, "read one by one");
    // A refresh that came meanwhile is not undone by what is read later.
    second.registers(7, 2);
    assert_eq!(second.bindings().await, 1);
    second.registers(100, 1);
    assert_eq!(second.bindings().await, 1, "nobody has a record of that one");
    let newest = second.registrar.inspect(&aor(7)).await.unwrap();
    drop(slow);
    filled(&second, 21).await;
    assert_eq!(second.registrar.inspect(&aor(7)).await.unwrap(), newest);
    assert_eq!(newest.unwrap().bindings[0].cseq, 2);
}

/// Waits until a shard holds so many bindings, and no more come.
async fn filled(home: &Home, bindings: i64) {
    while home.metrics.bindings.get() < bindings {
        tokio::task::yield_now().await;
    }
    for n in 0..20 {
        home.registrar.inspect(&aor(n)).await.unwrap();
    }
    assert_eq!(home.metrics.bindings.get(), bindings);
}

#[tokio::test]
async fn a_shard_is_filled_when_nobody_asks() {
    let store = inherited().await;
    let second = Home::owner(&store).await;
    filled(&second, 20).await;
}

/// A call to a phone that the new owner has never heard of is answered in the order in which things came.
#[tokio::test]
async fn inputs_that_wait_for_a_record_keep_their_order() {
    let store = inherited().await;
    let slow = store.loading.lock().unwrap();
    let mut second = Home::owner(&store).await;
    second.calls(5);
    second.registers(5, 2);
    assert!(matches!(second.event().await, HomeEvent::Resolved { waiting, .. } if waiting.len() == 1));
    assert_eq!(second.bindings().await, 1);
    assert!(matches!(second.event().await, HomeEvent::Woken { .. }));
    drop(slow);
}

/// A store that cannot be read holds requests up; it loses none, and invents no answer.
#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_is_asked_again() {
    let store = inherited().await;
    store.broken.store(true, Ordering::Relaxed);
    let mut second = Home::owner(&store).await;
    second.fetches(3);
    let early = tokio::time::timeout(Duration::from_secs(5), second.event()).await;
    assert!(early.is_err(), "{early:?}");
    store.broken.store(false, Ordering::Relaxed);
    assert_eq!(second.bindings().await, 1);
}

/// Handover: whoever waits is told to ask the new owner, and the shard's memory is gone.
#[tokio::test]
async fn a_shard_that_leaves_tells_whoever_waits() {
    let store = inherited().await;
    let mut first = Home::owner(&store).await;
    first.calls(5);
    assert!(matches!(first.event().await, HomeEvent::Resolved { waiting, .. } if waiting.len() == 1));
    for shard in 0..SHARDS {
        first.registrar.release(shard).await;
    }
    assert_eq!(first.events.recv().await.unwrap(), (WorkerRef { worker: 3, context: 77 }, HomeEvent::Moved));
    assert_eq!((first.registrar.serving(), first.metrics.bindings.get(), first.metrics.waiters.get()), (0, 0, 0));
    assert!(is_sent_on(&mut first, 5).await);
    // And back: nothing was lost on the way.
    (0..SHARDS).for_each(|shard| first.registrar.acquire(shard));
    for n in 0..20 {
        first.fetches(n);
        assert_eq!(first.bindings().await, 1);
    }
}

/// What still waits for its record when the shard leaves is sent on as well.
#[tokio::test]
async fn a_shard_that_leaves_before_it_was_filled_sends_requests_on() {
    let store = inherited().await;
    let slow = store.loading.lock().unwrap();
    store.broken.store(true, Ordering::Relaxed);
    let mut second = Home::owner(&store).await;
    second.calls(5);
    second.registrar.release(second.registrar.shard_of(&aor(5))).await;
    assert_eq!(second.event().await, HomeEvent::Moved);
    drop(slow);
}

/// A shard that comes back while its last writes are still on their way, as when a lease ends and begins anew while the store is
/// slow: it leaves, and then it is here.
#[tokio::test(start_paused = true)]
async fn a_shard_that_comes_back_before_it_has_left_is_served() {
    let store = inherited().await;
    let mut home = Home::owner(&store).await;
    filled(&home, 20).await;
    store.slow.store(true, Ordering::Relaxed);
    let shard = home.registrar.shard_of(&aor(5));
    home.registers(5, 2);
    // Asked behind the REGISTER: once it answers, the write is on its way.
    assert!(home.registrar.inspect(&aor(5)).await.unwrap().is_some());
    let gone = home.registrar.release(shard);
    home.registrar.acquire(shard);
    assert!(is_sent_on(&mut home, 5).await, "it leaves as long as the write is on its way");
    store.slow.store(false, Ordering::Relaxed);
    store.answer();
    gone.await;
    let served = async {
        loop {
            home.fetches(5);
            match home.event().await {
                HomeEvent::Registered(Ok(views)) if !views.is_empty() => return views.len(),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), served).await, Ok(1));
    assert_eq!(home.registrar.serving(), usize::from(SHARDS));
}

/// What is given after it was taken is there, whenever the taking is waited for.
#[tokio::test]
async fn a_shard_is_taken_when_it_is_said_and_not_when_that_is_waited_for() {
    let store = inherited().await;
    let mut home = Home::owner(&store).await;
    let gone: Vec<_> = (0..SHARDS).map(|shard| home.registrar.release(shard)).collect();
    assert_eq!(home.registrar.serving(), 0);
    (0..SHARDS).for_each(|shard| home.registrar.acquire(shard));
    for gone in gone {
        gone.await;
    }
    for n in 0..20 {
        home.fetches(n);
        assert_eq!(home.bindings().await, 1);
    }
}

#[tokio::test]
async fn a_shard_given_twice_and_taken_twice_is_one_shard() {
    let store = inherited().await;
    let mut second = Home::owner(&store).await;
    (0..SHARDS).for_each(|shard| second.registrar.acquire(shard));
    filled(&second, 20).await;
    second.registers(5, 2);
    assert_eq!(second.bindings().await, 1);
    for shard in (0..SHARDS).chain(0..SHARDS) {
        second.registrar.release(shard).await;
    }
    assert_eq!(second.metrics.bindings.get(), 0);
}

/// The store is away, and the shard is lost while a refresh is on its way there: it is answered all the same, and its promise goes to
/// the next owner.
#[tokio::test]
async fn a_promise_made_on_leaving_is_handed_in() {
    let store = inherited().await;
    let mut home = Home::owner(&store).await;
    filled(&home, 20).await;
    store.slow.store(true, Ordering::Relaxed);
    home.registers(7, 2);
    home.registrar.inspect(&aor(7)).await.unwrap(); // the REGISTER was before this
    let leaving = home.registrar.release(home.registrar.shard_of(&aor(7)));
    store.answer_with(Err(reveille_registrar::StoreError::Unavailable));
    leaving.await;
    assert_eq!(home.bindings().await, 1);
    let handed_in = store.handed_in.lock().unwrap();
    assert_eq!((handed_in.len(), handed_in[0].base.bindings[0].cseq, handed_in[0].record.bindings[0].cseq), (1, 1, 2));
}

/// What a node followed of each shard of that store: given when the sender says so.
fn follow(store: &Memory, lost: bool) -> Vec<oneshot::Sender<bool>> {
    let mut senders = Vec::new();
    for shard in 0..SHARDS {
        let values = store.values.lock().unwrap();
        let of_shard = values.iter().filter(|((of, _), _)| *of == shard);
        let values = of_shard.map(|((_, aor), value)| (aor.clone(), value.clone())).collect();
        let (sender, complete) = oneshot::channel();
        senders.push(sender);
        let heirloom: Arc<dyn Inherited> = Arc::new(Followed { values, lost });
        let inheriting = Box::pin(async move { complete.await.unwrap_or(false).then_some(heirloom) });
        store.inheritance.lock().unwrap().insert(shard, inheriting);
    }
    senders
}

/// A shard that was followed is served and filled although the store can't be read at all; until its last changes are known,
/// everything waits.
#[tokio::test(start_paused = true)]
async fn a_shard_that_was_followed_reads_nothing() {
    let store = inherited().await;
    let senders = follow(&store, false);
    store.broken.store(true, Ordering::Relaxed);
    let mut home = Home::owner(&store).await;
    for n in 0..20 {
        home.fetches(n);
    }
    home.registers(100, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(home.events.try_recv().is_err(), "nothing is known yet");
    senders.into_iter().for_each(|sender| sender.send(true).unwrap());
    for _ in 0..21 {
        assert_eq!(home.bindings().await, 1);
    }
    while home.metrics.records.get() < 21 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    home.fetches(200);
    assert_eq!(home.bindings().await, 0, "and whoever is not there is known not to be");
}

/// Where something of it is missing, the store is read as if nothing had been followed.
#[tokio::test(start_paused = true)]
async fn an_inheritance_with_gaps_is_refused() {
    for (complete, lost) in [(false, false), (true, true)] {
        let store = inherited().await;
        let senders = follow(&store, lost);
        let mut home = Home::owner(&store).await;
        for n in 0..20 {
            home.fetches(n);
        }
        senders.into_iter().for_each(|sender| sender.send(complete).unwrap());
        for _ in 0..20 {
            assert_eq!(home.bindings().await, 1);
        }
        while home.metrics.records.get() < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// An inheritance serves one time on the node: a shard that comes back later is read anew.
#[tokio::test(start_paused = true)]
async fn an_inheritance_is_used_once() {
    let store = inherited().await;
    let senders = follow(&store, false);
    senders.into_iter().for_each(|sender| sender.send(true).unwrap());
    let mut home = Home::owner(&store).await;
    home.fetches(1);
    assert_eq!(home.bindings().await, 1);
    let shard = home.registrar.shard_of(&aor(1));
    home.registrar.release(shard).await;
    // Another node had it meanwhile, and the phone left there.
    store.values.lock().unwrap().remove(&(shard, aor(1)));
    home.registrar.acquire(shard);
    home.fetches(1);
    assert_eq!(home.bindings().await, 0);
}

/// P-116: who hands a shard over says first what push budgets were spent, and who takes it spends what is left.
#[tokio::test]
async fn push_budgets_are_handed_over_p116() {
    let mut store = Memory::default();
    store.notes = Some(Arc::default());
    let store = Arc::new(store);
    let limits = PushLimits { calls_per_minute: 1, ..PushLimits::default() };
    let mut first = Home::with(&store, limits).await;
    let shard = first.registrar.shard_of(&aor(5));
    first.registrar.acquire(shard);
    first.registers(5, 1);
    assert_eq!(first.bindings().await, 1);
    first.calls(5);
    assert!(matches!(first.event().await, HomeEvent::Resolved { waiting, .. } if waiting.len() == 1));
    assert_eq!(first.metrics.pushes_limited.get(), 0);
    first.registrar.release(shard).await;
    assert!(!store.notes.as_ref().unwrap().lock().unwrap()[&shard].is_empty(), "said before it was let go");

    let mut second = Home::with(&store, limits).await;
    second.registrar.acquire(shard);
    second.fetches(5);
    assert_eq!(second.bindings().await, 1);
    second.calls(5);
    assert!(matches!(second.event().await, HomeEvent::Resolved { .. }));
    assert_eq!(second.metrics.pushes_limited.get(), 1);
}
