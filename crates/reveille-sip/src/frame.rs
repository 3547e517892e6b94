//! Cutting a byte stream into messages (RFC 3261 §18.3) and keep-alives (RFC 5626 §4.4.1).

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr_iter;
use smallvec::SmallVec;

use crate::{
    header::HeaderId,
    limits::Limits,
    message::{Index, Progress, Reader},
    scan,
};

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message.
    Message(Framed),
    /// CRLF CRLF between messages: to be answered with one CRLF (S-125).
    KeepAlivePing,
    /// A lone CRLF between messages.
    KeepAlivePong,
}

/// The octets of one message, and where its lines are as far as that was found out in cutting it off.
#[derive(Clone, Debug)]
pub struct Framed {
    pub(crate) bytes: Bytes,
    /// Of a head that is plain.
    pub(crate) index: Option<Arc<Index>>,
}

impl Framed {
    /// The message as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Octets that nothing is known of: a datagram.
impl From<Bytes> for Framed {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, index: None }
    }
}

/// The index depends on nothing but the octets.
impl PartialEq for Framed {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Framed {}

/// The stream can no longer be cut; the connection must close (S-021, S-024).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct FrameError {
    /// What to answer.
    pub status: u16,
    /// Why, as a reason phrase.
    pub reason: &'static str,
    /// The headers as far as they arrived, for a best-effort answer.
    pub head: Option<Bytes>,
}

/// Cuts a stream. Fill [`Framer::buffer`], then take frames until there are no more.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    limits: Limits,
    head: Head,
    /// The whole message's length, once its headers are complete.
    expected: Option<usize>,
}

/// How far the headers of the current message were looked at, so that each octet is looked at once; twice where they are
/// not plain.
#[derive(Debug, Default)]
enum Head {
    #[default]
    None,
    /// Lines are indexed as they come.
    Plain(Reader),
    /// Only the end is sought, and then Content-Length.
    Odd(Search),
}

#[derive(Debug, Default)]
struct Search {
    /// Octets looked at.
    searched: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
    /// Where the start line ends.
    start_line: usize,
    /// Where lines begin that may be Content-Length.
    lengths: SmallVec<[usize; 2]>,
}

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

impl Framer {
    /// A framer for one connection.
    pub fn new(limits: Limits) -> Self {
        Self { buffer: BytesMut::new(), limits, head: Head::None, expected: None }
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun and not ended; a keep-alive, or the beginning of one, is no message.
    pub fn is_mid_message(&self) -> bool {
        !END_OF_HEAD.starts_with(&self.buffer)
    }

    /// Takes a lone CRLF that nothing follows yet. [`Framer::next`] holds it back, since it may be the first half of a
    /// ping; a side that awaits the answer to its own ping need not wait for the next message to see it.
    pub fn take_pong(&mut self) -> bool {
        let is_pong = self.expected.is_none() && self.buffer.as_ref() == b"\r\n";
        if is_pong {
            self.buffer.clear();
        }
        is_pong
    }

    /// The next frame; `None` until more bytes come.
    ///
    /// # Errors
    /// When framing is lost; the stream must be closed.
    #[allow(clippy::should_implement_trait)] // it can fail, and a None is not the end
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let total = match self.expected {
            Some(total) => total,
            None => {
                if matches!(self.buffer.first(), None | Some(b'\r')) {
                    return self.keep_alive();
                }
                let Some((head, length)) = self.read_head()? else { return Ok(None) };
                if length > self.limits.body || head + length > self.limits.message {
                    return Err(self.lost(513, "Message Too Large", Some(head)));
                }
                *self.expected.insert(head + length)
            }
        };
        if self.buffer.len() < total {
            return Ok(None);
        }
        self.expected = None;
        let index = match std::mem::take(&mut self.head) {
            Head::Plain(reader) => Some(reader.into_index()),
            _ => None,
        };
        // An idle connection holds no buffer: when nothing is left over, the message takes it along.
        let message =
            if self.buffer.len() == total { std::mem::take(&mut self.buffer) } else { self.buffer.split_to(total) };
        Ok(Some(Frame::Message(Framed { bytes: message.freeze(), index })))
    }

    /// The buffer is empty or begins with CR, so what comes is a keep-alive or nothing we know.
    fn keep_alive(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.buffer.starts_with(END_OF_HEAD) {
            self.buffer.advance(4);
            return Ok(Some(Frame::KeepAlivePing));
        }
        // A CRLF is lone only when what follows it cannot become a second one.
        if self.buffer.starts_with(b"\r\n") && self.buffer.get(2).is_some_and(|b| *b != b'\r') {
            self.buffer.advance(2);
            return Ok(Some(Frame::KeepAlivePong));
        }
        if END_OF_HEAD.starts_with(&self.buffer) { Ok(None) } else { Err(self.lost(400, "Bad Request", None)) }
    }

