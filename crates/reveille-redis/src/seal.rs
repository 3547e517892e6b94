//! Records as Redis sees them (P-109): sealed under keys that Redis never has, filed under a keyed hash of their address.
//!
//! Format 1, numbers in network order:
//!
//! ```text
//! octet 0        1, the format
//! octets 1-8     version of the record, readable by the server-side functions
//! octets 9-12    identifier of the sealing key
//! octets 13-24   nonce
//! the rest       AES-256-GCM of: length of the address (2 octets), address, 1 or 0 for present or deleted, value
//! ```
//!
//! The additional data is the format, the cluster, the shard, the field and the version: a blob that was moved to another
//! place, or made to look newer, does not open. Each shard seals under a key of its own, derived by HKDF-SHA256, so that random
//! nonces stay safe for 2^32 writes of one *shard* and not of the cluster.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;
use reveille_registrar::aor::Aor;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 8 + 4 + NONCE_LEN;
const TAG: usize = 16;
/// Octets of the name under which a record is filed.
pub(crate) const FIELD: usize = 16;

/// The name under which a record is filed: a keyed hash of its address.
pub(crate) type Field = [u8; FIELD];

/// The keys of a cluster. `Debug` shows identifiers alone.
#[derive(Clone)]
pub struct Keyring {
    naming: Zeroizing<[u8; 32]>,
    sealing: Vec<(u32, Zeroizing<[u8; 32]>)>,
}

impl Keyring {
    /// `naming` turns addresses into field names and never changes in the life of a cluster. The first of `sealing` seals,
    /// all open: to rotate, every node first learns the new key in second place, then has it first, and when every record has
    /// been written anew the old one goes.
    ///
    /// # Errors
    /// [`KeyringError`] where there is no sealing key, or one identifier has two.
    pub fn new(naming: [u8; 32], sealing: Vec<(u32, [u8; 32])>) -> Result<Self, KeyringError> {
        if sealing.is_empty() {
            return Err(KeyringError::Empty);
        }
        for (at, (id, _)) in sealing.iter().enumerate() {
            if sealing.iter().take(at).any(|(other, _)| other == id) {
                return Err(KeyringError::Twice(*id));
            }
        }
        let sealing = sealing.into_iter().map(|(id, key)| (id, Zeroizing::new(key))).collect();
        Ok(Keyring { naming: Zeroizing::new(naming), sealing })
    }

    pub(crate) fn naming(&self) -> &[u8] {
        &*self.naming
    }

    /// Identifier and key; the first seals.
    pub(crate) fn sealing(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.sealing.iter().map(|(id, key)| (*id, &key[..]))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sealing.iter().map(|(id, _)| id)).finish()
    }
}

/// Keys that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// No key to seal with.
    #[error("no sealing key is given")]
    Empty,
    /// One identifier for two keys.
    #[error("sealing key {0} is given twice")]
    Twice(u32),
}

/// A stored value does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version of this software, or by something else.
    #[error("its format, {0}, is not known here")]
    Format(u8),
    /// Sealed under a key that is not on the ring.
    #[error("its key, {0}, is not on the ring")]
    Key(u32),
    /// Cut short, altered, or moved from another place.
    #[error("it is damaged, or belongs elsewhere")]
    Damaged,
}

/// An opened value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) version: u64,
    pub(crate) aor: Aor,
    /// `None`: deleted.
    pub(crate) value: Option<Bytes>,
}

/// Seals and opens for one cluster.
pub(crate) struct Sealer {
    cluster: String,
    field: hmac::Key,
    keys: Vec<SealingKey>,
    random: SystemRandom,
}

/// One key of the ring and what was derived of it, by shard.
struct SealingKey {
    id: u32,
    master: hkdf::Prk,
    shards: Box<[OnceLock<LessSafeKey>]>,
}

