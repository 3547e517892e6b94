//! The index: one pass over start line and headers.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};
use smallvec::SmallVec;

use crate::{
    header::HeaderId,
    limits::Limits,
    method::Method,
    scan::{self, BLOCK},
    split,
};

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
    /// The number of each header's first line, counted from 1; 0 where there is none.
    firsts: [u32; HeaderId::COUNT],
    /// One bit for each header that has more than one line.
    repeated: u64,
    /// Whether start line and headers hold nothing but ASCII; false may also mean that it was not looked at.
    pub(crate) ascii: bool,
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
pub(crate) enum Scan {
    /// The message's length, which may be less than what was given.
    Done(usize),
    /// There are folded lines: to be joined first.
    Folded,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            status: 0,
            method: Method::Extension,
            first: Range::default(),
            second: Range::default(),
            third: Range::default(),
            headers: 0,
            body: 0,
            lines: SmallVec::new(),
            firsts: [0; HeaderId::COUNT],
            repeated: 0,
            ascii: false,
        }
    }

    /// Scans a message into an index that is new.
    pub(super) fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Scan, ParseError> {
        if bytes.len() > limits.message.min(u32::MAX as usize) {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        let window = bytes.get(..bytes.len().min(limits.header_section + limits.start_line)).unwrap_or(bytes);
        let mut ends = LineEnds::new(window);
        let first = ends.next(0);
        // What comes to an end within the limit needs no second look.
        if first.is_none_or(|end| end > limits.start_line) {
            let too_long = memchr(b'\n', window.get(..limits.start_line + 2).unwrap_or(window)).is_none();
            if too_long && window.len() > limits.start_line {
                return Err(ParseError::new(414, "Request-URI Too Long"));
            }
        }
        let first = first.ok_or(BAD_START)?;
        self.start_line(window.get(..first).ok_or(BAD_START)?, limits)?;
        self.headers = first + 2;
        let (mut start, mut vias, mut routes) = (first + 2, 0, 0);
        loop {
            let end = ends.next(start).ok_or(BAD_HEADERS)?;
            if end == start {
                break;
            }
            if matches!(window.get(end + 2), Some(b' ' | b'\t')) {
                return Ok(Scan::Folded);
            }
            if end - start > limits.header_line {
                return Err(ParseError::new(400, "Header Too Large"));
            }
            let line = read_line(window, start, end).ok_or(BAD_HEADERS)?;
            match line.id {
                HeaderId::Via => vias += count_values(window, line.value),
                HeaderId::Route => routes += count_values(window, line.value),
                _ => {}
            }
            self.push(line);
            start = end + 2;
        }
        self.ascii = ends.ascii;
        self.body = start + 2;
        if start - self.headers > limits.header_section {
            return Err(ParseError::new(400, "Headers Too Large"));
        }
        if self.lines.len() > limits.headers || vias > limits.vias || routes > limits.routes {
            return Err(ParseError::new(400, "Too Many Headers"));
        }
        let length = self.whole_length(bytes)?;
        if length - self.body > limits.body {
            return Err(ParseError::new(513, "Message Too Large"));
        }
        Ok(Scan::Done(length))
    }

    fn start_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), ParseError> {
        let first = scan::find(line, b' ').ok_or(BAD_START)?;
        self.first = range(0, first);
        if line.len() > 4 && line.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/")) {
            let code = line.get(first + 1..first + 4).ok_or(BAD_START)?;
            if !code.iter().all(u8::is_ascii_digit) || line.get(first + 4).is_some_and(|b| *b != b' ') {
                return Err(BAD_START); // S-012: bigcode
            }
            self.status = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            if !(100..=699).contains(&self.status) || memchr(0, line).is_some() {
                return Err(BAD_START);
            }
            self.second = range(first + 1, first + 4);
            self.third = range((first + 5).min(line.len()), line.len());
            return Ok(());
        }
        let second = scan::find(line.get(first + 1..).ok_or(BAD_START)?, b' ').ok_or(BAD_START)? + first + 1;
        let method = line.get(..first).ok_or(BAD_START)?;
        let version = line.get(second + 1..).ok_or(BAD_START)?;
        // Exactly two spaces (lwsstart, trws, lwsruri): where a request begins and ends must be one reading for all.
        if method.is_empty() || second == first + 1 || scan::find(version, b' ').is_some() || version.is_empty() {
            return Err(BAD_START);
        }
        if scan::find(line, 0).is_some() || !(line.is_ascii() || std::str::from_utf8(line).is_ok()) {
            return Err(BAD_START);
        }
        if second - first - 1 > limits.uri {
            return Err(ParseError::new(414, "Request-URI Too Long"));
        }
        self.method = std::str::from_utf8(method).map_or(Method::Extension, Method::from_token);
        if self.method == Method::Extension && !method.iter().copied().all(is_token) {
            return Err(BAD_START);
        }
        self.second = range(first + 1, second);
        self.third = range(second + 1, line.len());
        Ok(())
    }

    #[inline]
    fn push(&mut self, line: Line) {
        self.lines.push(line);
        if let Some(first) = self.firsts.get_mut(line.id as usize) {
            match first {
                0 => *first = self.lines.len() as u32,
                _ => self.repeated |= line.id.bit(),
            }
        }
    }

    /// How long the message says it is; an unusable Content-Length leaves the body to the datagram's end where that is safe.
    fn whole_length(&self, bytes: &[u8]) -> Result<usize, ParseError> {
        let mut length: Option<usize> = None;
        for line in self.lines_of(HeaderId::ContentLength) {
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

    /// The number of a header's first line, counted from 0.
    #[inline]
    pub(crate) fn first_of(&self, id: HeaderId) -> Option<usize> {
        (self.firsts.get(id as usize).copied().unwrap_or_default() as usize).checked_sub(1)
    }

    /// A header's lines in order.
    #[inline]
    pub(crate) fn lines_of(&self, id: HeaderId) -> impl Iterator<Item = &Line> + Clone {
        let lines = match self.first_of(id) {
            None => &[],
            Some(first) if self.is_repeated(id) => self.lines.get(first..).unwrap_or_default(),
            Some(first) => self.lines.get(first..=first).unwrap_or_default(),
        };
        lines.iter().filter(move |l| l.id == id)
    }

    /// As [`Index::lines_of`], with their numbers.
    pub(crate) fn numbered_lines_of(&self, id: HeaderId) -> impl Iterator<Item = (usize, &Line)> {
        let first = self.first_of(id).unwrap_or(self.lines.len());
        self.lines.iter().enumerate().skip(first).filter(move |(_, l)| l.id == id)
    }

    /// Whether a header has more than one line.
    pub(crate) fn is_repeated(&self, id: HeaderId) -> bool {
        self.repeated & id.bit() != 0
    }

    /// One bit for each header that has more than one line.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeated
    }
}

