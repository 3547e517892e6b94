//! Secrets with a life time that all nodes share: a token that one mints and the others take, keys that change, a mark that
//! something was used. Whoever comes first decides; everybody else is told what he left.
//!
//! How long a secret lives is counted by Redis alone. A node says how long a new one is to live and is told how much of that is
//! left: two nodes whose clocks differ come to the same end.
//!
//! Redis sees a keyed hash of the name, and the value sealed under a key of that name's own (HKDF-SHA256), so that the number
//! of names is not bounded by what random nonces can bear. A value that was copied to another name does not open.
//!
//! ```text
//! octet 0        1, the format
//! octets 1-4     identifier of the sealing key
//! octets 5-16    nonce
//! the rest       AES-256-GCM of the value
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use crate::error::CommandError;
use crate::functions::Function;
use crate::gateway::Request;
use crate::keys::shard_slot;
use crate::reply::Shape;
use crate::seal::{Keyring, OpenError, SealFailed};
use crate::store::RedisStore;

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 4 + NONCE_LEN;
/// Octets of a hashed name.
const NAME: usize = 16;

/// What a secret is called. `Debug` shows what it is for and nothing of the name itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretName {
    purpose: &'static str,
    name: Vec<u8>,
    shard: Option<u16>,
}

impl SecretName {
    /// A secret for a purpose; which server of a Redis Cluster has it follows from its name.
    pub fn new(purpose: &'static str, name: impl Into<Vec<u8>>) -> Self {
        SecretName { purpose, name: name.into(), shard: None }
    }

