//! A node of a cluster: what it needs, what is refused, and what the keys mean.

use std::{path::PathBuf, time::Duration};

use super::*;

/// A folder with what a node of a cluster names.
fn folder() -> Folder {
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(vec!["reveille-node".to_owned(), "n1.example".to_owned()]).unwrap();
    folder.put("node.pem", &made.cert.pem());
    folder.put("node-key.pem", &made.signing_key.serialize_pem());
    folder.put("one.key", &format!("{}\n", "1a".repeat(32)));
    folder.put("two.key", &format!("{}\n", "2B".repeat(32)));
    folder.put("one-again.key", &"1A".repeat(32));
    folder.put("password", "hunter2\n");
    folder
}

const BASE: &str = r#"
domains = ["example.com"]
[node]
id = "n1"
[auth.users]
file = "users.txt"
[[listener]]
transport = "udp"
addr = "127.0.0.1:5060"
"#;

const INSIDE: &str = r#"
[[listener]]
transport = "tls"
addr = "127.0.0.1:5070"
cert = "node.pem"
key = "node-key.pem"
client_ca = "node.pem"
purpose = "cluster"
"#;

const STORE: &str = r#"
[store]
kind = "redis"
[store.redis]
urls = ["rediss://redis.example.com"]
"#;

const CLUSTER: &str = r#"
[cluster]
name = "lab"
key_files = ["one.key"]
"#;

fn whole() -> String {
    [BASE, INSIDE, STORE, CLUSTER].concat()
}

#[test]
fn the_least_node_of_a_cluster_has_the_documented_defaults() {
    let folder = folder();
    let config = folder.parse(&whole()).unwrap();
    let at = |name: &str| folder.0.path().join(name);
    assert_eq!(config.node.roles, Roles { edge: true, home: true });
    assert_eq!(
        config.store,
        Store::Redis(Box::new(RedisSettings {
            mode: RedisMode::Standalone,
            servers: vec![("redis.example.com".to_owned(), 6379)],
            credentials: RedisCredentials::default(),
            sentinel_credentials: RedisCredentials::default(),
            tls: Some(RedisTls::default()),
            wait_replicas: None,
            connections: 2,
            timeout: Duration::from_secs(1),
            queue: 16_384,
            feed_length: 256,
        }))
    );
    assert_eq!(
        config.cluster.unwrap(),
        Cluster {
            name: "lab".to_owned(),
            key_files: vec![at("one.key")],
            naming_key_file: at("one.key"),
            server_name: "reveille-node".to_owned(),
            ca: at("node.pem"),
            cert: at("node.pem"),
            key: at("node-key.pem"),
            lease: Duration::from_secs(3),
            weight: 100,
            standby: true,
            standby_memory: 1 << 31,
            connections: 2,
        }
    );
    // S-166: there is always a list of who is let in.
    let Transport::Tls(files) = &config.listeners[1].transport else { panic!("{:?}", config.listeners) };
    assert_eq!(
        (files.client_names.as_slice(), &files.client_ca),
        (&["reveille-node".to_owned()][..], &Some(at("node.pem")))
    );
    assert_eq!(config.listeners[1].purpose, Purpose::Cluster);
    assert_eq!(config.warnings, <[String; 0]>::default());
}

