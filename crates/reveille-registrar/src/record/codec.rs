//! The compact form of a record, in memory and in the store alike.
//!
//! One byte of version, then varints and packed texts (`text`). What stands in a Contact twice is kept once: the PRID and the
//! param, which the push target holds decoded, are cut out of the URI, and the instance-id out of the header parameters, with
//! the place noted; decoding puts them back. A cut is made only where the spelling is the one decoding will give, so the result
//! is the text as it came (S-110).
//!
//! A version of this software writes version N and reads N and N - 1. A later one may add to a record, or to a binding, what this one
//! does not know, in the octets called `more`: it is kept, and written again. Only what cannot be said that way needs version
//! N + 1, which this one leaves alone ([`is_later`]). Version 2 is version 1 with these octets; where there are none, version 1 is
//! written, so that nodes which know no other can read it. Version 3 is version 2 in which a push service may be one of the
//! operator's own, by name; it is written where there is such a one.
//!
//! ```text
//! record  = version next_key count binding* [more, from version 2: the rest]
//! binding = next_key-key generation flags contact params [q] [instance] [reg_id] call_id cseq expires_at
//!           expires_at-registered_at [flow] [paths] [provider [name] param prid] [dead] [cuts] [length more]
//! ```

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reveille_push::{Provider, PushTarget, Secret, WebhookName, escape::encode_pvalue};

use super::{Binding, BindingKey, DeadPush, Fingerprint, Record, text};
use crate::flow::{FlowRef, NodeTag, Transport};

/// Bytes that are no record of a version we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record, or one of a later version")]
pub struct DecodeError;

/// The version without octets of later versions.
const PLAIN: u8 = 1;
/// The one with them.
const ROOMY: u8 = 2;
/// The newest version known here: a push service may have a name of its own (P-021).
const VERSION: u8 = 3;

const HAS_Q: u64 = 1;
const HAS_INSTANCE: u64 = 1 << 1;
const HAS_REG_ID: u64 = 1 << 2;
const HAS_FLOW: u64 = 1 << 3;
const HAS_PATH: u64 = 1 << 4;
const HAS_PUSH: u64 = 1 << 5;
const HAS_DEAD: u64 = 1 << 6;
const PNSREG: u64 = 1 << 7;
const CUT_PRID: u64 = 1 << 8;
const CUT_PARAM: u64 = 1 << 9;
const CUT_INSTANCE: u64 = 1 << 10;
/// Version 2.
const HAS_MORE: u64 = 1 << 11;

const DEFAULT_Q: u16 = 1000;

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + 256 * record.bindings.len());
    let is_plain = record.more.is_empty() && record.bindings.iter().all(|binding| binding.more.is_empty());
    let named =
        |binding: &Binding| matches!(&binding.push, Some(push) if matches!(push.provider, Provider::Webhook(_)));
    out.push(match is_plain {
        _ if record.bindings.iter().any(named) => VERSION,
        true => PLAIN,
        false => ROOMY,
    });
    put_varint(&mut out, record.next_key);
    put_varint(&mut out, record.bindings.len() as u64);
    for binding in &record.bindings {
        put_binding(&mut out, record.next_key, binding);
    }
    out.extend_from_slice(&record.more);
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if !(PLAIN..=VERSION).contains(&version) {
        return Err(DecodeError);
    }
    let next_key = reader.varint()?;
    let count = reader.varint()?;
    let mut bindings = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(16));
    for _ in 0..count {
        bindings.push(get_binding(&mut reader, next_key, version)?);
    }
    if version == PLAIN && !reader.0.is_empty() {
        return Err(DecodeError);
    }
    Ok(Record { next_key, bindings, more: reader.0.to_vec() })
}

/// Whether these are octets of a later version than is known here. Such a record is left where it is, and nothing is written over it.
pub fn is_later(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|version| *version > VERSION)
}

/// The number of bindings in an encoded record, without decoding it; 0 for bytes that are no record of a version known here.
pub fn count(bytes: &[u8]) -> u64 {
    if is_later(bytes) {
        return 0;
    }
    let mut reader = Reader(bytes);
    let mut read = || {
        reader.byte()?;
        reader.varint()?;
        reader.varint()
    };
    read().unwrap_or(0)
}

