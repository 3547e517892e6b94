//! Gathers wake requests into batches. A batch is what has come while others were under way, up to a size; a call starts one at
//! once, with whatever waits, as long as not too many are under way, and never waits for a timer.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use reveille_push::{Outcome, Ticket};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{message, message::Wake, reason};
use crate::{
    BoxFuture,
    pool::SendError,
    provider::{Classified, Next, Reply, unix, wall_now},
};

/// Takes a batch to its service. `now` in Unix seconds.
pub(super) trait Sender: Send + Sync + 'static {
    fn post(&self, body: Bytes, now: u64) -> BoxFuture<'_, Result<Reply, SendError>>;
}

/// The batches of one webhook.
pub(super) struct Batcher<S>(Arc<Inner<S>>);

struct Inner<S> {
    sender: S,
    size: usize,
    /// How long a push that is no call waits for company while nothing is under way.
    time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Item>,
    under_way: usize,
    /// A timer will start a batch.
    timed: bool,
}

struct Item {
    wake: Wake,
    ticket: Ticket,
    reply: oneshot::Sender<Classified>,
}

impl<S: Sender> Batcher<S> {
    pub(super) fn new(sender: S, size: usize, time: Duration) -> Self {
        Self(Arc::new(Inner { sender, size: size.max(1), time, state: Mutex::default() }))
    }

    pub(super) fn sender(&self) -> &S {
        &self.0.sender
    }

    /// Sends one wake request with the next batch.
    pub(super) fn submit(&self, wake: Wake, urgent: bool, ticket: Ticket) -> BoxFuture<'static, Classified> {
        let (reply, verdict) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            state.waiting.push(Item { wake, ticket, reply });
            let full = state.waiting.len() >= self.0.size;
            if urgent || full || (state.under_way == 0 && self.0.time.is_zero()) {
                self.0.start(&mut state);
            } else if state.under_way == 0 && !state.timed {
                state.timed = true;
                let inner = Arc::clone(&self.0);
                tokio::spawn(async move {
                    tokio::time::sleep(inner.time).await;
                    let mut state = inner.state.lock();
                    state.timed = false;
                    inner.start(&mut state);
                });
            }
        }
        Box::pin(async move {
            let lost = || Classified::new(Outcome::Unavailable, "batch_lost", Next::Retry);
            verdict.await.unwrap_or_else(|_| lost())
        })
    }
}

impl<S: Sender> Inner<S> {
    /// Starts batches with what waits, as far as there is room.
    fn start(self: &Arc<Self>, state: &mut State) {
        while state.under_way < MOST {
            // P-047: the last look; and whoever stopped listening is not sent for.
            let wanted = |item: &Item| !item.ticket.is_withdrawn() && !item.reply.is_closed();
            let (wanted, withdrawn): (Vec<_>, Vec<_>) = mem::take(&mut state.waiting).into_iter().partition(wanted);
            for item in withdrawn {
                let _ = item.reply.send(Classified::done(Outcome::Withdrawn, "withdrawn"));
            }
            let mut batch = wanted;
            if batch.is_empty() {
                return;
            }
            state.waiting = batch.split_off(batch.len().min(self.size));
            state.under_way += 1;
            let turn = Turn(Arc::clone(self));
            tokio::spawn(async move {
                turn.0.deliver(batch).await;
            });
        }
    }

    async fn deliver(&self, batch: Vec<Item>) {
        let body = Bytes::from(batch.iter().map(|item| item.wake.value.clone()).collect::<Value>().to_string());
        let now = wall_now();
        let mut answer = self.sender.post(body.clone(), unix(now)).await;
        if matches!(answer, Err(SendError::Unprocessed)) {
            // P-150: not processed, so sent again, once.
            answer = self.sender.post(body, unix(now)).await;
        }
        let whole = match &answer {
            Ok(reply) => reason::batch(reply, now),
            Err(error) => Some(Classified::new(Outcome::Unavailable, lost(*error), Next::Retry)),
        };
        let results = answer.ok().filter(|_| whole.is_none()).and_then(|reply| message::results(&reply.body));
        for item in batch {
            let classified = match (&whole, &results) {
                (Some(whole), _) => whole.clone(),
                (None, Some(results)) => reason::item(results.get(&item.wake.id)),
                (None, None) => reason::unreadable(),
            };
            let _ = item.reply.send(classified);
        }
    }
}

fn lost(error: SendError) -> &'static str {
    match error {
        SendError::Connect => "connect",
        SendError::Unprocessed => "unprocessed",
        SendError::Interrupted => "interrupted",
    }
}

/// A batch under way; its end starts the next, whatever becomes of its task.
struct Turn<S: Sender>(Arc<Inner<S>>);

impl<S: Sender> Drop for Turn<S> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
        // A runtime that is shutting down takes no new tasks.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.0.start(&mut state);
        }
    }
}

/// Batches under way at a time. Few, so that a busy service gets large ones; more than one, so that a slow answer does not hold
/// up calls.
const MOST: usize = 8;

#[cfg(test)]
mod tests;
