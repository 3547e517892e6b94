//! What a Contact URI says about push (RFC 8599 §4.1; P-001 to P-020, P-034).

use std::fmt;

use reveille_sip::uri::Uri;

pub use crate::escape;
use crate::escape::decode_pvalue;
use crate::provider::Provider;
use crate::secret::Secret;
use crate::service::PushClass;
pub use crate::strip::{is_pn_name, strip, strip_keeping_purr, strip_params};
use crate::{apns_param, fcm, webpush};

/// Longest decoded `pn-provider`, in octets (P-009).
pub const MAX_PROVIDER: usize = 32;
/// Longest decoded `pn-param`, in octets (P-009).
pub const MAX_PARAM: usize = 256;
/// Longest decoded `pn-prid`, in octets (P-009).
pub const MAX_PRID: usize = 2048;

/// The address of one app instance at its push service: the three push parameters, decoded, otherwise verbatim (P-005).
///
/// Equality is that of P-008: the provider by its meaning, the others octet by octet.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PushTarget {
    /// The push service.
    pub provider: Provider,
    /// `pn-param`; empty for Web Push, which has none (P-018).
    pub param: Box<str>,
    /// `pn-prid`: a secret.
    pub prid: Secret,
}

impl PushTarget {
    /// Checks param and PRID against what the provider understands.
    ///
    /// # Errors
    /// [`InvalidPush`] where the information is sound SIP but of no use to this provider (P-036).
    pub fn new(provider: Provider, param: Option<&str>, prid: &str) -> Result<Self, InvalidPush> {
        let check = match provider {
            Provider::Apns | Provider::ApnsSandbox => {
                let param = param.ok_or(InvalidPush::MissingParam)?;
                apns_param::address(param, prid, PushClass::Call).map(drop).map_err(InvalidPush::from)
            }
            Provider::Fcm => fcm::validate(param.ok_or(InvalidPush::MissingParam)?, prid).map_err(InvalidPush::from),
            Provider::WebPush => webpush::validate(param, prid).map_err(InvalidPush::from),
            // What they mean is between the phone and the operator's service.
            Provider::Webhook(_) => Ok(()),
        };
        check.map(|()| PushTarget { provider, param: param.unwrap_or_default().into(), prid: Secret::from(prid) })
    }

    /// Whether a push of this class may go to this target: APNs `voip` tokens are for calls alone (P-151).
    pub fn can_wake(&self, class: PushClass) -> bool {
        !self.provider.is_apns()
            || apns_param::address(&self.param, self.prid.expose(), class).is_ok_and(|address| address.is_some())
    }
}

impl fmt::Debug for PushTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushTarget").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// What one Contact asks for, before its expiry is looked at (the table of P-034: an expiry of 0 removes in any case).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContactPush {
    /// No `pn-provider`: an ordinary registration.
    None,
    /// A bare `pn-provider` and no PRID: which types are there? (P-040)
    QueryAll,
    /// A provider and no PRID: is this type there? `Err` holds the name of one that we do not know.
    Query(Result<Provider, Box<str>>),
    /// A push target that its provider can make sense of.
    Target(PushTarget),
    /// Push information that cannot be used; [`InvalidPush::status`] says how to answer.
    Invalid(InvalidPush),
    /// A PRID for a provider that we do not know, whose name this is (P-036).
    Unknown(Box<str>),
}

