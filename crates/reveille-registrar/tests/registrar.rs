//! The actors around the shards: events come back, deadlines are kept, what was acknowledged survives.
#![allow(clippy::unwrap_used)] // a test fails loudly

mod support;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus::Registry;
use reveille_push::{Outcome, PushClass, WakeFailure};
use reveille_registrar::{
    Aor, ContactsUpdate, HomeEvent, RegisterError, RegisterRequest, Registrar, RegistrarConfig, ResolveRequest,
    ShardInput, StoreError, WorkerRef, metrics::Metrics,
};
use reveille_runtime::{Fatal, Refused, RuntimeMetrics, clock};
use reveille_sip::method::Method;
use support::{Events, Fate, Gone, Memory, Services, aor, register};
use tokio::sync::mpsc::UnboundedReceiver;

struct Node {
    registrar: Registrar,
    events: UnboundedReceiver<(WorkerRef, HomeEvent)>,
    flows: Arc<Gone>,
    metrics: Metrics,
}

fn config() -> RegistrarConfig {
    let registry = Registry::new();
    let (fatal, _) = Fatal::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mut config = RegistrarConfig::new(metrics, RuntimeMetrics::new(&registry).unwrap(), fatal);
    config.shards = 4;
    config
}

async fn node(store: &Arc<Memory>, fate: Fate) -> Node {
    let config = config();
    let metrics = config.metrics.clone();
    let flows = Arc::new(Gone::default());
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let services = Arc::new(Services(fate));
    let registrar =
        Registrar::spawn(config, store.clone(), services, flows.clone(), Arc::new(Events(sender))).await.unwrap();
    Node { registrar, events, flows, metrics }
}

impl Node {
    fn send(&self, aor: &Aor, input: ShardInput) {
        self.registrar.send(aor, input).unwrap();
    }

    async fn event(&mut self) -> HomeEvent {
        self.events.recv().await.unwrap().1
    }

    async fn registers(&mut self, n: u32, cseq: u32) -> HomeEvent {
        self.send(&aor(n), ShardInput::Register(Box::new(register(n, cseq))));
        self.event().await
    }

    async fn bindings(&mut self, n: u32) -> usize {
        let fetch = RegisterRequest { contacts: ContactsUpdate::Fetch, ..register(n, 1) };
        self.send(&aor(n), ShardInput::Register(Box::new(fetch)));
        match self.event().await {
            HomeEvent::Registered(Ok(views)) => views.len(),
            other => panic!("{other:?}"),
        }
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
        self.send(&aor(n), ShardInput::Resolve(Box::new(request)));
    }
}

/// P-170, S-108: what was answered 200 is there after a restart of the node.
#[tokio::test(start_paused = true)]
async fn acknowledged_bindings_survive_a_restart_of_the_node() {
    let store = Arc::new(Memory::default());
    let mut first = node(&store, Fate::Forgotten).await;
    for n in 0..20 {
        assert!(matches!(first.registers(n, 1).await, HomeEvent::Registered(Ok(views)) if views.len() == 1));
    }
    assert_eq!(first.metrics.bindings.get(), 20);
    first.registrar.drain(Duration::from_secs(1)).await;
    assert!(matches!(
        first.registrar.send(&aor(1), ShardInput::Register(Box::new(register(1, 2)))),
        Err(Refused::Stopped(Some(ShardInput::Register(_))))
    ));
    let mut second = node(&store, Fate::Forgotten).await;
    assert_eq!(second.registrar.serving(), 4);
    for n in 0..20 {
        assert_eq!(second.bindings(n).await, 1);
    }
}

/// P-066: the bucket timer of a shard nobody talks to is kept all the same.
#[tokio::test(start_paused = true)]
async fn p066_a_deadline_reaches_its_shard() {
    let mut node = node(&Arc::default(), Fate::Answered(Outcome::Accepted)).await;
    node.registers(1, 1).await;
    let before = clock::now();
    node.calls(1);
    assert!(matches!(node.event().await, HomeEvent::Resolved { waiting, .. } if waiting.len() == 1));
    assert!(matches!(node.event().await, HomeEvent::WakeFailed { why: WakeFailure::Deadline, .. }));
    let waited = clock::now() - before;
    assert!((Duration::from_secs(30)..Duration::from_millis(30_100)).contains(&waited), "{waited:?}");
}

