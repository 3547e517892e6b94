//! `[store]`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{Checker, SECOND, host_and_port, join};
use crate::config::{
    model::{RedisCredentials, RedisMode, RedisSettings, RedisTls, Store},
    raw,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    Redis,
}

impl Checker {
    pub(super) fn store(&mut self, raw: &raw::Store, node: &raw::Node) -> Option<Store> {
        let kinds = [("embedded", Kind::Embedded), ("redis", Kind::Redis)];
        match self.choice("store.kind", &raw.kind, &kinds, &[])? {
            Kind::Embedded => {
                if raw.redis.is_some() {
                    self.fault("store.redis", "means nothing unless store.kind is redis");
                }
                let path = raw.path.clone().unwrap_or_else(|| node.data_dir.join("bindings"));
                Some(Store::Embedded { path: self.resolve(&path) })
            }
            Kind::Redis => {
                if raw.path.is_some() {
                    self.fault("store.path", "is for the embedded store, and store.kind is redis");
                }
                self.redis(&raw.redis.clone().unwrap_or_default()).map(|redis| Store::Redis(Box::new(redis)))
            }
        }
    }

    fn redis(&mut self, raw: &raw::Redis) -> Option<RedisSettings> {
        let mode = self.redis_mode(raw);
        let (servers, secure) = self.redis_servers(raw);
        let tls = self.redis_tls(raw, secure);
        let credentials = self.credentials("", raw.username.as_ref(), raw.password_file.as_ref());
        let sentinels =
            self.credentials("sentinel_", raw.sentinel_username.as_ref(), raw.sentinel_password_file.as_ref());
        if raw.mode != "sentinel" && sentinels != RedisCredentials::default() {
            self.fault("store.redis.sentinel_username", "means nothing unless store.redis.mode is sentinel");
        }
        let wait_time = self.span("store.redis.wait_time", raw.wait_time, Duration::from_millis(1), 60 * SECOND);
        let wait_replicas = self.number("store.redis.wait_replicas", raw.wait_replicas, 0, 100);
        let settings = RedisSettings {
            mode: mode?,
            servers,
            credentials,
            sentinel_credentials: sentinels,
            tls,
            wait_replicas: (wait_replicas > 0).then_some((wait_replicas, wait_time)),
            connections: self.number("store.redis.connections", raw.connections, 1, 64),
            timeout: self.span("store.redis.timeout", raw.timeout, SECOND / 20, 60 * SECOND),
            queue: self.number("store.redis.queue", raw.queue, 1, 10_000_000),
            feed_length: self.number("store.redis.feed_length", raw.feed_length, 16, 1_000_000),
        };
        Some(settings)
    }

    fn redis_mode(&mut self, raw: &raw::Redis) -> Option<RedisMode> {
        let modes = [
            ("standalone", RedisMode::Standalone),
            ("sentinel", RedisMode::Sentinel { master: raw.master.clone().unwrap_or_default() }),
            ("cluster", RedisMode::Cluster),
        ];
        let mode = self.choice("store.redis.mode", &raw.mode, &modes, &[])?;
        match (&mode, &raw.master) {
            (RedisMode::Sentinel { master }, _) if master.is_empty() => {
                self.fault("store.redis.master", "is required: the master's name among the sentinels");
            }
            (RedisMode::Sentinel { .. }, _) | (_, None) => {}
            (_, Some(_)) => {
                self.fault("store.redis.master", "means nothing unless store.redis.mode is sentinel");
            }
        }
        if mode == RedisMode::Standalone && raw.urls.len() > 1 {
            self.fault("store.redis.urls", "must be one server, unless store.redis.mode is sentinel or cluster");
        }
        Some(mode)
    }

