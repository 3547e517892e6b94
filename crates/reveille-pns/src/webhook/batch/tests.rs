//! Batches on a paused clock, with a service that answers when the test says so.

use std::collections::VecDeque;

use http::{HeaderMap, StatusCode};
use reveille_runtime::clock;
use serde_json::json;
use tokio::sync::Notify;

use super::*;

/// What the service does with one batch.
enum Fate {
    AllAccepted,
    Answer(u16, String),
    Lost(SendError),
    Hangs,
}

#[derive(Default)]
struct Service {
    batches: Mutex<Vec<Vec<String>>>,
    fates: Mutex<VecDeque<Fate>>,
    /// Answers are held back until this.
    gate: Option<Arc<Notify>>,
}

impl Sender for Arc<Service> {
    fn post(&self, body: Bytes, _: u64) -> BoxFuture<'_, Result<Reply, SendError>> {
        let items: Vec<Value> = serde_json::from_slice(&body).unwrap();
        let ids: Vec<String> = items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
        self.batches.lock().push(ids.clone());
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::AllAccepted);
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            let reply = |status, body: String| {
                let status = StatusCode::from_u16(status).unwrap();
                Reply { status, headers: HeaderMap::new(), body: Bytes::from(body) }
            };
            match fate {
                Fate::AllAccepted => {
                    let results: Value = ids.iter().map(|id| json!({ "id": id, "result": "accepted" })).collect();
                    Ok(reply(200, results.to_string()))
                }
                Fate::Answer(status, body) => Ok(reply(status, body)),
                Fate::Lost(error) => Err(error),
                Fate::Hangs => std::future::pending().await,
            }
        })
    }
}

fn wake(id: &str) -> Wake {
    Wake { id: id.to_owned(), value: json!({ "id": id }) }
}

fn service(fates: impl IntoIterator<Item = Fate>) -> Arc<Service> {
    Arc::new(Service { fates: Mutex::new(fates.into_iter().collect()), ..Service::default() })
}

const TIME: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn a_call_leaves_without_a_timer_and_takes_along_what_waits() {
    let service = service([]);
    let batcher = Batcher::new(Arc::clone(&service), 10, TIME);
    let start = clock::now();
    let message = batcher.submit(wake("m"), false, Ticket::new());
    let call = batcher.submit(wake("c"), true, Ticket::new());
    assert_eq!(call.await.outcome, Outcome::Accepted);
    assert_eq!(message.await.outcome, Outcome::Accepted);
    assert_eq!(clock::now(), start, "no time has passed");
    assert_eq!(*service.batches.lock(), [["m", "c"]]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_waits_for_company_but_not_long() {
    let service = service([]);
    let batcher = Batcher::new(Arc::clone(&service), 10, TIME);
    let start = clock::now();
    let (one, other) =
        (batcher.submit(wake("a"), false, Ticket::new()), batcher.submit(wake("b"), false, Ticket::new()));
    assert_eq!((one.await.outcome, other.await.outcome), (Outcome::Accepted, Outcome::Accepted));
    assert_eq!(clock::now() - start, TIME);
    assert_eq!(*service.batches.lock(), [["a", "b"]]);
}

#[tokio::test(start_paused = true)]
async fn while_batches_are_under_way_calls_gather_into_one_up_to_the_size() {
    let gate = Arc::new(Notify::new());
    let service = Arc::new(Service { gate: Some(Arc::clone(&gate)), ..Service::default() });
    let batcher = Batcher::new(Arc::clone(&service), 20, TIME);
    let calls: Vec<_> = (0..MOST + 30).map(|n| batcher.submit(wake(&n.to_string()), true, Ticket::new())).collect();
    tokio::task::yield_now().await;
    assert_eq!(service.batches.lock().len(), MOST, "the rest waits for an answer");
    let opener = tokio::spawn(async move {
        loop {
            gate.notify_waiters();
            tokio::task::yield_now().await;
        }
    });
    for call in calls {
        assert_eq!(call.await.outcome, Outcome::Accepted);
    }
    opener.abort();
    let sizes: Vec<_> = service.batches.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [vec![1; MOST], vec![20, 10]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_full_does_not_wait() {
    let service = service([]);
    let batcher = Batcher::new(Arc::clone(&service), 3, TIME);
    let start = clock::now();
    let pushes: Vec<_> = ["a", "b", "c"].map(|id| batcher.submit(wake(id), false, Ticket::new())).into();
    for push in pushes {
        push.await;
    }
    assert_eq!(clock::now(), start);
    assert_eq!(*service.batches.lock(), [["a", "b", "c"]]);
}

#[tokio::test(start_paused = true)]
async fn each_push_has_its_own_result_and_none_is_a_failure_for_now() {
    let results = json!([{ "id": "b", "result": "gone" }, { "id": "x", "result": "accepted" }, { "id": "a", "result": "failed" }]);
    let service = service([Fate::Answer(200, results.to_string()), Fate::Answer(200, "[".into())]);
    let batcher = Batcher::new(Arc::clone(&service), 3, TIME);
    let [a, b, c] = ["a", "b", "c"].map(|id| batcher.submit(wake(id), false, Ticket::new()));
    assert_eq!(a.await.outcome, Outcome::Refused);
    assert_eq!(b.await.outcome, Outcome::Unregistered { since: None });
    assert_eq!(c.await, Classified::new(Outcome::Unavailable, "missing_result", Next::Retry));
    assert_eq!(batcher.submit(wake("d"), true, Ticket::new()).await.reason, "unreadable_results");
}

#[tokio::test(start_paused = true)]
async fn an_unprocessed_batch_is_sent_again_once_p150() {
    let lost = || Fate::Lost(SendError::Unprocessed);
    let service = service([lost(), Fate::AllAccepted, lost(), lost(), Fate::Lost(SendError::Interrupted)]);
    let batcher = Batcher::new(Arc::clone(&service), 3, TIME);
    assert_eq!(batcher.submit(wake("a"), true, Ticket::new()).await.outcome, Outcome::Accepted);
    assert_eq!(batcher.submit(wake("b"), true, Ticket::new()).await.reason, "unprocessed");
    assert_eq!(batcher.submit(wake("c"), true, Ticket::new()).await.reason, "interrupted");
    assert_eq!(service.batches.lock().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_or_given_up_is_not_sent_p047() {
    let service = service([]);
    let batcher = Batcher::new(Arc::clone(&service), 10, TIME);
    let ticket = Ticket::new();
    let withdrawn = batcher.submit(wake("w"), false, ticket.clone());
    drop(batcher.submit(wake("g"), false, Ticket::new()));
    ticket.withdraw();
    let kept = batcher.submit(wake("k"), false, Ticket::new());
    assert_eq!(withdrawn.await.outcome, Outcome::Withdrawn);
    assert_eq!(kept.await.outcome, Outcome::Accepted);
    assert_eq!(*service.batches.lock(), [["k"]]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_holds_up_no_call_while_there_is_room() {
    let service = service([Fate::Hangs, Fate::Hangs, Fate::AllAccepted]);
    let batcher = Batcher::new(Arc::clone(&service), 10, TIME);
    let _hanging = [batcher.submit(wake("a"), true, Ticket::new()), batcher.submit(wake("b"), true, Ticket::new())];
    assert_eq!(batcher.submit(wake("c"), true, Ticket::new()).await.outcome, Outcome::Accepted);
}