/// The ends of lines one after the other. As long as no control character stands in a line they are found at once, 64
/// octets looked at at a time; from the first that does on, each line is read by [`line_end`].
struct LineEnds<'a> {
    bytes: &'a [u8],
    found: SmallVec<[u32; 32]>,
    taken: usize,
    /// Whether all that was looked at is ASCII.
    ascii: bool,
}

impl<'a> LineEnds<'a> {
    #[inline]
    fn new(bytes: &'a [u8]) -> Self {
        let mut ends = Self { bytes, found: SmallVec::new(), taken: 0, ascii: true };
        ends.look();
        ends
    }

    /// Finds line ends up to the empty line or to what has to be read with care.
    #[inline]
    fn look(&mut self) {
        let (mut at, mut line, mut open) = (0, 0, false);
        while let Some(marks) = scan::block(self.bytes, at) {
            // Control characters that neither are an LF nor stand before one. The last octet is judged by the next block.
            let others = marks.controls & !(marks.newlines | (marks.newlines >> 1));
            if others & !LAST != 0 || (open && marks.newlines & 1 == 0) {
                return;
            }
            open = others & LAST != 0;
            self.ascii &= marks.ascii;
            let mut newlines = marks.newlines;
            while newlines != 0 {
                let newline = at + newlines.trailing_zeros() as usize;
                newlines &= newlines - 1;
                let end = newline.wrapping_sub(1);
                if self.bytes.get(end) != Some(&b'\r') {
                    return;
                }
                self.found.push(end as u32);
                if end == line {
                    return;
                }
                line = newline + 1;
            }
            at += BLOCK;
        }
    }

