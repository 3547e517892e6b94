//! `pn-param` and `pn-prid` of APNs (RFC 8599 §10; P-011 to P-015), and which token may wake for what (P-151).

use crate::service::PushClass;

/// A service of an app: each has a device token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApnsService {
    /// PushKit: wakes the app for an incoming call, and for nothing else.
    Voip,
    /// Ordinary remote notifications.
    Remote,
}

impl ApnsService {
    /// The service's name in `pn-param` and as suffix of a token.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApnsService::Voip => "voip",
            ApnsService::Remote => "remote",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "voip" => Some(ApnsService::Voip),
            "remote" => Some(ApnsService::Remote),
            _ => None,
        }
    }
}

/// The services an app declares: one or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApnsServices {
    /// `voip` is declared.
    pub voip: bool,
    /// `remote` is declared, or implied by naming no service.
    pub remote: bool,
}

/// Why APNs push information cannot be used (P-036).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApnsError {
    /// The team is not ten of `[A-Z0-9]`.
    #[error("team identifier is malformed")]
    Team,
    /// The bundle identifier is empty or holds other than letters, digits, hyphens and dots.
    #[error("bundle identifier is malformed")]
    Bundle,
    /// A token is not 8 to 512 hexadecimal digits.
    #[error("device token is malformed")]
    Token,
    /// Tokens and declared services do not correspond one to one.
    #[error("device tokens do not match the declared services")]
    Services,
}

/// A parsed APNs `pn-param`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApnsParam<'a> {
    /// Team identifier, ten characters.
    pub team: &'a str,
    /// Bundle identifier, without a service.
    pub bundle: &'a str,
    /// What the tokens are for.
    pub services: ApnsServices,
}

impl<'a> ApnsParam<'a> {
    /// Reads a decoded `pn-param`: `TEAM.bundle.identifier[.service[&service]]`.
    ///
    /// The last label is a service only when it is one, so that `TEAM.com.example.app` keeps its `app` (P-012).
    ///
    /// # Errors
    /// [`ApnsError::Team`] or [`ApnsError::Bundle`].
    pub fn parse(param: &'a str) -> Result<Self, ApnsError> {
        let (team, rest) = param.split_once('.').ok_or(ApnsError::Team)?;
        if team.len() != 10 || !team.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) {
            return Err(ApnsError::Team);
        }
        let declared = rest.rsplit_once('.').and_then(|(bundle, last)| Some((bundle, services(last)?)));
        let (bundle, services) = declared.unwrap_or((rest, ApnsServices { voip: false, remote: true }));
        let label = |label: &str| !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !bundle.split('.').all(label) {
            return Err(ApnsError::Bundle);
        }
        Ok(ApnsParam { team, bundle, services })
    }

    /// The topic of a service: what goes into `apns-topic` (P-015).
    pub fn topic(&self, service: ApnsService) -> String {
        match service {
            ApnsService::Voip => format!("{}.voip", self.bundle),
            ApnsService::Remote => self.bundle.to_owned(),
        }
    }
}

/// The device tokens of a decoded `pn-prid`, by service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApnsTokens<'a> {
    voip: Option<&'a str>,
    remote: Option<&'a str>,
}

impl<'a> ApnsTokens<'a> {
    /// Reads `TOKEN`, `TOKEN:service` or `TOKEN:service&TOKEN:service` (P-013).
    ///
    /// # Errors
    /// [`ApnsError::Token`] for a malformed token, [`ApnsError::Services`] where tokens and services differ.
    pub fn parse(services: ApnsServices, prid: &'a str) -> Result<Self, ApnsError> {
        let mut tokens = ApnsTokens { voip: None, remote: None };
        for part in prid.split('&') {
            let (token, service) = match part.split_once(':') {
                Some((token, name)) => (token, ApnsService::from_name(name).ok_or(ApnsError::Services)?),
                // Only where there is no choice may the suffix be left out.
                None => match (services.voip, services.remote) {
                    (true, false) => (part, ApnsService::Voip),
                    (false, true) => (part, ApnsService::Remote),
                    _ => return Err(ApnsError::Services),
                },
            };
            if !(8..=512).contains(&token.len()) || !token.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(ApnsError::Token);
            }
            let slot = match service {
                ApnsService::Voip => &mut tokens.voip,
                ApnsService::Remote => &mut tokens.remote,
            };
            if slot.replace(token).is_some() {
                return Err(ApnsError::Services);
            }
        }
        let found = ApnsServices { voip: tokens.voip.is_some(), remote: tokens.remote.is_some() };
        if found == services { Ok(tokens) } else { Err(ApnsError::Services) }
    }

    /// The token of a service, if the app has one. A secret: neither print nor keep it.
    pub fn token(&self, service: ApnsService) -> Option<&'a str> {
        match service {
            ApnsService::Voip => self.voip,
            ApnsService::Remote => self.remote,
        }
    }
}

