//! The index: one pass over start line and headers.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memchr2, memmem};
use smallvec::SmallVec;

use crate::{header::HeaderId, limits::Limits, method::Method};

/// Octets from `start` to `end`. Messages are at most 64 KiB and a little, so four bytes each are plenty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// One header line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) id: HeaderId,
    /// The name as written.
    pub(crate) name: Range,
    /// The value, trimmed.
    pub(crate) value: Range,
    /// The whole line with its CRLF.
    pub(crate) whole: Range,
}

/// Where things are in a message.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// 0 for requests.
    pub(crate) status: u16,
    pub(crate) method: Method,
    /// Method, or version of a response.
    pub(crate) first: Range,
    /// Request-URI, or status code.
    pub(crate) second: Range,
    /// Version, or reason phrase.
    pub(crate) third: Range,
    /// Where the headers begin.
    pub(crate) headers: usize,
    /// Where the body begins.
    pub(crate) body: usize,
    lines: SmallVec<[Line; 24]>,
}

/// The bytes are no SIP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {reason}")]
pub struct ParseError {
    /// What to answer, if anything can be answered.
    pub status: u16,
    /// Why, as a reason phrase.
    pub reason: &'static str,
}

impl ParseError {
    const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }
}

const BAD_START: ParseError = ParseError::new(400, "Bad Start Line");
pub(super) const BAD_HEADERS: ParseError = ParseError::new(400, "Bad Headers");

/// What a scan came to.
#[allow(clippy::large_enum_variant)] // it is taken apart at once; a box would cost an allocation for each message
pub(crate) enum Scan {
    /// The index, and the message's length, which may be less than what was given.
    Done(Index, usize),
    /// There are folded lines: to be joined first.
    Folded,
}