fn put_binding(out: &mut Vec<u8>, next_key: u64, binding: &Binding) {
    let mut contact = Cut::new(&binding.contact);
    let mut params = Cut::new(&binding.params);
    let (mut prid_at, mut param_at, mut instance_at) = (None, None, None);
    if let Some(push) = &binding.push {
        prid_at = contact.cut_value(";pn-prid=", &escaped(push.prid.expose()));
        param_at = contact.cut_value(";pn-param=", &escaped(&push.param));
    }
    if let Some(instance) = binding.instance.as_deref().filter(|instance| !instance.is_empty()) {
        instance_at = params.cut_instance(instance);
    }
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    put_varint(out, next_key.wrapping_sub(binding.key.0));
    put_varint(out, binding.generation.into());
    put_varint(
        out,
        flag(binding.q != DEFAULT_Q, HAS_Q)
            | flag(binding.instance.is_some(), HAS_INSTANCE)
            | flag(binding.reg_id.is_some(), HAS_REG_ID)
            | flag(binding.flow.is_some(), HAS_FLOW)
            | flag(!binding.path.is_empty(), HAS_PATH)
            | flag(binding.push.is_some(), HAS_PUSH)
            | flag(binding.dead_push.is_some(), HAS_DEAD)
            | flag(binding.pnsreg, PNSREG)
            | flag(prid_at.is_some(), CUT_PRID)
            | flag(param_at.is_some(), CUT_PARAM)
            | flag(instance_at.is_some(), CUT_INSTANCE)
            | flag(!binding.more.is_empty(), HAS_MORE),
    );
    text::put(out, &contact.0);
    text::put(out, &params.0);
    if binding.q != DEFAULT_Q {
        put_varint(out, binding.q.into());
    }
    if let Some(instance) = &binding.instance {
        text::put(out, instance);
    }
    if let Some(reg_id) = binding.reg_id {
        put_varint(out, reg_id.into());
    }
    text::put(out, &binding.call_id);
    put_varint(out, binding.cseq.into());
    put_varint(out, binding.expires_at);
    put_varint(out, zigzag(binding.expires_at.wrapping_sub(binding.registered_at)));
    if let Some(flow) = &binding.flow {
        put_flow(out, flow);
    }
    if !binding.path.is_empty() {
        put_varint(out, binding.path.len() as u64);
        for value in &binding.path {
            text::put(out, value);
        }
    }
    if let Some(push) = &binding.push {
        out.push(provider_code(push.provider));
        if let Provider::Webhook(name) = push.provider {
            text::put(out, name.as_str());
        }
        text::put(out, &push.param);
        text::put(out, push.prid.expose());
    }
    if let Some(dead) = binding.dead_push {
        out.extend_from_slice(&dead.target.0.to_le_bytes());
        put_varint(out, dead.at);
        out.push(dead.verdicts);
    }
    for place in [prid_at, param_at, instance_at].into_iter().flatten() {
        put_varint(out, place as u64);
    }
    if !binding.more.is_empty() {
        put_varint(out, binding.more.len() as u64);
        out.extend_from_slice(&binding.more);
    }
}

