//! The optional payload of a Web Push (P-137): some browsers insist on one. It goes encrypted for the phone (RFC 8291, in the
//! form of RFC 8188), says nothing, and always has the same length. The phone's keys come from a file: RFC 8599 has no
//! parameters for them (P-020).

use std::{collections::HashMap, path::Path};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::{
    PublicKey, SecretKey,
    elliptic_curve::{point::AffineCoordinates, sec1::ToEncodedPoint},
};
use ring::{aead, hmac};
use serde::Deserialize;

use crate::{SettingsError, credential::read};

/// Keys of subscriptions, by push URL.
#[derive(Default)]
pub(super) struct PayloadKeys(HashMap<Box<str>, PhoneKeys>);

/// What a browser calls `p256dh` and `auth`.
pub(super) struct PhoneKeys {
    public: PublicKey,
    auth: [u8; AUTH],
}

#[derive(Deserialize)]
struct Entry {
    p256dh: String,
    auth: String,
}

impl PayloadKeys {
    /// Reads a JSON object: push URL to `{"p256dh": …, "auth": …}`, both base64url as browsers give them.
    pub(super) fn load(path: &Path, key: &str) -> Result<Self, SettingsError> {
        let text = read(path, key)?;
        let entries: HashMap<Box<str>, Entry> = serde_json::from_str(&text)
            // serde_json's message may quote what it found.
            .map_err(|error| SettingsError::new(key, format_args!("not a list of keys, line {}", error.line())))?;
        let phones = entries.into_iter().map(|(url, entry)| Some((url, PhoneKeys::parse(&entry)?)));
        let phones = phones.collect::<Option<_>>();
        // Which entry it is would name a subscription.
        phones.map(Self).ok_or_else(|| SettingsError::new(key, "an entry has no P-256 point or no 16-octet secret"))
    }

    pub(super) fn get(&self, url: &str) -> Option<&PhoneKeys> {
        self.0.get(url)
    }
}

impl PhoneKeys {
    /// `None` where the point is not on the curve, or a value has not its length.
    fn parse(entry: &Entry) -> Option<Self> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let point = decode(&entry.p256dh).filter(|point| point.len() == POINT)?;
        let public = PublicKey::from_sec1_bytes(&point).ok()?;
        Some(Self { public, auth: decode(&entry.auth)?.try_into().ok()? })
    }

    /// The body of a push with this text, under a key and a salt of its own, padded to a constant length.
    pub(super) fn encrypt(&self, text: &[u8]) -> Option<Vec<u8>> {
        // Nearly every 32 octets are a key.
        let secret = (0..4).find_map(|_| SecretKey::from_slice(&rand::random::<[u8; 32]>()).ok())?;
        seal(self, &secret, rand::random(), text, PADDED.checked_sub(text.len() + 1)?)
    }
}

/// RFC 8291 §3.4, RFC 8188 §2: one record.
fn seal(phone: &PhoneKeys, secret: &SecretKey, salt: [u8; SALT], text: &[u8], padding: usize) -> Option<Vec<u8>> {
    let ours = secret.public_key().to_encoded_point(false);
    let (key, nonce) = derive(&shared(secret, &phone.public), &phone.auth, &phone.public, ours.as_bytes(), &salt);
    // The delimiter of a last record, and zeros.
    let mut record = [text, &[2]].concat();
    record.resize(record.len() + padding, 0);
    let sealing = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, key.as_ref().get(..16)?).ok()?);
    let nonce = aead::Nonce::try_assume_unique_for_key(nonce.as_ref().get(..12)?).ok()?;
    sealing.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut record).ok()?;
    let id_length = u8::try_from(ours.len()).ok()?;
    Some([&salt[..], &RECORD_SIZE.to_be_bytes(), &[id_length], ours.as_bytes(), &record].concat())
}

fn shared(secret: &SecretKey, public: &PublicKey) -> [u8; 32] {
    let point = (public.to_projective() * *secret.to_nonzero_scalar()).to_affine();
    point.x().into()
}

/// Key and nonce, each at the beginning of a hash (RFC 8291 §3.4). HKDF with one block is two HMACs.
fn derive(
    shared: &[u8; 32],
    auth: &[u8; AUTH],
    phone: &PublicKey,
    ours: &[u8],
    salt: &[u8; SALT],
) -> (hmac::Tag, hmac::Tag) {
    let theirs = phone.to_encoded_point(false);
    let prk = hash(auth, &[shared]);
    let ikm = hash(prk.as_ref(), &[b"WebPush: info\0", theirs.as_bytes(), ours, &[1]]);
    let prk = hash(salt, &[ikm.as_ref()]);
    let key = hash(prk.as_ref(), &[b"Content-Encoding: aes128gcm\0", &[1]]);
    let nonce = hash(prk.as_ref(), &[b"Content-Encoding: nonce\0", &[1]]);
    (key, nonce)
}

