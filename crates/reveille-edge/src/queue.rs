//! What waits to be written to one connection, the word to close it, and what keeps it open while the node drains.
//!
//! Bounded by messages and by octets, counting also what the writer has in hand (S-227). A channel would do the same, but the
//! channels at hand allocate a kilobyte for each idle connection; this allocates when there is something to send.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use reveille_proxy::egress::SendError;

/// Why a flow closed; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed it.
    Peer,
    /// The connection broke.
    Broken,
    /// A connection of ours could not be made.
    Connect,
    /// No whole message came in time (S-225).
    FirstMessage,
    /// A message was begun and not ended in time (S-225).
    Message,
    /// Nothing was heard for too long (S-225).
    Idle,
    /// Another node did not answer a keep-alive (RFC 5626 §4.4.1).
    Pong,
    /// The peer sent what is not SIP, or too much of it (S-021, S-024, S-030).
    Malformed,
    /// The peer does not read (S-227).
    QueueFull,
    /// The proxy closed it.
    Local,
    /// The node drains.
    Drain,
    /// The node stops.
    Shutdown,
}

impl CloseReason {
    /// Every reason, in the order of its number.
    pub(crate) const ALL: [Self; 12] = [
        Self::Peer,
        Self::Broken,
        Self::Connect,
        Self::FirstMessage,
        Self::Message,
        Self::Idle,
        Self::Pong,
        Self::Malformed,
        Self::QueueFull,
        Self::Local,
        Self::Drain,
        Self::Shutdown,
    ];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Broken => "broken",
            Self::Connect => "connect",
            Self::FirstMessage => "first_message_timeout",
            Self::Message => "message_timeout",
            Self::Idle => "idle_timeout",
            Self::Pong => "pong_timeout",
            Self::Malformed => "malformed",
            Self::QueueFull => "queue_full",
            Self::Local => "local",
            Self::Drain => "drain",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether queued octets are still written before the connection goes.
    pub(crate) fn flushes(self) -> bool {
        !matches!(self, Self::Broken | Self::Connect | Self::Pong | Self::QueueFull)
    }
}

/// The send queue of one connection.
pub(crate) struct SendQueue {
    state: Mutex<State>,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Bytes>,
    /// Messages and octets waiting or in the writer's hand.
    messages: usize,
    bytes: usize,
    closing: Option<CloseReason>,
    waker: Option<Waker>,
    /// Requests in hand that came by this connection, or left by it.
    held: u32,
    /// Whether a call was among those that ended since the last [`SendQueue::leave`].
    touched: bool,
}

impl State {
    fn watch(&mut self, cx: &Context<'_>) {
        if self.closing.is_none() && !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl SendQueue {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_messages, max_bytes }
    }

