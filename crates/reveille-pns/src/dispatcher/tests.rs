//! The dispatcher alone, on a paused clock, with a provider that never reaches a network.

use std::{collections::VecDeque, time::SystemTime};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use prometheus::Registry;
use reveille_push::{Provider as Pns, PushJob, PushTarget, Ticket, caps::Announcement};

use super::*;
use crate::{
    BoxFuture, SettingsError,
    metrics::Metrics,
    pool::Pool,
    provider::{Authorization, CredentialError, Next, Push, Reply},
};

/// What happens to one attempt.
enum Fate {
    Ends(Classified),
    Hangs,
    Panics,
}

/// Gives each attempt the next fate, and the last of them for ever.
struct Fake {
    fates: Mutex<VecDeque<Fate>>,
    seen: Mutex<Vec<(String, u32)>>,
    per_minute: Option<u32>,
}

impl Fake {
    fn new(fates: impl IntoIterator<Item = Fate>) -> Arc<Self> {
        Arc::new(Self { fates: Mutex::new(fates.into_iter().collect()), seen: Mutex::default(), per_minute: None })
    }

    /// Accepts so many a minute.
    fn limited(per_minute: u32) -> Arc<Self> {
        let fates = Mutex::new([accepted()].into());
        Arc::new(Self { fates, seen: Mutex::default(), per_minute: Some(per_minute) })
    }

    /// Token and attempt number of each attempt, in order.
    fn seen(&self) -> Vec<(String, u32)> {
        self.seen.lock().clone()
    }

    fn tokens(&self) -> Vec<String> {
        self.seen().into_iter().map(|(token, _)| token).collect()
    }
}

impl Provider for Fake {
    fn pns(&self) -> &'static str {
        "fcm"
    }

    fn name(&self) -> &str {
        "fake"
    }

    fn serves(&self) -> Pns {
        Pns::Fcm
    }

    fn announcement(&self) -> Announcement {
        Announcement::new(Pns::Fcm)
    }

    fn allows(&self, _: &PushTarget) -> bool {
        true
    }

    fn per_minute(&self) -> Option<u32> {
        self.per_minute
    }

    fn ready(&self, _: SystemTime) -> bool {
        true
    }

    fn route<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>> {
        let token = push.target.prid.expose().split('-').next().unwrap_or_default().to_owned();
        self.seen.lock().push((token, push.attempt));
        let mut fates = self.fates.lock();
        let fate = match fates.len() {
            1 => match &fates[0] {
                Fate::Ends(classified) => Fate::Ends(classified.clone()),
                Fate::Hangs => Fate::Hangs,
                Fate::Panics => Fate::Panics,
            },
            _ => fates.pop_front().unwrap(),
        };
        drop(fates);
        Box::pin(async move {
            match fate {
                Fate::Ends(classified) => Err(classified),
                Fate::Hangs => std::future::pending().await,
                Fate::Panics => panic!("an attempt fails in a way nobody thought of"),
            }
        })
    }

    fn authorize<'a>(&'a self, _: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>> {
        Box::pin(std::future::ready(Err(CredentialError::Refused)))
    }

    fn renew<'a>(&'a self, _: &'a Push<'a>, _: &'a Authorization) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    fn request(&self, _: &Push<'_>, _: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        Err(Classified::bug("unbuildable"))
    }

    fn classify(&self, _: &Push<'_>, _: &Reply) -> Classified {
        Classified::bug("unexpected_status")
    }

    fn maintain(&self, _: SystemTime) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn token_age(&self, _: SystemTime) -> Option<u64> {
        None
    }

    fn reload(&self) -> Result<(), SettingsError> {
        Ok(())
    }
}

struct Bench {
    dispatcher: Myself,
    health: Arc<Health>,
    registry: Registry,
}

impl Bench {
    async fn new(fake: &Arc<Fake>, limits: Limits) -> Self {
        let health = Arc::new(Health::new());
        let provider: Arc<dyn Provider> = Arc::clone(fake) as _;
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap().of(&*provider);
        let dispatcher = Dispatcher { provider, health: Arc::clone(&health), limits, metrics };
        let (dispatcher, _) = Dispatcher::spawn(None, dispatcher, ()).await.unwrap();
        Self { dispatcher, health, registry }
    }

