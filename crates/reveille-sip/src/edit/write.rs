//! Writing lines, and the Via that a proxy corrects.

use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;

use crate::{scan, split};

/// Where a message is written.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The first value of a Via line with `received` and `rport` as we know them; the other values as they were.
pub(crate) fn write_corrected_via(out: &mut impl Sink, line: &[u8], received: Option<IpAddr>, rport: Option<u16>) {
    // Nearly every line is one value without a quoted parameter, where every semicolon separates.
    let (first, rest, mut semicolons) = match scan::semicolons(line) {
        Some(marks) => (line, [].as_slice(), Semicolons::Marked(marks)),
        None => {
            let end = split::find_in(line, b',').unwrap_or(line.len());
            let (first, rest) = line.split_at(end);
            (first.trim_ascii_end(), rest, Semicolons::Sought(0))
        }
    };
    // Copied in pieces, from one parameter that is left out to the next.
    let mut copied = 0;
    let mut found = semicolons.next(first);
    while let Some(semicolon) = found {
        let param = first.get(semicolon + 1..).unwrap_or_default();
        let is = |name: &[u8]| {
            let param = param.trim_ascii_start();
            param.get(..name.len()).is_some_and(|p| p.eq_ignore_ascii_case(name))
                && matches!(param.get(name.len()), None | Some(b'=' | b';' | b' ' | b'\t'))
        };
        let replaced = matches!(param.first(), Some(b'r' | b'R' | b' ' | b'\t'))
            && ((received.is_some() && is(b"received")) || (rport.is_some() && is(b"rport")));
        found = semicolons.next(first);
        if replaced {
            out.put(first.get(copied..semicolon).unwrap_or_default());
            copied = found.unwrap_or(first.len());
        }
    }
    out.put(first.get(copied..).unwrap_or_default());
    match (received, rport) {
        (Some(IpAddr::V4(address)), Some(rport)) => put_source(out, address, rport),
        _ => {
            if let Some(received) = received {
                out.put(b";received=");
                out.put(received.to_string().as_bytes()); // IPv6 without brackets (S-031)
            }
            if let Some(rport) = rport {
                out.put(b";rport=");
                push_number(out, usize::from(rport));
            }
        }
    }
    out.put(rest);
}

/// The separating semicolons of a value, one after the other.
enum Semicolons {
    /// One bit for each that is left.
    Marked(u128),
    /// To be looked for from here on, outside quotes.
    Sought(usize),
}

impl Semicolons {
    fn next(&mut self, value: &[u8]) -> Option<usize> {
        match self {
            Self::Marked(0) => None,
            Self::Marked(marks) => {
                let at = marks.trailing_zeros() as usize;
                *marks &= *marks - 1;
                Some(at)
            }
            Self::Sought(from) => {
                let at = *from + split::find_in(value.get(*from..)?, b';')?;
                *from = at + 1;
                Some(at)
            }
        }
    }
}

/// Whether a line is what [`write_length`] would write.
pub(super) fn is_length_line(line: &[u8], length: usize) -> bool {
    let mut usual = *b"Content-Length: 0\r\n";
    if length < 10 {
        usual[16] += length as u8;
        return line == usual;
    }
    let digits = line.strip_prefix(b"Content-Length: ").and_then(|l| l.strip_suffix(b"\r\n"));
    digits.is_some_and(|d| crate::frame::digits(d) == Some(length) && d.first() != Some(&b'0'))
}

pub(crate) fn write_length(out: &mut impl Sink, length: usize) {
    out.put(b"Content-Length: ");
    push_number(out, length);
    out.put(b"\r\n");
}

/// A number in decimal; the formatting machinery is ten times dearer.
pub(super) fn push_number(out: &mut impl Sink, number: usize) {
    if let Some((digits, count)) = DECIMALS.get(number) {
        return out.put(digits.get(..usize::from(*count)).unwrap_or_default());
    }
    let (mut digits, mut rest, mut start) = ([b'0'; 20], number, 20);
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = at;
        if rest == 0 {
            break;
        }
    }
    out.put(digits.get(start..).unwrap_or_default());
}

/// Both parameters in one piece.
fn put_source(out: &mut impl Sink, received: Ipv4Addr, rport: u16) {
    const RECEIVED: &[u8; 10] = b";received=";
    const RPORT: &[u8; 7] = b";rport=";
    let mut text = [0; RECEIVED.len() + 16 + RPORT.len() + 5];
    let mut length = 0;
    let mut put = |piece: &[u8], counted: usize| {
        if let Some(place) = text.get_mut(length..length + piece.len()) {
            place.copy_from_slice(piece);
        }
        length += counted;
    };
    put(RECEIVED, RECEIVED.len());
    for (at, octet) in received.octets().into_iter().enumerate() {
        // What is written behind the last digit is the dot, and behind the last octet what comes next.
        let (digits, count) = &DECIMALS[usize::from(octet)];
        put(digits, usize::from(*count) + usize::from(at < 3));
    }
    put(RPORT, RPORT.len());
    let pair = |number: u16| DECIMALS[usize::from(100 + number % 100)].0;
    let [[_, b, c, _], [_, d, e, _]] = [pair(rport / 100), pair(rport)];
    let digits = [b'0' + (rport / 10_000) as u8, b, c, d, e];
    let unused = [10_000, 1000, 100, 10].into_iter().filter(|least| rport < *least).count();
    let digits = digits.get(unused..).unwrap_or_default();
    put(digits, digits.len());
    out.put(text.get(..length).unwrap_or_default());
}

/// Each octet in decimal, dots behind it, and how many digits it has.
static DECIMALS: [([u8; 4], u8); 256] = {
    let mut table = [([b'.'; 4], 0); 256];
    let mut number = 0;
    while number < 256 {
        let count = if number < 10 { 1 } else { 2 + (number >= 100) as usize };
        let (mut rest, mut at) = (number, count);
        while at > 0 {
            at -= 1;
            table[number].0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        table[number].1 = count as u8;
        number += 1;
    }
    table
};

pub(crate) fn write_line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    write_value(out, value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_line_named(out: &mut impl Sink, name: &[u8], value: &[u8]) {
    out.put(name);
    out.put(b": ");
    out.put(value);
    out.put(b"\r\n");
}

/// A line break in a value would begin a header of its own (S-029): it leaves as a space.
pub(super) fn write_value(out: &mut impl Sink, value: &str) {
    let value = value.as_bytes();
    if scan::find_either(value, b'\r', b'\n').is_none() {
        return out.put(value);
    }
    let spaced: Vec<u8> = value.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
    out.put(&spaced);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_the_formatting_machinery_writes_them() {
        for number in (0..70_000).chain([usize::MAX]) {
            let mut text = Vec::new();
            push_number(&mut text, number);
            assert_eq!(text, number.to_string().as_bytes());
        }
        for [a, b, c, d] in [[0, 0, 0, 0], [255, 255, 255, 255], [1, 23, 100, 9], [10, 0, 99, 200], [203, 0, 113, 7]] {
            let mut text = Vec::new();
            for port in [0, 9, 10, 5060, u16::MAX] {
                text.clear();
                put_source(&mut text, Ipv4Addr::new(a, b, c, d), port);
                assert_eq!(text, format!(";received={a}.{b}.{c}.{d};rport={port}").as_bytes());
            }
        }
    }
}
