//! SIP and other URIs, read without copying (RFC 3261 §19.1, §25.1).

mod equality;

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
};

pub use self::equality::{equal, equal_ignoring};
use crate::{scan, split, typed::Params};

/// The scheme of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// Any other.
    Other,
}

/// Why a URI could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme, or one that breaks the grammar.
    #[error("the URI has no scheme")]
    Scheme,
    /// The host is missing or none.
    #[error("the URI's host is malformed")]
    Host,
    /// A character that may not be there, or a broken escape.
    #[error("the URI has a character that must be escaped")]
    Character,
}

/// As many parameters as a URI may have.
const MAX_PARAMS: usize = 64;

/// A view of a URI's text. For schemes other than SIP and SIPS only the scheme is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    text: &'a str,
    scheme: Scheme,
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
    params: &'a str,
    headers: Option<&'a str>,
}

impl<'a> Uri<'a> {
    /// Reads a URI.
    ///
    /// # Errors
    /// When its grammar is broken.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        let (scheme, rest) = cut(text, b':').ok_or(UriError::Scheme)?;
        let valid = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !valid || rest.is_empty() {
            return Err(UriError::Scheme);
        }
        if !scan::is_undelimited(text.as_bytes()) {
            return Err(UriError::Character);
        }
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case("sip") => Scheme::Sip,
            s if s.eq_ignore_ascii_case("sips") => Scheme::Sips,
            s if s.eq_ignore_ascii_case("tel") => Scheme::Tel,
            _ => Scheme::Other,
        };
        let mut uri =
            Self { text, scheme, user: None, password: None, host: "", port: None, params: "", headers: None };
        if matches!(scheme, Scheme::Sip | Scheme::Sips) {
            uri.read_sip(rest)?;
        }
        Ok(uri)
    }

    fn read_sip(&mut self, rest: &'a str) -> Result<(), UriError> {
        // '@' is legal in no part but as the end of userinfo, so the first one ends it (semiuri).
        let rest = match cut(rest, b'@') {
            None => rest,
            Some((userinfo, rest)) => {
                let (user, password) = match cut(userinfo, b':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (userinfo, None),
                };
                let sound = |part: &str, kind: u8| {
                    part.bytes().all(|b| PARTS[usize::from(b)] & kind != 0) && escapes_are_sound(part)
                };
                if user.is_empty() || !sound(user, IN_USER) || !password.is_none_or(|p| sound(p, IN_PASSWORD)) {
                    return Err(UriError::Character);
                }
                self.user = Some(user);
                self.password = password;
                rest
            }
        };
        let host_end = scan::find_either(rest.as_bytes(), b';', b'?').unwrap_or(rest.len());
        let (hostport, rest) = rest.split_at(host_end);
        let (host, port) = split_host_port(hostport).ok_or(UriError::Host)?;
        if !is_host(host) || split::has_white_space(hostport) {
            return Err(UriError::Host);
        }
        self.host = host;
        self.port = port;
        let (params, headers) = match cut(rest, b'?') {
            Some((params, headers)) => (params, Some(headers)),
            None => (rest, None),
        };
        // Comparing URIs looks each parameter up in the other: a number no phone needs would make that dear (S-035).
        let many = params.len() > MAX_PARAMS && memchr::memchr_iter(b';', params.as_bytes()).count() > MAX_PARAMS;
        if many || scan::find(rest.as_bytes(), b'@').is_some() || !escapes_are_sound(params) {
            return Err(UriError::Character);
        }
        self.params = params;
        self.headers = headers;
        Ok(())
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The user part as written.
    pub fn user(&self) -> Option<&'a str> {
        self.user
    }

    /// The user part with its escapes decoded, once (S-010). May hold any octet, NUL too (S-011).
    pub fn user_decoded(&self) -> Option<Cow<'a, [u8]>> {
        self.user.map(unescape)
    }

    /// The password as written.
    pub fn password(&self) -> Option<&'a str> {
        self.password
    }

    /// The host; IPv6 keeps its brackets.
    pub fn host(&self) -> &'a str {
        self.host
    }

    /// The host as an address, where it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        self.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(self.host).parse().ok()
    }

    /// The port.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The URI's parameters, raw.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        // URI parameters know no quotes and no brackets, so a plain cut is right and cannot be confused.
        self.params.split(';').filter(|p| !p.is_empty()).map(|p| match p.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (p, None),
        })
    }

    /// A parameter by name, in any case: outer `None` if absent, inner `None` if it has no value.
    pub fn param(&self, name: &str) -> Option<Option<&'a str>> {
        let mut rest = self.params;
        while !rest.is_empty() {
            let (param, below) = cut(rest, b';').unwrap_or((rest, ""));
            rest = below;
            // Only what begins as the name, and goes on no further, is looked at closely.
            let begins = match param.as_bytes().split_at_checked(name.len()) {
                Some((begin, [] | [b'=', ..])) => begin.eq_ignore_ascii_case(name.as_bytes()),
                _ => false,
            };
            if param.is_empty() || !begins {
                continue;
            }
            let (found, value) = cut(param, b'=').map_or((param, None), |(found, value)| (found, Some(value)));
            if found.len() == name.len() {
                return Some(value);
            }
        }
        None
    }

    /// The parameters' text, from the first `;` on.
    pub fn params_text(&self) -> Params<'a> {
        Params::new(self.params)
    }

    /// Whether the URI carries embedded headers.
    pub fn has_headers(&self) -> bool {
        self.headers.is_some()
    }

    /// The embedded headers as written, without `?`.
    pub fn headers(&self) -> Option<&'a str> {
        self.headers
    }

    /// The whole text.
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

