//! The push notification services we can speak to (RFC 8599 §14.5; P-101).

mod webhook;

use std::fmt;

pub use self::webhook::{WebhookName, WebhookNameError};

/// A push notification service, as named by `pn-provider`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// Apple Push Notification service (`apns`).
    Apns,
    /// Its sandbox environment (`apns.dev`): in wide use, though not registered with IANA (P-014).
    ApnsSandbox,
    /// Firebase Cloud Messaging (`fcm`).
    Fcm,
    /// Web Push (`webpush`).
    WebPush,
    /// A push service that the operator has added, by its own name (P-021).
    Webhook(WebhookName),
}

impl Provider {
    /// Every provider that is built in, in the order in which they are announced.
    pub const ALL: [Provider; 4] = [Provider::Apns, Provider::ApnsSandbox, Provider::Fcm, Provider::WebPush];

    /// The token used on the wire, in `pn-provider` and in `sip.pns` alike.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Apns => "apns",
            Provider::ApnsSandbox => "apns.dev",
            Provider::Fcm => "fcm",
            Provider::WebPush => "webpush",
            Provider::Webhook(name) => name.as_str(),
        }
    }

    /// The provider of a token; upper and lower case are the same (P-008). `None` for a name we do not know.
    pub fn from_token(token: &str) -> Option<Provider> {
        let built_in = Provider::ALL.into_iter().find(|provider| provider.as_str().eq_ignore_ascii_case(token));
        built_in.or_else(|| WebhookName::find(token).map(Provider::Webhook))
    }

    /// Whether this is Apple's service, of either environment.
    pub const fn is_apns(self) -> bool {
        matches!(self, Provider::Apns | Provider::ApnsSandbox)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-008, P-014, P-017, P-101.
    #[test]
    fn tokens_are_read_without_regard_to_case() {
        let cases = [
            ("apns", Some(Provider::Apns)),
            ("APNS", Some(Provider::Apns)),
            ("apns.dev", Some(Provider::ApnsSandbox)),
            ("Fcm", Some(Provider::Fcm)),
            ("webPush", Some(Provider::WebPush)),
            ("firebase", None),
            ("android", None),
            ("", None),
            ("apns ", None),
        ];
        for (token, provider) in cases {
            assert_eq!(Provider::from_token(token), provider, "{token:?}");
        }
        for provider in Provider::ALL {
            assert_eq!(Provider::from_token(provider.as_str()), Some(provider));
        }
    }
}
