use reveille_sip::uri::{Scheme, Uri, UriError, equal, equal_ignoring, escape_user, unescape};

fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Uri::parse(a).unwrap(), Uri::parse(b).unwrap());
    let result = equal(&a, &b);
    assert_eq!(result, equal(&b, &a), "the relation is symmetric");
    result
}

/// S-032: the pairs of RFC 3261 §19.1.4 and what follows from its rules.
#[test]
fn equality() {
    let equal_pairs = [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
        ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("sip:a%3bb@h", "sip:a%3Bb@h"),
        ("sip:[2001:db8::1]", "sip:[2001:DB8:0:0::1]"),
    ];
    let different_pairs = [
        ("sip:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:a@h", "sips:a@h"),
        ("sip:a@h", "sip:h"),
        ("sip:a:p@h", "sip:a:P@h"),
        ("sip:a@h;user=phone", "sip:a@h"),
        ("sip:a@h;ttl=1", "sip:a@h"),
        ("sip:a@h;method=INVITE", "sip:a@h"),
        ("sip:a@h;maddr=192.0.2.1", "sip:a@h"),
        ("sip:a@h;x", "sip:a@h;x=1"),
        ("sip:a%3bb@h", "sip:a;b@h"),
        ("sip:a%00b@h", "sip:a@h"),
        ("sip:a@[::ffff:192.0.2.1]", "sip:a@192.0.2.1"),
        ("tel:+1", "tel:+2"),
    ];
    for (a, b) in equal_pairs {
        assert!(same(a, b), "{a} = {b}");
    }
    for (a, b) in different_pairs {
        assert!(!same(a, b), "{a} ≠ {b}");
    }
}

/// P-006, P-046: push parameters left out, all others as ever.
#[test]
fn equality_without_push_parameters() {
    let a = Uri::parse("sip:a@h;PN-Prid=1;pn-provider=apns;x=1").unwrap();
    let without = |name: &str| name.starts_with("pn-");
    assert!(equal_ignoring(&a, &Uri::parse("sip:a@h;x=1;pn-prid=2").unwrap(), without));
    assert!(!equal_ignoring(&a, &Uri::parse("sip:a@h;x=2").unwrap(), without));
    assert!(!equal_ignoring(&a, &Uri::parse("sip:a@h;transport=tcp").unwrap(), without));
}

#[test]
fn parts() {
    let uri = Uri::parse("SIPS:al;x=%40:pw@[2001:db8::1]:5061;lr;Transport=tls;pn-prid=a:b?Subject=x&y=z").unwrap();
    assert_eq!((uri.user(), uri.password()), (Some("al;x=%40"), Some("pw")));
    assert_eq!(uri.user_decoded().unwrap().as_ref(), b"al;x=@");
    assert_eq!((uri.host(), uri.port(), uri.host_ip()), ("[2001:db8::1]", Some(5061), "2001:db8::1".parse().ok()));
    assert_eq!((uri.param("LR"), uri.param("transport")), (Some(None), Some(Some("tls"))));
    assert_eq!((uri.param("pn-prid"), uri.param("none")), (Some(Some("a:b")), None));
    assert_eq!(uri.headers(), Some("Subject=x&y=z"));
    for (text, scheme) in [("tel:+49-30", Scheme::Tel), ("urn:service:sos", Scheme::Other), ("isbn:1", Scheme::Other)] {
        assert_eq!(Uri::parse(text).unwrap().scheme(), scheme);
    }
}

/// S-012, S-031, S-035.
#[test]
fn malformed() {
    for (text, error) in [
        ("", UriError::Scheme),
        ("sip", UriError::Scheme),
        ("sip:", UriError::Scheme),
        ("1sip:a", UriError::Scheme),
        ("sip:a b", UriError::Character),
        ("sip:<a>", UriError::Character),
        ("sip:a\0", UriError::Character),
        ("sip:@h", UriError::Character),
        ("sip:a%4@h", UriError::Character),
        ("sip:\u{e9}@h", UriError::Character),
        ("sip:a:p:w@h", UriError::Character),
        ("sip:a@b@c", UriError::Host),
        ("sip:a@", UriError::Host),
        ("sip:2001:db8::10", UriError::Host),
        ("sip:[2001:db8::10", UriError::Host),
        ("sip:[2001:db8:::10]", UriError::Host),
        ("sip:h:", UriError::Host),
        ("sip:h:0", UriError::Host),
        ("sip:h:65536", UriError::Host),
        ("sip:h:+1", UriError::Host),
    ] {
        assert_eq!(Uri::parse(text), Err(error), "{text}");
    }
    let crowded = format!("sip:h{}", ";a".repeat(1000));
    assert_eq!(Uri::parse(&crowded), Err(UriError::Character));
}

/// S-010, S-011: decoded once, whole, and escaped in one way.
#[test]
fn escapes() {
    assert_eq!(unescape("a%2541").as_ref(), b"a%41");
    assert_eq!(unescape("%00%zz%4").as_ref(), b"\0%zz%4");
    assert_eq!(escape_user(b"a@b\0;%\xff"), "a%40b%00;%25%FF");
    assert_eq!(unescape(&escape_user(b"a@b\0;%\xff")).as_ref(), b"a@b\0;%\xff");
}

/// A parameter's name is the whole of it, in any case; the first of that name counts.
#[test]
fn parameters_by_name() {
    let uri = Uri::parse("sip:a@h;;pn-prid2=1;pn-pri=2;PN-prid=3=4;pn-prid=5;lr;pn;=6").unwrap();
    let cases = [
        ("pn-prid", Some(Some("3=4"))),
        ("PN-PRI", Some(Some("2"))),
        ("lr", Some(None)),
        ("pn", Some(None)),
        ("l", None),
        ("", Some(Some("6"))),
        ("pn-prid=3", None),
        ("lr;pn", None),
    ];
    for (name, value) in cases {
        assert_eq!(uri.param(name), value, "{name}");
        assert_eq!(uri.params_text().get(name), value, "{name}");
    }
}
