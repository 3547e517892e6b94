//! The hashes of digest authentication (RFC 7616 §3.4).

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512_256};

use super::{
    Algorithm, Ha1,
    credentials::{Credentials, Qop},
};

/// H(user:realm:password), in lower-case hex: what a users file holds instead of the password.
pub fn ha1(user: &str, realm: &str, password: &str, algorithm: Algorithm) -> String {
    hash(algorithm, &[user, ":", realm, ":", password].map(str::as_bytes))
}

/// The response that these credentials should hold, in lower-case hex (RFC 7616 §3.4.1).
pub(super) fn response(algorithm: Algorithm, ha1: &Ha1, answer: &Credentials, method: &str, body: &[u8]) -> String {
    let uri = answer.uri.as_str();
    let ha2 = match &answer.qop {
        Some(qop) if qop.qop == Qop::AuthInt => {
            let body = hash(algorithm, &[body]);
            hash(algorithm, &[method, ":", uri, ":", &body].map(str::as_bytes))
        }
        _ => hash(algorithm, &[method, ":", uri].map(str::as_bytes)),
    };
    let ha1 = ha1.to_hex();
    let nonce = answer.nonce.as_str();
    match &answer.qop {
        Some(qop) => {
            let parts = [&*ha1, ":", nonce, ":", &qop.nc_text, ":", &qop.cnonce, ":", qop.qop.as_str(), ":", &ha2];
            hash(algorithm, &parts.map(str::as_bytes))
        }
        None => hash(algorithm, &[&*ha1, ":", nonce, ":", &ha2].map(str::as_bytes)),
    }
}

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> String {
    fn of<H: sha2::Digest>(parts: &[&[u8]]) -> H {
        parts.iter().fold(H::new(), |hasher, part| hasher.chain_update(part))
    }
    match algorithm {
        Algorithm::Sha256 => lower_hex(&of::<Sha256>(parts).finalize()),
        Algorithm::Sha512_256 => lower_hex(&of::<Sha512_256>(parts).finalize()),
        Algorithm::Md5 => lower_hex(&of::<Md5>(parts).finalize()),
    }
}

/// In one step; `hex::encode` goes character by character, three times for each request.
pub(super) fn lower_hex(octets: &[u8]) -> String {
    let mut text = vec![0; octets.len() * 2];
    // The length fits, so both succeed.
    let _ = hex::encode_to_slice(octets, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1.
    #[test]
    fn published_example_for_sha_256_and_md5() {
        for (algorithm, expected) in [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let value = format!(
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
                 cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"{expected}\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            let answer = Credentials::parse(&value).ok().unwrap();
            let ha1 = ha1("Mufasa", "http-auth@example.org", "Circle of Life", algorithm);
            let ha1 = Ha1::from_hex(&ha1, algorithm).unwrap();
            assert_eq!(response(algorithm, &ha1, &answer, "GET", b""), expected);
            assert_ne!(response(algorithm, &ha1, &answer, "PUT", b""), expected);
        }
    }

    #[test]
    fn algorithms_give_their_lengths() {
        for (algorithm, length) in [(Algorithm::Md5, 32), (Algorithm::Sha256, 64), (Algorithm::Sha512_256, 64)] {
            assert_eq!(ha1("a", "b", "c", algorithm).len(), length);
        }
        // FIPS 180-4 example: SHA-512/256 of "abc".
        assert_eq!(
            hash(Algorithm::Sha512_256, &[b"a", b"bc"]),
            "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
        );
    }
}
