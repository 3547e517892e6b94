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
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];

/// Appends `text`, packed.
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let (mut runs, mut body) = (0_u64, Vec::new());
    let (mut at, mut literal) = (0, 0);
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        if let Some((number, phrase)) = phrase_at(rest) {
            runs += put_literal(&mut body, text.get(literal..at).unwrap_or_default()) + 1;
            body.extend_from_slice(&[LITERAL as u8, number]);
            at += phrase.len();
            literal = at;
            continue;
        }
        let (kind, taken) = match run_at(rest) {
            Some(run) => run,
            None => {
                at += 1;
                continue;
            }
        };
        runs += put_literal(&mut body, text.get(literal..at).unwrap_or_default());
        let spelt = rest.get(..taken).unwrap_or_default();
        let length = if kind == UUID { 16 } else { taken / 2 };
        put_varint(&mut body, (length as u64) << 2 | kind);
        push_hex(&mut body, spelt);
        runs += 1;
        at += taken;
        literal = at;
    }
    runs += put_literal(&mut body, text.get(literal..).unwrap_or_default());
    put_varint(out, runs);
    out.extend_from_slice(&body);
}

/// Reads what [`put`] wrote.
pub(super) fn get(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let runs = reader.varint()?;
    let mut out = Vec::new();
    for _ in 0..runs {
        let head = reader.varint()?;
        let bytes = reader.bytes(head >> 2)?;
        match head & 3 {
            LITERAL if bytes.is_empty() => {
                let phrase = PHRASES.get(usize::from(reader.byte()?)).ok_or(DecodeError)?;
                out.extend_from_slice(phrase.as_bytes());
            }
            LITERAL => out.extend_from_slice(bytes),
            HEX_LOWER => bytes.iter().for_each(|&byte| spell(&mut out, byte, b"0123456789abcdef")),
            HEX_UPPER => bytes.iter().for_each(|&byte| spell(&mut out, byte, b"0123456789ABCDEF")),
            _ => {
                for (index, &byte) in bytes.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        out.push(b'-');
                    }
                    spell(&mut out, byte, b"0123456789abcdef");
                }
            }
        }
    }
    String::from_utf8(out).map_err(|_| DecodeError)
}

fn put_literal(out: &mut Vec<u8>, literal: &[u8]) -> u64 {
    if literal.is_empty() {
        return 0;
    }
    put_varint(out, (literal.len() as u64) << 2 | LITERAL);
    out.extend_from_slice(literal);
    1
}

/// The longest phrase that begins here, and its number.
fn phrase_at(rest: &[u8]) -> Option<(u8, &'static str)> {
    if !matches!(rest.first(), Some(b';' | b'+' | b'"' | b'<')) {
        return None;
    }
    let fits = (0_u8..).zip(PHRASES).filter(|(_, phrase)| rest.starts_with(phrase.as_bytes()));
    fits.max_by_key(|(_, phrase)| phrase.len())
}

/// The kind and length of the run that begins here, if it is worth one.
fn run_at(rest: &[u8]) -> Option<(u64, usize)> {
    if is_uuid(rest) {
        return Some((UUID, UUID_TEXT));
    }
    let lower = rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count() & !1;
    let upper = rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')).count() & !1;
    let (kind, length) = if upper > lower { (HEX_UPPER, upper) } else { (HEX_LOWER, lower) };
    (length >= WORTH_A_RUN).then_some((kind, length))
}

fn is_uuid(rest: &[u8]) -> bool {
    rest.get(..UUID_TEXT).is_some_and(|text| {
        text.iter().enumerate().all(|(index, byte)| match UUID_DASHES.contains(&index) {
            true => *byte == b'-',
            false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
    })
}

/// Appends the bytes that hex digits spell, passing over the dashes of a UUID.
fn push_hex(out: &mut Vec<u8>, spelt: &[u8]) {
    let mut high = None;
    for digit in spelt.iter().filter_map(|&byte| char::from(byte).to_digit(16)) {
        let digit = (digit & 15) as u8;
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.push(high << 4 | digit),
        }
    }
}

fn spell(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}
