//! What an HTTP/2 library will not do to its peer: a layer between TLS and the server that reads frames as they pass and bends
//! them. GOAWAY naming a stream in the middle of a batch, a stream limit that is lifted later, and a peer that falls silent.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is to be done to one connection. Shared between the layer, the request handler and whoever orders the faults.
pub(super) struct Bend {
    /// Take this many requests, then say GOAWAY and ignore the rest; `u32::MAX` is never.
    pub(super) goaway_after: AtomicU32,
    /// Nothing passes any more, in either direction.
    pub(super) mute: AtomicBool,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` until [`Bend::lifted`], and what it is afterwards.
    pub(super) first_limit: Option<(u32, u32)>,
    /// A push with a good credential was answered.
    pub(super) lifted: AtomicBool,
    /// Requests that came while as many as allowed were under way.
    pub(super) over_limit: Arc<AtomicU64>,
}

/// A transport under the layer.
pub(super) struct Tamper<T> {
    inner: T,
    bend: Arc<Bend>,
    incoming: BytesMut,
    passed: BytesMut,
    preface_seen: bool,
    outgoing: BytesMut,
    ready: BytesMut,
    requests: u32,
    last_stream: u32,
    gone: bool,
    open: HashSet<u32>,
    /// For each SETTINGS sent and not yet acknowledged, whether the server knows of it.
    acks: VecDeque<bool>,
    lifted: bool,
}

impl<T> Tamper<T> {
    pub(super) fn new(inner: T, bend: Arc<Bend>) -> Self {
        Self {
            inner,
            bend,
            incoming: BytesMut::new(),
            passed: BytesMut::new(),
            preface_seen: false,
            outgoing: BytesMut::new(),
            ready: BytesMut::new(),
            requests: 0,
            last_stream: 0,
            gone: false,
            open: HashSet::new(),
            acks: VecDeque::new(),
            lifted: false,
        }
    }

    /// Lets whole frames of the client pass to the server, or not.
    fn sift(&mut self) {
        if !self.preface_seen {
            if self.incoming.len() < PREFACE {
                return;
            }
            self.passed.extend_from_slice(&self.incoming.split_to(PREFACE));
            self.preface_seen = true;
        }
        while let Some(frame) = take_frame(&mut self.incoming) {
            if self.admits(&frame) {
                self.passed.extend_from_slice(&frame);
            }
        }
    }

    fn admits(&mut self, frame: &[u8]) -> bool {
        let Some(head) = Head::of(frame) else { return true };
        match head.kind {
            HEADERS if !self.gone && head.stream > self.last_stream => {
                if self.requests >= self.bend.goaway_after.load(Ordering::Relaxed) {
                    self.gone = true;
                    self.ready.extend_from_slice(&goaway(self.last_stream));
                    return false;
                }
                if let Some((limit, _)) = self.bend.first_limit
                    && !self.lifted
                    && self.open.len() >= limit as usize
                {
                    self.bend.over_limit.fetch_add(1, Ordering::Relaxed);
                }
                self.requests += 1;
                self.last_stream = head.stream;
                self.open.insert(head.stream);
                true
            }
            SETTINGS if head.flags & ACK != 0 => self.acks.pop_front().unwrap_or(true),
            // After GOAWAY whatever belongs to a stream above the last one counts as never sent (RFC 9113 §6.8).
            HEADERS | DATA | RST_STREAM | WINDOW_UPDATE if head.stream > self.last_stream => !self.gone,
            _ => true,
        }
    }

    /// Takes whole frames of the server on, bent where they need to be.
    fn shape(&mut self) {
        while let Some(mut frame) = take_frame(&mut self.outgoing) {
            let Some(head) = Head::of(&frame) else { continue };
            if head.kind == SETTINGS && head.flags & ACK == 0 {
                if let Some((first, _)) = self.bend.first_limit {
                    set_max_streams(&mut frame, first);
                }
                self.acks.push_back(true);
            }
            let ends = matches!(head.kind, HEADERS | DATA) && head.flags & END_STREAM != 0;
            if ends || head.kind == RST_STREAM {
                self.open.remove(&head.stream);
            }
            self.ready.extend_from_slice(&frame);
        }
        if let Some((_, then)) = self.bend.first_limit
            && !self.lifted
            && self.bend.lifted.load(Ordering::Acquire)
        {
            self.lifted = true;
            self.acks.push_back(false);
            self.ready.extend_from_slice(&settings(then));
        }
    }

    fn is_mute(&self) -> bool {
        self.bend.mute.load(Ordering::Acquire)
    }
}

impl<T: AsyncWrite + Unpin> Tamper<T> {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_mute() {
            self.ready.clear();
        }
        while !self.ready.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.ready))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ready.advance(written);
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tamper<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.passed.is_empty() {
            let mut space = [0; 16 * 1024];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if this.is_mute() {
                continue;
            }
            this.incoming.extend_from_slice(space.filled());
            this.sift();
            // A GOAWAY leaves now; where the socket is full the server's next write takes it along.
            if !this.ready.is_empty()
                && let Poll::Ready(Err(error)) = this.drain(cx)
            {
                return Poll::Ready(Err(error));
            }
        }
        let most = this.passed.len().min(buffer.remaining());
        buffer.put_slice(&this.passed.split_to(most));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tamper<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ready.len() > BACKLOG {
            ready!(self.drain(cx))?;
        }
        self.outgoing.extend_from_slice(bytes);
        self.shape();
        match self.drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shape();
        self.drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The nine octets in front of every frame (RFC 9113 §4.1).
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(frame: &[u8]) -> Option<Self> {
        let [_, _, _, kind, flags, a, b, c, d, ..] = *frame else { return None };
        Some(Self { kind, flags, stream: u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff })
    }
}

fn take_frame(bytes: &mut BytesMut) -> Option<BytesMut> {
    let [a, b, c, ..] = **bytes else { return None };
    let whole = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
    (bytes.len() >= whole).then(|| bytes.split_to(whole))
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or_default();
    [&[0, 0, length, kind, 0, 0, 0, 0, 0], payload].concat()
}

fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, &[last.to_be_bytes(), [0; 4]].concat())
}

fn settings(max_streams: u32) -> Vec<u8> {
    frame(SETTINGS, &[&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &max_streams.to_be_bytes()].concat())
}

/// Rewrites the limit where the frame has one; hyper always sends it.
fn set_max_streams(frame: &mut [u8], limit: u32) {
    for setting in frame.get_mut(HEAD..).unwrap_or_default().chunks_exact_mut(6) {
        if setting.starts_with(&MAX_CONCURRENT_STREAMS.to_be_bytes())
            && let Some(value) = setting.get_mut(2..)
        {
            value.copy_from_slice(&limit.to_be_bytes());
        }
    }
}

const PREFACE: usize = 24;
const HEAD: usize = 9;
const BACKLOG: usize = 1024 * 1024;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
