//! The queue's promises, and the job's.

use std::sync::{Arc, Mutex};

use reveille_push::Provider;
use reveille_runtime::clock;

use super::*;

type Verdicts = Arc<Mutex<Vec<(u64, Outcome)>>>;

struct Bench {
    now: Instant,
    queue: Queue,
    verdicts: Verdicts,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        Self { now: clock::now(), queue: Queue::new(capacity), verdicts: Verdicts::default() }
    }

    fn job(&self, id: u64, class: PushClass, token: &str, seconds: u64) -> Job {
        let verdicts = Arc::clone(&self.verdicts);
        let push = PushJob {
            id,
            target: PushTarget::new(Provider::Fcm, Some("acme-phone-prod"), &format!("{token}-0123456789abcdef"))
                .unwrap(),
            class,
            deadline: self.now + Duration::from_secs(seconds),
            ttl: Duration::from_secs(seconds),
            repeat: 0,
            ticket: Ticket::new(),
            reply: Box::new(move |outcome| verdicts.lock().unwrap().push((id, outcome))),
            correlation: id,
        };
        Job::new(push, self.now)
    }

    fn push(&mut self, id: u64, class: PushClass, token: &str) -> Option<u64> {
        let job = self.job(id, class, token, 30);
        self.queue.push(job).map(|shed| shed.id)
    }

    fn take(&mut self, most: usize) -> Vec<u64> {
        self.queue.take(most).into_iter().map(|job| job.id).collect()
    }
}

#[test]
fn calls_before_requests_before_refreshes_each_in_order() {
    let mut bench = Bench::new(100);
    let arrivals = [
        (1, PushClass::Refresh),
        (2, PushClass::Call),
        (3, PushClass::Request),
        (4, PushClass::Call),
        (5, PushClass::Refresh),
    ];
    for (id, class) in arrivals {
        assert_eq!(bench.push(id, class, &format!("t{id}")), None);
    }
    assert_eq!(bench.take(2), [2, 4]);
    bench.push(6, PushClass::Call, "t6");
    assert_eq!(bench.take(10), [6, 3, 1, 5]);
    assert!(bench.queue.is_empty() && !bench.queue.is_ready());
}

#[test]
fn a_batch_has_one_push_for_each_token() {
    let mut bench = Bench::new(100);
    for (id, class, token) in [
        (1, PushClass::Call, "a"),
        (2, PushClass::Call, "a"),
        (3, PushClass::Call, "b"),
        (4, PushClass::Refresh, "a"),
        (5, PushClass::Call, "a"),
    ] {
        bench.push(id, class, token);
    }
    assert_eq!(bench.take(10), [1, 3]);
    assert_eq!(bench.take(10), [2]);
    assert_eq!(bench.take(10), [5]);
    assert_eq!(bench.take(10), [4]);
}

#[test]
fn overflow_sheds_the_newest_refresh_first_and_never_what_is_more_urgent() {
    let mut bench = Bench::new(3);
    bench.push(1, PushClass::Refresh, "a");
    bench.push(2, PushClass::Request, "b");
    bench.push(3, PushClass::Refresh, "c");
    assert_eq!(bench.push(4, PushClass::Refresh, "d"), Some(4), "a refresh displaces nobody");
    assert_eq!(bench.push(5, PushClass::Call, "e"), Some(3));
    assert_eq!(bench.push(6, PushClass::Call, "f"), Some(1));
    assert_eq!(bench.push(7, PushClass::Request, "g"), Some(7));
    assert_eq!(bench.push(8, PushClass::Call, "h"), Some(2));
    assert_eq!(bench.push(9, PushClass::Call, "i"), Some(9));
    assert_eq!(bench.take(9), [5, 6, 8]);
}

#[test]
fn what_is_past_its_deadline_leaves_the_queue_p172() {
    let mut bench = Bench::new(100);
    let (short, long) = (bench.job(1, PushClass::Call, "a", 5), bench.job(2, PushClass::Call, "b", 9));
    bench.queue.push(short);
    bench.queue.push(long);
    assert_eq!(bench.queue.poll_timeout(), Some(bench.now + Duration::from_secs(5)));
    assert!(bench.queue.handle_timeout(bench.now + Duration::from_millis(4999)).is_empty());
    let expired = bench.queue.handle_timeout(bench.now + Duration::from_secs(5));
    assert_eq!(expired.iter().map(|job| job.id).collect::<Vec<_>>(), [1]);
    assert_eq!(bench.take(9), [2]);
}

#[test]
fn a_delayed_job_is_ready_when_its_time_comes() {
    let mut bench = Bench::new(100);
    let at = bench.now + Duration::from_secs(3);
    let job = bench.job(1, PushClass::Call, "a", 30);
    bench.queue.delay(job, at);
    assert!(bench.take(9).is_empty() && !bench.queue.is_ready());
    assert_eq!(bench.queue.poll_timeout(), Some(at));
    assert!(bench.queue.handle_timeout(at).is_empty());
    assert!(bench.queue.is_ready());
    assert_eq!(bench.take(9), [1]);
    assert_eq!(bench.queue.poll_timeout(), None);
}

#[test]
fn a_job_answers_exactly_once_even_when_it_is_lost() {
    let bench = Bench::new(1);
    bench.job(1, PushClass::Call, "a", 30).finish(Outcome::Accepted);
    drop(bench.job(2, PushClass::Call, "a", 30));
    assert_eq!(*bench.verdicts.lock().unwrap(), [(1, Outcome::Accepted), (2, Outcome::Unavailable)]);
}

#[test]
fn expired_numbers_do_not_pile_up() {
    let mut bench = Bench::new(10);
    for round in 0..1000 {
        let job = bench.job(round, PushClass::Refresh, "a", round + 1);
        bench.queue.push(job);
        bench.queue.handle_timeout(bench.now + Duration::from_secs(round + 1));
    }
    assert!(bench.queue.is_empty());
    assert!(bench.queue.ready[2].len() <= 100);
}

proptest::proptest! {
    #[test]
    fn nothing_is_lost_or_doubled(classes in proptest::collection::vec(0_usize..3, 0..200), capacity in 1_usize..50, step in 1_usize..20) {
        let mut bench = Bench::new(capacity);
        let mut seen = Vec::new();
        for (id, class) in classes.iter().enumerate() {
            seen.extend(bench.push(id as u64, CLASSES[*class], &format!("t{}", id % 7)));
            proptest::prop_assert!(bench.queue.len() <= capacity);
        }
        loop {
            let batch = bench.take(step);
            if batch.is_empty() {
                break;
            }
            seen.extend(batch);
        }
        seen.sort_unstable();
        proptest::prop_assert_eq!(seen, (0..classes.len() as u64).collect::<Vec<_>>());
    }
}
