//! Supervision under a paused clock: restarts, growing pauses, giving up, and a drain that is not mistaken for a fault.

use prometheus::Opts;
use tokio::sync::mpsc;

use super::*;

/// Reports each start; fails, panics or stops on demand.
struct Fragile;

#[derive(Debug, Clone, Copy)]
enum Order {
    Fail,
    Panic,
    Stop,
    Note(u32),
}

impl Actor for Fragile {
    type Msg = Order;
    type State = mpsc::UnboundedSender<u32>;
    type Arguments = mpsc::UnboundedSender<u32>;

    async fn pre_start(
        &self,
        _: ActorRef<Order>,
        notes: mpsc::UnboundedSender<u32>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(notes)
    }

    async fn handle(
        &self,
        myself: ActorRef<Order>,
        order: Order,
        notes: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Fail => return Err("told to".into()),
            Order::Panic => panic!("told to"),
            Order::Stop => myself.stop(None),
            Order::Note(number) => notes.send(number)?,
        }
        Ok(())
    }
}

struct Bench {
    supervisor: Supervisor,
    fatal: FatalWatch,
    restarts: IntCounterVec,
    starts: mpsc::UnboundedReceiver<ActorRef<Order>>,
    notes: mpsc::UnboundedReceiver<u32>,
}

async fn bench(policy: RestartPolicy) -> Bench {
    let (fatal, fatal_watch) = Fatal::new();
    let restarts = IntCounterVec::new(Opts::new("restarts", "restarts"), &["actor"]).unwrap();
    let supervisor = Supervisor::spawn(policy, fatal, restarts.clone()).await.unwrap();
    let (publish, starts) = mpsc::unbounded_channel();
    let (note, notes) = mpsc::unbounded_channel();
    let child = Child::new("fragile", move |cell| {
        let (publish, note) = (publish.clone(), note.clone());
        async move {
            let (actor, _) = Fragile::spawn_linked(None, Fragile, note, cell).await?;
            let _ = publish.send(actor.clone());
            Ok(actor.get_cell())
        }
    });
    supervisor.supervise(child).await.unwrap();
    Bench { supervisor, fatal: fatal_watch, restarts, starts, notes }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_end_brings_a_new_actor_after_a_growing_pause() {
    let policy = RestartPolicy::default();
    let mut bench = bench(policy).await;
    let mut pause = policy.first_pause;
    let mut actor = bench.starts.recv().await.unwrap();
    for order in [Order::Fail, Order::Panic, Order::Stop] {
        let before = clock::now();
        actor.cast(order).unwrap();
        let next = bench.starts.recv().await.unwrap();
        assert_ne!(actor.get_id(), next.get_id());
        let waited = clock::now() - before;
        assert!(waited >= pause && waited < pause * 2, "{order:?}: waited {waited:?} for {pause:?}");
        pause *= 2;
        actor = next;
    }
    assert_eq!(bench.restarts.with_label_values(&["fragile"]).get(), 3);
    assert_eq!(bench.fatal.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_keeps_failing_ends_the_process() {
    let mut bench = bench(RestartPolicy { max_restarts: 2, ..RestartPolicy::default() }).await;
    for _ in 0..3 {
        bench.starts.recv().await.unwrap().cast(Order::Fail).unwrap();
    }
    assert_eq!(bench.fatal.ended().await, "fragile failed more than 2 times");
    assert_eq!(bench.restarts.with_label_values(&["fragile"]).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_long_past_are_forgiven() {
    let policy = RestartPolicy { max_restarts: 1, ..RestartPolicy::default() };
    let mut bench = bench(policy).await;
    for _ in 0..4 {
        bench.starts.recv().await.unwrap().cast(Order::Fail).unwrap();
        tokio::time::sleep(policy.within).await;
    }
    assert!(bench.starts.recv().await.is_some());
    assert_eq!(bench.fatal.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_drain_empties_the_queue_and_restarts_nothing() {
    let mut bench = bench(RestartPolicy::default()).await;
    let actor = bench.starts.recv().await.unwrap();
    for number in 0..100 {
        actor.cast(Order::Note(number)).unwrap();
    }
    bench.supervisor.drain(Duration::from_secs(10)).await;
    let mut noted = 0;
    while let Ok(number) = bench.notes.try_recv() {
        assert_eq!(number, noted);
        noted += 1;
    }
    assert_eq!(noted, 100);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bench.starts.try_recv().is_err(), "nothing was started again");
    assert_eq!(bench.restarts.with_label_values(&["fragile"]).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_is_the_callers_to_handle() {
    let bench = bench(RestartPolicy::default()).await;
    let child = Child::new("stillborn", |_| async { Err(SpawnErr::StartupFailed("no data".into())) });
    assert!(bench.supervisor.supervise(child).await.is_err());
    assert_eq!(bench.fatal.reason(), None);
}

#[test]
fn pauses_double_up_to_the_longest() {
    #[allow(clippy::disallowed_methods, reason = "a base instant; nothing is measured with it")]
    let now = Instant::now();
    let policy = RestartPolicy {
        max_restarts: 9,
        within: Duration::from_secs(60),
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(300),
    };
    let mut failures = Failures::default();
    let pauses: Vec<_> = std::iter::from_fn(|| failures.record(&policy, now)).map(|pause| pause.as_millis()).collect();
    assert_eq!(pauses, [50, 100, 200, 300, 300, 300, 300, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn only_the_first_reason_counts() {
    let (fatal, mut watch) = Fatal::new();
    fatal.end("the disk is full");
    fatal.end("and then some");
    assert_eq!(watch.ended().await, "the disk is full");
}
