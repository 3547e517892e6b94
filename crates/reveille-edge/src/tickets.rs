//! TLS session tickets whose keys come from outside, so that a session begun at one edge is resumed at another (S-170).
//!
//! A ticket is the key's name (16 octets), a random nonce (12) and the session under AES-256-GCM; the name is authenticated with
//! it. The newest key seals, every one that has not ended opens. Without a key there are no tickets, and every handshake is whole.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;
use tokio::time::Instant;

/// Octets of a key's name.
const NAME: usize = 16;
const HEAD: usize = NAME + NONCE_LEN;
const TAG: usize = 16;
/// What a client is told at most: the time for which tickets are good whenever in its key's turn they were made.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// A key of tickets. `Debug` shows neither name nor key.
pub struct TicketKey {
    name: [u8; NAME],
    key: LessSafeKey,
    until: Instant,
}

impl TicketKey {
    /// A key that seals and opens until `until`, and is known to other edges by its name.
    pub fn new(name: [u8; NAME], secret: &[u8; 32], until: Instant) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?);
        Some(Self { name, key, until })
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

/// The keys in use; shared by all public listeners, and with whoever renews them.
#[derive(Debug)]
pub struct TicketKeys {
    /// The newest first.
    keys: ArcSwap<Vec<TicketKey>>,
    random: SystemRandom,
}

impl TicketKeys {
    /// Without any key yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { keys: ArcSwap::default(), random: SystemRandom::new() })
    }

    /// Takes these keys into use, the newest first; all others are destroyed once nobody seals or opens with them any more.
    pub fn set(&self, keys: Vec<TicketKey>) {
        self.keys.store(Arc::new(keys));
    }

    /// Destroys all keys if every one of them has ended. (One that has ended beside others is of no use already, and goes when
    /// they are renewed.)
    pub fn expire(&self) {
        let now = Instant::now();
        if self.keys.load().iter().all(|key| key.until <= now) {
            self.set(Vec::new());
        }
    }

    fn with_newest<T>(&self, use_it: impl FnOnce(&TicketKey, Instant) -> Option<T>) -> Option<T> {
        let (keys, now) = (self.keys.load(), Instant::now());
        keys.first().filter(|key| now < key.until).and_then(|key| use_it(key, now))
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        self.with_newest(|_, _| Some(())).is_some()
    }

    fn lifetime(&self) -> u32 {
        let left = self.with_newest(|key, now| Some((key.until - now).min(LONGEST).as_secs()));
        u32::try_from(left.unwrap_or_default()).unwrap_or_default()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.with_newest(|key, _| {
            let mut nonce = [0; NONCE_LEN];
            self.random.fill(&mut nonce).ok()?;
            let mut ticket = Vec::with_capacity(HEAD + plain.len() + TAG);
            ticket.extend_from_slice(&key.name);
            ticket.extend_from_slice(&nonce);
            ticket.extend_from_slice(plain);
            let (_, sealed) = ticket.split_at_mut_checked(HEAD)?;
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = key.key.seal_in_place_separate_tag(nonce, Aad::from(key.name), sealed).ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (keys, now) = (self.keys.load(), Instant::now());
        // A name is no secret: whoever listens sees it in every ticket.
        let key = keys.iter().find(|key| key.name == *name && now < key.until)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.key.open_in_place(nonce, Aad::from(key.name), &mut sealed).ok()?.len();
        sealed.truncate(plain);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8, secret: u8, life: Duration) -> TicketKey {
        TicketKey::new([name; NAME], &[secret; 32], Instant::now() + life).unwrap()
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test(start_paused = true)]
    async fn s170_a_ticket_of_one_edge_opens_at_another_until_its_key_ends() {
        let (one, two) = (TicketKeys::new(), TicketKeys::new());
        assert!(!one.enabled() && one.encrypt(b"session").is_none());
        one.set(vec![key(1, 1, DAY)]);
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(two.decrypt(&ticket), None);
        // The other edge has had the next key already.
        two.set(vec![key(2, 2, DAY), key(1, 1, DAY / 2)]);
        assert_eq!(two.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(two.encrypt(b"session").unwrap()[..NAME], ticket[..NAME], "the newest seals");
        tokio::time::advance(DAY / 2).await;
        assert_eq!(two.decrypt(&ticket), None, "ended, though nobody took it away");
        assert_eq!((one.enabled(), one.lifetime()), (true, 12 * 3600));
        tokio::time::advance(DAY / 4).await;
        assert_eq!(one.lifetime(), 6 * 3600, "no longer than the key lives");
        tokio::time::advance(DAY / 4).await;
        assert!(!one.enabled() && one.encrypt(b"session").is_none());
        one.expire();
        assert!(one.keys.load().is_empty(), "S-170: destroyed");
        two.expire();
        assert!(two.keys.load().is_empty());
    }

    #[tokio::test]
    async fn s170_nothing_altered_opens() {
        let keys = TicketKeys::new();
        keys.set(vec![key(1, 1, DAY), key(2, 2, DAY)]);
        let ticket = keys.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[at] ^= 3; // which makes the name of the one key that of the other
            assert_eq!(keys.decrypt(&altered), None, "octet {at}");
        }
        let renamed = [&[2; NAME][..], &ticket[NAME..]].concat();
        assert_eq!(keys.decrypt(&renamed), None);
        for length in 0..ticket.len() {
            assert_eq!(keys.decrypt(&ticket[..length]), None);
        }
        assert!(!format!("{keys:?}").contains('1'), "{keys:?}");
    }
}
