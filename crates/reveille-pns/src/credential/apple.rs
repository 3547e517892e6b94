//! APNs provider tokens (P-143).
//!
//! Apple counts how often a team's token changes, over all its senders. So time is cut into slots, at instants that follow from
//! team and key alone, a token's `iat` is the start of its slot, and the signature is deterministic: nodes that can't speak with
//! each other make the very same token as long as their clocks agree and Apple refuses none.
//!
//! In a cluster one token is in force, kept where all nodes find it ([`super::cluster`]). What is here is the token in hand, and
//! what a node does by itself when it cannot ask.

use p256::ecdsa::SigningKey;
use parking_lot::Mutex;
use ring::digest;
use serde_json::json;

use super::jwt;
use crate::provider::Authorization;

/// The tokens of one (team, key).
pub(crate) struct ProviderTokens {
    pub(super) team: String,
    pub(super) key_id: String,
    key: SigningKey,
    phase: u64,
    /// Others renew the token as well: they are given a moment to do so.
    is_shared: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Minted>,
    previous: Option<Minted>,
    hold_until: u64,
}

#[derive(Clone)]
struct Minted {
    auth: Authorization,
    /// The `iat` claim, which is also the generation.
    iat: u64,
    renew_at: u64,
}

impl ProviderTokens {
    pub(crate) fn new(team: &str, key_id: &str, key: SigningKey, is_shared: bool) -> Self {
        let hash = digest::digest(&digest::SHA256, format!("{team}/{key_id}").as_bytes());
        let phase = hash.as_ref().iter().take(4).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)) % SLOT;
        Self { team: team.to_owned(), key_id: key_id.to_owned(), key, phase, is_shared, state: Mutex::default() }
    }

    /// The token to send with at `now` (Unix seconds).
    pub(crate) fn authorization(&self, now: u64) -> Option<Authorization> {
        let mut state = self.state.lock();
        let held = now < state.hold_until;
        // Of two clocks that differ nobody knows which is right: the cluster's token is used whoever made it.
        let (grace, skew) = if self.is_shared { (GRACE, LONGEST) } else { (0, SKEW) };
        let usable = |minted: &Minted| now < minted.renew_at + grace || (held && now < minted.iat + LONGEST);
        match &state.current {
            Some(minted) if usable(minted) && minted.iat <= now + skew => Some(minted.auth.clone()),
            // In a cluster the next of the chain that all its nodes are on.
            Some(minted) if self.is_shared && minted.iat <= now => {
                let iat = minted.iat + (now - minted.iat) / SLOT * SLOT;
                self.mint(&mut state, iat)
            }
            _ => self.mint(&mut state, self.slot_start(now)),
        }
    }

    /// Apple called the token of `generation` expired: whether there is now another, the 20-minute floor allowing.
    pub(crate) fn expired(&self, generation: u64, now: u64) -> bool {
        let mut state = self.state.lock();
        let Some(current) = &state.current else { return true };
        if current.iat != generation {
            return true;
        }
        let age = now.saturating_sub(current.iat);
        if age < FLOOR || now < state.hold_until {
            return false;
        }
        // Steps from the present token, so that nodes which come to this at about the same time agree again.
        let iat = current.iat + age / FLOOR * FLOOR;
        self.mint(&mut state, iat).is_some()
    }

    /// `TooManyProviderTokenUpdates`: no new token for a while, and back to the one before where that is still good.
    pub(crate) fn hold(&self, now: u64) {
        let mut state = self.state.lock();
        state.hold_until = now + FLOOR;
        if let Some(previous) = state.previous.take_if(|previous| now + SKEW < previous.iat + LONGEST) {
            state.current = Some(previous);
        }
    }

    /// Seconds since the token in use was issued.
    pub(crate) fn age(&self, now: u64) -> Option<u64> {
        self.state.lock().current.as_ref().map(|minted| now.saturating_sub(minted.iat))
    }

    /// The `iat` of the token in use.
    pub(super) fn in_hand(&self) -> Option<u64> {
        self.state.lock().current.as_ref().map(|minted| minted.iat)
    }

    /// Whether the token of this `iat` may be replaced by now.
    pub(super) fn may_replace(&self, iat: u64, now: u64) -> bool {
        now.saturating_sub(iat) >= FLOOR && now >= self.state.lock().hold_until
    }

    /// Takes the cluster's token into use, unless there is to be no other for a while.
    pub(super) fn take(&self, auth: Authorization, now: u64) {
        let mut state = self.state.lock();
        let known = state.current.as_ref().is_some_and(|current| current.auth.value == auth.value);
        let held = now < state.hold_until && state.current.is_some();
        if !known && !held {
            let iat = auth.generation;
            self.put(&mut state, auth, iat);
        }
    }

    pub(super) fn public_key(&self) -> Box<[u8]> {
        self.key.verifying_key().to_encoded_point(false).to_bytes()
    }

    fn slot_start(&self, now: u64) -> u64 {
        match now.checked_sub(self.phase) {
            Some(since) => since / SLOT * SLOT + self.phase,
            None => now,
        }
    }

    fn mint(&self, state: &mut State, iat: u64) -> Option<Authorization> {
        let auth = Authorization::new(&format!("bearer {}", self.sign(iat)), iat)?;
        self.put(state, auth.clone(), iat);
        Some(auth)
    }

    fn put(&self, state: &mut State, auth: Authorization, iat: u64) {
        state.previous = state.current.replace(Minted { auth, iat, renew_at: self.renew_at(iat) });
    }

    /// The token itself.
    pub(super) fn sign(&self, iat: u64) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        jwt::es256(&self.key, &header, &json!({ "iss": self.team, "iat": iat }))
    }

    /// When the token of this `iat` is to be replaced: with its slot, unless that were too soon. In a cluster the token's own age
    /// decides.
    fn renew_at(&self, iat: u64) -> u64 {
        if self.is_shared {
            return iat + SLOT;
        }
        let next_slot = self.slot_start(iat) + SLOT;
        if next_slot >= iat + FLOOR { next_slot } else { iat + SLOT }
    }
}

