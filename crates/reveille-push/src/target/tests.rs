//! Contact URIs and what they ask for.

use proptest::prelude::*;

use super::*;
use crate::apns_param::ApnsError;
use crate::escape::encode_pvalue;

const APNS: &str = ";pn-provider=apns;pn-param=9TEAM42XYZ.org.example.phone.voip;pn-prid=5be1c0ffee0123";

/// Splits `;name=value` text as the URI parser would hand it over.
fn read_text(text: &str) -> ContactPush {
    from_params(text.split(';').filter(|p| !p.is_empty()).map(|p| match p.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (p, None),
    }))
}

fn target(provider: Provider, param: &str, prid: &str) -> ContactPush {
    ContactPush::Target(PushTarget { provider, param: param.into(), prid: prid.into() })
}

/// P-001, P-002, P-003, P-008, P-011, P-013, P-014, P-016, P-018, P-034.
#[test]
fn contacts_are_classified() {
    let cases = [
        ("", ContactPush::None),
        (";transport=tls;lr", ContactPush::None),
        (";pn-prid=abc;pn-param=x", ContactPush::None),
        (";pn-provider", ContactPush::QueryAll),
        (";pn-provider=", ContactPush::QueryAll),
        (";pn-provider=webpush", ContactPush::Query(Ok(Provider::WebPush))),
        (";PN-PROVIDER=WebPush", ContactPush::Query(Ok(Provider::WebPush))),
        (";pn%2Dprovider=web%70ush", ContactPush::Query(Ok(Provider::WebPush))),
        (";pn-provider=apns;pn-param=9TEAM42XYZ.org.example.phone", ContactPush::Query(Ok(Provider::Apns))),
        (";pn-provider=acme", ContactPush::Query(Err("acme".into()))),
        (";pn-provider=acme;pn-prid=1", ContactPush::Unknown("acme".into())),
        (APNS, target(Provider::Apns, "9TEAM42XYZ.org.example.phone.voip", "5be1c0ffee0123")),
        (
            ";pn-provider=apns.dev;pn-param=9TEAM42XYZ.org.example.phone.voip%26remote;pn-prid=aa11bb22%3Avoip&cc33dd44:remote",
            target(Provider::ApnsSandbox, "9TEAM42XYZ.org.example.phone.voip&remote", "aa11bb22:voip&cc33dd44:remote"),
        ),
        (
            ";pn-provider=fcm;pn-param=acme-phone-prod;pn-prid=dQw4:APA91bF_x-9.",
            target(Provider::Fcm, "acme-phone-prod", "dQw4:APA91bF_x-9."),
        ),
        (
            ";pn-provider=webpush;pn-prid=https://push.example.net/p/k7%3Fv%3D2;pn-timeout=0;pn-silent=1",
            target(Provider::WebPush, "", "https://push.example.net/p/k7?v=2"),
        ),
    ];
    for (params, expected) in cases {
        assert_eq!(read_text(params), expected, "{params}");
    }
}

/// P-002, P-004, P-009, P-012, P-019, P-034, P-036: what is wrong, and which answer it gets.
#[test]
fn unusable_contacts_say_why() {
    let long_prid = format!(";pn-provider=webpush;pn-prid=https://push.example.net/{}", "a".repeat(2024));
    let long_param = format!(";pn-provider=fcm;pn-param={};pn-prid=x", "a".repeat(257));
    let long_provider = format!(";pn-provider={}", "a".repeat(33));
    let cases = [
        (";pn-provider=fcm;pn-provider=fcm", InvalidPush::Duplicate, 400),
        (";pn-provider=fcm;pn-prid=1;PN-PRID=1", InvalidPush::Duplicate, 400),
        (";pn-provider=fcm;pn-prid=%4", InvalidPush::Malformed, 400),
        (";pn-provider=fcm;pn-prid=a%00b", InvalidPush::Malformed, 400),
        (";pn-provider=fcm;pn-prid=a%0d%0ab", InvalidPush::Malformed, 400),
        (";pn-provider=fcm;pn-prid=%ff%fe", InvalidPush::Malformed, 400),
        (";pn-provider=fcm;pn-prid=%c2%85", InvalidPush::Malformed, 400),
        (";pn-provider=fcm;pn-prid", InvalidPush::NoValue, 400),
        (";pn-provider=fcm;pn-param=;pn-prid=x", InvalidPush::NoValue, 400),
        (&long_prid, InvalidPush::TooLong, 400),
        (&long_param, InvalidPush::TooLong, 400),
        (&long_provider, InvalidPush::TooLong, 400),
        (";pn-provider;pn-prid=abc", InvalidPush::MissingProvider, 555),
        (";pn-provider=fcm;pn-prid=dQw4:APA91bF_x-9.", InvalidPush::MissingParam, 555),
        (";pn-provider=apns;pn-prid=aa11bb22", InvalidPush::MissingParam, 555),
        (";pn-provider=apns;pn-param=x.y;pn-prid=aa11bb22", InvalidPush::Apns(ApnsError::Team), 555),
        (";pn-provider=fcm;pn-param=Bad;pn-prid=dQw4:APA91bF_x-9.", InvalidPush::Fcm(fcm::FcmError::Project), 555),
        (
            ";pn-provider=webpush;pn-param=x;pn-prid=https://push.example.net/p",
            InvalidPush::WebPush(webpush::WebPushError::Param),
            555,
        ),
        (";pn-provider=webpush;pn-prid=https://127.0.0.1/p", InvalidPush::WebPush(webpush::WebPushError::Host), 555),
    ];
    for (params, invalid, status) in cases {
        assert_eq!(read_text(params), ContactPush::Invalid(invalid), "{params}");
        assert_eq!(invalid.status(), status, "{params}");
    }
}