/// As [`str::split_once`], at an ASCII character.
#[inline]
fn cut(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = scan::find(text.as_bytes(), separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Cuts `host[:port]`, white space around the colon accepted in `sent-by` (S-028, S-031).
pub(crate) fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match text.starts_with('[') {
        true => scan::find(text.as_bytes(), b']')? + 1,
        false => scan::find(text.as_bytes(), b':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let (host, rest) = (split::trim(host), split::trim(rest));
    if rest.is_empty() {
        return Some((host, None));
    }
    Some((host, Some(port(rest.strip_prefix(':')?.trim())?)))
}

/// 1 to 65535; a leading zero is accepted (S-012, S-028).
pub(crate) fn port(digits: &str) -> Option<u16> {
    let number = crate::frame::digits(digits.as_bytes()).filter(|_| digits.len() <= 6)?;
    u16::try_from(number).ok().filter(|port| *port > 0)
}

pub(crate) fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        // An address that is none has to go no further (RFC 5118 §4.10).
        Some(inner) => inner.strip_suffix(']').is_some_and(|i| i.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| PARTS[usize::from(b)] & IN_HOST != 0),
    }
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// What may stand in a user part, in a password, each with the beginning of an escape, and in a host (RFC 3261 §25.1).
static PARTS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if is_unreserved(byte) || matches!(byte, b'%' | b'&' | b'=' | b'+' | b'$' | b',') {
            table[byte as usize] = IN_USER | IN_PASSWORD;
        } else if matches!(byte, b';' | b'?' | b'/') {
            table[byte as usize] = IN_USER;
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            table[byte as usize] |= IN_HOST;
        }
        byte += 1;
    }
    table
};

const IN_USER: u8 = 1;
const IN_PASSWORD: u8 = 2;
const IN_HOST: u8 = 4;

/// Whether each `%` is followed by two hex digits.
pub(crate) fn escapes_are_sound(text: &str) -> bool {
    scan::find(text.as_bytes(), b'%').is_none()
        || text.split('%').skip(1).all(|part| {
            let digits = part.as_bytes();
            matches!(digits, [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
        })
}

/// Decodes `%HH`, once. What is no escape stays as it is.
pub fn unescape(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

/// Escapes what may not stand in a user part, in the one canonical way: unreserved characters and `&=+$,;?/` stay.
pub fn escape_user(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_unreserved(byte) || b"&=+$,;?/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
