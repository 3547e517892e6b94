//! The index: where start line, headers and body lie.

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
    /// Octets of the name.
    pub(crate) name: u16,
    /// Where it begins, which is where its name does.
    pub(crate) start: u32,
    /// The value, trimmed.
    pub(crate) value: Range,
    /// Where it ends, behind its CRLF.
    pub(crate) end: u32,
}

impl Line {
    const NONE: Self = Self { id: HeaderId::Other, name: 0, start: 0, value: Range { start: 0, end: 0 }, end: 0 };

    /// Where the name ends.
    pub(crate) fn name_end(&self) -> u32 {
        self.start + u32::from(self.name)
    }

    /// The name as written.
    pub(crate) fn name(&self) -> Range {
        Range { start: self.start, end: self.name_end() }
    }

    /// The whole line with its CRLF.
    pub(crate) fn whole(&self) -> Range {
        Range { start: self.start, end: self.end }
    }
}

/// More lines than nearly any phone sends.
pub(super) const FEW: usize = 24;

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
    /// The first lines, which nearly always are all.
    few: [Line; FEW],
    /// How many of them there are.
    count: usize,
    /// All lines, where they are more.
    many: Vec<Line>,
    /// The number of each header's first line, counted from 1; 0 where there is none.
    firsts: [u16; HeaderId::COUNT],
    /// One bit for each header that has more than one line.
    repeated: u64,
    /// Via and Route values; counted once the head is whole.
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
            few: [Line::NONE; FEW],
            count: 0,
            many: Vec::new(),
            firsts: [0; HeaderId::COUNT],
            repeated: 0,
            vias: 0,
            routes: 0,
            ascii: true,
        }
    }

    /// Adds a line.
    #[inline]
    pub(super) fn push(&mut self, line: Line) {
        if !self.push_few(line) {
            if self.many.is_empty() {
                self.many.extend_from_slice(&self.few);
            }
            self.many.push(line);
            self.note(line.id, self.many.len());
        }
    }

    /// Adds a line if it is one of the first.
    #[inline]
    pub(super) fn push_few(&mut self, line: Line) -> bool {
        let Some(place) = self.few.get_mut(self.count) else { return false };
        *place = line;
        self.count += 1;
        self.note(line.id, self.count);
        true
    }

    /// There is a line of this header, with this number.
    #[inline]
    fn note(&mut self, id: HeaderId, number: usize) {
        if let Some(first) = self.firsts.get_mut(id as usize) {
            match first {
                0 => *first = number as u16,
                _ => self.repeated |= id.bit(),
            }
        }
    }

    /// The head is whole: the body of the message that `bytes` begins with begins at `body`.
    pub(super) fn end_head(&mut self, bytes: &[u8], body: usize) {
        self.body = body;
        let count = |id| self.lines_of(id).map(|line| count_values(line.value.of(bytes))).sum();
        (self.vias, self.routes) = (count(HeaderId::Via), count(HeaderId::Route));
    }

    /// Whether all that was read is within limits.
    pub(crate) fn is_within(&self, limits: &Limits) -> bool {
        self.headers <= limits.start_line + 2
            && self.has_short_lines(limits)
            && self.body <= limits.start_line + limits.header_section
            && self.check_start_line(limits).is_ok()
            && self.check_headers(limits).is_ok()
    }

    fn has_short_lines(&self, limits: &Limits) -> bool {
        // No line is longer than all of them.
        let most = limits.header_line + 2;
        self.body - self.headers <= most || self.lines().iter().all(|line| (line.end - line.start) as usize <= most)
    }

    pub(super) fn check_start_line(&self, limits: &Limits) -> Result<(), ParseError> {
        let is_long = self.status == 0 && (self.second.end - self.second.start) as usize > limits.uri;
        if is_long { Err(ParseError::new(414, "Request-URI Too Long")) } else { Ok(()) }
    }

    pub(super) fn check_headers(&self, limits: &Limits) -> Result<(), ParseError> {
        if self.body - self.headers > limits.header_section + 2 {
            return Err(ParseError::new(400, "Headers Too Large"));
        }
        if self.lines().len() > limits.headers || self.vias > limits.vias || self.routes > limits.routes {
            return Err(ParseError::new(400, "Too Many Headers"));
        }
        Ok(())
    }

    /// What Content-Length says; several may say the same.
    pub(crate) fn content_length(&self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        let read =
            |line: &Line| crate::frame::digits(line.value.of(bytes)).ok_or(ParseError::new(400, "Bad Content-Length"));
        let Some(line) = self.first_line(HeaderId::ContentLength) else { return Ok(None) };
        let length = read(line)?;
        if self.is_repeated(HeaderId::ContentLength) {
            for line in self.lines_of(HeaderId::ContentLength) {
                if read(line)? != length {
                    return Err(ParseError::new(400, "Conflicting Content-Length"));
                }
            }
        }
        Ok(Some(length))
    }

    /// All lines in order.
    #[inline]
    pub(crate) fn lines(&self) -> &[Line] {
        if self.many.is_empty() { self.few.get(..self.count).unwrap_or_default() } else { &self.many }
    }

    /// The number of a header's first line, counted from 0.
    #[inline]
    pub(crate) fn first_of(&self, id: HeaderId) -> Option<usize> {
        (self.firsts.get(id as usize).copied().unwrap_or_default() as usize).checked_sub(1)
    }

    /// A header's first line.
    #[inline]
    pub(crate) fn first_line(&self, id: HeaderId) -> Option<&Line> {
        self.lines().get(self.first_of(id)?)
    }

    /// A header's lines in order.
    #[inline]
    pub(crate) fn lines_of(&self, id: HeaderId) -> impl Iterator<Item = &Line> + Clone {
        let lines = match self.first_of(id) {
            None => &[],
            Some(first) if self.is_repeated(id) => self.lines().get(first..).unwrap_or_default(),
            Some(first) => self.lines().get(first..=first).unwrap_or_default(),
        };
        lines.iter().filter(move |l| l.id == id)
    }

    /// As [`Index::lines_of`], with their numbers.
    pub(crate) fn numbered_lines_of(&self, id: HeaderId) -> impl Iterator<Item = (usize, &Line)> {
        let first = self.first_of(id).unwrap_or(self.lines().len());
        self.lines().iter().enumerate().skip(first).filter(move |(_, l)| l.id == id)
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
