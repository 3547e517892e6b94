//! Reading a whole head with care: what is not plain, and what is at fault and why.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};

use super::{
    head::read_line,
    index::{Index, ParseError},
};
use crate::limits::Limits;

const BAD_START: ParseError = ParseError::new(400, "Bad Start Line");
const BAD_HEADERS: ParseError = ParseError::new(400, "Bad Headers");

/// Indexes a message whose head is whole, or tells what is wrong with it. Folded lines are joined in `bytes`.
#[cold]
pub(super) fn index(bytes: &mut Bytes, limits: &Limits) -> Result<Arc<Index>, ParseError> {
    let mut index = Index::new();
    if matches!(index.scan(bytes, limits)?, Scan::Folded) {
        *bytes = unfold(bytes);
        index = Index::new();
        let Scan::Done = index.scan(bytes, limits)? else { return Err(BAD_HEADERS) };
    }
    Ok(Arc::new(index))
}

/// What a scan came to.
enum Scan {
    Done,
    /// There are folded lines: to be joined first.
    Folded,
}

impl Index {
    /// Scans a message's head into an index that is new.
    fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<Scan, ParseError> {
        self.ascii = false;
        let window = bytes.get(..bytes.len().min(limits.header_section + limits.start_line)).unwrap_or(bytes);
        let first = line_end(window, 0);
        // What comes to an end within the limit needs no second look.
        if first.is_none_or(|end| end > limits.start_line) {
            let too_long = memchr(b'\n', window.get(..limits.start_line + 2).unwrap_or(window)).is_none();
            if too_long && window.len() > limits.start_line {
                return Err(ParseError::new(414, "Request-URI Too Long"));
            }
        }
        let first = first.ok_or(BAD_START)?;
        let line = window.get(..first).ok_or(BAD_START)?;
        if memchr(0, line).is_some() {
            return Err(BAD_START);
        }
        self.read_start_line(line).ok_or(BAD_START)?;
        if self.status == 0 && std::str::from_utf8(line).is_err() {
            return Err(BAD_START);
        }
        self.check_start_line(limits)?;
        self.headers = first + 2;
        let mut start = self.headers;
        loop {
            let end = line_end(window, start).ok_or(BAD_HEADERS)?;
            if end == start {
                break;
            }
            if is_blank(window.get(end + 2)) {
                return Ok(Scan::Folded);
            }
            if end - start > limits.header_line {
                return Err(ParseError::new(400, "Header Too Large"));
            }
            if self.lines().len() >= limits.headers.min(usize::from(u16::MAX)) {
                return Err(ParseError::new(400, "Too Many Headers"));
            }
            self.push(read_line(window, start, end).ok_or(BAD_HEADERS)?);
            start = end + 2;
        }
        self.end_head(window, start + 2);
        self.check_headers(limits)?;
        Ok(Scan::Done)
    }
}

/// Where the line that begins at `start` ends with CR LF. A bare CR or LF and a NUL outside a quoted pair end the search:
/// we and our neighbours must agree where headers end (S-030).
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
