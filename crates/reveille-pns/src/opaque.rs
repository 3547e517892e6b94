//! Random-looking values that stay the same for one target: collapse ids, topics and wake ids that tell an onlooker nothing
//! (P-124, P-133, P-148).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// A keyed hash under a key drawn at start.
pub(crate) struct Opaque(hmac::Key);

impl Opaque {
    pub(crate) fn new() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()))
    }

    /// As [`Opaque::of`], and another value every day (Unix time): what tells one push from the next of the same device must
    /// not be a name for the device (P-133).
    pub(crate) fn daily(&self, now: u64, parts: &[&[u8]]) -> String {
        let day = (now / 86_400).to_be_bytes();
        let parts: Vec<&[u8]> = [&day[..]].into_iter().chain(parts.iter().copied()).collect();
        self.of(&parts)
    }

    /// 24 characters of the base64url alphabet for these parts.
    pub(crate) fn of(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        URL_SAFE_NO_PAD.encode(tag.as_ref().get(..18).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_stable_distinct_and_short_p133() {
        let opaque = Opaque::new();
        let one = opaque.of(&[b"token", b"call"]);
        assert_eq!(one, opaque.of(&[b"token", b"call"]));
        assert_ne!(one, opaque.of(&[b"token", b"refresh"]));
        assert_ne!(one, opaque.of(&[b"tokenc", b"all"]));
        assert_ne!(one, Opaque::new().of(&[b"token", b"call"]));
        let day = |seconds| opaque.daily(seconds, &[b"token", b"call"]);
        assert_eq!(day(86_400), day(2 * 86_400 - 1));
        assert_ne!(day(86_400), day(2 * 86_400));
        assert!(one.len() <= 32 && one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    }
}