#[test]
fn everything_about_redis_and_the_cluster_can_be_said() {
    let folder = folder();
    let text = [
        BASE.replace("id = \"n1\"", "id = \"n1\"\nroles = [\"home\"]")
            .replace("\"udp\"", "\"udp\"\npurpose = \"peer\""),
        INSIDE.replace("127.0.0.1:5070", "0.0.0.0:5070").replace("purpose", "client_names = [\"n2.example\"]\npurpose"),
        r#"
        [store]
        kind = "redis"
        [store.redis]
        urls = ["rediss://Sentinel-1.example", "rediss://[2001:db8::1]:26400/"]
        mode = "sentinel"
        master = "bindings"
        username = "reveille"
        password_file = "password"
        sentinel_username = "watcher"
        sentinel_password_file = "password"
        ca_file = "cert.pem"
        cert = "cert.pem"
        key = "key.pem"
        wait_replicas = 2
        wait_time = "250ms"
        connections = 4
        timeout = "700ms"
        queue = 99
        feed_length = 1000
        [cluster]
        name = "eu-west-1"
        key_files = ["two.key"]
        naming_key_file = "one.key"
        advertise = "192.0.2.7:5071"
        server_name = "N1.example"
        ca = "cert.pem"
        cert = "node.pem"
        key = "node-key.pem"
        lease = "5s"
        weight = 50
        connections = 8
        "#
        .to_owned(),
    ]
    .concat();
    let config = folder.parse(&text).unwrap();
    let at = |name: &str| folder.0.path().join(name);
    assert_eq!(config.node.roles, Roles { edge: false, home: true });
    let user = |name: &str| RedisCredentials { username: Some(name.to_owned()), password_file: Some(at("password")) };
    assert_eq!(
        config.store,
        Store::Redis(Box::new(RedisSettings {
            mode: RedisMode::Sentinel { master: "bindings".to_owned() },
            servers: vec![("sentinel-1.example".to_owned(), 26_379), ("2001:db8::1".to_owned(), 26_400)],
            credentials: user("reveille"),
            sentinel_credentials: user("watcher"),
            tls: Some(RedisTls { ca_file: Some(at("cert.pem")), client: Some((at("cert.pem"), at("key.pem"))) }),
            wait_replicas: Some((2, Duration::from_millis(250))),
            connections: 4,
            timeout: Duration::from_millis(700),
            queue: 99,
            feed_length: 1000,
        }))
    );
    let cluster = config.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.server_name.as_str()), ("eu-west-1", "n1.example"));
    assert_eq!((cluster.naming_key_file, cluster.ca), (at("one.key"), at("cert.pem")));
    assert_eq!((cluster.lease, cluster.weight, cluster.connections), (Duration::from_secs(5), 50, 8));
    // It stands in for what a listener on a wildcard would have to say.
    assert_eq!(config.listeners[1].advertise, Some(("192.0.2.7".to_owned(), Some(5071))));
    let Transport::Tls(files) = &config.listeners[1].transport else { panic!("{:?}", config.listeners) };
    assert_eq!(files.client_names, ["n2.example"]);
}

/// What is wrong when `from` is replaced by `to` in a good configuration.
fn altered(folder: &Folder, from: &str, to: &str) -> Vec<String> {
    let text = whole();
    assert!(text.contains(from), "{from}");
    folder.faults(&text.replacen(from, to, 1))
}

