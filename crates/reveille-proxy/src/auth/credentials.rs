//! Reading the value of an Authorization or Proxy-Authorization header (RFC 7616 §3.4, RFC 3261 §25.1).

use std::borrow::Cow;

/// What an answer to a challenge says. No `Debug`: it holds what S-235 keeps out of logs.
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) realm: String,
    pub(super) nonce: String,
    /// Literally as sent, for hashing.
    pub(super) uri: String,
    /// In lower case.
    pub(super) response: String,
    pub(super) algorithm: Option<String>,
    pub(super) qop: Option<QopAnswer>,
}

/// The part of an answer that `qop` brings along.
pub(super) struct QopAnswer {
    pub(super) qop: Qop,
    pub(super) nc: u32,
    /// Literally as sent.
    pub(super) nc_text: String,
    pub(super) cnonce: String,
}

/// Quality of protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qop {
    Auth,
    AuthInt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    /// Not Digest: no credentials as far as we are concerned (S-151).
    OtherScheme,
    /// Digest, but not to be understood.
    Malformed,
}

impl Credentials {
    pub(super) fn parse(value: &str) -> Result<Self, ParseError> {
        let value = value.trim_ascii();
        let (scheme, rest) = value.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(ParseError::OtherScheme);
        }
        let mut fields: [Option<Cow<'_, str>>; FIELDS.len()] = Default::default();
        let mut params = Params { rest };
        while let Some((name, value)) = params.next()? {
            let index = FIELDS.iter().position(|field| field.eq_ignore_ascii_case(name));
            if let Some(slot) = index.and_then(|index| fields.get_mut(index))
                && slot.replace(value).is_some()
            {
                return Err(ParseError::Malformed);
            }
        }
        let [username, realm, nonce, uri, response, algorithm, qop, nc, cnonce] = fields;
        let required = |field: Option<Cow<'_, str>>| field.map(Cow::into_owned).ok_or(ParseError::Malformed);
        let qop = match qop {
            None => None,
            Some(qop) => Some(QopAnswer::read(&qop, required(nc)?, required(cnonce)?)?),
        };
        Ok(Self {
            username: required(username)?,
            realm: required(realm)?,
            nonce: required(nonce)?,
            uri: required(uri)?,
            response: required(response)?.to_ascii_lowercase(),
            algorithm: algorithm.map(Cow::into_owned),
            qop,
        })
    }
}

impl QopAnswer {
    fn read(qop: &str, nc_text: String, cnonce: String) -> Result<Self, ParseError> {
        let qop = if qop.eq_ignore_ascii_case("auth") {
            Qop::Auth
        } else if qop.eq_ignore_ascii_case("auth-int") {
            Qop::AuthInt
        } else {
            return Err(ParseError::Malformed);
        };
        if nc_text.len() != 8 || !nc_text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseError::Malformed);
        }
        let nc = u32::from_str_radix(&nc_text, 16).map_err(|_| ParseError::Malformed)?;
        Ok(Self { qop, nc, nc_text, cnonce })
    }
}

impl Qop {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::AuthInt => "auth-int",
        }
    }
}

/// As a quoted-string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// The fields read, in the order in which [`Credentials::parse`] takes them apart.
const FIELDS: [&str; 9] = ["username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce"];

/// A comma list of `name=value`, value a token or a quoted-string.
struct Params<'a> {
    rest: &'a str,
}

impl<'a> Params<'a> {
    fn next(&mut self) -> Result<Option<(&'a str, Cow<'a, str>)>, ParseError> {
        self.rest = self.rest.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace());
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (name, after) = self.rest.split_once('=').ok_or(ParseError::Malformed)?;
        let name = name.trim_ascii_end();
        if name.is_empty() || name.contains(|c: char| c == ',' || c == '"' || c.is_ascii_whitespace()) {
            return Err(ParseError::Malformed);
        }
        let after = after.trim_ascii_start();
        let (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                let (value, rest) = after.split_at_checked(end).ok_or(ParseError::Malformed)?;
                (Cow::Borrowed(value.trim_ascii_end()), rest)
            }
        };
        let rest = rest.trim_ascii_start();
        if !(rest.is_empty() || rest.starts_with(',')) {
            return Err(ParseError::Malformed);
        }
        self.rest = rest;
        Ok(Some((name, value)))
    }
}

