//! Nonces that prove themselves: time, randomness, and a MAC over both and the realm under keys the cluster shares (RFC 7616 §5.4,
//! S-145). Any node can check what another issued; a rotation leaves the previous key valid for checking.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac::{self, HMAC_SHA256},
    rand::{SecureRandom, SystemRandom},
};
use subtle::ConstantTimeEq;

/// The keys nonces are made and checked with.
#[derive(Clone)]
pub struct NonceKeys {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl NonceKeys {
    /// Issues under `current`, accepts under `previous` too. A key is 32 random octets, the same on every node.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Self {
        let key = |octets| hmac::Key::new(HMAC_SHA256, octets);
        Self { current: key(current), previous: previous.map(key) }
    }

    /// A key of this process alone, for a single node. Fails only if the system has no randomness to give.
    pub fn random() -> Option<Self> {
        let current = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { current, previous: None })
    }

    /// The keys after a rotation to `next`: what was current is now previous.
    pub fn rotated(&self, next: &[u8]) -> Self {
        Self { current: hmac::Key::new(HMAC_SHA256, next), previous: Some(self.current.clone()) }
    }

    /// A new nonce; `node` says who issued it, where there are several.
    pub(super) fn issue(&self, unix_now: u64, realm: &str, node: Option<u32>) -> String {
        let mut nonce = [0; LENGTH];
        let (id, mac) = nonce.split_at_mut(ID);
        let (time, random) = id.split_at_mut(TIME);
        time.copy_from_slice(&unix_now.to_be_bytes());
        // Without randomness callers of one second share a nonce, which costs them a second challenge and nobody anything more.
        let _ = SystemRandom::new().fill(random);
        if let (Some(node), Some((issuer, _))) = (node, random.split_first_chunk_mut()) {
            *issuer = node.to_be_bytes();
        }
        let tag = sign(&self.current, id, realm);
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// The nonce, if it was issued under one of these keys for this realm.
    pub(super) fn check(&self, text: &str, realm: &str) -> Option<Nonce> {
        let mut decoded = [0; LENGTH];
        // Some slack, as the decoder wants room for whole groups.
        let mut buffer = [0; LENGTH + 4];
        if text.len() != TEXT || URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).ok()? != LENGTH {
            return None;
        }
        decoded.copy_from_slice(buffer.get(..LENGTH)?);
        let (id, mac) = decoded.split_at(ID);
        let is_signed_by = |key: &hmac::Key| -> bool {
            let tag = sign(key, id, realm);
            tag.as_ref().get(..MAC).is_some_and(|tag| tag.ct_eq(mac).into())
        };
        if !is_signed_by(&self.current) && !self.previous.as_ref().is_some_and(is_signed_by) {
            return None;
        }
        let issued = u64::from_be_bytes(id.get(..TIME)?.try_into().ok()?);
        Some(Nonce { issued, id: id.try_into().ok()? })
    }
}

impl fmt::Debug for NonceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceKeys").field("has_previous", &self.previous.is_some()).finish_non_exhaustive()
    }
}

/// A nonce that one of us issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonce {
    /// When, in Unix seconds.
    pub(super) issued: u64,
    /// What tells it from every other.
    pub(super) id: [u8; ID],
}

impl Nonce {
    /// The node that issued it, where nodes say so; anything else otherwise.
    pub(super) fn issuer(&self) -> Option<u32> {
        self.id.get(TIME..)?.first_chunk().map(|issuer| u32::from_be_bytes(*issuer))
    }

    /// Whether it may still be used. Clocks of other nodes may be a little ahead.
    pub(super) fn is_live(&self, unix_now: u64, ttl: u64) -> bool {
        self.issued <= unix_now.saturating_add(SKEW) && unix_now <= self.issued.saturating_add(ttl)
    }
}

fn sign(key: &hmac::Key, id: &[u8], realm: &str) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(id);
    context.update(realm.as_bytes());
    context.sign()
}

const TIME: usize = 8;
pub(super) const ID: usize = 20;
const MAC: usize = 16;
const LENGTH: usize = ID + MAC;
const TEXT: usize = LENGTH / 3 * 4;
pub(super) const SKEW: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_of_one_node_is_good_on_another_s145() {
        let nonce = NonceKeys::new(b"shared", None).issue(1000, "r", None);
        assert_eq!(nonce.len(), TEXT);
        let checked = NonceKeys::new(b"shared", None).check(&nonce, "r").unwrap();
        assert_eq!(checked.issued, 1000);
        assert!(NonceKeys::new(b"other", None).check(&nonce, "r").is_none());
        assert!(NonceKeys::new(b"shared", None).check(&nonce, "other").is_none());
    }

    #[test]
    fn previous_key_still_checks_and_the_one_before_does_not_s145() {
        let first = NonceKeys::new(b"1", None);
        let nonce = first.issue(1000, "r", None);
        let second = first.rotated(b"2");
        assert!(second.check(&nonce, "r").is_some());
        assert!(second.rotated(b"3").check(&nonce, "r").is_none());
        assert!(NonceKeys::new(b"2", Some(b"1")).check(&nonce, "r").is_some());
    }

    #[test]
    fn no_changed_nonce_is_accepted() {
        let keys = NonceKeys::random().unwrap();
        let nonce = keys.issue(1000, "r", None);
        for index in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(keys.check(std::str::from_utf8(&changed).unwrap(), "r").is_none(), "{index}");
        }
        for text in ["", "x", &nonce[1..], &format!("{nonce}A"), &"=".repeat(TEXT), &"ä".repeat(TEXT / 2)] {
            assert!(keys.check(text, "r").is_none());
        }
    }

    #[test]
    fn every_nonce_differs() {
        let keys = NonceKeys::random().unwrap();
        let of = |node| keys.check(&keys.issue(1000, "r", Some(node)), "r").unwrap();
        assert_eq!((of(7).issuer(), of(8).issuer()), (Some(7), Some(8)));
        assert_ne!(of(7), of(7));
        assert_ne!(keys.issue(1000, "r", None), keys.issue(1000, "r", None));
    }

    #[test]
    fn life_has_both_ends() {
        let nonce = Nonce { issued: 1000, id: [0; ID] };
        for (now, live) in [(900, false), (970, true), (1000, true), (1300, true), (1301, false)] {
            assert_eq!(nonce.is_live(now, 300), live, "{now}");
        }
    }
}
