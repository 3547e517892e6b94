//! Which binding a Contact means (P-045, P-046, S-118, S-123).

use std::{borrow::Cow, net::IpAddr};

use reveille_push::PushTarget;
use reveille_sip::uri::{self, Uri};

use super::{Binding, BindingKey, Record, fingerprint};

/// What tells a Contact's binding from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) uri: &'a str,
    pub(crate) instance: Option<&'a str>,
    /// `reg-id`, if it is to be honoured.
    pub(crate) reg_id: Option<u32>,
    pub(crate) push: Option<&'a PushTarget>,
}

impl Identity<'_> {
    /// The binding that a registration refreshes or replaces. `touched` were already matched by an earlier Contact of the same
    /// REGISTER and can only be matched again by the same URI.
    pub(crate) fn find(&self, record: &Record, touched: &[BindingKey]) -> Option<BindingKey> {
        let family = AddressFamily::of(self.uri);
        let candidates = || {
            record.bindings.iter().filter(|binding| {
                !touched.contains(&binding.key) || same_uri(self.uri, &binding.contact) || self.reg_id.is_some()
            })
        };
        if let Some(instance) = self.instance {
            let named = |binding: &&Binding| {
                binding.reg_id == self.reg_id
                    && binding.instance.as_deref().is_some_and(|other| same_instance(instance, other))
            };
            // A phone may hold two Contacts of one instance without reg-id (IPv4 and IPv6): the likest is meant.
            let likeness = |binding: &&Binding| {
                let family_fits = AddressFamily::of(&binding.contact) == family;
                (same_uri(self.uri, &binding.contact), family_fits, binding.registered_at)
            };
            if let Some(binding) = candidates().filter(named).max_by_key(likeness) {
                return Some(binding.key);
            }
            if self.reg_id.is_some() {
                return None;
            }
            // The phone now says who it is, on a binding it made without saying so.
            let unnamed = |binding: &&Binding| binding.instance.is_none() && same_uri(self.uri, &binding.contact);
            return candidates().find(unnamed).map(|binding| binding.key);
        }
        let unnamed = |binding: &&Binding| binding.instance.is_none() || binding.reg_id.is_none();
        let by_uri = candidates().filter(unnamed).find(|binding| same_uri(self.uri, &binding.contact));
        let by_token = || {
            // The same token from another address: the phone moved. From the other address family: its second binding.
            // A token that was called dead still tells whose binding it was (P-156).
            let push = self.push?;
            let token = fingerprint(push);
            candidates().filter(|binding| binding.instance.is_none()).find(|binding| {
                let same = binding.push.as_ref() == Some(push)
                    || (binding.push.is_none() && binding.dead_push.is_some_and(|dead| dead.target == token));
                same && AddressFamily::of(&binding.contact) == family
            })
        };
        by_uri.or_else(by_token).map(|binding| binding.key)
    }

    /// The bindings that a removal means: by instance or by URI, push parameters ignored, since a removal carries no PRID
    /// (P-046).
    pub(crate) fn find_removed(&self, record: &Record, call_id: &str) -> Vec<BindingKey> {
        if self.instance.is_some()
            && let Some(key) = self.find(record, &[])
        {
            return vec![key];
        }
        let fits = |binding: &&Binding| {
            same_uri(self.uri, &binding.contact)
                && match (self.instance, &binding.instance) {
                    (Some(instance), Some(other)) => same_instance(instance, other) && self.reg_id.is_none(),
                    _ => true,
                }
        };
        let all: Vec<&Binding> = record.bindings.iter().filter(fits).collect();
        // Two phones may have chosen the same private address: the Call-ID tells whose removal this is.
        let own: Vec<BindingKey> =
            all.iter().filter(|binding| binding.call_id == call_id).map(|binding| binding.key).collect();
        if own.is_empty() { all.iter().map(|binding| binding.key).collect() } else { own }
    }
}

/// URI equality of RFC 3261 §19.1.4, leaving out the push parameters. Texts that are no URIs are equal if they are the same.
pub(crate) fn same_uri(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (Uri::parse(one), Uri::parse(other)) {
        (Ok(one), Ok(other)) => uri::equal_ignoring(&one, &other, |name| name.starts_with("pn-")),
        _ => false,
    }
}

/// Whether two instance-ids name one phone: as URNs, where a UUID's case does not count (S-123).
pub fn same_instance(one: &str, other: &str) -> bool {
    canonical_instance(one) == canonical_instance(other)
}

/// The URN inside quotes and brackets, with what does not count in it lowered.
pub(super) fn canonical_instance(instance: &str) -> Cow<'_, str> {
    let urn = instance.trim().trim_matches('"').trim_start_matches('<').trim_end_matches('>');
    let is_uuid = urn.get(..9).is_some_and(|head| head.eq_ignore_ascii_case("urn:uuid:"));
    if is_uuid && urn.bytes().any(|octet| octet.is_ascii_uppercase()) {
        return Cow::Owned(urn.to_ascii_lowercase());
    }
    // RFC 8141 §3.1: "urn" and the namespace are case-insensitive, the rest is not.
    let specific = urn.match_indices(':').nth(1).map(|(at, _)| at);
    match specific.and_then(|at| urn.split_at_checked(at)) {
        Some((head, rest)) if head.bytes().any(|octet| octet.is_ascii_uppercase()) => {
            Cow::Owned(head.to_ascii_lowercase() + rest)
        }
        _ => Cow::Borrowed(urn),
    }
}

/// The kind of address a Contact gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// A name.
    Name,
}

impl AddressFamily {
    /// The family of a URI's host.
    pub fn of(uri: &str) -> Self {
        match Uri::parse(uri).ok().and_then(|uri| uri.host_ip()) {
            Some(IpAddr::V4(_)) => Self::V4,
            Some(IpAddr::V6(_)) => Self::V6,
            None => Self::Name,
        }
    }
}
