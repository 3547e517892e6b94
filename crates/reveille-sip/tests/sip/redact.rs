use reveille_sip::redact;

use crate::parse;

/// S-235, P-109: however they are written, none of the secrets is in a dump.
#[test]
fn dumps_hold_no_secrets() {
    let text = concat!(
        "REGISTER sip:example.com;pn-prid=S3CRET-a SIP/2.0\r\n",
        "Contact: <sip:a:S3CRET-b@h;pn-provider=apns;PN-PRID=S3CRET-c:x,y;pn-param=S3CRET-d>;pn-prid = \"S3CRET e\"\r\n",
        "m: sip:a@h;pn-prid=\"S3CRET-f;g\";x=y\r\n",
        "X-Copy: pn-prid=S3CRET-h?i;keep=this\r\n",
        "Feature-Caps: *;+sip.pns=\"apns\";+sip.pnspurr=\"S3CRET-j\"\r\n",
        "Authorization: Digest username=\"S3CRET-k\",\r\n response=\"S3CRET-l\"\r\n",
        "proxy-authorization : Bearer S3CRET-m\r\n",
        "Via: SIP/2.0/TLS h;pn-\r\n",
        "Content-Length: 8\r\n\r\nS3CRET-n",
    );
    let dump = parse(text).unwrap().redacted();
    assert!(!dump.contains("S3CRET"), "{dump}");
    for kept in ["REGISTER sip:example.com", "pn-provider=", "x=y", "keep=this", "+sip.pns=\"apns\"", "8 octets"] {
        assert!(dump.contains(kept), "{kept} in {dump}");
    }
}

/// S-236.
#[test]
fn dumps_hold_no_control_characters() {
    let dump = parse("OPTIONS sip:a SIP/2.0\r\nX: \u{1b}[31m\u{7}\u{85}\tx\r\nl: 0\r\n\r\n").unwrap().redacted();
    assert!(!dump.chars().any(|c| c.is_control() && c != '\n'), "{dump:?}");
}

#[test]
fn addresses_and_tokens() {
    assert_eq!(redact::aor("alice@example.com"), "a***@example.com");
    assert_eq!(redact::aor("\r\nx@h\n"), "***@h");
    assert_eq!(redact::token_hash(b"x").len(), 8);
    assert_eq!(redact::token_hash(b"x"), redact::token_hash(b"x"));
    assert_ne!(redact::token_hash(b"x"), redact::token_hash(b"y"));
}