fn hash(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

const AUTH: usize = 16;
const SALT: usize = 16;
const POINT: usize = 65;
/// Octets of text, delimiter and padding together.
const PADDED: usize = 256;
/// More than the one record takes.
const RECORD_SIZE: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }

    fn phone() -> PhoneKeys {
        let p256dh = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        PhoneKeys::parse(&Entry { p256dh: p256dh.into(), auth: "BTBZMqHH6r4Tts7J_aSIgg".into() }).unwrap()
    }

    fn phones_secret() -> SecretKey {
        SecretKey::from_slice(&bytes::<32>("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")).unwrap()
    }

    /// What a phone does with a body.
    fn open(body: &[u8]) -> Vec<u8> {
        let (salt, rest) = body.split_first_chunk::<SALT>().unwrap();
        assert_eq!((&rest[..4], rest[4]), (&4096_u32.to_be_bytes()[..], 65));
        let (ours, record) = rest[5..].split_at(65);
        let theirs = PublicKey::from_sec1_bytes(ours).unwrap();
        let phone = phone();
        let (key, nonce) = derive(&shared(&phones_secret(), &theirs), &phone.auth, &phone.public, ours, salt);
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, &key.as_ref()[..16]).unwrap());
        let nonce = aead::Nonce::try_assume_unique_for_key(&nonce.as_ref()[..12]).unwrap();
        let mut record = record.to_vec();
        let plain = key.open_in_place(nonce, aead::Aad::empty(), &mut record).unwrap();
        let end = plain.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(plain[end], 2, "the last record");
        plain[..end].to_vec()
    }

    /// RFC 8291 §5 and appendix A, every intermediate value and the message.
    #[test]
    fn the_vector_of_rfc_8291_p137() {
        let phone = phone();
        let secret = SecretKey::from_slice(&bytes::<32>("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).unwrap();
        let ours = secret.public_key().to_encoded_point(false);
        assert_eq!(
            URL_SAFE_NO_PAD.encode(ours.as_bytes()),
            "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
        );
        let shared = shared(&secret, &phone.public);
        assert_eq!(URL_SAFE_NO_PAD.encode(shared), "kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs");
        assert_eq!(shared, super::shared(&phones_secret(), &secret.public_key()), "both sides agree");
        let salt = bytes::<16>("DGv6ra1nlYgDCS1FRnbzlw");
        let (key, nonce) = derive(&shared, &phone.auth, &phone.public, ours.as_bytes(), &salt);
        assert_eq!(URL_SAFE_NO_PAD.encode(&key.as_ref()[..16]), "oIhVW04MRdy2XN9CiKLxTg");
        assert_eq!(URL_SAFE_NO_PAD.encode(&nonce.as_ref()[..12]), "4h_95klXJ5E_qnoN");
        let text = b"When I grow up, I want to be a watermelon";
        let body = seal(&phone, &secret, salt, text, 0).unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(&body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK\
             6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
        assert_eq!(open(&body), text);
    }

    #[test]
    fn every_message_has_keys_of_its_own_and_one_length_p137() {
        let phone = phone();
        let (one, other) = (phone.encrypt(b"wake").unwrap(), phone.encrypt(b"wake").unwrap());
        assert_ne!(one[..16], other[..16], "salt");
        assert_ne!(one[21..86], other[21..86], "key");
        assert_eq!(one.len(), phone.encrypt(b"a longer text").unwrap().len());
        assert_eq!(one.len(), 16 + 4 + 1 + 65 + PADDED + 16);
        assert!(one.len() <= 4096);
        assert_eq!(open(&one), b"wake");
        assert!(phone.encrypt(&[b'x'; PADDED]).is_none(), "no room for the delimiter");
    }

    #[test]
    fn keys_that_are_none_are_refused_p137() {
        let point = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let off_curve = point.replace("iw4", "ixA");
        for (p256dh, auth) in [
            (off_curve.as_str(), "BTBZMqHH6r4Tts7J_aSIgg"),
            (point, "BTBZMqHH6r4Tts7J"),
            ("", "BTBZMqHH6r4Tts7J_aSIgg"),
            ("AA", "BTBZMqHH6r4Tts7J_aSIgg"),
        ] {
            assert!(PhoneKeys::parse(&Entry { p256dh: p256dh.into(), auth: auth.into() }).is_none(), "{p256dh} {auth}");
        }
    }
}
