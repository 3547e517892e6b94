//! The form of a node's description in the store.
//!
//! ```text
//! format 1:  01 ‖ flags (1 edge, 2 home, 4 draining) ‖ tag u32 ‖ weight u16 ‖ port u16 ‖ address length (4, 16) ‖ address
//!            ‖ id length ‖ id ‖ version length ‖ version ‖ …
//! ```
//!
//! Integers are big-endian. What follows the version is for later releases to append, and is passed over: in a rolling upgrade
//! old nodes read what new ones wrote. A change that old nodes could not pass over takes another format number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reveille_registrar::flow::NodeTag;

use super::{NodeInfo, Roles};

const FORMAT: u8 = 1;
const EDGE: u8 = 1;
const HOME: u8 = 2;
const DRAINING: u8 = 4;

/// Why a description could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a release that we do not understand.
    #[error("node description of unknown format {0}")]
    Format(u8),
    /// Cut short, or not a description.
    #[error("malformed node description")]
    Malformed,
}

impl NodeInfo {
    /// The value for the store. Names longer than 255 bytes are cut at a character.
    pub fn encode(&self) -> Vec<u8> {
        let (id, version) = (cut(&self.id), cut(&self.version));
        let mut out = Vec::with_capacity(30 + id.len() + version.len());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(FORMAT);
        out.push(flag(self.roles.edge, EDGE) | flag(self.roles.home, HOME) | flag(self.draining, DRAINING));
        out.extend_from_slice(&self.tag.0.to_be_bytes());
        out.extend_from_slice(&self.weight.to_be_bytes());
        out.extend_from_slice(&self.address.port().to_be_bytes());
        match self.address.ip() {
            IpAddr::V4(ip) => push_short(&mut out, &ip.octets()),
            IpAddr::V6(ip) => push_short(&mut out, &ip.octets()),
        }
        push_short(&mut out, id.as_bytes());
        push_short(&mut out, version.as_bytes());
        out
    }

    /// Reads what [`NodeInfo::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else; any bytes give an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&format, rest) = bytes.split_first().ok_or(DecodeError::Malformed)?;
        if format != FORMAT {
            return Err(DecodeError::Format(format));
        }
        read(rest).ok_or(DecodeError::Malformed)
    }
}

fn read(mut bytes: &[u8]) -> Option<NodeInfo> {
    let [flags] = take(&mut bytes)?;
    let tag = NodeTag(u32::from_be_bytes(take(&mut bytes)?));
    let weight = u16::from_be_bytes(take(&mut bytes)?);
    let port = u16::from_be_bytes(take(&mut bytes)?);
    let ip = take_short(&mut bytes)?;
    let ip = match ip.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    let id = std::str::from_utf8(take_short(&mut bytes)?).ok()?.to_owned();
    let version = std::str::from_utf8(take_short(&mut bytes)?).ok()?.to_owned();
    let roles = Roles { edge: flags & EDGE != 0, home: flags & HOME != 0 };
    let address = SocketAddr::new(ip, port);
    Some(NodeInfo { tag, id, roles, address, weight, version, draining: flags & DRAINING != 0 })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_short<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [length] = take(bytes)?;
    let (head, rest) = bytes.split_at_checked(usize::from(length))?;
    *bytes = rest;
    Some(head)
}

fn push_short(out: &mut Vec<u8>, value: &[u8]) {
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(value);
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(usize::from(u8::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::node;

    /// Other releases read this form: the bytes may not change.
    #[test]
    fn format_1_is_fixed() {
        let info = NodeInfo { draining: true, ..node(7) };
        let bytes = hex(&info.encode());
        assert_eq!(bytes, "0106000000070064138b047f0000010668 6f6d652d3705302e312e30".replace(' ', ""));
    }

    #[test]
    fn what_later_releases_append_is_passed_over() {
        let mut bytes = node(7).encode();
        bytes.extend_from_slice(b"more");
        assert_eq!(NodeInfo::decode(&bytes), Ok(node(7)));
        bytes[0] = 2;
        assert_eq!(NodeInfo::decode(&bytes), Err(DecodeError::Format(2)));
    }

    #[test]
    fn every_cut_is_malformed() {
        let bytes = node(7).encode();
        for end in 0..bytes.len() {
            assert_eq!(NodeInfo::decode(&bytes[..end]), Err(DecodeError::Malformed), "{end}");
        }
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let info = NodeInfo { id: "é".repeat(200), ..node(7) };
        assert_eq!(NodeInfo::decode(&info.encode()).unwrap().id, "é".repeat(127));
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(tag: u32, weight: u16, flags in 0_u8..8, ip: IpAddr, port: u16, id in ".{0,40}") {
            let roles = Roles { edge: flags & 1 != 0, home: flags & 2 != 0 };
            let info = NodeInfo {
                tag: NodeTag(tag), id, roles, address: SocketAddr::new(ip, port), weight,
                version: "1.2.3".into(), draining: flags & 4 != 0,
            };
            prop_assert_eq!(NodeInfo::decode(&info.encode()), Ok(info));
        }

        #[test]
        fn any_bytes_give_an_answer(bytes: Vec<u8>) {
            let _ = NodeInfo::decode(&bytes);
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
