//! Cutting header values at separators that stand outside quotes and angle brackets (S-007).

use memchr::{memchr, memchr2};

use crate::scan;

/// The parts of `text` between `separator`s outside `"…"` and `<…>`; trimmed. Quoted pairs are honoured.
pub fn outside_quotes(text: &str, separator: u8) -> Split<'_> {
    Split { rest: Some(text), separator }
}

/// Iterator of [`outside_quotes`].
#[derive(Clone, Debug)]
pub struct Split<'a> {
    rest: Option<&'a str>,
    separator: u8,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let Some(at) = find(rest, self.separator) else {
            self.rest = None;
            return Some(rest.trim_ascii());
        };
        self.rest = rest.get(at + 1..);
        Some(rest.get(..at).unwrap_or("").trim_ascii())
    }
}

/// Where `separator`, an ASCII character, stands first outside quotes and brackets. What does not close reaches to the end.
pub fn find(text: &str, separator: u8) -> Option<usize> {
    find_in(text.as_bytes(), separator)
}

pub(crate) fn find_in(bytes: &[u8], separator: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        let hit = at + scan::find_any(bytes.get(at..)?, [separator, b'"', b'<'])?;
        at = match bytes.get(hit)? {
            byte if *byte == separator => return Some(hit),
            b'"' => quote_end(bytes, hit + 1)?,
            _ => hit + 2 + memchr(b'>', bytes.get(hit + 1..)?)?,
        };
    }
}

/// As [`str::trim`], which reads characters where the first and last octet tell enough.
#[inline]
pub(crate) fn trim(text: &str) -> &str {
    match (text.as_bytes().first(), text.as_bytes().last()) {
        (Some(first), Some(last)) if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        (None, _) => text,
        _ => text.trim(),
    }
}

/// Whether there is white space, of Unicode's too.
#[inline]
pub(crate) fn has_white_space(text: &str) -> bool {
    !scan::is_graphic(text.as_bytes()) && text.contains(char::is_whitespace)
}

/// Whether quotes and brackets that open also close.
pub fn is_balanced(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(hit) = bytes.get(at..).and_then(|rest| scan::find_any(rest, *b"\"<>")).map(|hit| at + hit) {
        let end = match bytes.get(hit) {
            Some(b'"') => quote_end(bytes, hit + 1),
            Some(b'<') => {
                let inner = bytes.get(hit + 1..).unwrap_or_default();
                memchr2(b'<', b'>', inner).filter(|end| inner.get(*end) == Some(&b'>')).map(|end| hit + 2 + end)
            }
            _ => None,
        };
        let Some(end) = end else { return false };
        at = end;
    }
    true
}

/// Just past the quote that closes a string whose text begins at `at`.
fn quote_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let hit = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(hit) == Some(&b'"') {
            return Some(hit + 1);
        }
        at = hit + 2;
    }
}