#[test]
fn single_faults_of_a_cluster_are_told_by_their_key() {
    let folder = folder();
    let listener = "[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"\n";
    let urls = "urls = [\"rediss://redis.example.com\"]";
    let keys = "key_files = [\"one.key\"]";
    for (from, to, fault) in [
        ("id = \"n1\"\n", "", "node.id: must be set, and differ"),
        ("id = \"n1\"", "id = \"reveille\"", "node.id: must be set, and differ"),
        ("id = \"n1\"", "id = \"n1\"\nroles = []", "node.roles: must name edge, home, or both"),
        (listener, "", "listener: a node with the role edge needs another"),
        (INSIDE, "", "listener: a cluster needs a [[listener]] with purpose"),
        (
            INSIDE,
            &[INSIDE, &INSIDE.replace("5070", "5071")].concat(),
            "listener[2].purpose: there is a cluster listener already",
        ),
        ("client_ca = \"node.pem\"\n", "", "listener[1].client_ca: is required for the purpose cluster"),
        ("\"127.0.0.1:5070\"", "\"0.0.0.0:5070\"", "listener[1].advertise: is required, since addr is a wildcard"),
        (urls, "", "store.redis.urls: at least one server is required"),
        (urls, "urls = [\"http://a\"]", "store.redis.urls[0]: must be rediss://host[:port]"),
        (urls, "urls = [\"rediss://a/0\"]", "store.redis.urls[0]: must be rediss://host[:port]"),
        (urls, "urls = [\"rediss://a#insecure\"]", "store.redis.urls[0]: must be rediss://host[:port]"),
        (urls, "urls = [\"rediss://u:hunter2@a\"]", "store.redis.urls[0]: must not hold credentials"),
        (urls, "urls = [\"rediss://a\", \"rediss://b\"]", "store.redis.urls: must be one server"),
        (
            urls,
            "urls = [\"rediss://a\", \"rediss://A:6379\"]\nmode = \"cluster\"",
            "store.redis.urls[1]: is there already",
        ),
        (urls, "urls = [\"rediss://a\", \"redis://127.0.0.1\"]\nmode = \"cluster\"", "store.redis.urls: must be all"),
        (urls, "urls = [\"redis://a\"]", "store.redis.urls: must be rediss (TLS), since"),
        (
            urls,
            "urls = [\"redis://127.0.0.1\", \"redis://10.0.0.1\"]\nmode = \"cluster\"",
            "store.redis.urls: must be rediss",
        ),
        (urls, "urls = [\"redis://[::1]\"]\nca_file = \"cert.pem\"", "store.redis.ca_file: is for TLS"),
        (
            urls,
            "urls = [\"rediss://a\"]\nca_file = \"garbage\"",
            "store.redis.ca_file: garbage holds no PEM certificates",
        ),
        (urls, "urls = [\"rediss://a\"]\ncert = \"cert.pem\"", "store.redis.key: is required with cert"),
        (urls, "urls = [\"rediss://a\"]\nkey = \"key.pem\"", "store.redis.cert: is required with key"),
        (
            urls,
            "urls = [\"rediss://a\"]\ncert = \"cert.pem\"\nkey = \"other-key.pem\"",
            "store.redis.key: other-key.pem does not fit",
        ),
        (
            urls,
            "urls = [\"rediss://a\"]\nmode = \"ring\"",
            "store.redis.mode: must be one of standalone, sentinel, cluster",
        ),
        (urls, "urls = [\"rediss://a\"]\nmode = \"sentinel\"", "store.redis.master: is required"),
        (urls, "urls = [\"rediss://a\"]\nmaster = \"m\"", "store.redis.master: means nothing unless"),
        (
            urls,
            "urls = [\"rediss://a\"]\nsentinel_username = \"w\"",
            "store.redis.sentinel_username: means nothing unless",
        ),
        (urls, "urls = [\"rediss://a\"]\nusername = \"\"", "store.redis.username: must not be empty"),
        (urls, "urls = [\"rediss://a\"]\npassword_file = \"gone\"", "store.redis.password_file: gone cannot be read"),
        (urls, "urls = [\"rediss://a\"]\nconnections = 0", "store.redis.connections: must be between 1 and 64, got 0"),
        (urls, "urls = [\"rediss://a\"]\nqueue = 0", "store.redis.queue: must be between 1"),
        (urls, "urls = [\"rediss://a\"]\ntimeout = \"3s\"", "store.redis.timeout: must be below cluster.lease"),
        ("kind = \"redis\"", "kind = \"redis\"\npath = \"x\"", "store.path: is for the embedded store"),
        ("\"lab\"", "\"\"", "cluster.name: is required"),
        ("\"lab\"", "\"Lab\"", "cluster.name: must be 1 to 32 lower-case"),
        ("\"lab\"", &format!("\"{}\"", "a".repeat(33)), "cluster.name: must be 1 to 32 lower-case"),
        (keys, "", "cluster.key_files: at least one file is required, made by `openssl rand -hex 32`"),
        (
            keys,
            "key_files = [\"one.key\", \"gone\"]\nnaming_key_file = \"one.key\"",
            "cluster.key_files[1]: gone cannot be read",
        ),
        (
            keys,
            "key_files = [\"short\"]\nnaming_key_file = \"one.key\"",
            "cluster.key_files[0]: short must hold 64 or more hex",
        ),
        (
            keys,
            "key_files = [\"one.key\", \"one-again.key\"]\nnaming_key_file = \"one.key\"",
            "cluster.key_files[1]: one-again.key holds a secret that is",
        ),
        (keys, "key_files = [\"two.key\", \"one.key\"]", "cluster.naming_key_file: is required where"),
        (keys, &format!("{keys}\nnaming_key_file = \"garbage\""), "cluster.naming_key_file: garbage must hold 64"),
        (keys, &format!("{keys}\nadvertise = \"a b\""), "cluster.advertise: must be a host"),
        (keys, &format!("{keys}\nserver_name = \"192.0.2.1\""), "cluster.server_name: must be a DNS name"),
        (
            keys,
            &format!("{keys}\nserver_name = \"n2.example\""),
            "listener[1].cert: node.pem lacks the DNS name n2.example",
        ),
        (keys, &format!("{keys}\ncert = \"cert.pem\"\nkey = \"key.pem\""), "cluster.cert: cert.pem lacks the DNS name"),
        (keys, &format!("{keys}\ncert = \"node.pem\""), "cluster.key: is required with cert"),
        (keys, &format!("{keys}\nca = \"garbage\""), "cluster.ca: garbage holds no PEM certificates"),
        (keys, &format!("{keys}\nlease = \"61m\""), "cluster.lease: must be between 1s and 1m, got 1h 1m"),
        (keys, &format!("{keys}\nlease = \"1s\""), "store.redis.timeout: must be below cluster.lease"),
        (keys, &format!("{keys}\nweight = 0"), "cluster.weight: must be between 1"),
        (keys, &format!("{keys}\nconnections = 17"), "cluster.connections: must be between 1 and 16, got 17"),
    ] {
        let faults = altered(&folder, from, to);
        let [only] = &faults[..] else { panic!("{to}: {faults:#?}") };
        assert!(only.starts_with(fault), "{only}\ninstead of\n{fault}");
        assert!(!only.contains("hunter2"), "a reason never quotes a secret: {only}");
    }
}

