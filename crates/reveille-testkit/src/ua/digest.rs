//! Digest credentials from the phone's side (RFC 7616, RFC 8760), computed without the product's code.

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512_256};

/// A parsed challenge.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// As the server wrote it, to be echoed; none was sent for the oldest servers.
    algorithm_name: Option<String>,
    algorithm: Algorithm,
    qop: bool,
}

/// In the order of strength.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512Of256,
}

/// Which algorithms a phone can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestSupport {
    /// MD5, SHA-256 and SHA-512-256; takes the strongest offered.
    All,
    /// MD5 alone, as old phones.
    Md5Only,
}

impl Challenge {
    /// The strongest challenge among header lines that this phone can answer.
    pub(super) fn choose<'a>(lines: impl Iterator<Item = &'a str>, support: DigestSupport) -> Option<Self> {
        lines
            .filter_map(Self::parse)
            .filter(|one| support == DigestSupport::All || one.algorithm == Algorithm::Md5)
            .max_by_key(|one| one.algorithm)
    }

    fn parse(line: &str) -> Option<Self> {
        let (scheme, params) = line.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let get = |name: &str| parameter(params, name);
        let algorithm_name = get("algorithm");
        let algorithm = match algorithm_name.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None | Some("MD5") => Algorithm::Md5,
            Some("SHA-256") => Algorithm::Sha256,
            Some("SHA-512-256") => Algorithm::Sha512Of256,
            Some(_) => return None,
        };
        let qop = get("qop");
        let auth = qop.as_ref().is_none_or(|list| list.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")));
        auth.then_some(())?;
        Some(Self {
            realm: get("realm")?,
            nonce: get("nonce")?,
            opaque: get("opaque"),
            algorithm_name,
            algorithm,
            qop: qop.is_some(),
        })
    }

    /// The value of Authorization or Proxy-Authorization; `count` is the nonce count.
    pub(super) fn answer(
        &self,
        user: &str,
        password: &str,
        method: &str,
        uri: &str,
        count: u32,
        cnonce: &str,
    ) -> String {
        let Self { realm, nonce, .. } = self;
        let ha1 = self.hash(&format!("{user}:{realm}:{password}"));
        let ha2 = self.hash(&format!("{method}:{uri}"));
        let response = if self.qop {
            self.hash(&format!("{ha1}:{nonce}:{count:08x}:{cnonce}:auth:{ha2}"))
        } else {
            self.hash(&format!("{ha1}:{nonce}:{ha2}"))
        };
        let mut value = format!(
            r#"Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}""#
        );
        if let Some(name) = &self.algorithm_name {
            value.push_str(&format!(", algorithm={name}"));
        }
        if self.qop {
            value.push_str(&format!(r#", qop=auth, nc={count:08x}, cnonce="{cnonce}""#));
        }
        if let Some(opaque) = &self.opaque {
            value.push_str(&format!(r#", opaque="{opaque}""#));
        }
        value
    }

    fn hash(&self, text: &str) -> String {
        match self.algorithm {
            Algorithm::Md5 => hex::encode(Md5::digest(text.as_bytes())),
            Algorithm::Sha256 => hex::encode(Sha256::digest(text.as_bytes())),
            Algorithm::Sha512Of256 => hex::encode(Sha512_256::digest(text.as_bytes())),
        }
    }
}

/// A parameter of a challenge, quotes taken off.
fn parameter(params: &str, name: &str) -> Option<String> {
    let mut quoted = false;
    params
        .split(move |c| {
            if c == '"' {
                quoted = !quoted;
            }
            c == ',' && !quoted
        })
        .filter_map(|param| param.split_once('='))
        .find(|(have, _)| have.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The inputs of RFC 7616 §3.9.1; both expected values are in that section.
    const MD5: &str = r#"Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;

    #[test]
    fn rfc7616_vectors() {
        let sha = MD5.replace("MD5", "SHA-256");
        for (line, expected) in [
            (MD5, "8ca523f5e9506fed4657c9700eebdbec"),
            (sha.as_str(), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let challenge = Challenge::parse(line).unwrap();
            let answer = challenge.answer(
                "Mufasa",
                "Circle of Life",
                "GET",
                "/dir/index.html",
                1,
                "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            );
            assert!(answer.contains(expected), "{line}");
        }
    }

    #[test]
    fn the_strongest_supported_challenge_wins() {
        let sha = MD5.replace("MD5", "SHA-256");
        let lines = || [MD5, sha.as_str(), r#"Digest realm="x", nonce="y", algorithm=TIGER"#].into_iter();
        assert!(Challenge::choose(lines(), DigestSupport::All).unwrap().algorithm == Algorithm::Sha256);
        assert!(Challenge::choose(lines(), DigestSupport::Md5Only).unwrap().algorithm == Algorithm::Md5);
    }
}
