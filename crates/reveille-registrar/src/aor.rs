//! The address-of-record: the key under which bindings are kept (S-101).

use std::{collections::HashMap, fmt, sync::Arc};

use reveille_sip::uri::{Scheme, Uri};
use xxhash_rust::xxh3::xxh3_64;

/// An address-of-record in canonical form, `user@host`; cheap to clone.
///
/// URI parameters, headers, password and port are dropped, escapes are undone and made again in one fixed way, the host is in
/// lower case and an alias of a domain is replaced by the domain; the user part keeps its case. `sip:` and `sips:` name the
/// same address-of-record: one key, so that a phone registered under one scheme is found under the other.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Aor(Arc<str>);

impl Aor {
    /// The address-of-record of a To or Request-URI (RFC 3261 §10.3 step 5).
    ///
    /// # Errors
    /// [`AorError`] where the URI is neither `sip:` nor `sips:`, or its user part holds a broken escape.
    pub fn from_uri(uri: &Uri<'_>, aliases: &Aliases) -> Result<Self, AorError> {
        if !matches!(uri.scheme(), Scheme::Sip | Scheme::Sips) {
            return Err(AorError::Scheme);
        }
        let host = uri.host().to_ascii_lowercase();
        let host = aliases.resolve(host.trim_end_matches('.'));
        let Some(user) = uri.user() else { return Ok(Self(host.into())) };
        let user = unescape(user).ok_or(AorError::User)?;
        let mut text = String::with_capacity(user.len() + 1 + host.len());
        escape_into(&user, &mut text);
        text.push('@');
        text.push_str(host);
        Ok(Self(text.into()))
    }

    /// An address-of-record that was canonical when it was stored.
    pub fn from_canonical(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The canonical text, `user@host`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard that owns this address-of-record in a cluster of `shards` shards. The same on every node and in every
    /// version: records are stored by it.
    pub fn shard(&self, shards: u16) -> u16 {
        let spread = u64::from(shards.max(1));
        u16::try_from(((xxh3_64(self.0.as_bytes()) >> 32) * spread) >> 32).unwrap_or(0)
    }

    /// The form for logs.
    pub fn redacted(&self) -> String {
        reveille_sip::redact::aor(&self.0)
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aor({})", self.redacted())
    }
}

/// Why a URI names no address-of-record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AorError {
    /// Neither `sip:` nor `sips:` (S-102).
    #[error("not a SIP URI")]
    Scheme,
    /// The user part holds something that is no escape.
    #[error("malformed user part")]
    User,
}

/// Domains that stand for another domain.
#[derive(Clone, Debug, Default)]
pub struct Aliases(HashMap<Box<str>, Box<str>>);

impl Aliases {
    /// No aliases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `alias` stand for `domain`.
    pub fn insert(&mut self, alias: &str, domain: &str) {
        self.0.insert(alias.to_ascii_lowercase().into(), domain.to_ascii_lowercase().into());
    }

    fn resolve<'a>(&'a self, host: &'a str) -> &'a str {
        self.0.get(host).map_or(host, |domain| domain)
    }
}

fn unescape(user: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(user.len());
    let mut octets = user.bytes();
    while let Some(octet) = octets.next() {
        out.push(match octet {
            b'%' => {
                let high = char::from(octets.next()?).to_digit(16)?;
                let low = char::from(octets.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            _ => octet,
        });
    }
    Some(out)
}

/// Escapes everything that RFC 3261 §25.1 does not allow bare in a user part, in capital hex.
fn escape_into(user: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &octet in user {
        if octet.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(octet >> 4)]));
            out.push(char::from(HEX[usize::from(octet & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aor(uri: &str) -> String {
        let mut aliases = Aliases::new();
        aliases.insert("sip.Example.com", "example.com");
        Aor::from_uri(&Uri::parse(uri).unwrap(), &aliases).unwrap().as_str().to_owned()
    }

    /// S-101: spellings of one address-of-record, and addresses that only look alike.
    #[test]
    fn spellings_of_one_address_are_one_key() {
        for uri in [
            "sip:alice@example.com",
            "sip:%61lice@EXAMPLE.com",
            "sips:alice@example.com:5061;transport=tcp",
            "sip:alice:secret@example.com?subject=x",
            "sip:alice@sip.example.com",
        ] {
            assert_eq!(aor(uri), "alice@example.com", "{uri}");
        }
        assert_eq!(aor("sip:Alice@example.com"), "Alice@example.com");
        assert_eq!(aor("sip:a%40b@example.com"), "a%40b@example.com");
        assert_eq!(aor("sip:a%c3%a9@example.com"), "a%C3%A9@example.com");
        assert_eq!(aor("sip:[2001:DB8::1]"), "[2001:db8::1]");
    }

    #[test]
    fn other_schemes_are_refused() {
        let uri = Uri::parse("tel:+358555").unwrap();
        assert_eq!(Aor::from_uri(&uri, &Aliases::new()), Err(AorError::Scheme));
    }

    /// Records are stored by shard: the hash may never change.
    #[test]
    fn shards_are_stable_and_even() {
        let one = Aor::from_canonical("alice@example.com");
        assert_eq!(one.shard(1024), one.shard(1024));
        assert_eq!(one.shard(1), 0);
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            counts[usize::from(Aor::from_canonical(format!("user{n}@example.com")).shard(16))] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }

    #[test]
    fn nothing_prints_the_user() {
        let shown = format!("{0} {0:?}", Aor::from_canonical("alice@example.com"));
        assert!(!shown.contains("alice"), "{shown}");
    }
}
