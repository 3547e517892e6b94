//! `[[listener]]`.

use std::net::SocketAddr;

use super::{Checker, host_and_port, join};
use crate::config::{
    model::{Listener, Purpose, TlsFiles, Transport},
    raw,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Udp,
    Tcp,
    Tls,
}

impl Checker {
    pub(super) fn listeners(&mut self, raw: &[raw::Listener], cluster: Option<&raw::Cluster>) -> Vec<Listener> {
        if raw.is_empty() {
            self.fault("listener", "at least one [[listener]] is required");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, raw) in raw.iter().enumerate() {
            let at = format!("listener[{index}]");
            let Some(listener) = self.listener(&at, raw, cluster) else { continue };
            if listener.addr.port() != 0 && listeners.iter().any(|other| clashes(other, &listener)) {
                self.fault(&join(&at, "addr"), format!("{} is taken by another listener", listener.addr));
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, at: &str, raw: &raw::Listener, cluster: Option<&raw::Cluster>) -> Option<Listener> {
        let kinds = [("udp", Kind::Udp), ("tcp", Kind::Tcp), ("tls", Kind::Tls)];
        let kind = self.choice(&join(at, "transport"), &raw.transport, &kinds, &["ws", "wss", "quic"]);
        let purposes = [("public", Purpose::Public), ("peer", Purpose::Peer), ("cluster", Purpose::Cluster)];
        let purpose = self.choice(&join(at, "purpose"), &raw.purpose, &purposes, &[]);
        let cluster = (purpose == Some(Purpose::Cluster)).then(|| cluster.cloned().unwrap_or_default());
        if cluster.is_some() {
            self.cluster_listener(at, raw);
        }
        if raw.addr.is_none() {
            self.fault(&join(at, "addr"), "is required");
        }
        let advertise = self.advertise(at, raw, cluster.as_ref());
        let tls = match kind {
            Some(Kind::Tls) => self.tls_files(at, raw),
            Some(_) => {
                self.no_tls_files(at, raw);
                None
            }
            None => None,
        };
        // Whoever is to be let in as a node must be named; by default it is the name that we look for when we dial.
        let tls = tls.map(|files| match &cluster {
            Some(cluster) if files.client_names.is_empty() => {
                TlsFiles { client_names: vec![cluster.server_name.clone()], ..files }
            }
            _ => files,
        });
        let transport = match kind? {
            Kind::Udp => Transport::Udp,
            Kind::Tcp => Transport::Tcp,
            Kind::Tls => Transport::Tls(tls?),
        };
        Some(Listener { transport, addr: raw.addr?, advertise, purpose: purpose? })
    }

    fn advertise(
        &mut self,
        at: &str,
        raw: &raw::Listener,
        cluster: Option<&raw::Cluster>,
    ) -> Option<(String, Option<u16>)> {
        // A key of its own, for the environment can set it where each node has its own address.
        let (key, text) = match cluster.and_then(|cluster| cluster.advertise.as_ref()) {
            Some(text) => ("cluster.advertise".to_owned(), Some(text)),
            None => (join(at, "advertise"), raw.advertise.as_ref()),
        };
        match text {
            Some(text) => {
                let parsed = host_and_port(text);
                if parsed.is_none() {
                    self.fault(&key, format!("must be a host, or host:port, got {text:?}"));
                }
                parsed
            }
            None => {
                if raw.addr.is_some_and(|addr| addr.ip().is_unspecified()) {
                    self.fault(&key, "is required, since addr is a wildcard that no peer can send to");
                }
                None
            }
        }
    }

    fn tls_files(&mut self, at: &str, raw: &raw::Listener) -> Option<TlsFiles> {
        let cert = self.required_file(&join(at, "cert"), raw.cert.as_deref());
        let key = self.required_file(&join(at, "key"), raw.key.as_deref());
        if let (Some(cert), Some(key)) = (&cert, &key) {
            self.certificate(at, cert, key);
        }
        let client_ca = self.authorities(&join(at, "client_ca"), raw.client_ca.as_deref());
        if raw.client_ca.is_none() && !raw.client_names.is_empty() {
            self.fault(&join(at, "client_names"), "means nothing without client_ca");
        }
        Some(TlsFiles { cert: cert?, key: key?, client_ca, client_names: raw.client_names.clone() })
    }

    fn no_tls_files(&mut self, at: &str, raw: &raw::Listener) {
        let given = [
            ("cert", raw.cert.is_some()),
            ("key", raw.key.is_some()),
            ("client_ca", raw.client_ca.is_some()),
            ("client_names", !raw.client_names.is_empty()),
        ];
        for (name, _) in given.iter().filter(|(_, given)| *given) {
            self.fault(&join(at, name), format!("is for tls, and this listener is {}", raw.transport));
        }
    }
}

fn clashes(one: &Listener, other: &Listener) -> bool {
    let datagrams = |listener: &Listener| listener.transport == Transport::Udp;
    let covers =
        |a: SocketAddr, b: SocketAddr| a.ip() == b.ip() || (a.ip().is_unspecified() && a.is_ipv4() == b.is_ipv4());
    datagrams(one) == datagrams(other)
        && one.addr.port() == other.addr.port()
        && (covers(one.addr, other.addr) || covers(other.addr, one.addr))
}
