//! Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): making challenges and judging the credentials that answer them.
//!
//! No connection and no session: a nonce carries its own proof, so any node holding the same keys can judge an answer. What a node
//! remembers is which nonce counts it has seen, to catch replays; that memory is bounded. Time is an argument.

mod credentials;
mod digest;
mod nonce;
mod pins;
mod replay;
#[cfg(test)]
mod tests;
mod users;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use reveille_sip::uri::{Uri, equal_ignoring};
use subtle::ConstantTimeEq;

use self::{
    credentials::{Credentials, ParseError},
    replay::{Count, SeenNonces},
};
pub use self::{
    digest::ha1,
    nonce::NonceKeys,
    pins::{NoncePins, Pin, Unpinned},
    users::{Fault, FileUsers, Ha1, Users, UsersError},
};

/// A hash algorithm of digest authentication (RFC 7616 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, offered first.
    Sha256,
    /// SHA-512 cut to 256 bits.
    Sha512_256,
    /// MD5: only where old devices leave no choice.
    Md5,
}

impl Algorithm {
    /// The token of the `algorithm` parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
            Self::Md5 => "MD5",
        }
    }

    /// Reads the token, in any case. The `-sess` variants are not known here.
    pub fn from_token(token: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512_256, Self::Md5].into_iter().find(|known| known.as_str().eq_ignore_ascii_case(token))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(token: &str) -> Result<Self, Self::Err> {
        Self::from_token(token).ok_or(UnknownAlgorithm)
    }
}

/// The token names no algorithm known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown digest algorithm; known are SHA-256, SHA-512-256 and MD5")]
pub struct UnknownAlgorithm;

/// What to demand.
#[derive(Clone, Debug)]
pub struct DigestConfig {
    /// The realm, as shown to the user and hashed into every HA1.
    pub realm: String,
    /// What to offer and accept. The order does not matter: the strongest is offered first (RFC 8760 §2.3).
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce may be used.
    pub nonce_ttl: Duration,
    /// Accept answers without `qop` where the algorithm is MD5 (RFC 2069 clients). They have no protection against replay while the
    /// nonce lives.
    pub allow_legacy_no_qop: bool,
}

impl Default for DigestConfig {
    fn default() -> Self {
        Self {
            realm: String::from("localhost"),
            algorithms: vec![Algorithm::Sha256],
            nonce_ttl: Duration::from_secs(300),
            allow_legacy_no_qop: false,
        }
    }
}

/// The judgement of a request's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Right password, live nonce, first use of this count.
    Accepted {
        /// Who: the user part. `alice` for the user name `alice` and, in realm `example.com`, for `alice@example.com`.
        user: String,
        /// By what.
        algorithm: Algorithm,
        /// Which of the credentials lines given, from 0: the one to take out when forwarding (S-149).
        line: usize,
    },
    /// No credentials for this realm that we asked for: challenge. Also an algorithm not offered (S-142), or another scheme (S-151).
    Missing,
    /// The password is right but the nonce is too old, not ours or used up: challenge with `stale=true`.
    Stale,
    /// Wrong password, unknown user, or protection stripped: challenge, without `stale`.
    Rejected,
    /// As `Accepted`, if the nonce is not another node's: to be asked of [`NoncePins`], told to [`Digest::pinned`], and judged again.
    Unpinned(Unpinned),
    /// Not readable, or made for another request (RFC 7616 §3.4.6): 400.
    BadRequest,
}

/// Makes challenges and judges answers for one realm. Shared by all workers of a node.
pub struct Digest {
    config: DigestConfig,
    users: Arc<dyn Users>,
    keys: ArcSwap<NonceKeys>,
    seen: SeenNonces,
    /// This node among others, and with them the rule that a nonce belongs to one node.
    node: Option<u32>,
}

impl Digest {
    /// For the users of one realm. An empty list of algorithms means SHA-256.
    pub fn new(mut config: DigestConfig, users: Arc<dyn Users>, keys: NonceKeys) -> Self {
        config.algorithms.sort_unstable();
        config.algorithms.dedup();
        if config.algorithms.is_empty() {
            config.algorithms.push(Algorithm::Sha256);
        }
        Self { config, users, keys: ArcSwap::from_pointee(keys), seen: SeenNonces::new(SEEN_NONCES), node: None }
    }

    /// Sets how many nonces in use are remembered; beyond that the oldest become stale early. 262144 otherwise.
    pub fn with_nonce_capacity(mut self, capacity: usize) -> Self {
        self.seen = SeenNonces::new(capacity);
        self
    }

    /// Makes this one of several nodes that hold the same keys: a nonce is good at the node of its first use alone (S-147).
    pub fn among(mut self, node: u32) -> Self {
        self.node = Some(node);
        self
    }

    /// Notes where a nonce belongs. Where nobody could be asked a node believes those that it issued itself to be its own, since
    /// phones as a rule answer where they were asked, and no others.
    pub fn pinned(&self, unix_now: u64, nonce: Unpinned, pin: Pin) {
        let is_here = match pin {
            Pin::Here => true,
            Pin::Elsewhere => false,
            Pin::Unknown => self.node.is_some() && nonce.0.issuer() == self.node,
        };
        self.seen.pin(unix_now, self.config.nonce_ttl.as_secs(), nonce.0, is_here);
    }

