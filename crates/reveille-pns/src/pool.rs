//! The connections to one address of a push service: few, long-lived, HTTP/2 over TLS, each carrying many pushes at once
//! (P-149, P-166).

mod connect;
mod pools;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use parking_lot::Mutex;
use reveille_runtime::clock;
use tokio::sync::Notify;

pub(crate) use self::{
    connect::Connector,
    pools::{Origin, Pools},
};
use crate::{Limits, provider::Reply};

/// Connections to one origin.
pub(crate) struct Pool {
    connector: Connector,
    most: usize,
    streams: usize,
    state: Mutex<State>,
    /// A stream became free, the peer allows more of them, or a connection attempt ended.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    connecting: usize,
    /// Failed attempts since the last success.
    failures: u32,
    /// Failed attempts ever: lets a waiter see that one ended while it waited.
    failed: u64,
    not_before: Option<Instant>,
    used: Option<Instant>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, as it stands.
    allowed: Arc<AtomicUsize>,
    in_use: AtomicUsize,
    /// It failed a push, or said GOAWAY: no new pushes.
    retired: AtomicBool,
}

impl Pool {
    pub(crate) fn new(connector: Connector, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connector,
            most: limits.max_connections.max(1),
            streams: limits.streams.max(1),
            state: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// Sends one request: [`Pool::lease`] and [`Lease::send`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Full<Bytes>>,
        body_limit: usize,
    ) -> Result<Reply, SendError> {
        self.lease().await?.send(request, body_limit).await
    }

    /// Whether a connection stands.
    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().connections.iter().any(|connection| connection.is_usable())
    }

    /// When the pool was last asked for a stream.
    pub(crate) fn last_used(&self) -> Option<Instant> {
        self.state.lock().used
    }

    /// A stream on the least busy connection; opens another connection when all are saturated.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, SendError> {
        let mut failed_before = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listening begins before looking, or a change in between would be missed.
            changed.as_mut().enable();
            if let Some(outcome) = self.try_lease(&mut failed_before) {
                return outcome;
            }
            changed.await;
        }
    }

    /// `None`: wait for a change.
    fn try_lease(self: &Arc<Self>, failed_before: &mut Option<u64>) -> Option<Result<Lease, SendError>> {
        let now = clock::now();
        let mut state = self.state.lock();
        state.used = Some(now);
        state.connections.retain(|connection| connection.is_usable());
        let free = state
            .connections
            .iter()
            .map(|connection| (connection.in_use.load(Ordering::Relaxed), connection))
            .filter(|(in_use, connection)| *in_use < self.streams.min(connection.allowed.load(Ordering::Relaxed)))
            .min_by_key(|(in_use, _)| *in_use);
        if let Some((_, connection)) = free {
            connection.in_use.fetch_add(1, Ordering::Relaxed);
            return Some(Ok(Lease { pool: Arc::clone(self), connection: Arc::clone(connection) }));
        }
        let failed_meanwhile = failed_before.replace(state.failed).is_some_and(|before| before != state.failed);
        if state.connections.is_empty() && failed_meanwhile {
            return Some(Err(SendError::Connect));
        }
        let may_open = state.connections.len() + state.connecting < self.most;
        // One attempt at a time: a peer that is slow to greet is not helped by more of them.
        if may_open && state.connecting == 0 && state.not_before.is_none_or(|at| at <= now) {
            state.connecting += 1;
            tokio::spawn(Arc::clone(self).open());
        } else if state.connections.is_empty() && state.connecting == 0 {
            return Some(Err(SendError::Connect));
        }
        None
    }

    /// Opens a connection. A task of its own, so that a push whose time runs out does not take the connection along.
    async fn open(self: Arc<Self>) {
        let outcome = self.connector.connect(&self.changed).await;
        let now = clock::now();
        let mut state = self.state.lock();
        state.connecting -= 1;
        match outcome {
            Ok((sender, allowed)) => {
                state.failures = 0;
                state.not_before = None;
                let (in_use, retired) = (AtomicUsize::new(0), AtomicBool::new(false));
                state.connections.push(Arc::new(Connection { sender, allowed, in_use, retired }));
            }
            Err(error) => {
                tracing::debug!(%error, "no connection to the push service");
                state.failed += 1;
                state.not_before = Some(now + backoff(state.failures, FIRST_PAUSE, LONGEST_PAUSE));
                state.failures = state.failures.saturating_add(1);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

/// A stream on a connection, until dropped.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Arc<Connection>,
}

impl Lease {
    /// Sends the request and waits for the answer, its body up to `body_limit` octets. Dropping the future cancels the stream.
    pub(crate) async fn send(self, request: Request<Full<Bytes>>, body_limit: usize) -> Result<Reply, SendError> {
        let mut sender = self.connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => Ok(read(response, body_limit).await),
            Err(mut failed) => {
                let untouched = failed.take_message().is_some();
                let (unprocessed, connection_ends) = nature(&failed.into_error());
                if untouched || connection_ends {
                    self.connection.retired.store(true, Ordering::Release);
                }
                Err(if untouched || unprocessed { SendError::Unprocessed } else { SendError::Interrupted })
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.in_use.fetch_sub(1, Ordering::Relaxed);
        self.pool.changed.notify_one();
    }
}

impl Connection {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.retired.load(Ordering::Acquire)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// There is no connection: nothing was sent.
    Connect,
    /// The peer says it did not process the stream: above GOAWAY's last stream, or REFUSED_STREAM (RFC 9113 §6.8, §8.7).
    Unprocessed,
    /// The stream or its connection ended; the peer may have processed it.
    Interrupted,
}

/// Whether the peer did not process the stream, and whether the connection is over.
fn nature(error: &hyper::Error) -> (bool, bool) {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    let Some(error) = source else { return (false, true) };
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 reports a peer's GOAWAY only to streams above the last one the peer named; the others end in their own way.
    let above_goaway = error.is_go_away() && error.is_remote();
    (refused || above_goaway, !error.is_reset())
}

/// The answer with its body up to `limit`; the status alone decides where the body is longer or breaks off (P-140).
async fn read(response: Response<Incoming>, limit: usize) -> Reply {
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    Reply { status: head.status, headers: head.headers, body }
}

/// Doubling pauses with jitter: between half and one and a half of `first * 2^attempt`, at most `longest`.
pub(crate) fn backoff(attempt: u32, first: Duration, longest: Duration) -> Duration {
    let pause = first.saturating_mul(1 << attempt.min(20));
    pause.min(longest).mul_f64(rand::random_range(0.5..1.5)).min(longest)
}

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        for attempt in 0..60 {
            let expected = first * (1 << attempt.min(20));
            let pause = backoff(attempt, first, longest);
            assert!(pause >= (expected / 2).min(longest / 2), "{attempt}: {pause:?}");
            assert!(pause <= (expected * 3 / 2).min(longest), "{attempt}: {pause:?}");
        }
    }
}
