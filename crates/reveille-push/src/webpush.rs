//! `pn-prid` of Web Push: a URL chosen by the client, so its syntax is the first line of defence (RFC 8599 §12; P-018,
//! P-019, and the part of P-138 that needs no configuration). Ports, allowed hosts and addresses are the sender's to check.

/// Why a URL cannot be pushed to (P-036).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebPushError {
    /// `pn-param` must not be used with Web Push (P-019).
    #[error("pn-param is not for Web Push")]
    Param,
    /// Not an `https` URL.
    #[error("scheme is not https")]
    Scheme,
    /// Userinfo, a fragment, or a character a URL cannot hold.
    #[error("URL is malformed")]
    Url,
    /// An IP address, a name of a single label, a trailing dot, or no host name.
    #[error("host is not a fully qualified name")]
    Host,
    /// Not a port number.
    #[error("port is malformed")]
    Port,
}

/// A push resource, split. The parts of the path are secret: the URL is a capability (RFC 8030 §8.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PushUrl<'a> {
    /// Host name, in the case the client used.
    pub host: &'a str,
    /// Port, 443 if none was given.
    pub port: u16,
    /// Path and query as written; may be empty or begin with `?`.
    pub path_and_query: &'a str,
}

impl<'a> PushUrl<'a> {
    /// Reads a decoded `pn-prid`.
    ///
    /// # Errors
    /// [`WebPushError`] with the first fault found.
    pub fn parse(url: &'a str) -> Result<Self, WebPushError> {
        // A backslash is a slash to some URL parsers and not to others; what two of them read differently is refused.
        let forbidden = |c: u8| !(0x21..=0x7e).contains(&c) || b"\\\"<>^`{|}#".contains(&c);
        if url.bytes().any(forbidden) {
            return Err(WebPushError::Url);
        }
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            _ => return Err(WebPushError::Scheme),
        };
        let (authority, path_and_query) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(WebPushError::Url);
        }
        if authority.starts_with('[') {
            return Err(WebPushError::Host);
        }
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (authority, 443),
        };
        if !is_full_name(host) {
            return Err(WebPushError::Host);
        }
        Ok(PushUrl { host, port, path_and_query })
    }

    /// The origin, as VAPID's `aud` wants it: lower-case host, port only where it is not the default (P-131).
    pub fn origin(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        if self.port == 443 { format!("https://{host}") } else { format!("https://{host}:{}", self.port) }
    }
}

impl std::fmt::Debug for PushUrl<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PushUrl").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Whether these values can be Web Push's: a URL, and no `pn-param`.
///
/// # Errors
/// [`WebPushError`] with the first fault found.
pub fn validate(param: Option<&str>, prid: &str) -> Result<(), WebPushError> {
    if param.is_some() {
        return Err(WebPushError::Param);
    }
    PushUrl::parse(prid).map(drop)
}

fn parse_port(text: &str) -> Result<u16, WebPushError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(WebPushError::Port),
    }
}

/// A host name of two labels or more which no resolver can take for an address: `127.1`, `0x7f.1` and their like end in
/// a number, and a name never does.
fn is_full_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let Some((_, last)) = host.rsplit_once('.') else { return false };
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number =
        last.bytes().all(|c| c.is_ascii_digit()) || hex.is_some_and(|h| h.bytes().all(|c| c.is_ascii_hexdigit()));
    host.len() <= 253 && host.split('.').all(label) && !number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-018, P-138.
    #[test]
    fn urls_are_split() {
        let url = PushUrl::parse("https://push.example.net/p/k7?v=2").unwrap();
        assert_eq!((url.host, url.port, url.path_and_query), ("push.example.net", 443, "/p/k7?v=2"));
        assert_eq!(url.origin(), "https://push.example.net");
        let url = PushUrl::parse("HTTPS://Push.Example.net:8443").unwrap();
        assert_eq!((url.port, url.path_and_query), (8443, ""));
        assert_eq!(url.origin(), "https://push.example.net:8443");
        assert_eq!(PushUrl::parse("https://push.example.net?x@y").unwrap().host, "push.example.net");
        assert_eq!(PushUrl::parse("https://xn--bcher-kva.example/p@q").unwrap().host, "xn--bcher-kva.example");
    }

    /// P-138, P-139: hosts a URL must not name.
    #[test]
    fn urls_that_are_refused() {
        use WebPushError::{Host, Port, Scheme, Url};
        let cases = [
            ("http://push.example.net/", Scheme),
            ("push.example.net/p", Scheme),
            ("", Scheme),
            ("https://user@push.example.net/", Url),
            ("https://user:pw@push.example.net/", Url),
            ("https://push.example.net/p#f", Url),
            ("https://push.example.net\\@internal.example/", Url),
            ("https://push.example.net/a b", Url),
            ("https://büro.example/", Url),
            ("https://push.example.net/\u{0}", Url),
            ("https://127.0.0.1/", Host),
            ("https://127.1/", Host),
            ("https://0x7f.0x1/", Host),
            ("https://2130706433/", Host),
            ("https://0177.0.0.1/", Host),
            ("https://[::1]/", Host),
            ("https://[::ffff:10.0.0.1]/", Host),
            ("https://localhost/", Host),
            ("https://push.example.net./", Host),
            ("https://.example.net/", Host),
            ("https://push..example.net/", Host),
            ("https://-push.example.net/", Host),
            ("https://push_x.example.net/", Host),
            ("https://push%2eexample.net/", Host),
            ("https:///p", Host),
            ("https://push.example.net:/", Port),
            ("https://push.example.net:0/", Port),
            ("https://push.example.net:65536/", Port),
            ("https://push.example.net:+443/", Port),
            ("https://push.example.net:443:1/", Port),
        ];
        for (url, expected) in cases {
            assert_eq!(PushUrl::parse(url).map(drop), Err(expected), "{url}");
        }
        assert_eq!(PushUrl::parse(&format!("https://{}.example/", "a".repeat(64))).map(drop), Err(Host));
    }

    /// P-019.
    #[test]
    fn param_is_refused() {
        assert_eq!(validate(Some("x"), "https://push.example.net/p"), Err(WebPushError::Param));
        assert_eq!(validate(None, "https://push.example.net/p"), Ok(()));
    }

    /// P-109: nothing of the path shows.
    #[test]
    fn debug_shows_no_path() {
        let url = PushUrl::parse("https://push.example.net/secret").unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