    /// The same, kept with what belongs to a shard.
    #[must_use]
    pub fn of_shard(self, shard: u16) -> Self {
        SecretName { shard: Some(shard), ..self }
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretName").field("purpose", &self.purpose).field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// A secret as Redis has it. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What was left there.
    pub value: Zeroizing<Vec<u8>>,
    /// How long it still lives, by the clock of Redis, when Redis answered. Counted from the moment of asking it errs on the
    /// safe side.
    pub remaining: Duration,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// The secret of this name, if there is one.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where it does not open.
    pub async fn secret(&self, name: &SecretName, deadline: Instant) -> Result<Option<Secret>, CommandError> {
        self.share(name, Vec::new(), Duration::ZERO, Duration::ZERO, deadline).await
    }

    /// Leaves a secret that is to live for `life`, unless there is one that still lives for longer than `replaced_below` (zero:
    /// any). Returns the one that is there afterwards: the caller's, or that of somebody who was faster. Asking again after a
    /// lost answer changes nothing.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where the one that is there does not open.
    pub async fn keep_secret(
        &self,
        name: &SecretName,
        value: &[u8],
        life: Duration,
        replaced_below: Duration,
        deadline: Instant,
    ) -> Result<Secret, CommandError> {
        let hashed = self.shared.secrets.name(name);
        let sealed = self.shared.secrets.seal(&hashed, value).map_err(|SealFailed| CommandError::Unavailable)?;
        let kept = self.share(name, sealed, life, replaced_below, deadline).await?;
        kept.ok_or(CommandError::Answer)
    }

    /// Leaves a note for the next owner of a shard, in place of the last.
    ///
    /// # Errors
    /// [`CommandError`]; the note may be there all the same.
    pub async fn note(&self, shard: u16, note: &[u8], deadline: Instant) -> Result<(), CommandError> {
        // Whatever the last one's remaining life, it is replaced.
        self.keep_secret(&spent(shard), note, NOTED, Duration::from_millis(u64::MAX), deadline).await.map(drop)
    }

    /// The note that the last owner of a shard left, and how long ago.
    ///
    /// # Errors
    /// [`CommandError`], `Record` where it does not open.
    pub async fn noted(&self, shard: u16, deadline: Instant) -> Result<Option<(Vec<u8>, Duration)>, CommandError> {
        let found = self.secret(&spent(shard), deadline).await?;
        Ok(found.map(|note| (note.value.to_vec(), NOTED.saturating_sub(note.remaining))))
    }

    async fn share(
        &self,
        name: &SecretName,
        sealed: Vec<u8>,
        life: Duration,
        replaced_below: Duration,
        deadline: Instant,
    ) -> Result<Option<Secret>, CommandError> {
        let (gateway, secrets) = (&self.shared.gateway, &self.shared.secrets);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let hashed = secrets.name(name);
        let shard = name.shard.unwrap_or_else(|| u16::from_be_bytes([hashed[0], hashed[1]]) % self.shards());
        let key = gateway.keys.secret(shard, name.purpose, &hashed);
        let mut cmd = gateway.call(Function::Share, &[&key]);
        cmd.arg(sealed).arg(millis(life).max(1)).arg(millis(replaced_below));
        let answer = gateway.ask(Request::new(shard_slot(shard), cmd), deadline).await?;
        let mut parts = answer.array()?.into_iter();
        let Some(blob) = parts.next() else { return Ok(None) };
        let remaining = Duration::from_millis(parts.next().number()?);
        Ok(Some(Secret { value: secrets.open(&hashed, blob.octets()?)?, remaining }))
    }
}

/// How long a note of what was spent is worth something: then the longest budget is full again.
const NOTED: Duration = Duration::from_secs(3600);

fn spent(shard: u16) -> SecretName {
    SecretName::new("spent", shard.to_be_bytes()).of_shard(shard)
}

/// Names and seals for one cluster.
pub(crate) struct Secrets {
    cluster: String,
    names: hmac::Key,
    keys: Vec<(u32, hkdf::Prk)>,
    random: SystemRandom,
}

impl Secrets {
    pub(crate) fn new(cluster: &str, keyring: &Keyring) -> Self {
        let names = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, keyring.naming()), b"reveille shared name 1");
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"reveille shared seal 1");
        Secrets {
            cluster: cluster.to_owned(),
            names: hmac::Key::new(hmac::HMAC_SHA256, names.as_ref()),
            keys: keyring.sealing().map(|(id, key)| (id, salt.extract(key))).collect(),
            random: SystemRandom::new(),
        }
    }

    fn name(&self, name: &SecretName) -> [u8; NAME] {
        let mut hash = hmac::Context::with_key(&self.names);
        // A purpose holds no zero; so no two pairs read alike.
        hash.update(name.purpose.as_bytes());
        hash.update(b"\0");
        hash.update(&name.name);
        let mut hashed = [0; NAME];
        hashed.copy_from_slice(&hash.sign().as_ref()[..NAME]);
        hashed
    }

    fn key(&self, master: &hkdf::Prk, name: &[u8]) -> Result<LessSafeKey, SealFailed> {
        let info = [self.cluster.as_bytes(), b"\0", name];
        let derived = master.expand(&info, &AES_256_GCM).map_err(|_| SealFailed)?;
        Ok(LessSafeKey::new(UnboundKey::from(derived)))
    }

    fn seal(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>, SealFailed> {
        let (id, master) = self.keys.first().ok_or(SealFailed)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| SealFailed)?;
        let mut plain = Zeroizing::new(value.to_vec());
        let tag = self
            .key(master, name)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from([FORMAT]), &mut plain)
            .map_err(|_| SealFailed)?;
        Ok([&[FORMAT][..], &id.to_be_bytes(), &nonce, &plain, tag.as_ref()].concat())
    }

    fn open(&self, name: &[u8], mut blob: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        match blob.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(OpenError::Format(other)),
            None => return Err(OpenError::Damaged),
        }
        let Some((head, sealed)) = blob.split_at_mut_checked(HEAD) else { return Err(OpenError::Damaged) };
        let (mut id, mut nonce) = ([0; 4], [0; NONCE_LEN]);
        id.copy_from_slice(&head[1..5]);
        nonce.copy_from_slice(&head[5..]);
        let id = u32::from_be_bytes(id);
        let (_, master) = self.keys.iter().find(|(known, _)| *known == id).ok_or(OpenError::Key(id))?;
        let key = self.key(master, name).map_err(|SealFailed| OpenError::Damaged)?;
        let plain = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from([FORMAT]), sealed)
            .map_err(|_| OpenError::Damaged)?;
        let opened = Zeroizing::new(plain.to_vec());
        // What was opened in place must not stay behind.
        drop(Zeroizing::new(blob));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(cluster: &str, keys: &[(u32, u8)]) -> Secrets {
        let keys = keys.iter().map(|(id, fill)| (*id, [*fill; 32])).collect();
        Secrets::new(cluster, &Keyring::new([7; 32], keys).unwrap())
    }

    #[test]
    fn a_secret_opens_under_its_own_name_only() {
        let (ours, others) = (secrets("lab", &[(1, 1)]), secrets("field", &[(1, 1)]));
        let (one, two) = (ours.name(&SecretName::new("a", "b")), ours.name(&SecretName::new("ab", "")));
        assert_ne!(one, two);
        let blob = ours.seal(&one, b"token").unwrap();
        assert_eq!(ours.open(&one, blob.clone()).unwrap().as_slice(), b"token");
        assert_eq!(ours.open(&two, blob.clone()).err(), Some(OpenError::Damaged), "another name");
        assert_eq!(others.open(&one, blob.clone()).err(), Some(OpenError::Damaged), "another cluster");
        for at in 5..blob.len() {
            let mut altered = blob.clone();
            altered[at] ^= 1;
            assert_eq!(ours.open(&one, altered).err(), Some(OpenError::Damaged), "octet {at}");
        }
        for length in 0..HEAD {
            assert_eq!(ours.open(&one, blob[..length].to_vec()).err(), Some(OpenError::Damaged));
        }
    }

    #[test]
    fn keys_are_rotated_without_losing_what_was_sealed() {
        let (before, between) = (secrets("lab", &[(1, 1)]), secrets("lab", &[(2, 2), (1, 1)]));
        let after = secrets("lab", &[(2, 2)]);
        let name = before.name(&SecretName::new("a", "b"));
        assert_eq!(name, after.name(&SecretName::new("a", "b")));
        let old = before.seal(&name, b"old").unwrap();
        assert_eq!(between.open(&name, old.clone()).unwrap().as_slice(), b"old");
        assert_eq!(after.open(&name, old).err(), Some(OpenError::Key(1)));
        assert_eq!(after.open(&name, between.seal(&name, b"new").unwrap()).unwrap().as_slice(), b"new");
    }

    #[test]
    fn debug_shows_neither_name_nor_value() {
        let secret = Secret { value: Zeroizing::new(b"token".to_vec()), remaining: Duration::from_secs(1) };
        assert_eq!(format!("{secret:?}"), "Secret { remaining: 1s, .. }");
        let name = format!("{:?}", SecretName::new("nonce", "abcdef").of_shard(3));
        assert_eq!(name, "SecretName { purpose: \"nonce\", shard: Some(3), .. }");
    }
}