fn get_binding(reader: &mut Reader<'_>, next_key: u64, version: u8) -> Result<Binding, DecodeError> {
    let key = BindingKey(next_key.wrapping_sub(reader.varint()?));
    let generation = reader.narrow()?;
    let flags = reader.varint()?;
    let has = |flag: u64| flags & flag != 0;
    let contact = text::find(reader)?;
    let params = text::find(reader)?;
    let q = if has(HAS_Q) { reader.narrow()? } else { DEFAULT_Q };
    let instance = if has(HAS_INSTANCE) { Some(text::get(reader)?) } else { None };
    let reg_id = if has(HAS_REG_ID) { Some(reader.narrow()?) } else { None };
    let call_id = text::get(reader)?;
    let cseq = reader.narrow()?;
    let expires_at = reader.varint()?;
    let registered_at = expires_at.wrapping_sub(unzigzag(reader.varint()?));
    let flow = if has(HAS_FLOW) { Some(get_flow(reader)?) } else { None };
    let mut path = Vec::new();
    if has(HAS_PATH) {
        for _ in 0..reader.varint()? {
            path.push(text::get(reader)?);
        }
    }
    let push = if has(HAS_PUSH) { Some(get_push(reader)?) } else { None };
    let dead_push = if has(HAS_DEAD) {
        let target = Fingerprint(u64::from_le_bytes(reader.array()?));
        Some(DeadPush { target, at: reader.varint()?, verdicts: reader.byte()? })
    } else {
        None
    };
    // Cut last, put back first: each place was noted in the text as it was before that cut.
    let prid_at = if has(CUT_PRID) { Some(reader.narrow()?) } else { None };
    let param_at = if has(CUT_PARAM) { Some(reader.narrow()?) } else { None };
    let instance_at = if has(CUT_INSTANCE) { Some(reader.narrow()?) } else { None };
    let more = if version > PLAIN && has(HAS_MORE) {
        let length = reader.varint()?;
        reader.bytes(length)?.to_vec()
    } else {
        Vec::new()
    };
    let param = piece(param_at, push.as_ref().map(|push| escaped(&push.param)))?;
    let prid = piece(prid_at, push.as_ref().map(|push| escaped(push.prid.expose())))?;
    let contact = restore(contact, [param, prid])?;
    let params = restore(params, [piece(instance_at, instance.as_deref().map(Cow::Borrowed))?])?;
    Ok(Binding {
        key,
        generation,
        contact,
        params,
        q,
        instance,
        reg_id,
        call_id,
        cseq,
        expires_at,
        registered_at,
        flow,
        path,
        push,
        dead_push,
        pnsreg: has(PNSREG),
        more,
    })
}

fn get_push(reader: &mut Reader<'_>) -> Result<PushTarget, DecodeError> {
    let provider = match reader.byte()? {
        WEBHOOK => Provider::Webhook(WebhookName::new(&text::get(reader)?).map_err(|_| DecodeError)?),
        code => provider_of(code).ok_or(DecodeError)?,
    };
    let param = text::get(reader)?.into_boxed_str();
    Ok(PushTarget { provider, param, prid: Secret::from(text::get(reader)?) })
}

fn put_flow(out: &mut Vec<u8>, flow: &FlowRef) {
    match flow {
        FlowRef::Stream { node, epoch, connection, transport } => {
            out.push(*transport as u8);
            put_varint(out, node.0.into());
            put_varint(out, (*epoch).into());
            put_varint(out, *connection);
        }
        FlowRef::Datagram { node, listener, remote } => {
            out.push(if remote.is_ipv4() { DATAGRAM_V4 } else { DATAGRAM_V6 });
            put_varint(out, node.0.into());
            put_varint(out, (*listener).into());
            match remote {
                SocketAddr::V4(remote) => out.extend_from_slice(&remote.ip().octets()),
                SocketAddr::V6(remote) => {
                    out.extend_from_slice(&remote.ip().octets());
                    put_varint(out, remote.flowinfo().into());
                    put_varint(out, remote.scope_id().into());
                }
            }
            out.extend_from_slice(&remote.port().to_le_bytes());
        }
    }
}

fn get_flow(reader: &mut Reader<'_>) -> Result<FlowRef, DecodeError> {
    let kind = reader.byte()?;
    let node = NodeTag(reader.narrow()?);
    if let Some(transport) = Transport::from_u8(kind) {
        return Ok(FlowRef::Stream { node, epoch: reader.narrow()?, connection: reader.varint()?, transport });
    }
    let listener = reader.narrow()?;
    let remote = match kind {
        DATAGRAM_V4 => {
            let ip = IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?));
            SocketAddr::new(ip, u16::from_le_bytes(reader.array()?))
        }
        DATAGRAM_V6 => {
            let ip = Ipv6Addr::from(reader.array::<16>()?);
            let (flowinfo, scope) = (reader.narrow()?, reader.narrow()?);
            let port = u16::from_le_bytes(reader.array()?);
            SocketAddr::V6(std::net::SocketAddrV6::new(ip, port, flowinfo, scope))
        }
        _ => return Err(DecodeError),
    };
    Ok(FlowRef::Datagram { node, listener, remote })
}

const DATAGRAM_V4: u8 = 32;
const DATAGRAM_V6: u8 = 33;

fn provider_code(provider: Provider) -> u8 {
    match provider {
        Provider::Apns => 1,
        Provider::ApnsSandbox => 2,
        Provider::Fcm => 3,
        Provider::WebPush => 4,
        Provider::Webhook(_) => WEBHOOK,
    }
}