/// P-009: the longest values still pass.
#[test]
fn limits_are_inclusive() {
    let prid = format!("https://push.example.net/{}", "a".repeat(MAX_PRID - 25));
    assert_eq!(prid.len(), MAX_PRID);
    assert!(matches!(read_text(&format!(";pn-provider=webpush;pn-prid={prid}")), ContactPush::Target(_)));
}

/// P-001 through the URI parser: only URI parameters count, and they are found behind any user part.
#[test]
fn reads_from_a_parsed_uri() {
    let text = format!("sip:alice@192.0.2.7:5061;transport=tls{APNS}");
    let uri = Uri::parse(&text).unwrap();
    assert_eq!(from_contact_uri(&uri), read_text(APNS));

    let plain = Uri::parse("sip:alice@192.0.2.7;transport=tls").unwrap();
    assert_eq!(from_contact_uri(&plain), ContactPush::None);
    assert_eq!(named_provider(uri.params()).as_deref(), Some("apns"));
    assert_eq!(named_provider(plain.params()), None);
}

/// P-008: the provider's name in any case is that provider; of two tokens that differ in case alone each is its own, and so is
/// each param.
#[test]
fn p008_tokens_that_differ_in_case_are_two() {
    let of = |text: &str| match read_text(text) {
        ContactPush::Target(target) => target,
        other => panic!("{text}: {other:?}"),
    };
    let fcm = of(";pn-provider=fcm;pn-param=acme-phone-prod;pn-prid=dQw4:APA91bF_x-9.abcdef");
    assert_eq!(fcm, of(";pn-provider=FCM;pn-param=acme-phone-prod;pn-prid=dQw4:APA91bF_x-9.abcdef"));
    assert_eq!(fcm, of(";PN-PROVIDER=fcm;pn-param=acme-phone-prod;pn-prid=dQw4:%41PA91bF_x-9.abcdef"));
    assert_ne!(fcm, of(";pn-provider=fcm;pn-param=acme-phone-prod;pn-prid=dQw4:aPA91bF_x-9.abcdef"));
    let push = of(";pn-provider=webpush;pn-prid=https://push.example.net/p/k7");
    assert_ne!(push, of(";pn-provider=webpush;pn-prid=https://push.example.net/P/k7"));
    let apns = of(";pn-provider=apns;pn-param=9TEAM42XYZ.org.example.phone.voip;pn-prid=aa11bb22");
    assert_ne!(apns, of(";pn-provider=apns;pn-param=9TEAM42XYZ.org.Example.phone.voip;pn-prid=aa11bb22"));
}

proptest! {
    /// P-103: all four parameters survive the way through a whole Contact, whatever octets they hold, and taking them out again
    /// leaves what was there before them.
    #[test]
    fn p103_a_whole_contact_returns_what_was_put_in(
        values in prop::array::uniform4(prop::collection::vec(any::<u8>(), 1..64)),
        user in "[a-z]{0,4}(;[a-z]=1)?",
        host in prop::sample::select(vec!["192.0.2.7", "[2001:db8::1]:5061", "phone.example"]),
        tail in prop::sample::select(vec!["", ";expires=60", ";q=0.5;+sip.instance=\"<urn:x;pn-prid=1>\""]),
    ) {
        let names = ["pn-provider", "pn-param", "pn-prid", "pn-purr"];
        let at = if user.is_empty() { "" } else { "@" };
        let bare = format!("sip:{user}{at}{host};transport=tls");
        let params: String = names
            .iter()
            .zip(&values)
            .map(|(name, value)| format!(";{name}={}", escape::encode_pvalue(value)))
            .collect();
        let text = format!("\"A, B\" <{bare}{params};ob>{tail}");
        let contact = reveille_sip::typed::NameAddr::parse(&text).unwrap();
        let uri = Uri::parse(contact.uri).unwrap();
        for (name, value) in names.iter().zip(&values) {
            let (_, read) = uri.params().find(|(found, _)| found == name).unwrap();
            prop_assert_eq!(&decode_pvalue(read.unwrap()).unwrap(), value, "{}", name);
        }
        prop_assert_eq!(strip(contact.uri), format!("{bare};ob"));
        prop_assert_eq!(contact.params.as_str(), tail);
    }
}

/// P-151.
#[test]
fn voip_only_targets_wake_for_calls_only() {
    let apns = PushTarget::new(Provider::Apns, Some("9TEAM42XYZ.org.example.phone.voip"), "aa11bb22").unwrap();
    let fcm = PushTarget::new(Provider::Fcm, Some("acme-phone-prod"), "dQw4:APA91bF_x-9.").unwrap();
    for (class, by_voip) in [(PushClass::Call, true), (PushClass::Request, false), (PushClass::Refresh, false)] {
        assert_eq!(apns.can_wake(class), by_voip);
        assert!(fcm.can_wake(class));
    }
}

/// P-109: no Debug shows a token or an app.
#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", read_text(APNS));
    assert!(!shown.contains("5be1") && !shown.contains("TEAM"), "{shown}");
}

proptest! {
    /// P-103: what an app meant arrives, whatever octets its own text holds.
    #[test]
    fn values_survive_the_wire(query in "\\PC{0,60}") {
        let escaped = encode_pvalue(query.as_bytes());
        let read = decode(&escaped, MAX_PRID);
        prop_assert_eq!(read, Ok(query));
    }

    /// P-103: any parameters give an answer.
    #[test]
    fn reading_is_total(params in proptest::collection::vec((prop_oneof![
        Just("pn-provider".to_owned()), Just("pn-prid".to_owned()), Just("pn-param".to_owned()), any::<String>(),
    ], proptest::option::of(any::<String>())), 0..6)) {
        let _ = from_params(params.iter().map(|(name, value)| (name.as_str(), value.as_deref())));
    }
}
