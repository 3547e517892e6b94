//! FCM's access tokens: an assertion signed with the service account's key, exchanged for a bearer token (RFC 7523; P-159).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use super::{ServiceAccount, jwt};
use crate::{
    pool::Pool,
    provider::{Authorization, CredentialError, unix},
};

/// The tokens of one service account.
pub(crate) struct AccessTokens {
    account: ServiceAccount,
    endpoint: String,
    cache: Mutex<TokenCache>,
    /// Held while a token is fetched: whoever comes second finds the first one's.
    fetching: tokio::sync::Mutex<()>,
}

impl AccessTokens {
    /// `endpoint` is the configured token URL, which is also the assertion's audience.
    pub(crate) fn new(account: ServiceAccount, endpoint: &str) -> Self {
        Self {
            account,
            endpoint: endpoint.to_owned(),
            cache: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Whether there is a token that is good at `now`.
    pub(crate) fn ready(&self, now: SystemTime) -> bool {
        self.cache.lock().get(now).is_some()
    }

    /// Seconds since the token in use was fetched.
    pub(crate) fn age(&self, now: SystemTime) -> Option<u64> {
        let at = self.cache.lock().token.as_ref()?.fetched;
        Some(now.duration_since(at).unwrap_or_default().as_secs())
    }

    /// The token in use; fetches one where there is none.
    pub(crate) async fn authorization(
        &self,
        pool: &Arc<Pool>,
        now: SystemTime,
    ) -> Result<Authorization, CredentialError> {
        if let Some(auth) = self.cache.lock().get(now) {
            return Ok(auth);
        }
        let _one = self.fetching.lock().await;
        if let Some(auth) = self.cache.lock().get(now) {
            return Ok(auth);
        }
        self.fetch(pool, now).await
    }

    /// FCM refused the token of `generation`: whether there is another one to try.
    pub(crate) async fn refused(&self, pool: &Arc<Pool>, generation: u64, now: SystemTime) -> bool {
        let _one = self.fetching.lock().await;
        {
            let cache = self.cache.lock();
            if cache.generation != generation {
                return cache.get(now).is_some();
            }
        }
        self.fetch(pool, now).await.is_ok()
    }

    /// Renews at 80 % of a token's life; until the new one is there the old one serves.
    pub(crate) async fn maintain(&self, pool: &Arc<Pool>, now: SystemTime) {
        if !self.cache.lock().wants_renewal(now) {
            return;
        }
        let _one = self.fetching.lock().await;
        if self.cache.lock().wants_renewal(now)
            && let Err(error) = self.fetch(pool, now).await
        {
            let left = self.cache.lock().left(now).as_secs();
            tracing::warn!(%error, left_seconds = left, "the FCM access token could not be renewed");
        }
    }

    async fn fetch(&self, pool: &Arc<Pool>, now: SystemTime) -> Result<Authorization, CredentialError> {
        if let Some(error) = self.cache.lock().recent_failure(now) {
            return Err(error);
        }
        let answer = self.exchange(pool, now).await;
        let mut cache = self.cache.lock();
        match answer.and_then(|granted| cache.store(&granted, now).ok_or(CredentialError::Unavailable)) {
            Ok(auth) => Ok(auth),
            Err(error) => {
                cache.failed = Some((now, error));
                Err(error)
            }
        }
    }

    async fn exchange(&self, pool: &Arc<Pool>, now: SystemTime) -> Result<Granted, CredentialError> {
        let assertion = self.assertion(unix(now)).ok_or(CredentialError::Refused)?;
        // Both values are made of characters that need no escaping, but for the colons of the URN.
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request = Request::post(&self.endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))
            .map_err(|_| CredentialError::Unavailable)?;
        let reply = tokio::time::timeout(EXCHANGE_TIMEOUT, pool.send(request, MAX_ANSWER)).await;
        let Ok(Ok(reply)) = reply else { return Err(CredentialError::Unavailable) };
        match reply.status {
            StatusCode::OK => serde_json::from_slice(&reply.body).map_err(|_| CredentialError::Unavailable),
            // RFC 6749 §5.2: invalid_grant, invalid_client, unauthorized_client. Its description is not for the log.
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                tracing::error!(status = reply.status.as_u16(), "the token endpoint refuses the FCM service account");
                Err(CredentialError::Refused)
            }
            _ => Err(CredentialError::Unavailable),
        }
    }

