//! Flow tokens (RFC 5626 §5.2; S-127): a flow, sealed so that only this cluster can make or read it.
//!
//! A token is `base64url(key id ‖ nonce ‖ AES-256-GCM(flow ‖ binding))`, the binding being there where a phone has registered over the flow. Every node of a cluster holds the same ring of keys, so a token
//! made by one is read by all. The first key of the ring seals, every key unseals: to rotate without losing a route set, give
//! the new key to all nodes as a further one, then make it the first, then drop the old one when no dialog uses it any more.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reveille_proxy::egress::{Bound, TokenError};
use reveille_registrar::{
    aor::Aor,
    flow::{FlowRef, NodeTag, Transport},
    record::BindingKey,
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use smallvec::SmallVec;

/// One key of the ring.
#[derive(Clone)]
pub struct TokenKey {
    id: u8,
    aead: LessSafeKey,
}

impl TokenKey {
    /// Derives a key from a secret of the cluster, which may serve other purposes too; 32 random octets are a good secret.
    /// `id` tells keys of one ring apart and is visible in tokens.
    pub fn new(id: u8, secret: &[u8]) -> Self {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"reveille").extract(secret);
        let key = derived.expand(&[b"flow token"], &AES_256_GCM).map(UnboundKey::from);
        match key {
            Ok(key) => Self { id, aead: LessSafeKey::new(key) },
            // HKDF refuses only outputs of more than 255 hashes; ours is one.
            Err(_) => unreachable!("an AES-256 key is shorter than HKDF's longest output"),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.id)
    }
}

/// The keys that tokens are sealed and read with.
#[derive(Clone, Debug)]
pub struct TokenRing {
    keys: SmallVec<[TokenKey; 2]>,
    random: SystemRandom,
}

impl TokenRing {
    /// A ring that seals with `current` and reads with it and with `others` (the previous key, and the next one while it is
    /// being spread).
    pub fn new(current: TokenKey, others: impl IntoIterator<Item = TokenKey>) -> Self {
        Self { keys: std::iter::once(current).chain(others).collect(), random: SystemRandom::new() }
    }

    /// A ring of one key that nobody else knows and no restart survives: for a single node without configured keys.
    pub fn random() -> Self {
        Self::new(TokenKey::new(0, &rand::random::<[u8; 32]>()), [])
    }

    /// Seals a flow, and the binding it is that of.
    pub(crate) fn seal(&self, flow: &FlowRef, binding: Option<&Bound>) -> String {
        let Some(key) = self.keys.first() else { return String::new() };
        let mut nonce = [0_u8; NONCE];
        if self.random.fill(&mut nonce).is_err() {
            // No randomness, no token: a repeated nonce would break the key. An empty token is read by nobody.
            return String::new();
        }
        let mut text = encode(flow);
        if let Some(Bound { aor, key }) = binding.filter(|bound| bound.aor.as_str().len() <= LONGEST_AOR) {
            text.push(BINDING);
            text.extend_from_slice(&key.0.to_be_bytes());
            text.extend_from_slice(aor.as_str().as_bytes());
        }
        let sealed =
            key.aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from([key.id]), &mut text);
        if sealed.is_err() {
            return String::new();
        }
        let mut token = Vec::with_capacity(1 + NONCE + text.len());
        token.push(key.id);
        token.extend_from_slice(&nonce);
        token.extend_from_slice(&text);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Reads back a token.
    pub(crate) fn unseal(&self, token: &str) -> Result<(FlowRef, Option<Bound>), TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::Forged);
        }
        let mut raw = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Forged)?;
        let (&id, rest) = raw.split_first_mut().map(|(id, rest)| (&*id, rest)).ok_or(TokenError::Forged)?;
        let (nonce, sealed) = rest.split_first_chunk_mut::<NONCE>().ok_or(TokenError::Forged)?;
        for key in self.keys.iter().filter(|key| key.id == id) {
            // Two keys may carry the same id by mistake: the buffer is overwritten on failure, so each tries on a copy.
            let mut text: SmallVec<[u8; 128]> = SmallVec::from_slice(sealed);
            let nonce = Nonce::assume_unique_for_key(*nonce);
            if let Ok(text) = key.aead.open_in_place(nonce, Aad::from([id]), &mut text) {
                return decode(text).ok_or(TokenError::Forged);
            }
        }
        Err(TokenError::Forged)
    }
}