    /// The length of start line and headers with their empty line, and that of the body, once they are complete.
    fn read_head(&mut self) -> Result<Option<(usize, usize)>, FrameError> {
        if matches!(self.head, Head::None) {
            self.head = Head::Plain(Reader::new());
        }
        if let Head::Plain(reader) = &mut self.head {
            match reader.read(&self.buffer) {
                Progress::Whole => {
                    let index = reader.index();
                    if let Ok(Some(length)) = index.content_length(&self.buffer)
                        && index.is_within(&self.limits)
                    {
                        return Ok(Some((index.body, length)));
                    }
                }
                Progress::More => {
                    let has_start_line = reader.has_start_line();
                    return self.wait(has_start_line);
                }
                Progress::Odd => {}
            }
        }
        // Not plain, or at fault: from the beginning.
        if !matches!(self.head, Head::Odd(_)) {
            self.head = Head::Odd(Search::default());
        }
        let Head::Odd(search) = &mut self.head else { return Ok(None) };
        let Some(end) = search.head_end(&self.buffer) else {
            let has_start_line = search.line != 0;
            return self.wait(has_start_line);
        };
        let is_long = search.start_line > self.limits.start_line + 1;
        let length = search.content_length(self.buffer.get(..end).unwrap_or_default());
        if is_long {
            return Err(self.lost(414, "Request-URI Too Long", None));
        }
        if end > self.head_limit() {
            return Err(self.lost(400, "Headers Too Large", Some(self.head_limit())));
        }
        let length = length.map_err(|reason| self.lost(400, reason, Some(end)))?;
        Ok(Some((end, length)))
    }

    /// What there is of a head is not too much to wait for more.
    fn wait<T>(&self, has_start_line: bool) -> Result<Option<T>, FrameError> {
        let length = self.buffer.len();
        // One of them may be the CR.
        if !has_start_line && length > self.limits.start_line + 1 {
            return Err(self.lost(414, "Request-URI Too Long", None));
        }
        if length > self.head_limit() {
            return Err(self.lost(400, "Headers Too Large", Some(self.head_limit())));
        }
        Ok(None)
    }

    fn head_limit(&self) -> usize {
        self.limits.header_section + self.limits.start_line
    }

    fn lost(&self, status: u16, reason: &'static str, head: Option<usize>) -> FrameError {
        let head = head.and_then(|end| self.buffer.get(..end)).map(Bytes::copy_from_slice);
        FrameError { status, reason, head }
    }
}

impl Search {
    /// The length of start line and headers with their empty line, once they are complete.
    fn head_end(&mut self, buffer: &[u8]) -> Option<usize> {
        let unread = buffer.get(self.searched..)?;
        for newline in memchr_iter(b'\n', unread).map(|at| self.searched + at) {
            let start = std::mem::replace(&mut self.line, newline + 1);
            if start == 0 {
                self.start_line = newline;
            }
            match buffer.get(start..newline) {
                Some(b"\r") => return Some(newline + 1),
                // `l:` and `Content-L…`; which of them it is, and whether it is folded, is seen when all is there.
                Some([b'l' | b'L', ..] | [b'c' | b'C', _, _, _, _, _, _, _, b'l' | b'L', ..]) => {
                    self.lengths.push(start)
                }
                _ => {}
            }
        }
        self.searched = buffer.len();
        None
    }

    /// Content-Length: there, once or with one value, and a number (S-021).
    fn content_length(&self, head: &[u8]) -> Result<usize, &'static str> {
        let mut length = None;
        for start in &self.lengths {
            let Some(line) = head.get(*start..).map(unfolded_line) else { continue };
            let Some(colon) = scan::find(line, b':') else { continue };
            let (name, value) = line.split_at(colon);
            if HeaderId::from_name(name.trim_ascii_end()) != HeaderId::ContentLength {
                continue;
            }
            let value = digits(value.get(1..).unwrap_or_default().trim_ascii()).ok_or("Bad Content-Length")?;
            if length.is_some_and(|seen| seen != value) {
                return Err("Conflicting Content-Length");
            }
            length = Some(value);
        }
        length.ok_or("Missing Content-Length")
    }
}

/// The line that `text` begins with and the folded ones that belong to it (S-003); white space between is left in.
fn unfolded_line(text: &[u8]) -> &[u8] {
    let end = memchr_iter(b'\n', text).find(|at| !matches!(text.get(at + 1), Some(b' ' | b'\t')));
    text.get(..end.unwrap_or(text.len())).unwrap_or(text)
}

/// A count of octets: one to ten digits.
pub(crate) fn digits(text: &[u8]) -> Option<usize> {
    (!text.is_empty() && text.len() <= 10 && text.iter().all(u8::is_ascii_digit))
        .then(|| text.iter().fold(0_usize, |n, d| n * 10 + usize::from(d - b'0')))
}
