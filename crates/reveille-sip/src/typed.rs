//! Header values with structure. All are views over the message's text.

use std::net::IpAddr;

use crate::{
    message::is_token,
    method::Method,
    scan, split,
    uri::{Uri, UriError},
};

/// `;name=value` parameters, raw: quotes are kept, nothing is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    /// Parameters from text that begins with `;` or is empty.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Names and values in order. Empty parameters are passed over.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        split::outside_quotes(self.0, b';').filter(|p| !p.is_empty()).map(name_and_value)
    }

    /// A parameter by name: outer `None` if absent, inner `None` if it has no value.
    pub fn get(&self, name: &str) -> Option<Option<&'a str>> {
        // Only what begins as the name, and goes on no further, is looked at closely.
        let begins = |param: &&str| match param.as_bytes().split_at_checked(name.len()) {
            Some((_, [next, ..])) if is_token(*next) => false,
            Some((begin, _)) => begin.eq_ignore_ascii_case(name.as_bytes()),
            None => false,
        };
        split::outside_quotes(self.0, b';')
            .filter(begins)
            .filter(|p| !p.is_empty())
            .map(name_and_value)
            .find(|(found, _)| found.len() == name.len())
            .map(|(_, value)| value)
    }

    /// A parameter's value without its quotes.
    pub fn get_unquoted(&self, name: &str) -> Option<&'a str> {
        let value = self.get(name)??;
        Some(value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
    }

    /// The text as written.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

fn name_and_value(param: &str) -> (&str, Option<&str>) {
    match split::find(param, b'=') {
        Some(at) => (param.get(..at).unwrap_or("").trim_end(), Some(param.get(at + 1..).unwrap_or("").trim_start())),
        None => (param, None),
    }
}

/// `name-addr` or `addr-spec` with header parameters: From, To, Contact, Route, Record-Route, Path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, quotes included.
    pub display: Option<&'a str>,
    /// The URI without its brackets.
    pub uri: &'a str,
    /// The header's parameters.
    pub params: Params<'a>,
    /// Whether the URI stood in brackets.
    pub bracketed: bool,
    raw: &'a str,
}

impl<'a> NameAddr<'a> {
    /// Reads one value.
    ///
    /// # Errors
    /// When the grammar of RFC 3261 §25.1 is broken: brackets or quotes that do not close, a display name that is neither
    /// quoted nor made of tokens, no URI.
    #[allow(clippy::result_unit_err)] // the caller knows the header and makes the error of it
    pub fn parse(text: &'a str) -> Result<Self, ()> {
        let raw = split::trim(text);
        if let Some(open) = split::find(raw, b'<') {
            let display = split::trim(raw.get(..open).ok_or(())?);
            let rest = raw.get(open + 1..).ok_or(())?;
            let close = memchr::memchr(b'>', rest.as_bytes()).ok_or(())?;
            let uri = rest.get(..close).ok_or(())?;
            let params = rest.get(close + 1..).ok_or(())?.trim_start();
            if !(params.is_empty() || params.starts_with(';')) || !display_is_sound(display) {
                return Err(());
            }
            if uri.is_empty()
                || scan::find(uri.as_bytes(), b'<').is_some()
                || split::has_white_space(uri)
                || !split::is_balanced(params)
            {
                return Err(());
            }
            return Ok(Self {
                display: (!display.is_empty()).then_some(display),
                uri,
                params: Params(params),
                bracketed: true,
                raw,
            });
        }
        // Without brackets everything from the first semicolon on belongs to the header (RFC 3261 §20; S-008).
        let end = split::find(raw, b';').unwrap_or(raw.len());
        let uri = raw.get(..end).ok_or(())?.trim_end();
        let params = raw.get(end..).ok_or(())?;
        if uri.is_empty()
            || uri.contains(|c: char| c.is_whitespace() || matches!(c, ',' | '?' | '"' | '>'))
            || !split::is_balanced(params)
        {
            return Err(()); // S-008: regbadct
        }
        Ok(Self { display: None, uri, params: Params(params), bracketed: false, raw })
    }

