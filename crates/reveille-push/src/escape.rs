//! Wire encoding of push parameter values: `pvalue` of RFC 8599 §8.7 (P-003).
//!
//! Works on octets and is independent of the URI parser: escaping and unescaping return what went in, for every octet.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Everything but letters, digits and the marks that a `pvalue` may hold unescaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'[')
    .remove(b']')
    .remove(b'/')
    .remove(b':')
    .remove(b'&')
    .remove(b'+')
    .remove(b'$');

/// A value that cannot be unescaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EscapeError {
    /// A percent sign without two hexadecimal digits behind it.
    #[error("incomplete or malformed percent escape")]
    Escape,
    /// An octet that no URI may hold unescaped: a control, a space, or one outside ASCII.
    #[error("octet that must be escaped")]
    Raw,
}

/// Escapes `value` so that it is a `pvalue`. An empty value stays empty, which the grammar has no form for.
pub fn encode_pvalue(value: &[u8]) -> String {
    percent_encode(value, ESCAPED).to_string()
}

/// Unescapes a value as it stood in a URI.
///
/// Visible ASCII outside the `pvalue` set passes unescaped: the URI parser has already decided where the value ends, and
/// clients that forget to escape `=` mean what they wrote.
///
/// # Errors
/// [`EscapeError`] where a percent sign starts no escape, or an octet appears that no URI can hold.
pub fn decode_pvalue(value: &str) -> Result<Vec<u8>, EscapeError> {
    let mut out = Vec::with_capacity(value.len());
    let mut octets = value.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'%' => {
                let (Some(high), Some(low)) = (octets.next().and_then(nibble), octets.next().and_then(nibble)) else {
                    return Err(EscapeError::Escape);
                };
                out.push(high << 4 | low);
            }
            0x21..=0x7e => out.push(octet),
            _ => return Err(EscapeError::Raw),
        }
    }
    Ok(out)
}

fn nibble(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// P-003: the letters that need no escape, and those that do.
    #[test]
    fn escapes_what_a_pvalue_cannot_hold() {
        assert_eq!(encode_pvalue(b"azAZ09-_.!~*'()[]/:&+$"), "azAZ09-_.!~*'()[]/:&+$");
        assert_eq!(encode_pvalue(b"?=@;,%#\"<> "), "%3F%3D%40%3B%2C%25%23%22%3C%3E%20");
        // P-018: the example of RFC 8599 §12's shape; a percent sign of the URL itself is doubled up.
        assert_eq!(
            encode_pvalue(b"https://push.example.net/p/k7?v=2%20"),
            "https://push.example.net/p/k7%3Fv%3D2%2520"
        );
    }

    /// P-004: escapes that are not escapes, and octets that cannot be there.
    #[test]
    fn refuses_broken_escapes() {
        let cases = [
            ("%", EscapeError::Escape),
            ("a%2", EscapeError::Escape),
            ("%zz", EscapeError::Escape),
            ("%+1", EscapeError::Escape),
            ("a b", EscapeError::Raw),
            ("a\u{7f}", EscapeError::Raw),
            ("é", EscapeError::Raw),
        ];
        for (value, error) in cases {
            assert_eq!(decode_pvalue(value), Err(error), "{value:?}");
        }
        assert_eq!(decode_pvalue("a=b%3d%3D").unwrap(), b"a=b==");
    }

    proptest! {
        /// P-103: unescaping returns what was escaped, whatever the octets.
        #[test]
        fn decode_undoes_encode(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let escaped = encode_pvalue(&value);
            prop_assert!(escaped.bytes().all(|octet| octet == b'%' || octet.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(&octet)));
            prop_assert_eq!(decode_pvalue(&escaped).unwrap(), value);
        }

        /// P-103: any text gives an answer.
        #[test]
        fn decode_is_total(value in any::<String>()) {
            let _ = decode_pvalue(&value);
        }
    }

    /// P-103: each of the 256 octets by itself.
    #[test]
    fn every_octet_survives() {
        for octet in 0..=u8::MAX {
            assert_eq!(decode_pvalue(&encode_pvalue(&[octet])).unwrap(), [octet]);
        }
    }
}
