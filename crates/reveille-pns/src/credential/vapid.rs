//! VAPID: who we are toward a Web Push service (RFC 8292; P-131, P-132).

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::SigningKey;
use parking_lot::Mutex;
use ring::digest;
use serde_json::json;

use super::jwt;
use crate::provider::Authorization;

/// One VAPID key and the tokens signed with it, by origin.
pub(crate) struct Vapid {
    key: SigningKey,
    subject: String,
    public: String,
    id: u64,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    by_origin: HashMap<String, Minted>,
    generation: u64,
}

struct Minted {
    auth: Authorization,
    at: u64,
}

impl Vapid {
    pub(crate) fn new(key: SigningKey, subject: &str) -> Self {
        let public = URL_SAFE_NO_PAD.encode(key.verifying_key().to_encoded_point(false).as_bytes());
        let hash = digest::digest(&digest::SHA256, public.as_bytes());
        let id = hash.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
        Self { key, subject: subject.to_owned(), public, id, cache: Mutex::default() }
    }

    /// Tells one key from another; the same wherever the key is.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The contact that tokens name.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The public key, as `k` and `sip.vapid` have it (P-026).
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// The `authorization` for an origin, cached and reissued at half life. `now` in Unix seconds.
    pub(crate) fn authorization(&self, origin: &str, now: u64) -> Option<Authorization> {
        let mut cache = self.cache.lock();
        if let Some(minted) = cache.by_origin.get(origin)
            && (minted.at..minted.at + LIFE / 2).contains(&now)
        {
            return Some(minted.auth.clone());
        }
        if cache.by_origin.len() >= MAX_ORIGINS {
            cache.by_origin.retain(|_, minted| (minted.at..minted.at + LIFE / 2).contains(&now));
        }
        if cache.by_origin.len() >= MAX_ORIGINS {
            cache.by_origin.clear();
        }
        cache.generation += 1;
        let header = json!({ "alg": "ES256", "typ": "JWT" });
        let token = jwt::es256(&self.key, &header, &json!({ "aud": origin, "exp": now + LIFE, "sub": self.subject }));
        let auth = Authorization::new(&format!("vapid t={token}, k={}", self.public), cache.generation)?;
        cache.by_origin.insert(origin.to_owned(), Minted { auth: auth.clone(), at: now });
        Some(auth)
    }

    /// The push service refused the token for this origin: the next one is signed anew, unless that has happened since
    /// `before` (Unix seconds; P-135).
    pub(crate) fn refused(&self, origin: &str, before: u64) {
        let mut cache = self.cache.lock();
        if cache.by_origin.get(origin).is_some_and(|minted| minted.at < before) {
            cache.by_origin.remove(origin);
        }
    }
}

/// Seconds; RFC 8292 §2 allows 24 hours.
const LIFE: u64 = 12 * 3600;
const MAX_ORIGINS: usize = 1024;

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use serde_json::Value;

    use super::*;

    fn vapid() -> Vapid {
        Vapid::new(SigningKey::from_slice(&[9; 32]).unwrap(), "mailto:ops@example.com")
    }

    #[test]
    fn the_token_verifies_under_the_announced_key_p131_p026() {
        let vapid = vapid();
        // jsonwebtoken checks exp against the system's clock.
        let now = reveille_runtime::clock::unix_now();
        let auth = vapid.authorization("https://push.example.net", now).unwrap();
        let text = auth.value.to_str().unwrap();
        let (token, key) = text.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        assert_eq!(key, vapid.public());
        assert_eq!(key.len(), 87);
        assert!(reveille_push::caps::is_tag_value(key));
        let point = URL_SAFE_NO_PAD.decode(key).unwrap();
        assert_eq!((point.len(), point[0]), (65, 4));
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&["https://push.example.net"]);
        let decoded = decode::<Value>(token, &DecodingKey::from_ec_components(&x, &y).unwrap(), &validation).unwrap();
        assert_eq!(decoded.header.typ.as_deref(), Some("JWT"));
        assert_eq!(decoded.claims["sub"], "mailto:ops@example.com");
        assert_eq!(decoded.claims["exp"].as_u64().unwrap(), now + LIFE);
    }

    #[test]
    fn tokens_are_kept_per_origin_until_half_life_p131() {
        let vapid = vapid();
        let now = 1_700_000_000;
        let one = vapid.authorization("https://a.example", now).unwrap().generation;
        assert_eq!(vapid.authorization("https://a.example", now + LIFE / 2 - 1).unwrap().generation, one);
        assert_ne!(vapid.authorization("https://b.example", now).unwrap().generation, one);
        assert_ne!(vapid.authorization("https://a.example", now + LIFE / 2).unwrap().generation, one);
        assert_ne!(vapid.authorization("https://a.example", now - 10).unwrap().generation, one, "the clock went back");
    }

    #[test]
    fn a_refused_token_is_signed_anew_once_p135() {
        let vapid = vapid();
        let now = 1_700_000_000;
        let old = vapid.authorization("https://a.example", now).unwrap().generation;
        vapid.refused("https://a.example", now + 5);
        let new = vapid.authorization("https://a.example", now + 5).unwrap().generation;
        assert_ne!(old, new);
        vapid.refused("https://a.example", now + 5);
        let same = vapid.authorization("https://a.example", now + 6).unwrap().generation;
        assert_eq!(same, new, "pushes refused together sign one new token together");
    }

    #[test]
    fn the_cache_is_bounded() {
        let vapid = vapid();
        for n in 0..MAX_ORIGINS + 10 {
            vapid.authorization(&format!("https://h{n}.example"), 1_700_000_000).unwrap();
        }
        assert!(vapid.cache.lock().by_origin.len() <= MAX_ORIGINS);
    }
}
