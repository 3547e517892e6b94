//! What we call ourselves towards peers, and by which names peers may mean us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use reveille_proxy::{egress::LocalAddress, ingress::Purpose};
use reveille_registrar::flow::Transport;

/// The addresses of all listeners, by index.
pub(crate) struct Addresses {
    listeners: Vec<Listener>,
}

/// One listener's address.
pub(crate) struct Listener {
    pub(crate) transport: Transport,
    pub(crate) purpose: Purpose,
    /// Where it is bound, the port resolved.
    pub(crate) bound: SocketAddr,
    pub(crate) advertise: Option<(String, Option<u16>)>,
}

impl Listener {
    fn port(&self) -> u16 {
        self.advertise.as_ref().and_then(|(_, port)| *port).unwrap_or(self.bound.port())
    }

    /// `seen` is our end of a connection, where there is one.
    fn host(&self, seen: Option<IpAddr>) -> String {
        match &self.advertise {
            Some((host, _)) => bracketed(host),
            None if !self.bound.ip().is_unspecified() => literal(self.bound.ip()),
            None => literal(seen.unwrap_or_else(|| default_source(self.bound.is_ipv6()))),
        }
    }

    fn address(&self, seen: Option<IpAddr>) -> LocalAddress {
        LocalAddress { transport: self.transport, host: self.host(seen), port: self.port() }
    }
}

impl Addresses {
    pub(crate) fn new(listeners: Vec<Listener>) -> Self {
        Self { listeners }
    }

    /// The transport of a listener.
    pub(crate) fn transport(&self, listener: u16) -> Transport {
        self.listeners.get(usize::from(listener)).map_or(Transport::Tcp, |listener| listener.transport)
    }

    /// What peers of a listener are told.
    pub(crate) fn of_listener(&self, listener: u16, seen: Option<IpAddr>) -> Option<LocalAddress> {
        self.listeners.get(usize::from(listener)).map(|listener| listener.address(seen))
    }

    /// What the peer of a connection that we opened is told: a listener where it can reach us again, of the same trust if
    /// there is one. Without a listener of this transport, answers still come back by the connection itself.
    pub(crate) fn of_dialled(
        &self,
        transport: Transport,
        purpose: Purpose,
        seen: Option<IpAddr>,
    ) -> Option<LocalAddress> {
        let same = || self.listeners.iter().filter(move |listener| listener.transport == transport);
        let listener = same().find(|listener| listener.purpose == purpose).or_else(|| same().next());
        if let Some(listener) = listener {
            return Some(listener.address(seen));
        }
        let host = match (seen, self.listeners.first()) {
            (Some(ip), _) => literal(ip),
            (None, Some(listener)) => listener.host(None),
            (None, None) => return None,
        };
        Some(LocalAddress { transport, host, port: if transport.is_secure() { 5061 } else { 5060 } })
    }

    /// The datagram listener to send to `remote` from: one of its family, and not one bound to loopback for a peer elsewhere.
    pub(crate) fn datagram_listener(&self, remote: SocketAddr) -> Option<u16> {
        let reaches = |listener: &Listener| {
            let ip = listener.bound.ip();
            let dual = ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            listener.transport == Transport::Udp
                && (listener.bound.is_ipv4() == remote.is_ipv4() || dual)
                && (ip.is_unspecified() || ip.is_loopback() == remote.ip().is_loopback())
        };
        let index = self.listeners.iter().position(reaches)?;
        u16::try_from(index).ok()
    }

    /// Whether `host` and `port` name one of our listeners.
    pub(crate) fn names_us(&self, host: &str, port: Option<u16>) -> bool {
        let ip: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let mut on_port =
            self.listeners.iter().filter(|l| port.is_none_or(|p| p == l.bound.port() || p == l.port())).peekable();
        if on_port.peek().is_none() {
            return false;
        }
        let mut unspecified = false;
        for listener in on_port {
            let advertised = listener.advertise.as_ref().is_some_and(|(name, _)| match ip {
                Some(ip) => bare(name).parse() == Ok(ip),
                None => name.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.')),
            });
            if advertised || ip == Some(listener.bound.ip()) {
                return true;
            }
            unspecified |= listener.bound.ip().is_unspecified();
        }
        unspecified && ip.is_some_and(is_ours)
    }
}

