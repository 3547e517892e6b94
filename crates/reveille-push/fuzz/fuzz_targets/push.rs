//! Any Contact, Feature-Caps or header value is read without panic (P-103); what was taken out is out; what was escaped comes back.

#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use reveille_push::{caps, escape, scrub, target};
use reveille_sip::{typed::NameAddr, uri::Uri};

fuzz_target!(|octets: &[u8]| {
    assert_eq!(escape::decode_pvalue(&escape::encode_pvalue(octets)).as_deref(), Ok(octets));
    let _ = scrub::may_carry(octets);
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let _ = escape::decode_pvalue(text);
    if let Ok(contact) = NameAddr::parse(text) {
        let bare = target::strip_params(contact.params.as_str()).into_owned();
        assert!(matches!(target::strip_params(&bare), Cow::Borrowed(_)));
        let _ = caps::wants_pnsreg(contact.params.iter());
        let _ = target::from_params(contact.params.iter());
        if let Ok(uri) = Uri::parse(contact.uri) {
            let _ = (target::from_contact_uri(&uri), target::named_provider(uri.params()));
        }
    }
    let stripped = target::strip(text).into_owned();
    assert!(matches!(target::strip(&stripped), Cow::Borrowed(_)));
    let scrubbed = scrub::scrub(text).into_owned();
    assert!(matches!(scrub::scrub(&scrubbed), Cow::Borrowed(_)));
    if scrubbed != text {
        assert!(scrub::may_carry(octets), "what is looked for first is what is found");
    }
    let _ = caps::pns_tokens(text).count();
});