impl Index {
    /// Scans a message.
    pub(crate) fn scan(bytes: &[u8], limits: &Limits) -> Result<Scan, ParseError> {
        if bytes.len() > limits.message {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        let window = bytes.get(..bytes.len().min(limits.header_section + limits.start_line)).unwrap_or(bytes);
        let mut newlines = memchr_iter(b'\n', window);
        let first = newlines.next().ok_or(BAD_START)?;
        if first > limits.start_line {
            return Err(ParseError::new(414, "Request-URI Too Long"));
        }
        let line = window.get(..first).and_then(|l| l.strip_suffix(b"\r")).ok_or(BAD_START)?;
        let mut index = Self::start_line(line, limits)?;
        index.headers = first + 1;
        let (mut start, mut vias, mut routes) = (first + 1, 0, 0);
        for newline in newlines {
            let line = window.get(start..newline).and_then(|l| l.strip_suffix(b"\r")).ok_or(BAD_HEADERS)?;
            if line.is_empty() {
                index.body = newline + 1;
                break;
            }
            if matches!(window.get(newline + 1), Some(b' ' | b'\t')) {
                return Ok(Scan::Folded);
            }
            if line.len() > limits.header_line {
                return Err(ParseError::new(400, "Header Too Large"));
            }
            let line = read_line(line, start).ok_or(BAD_HEADERS)?;
            match line.id {
                HeaderId::Via => vias += values_at_most(window, line.value),
                HeaderId::Route => routes += values_at_most(window, line.value),
                _ => {}
            }
            index.lines.push(line);
            start = newline + 1;
        }
        if index.body == 0 {
            return Err(ParseError::new(400, "Unterminated Headers"));
        }
        let section = window.get(index.headers..start).ok_or(BAD_HEADERS)?;
        if section.len() > limits.header_section {
            return Err(ParseError::new(400, "Headers Too Large"));
        }
        // As many CR as lines, which each end in one: no bare ones. NUL only where the grammar has it (S-030).
        if memchr_iter(b'\r', section).count() != index.lines.len() || !nul_is_escaped(section) {
            return Err(BAD_HEADERS);
        }
        if index.lines.len() > limits.headers || vias > limits.vias || routes > limits.routes {
            return Err(ParseError::new(400, "Too Many Headers"));
        }
        let length = index.whole_length(bytes)?;
        if length - index.body > limits.body {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        Ok(Scan::Done(index, length))
    }

    fn start_line(line: &[u8], limits: &Limits) -> Result<Self, ParseError> {
        if memchr2(b'\r', 0, line).is_some() {
            return Err(BAD_START); // S-030
        }
        let mut index = Self {
            status: 0,
            method: Method::Extension,
            first: Range::default(),
            second: Range::default(),
            third: Range::default(),
            headers: 0,
            body: 0,
            lines: SmallVec::new(),
        };
        let first = memchr(b' ', line).ok_or(BAD_START)?;
        index.first = range(0, first);
        if line.len() > 4 && line.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/")) {
            let code = line.get(first + 1..first + 4).ok_or(BAD_START)?;
            if !code.iter().all(u8::is_ascii_digit) || line.get(first + 4).is_some_and(|b| *b != b' ') {
                return Err(BAD_START); // S-012: bigcode
            }
            index.status = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            if !(100..=699).contains(&index.status) {
                return Err(BAD_START);
            }
            index.second = range(first + 1, first + 4);
            index.third = range((first + 5).min(line.len()), line.len());
            return Ok(index);
        }
        let second = memchr(b' ', line.get(first + 1..).ok_or(BAD_START)?).ok_or(BAD_START)? + first + 1;
        let method = line.get(..first).ok_or(BAD_START)?;
        let version = line.get(second + 1..).ok_or(BAD_START)?;
        // Exactly two spaces (lwsstart, trws, lwsruri): where a request begins and ends must be one reading for all.
        if method.is_empty()
            || !method.iter().copied().all(is_token)
            || second == first + 1
            || memchr(b' ', version).is_some()
            || version.is_empty()
        {
            return Err(BAD_START);
        }
        if std::str::from_utf8(line).is_err() {
            return Err(BAD_START);
        }
        if second - first - 1 > limits.uri {
            return Err(ParseError::new(414, "Request-URI Too Long"));
        }
        index.method = std::str::from_utf8(method).map_or(Method::Extension, Method::from_token);
        index.second = range(first + 1, second);
        index.third = range(second + 1, line.len());
        Ok(index)
    }

    /// How long the message says it is; an unusable Content-Length leaves the body to the datagram's end where that is safe.
    fn whole_length(&self, bytes: &[u8]) -> Result<usize, ParseError> {
        let mut length: Option<usize> = None;
        for line in self.lines.iter().filter(|l| l.id == HeaderId::ContentLength) {
            let text = bytes.get(line.value.start as usize..line.value.end as usize).unwrap_or_default();
            let value = crate::frame::digits(text).ok_or(ParseError::new(400, "Bad Content-Length"))?;
            if length.is_some_and(|seen| seen != value) {
                return Err(ParseError::new(400, "Conflicting Content-Length"));
            }
            length = Some(value);
        }
        match length {
            None => Ok(bytes.len()),
            Some(length) if self.body + length <= bytes.len() => Ok(self.body + length),
            Some(_) => Err(ParseError::new(400, "Content-Length Beyond Message")), // S-020: clerr
        }
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }
}

/// Reads one line that stands at `start` of the message.
fn read_line(line: &[u8], start: usize) -> Option<Line> {
    let name_end = line.iter().position(|b| !is_token(*b))?;
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let after_name = line.get(name_end..)?;
    let colon = name_end + after_name.iter().position(|b| !blank(b))?;
    if name_end == 0 || line.get(colon) != Some(&b':') {
        return None;
    }
    let value = line.get(colon + 1..)?;
    let before = value.iter().take_while(|b| blank(b)).count();
    let behind = value.get(before..)?.iter().rev().take_while(|b| blank(b)).count();
    Some(Line {
        id: HeaderId::from_name(line.get(..name_end)?),
        name: range(start, start + name_end),
        value: range(start + colon + 1 + before, start + line.len() - behind),
        whole: range(start, start + line.len() + 2),
    })
}

/// How many values a line has, if all its commas separate.
fn values_at_most(bytes: &[u8], value: Range) -> usize {
    1 + memchr_iter(b',', bytes.get(value.start as usize..value.end as usize).unwrap_or_default()).count()
}

/// Whether each NUL is the second half of a quoted pair (RFC 3261 §25.1: intmeth); it can stand nowhere else.
fn nul_is_escaped(section: &[u8]) -> bool {
    if memchr(0, section).is_none() {
        return true;
    }
    section.split(|b| *b == b'\n').all(|line| {
        let (mut quoted, mut escaped) = (false, false);
        line.iter().all(|byte| {
            let sound = *byte != 0 || escaped;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            sound
        })
    })
}

/// Joins folded header lines (S-003). The start line knows no folding and is left alone.
pub(crate) fn unfold(bytes: &[u8]) -> Bytes {
    let head = memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 2);
    let (head, rest) = bytes.split_at(head);
    let mut flat = BytesMut::with_capacity(bytes.len());
    let mut lines = head.split_inclusive(|b| *b == b'\n').enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        // What of a continuation is left once its indentation is gone; the space that stands for it was written before.
        let line = if at > 1 && is_blank(line.first()) {
            line.get(line.iter().take_while(|b| is_blank(Some(b))).count()..).unwrap_or_default()
        } else {
            line
        };
        if at > 0 && lines.peek().is_some_and(|(_, next)| is_blank(next.first())) && line.ends_with(b"\r\n") {
            flat.extend_from_slice(line.get(..line.len() - 2).unwrap_or_default().trim_ascii_end());
            flat.extend_from_slice(b" ");
        } else {
            flat.extend_from_slice(line);
        }
    }
    flat.extend_from_slice(rest);
    flat.freeze()
}

fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

/// The characters of `token` (RFC 3261 §25.1; S-027).
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        byte += 1;
    }
    table
};

fn range(start: usize, end: usize) -> Range {
    Range { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
}