/// Why push information cannot be used. No variant carries any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPush {
    /// A push parameter appears twice (P-004).
    #[error("push parameter appears twice")]
    Duplicate,
    /// An escape is broken, or a value holds a control character or is not UTF-8 (P-004).
    #[error("push parameter is malformed")]
    Malformed,
    /// `pn-param`, `pn-prid` or `pn-purr` without a value (P-002).
    #[error("push parameter without a value")]
    NoValue,
    /// A value is longer than P-009 allows.
    #[error("push parameter is too long")]
    TooLong,
    /// A PRID, but `pn-provider` is bare (P-034).
    #[error("PRID without a provider")]
    MissingProvider,
    /// The provider needs a `pn-param`.
    #[error("provider needs pn-param")]
    MissingParam,
    /// APNs cannot use it.
    #[error("apns: {0}")]
    Apns(#[from] apns_param::ApnsError),
    /// FCM cannot use it.
    #[error("fcm: {0}")]
    Fcm(#[from] fcm::FcmError),
    /// Web Push cannot use it.
    #[error("webpush: {0}")]
    WebPush(#[from] webpush::WebPushError),
}

impl InvalidPush {
    /// 400 where the parameters themselves are wrong (P-004, P-009); 555 where they are sound but useless to the provider,
    /// which policy may turn into an acceptance without push (P-036).
    pub fn status(self) -> u16 {
        match self {
            Self::Duplicate | Self::Malformed | Self::NoValue | Self::TooLong => 400,
            Self::MissingProvider | Self::MissingParam | Self::Apns(_) | Self::Fcm(_) | Self::WebPush(_) => 555,
        }
    }
}

/// Reads the push parameters of a Contact URI (P-001). Parameters of the Contact *header* do not count (P-010).
pub fn from_contact_uri(uri: &Uri<'_>) -> ContactPush {
    from_params(uri.params())
}

/// Whether the URI carries any push parameter at all, known or extra: such a REGISTER needs strong transport (P-112) and
/// such a URI must not reach a peer (P-105).
pub fn has_pn(uri: &Uri<'_>) -> bool {
    uri.params().any(|(name, _)| is_pn_name(name))
}

/// [`from_contact_uri`] over the URI parameters alone: name and value as they stood on the wire.
pub fn from_params<'a>(params: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> ContactPush {
    match read(params) {
        Ok(push) => push,
        Err(invalid) => ContactPush::Invalid(invalid),
    }
}

fn read<'a>(params: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<ContactPush, InvalidPush> {
    let (mut provider, mut param, mut prid, mut purr) = (None, None, None, None);
    for (name, value) in params {
        let slot = match crate::strip::canonical_name(name).as_ref() {
            "pn-provider" => &mut provider,
            "pn-param" => &mut param,
            "pn-prid" => &mut prid,
            "pn-purr" => &mut purr,
            _ => continue,
        };
        // `pn-provider=` is not grammatical and read as bare (P-002).
        let value = value.filter(|value| !value.is_empty());
        if slot.replace(value).is_some() {
            return Err(InvalidPush::Duplicate);
        }
    }
    let provider = provider.map(|value| value.map(|v| decode(v, MAX_PROVIDER)).transpose()).transpose()?;
    let param = valued(param, MAX_PARAM)?;
    let prid = valued(prid, MAX_PRID)?.map(Secret::from);
    valued(purr, MAX_PARAM)?;

    let Some(provider) = provider else { return Ok(ContactPush::None) };
    let Some(name) = provider else {
        return if prid.is_some() { Err(InvalidPush::MissingProvider) } else { Ok(ContactPush::QueryAll) };
    };
    let known = Provider::from_token(&name).ok_or_else(|| name.into_boxed_str());
    Ok(match (known, prid) {
        (known, None) => ContactPush::Query(known),
        (Err(name), Some(_)) => ContactPush::Unknown(name),
        (Ok(provider), Some(prid)) => ContactPush::Target(PushTarget::new(provider, param.as_deref(), prid.expose())?),
    })
}

/// Decodes a parameter that needs a value where it appears at all.
fn valued(param: Option<Option<&str>>, limit: usize) -> Result<Option<String>, InvalidPush> {
    match param {
        None => Ok(None),
        Some(None) => Err(InvalidPush::NoValue),
        Some(Some(value)) => decode(value, limit).map(Some),
    }
}

fn decode(value: &str, limit: usize) -> Result<String, InvalidPush> {
    // Three octets of escape make one, so this refuses nothing that could fit.
    if value.len() > limit * 3 {
        return Err(InvalidPush::TooLong);
    }
    let octets = decode_pvalue(value).map_err(|_| InvalidPush::Malformed)?;
    if octets.len() > limit {
        return Err(InvalidPush::TooLong);
    }
    let text = String::from_utf8(octets).map_err(|_| InvalidPush::Malformed)?;
    if text.chars().any(char::is_control) { Err(InvalidPush::Malformed) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