/// The version that a stored value bears in the clear. Every format has it in these octets: the server-side functions read it too.
pub(crate) fn version_of(blob: &[u8]) -> u64 {
    blob.get(1..9).and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Sealing failed: the system gave no randomness, or the value is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealFailed;

impl Sealer {
    pub(crate) fn new(cluster: &str, shards: u16, keyring: &Keyring) -> Self {
        let field = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*keyring.naming), b"reveille record field 1");
        let keys = keyring.sealing.iter().map(|(id, key)| SealingKey {
            id: *id,
            master: hkdf::Salt::new(hkdf::HKDF_SHA256, b"reveille record seal 1").extract(&**key),
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
        });
        Sealer {
            cluster: cluster.to_owned(),
            field: hmac::Key::new(hmac::HMAC_SHA256, field.as_ref()),
            keys: keys.collect(),
            random: SystemRandom::new(),
        }
    }

    /// Where the record of an address is filed.
    pub(crate) fn field(&self, aor: &Aor) -> Field {
        let mut field = [0; FIELD];
        let hash = hmac::sign(&self.field, aor.as_str().as_bytes());
        field.copy_from_slice(&hash.as_ref()[..FIELD]);
        field
    }

    /// Seals a value for its place.
    pub(crate) fn seal(
        &self,
        shard: u16,
        field: &[u8],
        version: u64,
        aor: &Aor,
        value: Option<&[u8]>,
    ) -> Result<Vec<u8>, SealFailed> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealFailed)?;
        self.seal_with(nonce, shard, field, version, aor, value)
    }

    fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        shard: u16,
        field: &[u8],
        version: u64,
        aor: &Aor,
        value: Option<&[u8]>,
    ) -> Result<Vec<u8>, SealFailed> {
        let key = self.keys.first().ok_or(SealFailed)?;
        let aor = aor.as_str().as_bytes();
        let length = u16::try_from(aor.len()).map_err(|_| SealFailed)?;
        let mut blob = Vec::with_capacity(HEAD + 3 + aor.len() + value.map_or(0, <[u8]>::len) + TAG);
        blob.push(FORMAT);
        blob.extend_from_slice(&version.to_be_bytes());
        blob.extend_from_slice(&key.id.to_be_bytes());
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(&length.to_be_bytes());
        blob.extend_from_slice(aor);
        blob.push(u8::from(value.is_some()));
        blob.extend_from_slice(value.unwrap_or_default());
        let (_, plain) = blob.split_at_mut(HEAD);
        let tag = self
            .shard_key(key, shard)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.place(shard, field, version)),
                plain,
            )
            .map_err(|_| SealFailed)?;
        blob.extend_from_slice(tag.as_ref());
        Ok(blob)
    }

    /// Opens a value that was found at a place.
    ///
    /// # Errors
    /// [`OpenError`] says why it does not open.
    pub(crate) fn open(&self, shard: u16, field: &[u8], mut blob: Vec<u8>) -> Result<Opened, OpenError> {
        match blob.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(OpenError::Format(other)),
            None => return Err(OpenError::Damaged),
        }
        let Some((head, sealed)) = blob.split_at_mut_checked(HEAD) else { return Err(OpenError::Damaged) };
        let (mut version, mut id, mut nonce) = ([0; 8], [0; 4], [0; NONCE_LEN]);
        version.copy_from_slice(&head[1..9]);
        id.copy_from_slice(&head[9..13]);
        nonce.copy_from_slice(&head[13..]);
        let (version, id) = (u64::from_be_bytes(version), u32::from_be_bytes(id));
        let key = self.keys.iter().find(|key| key.id == id).ok_or(OpenError::Key(id))?;
        let plain = self
            .shard_key(key, shard)
            .map_err(|SealFailed| OpenError::Damaged)?
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(self.place(shard, field, version)), sealed)
            .map_err(|_| OpenError::Damaged)?;
        let (length, rest) = plain.split_first_chunk::<2>().ok_or(OpenError::Damaged)?;
        let (aor, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(OpenError::Damaged)?;
        let aor = std::str::from_utf8(aor).map_err(|_| OpenError::Damaged)?;
        let value = match rest.split_first() {
            Some((1, value)) => Some(Bytes::copy_from_slice(value)),
            Some((0, [])) => None,
            _ => return Err(OpenError::Damaged),
        };
        Ok(Opened { version, aor: Aor::from_canonical(aor), value })
    }

    /// What a blob is bound to.
    fn place(&self, shard: u16, field: &[u8], version: u64) -> Vec<u8> {
        let mut place = Vec::with_capacity(self.cluster.len() + field.len() + 16);
        place.push(FORMAT);
        for part in [self.cluster.as_bytes(), field] {
            // Neither is longer than a few hundred octets; the lengths keep them apart.
            place.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            place.extend_from_slice(part);
        }
        place.extend_from_slice(&shard.to_be_bytes());
        place.extend_from_slice(&version.to_be_bytes());
        place
    }

    fn shard_key<'a>(&self, key: &'a SealingKey, shard: u16) -> Result<&'a LessSafeKey, SealFailed> {
        let cell = key.shards.get(usize::from(shard)).ok_or(SealFailed)?;
        if let Some(found) = cell.get() {
            return Ok(found);
        }
        let info = [self.cluster.as_bytes(), b"\0", &shard.to_be_bytes()];
        let derived = key.master.expand(&info, &AES_256_GCM).map_err(|_| SealFailed)?;
        Ok(cell.get_or_init(|| LessSafeKey::new(UnboundKey::from(derived))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &[(u32, u8)]) -> Sealer {
        let keys = keys.iter().map(|(id, fill)| (*id, [*fill; 32])).collect();
        Sealer::new("lab", 16, &Keyring::new([7; 32], keys).unwrap())
    }

    fn alice() -> Aor {
        Aor::from_canonical("alice@example.com")
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let sealer = sealer(&[(1, 1)]);
        let field = sealer.field(&alice());
        let blob = sealer.seal(3, &field, 42, &alice(), Some(b"token")).unwrap();
        let opened = sealer.open(3, &field, blob.clone()).unwrap();
        assert_eq!((opened.version, opened.aor, opened.value.as_deref()), (42, alice(), Some(&b"token"[..])));
        assert_eq!(sealer.open(4, &field, blob.clone()).err(), Some(OpenError::Damaged), "another shard");
        assert_eq!(sealer.open(3, &[0; 16], blob.clone()).err(), Some(OpenError::Damaged), "another field");
        let other = Sealer::new("lab2", 16, &Keyring::new([7; 32], vec![(1, [1; 32])]).unwrap());
        assert_eq!(other.open(3, &field, blob.clone()).err(), Some(OpenError::Damaged), "another cluster");
        for at in 1..blob.len() {
            let mut altered = blob.clone();
            altered[at] ^= 1;
            assert!(sealer.open(3, &field, altered).is_err(), "octet {at} altered");
            assert!(sealer.open(3, &field, blob[..at].to_vec()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_deletion_names_its_address() {
        let sealer = sealer(&[(1, 1)]);
        let blob = sealer.seal(3, b"f", 1, &alice(), None).unwrap();
        let opened = sealer.open(3, b"f", blob).unwrap();
        assert!(opened.aor == alice() && opened.value.is_none());
    }

    /// The first key seals, all open; a key that went leaves a clear message.
    #[test]
    fn keys_rotate() {
        let (old, both, new) = (sealer(&[(1, 1)]), sealer(&[(2, 2), (1, 1)]), sealer(&[(2, 2)]));
        let before = old.seal(0, b"f", 1, &alice(), Some(b"x")).unwrap();
        let after = both.seal(0, b"f", 1, &alice(), Some(b"x")).unwrap();
        assert!(both.open(0, b"f", before.clone()).is_ok() && new.open(0, b"f", after).is_ok());
        assert_eq!(new.open(0, b"f", before).err(), Some(OpenError::Key(1)));
        assert_eq!(old.field(&alice()), new.field(&alice()), "field names stay");
        assert!(Keyring::new([0; 32], Vec::new()).is_err());
        assert!(Keyring::new([0; 32], vec![(1, [0; 32]), (1, [1; 32])]).is_err());
    }

    /// Format 1, as it was first written (and reckoned by another implementation): what is stored must stay readable.
    #[test]
    fn format_1_stays_readable() {
        let sealer = sealer(&[(1, 1)]);
        assert_eq!(hex::encode(sealer.field(&alice())), VECTOR_FIELD);
        let field = hex::decode(VECTOR_FIELD).unwrap();
        let made = sealer.seal_with([9; NONCE_LEN], 3, &field, 42, &alice(), Some(b"value")).unwrap();
        assert_eq!(hex::encode(made), VECTOR);
        let opened = sealer.open(3, &field, hex::decode(VECTOR).unwrap()).unwrap();
        assert_eq!((opened.version, opened.aor, opened.value.as_deref()), (42, alice(), Some(&b"value"[..])));
    }

    #[test]
    fn an_unknown_format_is_named() {
        let error = sealer(&[(1, 1)]).open(0, b"f", vec![2; 64]).err().unwrap();
        assert_eq!(error, OpenError::Format(2));
        assert_eq!(error.to_string(), "its format, 2, is not known here");
    }

    const VECTOR_FIELD: &str = "1b4890e9450496bb190d72b35a829448";
    const VECTOR: &str = concat!(
        "01000000000000002a00000001090909090909090909090909",
        "f8c4cea4b87abae7a90296323dce0569f90589ef4f5254120cfc33adaba409169b11d9a7cf0ec077d7"
    );
}