/// S-116: an expired record leaves the store without anybody asking.
#[tokio::test(start_paused = true)]
async fn s116_an_expired_record_leaves_the_store() {
    let store = Arc::new(Memory::default());
    let mut node = node(&store, Fate::Forgotten).await;
    node.registers(1, 1).await;
    tokio::time::sleep(Duration::from_secs(3602)).await;
    assert_eq!(node.bindings(1).await, 0);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(store.values.lock().unwrap().is_empty());
    assert_eq!(node.metrics.records.get(), 0);
}

/// P-052, P-058: push, refresh, release, through the actors.
#[tokio::test(start_paused = true)]
async fn p058_a_refresh_releases_the_call() {
    let mut node = node(&Arc::default(), Fate::Answered(Outcome::Accepted)).await;
    node.registers(1, 1).await;
    node.calls(1);
    node.event().await;
    assert!(matches!(node.registers(1, 2).await, HomeEvent::Registered(Ok(_))));
    assert!(matches!(node.event().await, HomeEvent::Woken { .. }));
}

/// P-065: a push that the dispatcher refuses, or loses, fails its call.
#[tokio::test(start_paused = true)]
async fn p065_a_push_that_goes_nowhere_fails_the_call() {
    for fate in [Fate::QueueFull, Fate::Forgotten, Fate::Answered(Outcome::Refused)] {
        let mut node = node(&Arc::default(), fate).await;
        node.registers(1, 1).await;
        node.calls(1);
        node.event().await;
        assert!(matches!(node.event().await, HomeEvent::WakeFailed { why: WakeFailure::PushFailed, .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn s108_a_full_store_fails_the_register() {
    let store = Arc::new(Memory::default());
    let mut node = node(&store, Fate::Forgotten).await;
    store.full.store(true, Ordering::Relaxed);
    let full = HomeEvent::Registered(Err(RegisterError::Store(StoreError::Full)));
    assert_eq!(node.registers(1, 1).await, full);
    store.full.store(false, Ordering::Relaxed);
    assert_eq!(node.bindings(1).await, 0);
    assert!(matches!(node.registers(1, 2).await, HomeEvent::Registered(Ok(_))));
}

/// A shard that fails is started again with what the store has, and the map leads to it.
#[tokio::test(start_paused = true)]
async fn a_failed_shard_comes_back_with_its_records() {
    let mut node = node(&Arc::default(), Fate::Answered(Outcome::Accepted)).await;
    node.registers(1, 1).await;
    node.flows.fails.store(true, Ordering::Relaxed);
    node.calls(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.registrar.serving(), 4);
    assert_eq!(node.bindings(1).await, 1);
    assert_eq!(node.metrics.bindings.get(), 1);
    node.calls(1);
    assert!(matches!(node.event().await, HomeEvent::Resolved { waiting, known: true, .. } if waiting.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_are_no_start() {
    let store = Arc::new(Memory::default());
    store.broken.store(true, Ordering::Relaxed);
    let (sender, _) = tokio::sync::mpsc::unbounded_channel();
    let services = Arc::new(Services(Fate::Forgotten));
    let flows = Arc::new(Gone::default());
    assert!(Registrar::spawn(config(), store, services, flows, Arc::new(Events(sender))).await.is_err());
}

/// S-139: a drain leaves nobody waiting for a verdict: when its patience ends, calls that still wait for a phone hear so.
#[tokio::test(start_paused = true)]
async fn s139_a_drain_tells_those_who_still_wait() {
    let mut node = node(&Arc::default(), Fate::Answered(Outcome::Accepted)).await;
    node.registers(1, 1).await;
    node.calls(1);
    node.event().await;
    node.registrar.drain(Duration::from_secs(1)).await;
    assert!(matches!(node.event().await, HomeEvent::WakeFailed { why: WakeFailure::Deadline, .. }));
    assert_eq!(node.metrics.waiters.get(), 0);
}