/// A token's life: 45 minutes, of the 60 Apple allows.
pub(super) const SLOT: u64 = 45 * 60;
/// No token is replaced sooner.
pub(super) const FLOOR: u64 = 20 * 60;
/// Older tokens are refused.
pub(super) const LONGEST: u64 = 60 * 60;
const SKEW: u64 = 60;
/// How long a token that is due is used on for want of the cluster's next one: a few turns of maintenance.
const GRACE: u64 = 120;

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use p256::pkcs8::{EncodePublicKey, LineEnding};
    use serde_json::Value;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn tokens(key: &SigningKey) -> ProviderTokens {
        ProviderTokens::new("9TEAM42XYZ", "ABC123DEFG", key.clone(), false)
    }

    fn key() -> SigningKey {
        SigningKey::from_slice(&[7; 32]).unwrap()
    }

    fn text(auth: &Authorization) -> String {
        auth.value.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_token_has_the_shape_apple_wants_p143() {
        let auth = tokens(&key()).authorization(NOW).unwrap();
        assert!(auth.value.is_sensitive());
        let pem = key().verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        let token = text(&auth);
        let decoded = decode::<Value>(
            token.strip_prefix("bearer ").unwrap(),
            &DecodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
            &validation,
        )
        .unwrap();
        assert_eq!(decoded.header.kid.as_deref(), Some("ABC123DEFG"));
        let claims = decoded.claims.as_object().unwrap();
        assert_eq!(claims.keys().collect::<Vec<_>>(), ["iat", "iss"], "no exp, no sub");
        assert_eq!(claims["iss"], "9TEAM42XYZ");
        let iat = claims["iat"].as_u64().unwrap();
        assert!(iat <= NOW && NOW - iat < SLOT);
    }

    #[test]
    fn every_node_makes_the_same_token_and_changes_it_at_the_same_time_p143() {
        let (one, other) = (tokens(&key()), tokens(&key()));
        let first = text(&one.authorization(NOW).unwrap());
        let mut changes = 0;
        let mut last = first;
        for minute in 0..180 {
            let now = NOW + minute * 60;
            let token = text(&one.authorization(now).unwrap());
            assert_eq!(token, text(&other.authorization(now).unwrap()));
            assert!(one.age(now).unwrap() < SLOT);
            if token != last {
                changes += 1;
                last = token;
            }
        }
        assert_eq!(changes, 4, "three hours are four slots of 45 minutes");
    }

    #[test]
    fn an_expired_token_is_renewed_only_past_the_floor_p153() {
        let tokens = tokens(&key());
        let start = tokens.slot_start(NOW) + SLOT;
        let auth = tokens.authorization(start).unwrap();
        assert!(!tokens.expired(auth.generation, start + FLOOR - 1));
        assert!(tokens.expired(auth.generation, start + FLOOR));
        let renewed = tokens.authorization(start + FLOOR).unwrap();
        assert_eq!(renewed.generation, start + FLOOR);
        assert!(tokens.expired(auth.generation, start + FLOOR), "somebody else renewed it already");
        assert!(!tokens.expired(renewed.generation, start + FLOOR + 1));
        let next = tokens.authorization(start + SLOT).unwrap();
        assert!(next.generation - renewed.generation >= FLOOR);
    }

    #[test]
    fn too_many_updates_brings_the_old_token_back_p153() {
        let tokens = tokens(&key());
        let start = tokens.slot_start(NOW);
        let old = tokens.authorization(start).unwrap();
        let new = tokens.authorization(start + SLOT).unwrap();
        assert_ne!(old.generation, new.generation);
        tokens.hold(start + SLOT + 1);
        assert_eq!(tokens.authorization(start + SLOT + 2).unwrap().generation, old.generation);
        assert!(!tokens.expired(old.generation, start + SLOT + 3), "no minting while held");
        let later = tokens.authorization(start + SLOT + 1 + FLOOR).unwrap();
        assert_eq!(later.generation, new.generation);
    }
}