/// S-166: between nodes there is no plain connection, and none without certificates on both sides.
#[test]
fn s166_a_cluster_listener_is_mutual_tls() {
    let folder = folder();
    let plain = "[[listener]]\ntransport = \"tcp\"\naddr = \"127.0.0.1:5070\"\npurpose = \"cluster\"\n";
    let faults = altered(&folder, INSIDE, plain);
    assert_eq!(faults, ["listener[1].transport: must be tls for the purpose cluster"]);
}

#[test]
fn faults_of_a_cluster_come_at_once() {
    let folder = folder();
    let text = "domains = [\"example.com\"]\n[store]\nkind = \"redis\"\n[auth.users]\nfile = \"users.txt\"\n[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"";
    assert_eq!(
        folder.faults(text),
        [
            "node.id: must be set, and differ on every node of the cluster",
            "store.redis.urls: at least one server is required, such as rediss://redis.example.com:6379",
            "listener: a cluster needs a [[listener]] with purpose = \"cluster\"",
            "cluster.name: is required",
            "cluster.key_files: at least one file is required, made by `openssl rand -hex 32`",
        ]
    );
}

#[test]
fn a_cluster_listener_alone_is_refused_without_redis() {
    let folder = folder();
    assert_eq!(
        folder.faults(&[BASE, INSIDE].concat()),
        ["listener[1].purpose: must not be cluster unless store.kind is redis"]
    );
}

#[test]
fn weaker_choices_are_named_and_warned_of() {
    let folder = folder();
    let warned = |urls: &str| {
        let text = whole().replace("urls = [\"rediss://redis.example.com\"]", urls);
        let config = folder.parse(&text).unwrap();
        let Store::Redis(redis) = config.store else { panic!("not Redis") };
        assert_eq!(redis.tls, None);
        config.warnings
    };
    let plain = warned("urls = [\"redis://10.0.0.1\"]\nallow_plaintext = true");
    assert!(plain.len() == 1 && plain[0].starts_with("store.redis.allow_plaintext: "), "{plain:?}");
    for here in ["127.0.0.1:7000", "[::1]", "localhost"] {
        assert_eq!(warned(&format!("urls = [\"redis://{here}\"]")), <[String; 0]>::default());
    }
    fs::set_permissions(folder.0.path().join("one.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let readable = folder.parse(&whole()).unwrap().warnings;
    assert!(readable.len() == 1 && readable[0].starts_with("cluster.key_files[0]: "), "{readable:?}");
}

/// One file serves nodes of every role; phones have no business at a home.
#[test]
fn a_home_opens_no_public_listener() {
    let folder = folder();
    let config = folder.parse(&whole().replace("id = \"n1\"", "id = \"n1\"\nroles = [\"home\"]")).unwrap();
    assert_eq!(config.listeners.iter().map(|listener| listener.purpose).collect::<Vec<_>>(), [Purpose::Cluster]);
    assert_eq!(config.warnings, ["listener[0] is public and is not opened, since this node has not the role edge"]);
}

/// P-112 is about the phones' own listeners: a home needs none, and the nodes' TLS is not for phones.
#[test]
fn the_warning_about_push_without_tls_looks_at_the_edge() {
    let folder = folder();
    let push = "[push.webpush]\nvapid_key_file = \"p256.pem\"\nsubject = \"mailto:a@example.com\"\n";
    let edge = folder.parse(&[&whole(), push].concat()).unwrap().warnings;
    assert!(edge.len() == 1 && edge[0].contains("P-112"), "{edge:?}");
    let home = whole()
        .replace("id = \"n1\"", "id = \"n1\"\nroles = [\"home\"]")
        .replace("[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"\n", "");
    assert_eq!(folder.parse(&[&home, push].concat()).unwrap().warnings, <[String; 0]>::default());
}

#[test]
fn the_keys_of_a_checked_cluster_can_be_read() {
    let folder = folder();
    let cluster = folder.parse(&whole()).unwrap().cluster.unwrap();
    let keys = crate::cluster::ClusterKeys::load(&cluster).unwrap();
    assert_eq!(keys.records().len(), 1);
    fs::remove_file(folder.0.path().join("one.key")).unwrap();
    let error = crate::cluster::ClusterKeys::load(&cluster).unwrap_err().to_string();
    assert!(error.contains("one.key cannot be read"), "{error}");
    let gone = Cluster { key_files: Vec::<PathBuf>::new(), ..cluster };
    assert!(crate::cluster::ClusterKeys::load(&gone).is_err(), "the naming key is gone as well");
}
