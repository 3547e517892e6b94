//! The sample configurations are good, and the reference page lists every key.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use reveille::config;

/// Each sample stands in a folder with the files it names, and has no fault. The files are made here: the samples name places,
/// not secrets.
#[test]
fn every_sample_configuration_is_good() {
    let service_account = service_account();
    let mut samples = 0;
    for entry in fs::read_dir(root().join("deploy/config")).unwrap() {
        let sample = entry.unwrap().path();
        if sample.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("reveille.toml");
        fs::copy(&sample, &copy).unwrap();
        put_named_files(folder.path(), &service_account);
        if let Err(faults) = config::load(&copy) {
            panic!("{}:\n{faults}", sample.display());
        }
        samples += 1;
    }
    assert_eq!(samples, 6);
}

#[test]
fn the_reference_page_has_a_row_for_every_key_and_no_other() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let rows: Vec<String> = config::keys().iter().map(config::Key::row).collect();
    let missing: Vec<&String> = rows.iter().filter(|row| !page.lines().any(|line| line == row.as_str())).collect();
    let stale: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| `") && !rows.iter().any(|row| row == line)).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing:\n{missing:#?}\nstale:\n{stale:#?}");
}

/// Keys, defaults and meanings come from one declaration; this holds the listing itself to account.
#[test]
fn the_listing_reaches_into_every_kind_of_section() {
    let keys = config::keys();
    for (path, default) in [
        ("domains", Some("[]")),
        ("node.drain_timeout", Some("\"30s\"")),
        ("listener[].transport", None),
        ("registrar.shards", Some("1024")),
        ("store.redis.wait_time", Some("\"500ms\"")),
        ("cluster.key_files", Some("[]")),
        ("push.apns.NAME.team_id", None),
        ("push.fcm.NAME.aliases", Some("[]")),
        ("push.webpush.subject", None),
        ("security.strong_alternative[].kind", None),
        ("admin.addr", Some("\"127.0.0.1:9060\"")),
    ] {
        let key = keys.iter().find(|key| key.path == path).unwrap_or_else(|| panic!("{path} is not listed"));
        assert_eq!(key.default.as_deref(), default, "{path}");
    }
    for key in &keys {
        assert!(key.meaning.len() > 10 && key.meaning.ends_with('.'), "{}: {:?}", key.path, key.meaning);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn put_named_files(folder: &Path, service_account: &str) {
    let made = rcgen::generate_simple_self_signed(vec!["sip.example.com".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let node = rcgen::generate_simple_self_signed(vec!["reveille-node".to_owned()]).unwrap();
    let (node_cert, node_key) = (node.cert.pem(), node.signing_key.serialize_pem());
    for (name, content) in [
        ("cluster/node.pem", node_cert.as_str()),
        ("cluster/node-key.pem", &node_key),
        ("cluster/ca.pem", &node_cert),
        ("cluster/secret", &"0f".repeat(32)),
        ("cluster/secret-before", &"e1".repeat(32)),
        ("redis/ca.pem", &cert),
        ("redis/password", "hunter2\n"),
        ("tls/cert.pem", cert.as_str()),
        ("tls/key.pem", &key),
        ("tls/peers-ca.pem", &cert),
        ("push/ca.pem", &cert),
        ("push/apns.p8", &p256),
        ("push/vapid.pem", &p256),
        ("push/service-account.json", service_account),
        ("users.txt", "# no users yet\n"),
        ("admin-token", "0123456789abcdef0123456789abcdef\n"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn service_account() -> String {
    use rsa::pkcs8::EncodePrivateKey;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    serde_json::json!({
        "project_id": "example-phone",
        "client_email": "push@example-phone.iam.gserviceaccount.com",
        "private_key": key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap().as_str(),
        "token_uri": "https://oauth2.googleapis.com/token",
    })
    .to_string()
}
