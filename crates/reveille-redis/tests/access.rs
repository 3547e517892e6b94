//! Rights, passwords, TLS, and servers without functions.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reveille_redis::{CommandError, Credentials, Metrics, RedisConfig, RedisStore, Tls};
use support::{Node, Redis, aor, config, file, mode, soon};
use tempfile::TempDir;

/// What `docs/redis.md` says is needed, apart from how functions are called.
const RIGHTS: &str = "~rv:lab:* +ping +hget +hmget +hset +hdel +hlen +hexists +hgetall +hscan +xadd +xread +get +set +del \
                      +pttl +time +wait";

fn user(server: &Redis, rights: &str) -> RedisConfig {
    let mut command = vec!["ACL", "SETUSER", "reveille", "reset", "on", ">pass word"];
    command.extend(rights.split_ascii_whitespace());
    assert_eq!(server.ask(&command).unwrap(), "+OK");
    let password = file(server.dir(), "password", "pass word\n");
    let credentials = Credentials { username: Some("reveille".to_owned()), password_file: Some(password) };
    RedisConfig { credentials, ..config(mode(server), "n1") }
}

/// Everything a node does.
async fn live(node: &Node) {
    node.claim_all(64).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    assert_eq!(node.write(3, 2, "bob", Some("two")), Ok(()));
    assert_eq!(node.write(3, 3, "bob", None), Ok(()));
    assert_eq!(node.load(3), BTreeMap::from([("alice@example.com".to_owned(), "one".to_owned())]));
    assert!(node.store.read_through(3, &aor("alice"), soon()).await.unwrap().is_some());
    node.store.follow(vec![(3, String::new())]).next().await.unwrap();
    node.store.defer(3, &aor("carol"), Some(b"late"), soon()).await.unwrap();
    let deferred = node.store.deferred(3, soon()).await.unwrap();
    node.store.take_deferred(3, &[deferred[0].id.clone()], soon()).await.unwrap();
    assert_eq!(node.store.renew(1, Duration::from_secs(30), b"here", soon()).await.unwrap().len(), 1);
    let news = [reveille_redis::Ownership { shard: 3, tag: "n1".to_owned(), epoch: 1 }];
    assert_eq!(node.store.announce(&news, soon()).await, Ok(1));
    assert_eq!(node.store.owners(soon()).await.unwrap().0, news);
    node.store.watch_map(String::new()).next().await.unwrap();
    let name = reveille_redis::SecretName::new("token", "team");
    node.store.keep_secret(&name, b"secret", Duration::from_secs(30), Duration::ZERO, soon()).await.unwrap();
    assert!(node.store.secret(&name, soon()).await.unwrap().is_some());
    let dead = reveille_redis::Buried { name: [1; 16], verdicts: 1, age: Duration::ZERO };
    node.store.bury(&[dead; 2], soon()).await.unwrap();
    assert_eq!(node.store.buried("", soon()).await.unwrap().0.len(), 2);
    node.store.watch_buried(String::new()).changed().await.unwrap();
    node.store.release(3, soon()).await.unwrap();
    node.store.resign(1, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_rights_are_enough() {
    let server = Redis::start().unwrap();
    let config = user(&server, &format!("{RIGHTS} +fcall +function|load"));
    live(&Node::open(&config).await).await;
    assert!(server.ask(&["FUNCTION", "LIST"]).unwrap().contains("reveille2"));
}

/// A server before 7.0, or an operator who forbids functions: scripts do the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_stand_in_for_functions() {
    for rights in ["+evalsha +script|load", "+fcall +evalsha +script|load"] {
        let server = Redis::start().unwrap();
        let config = user(&server, &format!("{RIGHTS} {rights}"));
        live(&Node::open(&config).await).await;
        assert_eq!(server.ask(&["FUNCTION", "LIST"]).unwrap(), "", "{rights}");
    }
    let server = Redis::with("rename-command FCALL \"\"\nrename-command FUNCTION \"\"").unwrap();
    live(&Node::open(&config(mode(&server), "n1")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_said_plainly() {
    let server = Redis::start().unwrap();
    let config = user(&server, "~rv:lab:* +ping +evalsha +script|load +hmget");
    let node = Node::open(&config).await;
    let claimed = node.store.claim(&[(3, 0)], soon()).await;
    assert!(format!("{claimed:?}").contains("can't run this command"), "{claimed:?}");
    let read = node.store.read_through(3, &aor("alice"), soon()).await;
    assert!(matches!(&read, Err(CommandError::Refused(reason)) if reason.contains("hget")), "{read:?}");
    // A wrong password is found when the store is opened, and is not shown.
    let wrong = file(server.dir(), "wrong", "not the password");
    let credentials = Credentials { password_file: Some(wrong), ..config.credentials.clone() };
    let config = RedisConfig { credentials, ..config };
    let registry = prometheus::Registry::new();
    let error = RedisStore::connect(&config, Metrics::new(&registry).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1") && error.to_lowercase().contains("auth"), "{error}");
    assert!(!error.contains("not the password"), "{error}");
}

/// An authority and certificates of it, as files.
fn certificates(dir: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "lab CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    file(dir, "ca.pem", &ca.pem());
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        file(dir, &format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
        file(dir, &format!("{name}.key"), &key.serialize_pem());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_checked_both_ways() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path());
    certificates(other.path());
    let server = tls_server(&dir);
    let client = Some((dir.path().join("client.pem"), dir.path().join("client.key")));
    let tls = |ca: &TempDir, client| Some(Tls { ca_file: Some(ca.path().join("ca.pem")), client });
    let with = |tls| RedisConfig { tls, connect_timeout: Duration::from_secs(3), ..config(mode(&server), "n1") };
    live(&Node::open(&with(tls(&dir, client.clone()))).await).await;

    for refused in [with(tls(&other, client)), with(tls(&dir, None)), with(None)] {
        let registry = prometheus::Registry::new();
        let opened = RedisStore::connect(&refused, Metrics::new(&registry).unwrap()).await;
        assert!(opened.is_err(), "{:?}", refused.tls);
    }
}

fn tls_server(dir: &TempDir) -> Redis {
    let files = ["cert-file server.pem", "key-file server.key", "ca-cert-file ca.pem"];
    let files = files.map(|line| line.replace(' ', &format!(" {}/", dir.path().display())));
    let lines = files.map(|line| format!("tls-{line}\n")).concat();
    Redis::with(&format!("port 0\ntls-port {{port}}\ntls-auth-clients yes\n{lines}")).unwrap()
}