    /// Where the line ends that begins at `start`, which is the beginning or just past the line end given last.
    #[inline]
    fn next(&mut self, start: usize) -> Option<usize> {
        if let Some(end) = self.found.get(self.taken) {
            self.taken += 1;
            return Some(*end as usize);
        }
        self.ascii = false;
        line_end(self.bytes, start)
    }
}

/// The bit of a block's last octet.
const LAST: u64 = 1 << (BLOCK - 1);

/// Where the line that begins at `start` ends with CR LF. A bare CR or LF and a NUL outside a quoted pair end the search:
/// we and our neighbours must agree where headers end (S-030).
#[cold]
fn line_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += bytes.get(at..)?.iter().position(|b| *b < 0x20)?;
        match bytes.get(at)? {
            b'\r' => return (bytes.get(at + 1) == Some(&b'\n')).then_some(at),
            b'\n' => return None,
            0 if !ends_in_quoted_pair(bytes.get(start..=at)?) => return None,
            _ => at += 1,
        }
    }
}

/// Whether the last octet is the second half of a quoted pair (RFC 3261 §25.1: intmeth).
fn ends_in_quoted_pair(line: &[u8]) -> bool {
    let (mut quoted, mut escaped, mut pair) = (false, false, false);
    for byte in line {
        pair = std::mem::take(&mut escaped);
        match byte {
            _ if pair => {}
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    pair
}

/// Reads the line from `start` to `end`.
#[inline]
fn read_line(bytes: &[u8], start: usize, end: usize) -> Option<Line> {
    let line = bytes.get(start..end)?;
    let colon = scan::find(line, b':')?;
    let (mut name, mut value) = (line.get(..colon)?, line.get(colon + 1..)?);
    let mut from = start + colon + 1;
    if let [b' ', rest @ ..] = value {
        (value, from) = (rest, from + 1);
    }
    // Nearly everyone writes one space and no more.
    let is_low = |b: Option<&u8>| b.is_some_and(|b| *b <= b' ');
    if is_low(name.last()) || is_low(value.first()) || is_low(value.last()) {
        name = trim_end(name);
        let shorter = trim_start(value);
        from += value.len() - shorter.len();
        value = trim_end(shorter);
    }
    let id = HeaderId::from_name(name);
    // A name that we know is made of the right characters.
    if id == HeaderId::Other && (name.is_empty() || !name.iter().copied().all(is_token)) {
        return None;
    }
    Some(Line {
        id,
        name: range(start, start + name.len()),
        value: range(from, from + value.len()),
        whole: range(start, end + 2),
    })
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// How many values a line has.
fn count_values(bytes: &[u8], value: Range) -> usize {
    let mut rest = bytes.get(value.start as usize..value.end as usize);
    let mut count = 1;
    if rest.is_none_or(|text| scan::find(text, b',').is_none()) {
        return count;
    }
    while let Some(at) = rest.and_then(|text| split::find_in(text, b',')) {
        rest = rest.and_then(|text| text.get(at + 1..));
        count += 1;
    }
    count
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

/// The scan has refused what does not fit.
fn range(start: usize, end: usize) -> Range {
    Range { start: start as u32, end: end as u32 }
}

#[cfg(test)]
mod tests;