impl std::fmt::Debug for ApnsTokens<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApnsTokens")
            .field("voip", &self.voip.map(|_| "…"))
            .field("remote", &self.remote.map(|_| "…"))
            .finish()
    }
}

/// Where one push goes.
#[derive(Clone, PartialEq, Eq)]
pub struct ApnsAddress<'a> {
    /// Team whose credential signs.
    pub team: &'a str,
    /// Bundle identifier of the app.
    pub bundle: &'a str,
    /// The service whose token this is.
    pub service: ApnsService,
    /// `apns-topic`.
    pub topic: String,
    /// Device token: a secret.
    pub token: &'a str,
}

impl std::fmt::Debug for ApnsAddress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApnsAddress")
            .field("topic", &self.topic)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Chooses token and topic for a push of `class`: calls by `voip` where there is one, everything else by `remote` alone,
/// since a `voip` push that brings no call gets the app killed (P-145, P-151).
///
/// `Ok(None)`: the app has no token that this class may use.
///
/// # Errors
/// [`ApnsError`] where the push information is malformed.
pub fn address<'a>(param: &'a str, prid: &'a str, class: PushClass) -> Result<Option<ApnsAddress<'a>>, ApnsError> {
    let param = ApnsParam::parse(param)?;
    let tokens = ApnsTokens::parse(param.services, prid)?;
    let preferred = match class {
        PushClass::Call => [Some(ApnsService::Voip), Some(ApnsService::Remote)],
        PushClass::Dialog | PushClass::Request | PushClass::Refresh => [Some(ApnsService::Remote), None],
    };
    Ok(preferred.into_iter().flatten().find_map(|service| {
        let token = tokens.token(service)?;
        Some(ApnsAddress { team: param.team, bundle: param.bundle, service, topic: param.topic(service), token })
    }))
}

