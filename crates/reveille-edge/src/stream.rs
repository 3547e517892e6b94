//! The core of a connection: one task that reads, frames, delivers and writes, whatever the stream beneath.
//!
//! An idle connection owns no buffers: reads go through the stack, the codec and the queue allocate when octets come, and one
//! timer serves every limit. Reading and writing share the task, so a peer that does not read holds up only itself.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use reveille_proxy::ingress::{Held, Hold, Inbound, Purpose};
use reveille_sip::{
    frame::{Frame, FrameError, Framed, Framer},
    message::Message,
    method::Method,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{
    answer,
    flows::{Core, Link, Registration},
    keepalive::{Beat, Pulse},
    limits::{Permit, TokenBucket},
    queue::{CloseReason, KEPT_SLOTS},
};

/// How messages lie in a stream of octets.
pub(crate) trait Codec: Send + 'static {
    /// Takes octets as they were read.
    fn feed(&mut self, octets: &[u8]);

    /// The next whole frame.
    fn next(&mut self) -> Result<Option<Frame>, FrameError>;

    /// Whether a message has begun and not ended.
    fn is_mid_message(&mut self) -> bool;

    /// Gives back memory that is not in use.
    fn relax(&mut self);

    /// Puts outgoing messages into the form of the wire.
    fn encode(&mut self, _batch: &mut VecDeque<Bytes>) {}
}

impl Codec for Framer {
    fn feed(&mut self, octets: &[u8]) {
        self.push(octets);
    }

    fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        Framer::next(self)
    }

    fn is_mid_message(&mut self) -> bool {
        // A CRLF may be half a ping, or a whole pong: nobody has begun a message with it.
        Framer::is_mid_message(self) && **self.buffer() != *b"\r\n"
    }

    fn relax(&mut self) {
        let buffer = self.buffer();
        if buffer.is_empty() && buffer.capacity() > 0 {
            *buffer = bytes::BytesMut::new();
        }
    }
}