/// Octets of a nonce of AES-GCM.
const NONCE: usize = 12;
/// An address-of-record of more octets is left out of tokens: they stand in every message of a dialog.
const LONGEST_AOR: usize = 128;
/// No token of ours is longer, in characters.
const LONGEST_TOKEN: usize = 288;
const BINDING: u8 = 16;
const STREAM: u8 = 1;
const DATAGRAM_V4: u8 = 2;
const DATAGRAM_V6: u8 = 3;

fn encode(flow: &FlowRef) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    match flow {
        FlowRef::Stream { node, epoch, connection, transport } => {
            out.push(STREAM);
            out.extend_from_slice(&node.0.to_be_bytes());
            out.extend_from_slice(&epoch.to_be_bytes());
            out.extend_from_slice(&connection.to_be_bytes());
            out.push(*transport as u8);
        }
        FlowRef::Datagram { node, listener, remote } => {
            out.push(if remote.is_ipv4() { DATAGRAM_V4 } else { DATAGRAM_V6 });
            out.extend_from_slice(&node.0.to_be_bytes());
            out.extend_from_slice(&listener.to_be_bytes());
            out.extend_from_slice(&remote.port().to_be_bytes());
            match remote.ip() {
                IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
            }
        }
    }
    out
}

/// A flow, and the binding behind it.
fn decode(bytes: &[u8]) -> Option<(FlowRef, Option<Bound>)> {
    let (flow, rest) = decode_flow(bytes)?;
    let [BINDING, rest @ ..] = rest else { return rest.is_empty().then_some((flow, None)) };
    let (key, aor) = rest.split_first_chunk()?;
    let aor = std::str::from_utf8(aor).ok().filter(|aor| !aor.is_empty())?;
    let bound = Bound { aor: Aor::from_canonical(aor), key: BindingKey(u64::from_be_bytes(*key)) };
    Some((flow, Some(bound)))
}