/// What stands up to the closing quote, and what comes after it.
fn unquote(quoted: &str) -> Result<(Cow<'_, str>, &str), ParseError> {
    let mut value = String::new();
    let mut escaped = false;
    let mut plain = true;
    for (index, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '"' => {
                let (text, rest) = quoted.split_at_checked(index).ok_or(ParseError::Malformed)?;
                let value = if plain { Cow::Borrowed(text) } else { Cow::Owned(value) };
                return Ok((value, rest.strip_prefix('"').unwrap_or(rest)));
            }
            '\\' => {
                if plain {
                    value.push_str(quoted.get(..index).unwrap_or_default());
                    plain = false;
                }
                escaped = true;
            }
            _ if plain => {}
            _ => value.push(c),
        }
    }
    Err(ParseError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:example.com\", \
                        response=\"ABCDEF\", algorithm=SHA-256, qop=auth, nc=0000001f, cnonce=\"c,d\"";

    #[test]
    fn every_field_is_read() {
        let answer = Credentials::parse(FULL).ok().unwrap();
        assert_eq!(
            (answer.username.as_str(), answer.realm.as_str(), answer.nonce.as_str()),
            ("alice", "example.com", "n")
        );
        assert_eq!((answer.uri.as_str(), answer.response.as_str()), ("sip:example.com", "abcdef"));
        assert_eq!(answer.algorithm.as_deref(), Some("SHA-256"));
        let qop = answer.qop.unwrap();
        assert_eq!((qop.qop, qop.nc, qop.nc_text.as_str(), qop.cnonce.as_str()), (Qop::Auth, 31, "0000001f", "c,d"));
    }

    #[test]
    fn spacing_order_case_and_unknown_fields_do_not_matter() {
        let value = "dIgEsT  NONCE = \"n\" ,, uri=\"u\",realm=\"r\\\"\\\\x\" , x-new=\"a,b\", opaque=\"\", response=00,Username=\"a\"";
        let answer = Credentials::parse(value).ok().unwrap();
        assert_eq!((answer.realm.as_str(), answer.response.as_str(), answer.username.as_str()), ("r\"\\x", "00", "a"));
        assert!(answer.qop.is_none() && answer.algorithm.is_none());
    }

    #[test]
    fn other_schemes_are_no_credentials_s151() {
        for value in ["Basic QWxhZGRpbg==", "NoOneKnowsThisScheme opaque-data=here", "Bearer x", "", "Digestive a=b"] {
            assert_eq!(Credentials::parse(value).err(), Some(ParseError::OtherScheme), "{value}");
        }
    }

    #[test]
    fn malformed_is_told_from_other_schemes() {
        let broken = [
            "Digest".to_owned(),
            "Digest username".to_owned(),
            FULL.replace("username=\"alice\", ", ""),
            FULL.replace("nc=0000001f", "nc=1f"),
            FULL.replace("nc=0000001f", "nc=+000001f"),
            FULL.replace("nc=0000001f, ", ""),
            FULL.replace(", cnonce=\"c,d\"", ""),
            FULL.replace("qop=auth", "qop=none"),
            FULL.replace("c,d\"", "c,d"),
            format!("{FULL}, realm=\"again\""),
            FULL.replace("\"n\"", "\"n\"x"),
        ];
        for value in broken {
            assert_eq!(Credentials::parse(&value).err(), Some(ParseError::Malformed), "{value}");
        }
    }

    #[test]
    fn quoting_and_unquoting_agree() {
        for text in ["", "plain", "a\"b\\c", "ä€"] {
            let quoted = quote(text);
            let (back, rest) = unquote(quoted.strip_prefix('"').unwrap()).ok().unwrap();
            assert_eq!((back.as_ref(), rest), (text, ""));
        }
    }
}
