//! The index: where start line, headers and body lie.

use smallvec::SmallVec;

use super::head::count_values;
use crate::{header::HeaderId, limits::Limits, method::Method};

/// Octets from `start` to `end`. Messages are at most 64 KiB and a little, so four bytes each are plenty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Range {
    #[inline]
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
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
    /// Octets of the longest header line.
    longest: usize,
    /// Via and Route values.
    vias: usize,
    routes: usize,
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
    pub(super) const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }
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
            longest: 0,
            vias: 0,
            routes: 0,
            ascii: true,
        }
    }

    /// Adds a line of the message that `bytes` begins with.
    #[inline]
    pub(super) fn push(&mut self, line: Line, bytes: &[u8]) {
        match line.id {
            HeaderId::Via => self.vias += count_values(line.value.of(bytes)),
            HeaderId::Route => self.routes += count_values(line.value.of(bytes)),
            _ => {}
        }
        self.longest = self.longest.max((line.whole.end - line.whole.start) as usize);
        self.lines.push(line);
        if let Some(first) = self.firsts.get_mut(line.id as usize) {
            match first {
                0 => *first = self.lines.len() as u32,
                _ => self.repeated |= line.id.bit(),
            }
        }
    }

    /// Whether all that was read is within limits.
    pub(crate) fn is_within(&self, limits: &Limits) -> bool {
        self.headers <= limits.start_line + 2
            && self.longest <= limits.header_line + 2
            && self.body <= limits.start_line + limits.header_section
            && self.check_start_line(limits).is_ok()
            && self.check_headers(limits).is_ok()
    }

    pub(super) fn check_start_line(&self, limits: &Limits) -> Result<(), ParseError> {
        let is_long = self.status == 0 && (self.second.end - self.second.start) as usize > limits.uri;
        if is_long { Err(ParseError::new(414, "Request-URI Too Long")) } else { Ok(()) }
    }

    pub(super) fn check_headers(&self, limits: &Limits) -> Result<(), ParseError> {
        if self.body - self.headers > limits.header_section + 2 {
            return Err(ParseError::new(400, "Headers Too Large"));
        }
        if self.lines.len() > limits.headers || self.vias > limits.vias || self.routes > limits.routes {
            return Err(ParseError::new(400, "Too Many Headers"));
        }
        Ok(())
    }

    /// What Content-Length says; several may say the same.
    pub(crate) fn content_length(&self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        let mut length = None;
        for line in self.lines_of(HeaderId::ContentLength) {
            let value = crate::frame::digits(line.value.of(bytes)).ok_or(ParseError::new(400, "Bad Content-Length"))?;
            if length.is_some_and(|seen| seen != value) {
                return Err(ParseError::new(400, "Conflicting Content-Length"));
            }
            length = Some(value);
        }
        Ok(length)
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
