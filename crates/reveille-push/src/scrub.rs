//! Taking push parameters out of any text that may hold a URI: header values of whatever name, and the messages within messages
//! that REFER makes (P-104, P-105).
//!
//! [`crate::strip`] takes a URI to pieces and is exact. This takes no text to pieces that it might not understand: wherever
//! something is written as a parameter `pn-…`, it goes, also behind an escaped semicolon (a URI within a URI's headers). Only
//! `pn-purr` stays, which is made to reach a peer (P-108).

use std::borrow::Cow;

use memchr::memchr2_iter;

use crate::strip::canonical_name;

/// How deep escapes may be nested; what is deeper is looked at as if it were at this depth.
const DEPTH: usize = 3;
/// How often what is left is looked at again, as taking one parameter away can make another.
const PASSES: usize = 4;

/// Whether `octets` can hold a push parameter at all: cheap, and more often yes than need be.
pub fn may_carry(octets: &[u8]) -> bool {
    memchr2_iter(b'-', b'%', octets).any(|at| match octets.get(at) {
        Some(b'-') => at
            .checked_sub(2)
            .and_then(|start| octets.get(start..at))
            .is_some_and(|name| name.eq_ignore_ascii_case(b"pn")),
        _ => {
            let digits = octets.get(at + 1..at + 3).unwrap_or_default();
            [&b"70"[..], b"50", b"6e", b"4e", b"2d", b"25", b"3b"].iter().any(|e| e.eq_ignore_ascii_case(digits))
        }
    })
}

/// `text` without push parameters, but for `pn-purr`. All else stays as it was.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let mut left = Cow::Borrowed(text);
    for _ in 0..PASSES {
        match pass(&left) {
            Some(less) => left = Cow::Owned(less),
            None => return left,
        }
    }
    // Written to defeat us: nothing of it is worth a token.
    if pass(&left).is_some() { Cow::Owned(String::new()) } else { left }
}

/// `text` with what one look finds taken out; `None` where it finds nothing.
fn pass(text: &str) -> Option<String> {
    let octets = text.as_bytes();
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    let mut place = Place::default();
    while let Some((start, behind, depth)) = next_semicolon(octets, at) {
        at = behind;
        place.advance(octets, start);
        if let Some(end) = parameter_end(octets, behind, depth, &place) {
            out.push_str(text.get(kept..start)?);
            (kept, at) = (end, end);
        }
    }
    if kept == 0 {
        return None;
    }
    out.push_str(text.get(kept..)?);
    Some(out)
}

/// What has been passed on the way to a semicolon.
#[derive(Default)]
struct Place {
    at: usize,
    /// Whether a bracket is open: within one a comma parts nothing.
    is_bracketed: bool,
    /// Whether this URI's `@` is behind us.
    is_past_user: bool,
}

impl Place {
    fn advance(&mut self, octets: &[u8], to: usize) {
        for octet in octets.get(self.at..to).unwrap_or_default() {
            match octet {
                b'<' | b'>' => (self.is_bracketed, self.is_past_user) = (*octet == b'<', false),
                b'"' | b' ' | b'\t' | b'\r' | b'\n' | b',' => self.is_past_user = false,
                b'@' => self.is_past_user = true,
                _ => {}
            }
        }
        self.at = to.max(self.at);
    }
}

/// The next semicolon, escaped or not: where it begins, where it ends, and how often it is escaped.
fn next_semicolon(octets: &[u8], from: usize) -> Option<(usize, usize, usize)> {
    memchr2_iter(b';', b'%', octets.get(from..)?).find_map(|hit| {
        let start = from + hit;
        let (octet, end, depth) = octet_at(octets, start)?;
        (octet == b';').then_some((start, end, depth))
    })
}