    fn assertion(&self, now: u64) -> Option<String> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.account.key_id });
        let claims = json!({
            "iss": self.account.email,
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": self.endpoint,
            "iat": now,
            "exp": now + 3600,
        });
        jwt::rs256(&self.account.key, &header, &claims)
    }
}

/// The token endpoint's answer (RFC 6749 §5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

/// The token in use and when it wants renewal.
#[derive(Default)]
struct TokenCache {
    token: Option<Token>,
    generation: u64,
    failed: Option<(SystemTime, CredentialError)>,
}

struct Token {
    auth: Authorization,
    fetched: SystemTime,
    renew_at: SystemTime,
    expires: SystemTime,
}

impl TokenCache {
    fn get(&self, now: SystemTime) -> Option<Authorization> {
        self.token.as_ref().filter(|token| now < token.expires).map(|token| token.auth.clone())
    }

    fn wants_renewal(&self, now: SystemTime) -> bool {
        self.token.as_ref().is_none_or(|token| now >= token.renew_at)
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.token.as_ref().and_then(|token| token.expires.duration_since(now).ok()).unwrap_or_default()
    }

    /// A failure so recent that asking again would only add load.
    fn recent_failure(&self, now: SystemTime) -> Option<CredentialError> {
        self.failed.filter(|(at, _)| now >= *at && now < *at + PAUSE).map(|(_, error)| error)
    }

    fn store(&mut self, granted: &Granted, now: SystemTime) -> Option<Authorization> {
        let life = Duration::from_secs(granted.expires_in.unwrap_or(3600).min(24 * 3600));
        let auth = Authorization::new(&format!("Bearer {}", granted.access_token), self.generation + 1)?;
        self.generation += 1;
        self.failed = None;
        // A token that ends while a push is under way is of no use.
        let expires = now + life.saturating_sub(MARGIN);
        self.token = Some(Token { auth: auth.clone(), fetched: now, renew_at: now + life.mul_f64(0.8), expires });
        Some(auth)
    }
}

const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 16 * 1024;
const MARGIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(token: &str, life: u64) -> Granted {
        Granted { access_token: token.to_owned(), expires_in: Some(life) }
    }

    #[test]
    fn a_token_wants_renewal_at_80_percent_and_serves_until_its_end_p159() {
        let t = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = |seconds| t + Duration::from_secs(seconds);
        let mut cache = TokenCache::default();
        assert!(cache.wants_renewal(t) && cache.get(t).is_none());
        let first = cache.store(&granted("one", 1000), t).unwrap();
        assert!(first.value.is_sensitive());
        assert!(!cache.wants_renewal(at(799)));
        assert!(cache.wants_renewal(at(800)));
        cache.failed = Some((at(800), CredentialError::Unavailable));
        assert_eq!(cache.recent_failure(at(800)), Some(CredentialError::Unavailable));
        assert_eq!(cache.recent_failure(at(801)), None);
        assert_eq!(cache.get(at(989)).unwrap().generation, first.generation, "renewal fails, the old one serves");
        assert!(cache.get(at(990)).is_none());
        let second = cache.store(&granted("two", 1000), at(990)).unwrap();
        assert_ne!(first.generation, second.generation);
        assert_eq!(cache.get(at(1000)).unwrap().value, "Bearer two");
    }

    #[test]
    fn a_token_that_is_no_header_value_is_not_stored() {
        let mut cache = TokenCache::default();
        assert!(cache.store(&granted("a\r\nb", 1000), SystemTime::UNIX_EPOCH).is_none());
        assert!(cache.token.is_none());
    }
}