/// Whether an address belongs to this host: only then can a socket be bound to it.
fn is_ours(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !special && !ip.is_unspecified() && !ip.is_multicast() && UdpSocket::bind((ip, 0)).is_ok()
}

/// The address this host would send from by default: what a listener on all addresses is called when nobody told us.
fn default_source(v6: bool) -> IpAddr {
    let (any, far): (IpAddr, IpAddr) = if v6 {
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
    };
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((far, 9))?;
        socket.local_addr()
    });
    match asked {
        Ok(local) => local.ip(),
        Err(_) if v6 => Ipv6Addr::LOCALHOST.into(),
        Err(_) => Ipv4Addr::LOCALHOST.into(),
    }
}

fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// A configured host, with the brackets that an IPv6 literal must have on the wire.
fn bracketed(host: &str) -> String {
    host.parse::<Ipv6Addr>().map_or_else(|_| host.to_owned(), |ip| format!("[{ip}]"))
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(
        transport: Transport,
        purpose: Purpose,
        bound: &str,
        advertise: Option<(&str, Option<u16>)>,
    ) -> Listener {
        let advertise = advertise.map(|(host, port)| (host.to_owned(), port));
        Listener { transport, purpose, bound: bound.parse().unwrap(), advertise }
    }

    fn addresses() -> Addresses {
        Addresses::new(vec![
            listener(Transport::Udp, Purpose::Public, "127.0.0.1:5060", None),
            listener(Transport::Udp, Purpose::Public, "0.0.0.0:5070", None),
            listener(Transport::Tls, Purpose::Public, "0.0.0.0:5061", Some(("edge.example.com", Some(443)))),
            listener(Transport::Tls, Purpose::Cluster, "[::1]:5065", None),
            listener(Transport::Tcp, Purpose::Peer, "192.0.2.5:5060", Some(("2001:db8::5", None))),
        ])
    }

    #[test]
    fn names_that_mean_us() {
        let cases = [
            ("edge.example.com", Some(443), true),
            ("EDGE.example.com.", Some(5061), true),
            ("edge.example.com", None, true),
            ("edge.example.com", Some(5099), false),
            ("other.example.com", None, false),
            ("192.0.2.5", Some(5060), true),
            ("[2001:db8::5]", Some(5060), true),
            ("[2001:0db8::0:5]", None, true),
            ("[::1]", Some(5065), true),
            ("127.0.0.1", Some(5060), true),
            ("127.0.0.2", Some(5070), true),
            ("203.0.113.77", Some(5070), false),
            ("0.0.0.0", Some(5060), false),
            ("224.0.0.1", Some(5070), false),
            ("", None, false),
        ];
        for (host, port, want) in cases {
            assert_eq!(addresses().names_us(host, port), want, "{host} {port:?}");
        }
    }

    #[test]
    fn advertised_names_come_before_bound_addresses() {
        let addresses = addresses();
        let text =
            |local: Option<LocalAddress>| local.map(|l| format!("{} {}:{}", l.transport.via_token(), l.host, l.port));
        assert_eq!(text(addresses.of_listener(2, None)).as_deref(), Some("TLS edge.example.com:443"));
        assert_eq!(text(addresses.of_listener(3, None)).as_deref(), Some("TLS [::1]:5065"));
        assert_eq!(text(addresses.of_listener(4, None)).as_deref(), Some("TCP [2001:db8::5]:5060"));
        assert_eq!(text(addresses.of_listener(9, None)), None);
        let dialled =
            |transport, purpose| text(addresses.of_dialled(transport, purpose, Some(Ipv4Addr::LOCALHOST.into())));
        assert_eq!(dialled(Transport::Tls, Purpose::Cluster).as_deref(), Some("TLS [::1]:5065"));
        assert_eq!(dialled(Transport::Tls, Purpose::Peer).as_deref(), Some("TLS edge.example.com:443"));
        assert_eq!(dialled(Transport::Quic, Purpose::Peer).as_deref(), Some("QUIC 127.0.0.1:5061"));
    }

    #[test]
    fn datagrams_leave_by_a_socket_that_reaches_their_peer() {
        let addresses = addresses();
        assert_eq!(addresses.datagram_listener("127.0.0.1:9".parse().unwrap()), Some(0));
        assert_eq!(addresses.datagram_listener("192.0.2.1:9".parse().unwrap()), Some(1));
        assert_eq!(addresses.datagram_listener("[::1]:9".parse().unwrap()), None);
    }
}