/// A `&` list of distinct services, or `None` if `label` is not such a list.
fn services(label: &str) -> Option<ApnsServices> {
    let mut found = ApnsServices { voip: false, remote: false };
    for name in label.split('&') {
        let slot = match ApnsService::from_name(name)? {
            ApnsService::Voip => &mut found.voip,
            ApnsService::Remote => &mut found.remote,
        };
        if std::mem::replace(slot, true) {
            return None;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOIP: ApnsServices = ApnsServices { voip: true, remote: false };
    const REMOTE: ApnsServices = ApnsServices { voip: false, remote: true };
    const BOTH: ApnsServices = ApnsServices { voip: true, remote: true };

    /// P-011, P-012, P-013.
    #[test]
    fn params_split_at_first_and_last_dot() {
        let cases = [
            ("9TEAM42XYZ.org.example.phone.voip", Ok(("org.example.phone", VOIP))),
            ("9TEAM42XYZ.org.example.phone.remote", Ok(("org.example.phone", REMOTE))),
            ("9TEAM42XYZ.org.example.phone", Ok(("org.example.phone", REMOTE))),
            ("9TEAM42XYZ.org.example.phone.voip&remote", Ok(("org.example.phone", BOTH))),
            ("9TEAM42XYZ.org.example.phone.remote&voip", Ok(("org.example.phone", BOTH))),
            ("9TEAM42XYZ.phone", Ok(("phone", REMOTE))),
            ("9TEAM42XYZ.voip", Ok(("voip", REMOTE))),
            ("9TEAM42XYZ.org.example.phone.voip&voip", Err(ApnsError::Bundle)),
            ("9TEAM42XYZ.org.example.phone.voip&call", Err(ApnsError::Bundle)),
            ("9TEAM42XYZ..voip", Err(ApnsError::Bundle)),
            ("9TEAM42XYZ.", Err(ApnsError::Bundle)),
            ("9TEAM42XYZ", Err(ApnsError::Team)),
            ("9team42xyz.org.example", Err(ApnsError::Team)),
            ("TEAM.org.example", Err(ApnsError::Team)),
            ("", Err(ApnsError::Team)),
        ];
        for (param, expected) in cases {
            let parsed = ApnsParam::parse(param).map(|p| (p.bundle, p.services));
            assert_eq!(parsed, expected, "{param}");
        }
    }

    /// P-012, P-013: number and names of tokens against services.
    #[test]
    fn tokens_match_services() {
        let cases = [
            (VOIP, "aa11bb22", Ok((Some("aa11bb22"), None))),
            (VOIP, "aa11bb22:voip", Ok((Some("aa11bb22"), None))),
            (REMOTE, "AA11BB22", Ok((None, Some("AA11BB22")))),
            (BOTH, "aa11bb22:voip&cc33dd44:remote", Ok((Some("aa11bb22"), Some("cc33dd44")))),
            (BOTH, "cc33dd44:remote&aa11bb22:voip", Ok((Some("aa11bb22"), Some("cc33dd44")))),
            (VOIP, "aa11bb22:remote", Err(ApnsError::Services)),
            (VOIP, "aa11bb22:voip&cc33dd44:remote", Err(ApnsError::Services)),
            (BOTH, "aa11bb22:voip", Err(ApnsError::Services)),
            (BOTH, "aa11bb22&cc33dd44", Err(ApnsError::Services)),
            (BOTH, "aa11bb22:voip&cc33dd44:voip", Err(ApnsError::Services)),
            (REMOTE, "aa11bb22:else", Err(ApnsError::Services)),
            (REMOTE, "aa11bb2", Err(ApnsError::Token)),
            (REMOTE, "xx11bb22", Err(ApnsError::Token)),
            (REMOTE, "", Err(ApnsError::Token)),
        ];
        for (services, prid, expected) in cases {
            let parsed = ApnsTokens::parse(services, prid).map(|t| (t.voip, t.remote));
            assert_eq!(parsed, expected, "{prid}");
        }
        assert!(ApnsTokens::parse(REMOTE, &"a".repeat(512)).is_ok());
        assert!(ApnsTokens::parse(REMOTE, &"a".repeat(513)).is_err());
    }

    /// P-015, P-145, P-151: voip wakes for calls only.
    #[test]
    fn classes_choose_token_and_topic() {
        use PushClass::{Call, Refresh, Request};
        let voip = ("9TEAM42XYZ.org.example.phone.voip", "aa11bb22");
        let remote = ("9TEAM42XYZ.org.example.phone", "cc33dd44");
        let both = ("9TEAM42XYZ.org.example.phone.voip&remote", "aa11bb22:voip&cc33dd44:remote");
        let by_voip = Some(("aa11bb22", "org.example.phone.voip"));
        let by_remote = Some(("cc33dd44", "org.example.phone"));
        let cases = [
            (voip, Call, by_voip),
            (voip, Request, None),
            (voip, Refresh, None),
            (remote, Call, by_remote),
            (remote, Request, by_remote),
            (remote, Refresh, by_remote),
            (both, Call, by_voip),
            (both, Request, by_remote),
            (both, Refresh, by_remote),
        ];
        for ((param, prid), class, expected) in cases {
            let found = address(param, prid, class).unwrap();
            assert_eq!(found.as_ref().map(|a| (a.token, a.topic.as_str())), expected, "{param} {class:?}");
        }
    }

    /// P-109.
    #[test]
    fn debug_shows_no_token() {
        let tokens = ApnsTokens::parse(VOIP, "aa11bb22").unwrap();
        let address = address("9TEAM42XYZ.org.example.phone.voip", "aa11bb22", PushClass::Call).unwrap();
        assert!(!format!("{tokens:?} {address:?}").contains("aa11bb22"));
    }
}