    fn alarms(&self, reason: &str) -> bool {
        let line = format!(r#"reveille_push_alarms_total{{credential="fake",pns="fcm",reason="{reason}"}} 1"#);
        reveille_runtime::metrics::encode(&self.registry).unwrap().lines().any(|found| found == line)
    }

    fn submit(&self, class: PushClass, token: &str, seconds: u64) -> oneshot::Receiver<Outcome> {
        self.submit_with(class, token, seconds, Ticket::new())
    }

    fn submit_with(&self, class: PushClass, token: &str, seconds: u64, ticket: Ticket) -> oneshot::Receiver<Outcome> {
        let (reply, verdict) = oneshot::channel();
        let now = clock::now();
        let job = PushJob {
            id: 1,
            target: PushTarget::new(Pns::Fcm, Some("acme-phone-prod"), &format!("{token}-0123456789abcdef")).unwrap(),
            class,
            deadline: now + Duration::from_secs(seconds),
            ttl: Duration::from_secs(seconds),
            repeat: 0,
            ticket,
            reply: Box::new(move |outcome| {
                let _ = reply.send(outcome);
            }),
            correlation: 1,
        };
        tell(&self.dispatcher, DispatcherMsg::Submit(Box::new(Job::new(job, now))));
        verdict
    }
}

fn retry() -> Fate {
    Fate::Ends(Classified::new(Outcome::Unavailable, "server_error", Next::Retry))
}

fn accepted() -> Fate {
    Fate::Ends(Classified::done(Outcome::Accepted, "ok"))
}

fn fault() -> Fate {
    Fate::Ends(Classified::fault("forbidden"))
}

/// One push in the air at a time.
fn narrow() -> Limits {
    Limits { max_connections: 1, streams: 1, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn retries_back_off_and_end_before_the_deadline_p065_p135() {
    let fake = Fake::new([retry()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    assert_eq!(bench.submit(PushClass::Call, "a", 10).await.unwrap(), Outcome::Unavailable);
    assert!(clock::now() - start < Duration::from_secs(10));
    let attempts: Vec<_> = fake.seen().into_iter().map(|(_, attempt)| attempt).collect();
    assert_eq!(attempts, (0..u32::try_from(attempts.len()).unwrap()).collect::<Vec<_>>());
    assert!((3..=8).contains(&attempts.len()), "{attempts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_works_is_the_verdict() {
    let fake = Fake::new([retry(), retry(), accepted()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    assert_eq!(bench.submit(PushClass::Call, "a", 10).await.unwrap(), Outcome::Accepted);
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_waited_for_exactly_p135() {
    let wait = Duration::from_secs(7);
    let throttled = Classified::new(Outcome::Throttled { retry_after: Some(wait) }, "too_many_requests", Next::Retry);
    let fake = Fake::new([Fate::Ends(throttled.clone()), accepted()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    assert_eq!(bench.submit(PushClass::Call, "a", 10).await.unwrap(), Outcome::Accepted);
    let took = clock::now() - start;
    assert!(took >= wait && took < wait + Duration::from_millis(50), "{took:?}");

    let fake = Fake::new([Fate::Ends(throttled)]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    assert_eq!(bench.submit(PushClass::Call, "a", 5).await.unwrap(), Outcome::Throttled { retry_after: Some(wait) });
    assert!(clock::now() - start < Duration::from_secs(1), "no point in waiting for the deadline");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_waits_as_long_as_the_service_wants_or_is_told_at_once_p153() {
    let wait = Duration::from_secs(900);
    let later = || Fate::Ends(Classified::new(Outcome::Unavailable, "shutdown", Next::RetryIn(wait)));
    let fake = Fake::new([later(), accepted()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    assert_eq!(bench.submit(PushClass::Refresh, "a", 1000).await.unwrap(), Outcome::Accepted);
    assert_eq!((clock::now() - start).as_secs(), 900);

    let fake = Fake::new([later()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    assert_eq!(bench.submit(PushClass::Refresh, "a", 600).await.unwrap(), Outcome::Unavailable);
    assert!(clock::now() - start < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_dead_tokens_raises_one_alarm_and_each_is_dropped_p153() {
    let gone = Outcome::Unregistered { since: None };
    let fake = Fake::new([Fate::Ends(Classified::new(gone, "bad_device_token", Next::Suspect))]);
    let bench = Bench::new(&fake, Limits::default()).await;
    for n in 0..30 {
        assert_eq!(bench.submit(PushClass::Call, &format!("t{n}"), 10).await.unwrap(), gone);
    }
    assert!(bench.alarms("bad_device_token"));
    assert!(!bench.health.is_withdrawn(), "tokens say nothing of the credential");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_device_is_left_alone_and_others_are_not_p135_p153() {
    let wait = Duration::from_secs(60);
    let throttled = Classified::new(Outcome::Throttled { retry_after: Some(wait) }, "too_many_requests", Next::Retry);
    let fake = Fake::new([Fate::Ends(throttled), accepted()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    let outcome = bench.submit(PushClass::Refresh, "a", 10).await.unwrap();
    assert_eq!(outcome, Outcome::Throttled { retry_after: Some(wait) });
    // A call that cannot wait so long is told at once, without a request.
    let Outcome::Throttled { retry_after: Some(left) } = bench.submit(PushClass::Call, "a", 30).await.unwrap() else {
        panic!("the device wants no pushes");
    };
    assert!(left <= wait && clock::now() - start < Duration::from_secs(1));
    assert_eq!(bench.submit(PushClass::Call, "b", 30).await.unwrap(), Outcome::Accepted);
    assert_eq!(fake.tokens(), ["a", "b"]);
    // One that can waits for as long as it takes.
    assert_eq!(bench.submit(PushClass::Refresh, "a", 90).await.unwrap(), Outcome::Accepted);
    assert_eq!((clock::now() - start).as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn no_more_leave_than_the_quota_allows_and_none_is_lost_p165() {
    let fake = Fake::limited(600);
    let bench = Bench::new(&fake, Limits::default()).await;
    let start = clock::now();
    let verdicts: Vec<_> = (0..100).map(|n| bench.submit(PushClass::Call, &format!("t{n}"), 60)).collect();
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    let took = clock::now() - start;
    assert!(
        took >= Duration::from_secs(9) && took < Duration::from_secs(10),
        "10 at once, 90 at 10 a second: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_push_withdrawn_between_attempts_is_not_tried_again_p047() {
    let fake = Fake::new([retry()]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let ticket = Ticket::new();
    let verdict = bench.submit_with(PushClass::Call, "a", 30, ticket.clone());
    while fake.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    ticket.withdraw();
    assert_eq!(verdict.await.unwrap(), Outcome::Withdrawn);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_hanging_push_expires_at_its_own_deadline_p172() {
    let fake = Fake::new([Fate::Hangs]);
    let bench = Bench::new(&fake, narrow()).await;
    let start = clock::now();
    let first = bench.submit(PushClass::Call, "a", 8);
    let second = bench.submit(PushClass::Call, "b", 3);
    assert_eq!(second.await.unwrap(), Outcome::Expired);
    assert_eq!((clock::now() - start).as_secs(), 3);
    assert_eq!(first.await.unwrap(), Outcome::Unavailable);
    assert_eq!((clock::now() - start).as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn calls_overtake_what_is_less_urgent() {
    let fake = Fake::new([accepted()]);
    let bench = Bench::new(&fake, narrow()).await;
    let verdicts = [
        bench.submit(PushClass::Refresh, "r1", 30),
        bench.submit(PushClass::Request, "m1", 30),
        bench.submit(PushClass::Refresh, "r2", 30),
        bench.submit(PushClass::Call, "c1", 30),
        bench.submit(PushClass::Call, "c2", 30),
    ];
    for verdict in verdicts {
        assert_eq!(verdict.await.unwrap(), Outcome::Accepted);
    }
    assert_eq!(fake.tokens(), ["c1", "c2", "m1", "r1", "r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_sheds_refreshes_for_calls() {
    let fake = Fake::new([Fate::Hangs]);
    let bench = Bench::new(&fake, Limits { queue: 2, ..narrow() }).await;
    let in_the_air = bench.submit(PushClass::Call, "a", 60);
    while fake.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let shed = bench.submit(PushClass::Refresh, "r", 60);
    let kept = bench.submit(PushClass::Call, "b", 60);
    let call = bench.submit(PushClass::Call, "c", 60);
    assert_eq!(shed.await.unwrap(), Outcome::Unavailable);
    assert_eq!(bench.submit(PushClass::Refresh, "late", 60).await.unwrap(), Outcome::Unavailable);
    drop((in_the_air, kept, call));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_answered_and_the_dispatcher_goes_on() {
    let fake = Fake::new([Fate::Panics, accepted()]);
    let bench = Bench::new(&fake, narrow()).await;
    assert_eq!(bench.submit(PushClass::Call, "a", 30).await.unwrap(), Outcome::Unavailable);
    assert_eq!(bench.submit(PushClass::Call, "b", 30).await.unwrap(), Outcome::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_credential_is_probed_after_a_pause_p122() {
    let limits = Limits { breaker_threshold: 2, breaker_probe: Duration::from_secs(30), ..Limits::default() };
    let fake = Fake::new([fault(), fault(), accepted()]);
    let bench = Bench::new(&fake, limits).await;
    for token in ["a", "b"] {
        assert_eq!(bench.submit(PushClass::Call, token, 60).await.unwrap(), Outcome::CredentialFault);
    }
    assert_eq!(bench.submit(PushClass::Call, "c", 60).await.unwrap(), Outcome::CredentialFault);
    assert_eq!(fake.seen().len(), 2, "nothing leaves meanwhile");
    assert!(bench.health.is_withdrawn());
    assert!(bench.alarms("credential_withdrawn"));

    tokio::time::sleep(Duration::from_millis(30_100)).await;
    assert!(!bench.health.is_withdrawn(), "announced again, on probation");
    assert_eq!(bench.submit(PushClass::Call, "d", 60).await.unwrap(), Outcome::Accepted);
    assert!(!bench.health.is_withdrawn());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_in_the_air_and_refuses_the_rest() {
    let fake = Fake::new([Fate::Hangs]);
    let bench = Bench::new(&fake, Limits::default()).await;
    let last = bench.submit(PushClass::Call, "a", 4);
    let (done, drained) = oneshot::channel();
    tell(&bench.dispatcher, DispatcherMsg::Drain(done));
    let late = bench.submit(PushClass::Call, "b", 4);
    assert_eq!(late.await.unwrap(), Outcome::Unavailable);
    let start = clock::now();
    drained.await.unwrap();
    assert_eq!((clock::now() - start).as_secs(), 4);
    assert_eq!(last.await.unwrap(), Outcome::Unavailable);
}