fn decode_flow(bytes: &[u8]) -> Option<(FlowRef, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (node, rest) = rest.split_first_chunk::<4>()?;
    let node = NodeTag(u32::from_be_bytes(*node));
    if kind == STREAM {
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (connection, rest) = rest.split_first_chunk::<8>()?;
        let (&transport, rest) = rest.split_first()?;
        let flow = FlowRef::Stream {
            node,
            epoch: u32::from_be_bytes(*epoch),
            connection: u64::from_be_bytes(*connection),
            transport: Transport::from_u8(transport)?,
        };
        return Some((flow, rest));
    }
    let (listener, rest) = rest.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (ip, rest) = match kind {
        DATAGRAM_V4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(Ipv4Addr::from(*ip)), rest))?,
        DATAGRAM_V6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(Ipv6Addr::from(*ip)), rest))?,
        _ => return None,
    };
    let remote = SocketAddr::new(ip, u16::from_be_bytes(*port));
    Some((FlowRef::Datagram { node, listener: u16::from_be_bytes(*listener), remote }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flows() -> Vec<FlowRef> {
        vec![
            FlowRef::Stream { node: NodeTag(7), epoch: 3, connection: u64::MAX - 1, transport: Transport::Tls },
            FlowRef::Stream { node: NodeTag(0), epoch: 0, connection: 1, transport: Transport::Tcp },
            FlowRef::Datagram { node: NodeTag(9), listener: 2, remote: "192.0.2.7:5071".parse().unwrap() },
            FlowRef::Datagram { node: NodeTag(9), listener: 2, remote: "[2001:db8::7]:5071".parse().unwrap() },
        ]
    }

    fn ring(id: u8, secret: &[u8]) -> TokenRing {
        TokenRing::new(TokenKey::new(id, secret), [])
    }

    // S-127: any node with the same secret reads what another sealed; two tokens of one flow differ; only URI characters.
    #[test]
    fn s127_tokens_are_read_by_every_node_of_the_cluster() {
        for flow in flows() {
            let (first, second) = (ring(1, b"secret").seal(&flow, None), ring(1, b"secret").seal(&flow, None));
            assert_ne!(first, second);
            assert!(first.len() <= LONGEST_TOKEN);
            assert!(first.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{first}");
            assert_eq!(ring(1, b"secret").unseal(&first), Ok((flow, None)));
        }
    }

    // The binding comes back with the flow; one whose name is too long for a route is left out.
    #[test]
    fn bindings_are_read_back() {
        let bound = |name: usize| Bound { aor: Aor::from_canonical("a".repeat(name)), key: BindingKey(u64::MAX - 7) };
        for flow in flows() {
            for name in [1, 30, LONGEST_AOR] {
                let token = ring(1, b"secret").seal(&flow, Some(&bound(name)));
                assert!(token.len() <= LONGEST_TOKEN, "{}", token.len());
                assert_eq!(ring(1, b"secret").unseal(&token), Ok((flow, Some(bound(name)))));
            }
            let token = ring(1, b"secret").seal(&flow, Some(&bound(LONGEST_AOR + 1)));
            assert_eq!(ring(1, b"secret").unseal(&token), Ok((flow, None)));
        }
    }

    // S-127: no raw address is visible.
    #[test]
    fn s127_addresses_are_not_visible() {
        let flow = FlowRef::Datagram { node: NodeTag(1), listener: 0, remote: "192.0.2.7:5071".parse().unwrap() };
        let raw = URL_SAFE_NO_PAD.decode(ring(1, b"secret").seal(&flow, None)).unwrap();
        assert!(!raw.windows(4).any(|w| w == [192, 0, 2, 7]));
    }

    // S-127: every single flipped bit is noticed.
    #[test]
    fn s127_every_flipped_bit_is_an_error() {
        let ring = ring(1, b"secret");
        for flow in flows() {
            let raw = URL_SAFE_NO_PAD.decode(ring.seal(&flow, None)).unwrap();
            for bit in 0..raw.len() * 8 {
                let mut altered = raw.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(ring.unseal(&URL_SAFE_NO_PAD.encode(altered)), Err(TokenError::Forged), "bit {bit}");
            }
        }
    }

    // S-127: rotation keeps old tokens readable until their key leaves the ring.
    #[test]
    fn s127_keys_rotate() {
        let flow = flows()[0];
        let old = ring(1, b"old").seal(&flow, None);
        let rotated = TokenRing::new(TokenKey::new(2, b"new"), [TokenKey::new(1, b"old")]);
        assert_eq!(rotated.unseal(&old), Ok((flow, None)));
        assert_eq!(ring(1, b"old").unseal(&rotated.seal(&flow, None)), Err(TokenError::Forged));
        assert_eq!(ring(2, b"new").unseal(&old), Err(TokenError::Forged));
        // An id used twice by mistake costs nothing but a second try.
        let clash = TokenRing::new(TokenKey::new(1, b"new"), [TokenKey::new(1, b"old")]);
        assert_eq!(clash.unseal(&old), Ok((flow, None)));
    }

    #[test]
    fn s127_odd_strings_are_forged() {
        let ring = ring(1, b"secret");
        let good = ring.seal(&flows()[0], None);
        let long = "A".repeat(10_000);
        let padded = format!("{good}=");
        for token in ["", "A", "AQ", "====", "a b", "ü", &good[..good.len() - 4], &padded, &long] {
            assert_eq!(ring.unseal(token), Err(TokenError::Forged), "{token}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?}", ring(1, b"secret"));
        assert!(text.contains("TokenKey(1)") && !text.contains("secret"), "{text}");
    }

    proptest! {
        #[test]
        fn unseal_never_panics(token in "\\PC{0,120}") {
            let _ = ring(1, b"secret").unseal(&token);
        }

        #[test]
        fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some((flow, None)) = decode(&bytes) {
                prop_assert_eq!(encode(&flow), bytes);
            }
        }
    }
}
