//! Text, smaller: runs of hex digits and UUIDs, of which SIP identifiers are full, become bytes, and phrases that every phone
//! sends become a number. Verbatim in, verbatim out.
//!
//! A packed text is a varint with the number of runs, then the runs. A run is a varint, `length << 2 | kind`, and its bytes;
//! the length counts the bytes that follow. A literal of length 0 is a phrase: one byte with its number follows. Every run
//! says for itself how it was spelt, so unpacking never guesses.

use super::codec::{DecodeError, Reader, put_varint};

const LITERAL: u64 = 0;
const HEX_LOWER: u64 = 1;
const HEX_UPPER: u64 = 2;
/// 16 bytes for the 36 characters of a UUID in lower case.
const UUID: u64 = 3;

/// Phrases by number. Records are stored with these: the list may grow at its end and never change otherwise. Each begins
/// with a character that few texts are full of, which keeps looking for them cheap.
const PHRASES: [&str; 20] = [
    ";transport=tls",
    ";transport=tcp",
    ";transport=udp",
    ";transport=ws",
    ";pn-provider=apns;pn-param=;pn-prid=",
    ";pn-provider=apns;pn-prid=;pn-param=",
    ";pn-provider=fcm;pn-param=;pn-prid=",
    ";pn-provider=fcm;pn-prid=;pn-param=",
    ";pn-provider=webpush;pn-prid=",
    ";pn-provider=apns",
    ";pn-provider=fcm",
    ";pn-provider=webpush",
    ";pn-param=",
    ";pn-prid=",
    "+sip.instance=",
    "\"<urn:uuid:",
    "<urn:uuid:",
    ";reg-id=1",
    ";reg-id=2",
    ";reg-id=",
];

/// A hex run shorter than this saves too little to pay for being split off.
const WORTH_A_RUN: usize = 12;
const UUID_TEXT: usize = 36;
const UUID_BYTES: usize = 16;
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
/// Digits before a UUID's first dash: no run and no UUID begins where fewer hex digits than this stand together.
const UUID_HEAD: usize = 8;

const LOWER_DIGIT: u8 = 1;
const UPPER_DIGIT: u8 = 2;
const HEX_DIGIT: u8 = LOWER_DIGIT | UPPER_DIGIT;
const PHRASE_START: u8 = 4;

/// What each byte may be part of, so that one look passes over those that are part of nothing.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' => HEX_DIGIT,
            b'a'..=b'f' => LOWER_DIGIT,
            b'A'..=b'F' => UPPER_DIGIT,
            _ => 0,
        };
        byte += 1;
    }
    let mut number = 0;
    while number < PHRASES.len() {
        classes[PHRASES[number].as_bytes()[0] as usize] |= PHRASE_START;
        number += 1;
    }
    classes
};

fn class(byte: u8) -> u8 {
    CLASSES[usize::from(byte)]
}

/// Appends `text`, packed.
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    let mut packing = Packing { counted_at: out.len(), runs: 0, out };
    // As a rule the number of runs takes one byte.
    packing.out.push(0);
    let mut literal = text.as_bytes();
    let mut rest = literal;
    while let Some((&first, behind)) = rest.split_first() {
        let class = class(first);
        if class & PHRASE_START != 0
            && let Some((number, phrase)) = phrase_at(rest)
        {
            packing.literal(literal, rest);
            packing.phrase(number);
            rest = rest.get(phrase.len()..).unwrap_or_default();
            literal = rest;
        } else if class & HEX_DIGIT != 0 {
            let digits = rest.iter().take_while(|&&byte| self::class(byte) & HEX_DIGIT != 0).count();
            match run_among(rest, digits) {
                Some(run) => {
                    let (before, from) = rest.split_at_checked(run.at).unwrap_or_default();
                    let (spelt, behind) = from.split_at_checked(run.length).unwrap_or_default();
                    debug_assert_eq!(before.len() + spelt.len() + behind.len(), rest.len());
                    packing.literal(literal, from);
                    packing.hex(run.kind, spelt);
                    rest = behind;
                    literal = rest;
                }
                None => rest = rest.get(digits..).unwrap_or_default(),
            }
        } else {
            rest = behind;
        }
    }
    packing.literal(literal, rest);
    packing.finish();
}

