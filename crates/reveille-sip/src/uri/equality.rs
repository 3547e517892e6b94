//! Equality of URIs, exactly as RFC 3261 §19.1.4 has it (S-032). The relation is not transitive.

use super::{Scheme, Uri, unescape};

/// Whether two URIs are equal.
pub fn equal(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    equal_ignoring(a, b, |_| false)
}

/// As [`equal`], leaving out parameters whose name, in lower case, `ignored` accepts (P-006, P-046).
pub fn equal_ignoring(a: &Uri<'_>, b: &Uri<'_>, ignored: impl Fn(&str) -> bool) -> bool {
    if a.scheme() != b.scheme() {
        return false;
    }
    if !matches!(a.scheme(), Scheme::Sip | Scheme::Sips) {
        return a.as_str() == b.as_str();
    }
    let same = |x: Option<&str>, y: Option<&str>| match (x, y) {
        (Some(x), Some(y)) => characters(x).eq(characters(y)),
        (None, None) => true,
        _ => false,
    };
    let same_host = match (a.host_ip(), b.host_ip()) {
        (Some(x), Some(y)) => x == y,
        _ => a.host().eq_ignore_ascii_case(b.host()),
    };
    same(a.user(), b.user())
        && same(a.password(), b.password())
        && same_host
        && a.port() == b.port()
        && params_match(a, b, &ignored)
        && params_match(b, a, &ignored)
        && headers_match(a, b)
}

/// Every parameter of `a` agrees with `b`: equal where both have it, and not one of those that may not be one-sided.
fn params_match(a: &Uri<'_>, b: &Uri<'_>, ignored: &impl Fn(&str) -> bool) -> bool {
    a.params().all(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        if ignored(&lower) {
            return true;
        }
        match b.param(name) {
            Some(other) => match (value, other) {
                (Some(x), Some(y)) => {
                    let lower = |c: Character| Character { byte: c.byte.to_ascii_lowercase(), ..c };
                    characters(x).map(lower).eq(characters(y).map(lower))
                }
                (None, None) => true,
                _ => false,
            },
            None => !matches!(lower.as_str(), "user" | "ttl" | "method" | "maddr" | "transport"),
        }
    })
}

/// One character of a URI's part as it counts in a comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Character {
    byte: u8,
    /// An escape stands for its character, unless that is a reserved one: `%3B` is no `;`.
    escaped: bool,
}

fn characters(text: &str) -> impl Iterator<Item = Character> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        if let (b'%', Some(high), Some(low)) = (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            at += 3;
            let byte = (high * 16 + low) as u8;
            return Some(Character { byte, escaped: b";/?:@&=+$,".contains(&byte) });
        }
        at += 1;
        Some(Character { byte, escaped: false })
    })
}

/// Embedded headers are never ignored; their order does not matter.
fn headers_match(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    let parts = |uri: &Uri<'_>| {
        let mut list: Vec<(String, Vec<Character>)> = uri
            .headers()
            .unwrap_or("")
            .split('&')
            .filter(|h| !h.is_empty())
            .map(|h| {
                let (name, value) = h.split_once('=').unwrap_or((h, ""));
                (String::from_utf8_lossy(&unescape(name)).to_ascii_lowercase(), characters(value).collect())
            })
            .collect();
        list.sort();
        list
    };
    match (a.headers(), b.headers()) {
        (None, None) => true,
        _ => parts(a) == parts(b),
    }
}
