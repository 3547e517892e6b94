//! Reading a head into the index: line by line as its octets come, or with care once it is whole.

use std::sync::Arc;

use super::index::{Index, Line, Range};
use crate::{header::HeaderId, method::Method, scan, split};

/// Reads a head as its octets come, each of them once, as long as every line of it is plain. Where one is not, only
/// [`super::careful`] tells what it means.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Filled where it stays: it is too large to be moved about.
    index: Arc<Index>,
    /// Octets looked at.
    searched: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
}

/// How far a [`Reader`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The head is read.
    Whole,
    /// More octets are needed.
    More,
    /// There is something that is not plain: a folded line, a bare CR or LF, a NUL, a fault, very many lines.
    Odd,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { index: Arc::new(Index::new()), searched: 0, line: 0 }
    }

    /// Goes on where it stopped; `bytes` are those of the last call and what came since.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Progress {
        let Some(index) = Arc::get_mut(&mut self.index) else { return Progress::Odd };
        let (mut at, mut line, mut ascii) = (self.searched, self.line, index.ascii);
        let progress = 'blocks: loop {
            let Some(mut odd) = scan::odd_octets(bytes, at) else {
                at = bytes.len();
                break Progress::More;
            };
            while odd != 0 {
                let here = at + odd.trailing_zeros() as usize;
                odd &= odd - 1;
                match bytes.get(here) {
                    Some(b'\r') => match bytes.get(here + 1) {
                        Some(b'\n') => {
                            // The LF is the next mark, if it is not in the next block.
                            odd &= odd.wrapping_sub(1);
                            if here == line {
                                if line == 0 {
                                    // No start line at all.
                                    break 'blocks Progress::Odd;
                                }
                                index.end_head(bytes, here + 2);
                                break 'blocks Progress::Whole;
                            }
                            if index.read_plain(bytes, line, here, ascii).is_none() {
                                break 'blocks Progress::Odd;
                            }
                            line = here + 2;
                        }
                        Some(_) => break 'blocks Progress::Odd,
                        None => {
                            at = here;
                            break 'blocks Progress::More;
                        }
                    },
                    Some(b'\n') if here + 1 == line => {}
                    Some(b'\n' | 0) => break 'blocks Progress::Odd,
                    Some(octet) => ascii &= octet.is_ascii(),
                    None => break 'blocks Progress::Odd,
                }
            }
            at += scan::BLOCK;
        };
        (self.searched, self.line, index.ascii) = (at, line, ascii);
        progress
    }

    /// Whether the start line is complete.
    pub(crate) fn has_start_line(&self) -> bool {
        self.line != 0
    }

    /// What was read.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// What was read.
    pub(crate) fn into_index(self) -> Arc<Index> {
        self.index
    }
}

impl Index {
    /// Reads the line from `start` to `end`, which holds no NUL; `None` where it is not plain, or one too many: the lines of
    /// a head that may never be whole must not take up much memory.
    #[inline]
    fn read_plain(&mut self, bytes: &[u8], start: usize, end: usize, ascii: bool) -> Option<()> {
        if start == 0 {
            let line = bytes.get(..end)?;
            self.headers = end + 2;
            return (ascii || std::str::from_utf8(line).is_ok()).then(|| self.read_start_line(line))?;
        }
        let line = match read_usual_line(bytes, start, end) {
            Some(line) => line,
            // It belongs to the line above.
            None if matches!(bytes.get(start), Some(b' ' | b'\t')) => return None,
            None => read_line(bytes, start, end)?,
        };
        self.push_few(line).then_some(())
    }

    /// Reads a start line without NUL. A request's must have been seen to be UTF-8.
    pub(super) fn read_start_line(&mut self, line: &[u8]) -> Option<()> {
        let first = scan::find(line, b' ')?;
        self.first = range(0, first);
        if line.len() > 4 && line.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/")) {
            let code = line.get(first + 1..first + 4)?;
            if !code.iter().all(u8::is_ascii_digit) || line.get(first + 4).is_some_and(|b| *b != b' ') {
                return None; // S-012: bigcode
            }
            self.status = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
            self.second = range(first + 1, first + 4);
            self.third = range((first + 5).min(line.len()), line.len());
            return (100..=699).contains(&self.status).then_some(());
        }
        let second = scan::find(line.get(first + 1..)?, b' ')? + first + 1;
        let (method, version) = (line.get(..first)?, line.get(second + 1..)?);
        // Exactly two spaces (lwsstart, trws, lwsruri): where a request begins and ends must be one reading for all.
        let is_odd = version != b"SIP/2.0" && (version.is_empty() || scan::find(version, b' ').is_some());
        if method.is_empty() || second == first + 1 || is_odd {
            return None;
        }
        self.method = Method::from_octets(method);
        if self.method == Method::Extension && !method.iter().copied().all(is_token) {
            return None;
        }
        self.second = range(first + 1, second);
        self.third = range(second + 1, line.len());
        Some(())
    }
}

/// Reads nearly every line: a short name that we know, a colon, a space, and a value without spaces around it.
#[inline]
fn read_usual_line(bytes: &[u8], start: usize, end: usize) -> Option<Line> {
    let (id, length) = HeaderId::before_colon(bytes.get(start..)?.first_chunk()?)?;
    let (colon, from) = (start + length, start + length + 2);
    // What is above a space is no line end, so the value begins in this line.
    match (bytes.get(colon + 1..=from)?, bytes.get(end - 1)?) {
        ([b' ', first], last) if *first > b' ' && *last > b' ' => {
            Some(Line { id, name: length as u16, start: start as u32, value: range(from, end), end: end as u32 + 2 })
        }
        _ => None,
    }
}

/// Reads the header line from `start` to `end`.
#[inline(never)]
pub(super) fn read_line(bytes: &[u8], start: usize, end: usize) -> Option<Line> {
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
        name: u16::try_from(name.len()).ok()?,
        start: start as u32,
        value: range(from, from + value.len()),
        end: end as u32 + 2,
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
pub(super) fn count_values(value: &[u8]) -> usize {
    let mut count = 1;
    if scan::find(value, b',').is_none() {
        return count;
    }
    let mut rest = Some(value);
    while let Some(at) = rest.and_then(|text| split::find_in(text, b',')) {
        rest = rest.and_then(|text| text.get(at + 1..));
        count += 1;
    }
    count
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
