//! Looking at sixteen octets at once.
//!
//! What is looked for in a message's head comes so soon that a call of `memchr` for each would cost more than it saves.

use wide::{i8x16, u8x16};

/// As many octets as [`odd_octets`] tells of, one bit each.
pub(crate) const BLOCK: usize = 64;

/// Where `needle` stands first.
#[inline]
pub(crate) fn find(bytes: &[u8], needle: u8) -> Option<usize> {
    let sought = u8x16::splat(needle);
    first_marked(bytes, |octets| octets.simd_eq(sought), |b| b == needle)
}

/// Where the first of two stands.
#[inline]
pub(crate) fn find_either(bytes: &[u8], one: u8, other: u8) -> Option<usize> {
    let (first, second) = (u8x16::splat(one), u8x16::splat(other));
    first_marked(bytes, |octets| octets.simd_eq(first) | octets.simd_eq(second), |b| b == one || b == other)
}

/// Whether all octets are ASCII, and none is a control character or a space.
pub(crate) fn is_graphic(bytes: &[u8]) -> bool {
    let (space, delete) = (u8x16::splat(b' '), u8x16::splat(0x7f));
    let marks = |octets: u8x16| octets.min(space).simd_eq(octets) | octets.max(delete).simd_eq(octets);
    first_marked(bytes, marks, |b| b <= b' ' || b >= 0x7f).is_none()
}

/// Whether no octet is a control character, a space or a delimiter of URIs: `<`, `>` or `"`.
pub(crate) fn is_undelimited(bytes: &[u8]) -> bool {
    let (space, delete) = (u8x16::splat(b' '), u8x16::splat(0x7f));
    let (open, close, quote) = (u8x16::splat(b'<'), u8x16::splat(b'>'), u8x16::splat(b'"'));
    let marks = |octets: u8x16| {
        let delimiters = octets.simd_eq(open) | octets.simd_eq(close) | octets.simd_eq(quote);
        delimiters | octets.min(space).simd_eq(octets) | octets.simd_eq(delete)
    };
    first_marked(bytes, marks, |b| b <= b' ' || matches!(b, 0x7f | b'<' | b'>' | b'"')).is_none()
}

/// Where the first of three stands.
#[inline]
pub(crate) fn find_any(bytes: &[u8], sought: [u8; 3]) -> Option<usize> {
    let [first, second, third] = sought.map(u8x16::splat);
    let marks = |octets: u8x16| octets.simd_eq(first) | octets.simd_eq(second) | octets.simd_eq(third);
    first_marked(bytes, marks, |b| sought.contains(&b))
}

/// A bit for each semicolon, where the text is not too long to have one and every semicolon separates: nothing in it quotes or
/// brackets, and no comma begins another value.
#[inline]
pub(crate) fn semicolons(bytes: &[u8]) -> Option<u128> {
    let [semicolon, comma, quote, open] = [b';', b',', b'"', b'<'].map(u8x16::splat);
    let look = |chunk: &[u8; 16]| {
        let octets = u8x16::new(*chunk);
        let others = octets.simd_eq(comma) | octets.simd_eq(quote) | octets.simd_eq(open);
        (others.to_bitmask() == 0).then(|| octets.simd_eq(semicolon).to_bitmask() as u16)
    };
    if bytes.len() > 128 {
        return None;
    }
    let (chunks, tail) = bytes.as_chunks::<16>();
    let mut parts = [[0; 2]; 8];
    for (part, chunk) in parts.iter_mut().zip(chunks) {
        *part = look(chunk)?.to_le_bytes();
    }
    let marks = parts.as_flattened().first_chunk().map_or(0, |parts| u128::from_le_bytes(*parts));
    Some(match bytes.last_chunk() {
        _ if tail.is_empty() => marks,
        // The tail with what stands before it, which is marked alike.
        Some(chunk) => marks | u128::from(look(chunk)?) << (bytes.len() - 16),
        None => {
            let mut chunk = [0; 16];
            chunk.get_mut(..tail.len())?.copy_from_slice(tail);
            u128::from(look(&chunk)?)
        }
    })
}

/// Where the first octet stands that `marks` marks with its high bit, as `is_marked` says of one alone.
#[inline]
fn first_marked(bytes: &[u8], marks: impl Fn(u8x16) -> u8x16, is_marked: impl Fn(u8) -> bool) -> Option<usize> {
    let (chunks, tail) = bytes.as_chunks::<16>();
    for (number, chunk) in chunks.iter().enumerate() {
        let marks = marks(u8x16::new(*chunk)).to_bitmask();
        if marks != 0 {
            return Some(number * 16 + marks.trailing_zeros() as usize);
        }
    }
    if tail.is_empty() {
        return None;
    }
    match bytes.last_chunk::<16>() {
        // The tail with what stands before it, where nothing was found.
        Some(chunk) => {
            let marks = marks(u8x16::new(*chunk)).to_bitmask();
            (marks != 0).then(|| bytes.len() - 16 + marks.trailing_zeros() as usize)
        }
        None => tail.iter().position(|b| is_marked(*b)),
    }
}