/// The name follows, so that a node which does not know it keeps it all the same.
const WEBHOOK: u8 = 5;

fn provider_of(code: u8) -> Option<Provider> {
    Provider::ALL.into_iter().find(|provider| provider_code(*provider) == code)
}

/// A text from which known values are cut.
struct Cut<'a>(Cow<'a, str>);

impl<'a> Cut<'a> {
    fn new(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// Cuts `value` where it is the whole value of the first parameter `name` (with its `;` and `=`); the place it stood.
    fn cut_value(&mut self, name: &str, value: &str) -> Option<usize> {
        if value.is_empty() {
            return None;
        }
        let (start, rest) = self.after(';', name)?;
        let whole = rest.starts_with(value) && matches!(rest.as_bytes().get(value.len()), None | Some(b';' | b'?'));
        whole.then(|| self.remove(start, value.len()))
    }

    /// Cuts an instance-id: as a rule it stands behind its name, but it may stand anywhere.
    fn cut_instance(&mut self, value: &str) -> Option<usize> {
        let named = self.after('+', "+sip.instance=").filter(|(_, rest)| rest.starts_with(value));
        let start = named.map(|(start, _)| start).or_else(|| self.0.find(value))?;
        Some(self.remove(start, value.len()))
    }

    /// What stands behind the first `name`, which begins with `first`, and where: looking for one character is far cheaper than
    /// for a string.
    fn after(&self, first: char, name: &str) -> Option<(usize, &str)> {
        let mut rests = self.0.match_indices(first).filter_map(|(at, _)| self.0.get(at..));
        let rest = rests.find_map(|rest| rest.strip_prefix(name))?;
        Some((self.0.len() - rest.len(), rest))
    }

    fn remove(&mut self, start: usize, length: usize) -> usize {
        self.0.to_mut().drain(start..start + length);
        start
    }
}

/// `value` as a `pvalue`. Tokens are made of characters that need no escape, as a rule.
fn escaped(value: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'&');
    if value.bytes().all(plain) { Cow::Borrowed(value) } else { Cow::Owned(encode_pvalue(value.as_bytes())) }
}

/// Something cut from a text, and the place it stood.
type Piece<'a> = (u32, Cow<'a, str>);

fn piece(place: Option<u32>, value: Option<Cow<'_, str>>) -> Result<Option<Piece<'_>>, DecodeError> {
    place.map(|place| Ok((place, value.ok_or(DecodeError)?))).transpose()
}

/// Unpacks a text and puts back what was cut from it.
fn restore<const N: usize>(text: text::Packed<'_>, cuts: [Option<Piece<'_>>; N]) -> Result<String, DecodeError> {
    let spare = cuts.iter().flatten().map(|(_, value)| value.len()).sum();
    let mut text = text.unpack(spare)?;
    for (place, value) in cuts.into_iter().flatten() {
        let place = place as usize;
        if !text.is_char_boundary(place) {
            return Err(DecodeError);
        }
        text.insert_str(place, &value);
    }
    Ok(text)
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference that is small either way becomes a small number.
fn zigzag(difference: u64) -> u64 {
    let signed = difference as i64;
    ((signed << 1) ^ (signed >> 63)) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.0.split_first().ok_or(DecodeError)?;
        self.0 = rest;
        Ok(first)
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError)
    }

    fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, DecodeError> {
        T::try_from(self.varint()?).map_err(|_| DecodeError)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bytes(N as u64)?.try_into().map_err(|_| DecodeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortcut for values that need no escape must agree with the escape itself.
    #[test]
    fn the_shortcut_escapes_alike() {
        for byte in 0..=0x7f_u8 {
            let value = String::from_utf8(vec![b'a', byte, b'z']).unwrap();
            assert_eq!(escaped(&value), encode_pvalue(value.as_bytes()), "{byte:#x}");
        }
    }

    /// A text of more runs than one octet counts comes back as it was.
    #[test]
    fn many_runs_survive() {
        for runs in [126, 127, 128, 129, 400] {
            let long = ";transport=tls x".repeat(runs);
            let mut bytes = Vec::new();
            text::put(&mut bytes, &long);
            assert_eq!(text::get(&mut Reader(&bytes)).ok().as_deref(), Some(long.as_str()), "{runs}");
        }
    }
}