/// A text half packed: its runs go straight to where they stay.
struct Packing<'a> {
    out: &'a mut Vec<u8>,
    /// Where the number of runs goes, once it is known.
    counted_at: usize,
    runs: u64,
}

impl Packing<'_> {
    /// The part of `literal` that lies before `rest`, which is its end.
    fn literal(&mut self, literal: &[u8], rest: &[u8]) {
        let literal = literal.get(..literal.len() - rest.len()).unwrap_or_default();
        if !literal.is_empty() {
            put_varint(self.out, (literal.len() as u64) << 2 | LITERAL);
            self.out.extend_from_slice(literal);
            self.runs += 1;
        }
    }

    fn phrase(&mut self, number: u8) {
        self.out.extend_from_slice(&[LITERAL as u8, number]);
        self.runs += 1;
    }

    fn hex(&mut self, kind: u64, spelt: &[u8]) {
        if kind == UUID {
            put_varint(self.out, (UUID_BYTES as u64) << 2 | kind);
            for group in spelt.split(|&byte| byte == b'-') {
                push_hex(self.out, group);
            }
        } else {
            put_varint(self.out, (spelt.len() as u64 / 2) << 2 | kind);
            push_hex(self.out, spelt);
        }
        self.runs += 1;
    }

    fn finish(self) {
        if self.runs < 0x80 {
            if let Some(count) = self.out.get_mut(self.counted_at) {
                *count = self.runs as u8;
            }
        } else {
            let mut count = Vec::new();
            put_varint(&mut count, self.runs);
            self.out.splice(self.counted_at..=self.counted_at, count);
        }
    }
}

/// What [`put`] wrote, found but not unpacked.
pub(super) struct Packed<'a> {
    runs: u64,
    from: Reader<'a>,
    /// Bytes of the text.
    length: usize,
}

/// Reads what [`put`] wrote.
pub(super) fn get(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    find(reader)?.unpack(0)
}

/// Passes over what [`put`] wrote, and measures it: the text is then allocated once.
pub(super) fn find<'a>(reader: &mut Reader<'a>) -> Result<Packed<'a>, DecodeError> {
    let runs = reader.varint()?;
    let from = *reader;
    let mut length = 0;
    for _ in 0..runs {
        length += match next_run(reader)? {
            Run::Literal(bytes) => bytes.len(),
            Run::Hex(_, bytes) => 2 * bytes.len(),
            Run::Uuid(bytes) => 2 * bytes.len() + UUID_DASHES.len(),
        };
    }
    Ok(Packed { runs, from, length })
}

impl Packed<'_> {
    /// The text, with room for `spare` bytes more.
    pub(super) fn unpack(mut self, spare: usize) -> Result<String, DecodeError> {
        let mut out = Vec::with_capacity(self.length + spare);
        for _ in 0..self.runs {
            match next_run(&mut self.from)? {
                Run::Literal(bytes) => out.extend_from_slice(bytes),
                Run::Hex(ten, bytes) => spell(&mut out, bytes, ten),
                Run::Uuid(bytes) => {
                    // A dash follows bytes 4, 6, 8 and 10; bytes of another length are no UUID, but no reason to lose a record.
                    let mut rest = bytes;
                    for group in [4, 2, 2, 2] {
                        let Some((group, behind)) =
                            rest.split_at_checked(group).filter(|(_, behind)| !behind.is_empty())
                        else {
                            break;
                        };
                        spell(&mut out, group, b'a');
                        out.push(b'-');
                        rest = behind;
                    }
                    spell(&mut out, rest, b'a');
                }
            }
        }
        String::from_utf8(out).map_err(|_| DecodeError)
    }
}

enum Run<'a> {
    /// Stands as it is: a literal, or a phrase.
    Literal(&'a [u8]),
    /// The digit for ten, and the bytes.
    Hex(u8, &'a [u8]),
    Uuid(&'a [u8]),
}

fn next_run<'a>(reader: &mut Reader<'a>) -> Result<Run<'a>, DecodeError> {
    let head = reader.varint()?;
    let bytes = reader.bytes(head >> 2)?;
    Ok(match head & 3 {
        LITERAL if bytes.is_empty() => {
            Run::Literal(PHRASES.get(usize::from(reader.byte()?)).ok_or(DecodeError)?.as_bytes())
        }
        LITERAL => Run::Literal(bytes),
        HEX_LOWER => Run::Hex(b'a', bytes),
        HEX_UPPER => Run::Hex(b'A', bytes),
        _ => Run::Uuid(bytes),
    })
}

