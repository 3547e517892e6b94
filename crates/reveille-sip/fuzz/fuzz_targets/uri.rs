//! Any text is read as a URI, an address, a Via without panic; equality is symmetric.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reveille_sip::{
    typed::{NameAddr, Via},
    uri::{Uri, equal},
};

fuzz_target!(|texts: (&str, &str)| {
    let (a, b) = texts;
    let _ = NameAddr::parse(a).map(|n| (n.q(), n.expires(), n.tag(), n.params.iter().count()));
    let _ = Via::parse(a).map(|v| (v.branch(), v.received_ip(), v.rport()));
    if let (Ok(a), Ok(b)) = (Uri::parse(a), Uri::parse(b)) {
        assert_eq!(equal(&a, &b), equal(&b, &a));
        let _ = (a.user_decoded(), a.host_ip(), a.params().count());
    }
});
