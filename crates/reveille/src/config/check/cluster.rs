//! `[cluster]`, and what it asks of roles and listeners.

use std::{collections::HashSet, path::PathBuf};

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
};

use super::{Checker, SECOND, host, is_on, join};
use crate::{
    cluster::keys::read_secret,
    config::{
        model::{Cluster, Listener, Purpose, Roles, Transport},
        raw::{self, Raw},
    },
};

impl Checker {
    /// `[cluster]`, for a node with a Redis; and that nothing speaks of a cluster where there is none.
    pub(super) fn cluster(&mut self, raw: &Raw, roles: Roles, listeners: &[Listener]) -> Option<Cluster> {
        let at = |purpose: &'static str| {
            raw.listener.iter().enumerate().filter(move |(_, l)| l.purpose == purpose).map(|(at, _)| at)
        };
        match raw.store.kind.as_str() {
            "redis" => {}
            "embedded" => {
                if raw.cluster.is_some() {
                    self.fault("cluster", "means nothing unless store.kind is redis");
                }
                for index in at("cluster") {
                    self.fault(&format!("listener[{index}].purpose"), "must not be cluster unless store.kind is redis");
                }
                return None;
            }
            _ => return None,
        }
        if at("cluster").next().is_none() {
            self.fault("listener", "a cluster needs a [[listener]] with purpose = \"cluster\"");
        }
        for index in at("cluster").skip(1) {
            self.fault(&format!("listener[{index}].purpose"), "there is a cluster listener already");
        }
        if roles.edge && !raw.listener.is_empty() && raw.listener.iter().all(|listener| listener.purpose == "cluster") {
            self.fault("listener", "a node with the role edge needs another [[listener]] than that of the cluster");
        }
        // One file may serve nodes of every role, each told its own by the environment.
        for index in at("public").filter(|_| roles.home && !roles.edge) {
            self.warn(format!("listener[{index}] is public and is not opened, since this node has not the role edge"));
        }
        let listener = listeners.iter().find(|listener| listener.purpose == Purpose::Cluster);
        self.cluster_section(&raw.cluster.clone().unwrap_or_default(), listener, raw)
    }

    fn cluster_section(&mut self, section: &raw::Cluster, listener: Option<&Listener>, raw: &Raw) -> Option<Cluster> {
        let name = &section.name;
        if name.is_empty() {
            self.fault("cluster.name", "is required");
        } else if name.len() > 32 || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            self.fault("cluster.name", "must be 1 to 32 lower-case letters, digits or hyphens");
        }
        let key_files = self.key_files(&section.key_files);
        let naming = section.naming_key_file.as_deref();
        let naming_key_file = match naming {
            Some(path) => self.key_file("cluster.naming_key_file", path).map(|(path, _)| path),
            None => {
                // Which of them records were filed under cannot be told from their order, which changes as they rotate.
                if section.key_files.len() > 1 {
                    self.fault("cluster.naming_key_file", "is required where cluster.key_files has more than one");
                }
                key_files.first().cloned()
            }
        };
        let server_name = host(&section.server_name).filter(|name| !is_address(name));
        if server_name.is_none() {
            self.fault("cluster.server_name", format!("must be a DNS name, got {:?}", section.server_name));
        }
        let identity = self.own_certificate("cluster", section.cert.as_ref(), section.key.as_ref());
        let ca = self.authorities("cluster.ca", section.ca.as_deref());
        let lease = self.span("cluster.lease", section.lease, SECOND, 60 * SECOND);
        let timeout = raw.store.redis.clone().unwrap_or_default().timeout.0;
        if timeout >= lease {
            self.fault(
                "store.redis.timeout",
                "must be below cluster.lease, or one slow answer costs the node its shards",
            );
        }
        let weight = self.number("cluster.weight", section.weight, 1, 10_000);
        let connections = self.number("cluster.connections", section.connections, 1, 16);
        let Transport::Tls(files) = &listener?.transport else { return None };
        let (cert, key) = identity.clone().unwrap_or_else(|| (files.cert.clone(), files.key.clone()));
        let server_name = server_name?;
        let index = raw.listener.iter().position(|listener| listener.purpose == "cluster").unwrap_or_default();
        if !carries(&files.cert, &server_name) {
            let reason = format!("{} lacks the DNS name {server_name} (cluster.server_name)", files.cert.display());
            self.fault(&format!("listener[{index}].cert"), reason);
        }
        if identity.is_some() && !carries(&cert, &server_name) {
            let reason = format!("{} lacks the DNS name {server_name} (cluster.server_name)", cert.display());
            self.fault("cluster.cert", reason);
        }
        Some(Cluster {
            name: name.clone(),
            naming_key_file: naming_key_file?,
            key_files,
            server_name,
            ca: ca.or_else(|| files.client_ca.clone())?,
            cert,
            key,
            lease,
            weight,
            standby: section.standby,
            standby_memory: section.standby_memory,
            connections,
        })
    }

    fn key_files(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        if paths.is_empty() {
            self.fault("cluster.key_files", "at least one file is required, made by `openssl rand -hex 32`");
        }
        let mut files = Vec::new();
        let mut seen = HashSet::new();
        for (index, path) in paths.iter().enumerate() {
            let key = format!("cluster.key_files[{index}]");
            let Some((path, content)) = self.key_file(&key, path) else { continue };
            if seen.insert(content.trim_ascii().to_ascii_lowercase()) {
                files.push(path);
            } else {
                self.fault(&key, format!("{} holds a secret that is there already", path.display()));
            }
        }
        files
    }

    fn key_file(&mut self, key: &str, path: &std::path::Path) -> Option<(PathBuf, Vec<u8>)> {
        let (path, content) = self.secret_file(key, Some(path))?;
        if let Err(error) = read_secret(&path) {
            self.fault(key, error.to_string());
            return None;
        }
        Some((path, content))
    }

    /// What a node may be, beside what its store is.
    pub(super) fn roles(&mut self, raw: &Raw) -> Roles {
        for role in &raw.node.roles {
            self.choice("node.roles", role, &[("edge", ()), ("home", ())], &[]);
        }
        let roles = Roles { edge: is_on(raw, "edge"), home: is_on(raw, "home") };
        if !roles.edge && !roles.home {
            self.fault("node.roles", "must name edge, home, or both");
        } else if roles.edge != roles.home && raw.store.kind == "embedded" {
            self.fault(
                "node.roles",
                "must be both edge and home unless store.kind is redis: a node by itself does both",
            );
        }
        if raw.store.kind == "redis" && raw.node.id == raw::Node::default().id {
            self.fault("node.id", "must be set, and differ on every node of the cluster");
        }
        roles
    }

    /// What the cluster listener must be, beyond what any TLS listener must.
    pub(super) fn cluster_listener(&mut self, at: &str, raw: &raw::Listener) {
        if !raw.transport.is_empty() && raw.transport != "tls" {
            self.fault(&join(at, "transport"), "must be tls for the purpose cluster");
        } else if raw.client_ca.is_none() {
            self.fault(
                &join(at, "client_ca"),
                "is required for the purpose cluster: nodes know each other by certificates",
            );
        }
    }
}

/// Whether the first certificate of a file carries a DNS name, as those who dial will look for it.
fn carries(cert: &std::path::Path, name: &str) -> bool {
    let Some(Ok(leaf)) = CertificateDer::pem_file_iter(cert).ok().and_then(|mut chain| chain.next()) else {
        // Told already.
        return true;
    };
    let Ok(name) = ServerName::try_from(name) else { return false };
    ParsedCertificate::try_from(&leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}