    /// The servers, and whether they are reached by TLS.
    fn redis_servers(&mut self, raw: &raw::Redis) -> (Vec<(String, u16)>, bool) {
        let port = if raw.mode == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        if raw.urls.is_empty() {
            self.fault("store.redis.urls", "at least one server is required, such as rediss://redis.example.com:6379");
        }
        let mut servers: Vec<(bool, String, u16)> = Vec::new();
        for (index, url) in raw.urls.iter().enumerate() {
            let key = format!("store.redis.urls[{index}]");
            let parts = url.strip_prefix("rediss://").map(|rest| (true, rest));
            let parts = parts.or_else(|| url.strip_prefix("redis://").map(|rest| (false, rest)));
            let server = parts.and_then(|(tls, rest)| {
                let (host, given) = host_and_port(rest.strip_suffix('/').unwrap_or(rest))?;
                Some((tls, host.trim_matches(['[', ']']).to_owned(), given.unwrap_or(port)))
            });
            match server {
                // What is wrong may be a password: the text is not repeated.
                None if url.contains('@') => {
                    self.fault(&key, "must not hold credentials: they go into username and password_file");
                }
                None => self.fault(&key, "must be rediss://host[:port] or redis://host[:port]"),
                Some(server) if servers.contains(&server) => self.fault(&key, "is there already"),
                Some(server) => servers.push(server),
            }
        }
        let secure = servers.iter().filter(|(tls, ..)| *tls).count();
        if secure != 0 && secure != servers.len() {
            self.fault("store.redis.urls", "must be all rediss or all redis");
        }
        if servers.iter().any(|(tls, host, _)| !tls && !is_this_machine(host)) {
            if raw.allow_plaintext {
                self.warn("store.redis.allow_plaintext: what the nodes tell Redis, its password included, crosses the network without TLS");
            } else {
                self.fault(
                    "store.redis.urls",
                    "must be rediss (TLS), since not every server is on this machine; store.redis.allow_plaintext = true permits redis",
                );
            }
        }
        (servers.into_iter().map(|(_, host, port)| (host, port)).collect(), secure != 0)
    }

    fn redis_tls(&mut self, raw: &raw::Redis, secure: bool) -> Option<RedisTls> {
        let given = [("ca_file", &raw.ca_file), ("cert", &raw.cert), ("key", &raw.key)];
        if !secure {
            // Without a readable server nobody knows yet whether there is TLS.
            if !raw.urls.is_empty() && raw.urls.iter().all(|url| url.starts_with("redis://")) {
                for (name, _) in given.iter().filter(|(_, path)| path.is_some()) {
                    self.fault(&join("store.redis", name), "is for TLS, and store.redis.urls are redis and not rediss");
                }
            }
            return None;
        }
        let ca_file = self.authorities("store.redis.ca_file", raw.ca_file.as_deref());
        let client = self.own_certificate("store.redis", raw.cert.as_ref(), raw.key.as_ref());
        Some(RedisTls { ca_file, client })
    }

    /// A certificate and its key, which come together or not at all.
    pub(super) fn own_certificate(
        &mut self,
        at: &str,
        cert: Option<&PathBuf>,
        key: Option<&PathBuf>,
    ) -> Option<(PathBuf, PathBuf)> {
        let (cert, key) = match (cert, key) {
            (None, None) => return None,
            (Some(_), None) => {
                self.fault(&join(at, "key"), "is required with cert");
                return None;
            }
            (None, Some(_)) => {
                self.fault(&join(at, "cert"), "is required with key");
                return None;
            }
            (Some(cert), Some(key)) => (self.file(&join(at, "cert"), cert), self.file(&join(at, "key"), key)),
        };
        let (cert, key) = (cert?, key?);
        self.certificate(at, &cert, &key);
        Some((cert, key))
    }

    fn credentials(
        &mut self,
        prefix: &str,
        username: Option<&String>,
        password_file: Option<&PathBuf>,
    ) -> RedisCredentials {
        let key = format!("store.redis.{prefix}password_file");
        let password_file = password_file.and_then(|path| self.secret_file(&key, Some(path)));
        if username.is_some_and(String::is_empty) {
            self.fault(&format!("store.redis.{prefix}username"), "must not be empty");
        }
        RedisCredentials { username: username.cloned(), password_file: password_file.map(|(path, _)| path) }
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

const REDIS_PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;
