//! `domains`, `[node]` and `[auth]`.

use std::{path::PathBuf, time::Duration};

use reveille_proxy::auth::FileUsers;

use super::{Checker, DAY, SECOND, host};
use crate::config::{
    model::{Algorithm, Auth, Digest, Node, Roles},
    raw,
};

impl Checker {
    pub(super) fn domains(&mut self, raw: &[String]) -> Vec<String> {
        if raw.is_empty() {
            self.fault("domains", "at least one domain is required");
        }
        let mut domains: Vec<String> = Vec::new();
        for (index, text) in raw.iter().enumerate() {
            let key = format!("domains[{index}]");
            match host(text) {
                Some(domain) if domains.contains(&domain) => self.fault(&key, format!("{domain} is there already")),
                Some(domain) => domains.push(domain),
                None => self.fault(&key, format!("must be a host name or an IP address, got {text:?}")),
            }
        }
        domains
    }

    pub(super) fn node(&mut self, raw: &raw::Node, roles: Roles) -> Node {
        if raw.id.is_empty() || raw.id.len() > 63 || !raw.id.bytes().all(is_name_byte) {
            self.fault("node.id", "must be 1 to 63 letters, digits, dots, hyphens or underscores");
        }
        if raw.server_header.bytes().any(|byte| byte.is_ascii_control()) {
            self.fault("node.server_header", "must not hold control characters");
        }
        Node {
            id: raw.id.clone(),
            roles,
            data_dir: self.resolve(&raw.data_dir),
            drain_timeout: self.span("node.drain_timeout", raw.drain_timeout, Duration::ZERO, DAY),
            workers: Some(self.number("node.workers", raw.workers, 0, 1024)).filter(|workers| *workers != 0),
            server_header: raw.server_header.clone(),
        }
    }

    pub(super) fn auth(&mut self, raw: &raw::Auth, domain: Option<&str>, push: bool) -> Option<Auth> {
        let realm = raw.realm.clone().or_else(|| domain.map(str::to_owned));
        if raw.realm.as_deref().is_some_and(|realm| realm.is_empty() || realm.contains(['"', '\\', '\r', '\n'])) {
            self.fault("auth.realm", "must be text without quotes, backslashes or line ends");
        }
        let mode = self.choice("auth.mode", &raw.mode, &[("digest", true), ("none", false)], &["bearer"]);
        let digest = match mode {
            Some(true) => Some(self.digest(raw)),
            Some(false) if push => {
                self.fault("auth.mode", "must not be none while a push service is configured: whoever may register a push token must be known (P-115)");
                None
            }
            Some(false) => {
                self.warn("auth.mode is none: anybody can register as anybody");
                None
            }
            None => None,
        };
        mode?;
        match digest {
            Some(None) => None,
            Some(digest) => Some(Auth { realm: realm?, digest }),
            None => Some(Auth { realm: realm?, digest: None }),
        }
    }

    fn digest(&mut self, raw: &raw::Auth) -> Option<Digest> {
        let names = [("SHA-256", Algorithm::Sha256), ("SHA-512-256", Algorithm::Sha512_256), ("MD5", Algorithm::Md5)];
        let mut algorithms = Vec::new();
        for (index, name) in raw.algorithms.iter().enumerate() {
            let key = format!("auth.algorithms[{index}]");
            match self.choice(&key, name, &names, &[]) {
                Some(algorithm) if algorithms.contains(&algorithm) => {
                    self.fault(&key, format!("{name} is there already"))
                }
                Some(algorithm) => algorithms.push(algorithm),
                None => {}
            }
        }
        if raw.algorithms.is_empty() {
            self.fault("auth.algorithms", "at least one algorithm is required");
        }
        let md5 = algorithms.contains(&Algorithm::Md5);
        if md5 {
            self.warn("auth.algorithms names MD5, which is weaker than the others");
        }
        if raw.allow_no_qop && !md5 {
            self.fault("auth.allow_no_qop", "needs MD5 among auth.algorithms");
        }
        let nonce_ttl = self.span("auth.nonce_ttl", raw.nonce_ttl, 10 * SECOND, DAY);
        let users = self.users_file(raw);
        let (allow_no_qop, trust_registered_flow) = (raw.allow_no_qop, raw.trust_registered_flow);
        if trust_registered_flow {
            self.warn("auth.trust_registered_flow: who has a phone's TLS connection may call in its user's name without another challenge");
        }
        Some(Digest { algorithms, nonce_ttl, allow_no_qop, trust_registered_flow, users: users? })
    }

    fn users_file(&mut self, raw: &raw::Auth) -> Option<PathBuf> {
        let (path, _) = self.secret_file("auth.users.file", raw.users.file.as_deref())?;
        if let Err(error) = FileUsers::load(&path) {
            self.fault("auth.users.file", format!("{}: {error}", path.display()));
        }
        Some(path)
    }
}

/// What names of nodes and credentials are made of.
pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}
