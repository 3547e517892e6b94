//! Kinds of client whose push parameters name a service that nobody knows (P-017): an operator hears of each once.

use std::collections::HashSet;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Kinds of client remembered; of further ones nothing is said, so that nobody can fill a log or a memory.
const MOST: usize = 256;
/// Characters of a client's name or of a service's that are shown.
const SHOWN: usize = 32;

/// Which kinds of client an operator has been told about.
#[derive(Debug, Default)]
pub struct Mistakes {
    told: Mutex<HashSet<u64>>,
}

impl Mistakes {
    /// Logs that a kind of client names `service`, unless it was logged before.
    pub(crate) fn tell(&self, user_agent: &str, service: &str) {
        let (client, service) = (plain(product(user_agent)), plain(service));
        let mut told = self.told.lock();
        if told.len() < MOST && told.insert(xxh3_64(format!("{client}\0{service}").as_bytes())) {
            drop(told);
            tracing::warn!(client, service, "a kind of client asks for an unknown push service and gets no push");
        }
    }
}

/// A client's name without its version and what else differs from one phone to the next.
fn product(user_agent: &str) -> &str {
    user_agent.split(['/', '(', ' ']).next().unwrap_or("")
}

/// As much of a stranger's word as may stand in a log.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(SHOWN).collect()
}