/// Drives a connection until it ends. `_permit` is its place in the limits, held until the socket is gone.
pub(crate) async fn drive<S, C>(
    stream: S,
    codec: C,
    registration: Registration,
    core: Arc<Core>,
    _permit: Option<Permit>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Codec,
{
    let link = Arc::clone(registration.link());
    let now = Instant::now();
    link.heard(core.millis(now));
    let first = match (link.is_dialled(), link.purpose) {
        (false, Purpose::Public | Purpose::Peer) => Some(now + core.timeouts.first_message),
        _ => None,
    };
    let rate = if core.is_limited(link.purpose, link.remote) { core.limits.messages_per_flow } else { 0 };
    // Who opened a connection between nodes keeps it alive, and who accepted it listens.
    let timeouts = &core.timeouts;
    let (pulse, idle) = match (link.purpose, link.is_dialled()) {
        (Purpose::Cluster, true) => {
            (Some(Box::new(Pulse::new(now, timeouts.cluster_ping, timeouts.cluster_pong))), timeouts.idle)
        }
        (Purpose::Cluster, false) => (None, timeouts.cluster_ping * MISSED_PINGS),
        (Purpose::Public | Purpose::Peer, _) => (None, timeouts.idle),
    };
    let mut driver = Driver {
        stream,
        codec,
        writing: VecDeque::new(),
        batch: (0, 0),
        unflushed: false,
        timer: Box::pin(tokio::time::sleep_until(now)),
        heard: now,
        idle,
        pulse,
        first,
        message: None,
        resume: None,
        rate,
        bucket: TokenBucket::new(core.limits.messages_burst, now.into_std()),
        link,
        core,
    };
    let reason = driver.run().await;
    // The proxy learns of it now; what is queued may still take its time to leave.
    driver.link.queue.close(reason);
    registration.end(reason);
    if reason.flushes() {
        let close = driver.core.timeouts.close;
        // Late or failed, the socket is dropped either way.
        let _ = tokio::time::timeout(close, driver.finish(reason)).await;
    }
}

struct Driver<S, C> {
    stream: S,
    codec: C,
    link: Arc<Link>,
    core: Arc<Core>,
    /// What is being written, and what it counts for in the queue: messages and octets.
    writing: VecDeque<Bytes>,
    batch: (usize, usize),
    unflushed: bool,
    timer: Pin<Box<Sleep>>,
    heard: Instant,
    /// How long nothing may be heard.
    idle: Duration,
    /// Keep-alives of our own.
    pulse: Option<Box<Pulse>>,
    /// Until when the first message must be whole.
    first: Option<Instant>,
    /// Until when the message begun must be whole.
    message: Option<Instant>,
    /// Until when reading pauses, the peer being above its rate.
    resume: Option<Instant>,
    /// Messages per second; 0 is no bound.
    rate: u32,
    bucket: TokenBucket,
}

enum Turn {
    Read,
    Timer,
    Close(CloseReason),
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Codec> Driver<S, C> {
    async fn run(&mut self) -> CloseReason {
        loop {
            self.arm();
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::Close(reason) => return reason,
                Turn::Read => {
                    if let Err(reason) = self.take_frames() {
                        return reason;
                    }
                }
                Turn::Timer => {
                    if let Some(reason) = self.expired(Instant::now()) {
                        return reason;
                    }
                }
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            if let Some(reason) = self.poll_queue(cx) {
                return Poll::Ready(Turn::Close(reason));
            }
            match self.poll_write(cx) {
                // The queue may have filled meanwhile.
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) | Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::Close(CloseReason::Broken)),
            }
        }
        if self.resume.is_none() {
            let mut space = [const { MaybeUninit::uninit() }; READ];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Poll::Ready(Turn::Close(CloseReason::Peer));
                }
                Poll::Ready(Ok(())) => {
                    self.codec.feed(buffer.filled());
                    return Poll::Ready(Turn::Read);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Turn::Close(broken(&error))),
                Poll::Pending => {}
            }
        }
        self.timer.as_mut().poll(cx).map(|()| Turn::Timer)
    }

    /// Takes the next batch when the last is written.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Option<CloseReason> {
        let idle = self.writing.is_empty();
        let closing = self.link.queue.poll(cx, &mut self.writing);
        if idle && !self.writing.is_empty() {
            self.begin_batch();
        }
        closing
    }

    fn begin_batch(&mut self) {
        self.batch = (self.writing.len(), self.writing.iter().map(Bytes::len).sum());
        self.codec.encode(&mut self.writing);
    }

    /// Writes the batch, then flushes. Ready with whether a batch was finished.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut wrote = false;
        while !self.writing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, buffer) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(buffer);
            }
            let count = self.writing.len().min(SLICES);
            let slices = slices.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(written);
            wrote = true;
        }
        if wrote {
            let (messages, octets) = std::mem::take(&mut self.batch);
            self.link.queue.written(messages, octets);
            if self.writing.capacity() > KEPT_SLOTS {
                self.writing = VecDeque::new();
            }
            return Poll::Ready(Ok(true));
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(false))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(buffer) = self.writing.front_mut() {
            if buffer.len() > written {
                buffer.advance(written);
                return;
            }
            written -= buffer.len();
            self.writing.pop_front();
        }
    }

    /// Hands on every whole frame that has been read (S-023).
    fn take_frames(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        self.heard = now;
        self.link.heard(self.core.millis(now));
        if let Some(pulse) = &mut self.pulse {
            pulse.heard();
        }
        let (mut messages, mut pinged) = (0, false);
        loop {
            match self.codec.next() {
                Ok(None) => break,
                Ok(Some(Frame::Message(framed))) => {
                    messages += 1;
                    self.take_message(framed, now)?;
                }
                // Where the keep-alives are ours, these are two answers in a row.
                Ok(Some(Frame::KeepAlivePing)) => pinged |= self.pulse.is_none(),
                Ok(Some(Frame::KeepAlivePong)) => {}
                Err(error) => {
                    self.reject(error.head.as_deref(), error.status, error.reason);
                    return Err(CloseReason::Malformed);
                }
            }
        }
        if pinged {
            // RFC 5626 §4.4.1: one CRLF. One for all pings of a read is enough to show that we live.
            self.core.metrics.keepalives_crlf.inc();
            let _ = self.link.queue.push(Bytes::from_static(b"\r\n"));
        }
        if messages > 0 {
            self.first = None;
            self.message = None;
            if self.rate != 0 {
                let debt =
                    self.bucket.charge(messages, self.rate, self.core.limits.messages_burst.max(1), now.into_std());
                if debt.is_some() {
                    self.core.metrics.throttled.inc();
                }
                self.resume = debt.map(|wait| now + wait);
            }
        }
        if self.codec.is_mid_message() {
            self.message.get_or_insert(now + self.core.timeouts.message);
        } else {
            self.message = None;
            self.codec.relax();
        }
        Ok(())
    }

    fn take_message(&mut self, framed: Framed, now: Instant) -> Result<(), CloseReason> {
        let metrics = self.core.metrics.transport(self.link.flow.transport());
        metrics.messages_in.inc();
        let octets = framed.bytes().clone();
        let message = match Message::parse_framed(framed, &self.core.sip) {
            Ok(message) => message,
            Err(error) => {
                self.reject(Some(&octets), error.status, error.reason);
                return Err(CloseReason::Malformed);
            }
        };
        let mut hold = None;
        if message.is_request() && message.method() != Method::Ack {
            hold = Hold::on(Arc::clone(&self.link) as Arc<dyn Held>, message.method());
            if hold.is_none() {
                // It crossed the end of a connection that is being drained: nothing was done, and its sender tries elsewhere.
                return Ok(());
            }
        }
        let inbound = Inbound {
            message,
            hold,
            flow: self.link.flow,
            remote: self.link.remote,
            purpose: self.link.purpose,
            transport: self.link.flow.transport(),
            received: now.into_std(),
        };
        if let Err(refused) = self.core.ingress.deliver(inbound) {
            metrics.overloaded.inc();
            if let Some(answer) = answer::overloaded(&refused.message, refused.remote, &self.core.limits) {
                let _ = self.link.queue.push(answer);
            }
        }
        Ok(())
    }

    /// Answers what cannot be read, as far as it can be answered (S-017, S-021).
    fn reject(&self, head: Option<&[u8]>, status: u16, reason: &str) {
        self.core.metrics.rejected(self.link.flow.transport(), status);
        tracing::debug!(flow = ?self.link.flow, status, reason, "unreadable message");
        if let Some(answer) = head.and_then(|head| reveille_sip::response::best_effort(head, status, reason)) {
            let _ = self.link.queue.push(answer);
        }
    }

    /// Sets the timer to the nearest limit. It is moved only when a limit has come nearer: one that went away is found out
    /// when the timer fires.
    fn arm(&mut self) {
        let limits = [self.first, self.message, self.resume].into_iter().flatten();
        let next = limits.fold(self.heard + self.idle, Instant::min);
        let next = self.pulse.as_ref().map_or(next, |pulse| next.min(pulse.deadline()));
        if self.timer.is_elapsed() || next < self.timer.deadline() {
            self.timer.as_mut().reset(next);
        }
    }

    fn expired(&mut self, now: Instant) -> Option<CloseReason> {
        self.resume = self.resume.filter(|&resume| resume > now);
        if self.first.is_some_and(|limit| limit <= now) {
            return Some(CloseReason::FirstMessage);
        }
        if self.message.is_some_and(|limit| limit <= now) {
            return Some(CloseReason::Message);
        }
        match self.pulse.as_mut().map_or(Beat::Rest, |pulse| pulse.beat(now)) {
            Beat::Rest => {}
            Beat::Ping => drop(self.link.queue.push(Bytes::from_static(b"\r\n\r\n"))),
            Beat::Dead => return Some(CloseReason::Pong),
        }
        (self.heard + self.idle <= now).then_some(CloseReason::Idle)
    }

    /// Writes what is left and says goodbye.
    async fn finish(mut self, reason: CloseReason) -> io::Result<()> {
        loop {
            poll_fn(|cx| {
                while ready!(self.poll_write(cx))? {}
                Poll::Ready(io::Result::Ok(()))
            })
            .await?;
            self.link.queue.drain(&mut self.writing);
            if self.writing.is_empty() {
                break;
            }
            self.begin_batch();
        }
        poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await?;
        if reason == CloseReason::Malformed {
            // Octets left unread would make the kernel reset the connection and so destroy our answer on its way.
            let linger = tokio::time::timeout(LINGER, self.discard(LINGER_OCTETS));
            let _ = linger.await;
        }
        Ok(())
    }

    async fn discard(&mut self, mut budget: usize) {
        loop {
            let read = poll_fn(|cx| {
                let mut space = [const { MaybeUninit::uninit() }; READ];
                let mut buffer = ReadBuf::uninit(&mut space);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            match read.await {
                Ok(count) if count > 0 && budget > count => budget -= count,
                _ => return,
            }
        }
    }
}

/// TLS peers that leave without close_notify are no worse than those that say it: SIP messages carry their own length.
fn broken(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => CloseReason::Peer,
        _ => CloseReason::Broken,
    }
}

/// Keep-alives of another node that may fail to come.
const MISSED_PINGS: u32 = 3;
/// Octets read at once, on the stack.
const READ: usize = 8 * 1024;
/// Buffers written at once.
const SLICES: usize = 16;
/// How long, and for how many octets, a peer that was cut off may go on talking.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_OCTETS: usize = 256 * 1024;

#[cfg(test)]
mod tests;