    /// Queues one message. A queue that is full begins to close the connection.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), SendError> {
        if message.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Err(SendError::Gone);
        }
        let waker = if state.messages >= self.max_messages || state.bytes.saturating_add(message.len()) > self.max_bytes
        {
            state.closing = Some(CloseReason::QueueFull);
            // The peer will not read them; nobody else needs their memory held until the task has its turn.
            state.waiting = VecDeque::new();
            state.waker.take()
        } else {
            state.messages += 1;
            state.bytes += message.len();
            state.waiting.push_back(message);
            let waker = state.waker.take();
            drop(state);
            wake(waker);
            return Ok(());
        };
        drop(state);
        wake(waker);
        Err(SendError::Full)
    }

    /// Asks the connection's task to close it. The first reason given stands.
    pub(crate) fn close(&self, reason: CloseReason) {
        let mut state = self.state.lock();
        if state.closing.is_none() {
            state.closing = Some(reason);
            let waker = state.waker.take();
            drop(state);
            wake(waker);
        }
    }

    /// Counts a request in hand. False when a drain closes the connection: it is not to be begun then.
    pub(crate) fn hold(&self) -> bool {
        let mut state = self.state.lock();
        if state.closing == Some(CloseReason::Drain) {
            return false;
        }
        state.held += 1;
        true
    }

    /// The request has had its final answer; it was an INVITE, or was not.
    pub(crate) fn release(&self, call: bool) {
        let mut state = self.state.lock();
        state.held = state.held.saturating_sub(1);
        state.touched |= call;
    }

    /// Asks the connection's task to close it for a drain, if no request is in hand, and no call was answered since this was asked
    /// last: what follows the answer (an ACK, credentials) has that long to come. Returns whether it closes.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return true;
        }
        if state.held > 0 || std::mem::take(&mut state.touched) || state.messages > 0 {
            return false;
        }
        state.closing = Some(CloseReason::Drain);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        true
    }

    /// Whether the connection is closing.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.lock().closing.is_some()
    }

    /// For the connection's task: has itself woken by the next push or close, takes what waits if `out` is empty, and learns
    /// whether to close.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, out: &mut VecDeque<Bytes>) -> Option<CloseReason> {
        let mut state = self.state.lock();
        state.watch(cx);
        if out.is_empty() && !state.waiting.is_empty() {
            // Swapping keeps both allocations in use while there is traffic.
            std::mem::swap(&mut state.waiting, out);
        }
        state.closing
    }

    /// For a task that is still connecting: waits for the word to close.
    pub(crate) async fn closing(&self) -> CloseReason {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            state.watch(cx);
            state.closing.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// For the connection's task, when closing: everything left.
    pub(crate) fn drain(&self, out: &mut VecDeque<Bytes>) {
        out.append(&mut self.state.lock().waiting);
    }

    /// For the connection's task: this many messages and octets have been written.
    pub(crate) fn written(&self, messages: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.messages = state.messages.saturating_sub(messages);
        state.bytes = state.bytes.saturating_sub(bytes);
        if state.messages == 0 && state.waiting.capacity() > KEPT_SLOTS {
            state.waiting = VecDeque::new();
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A queue that has run empty keeps no more slots than this.
pub(crate) const KEPT_SLOTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(queue: &SendQueue, out: &mut VecDeque<Bytes>) -> Option<CloseReason> {
        queue.poll(&mut Context::from_waker(Waker::noop()), out)
    }

    // S-227: what the writer has in hand counts until it is written.
    #[test]
    fn s227_bounds_count_what_is_in_hand() {
        let queue = SendQueue::new(2, 100);
        queue.push(Bytes::from_static(b"one")).unwrap();
        queue.push(Bytes::from_static(b"two")).unwrap();
        let mut out = VecDeque::new();
        assert_eq!(poll(&queue, &mut out), None);
        assert_eq!(out.len(), 2);
        queue.written(1, 3);
        queue.push(Bytes::from_static(b"three")).unwrap();
        assert_eq!(queue.push(Bytes::from_static(b"four")), Err(SendError::Full));
        assert_eq!(poll(&queue, &mut out), Some(CloseReason::QueueFull));
        assert_eq!(queue.push(Bytes::from_static(b"five")), Err(SendError::Gone));
    }

    #[test]
    fn s227_octets_are_bounded() {
        let queue = SendQueue::new(100, 8);
        queue.push(Bytes::from_static(b"12345678")).unwrap();
        assert_eq!(queue.push(Bytes::from_static(b"9")), Err(SendError::Full));
    }

    #[test]
    fn first_reason_stands_and_what_waits_can_still_be_flushed() {
        let queue = SendQueue::new(4, 100);
        queue.push(Bytes::from_static(b"last words")).unwrap();
        queue.close(CloseReason::Local);
        queue.close(CloseReason::Drain);
        let mut out = VecDeque::new();
        queue.drain(&mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(poll(&queue, &mut VecDeque::new()), Some(CloseReason::Local));
    }

    // S-139: a drain waits for what is in hand, and then until a whole round was quiet.
    #[test]
    fn s139_a_connection_is_left_when_nobody_is_owed_an_answer() {
        let queue = SendQueue::new(4, 100);
        assert!(queue.hold() && queue.hold());
        assert!(!queue.leave());
        queue.release(true);
        assert!(!queue.leave(), "one of two");
        queue.release(false);
        assert!(queue.hold());
        queue.release(true);
        assert!(!queue.leave(), "the answer to a call has just left");
        queue.push(Bytes::from_static(b"slow")).unwrap();
        assert!(!queue.leave(), "something is to be written");
        assert_eq!(poll(&queue, &mut VecDeque::new()), None);
        queue.written(1, 4);
        assert!(queue.leave() && queue.leave());
        assert!(!queue.hold(), "nothing is begun on it");
        assert_eq!(queue.push(Bytes::from_static(b"late")), Err(SendError::Gone));
        assert_eq!(poll(&queue, &mut VecDeque::new()), Some(CloseReason::Drain));
    }

    #[test]
    fn reasons_are_listed_by_number() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
