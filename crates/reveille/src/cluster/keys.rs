//! What the nodes of a cluster have in common before they speak: how a node is named in a few octets, and the keys that all of them hold.

use std::path::{Path, PathBuf};

use reveille_edge::{TokenKey, TokenRing};
use reveille_registrar::NodeTag;
use ring::hkdf;
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use crate::config::Cluster;

/// The node's name as flows, fences and leases carry it: a hash of `node.id`, the same in every process, never 0, which is a
/// node without others.
pub fn tag(id: &str) -> NodeTag {
    let hash = xxh3_64(id.as_bytes());
    let folded = (hash ^ (hash >> 32)) as u32;
    NodeTag(folded.max(1))
}

/// The keys that are derived from a cluster's secrets, each for its own purpose and of no use for another. `Debug` shows none.
pub struct ClusterKeys {
    naming: Secret,
    secrets: Vec<Secret>,
}

/// A file of `cluster.key_files` that holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It holds something else.
    #[error("{} must hold 64 or more hexadecimal digits and nothing else, as `openssl rand -hex 32` writes them", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl ClusterKeys {
    /// Reads the secrets anew.
    ///
    /// # Errors
    /// For the first file that cannot be used.
    pub fn load(cluster: &Cluster) -> Result<Self, SecretError> {
        let secrets = cluster.key_files.iter().map(|path| read_secret(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { naming: read_secret(&cluster.naming_key_file)?, secrets })
    }

    /// The keys of flow tokens (S-127): the first secret's seals, all are read.
    pub fn tokens(&self) -> TokenRing {
        let mut keys = self.secrets.iter().map(|secret| {
            let [id, ..] = secret.id();
            TokenKey::new(id, secret.octets())
        });
        match keys.next() {
            Some(first) => TokenRing::new(first, keys),
            // A checked configuration has one; without, nothing could be sealed that another node reads.
            None => TokenRing::random(),
        }
    }

    /// The keys of stored records with their identifiers (P-109): the first seals, all are read. A secret has the same
    /// identifier on every node, wherever it stands in the list.
    pub fn records(&self) -> Vec<(u32, [u8; 32])> {
        self.secrets.iter().map(|secret| (u32::from_be_bytes(secret.id()), secret.derive(b"record"))).collect()
    }

    /// The key of the names that records are filed under, which outlives every rotation.
    pub fn naming(&self) -> [u8; 32] {
        self.naming.derive(b"record name")
    }

    /// The key of the names that dead push tokens go by, which outlives every rotation.
    pub fn dead_tokens(&self) -> [u8; 32] {
        self.naming.derive(b"dead push token")
    }

    /// The keys of digest nonces (S-145), the current one first.
    pub fn nonces(&self) -> Vec<[u8; 32]> {
        self.secrets.iter().map(|secret| secret.derive(b"digest nonce")).collect()
    }
}

impl std::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterKeys").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

/// One secret of the cluster: 32 random octets or more.
#[derive(PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    fn octets(&self) -> &[u8] {
        &self.0
    }

    /// What tells this secret from others of the cluster. Says nothing about it, and may be seen.
    fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.derive(b"key id");
        [a, b, c, d]
    }

    /// A key for one purpose (RFC 5869), by the label that names it.
    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"reveille").extract(self.octets());
        let filled = derived.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
        match filled {
            Ok(()) => key,
            // HKDF refuses only outputs of more than 255 hashes; ours is one.
            Err(_) => unreachable!("a key of one hash is shorter than HKDF's longest output"),
        }
    }
}

/// Reads one secret.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, SecretError> {
    let text = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| SecretError::Unreadable { path: path.to_owned(), error })?;
    parse_secret(&text).ok_or_else(|| SecretError::Malformed { path: path.to_owned() })
}

/// Hexadecimal, and only that: a file of raw octets may end in what looks like a line end, and text of one kind of encoding
/// may be read as another, and then two nodes would hold two keys.
fn parse_secret(text: &[u8]) -> Option<Secret> {
    let digits = text.trim_ascii();
    if digits.len() < 2 * SHORTEST_SECRET {
        return None;
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let octets = pairs.iter().map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?)).collect::<Option<Vec<_>>>();
    octets.filter(|_| rest.is_empty()).map(|octets| Secret(Zeroizing::new(octets)))
}

/// Octets.
const SHORTEST_SECRET: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(digit: char) -> Secret {
        parse_secret(digit.to_string().repeat(64).as_bytes()).unwrap()
    }

    fn keys(digits: &str, naming: char) -> ClusterKeys {
        ClusterKeys { naming: secret(naming), secrets: digits.chars().map(secret).collect() }
    }

    // Other versions, and other machines, must name a node alike.
    #[test]
    fn a_node_has_the_same_tag_everywhere_and_never_0() {
        assert_eq!([tag("node-1"), tag("node-2")], [NodeTag(3_572_833_626), NodeTag(2_012_262_690)]);
        assert!((0..10_000).all(|n| tag(&format!("node-{n}")).0 != 0));
    }

    #[test]
    fn secrets_are_hexadecimal_and_long_enough() {
        assert!(parse_secret(format!("{}\n", "aB".repeat(32)).as_bytes()).is_some());
        assert!(parse_secret("0f".repeat(48).as_bytes()).is_some());
        let raw: Vec<u8> = (0..64).collect();
        for bad in [&"0f".repeat(31)[..], &format!("{}0", "0f".repeat(32)), &"0g".repeat(32), &"+f".repeat(32), ""] {
            assert!(parse_secret(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse_secret(&raw).is_none());
    }

    // S-127: what one node sealed is read by another that is a step ahead or behind in the rotation.
    #[test]
    fn keys_are_known_by_their_secret_and_not_by_their_place() {
        let (before, after) = (keys("12", '1').records(), keys("21", '1').records());
        assert_eq!((before[0], before[1]), (after[1], after[0]));
        assert_ne!(before[0].0, before[1].0);
    }

    // S-127: the same for tokens, whose keys show nothing but their identifiers.
    #[test]
    fn tokens_survive_a_rotation() {
        let ids = |digits: &str| {
            let text = format!("{:?}", keys(digits, '1').tokens());
            text.split("TokenKey(").skip(1).filter_map(|rest| rest.split(')').next()?.parse().ok()).collect::<Vec<u8>>()
        };
        let (before, mut after) = (ids("12"), ids("21"));
        after.reverse();
        assert!(before.len() == 2 && before == after && before[0] != before[1], "{before:?} {after:?}");
    }

    // A key that leaks by one use must not open another.
    #[test]
    fn every_purpose_has_a_key_of_its_own() {
        let keys = keys("1", '1');
        let derived = [keys.records()[0].1, keys.naming(), keys.nonces()[0]];
        assert!(derived[0] != derived[1] && derived[1] != derived[2] && derived[0] != derived[2]);
        assert!(derived.iter().all(|key| *key != [0x11; 32]));
        assert_ne!(keys.records()[0].1[..4], keys.records()[0].0.to_be_bytes());
    }

    #[test]
    fn names_outlive_a_rotation() {
        assert_eq!(keys("1", '1').naming(), keys("23", '1').naming());
        assert_ne!(keys("1", '1').naming(), keys("1", '2').naming());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", keys("12", '1')), "ClusterKeys { secrets: 2, .. }");
    }
}