/// The character at `at` with the escapes around it taken off: itself, where it ends, and how many there were.
fn octet_at(octets: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let first = *octets.get(at)?;
    if first != b'%' {
        return Some((first, at + 1, 0));
    }
    let (mut end, mut depth) = (at + 1, 1);
    while octets.get(end..end + 2) == Some(b"25") && depth < DEPTH {
        (end, depth) = (end + 2, depth + 1);
    }
    let digit = |at: usize| char::from(*octets.get(at)?).to_digit(16);
    match digit(end).zip(digit(end + 1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
        Some(octet) => Some((octet, end + 2, depth)),
        None => Some((b'%', at + 1, 0)),
    }
}

/// Where the push parameter behind a semicolon ends, if there is one. `depth` is how often that semicolon is escaped: what is
/// escaped oftener is no punctuation here.
fn parameter_end(octets: &[u8], behind: usize, depth: usize, place: &Place) -> Option<usize> {
    let mark =
        |at: usize| octet_at(octets, at).filter(|(_, _, found)| *found <= depth).map(|(octet, end, _)| (octet, end));
    let skip_space = |mut at: usize| {
        while let Some((b' ' | b'\t' | b'\r' | b'\n', end)) = mark(at) {
            at = end;
        }
        at
    };
    let begin = skip_space(behind);
    let mut at = begin;
    while at < octets.len() && !mark(at).is_some_and(|(octet, _)| b";?<>=\",&@ \t\r\n".contains(&octet)) {
        at += 1;
    }
    if !is_unwanted(octets.get(begin..at)?) {
        return None;
    }
    let Some((b'=', value)) = mark(skip_space(at)) else { return Some(at) };
    at = skip_space(value);
    if let Some((b'"', inside)) = mark(at) {
        at = inside;
        while let Some(octet) = octets.get(at) {
            match mark(at) {
                Some((b'"', end)) => return Some(end),
                _ if *octet == b'\\' => at += 2,
                _ => at += 1,
            }
        }
        return Some(octets.len());
    }
    while let Some(octet) = octets.get(at) {
        if octets.get(at..at + 5).is_some_and(|five| five.eq_ignore_ascii_case(b"&amp;")) {
            at += 5; // what XML makes of an ampersand
            continue;
        }
        match mark(at) {
            Some((b';' | b'?' | b'<' | b'>' | b'"' | b' ' | b'\t' | b'\r' | b'\n', _)) => break,
            Some((b',', _)) if !place.is_bracketed => break,
            // The end of a user part; behind it, a client has forgotten to escape.
            Some((b'@', _)) if !place.is_past_user => break,
            Some((b'&', _)) if depth > 0 => break, // the next header of the URI
            _ if *octet == b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Some(ends_character(octets, at))
}

/// `at`, or where the character that it stands within ends.
fn ends_character(octets: &[u8], mut at: usize) -> usize {
    while octets.get(at).is_some_and(|octet| octet & 0xc0 == 0x80) {
        at += 1;
    }
    at.min(octets.len())
}

fn is_unwanted(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let mut name = canonical_name(name).into_owned();
    for _ in 0..DEPTH {
        name = canonical_name(&name).into_owned();
    }
    name.starts_with("pn-") && name != "pn-purr"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// P-105, P-108: parameters of URIs and of headers go wherever they stand; all else stays.
    #[test]
    fn push_parameters_leave_any_text() {
        let cases = [
            ("<sip:a@h;pn-prid=x;lr>;expires=5", "<sip:a@h;lr>;expires=5"),
            ("sip:a@h;PN-Prid=x ;q=1;pn-tok=\"a;b\\\"c\";r", "sip:a@h ;q=1;r"),
            ("\"A, B\" <sip:a@h;pn-prid=x>, <sip:b@h;pn-x>;pn-y;z", "\"A, B\" <sip:a@h>, <sip:b@h>;z"),
            ("<sip:a@h;pn-prid=x,y=z@w;lr>", "<sip:a@h;lr>"),
            ("sip:a@h;pn-prid=x,sip:b@h", "sip:a@h,sip:b@h"),
            ("<sip:a;pn-prid=x@h;lr>", "<sip:a@h;lr>"),
            ("<sip:h;pn-prid=x;pn-purr=1>", "<sip:h;pn-purr=1>"),
            ("<sip:a@h;p%6E%2dprid=x?Subject=y>", "<sip:a@h?Subject=y>"),
            ("<sip:a@h;pn-prid=x%3By%3E;lr>", "<sip:a@h;lr>"),
            (
                "<sip:a@h?Contact=%3Csip:b@h%3Bpn-prid%3Dx%253By%3Blr%3E&X=%3Bpn-z>",
                "<sip:a@h?Contact=%3Csip:b@h%3Blr%3E&X=>",
            ),
            ("<sip:a@h?X=%253Bpn-prid%253Dx%2525&Y=1>", "<sip:a@h?X=&Y=1>"),
            ("Contact: <sip:a@h; pn-prid = x>\r\nTo: b;pn-x\r\n", "Contact: <sip:a@h>\r\nTo: b\r\n"),
            ("<uri>sip:a@h;pn-prid=x&amp;y</uri>", "<uri>sip:a@h</uri>"),
            ("; ;pn-x pn-y", ""),
            ("sip:a@h;apn-x;x=;y", "sip:a@h;apn-x;x=;y"),
            ("pn-prid=1 pn-x", "pn-prid=1 pn-x"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(scrub(text), expected, "{text}");
            assert!(text == expected || may_carry(text.as_bytes()), "{text}");
        }
        assert!(matches!(scrub("<sip:a@h;lr>"), Cow::Borrowed(_)));
        assert!(!may_carry(b"Call-ID: a-b-c\r\nMax-Forwards: 70 100%"));
    }

    proptest! {
        /// P-105: however a URI with a token is written down, the token does not get through.
        #[test]
        fn no_token_gets_through(
            before in "(\"[a-z;, <\\\\]{0,4}\" )?",
            open in prop::sample::select(vec!["<sip:a@h", "<sips:h", "<sip:a:b@h:5;x", "tel:+1", "<http://h/", "sip:h"]),
            name in "[pP](n|N|%6e)(-|%2D)(prid|tok|x[a-z]{0,3})",
            equals in " ?= ?\"?",
            escaped in 0_usize..3,
            behind in "[;?>, \"]{0,3}(lr|x=y)?>?",
        ) {
            let mut text = format!("{open};{name}{equals}5EC12E7;z=1");
            if equals.contains('"') {
                text = text.replace("7;", "7\";");
            }
            for _ in 0..escaped {
                text = format!("<sip:c@h?Contact={}", percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC));
            }
            let text = format!("{before}{text}{behind}");
            prop_assert!(may_carry(text.as_bytes()));
            let scrubbed = scrub(&text);
            prop_assert!(!scrubbed.contains("5EC12E7"), "{text} -> {scrubbed}");
        }

        /// P-103, P-105: nothing is left to take out, for any text.
        #[test]
        fn scrubbing_is_final(text in "([a@;?=<>,& \"\\\\]|%(25){0,2}3B|pn-|PN%2Dx|é){0,24}") {
            let once = scrub(&text).into_owned();
            prop_assert!(matches!(scrub(&once), Cow::Borrowed(_)), "{text} -> {once}");
        }

        /// P-103.
        #[test]
        fn scrubbing_is_total(text in any::<String>()) {
            let _ = (scrub(&text), may_carry(text.as_bytes()));
        }
    }
}