    /// For how many seconds a nonce has to be remembered.
    pub fn life(&self, unix_now: u64, nonce: Unpinned) -> u64 {
        nonce.life(unix_now, self.config.nonce_ttl.as_secs())
    }

    /// Replaces the keys, as the cluster rotates them.
    pub fn set_keys(&self, keys: NonceKeys) {
        self.keys.store(Arc::new(keys));
    }

    /// The realm.
    pub fn realm(&self) -> &str {
        &self.config.realm
    }

    /// The values of a 401's WWW-Authenticate or a 407's Proxy-Authenticate lines, one line each, strongest first (S-141).
    pub fn challenge(&self, unix_now: u64, stale: bool) -> Vec<String> {
        let nonce = self.keys.load().issue(unix_now, &self.config.realm, self.node);
        let realm = credentials::quote(&self.config.realm);
        let stale = if stale { ", stale=true" } else { "" };
        let challenge =
            |algorithm| format!("Digest realm={realm}, nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}");
        self.config.algorithms.iter().map(challenge).collect()
    }

    /// Judges the Authorization or Proxy-Authorization lines of a request. `method` and `request_uri` are the request's, `body` its body
    /// as received.
    pub fn verify<'a>(
        &self,
        unix_now: u64,
        method: &str,
        request_uri: &str,
        credentials: impl Iterator<Item = &'a str>,
        body: &[u8],
    ) -> Verdict {
        let (line, answer, algorithm) = match self.choose(credentials) {
            Ok(chosen) => chosen,
            Err(verdict) => return verdict,
        };
        let protected = answer.qop.is_some() || algorithm == Algorithm::Md5 && self.config.allow_legacy_no_qop;
        // A user we do not know costs the same work and gives the same answer as a wrong password (S-148).
        let known = self.users.ha1(&answer.username, &self.config.realm, algorithm);
        let is_known = known.is_some();
        let ha1 = known.unwrap_or_else(|| Ha1::nobody(algorithm));
        let expected = digest::response(algorithm, &ha1, &answer, method, body);
        let same = expected.as_bytes().ct_eq(answer.response.as_bytes());
        if !bool::from(same & subtle::Choice::from(u8::from(is_known))) || !protected {
            return Verdict::Rejected;
        }
        // From here on the peer knows the password.
        if !is_same_uri(&answer.uri, request_uri) {
            return Verdict::BadRequest;
        }
        let ttl = self.config.nonce_ttl.as_secs();
        let Some(nonce) =
            self.keys.load().check(&answer.nonce, &self.config.realm).filter(|nonce| nonce.is_live(unix_now, ttl))
        else {
            return Verdict::Stale;
        };
        if let Some(qop) = &answer.qop {
            match self.seen.count(unix_now, ttl, nonce, qop.nc, self.node.is_some()) {
                Count::Fresh => {}
                Count::Unknown => return Verdict::Unpinned(Unpinned(nonce)),
                Count::Replayed | Count::Forgotten | Count::Elsewhere => return Verdict::Stale,
            }
        }
        Verdict::Accepted { user: self.user_part(&answer.username).to_owned(), algorithm, line }
    }

    /// The first answer for this realm by an algorithm that was offered.
    fn choose<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Result<(usize, Credentials, Algorithm), Verdict> {
        let mut broken = false;
        for (line, value) in lines.enumerate() {
            match Credentials::parse(value) {
                Ok(answer) if answer.realm == self.config.realm => {
                    // Absent means MD5 (RFC 7616 §3.3).
                    let algorithm = answer.algorithm.as_deref().map_or(Some(Algorithm::Md5), Algorithm::from_token);
                    if let Some(algorithm) = algorithm.filter(|algorithm| self.config.algorithms.contains(algorithm)) {
                        return Ok((line, answer, algorithm));
                    }
                }
                Ok(_) | Err(ParseError::OtherScheme) => {}
                Err(ParseError::Malformed) => broken = true,
            }
        }
        Err(if broken { Verdict::BadRequest } else { Verdict::Missing })
    }

    fn user_part<'u>(&self, username: &'u str) -> &'u str {
        match username.rsplit_once('@') {
            Some((user, host)) if host.eq_ignore_ascii_case(&self.config.realm) => user,
            _ => username,
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Whether the `uri` that was hashed names what the request asks for. Parameters are left aside: devices drop them from the one or the
/// other, and nothing is reached by a parameter that the rest of the URI does not reach (S-143).
fn is_same_uri(hashed: &str, requested: &str) -> bool {
    hashed == requested
        || match (Uri::parse(hashed), Uri::parse(requested)) {
            (Ok(hashed), Ok(requested)) => equal_ignoring(&hashed, &requested, |_| true),
            _ => false,
        }
}

const SEEN_NONCES: usize = 262_144;
