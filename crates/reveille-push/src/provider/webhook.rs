//! Names of push services that an operator adds (P-021): the configuration says how they are called in `pn-provider`.

use std::{fmt, sync::OnceLock};

/// The `pn-provider` of an operator's own push service. A number in one byte, since every binding holds one: the names stand in
/// a table of the process, which only grows, and never beyond 250.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookName(u8);

/// Why a name cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookNameError {
    /// It has to stand in `pn-provider` and `sip.pns` alike, unescaped, in at most 32 characters (P-009).
    #[error("must be 1 to 32 letters, digits, dots and hyphens")]
    Grammar,
    /// The name means a push service that is built in.
    #[error("means a push service that is built in")]
    BuiltIn,
    /// There are too many names already.
    #[error("more than 250 names")]
    TooMany,
}

impl WebhookName {
    /// The name, taken into the table where it is not there yet. Upper and lower case are the same (P-008).
    ///
    /// # Errors
    /// Where it cannot be a name, or the table is full.
    pub fn new(name: &str) -> Result<Self, WebhookNameError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if name.is_empty() || name.len() > super::super::target::MAX_PROVIDER || !name.bytes().all(fits) {
            return Err(WebhookNameError::Grammar);
        }
        if super::Provider::ALL.iter().any(|known| known.as_str().eq_ignore_ascii_case(name)) {
            return Err(WebhookNameError::BuiltIn);
        }
        for (at, slot) in (0..).zip(&NAMES) {
            if slot.get_or_init(|| name.to_ascii_lowercase()).eq_ignore_ascii_case(name) {
                return Ok(Self(at));
            }
        }
        Err(WebhookNameError::TooMany)
    }

    /// The name as it is written: in lower case.
    pub fn as_str(self) -> &'static str {
        NAMES.get(usize::from(self.0)).and_then(OnceLock::get).map_or("", String::as_str)
    }

    /// A name that is in the table.
    pub(super) fn find(name: &str) -> Option<Self> {
        let known = NAMES.iter().map_while(OnceLock::get);
        (0..).zip(known).find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(at, _)| Self(at))
    }
}

impl fmt::Debug for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a process can know. They come from configurations, its own and, through stored bindings, its cluster's.
const MOST: usize = 250;
static NAMES: [OnceLock<String>; MOST] = [const { OnceLock::new() }; MOST];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Provider;

    #[test]
    fn names_are_kept_once_and_found_in_any_case_p008_p021() {
        let name = WebhookName::new("Acme-Push").unwrap();
        assert_eq!(name.as_str(), "acme-push");
        assert_eq!(WebhookName::new("ACME-push"), Ok(name));
        assert_eq!(Provider::from_token("aCme-push"), Some(Provider::Webhook(name)));
        assert_eq!(Provider::Webhook(name).to_string(), "acme-push");
        assert!(crate::caps::is_tag_value(name.as_str()));
        assert_eq!(size_of::<Provider>(), 2);
    }

    #[test]
    fn what_would_confuse_is_no_name() {
        for (name, error) in [
            ("", WebhookNameError::Grammar),
            ("a b", WebhookNameError::Grammar),
            ("a;b", WebhookNameError::Grammar),
            ("a=b", WebhookNameError::Grammar),
            ("abcdefghijklmnopqrstuvwxyz0123456", WebhookNameError::Grammar),
            ("APNS", WebhookNameError::BuiltIn),
            ("apns.dev", WebhookNameError::BuiltIn),
        ] {
            assert_eq!(WebhookName::new(name), Err(error), "{name:?}");
        }
    }
}
