//! The allow-list of push services (P-138).

/// `host`, `host:port`, `*.host`, `*.host:port`; without a port 443 is meant.
#[derive(Debug)]
pub(super) struct AllowedHosts(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    /// Lower case, without the `*`; begins with a dot where sub-domains are meant.
    host: String,
    port: u16,
}

impl AllowedHosts {
    pub(super) fn parse(entries: &[String]) -> Result<Self, String> {
        entries
            .iter()
            .map(|text| Entry::parse(text).ok_or_else(|| format!("{text:?} is not host[:port]")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn allow(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        self.0.iter().any(|entry| entry.port == port && entry.covers(&host))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, 443),
        };
        let name = host.strip_prefix("*.").unwrap_or(host);
        let label = |label: &str| !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !name.contains('.') || !name.split('.').all(label) {
            return None;
        }
        let host = host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
        Some(Self { host, port })
    }

    fn covers(&self, host: &str) -> bool {
        if self.host.starts_with('.') {
            host.len() > self.host.len() && host.ends_with(&self.host)
        } else {
            host == self.host
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str]) -> Result<AllowedHosts, String> {
        AllowedHosts::parse(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_ports_and_subdomains_p138() {
        let hosts = hosts(&["push.example.net", "lab.example.net:8443", "*.push.apple.com"]).unwrap();
        for (host, port, allowed) in [
            ("push.example.net", 443, true),
            ("PUSH.Example.NET", 443, true),
            ("push.example.net", 8443, false),
            ("a.push.example.net", 443, false),
            ("xpush.example.net", 443, false),
            ("push.example.net.evil.com", 443, false),
            ("lab.example.net", 8443, true),
            ("lab.example.net", 443, false),
            ("web.push.apple.com", 443, true),
            ("a.b.push.apple.com", 443, true),
            ("push.apple.com", 443, false),
            ("xpush.apple.com", 443, false),
            (".push.apple.com", 443, false),
        ] {
            assert_eq!(hosts.allow(host, port), allowed, "{host}:{port}");
        }
        assert!(!super::AllowedHosts(Vec::new()).allow("push.example.net", 443), "nothing listed, nothing allowed");
    }

    #[test]
    fn entries_that_mean_nothing_are_refused() {
        for entry in ["", "*", "*.", "host", "a..b", "a.b:", "a.b:0", "a.b:70000", "https://a.b", "a.b/c", "*.com.*"] {
            assert!(hosts(&[entry]).is_err(), "{entry:?}");
        }
        assert!(hosts(crate::DEFAULT_ALLOW_HOSTS).is_ok());
    }
}