    /// The URI, read.
    ///
    /// # Errors
    /// As [`Uri::parse`].
    pub fn uri(&self) -> Result<Uri<'a>, UriError> {
        Uri::parse(self.uri)
    }

    /// The `tag` parameter.
    pub fn tag(&self) -> Option<&'a str> {
        self.params.get("tag").flatten().filter(|t| !t.is_empty())
    }

    /// The `expires` parameter in seconds; `None` where absent or no number (S-105).
    pub fn expires(&self) -> Option<u32> {
        delta_seconds(self.params.get("expires").flatten()?)
    }

    /// The `q` parameter in thousandths; `None` where absent.
    ///
    /// # Errors
    /// When it is outside 0 to 1 or has more than three decimals (S-012).
    #[allow(clippy::result_unit_err)] // there is one way to be wrong
    pub fn q(&self) -> Result<Option<u16>, ()> {
        let Some(text) = self.params.get("q") else { return Ok(None) };
        let text = text.ok_or(())?;
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) || !matches!(whole, "" | "0" | "1") {
            return Err(());
        }
        if whole.is_empty() && decimals.is_empty() {
            return Err(());
        }
        let digits = decimals.bytes().map(|b| u16::from(b - b'0')).chain([0, 0, 0]);
        let thousandths = digits.take(3).fold(0, |n, d| n * 10 + d);
        match (whole, thousandths) {
            ("1", 0) => Ok(Some(1000)),
            ("1", _) => Err(()),
            (_, t) => Ok(Some(t)),
        }
    }

    /// The whole value as written.
    pub fn raw(&self) -> &'a str {
        self.raw
    }
}

/// Quoted, or tokens with white space between (RFC 3261 §25.1: baddn).
fn display_is_sound(display: &str) -> bool {
    if let Some(inner) = display.strip_prefix('"') {
        return inner.ends_with('"') && split::is_balanced(display);
    }
    display.bytes().all(|b| is_token(b) || matches!(b, b' ' | b'\t') || b >= 0x80)
}

/// One Via value (RFC 3261 §20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The transport token as written.
    pub transport: &'a str,
    /// The host of `sent-by`; IPv6 keeps its brackets.
    pub host: &'a str,
    /// The port of `sent-by`.
    pub port: Option<u16>,
    /// The parameters.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// Reads one value; white space around `/` and `:` is accepted (S-028).
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = match text.strip_prefix("SIP/2.0/") {
            Some(rest) => rest,
            None => {
                let mut protocol = text.splitn(3, '/');
                let (name, version, rest) = (protocol.next()?.trim(), protocol.next()?.trim(), protocol.next()?);
                let is_sound = |part: &str| !part.is_empty() && part.bytes().all(is_token);
                if !is_sound(name) || !is_sound(version) {
                    return None;
                }
                rest
            }
        };
        let rest = rest.trim_start();
        let gap = rest.bytes().position(|b| matches!(b, b' ' | b'\t'))?;
        let (transport, rest) = rest.split_at(gap);
        let rest = rest.trim_start();
        let end = split::find(rest, b';').unwrap_or(rest.len());
        let (sent_by, params) = rest.split_at(end);
        let sent_by = split::trim(sent_by);
        let (host, port) = crate::uri::split_host_port(sent_by)?;
        if transport.is_empty()
            || !transport.bytes().all(is_token)
            || !crate::uri::is_host(host)
            || !split::is_balanced(params)
        {
            return None;
        }
        Some(Self { transport, host, port, params: Params(params) })
    }

    /// The `branch` parameter.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.get("branch").flatten().filter(|b| !b.is_empty())
    }

    /// The `received` parameter.
    pub fn received(&self) -> Option<&'a str> {
        self.params.get("received").flatten()
    }

    /// The `received` parameter as an address; IPv6 may stand in brackets or not (S-031).
    pub fn received_ip(&self) -> Option<IpAddr> {
        let text = self.received()?;
        text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).parse().ok()
    }

    /// The `rport` parameter: present without a value in requests, with one in responses (RFC 3581).
    pub fn rport(&self) -> Option<Option<u16>> {
        Some(self.params.get("rport")?.and_then(crate::uri::port))
    }
}

/// CSeq (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// The number, below 2³¹ (RFC 3261 §8.1.1.5).
    pub number: u32,
    /// The method.
    pub method: Method,
    /// The method's name as written.
    pub name: &'a str,
}

impl<'a> CSeq<'a> {
    /// Reads the value.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split_ascii_whitespace();
        let (number, name) = (parts.next()?, parts.next()?);
        if parts.next().is_some() || !name.bytes().all(is_token) || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = number.parse::<u32>().ok().filter(|n| *n < 1 << 31)?;
        Some(Self { number, method: Method::from_token(name), name })
    }
}

/// `delta-seconds` up to 2³²−1; anything else is unreadable and the caller's default applies.
pub fn delta_seconds(text: &str) -> Option<u32> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}