/// The longest phrase that begins here, and its number.
fn phrase_at(rest: &[u8]) -> Option<(u8, &'static str)> {
    // The numbers of those that may begin here, the longest first.
    let numbers: &[u8] = match rest {
        [b';', b't', ..] => &[0, 1, 2, 3],
        [b';', b'r', ..] => &[17, 18, 19],
        [b';', b'p', ..] => match rest.strip_prefix(b";pn-provider=") {
            Some([b'a', ..]) => &[4, 5, 9],
            Some([b'f', ..]) => &[6, 7, 10],
            Some([b'w', ..]) => &[8, 11],
            Some(_) => &[],
            None => &[12, 13],
        },
        [b'+', ..] => &[14],
        [b'"', ..] => &[15],
        [b'<', ..] => &[16],
        _ => &[],
    };
    let phrases = numbers.iter().filter_map(|&number| Some((number, *PHRASES.get(usize::from(number))?)));
    phrases.into_iter().find(|(_, phrase)| rest.starts_with(phrase.as_bytes()))
}

/// Where a run stands, in bytes of the text.
struct Found {
    at: usize,
    kind: u64,
    length: usize,
}

/// The first run worth one that begins among the hex digits, in either case, that `rest` begins with.
fn run_among(rest: &[u8], digits: usize) -> Option<Found> {
    for at in 0..(digits + 1).saturating_sub(UUID_HEAD) {
        let here = rest.get(at..).unwrap_or_default();
        let left = digits - at;
        if left == UUID_HEAD && is_uuid(here) {
            return Some(Found { at, kind: UUID, length: UUID_TEXT });
        }
        if left >= WORTH_A_RUN {
            let reach = |kind| here.iter().take_while(|&&byte| class(byte) & kind != 0).count() & !1;
            let lower = reach(LOWER_DIGIT);
            // Reaching to the end, it cannot be outdone.
            let upper = if lower == left & !1 { 0 } else { reach(UPPER_DIGIT) };
            let (kind, length) = if upper > lower { (HEX_UPPER, upper) } else { (HEX_LOWER, lower) };
            if length >= WORTH_A_RUN {
                return Some(Found { at, kind, length });
            }
        }
    }
    None
}

fn is_uuid(rest: &[u8]) -> bool {
    rest.first_chunk::<UUID_TEXT>().is_some_and(|text| {
        UUID_DASHES.iter().all(|&dash| text[dash] == b'-')
            && text.iter().filter(|&&byte| class(byte) & LOWER_DIGIT != 0).count() == 2 * UUID_BYTES
    })
}

/// Appends the bytes that pairs of hex digits spell.
fn push_hex(out: &mut Vec<u8>, spelt: &[u8]) {
    // Letters have bit 6 set, and their low bits count from 1.
    let value = |digit: u8| (digit & 15) + 9 * (digit >> 6);
    let (pairs, _) = spelt.as_chunks::<2>();
    out.extend(pairs.iter().map(|&[high, low]| value(high) << 4 | value(low)));
}

/// Appends two hex digits a byte; `ten` is the digit for ten.
fn spell(out: &mut Vec<u8>, bytes: &[u8], ten: u8) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { ten - 10 + value };
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    let (pairs, _) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of first bytes must know every phrase: one that it does not know would never be used.
    #[test]
    fn every_phrase_is_found_where_it_begins() {
        for (number, phrase) in PHRASES.iter().enumerate() {
            let longest = PHRASES.iter().filter(|other| phrase.starts_with(**other)).max_by_key(|other| other.len());
            assert_eq!(longest, Some(phrase));
            let found = phrase_at(phrase.as_bytes());
            assert_eq!(found.map(|(at, text)| (usize::from(at), text)), Some((number, *phrase)));
        }
    }
}