/// A bit for each octet of the block that begins at `at` that is a control character (but DEL) or not ASCII; `None` past
/// the end.
#[inline]
pub(crate) fn odd_octets(bytes: &[u8], at: usize) -> Option<u64> {
    let rest = bytes.get(at..)?;
    if let Some(block) = rest.first_chunk::<BLOCK>() {
        return Some(odd_of(block));
    }
    if rest.is_empty() {
        return None;
    }
    let mut block = [b' '; BLOCK];
    block.get_mut(..rest.len())?.copy_from_slice(rest);
    Some(odd_of(&block))
}

#[inline]
fn odd_of(block: &[u8; BLOCK]) -> u64 {
    // As signed numbers, octets that are not ASCII are below the controls.
    let last_control = i8x16::splat(0x1f);
    let mut plain = 0;
    for (part, chunk) in block.as_chunks::<16>().0.iter().enumerate() {
        let octets = i8x16::new(chunk.map(|octet| octet as i8));
        plain |= u64::from(octets.simd_gt(last_control).to_bitmask()) << (16 * part);
    }
    !plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Octets that have every value, at every place of a block, beside every other kind.
    fn blocks() -> impl Iterator<Item = [u8; BLOCK]> {
        (0..=255_u8).flat_map(|value| {
            [0, 9, 10, 13, b'a', 0x7f, 0x80, 0xff].map(|filler| {
                let mut block = [filler; BLOCK];
                block.iter_mut().skip(usize::from(value) % 7).step_by(5).for_each(|b| *b = value);
                block
            })
        })
    }

    #[test]
    fn each_octet_has_its_mark() {
        let mask = |block: &[u8; BLOCK], is: &dyn Fn(u8) -> bool| {
            block.iter().enumerate().fold(0_u64, |mask, (at, b)| mask | (u64::from(is(*b)) << at))
        };
        for block in blocks() {
            assert_eq!(odd_of(&block), mask(&block, &|b| !(0x20..0x80).contains(&b)));
            for (from, needle) in [(0, 0x80), (3, 0xff), (40, 0), (45, 10), (62, 9), (63, b'a'), (64, 9)] {
                let block = &block[from..];
                assert_eq!(find(block, needle), block.iter().position(|b| *b == needle));
                let either = block.iter().position(|b| [needle, 1].contains(b));
                assert_eq!(find_either(block, needle, 1), either);
            }
        }
    }

    #[test]
    fn semicolons_are_marked_where_all_of_them_separate() {
        let long = format!("{};{}", "a".repeat(100), "b".repeat(27));
        for text in ["", ";", "a;b", "SIP/2.0/TLS 192.0.2.1:5061;branch=z9hG4bK1;rport", ";;;;;;;;;;;;;;;;", &long] {
            let expected = text.bytes().enumerate().filter(|(_, b)| *b == b';').fold(0, |m, (at, _)| m | 1_u128 << at);
            assert_eq!(semicolons(text.as_bytes()), Some(expected), "{text}");
            for other in [',', '"', '<'] {
                assert_eq!(semicolons(format!("{text}{other}").as_bytes()), None);
                assert_eq!(semicolons(format!("{other}{text}").as_bytes()), None);
            }
        }
        assert_eq!(semicolons(&[b'a'; 129]), None);
    }

    #[test]
    fn the_last_block_is_filled_up_with_spaces() {
        let text = [b'\n'; 70];
        assert_eq!(odd_octets(&text, 0), Some(u64::MAX));
        assert_eq!(odd_octets(&text, 64), Some(0b11_1111));
        assert!(odd_octets(&text, 70).is_none() && odd_octets(&text, 71).is_none());
    }

    #[test]
    fn graphic_is_what_can_be_seen() {
        for byte in 0..=255_u8 {
            let text = [b'a', b'a', byte];
            assert_eq!(is_graphic(&text), byte.is_ascii_graphic(), "{byte}");
            assert_eq!(find_any(&text, *b",<\""), b",<\"".contains(&byte).then_some(2), "{byte}");
            let undelimited = byte > b' ' && !matches!(byte, 0x7f | b'<' | b'>' | b'"');
            assert_eq!(is_undelimited(&text), undelimited, "{byte}");
            for length in [15, 16, 17, 31, 33] {
                let mut long = vec![b'a'; length];
                for at in [0, 7, length - 2, length - 1] {
                    long[at] = byte;
                    assert_eq!(is_graphic(&long), byte.is_ascii_graphic(), "{byte} at {at} of {length}");
                    assert_eq!(is_undelimited(&long), undelimited, "{byte} at {at} of {length}");
                    long[at] = b'a';
                }
            }
        }
    }
}
