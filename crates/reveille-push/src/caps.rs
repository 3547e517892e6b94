//! Feature-Caps indicators of push (RFC 8599 §8; RFC 6809 §6.2.1; P-022 to P-033, P-035, P-099).

use std::fmt;

use crate::provider::Provider;
use crate::strip::{canonical_name, split_outside_quotes};

/// Name of the header field (P-102).
pub const HEADER: &str = "Feature-Caps";

/// What one Feature-Caps header field says of one push type. Each type has a header field of its own (P-022), so the
/// further indicators stand beside the `sip.pns` they belong to and never alone (P-023).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Value of `sip.pns`.
    pub provider: Provider,
    /// Public VAPID key: P-256 point, base64url without padding. Written for Web Push only (P-026).
    pub vapid: Option<String>,
    /// Seconds before expiry at which a self-refreshing client should act. Written only above 120 (P-027).
    pub pnsreg: Option<u32>,
    /// Handle for mid-dialog wake-ups (P-030).
    pub purr: Option<String>,
}

impl Announcement {
    /// Announces the provider and nothing else, as in the answer to a query.
    pub fn new(provider: Provider) -> Self {
        Announcement { provider, vapid: None, pnsreg: None, purr: None }
    }

    /// The value of one Feature-Caps header field.
    pub fn to_header_value(&self) -> String {
        self.to_string()
    }
}

/// Writes the header value; an indicator whose value its grammar cannot hold is left out rather than written wrong.
impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*;+sip.pns=\"{}\"", self.provider)?;
        match &self.vapid {
            Some(key) if self.provider == Provider::WebPush && is_tag_value(key) => write!(f, ";+sip.vapid=\"{key}\"")?,
            _ => {}
        }
        match self.pnsreg {
            Some(seconds) if seconds > 120 => write!(f, ";+sip.pnsreg=\"{seconds}\"")?,
            _ => {}
        }
        match &self.purr {
            Some(purr) if is_tag_value(purr) => write!(f, ";+sip.pnspurr=\"{purr}\""),
            _ => Ok(()),
        }
    }
}

/// Whether `text` is a `tag-value` (RFC 3840 §9): what the quotes of `sip.pns`, `sip.vapid` and `sip.pnspurr` may hold.
pub fn is_tag_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.%*_+'~`".contains(&c))
}

/// Whether a Contact says that the client can refresh by itself: the media feature tag `+sip.pnsreg` among the Contact's
/// *header* parameters, bare or in the long form of a boolean tag (P-028; RFC 3840 §9).
pub fn wants_pnsreg<'a>(contact_params: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> bool {
    let truth = |value: Option<&str>| value.is_none_or(|v| v.trim_matches('"').eq_ignore_ascii_case("TRUE"));
    contact_params.into_iter().any(|(name, value)| name.eq_ignore_ascii_case("+sip.pnsreg") && truth(value))
}

/// Whether a Feature-Caps value announces a push type: then a proxy nearer to the client has taken the job (P-035).
pub fn carries_pns(value: &str) -> bool {
    pns_tokens(value).next().is_some()
}

/// The push types that a Feature-Caps value announces, as written; comma-joined fields are read too (P-022).
pub fn pns_tokens(value: &str) -> impl Iterator<Item = &str> {
    split_outside_quotes(value, ',', true).flat_map(|field| split_outside_quotes(field, ';', true).skip(1)).filter_map(
        |indicator| {
            let (name, value) = indicator.split_once('=')?;
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
            canonical_name(name.trim()).eq("+sip.pns").then_some(value)
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// P-022 to P-027, P-030, P-033.
    #[test]
    fn announcements_are_written() {
        let mut full = Announcement {
            provider: Provider::WebPush,
            vapid: Some("BPdx-_Qk".into()),
            pnsreg: Some(180),
            purr: Some("3f9c0ab1".into()),
        };
        assert_eq!(
            full.to_header_value(),
            "*;+sip.pns=\"webpush\";+sip.vapid=\"BPdx-_Qk\";+sip.pnsreg=\"180\";+sip.pnspurr=\"3f9c0ab1\""
        );
        assert_eq!(Announcement::new(Provider::Apns).to_header_value(), "*;+sip.pns=\"apns\"");
        assert_eq!(Announcement::new(Provider::ApnsSandbox).to_header_value(), "*;+sip.pns=\"apns.dev\"");

        full.vapid = Some("BPdx==".into());
        full.pnsreg = Some(120);
        full.purr = Some("a\"b".into());
        assert_eq!(full.to_header_value(), "*;+sip.pns=\"webpush\"", "what the grammar forbids is not written");

        full.provider = Provider::Fcm;
        full.vapid = Some("BPdx".into());
        assert_eq!(full.to_header_value(), "*;+sip.pns=\"fcm\"", "P-026: a VAPID key is for Web Push only");
    }

    /// P-028, P-029: only the right spelling counts.
    #[test]
    fn self_refreshing_clients_are_recognised() {
        assert!(wants_pnsreg([("q", Some("0.5")), ("+sip.pnsreg", None)]));
        assert!(wants_pnsreg([("+SIP.PNSREG", Some("\"TRUE\""))]));
        assert!(!wants_pnsreg([("+sip.pnsreg", Some("\"FALSE\""))]));
        assert!(!wants_pnsreg([("+sip.pnsreq", None), ("sip.pnsreg", None)]));
    }

    /// P-022, P-035, P-102.
    #[test]
    fn pns_is_found_in_any_form() {
        let cases: [(&str, &[&str]); 8] = [
            ("*;+sip.pns=\"apns\"", &["apns"]),
            ("*;+SIP.PNS=\"apns\", *;+sip.pns=\"fcm\"", &["apns", "fcm"]),
            ("* ; +sip.pns = \"fcm\"", &["fcm"]),
            ("*;+sip.pns=fcm", &["fcm"]),
            ("*;+x=\"a,b;+sip.pns=1\"", &[]),
            ("*;+sip.vapid=\"x\"", &[]),
            ("*;+sip.pns", &[]),
            ("", &[]),
        ];
        for (value, expected) in cases {
            assert_eq!(pns_tokens(value).collect::<Vec<_>>(), expected, "{value}");
            assert_eq!(carries_pns(value), !expected.is_empty());
        }
    }

    proptest! {
        /// P-103: any value is read, and what is announced in it is found however it is joined.
        #[test]
        fn reading_is_total(value in any::<String>(), token in "[a-z.]{1,8}") {
            let _ = (carries_pns(&value), pns_tokens(&value).count());
            let joined = format!("*;+g.x=\"a,b\", * ;+SIP.PNS = \"{token}\"");
            prop_assert_eq!(pns_tokens(&joined).collect::<Vec<_>>(), [token.as_str()]);
        }
    }
}
