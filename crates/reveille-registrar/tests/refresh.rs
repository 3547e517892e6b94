//! Refresh pushes through the actors: they come at their time, with what the push service has to know, and also from a shard that
//! has left this node and come back in the meantime.
#![allow(clippy::unwrap_used)] // a test fails loudly

mod support;

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use reveille_push::{Outcome, Provider, PushClass, PushJob, PushServices, PushTarget, Unsupported, caps::Announcement};
use reveille_registrar::{
    ContactsUpdate, HomeEvent, Registrar, RegistrarConfig, ShardInput, WorkerRef, metrics::Metrics,
};
use reveille_runtime::{Fatal, RuntimeMetrics, clock};
use support::{Events, Gone, Memory, aor, register};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const SHARDS: u16 = 4;
const PHONES: u32 = 20;

/// Hands every push to the test.
struct Pushes(UnboundedSender<PushJob>);

impl PushServices for Pushes {
    fn check(&self, _: &PushTarget) -> Result<(), Unsupported> {
        Ok(())
    }
    fn announce(&self, _: Provider) -> Option<Announcement> {
        None
    }
    fn announced(&self) -> Vec<Announcement> {
        Vec::new()
    }
    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        self.0.send(job).unwrap();
        Ok(())
    }
}

struct Home {
    registrar: Registrar,
    pushes: UnboundedReceiver<PushJob>,
    events: UnboundedReceiver<(WorkerRef, HomeEvent)>,
}

/// A node that owns every shard, and phones that have registered for an hour and sleep.
async fn home_of_sleepers(store: &Arc<Memory>) -> Home {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mut config = RegistrarConfig::new(metrics, RuntimeMetrics::new(&registry).unwrap(), Fatal::new().0);
    (config.shards, config.assigned) = (SHARDS, true);
    let ((to_test, pushes), (sender, events)) = (unbounded_channel(), unbounded_channel());
    let (services, flows) = (Arc::new(Pushes(to_test)), Arc::new(Gone::default()));
    let registrar = Registrar::spawn(config, store.clone(), services, flows, Arc::new(Events(sender))).await.unwrap();
    (0..SHARDS).for_each(|shard| registrar.acquire(shard));
    let mut home = Home { registrar, pushes, events };
    for n in 0..PHONES {
        home.registers(n, 1).await;
    }
    home
}

impl Home {
    async fn registers(&mut self, n: u32, cseq: u32) {
        let mut request = register(n, cseq);
        if let ContactsUpdate::Update(contacts) = &mut request.contacts {
            let push = PushTarget::new(Provider::Fcm, Some("acme-phone"), &format!("token-of-phone-{n}"));
            (contacts[0].push, contacts[0].expires) = (push.ok(), 3600);
        }
        self.registrar.send(&aor(n), ShardInput::Register(Box::new(request))).unwrap();
        assert!(matches!(self.events.recv().await.unwrap().1, HomeEvent::Registered(Ok(_))));
    }
}

/// P-092, P-093, P-128, P-171: one push for each phone, six minutes and up to a fifth more before the end, whoever has had the
/// shard before; worth no more than the binding, and given up when the second is due.
#[tokio::test(start_paused = true)]
async fn p171_a_shard_that_was_taken_over_sends_its_refresh_pushes() {
    let store = Arc::new(Memory::default());
    let begun = clock::now();
    let mut home = home_of_sleepers(&store).await;
    tokio::time::sleep(Duration::from_secs(1800)).await;
    for shard in 0..SHARDS {
        home.registrar.release(shard).await;
        home.registrar.acquire(shard);
    }
    for _ in 0..PHONES {
        let job = home.pushes.recv().await.unwrap();
        let left = 3600 - (clock::now() - begun).as_secs();
        assert!((358..=433).contains(&left), "{left} s before the end");
        assert_eq!((job.class, job.repeat), (PushClass::Refresh, 0));
        assert!(job.ttl.as_secs().abs_diff(left) <= 2, "{:?} {left}", job.ttl);
        let patience = (job.deadline - clock::now()).as_secs();
        assert!(patience.abs_diff(left / 2) <= 2, "{patience} {left}");
        job.answer(Outcome::Accepted);
    }
    assert!(home.pushes.try_recv().is_err());
}

/// P-097: what became due while the shard was nobody's is spread over a minute once it is somebody's.
#[tokio::test(start_paused = true)]
async fn p097_a_shard_taken_over_late_spreads_what_is_overdue() {
    let store = Arc::new(Memory::default());
    let mut home = home_of_sleepers(&store).await;
    for shard in 0..SHARDS {
        home.registrar.release(shard).await;
    }
    tokio::time::sleep(Duration::from_secs(3600 - 300)).await;
    let taken = clock::now();
    (0..SHARDS).for_each(|shard| home.registrar.acquire(shard));
    let mut at = Vec::new();
    for _ in 0..PHONES {
        let job = home.pushes.recv().await.unwrap();
        at.push((clock::now() - taken).as_secs());
        let n = job.target.prid.expose().trim_start_matches("token-of-phone-").parse().unwrap();
        job.answer(Outcome::Accepted);
        home.registers(n, 2).await;
    }
    assert!(at.iter().all(|at| *at <= 61), "{at:?}");
    assert!(at.last().unwrap() - at[0] > 20, "{at:?}");
}
