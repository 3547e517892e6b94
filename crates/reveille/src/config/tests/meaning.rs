//! What a good configuration means.

use std::time::Duration;

use super::*;

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let folder = Folder::new();
    let config = folder.parse(&good("")).unwrap();
    assert_eq!(config.domains, ["example.com"]);
    assert_eq!(config.auth.realm, "example.com");
    let digest = config.auth.digest.unwrap();
    assert_eq!(digest.algorithms, [Algorithm::Sha256]);
    assert_eq!(digest.users, folder.0.path().join("users.txt"));
    assert_eq!(config.store, Store::Embedded { path: "/var/lib/reveille/bindings".into() });
    assert_eq!(config.registrar.shards, 1024);
    // P-037, P-067.
    assert_eq!(config.push.call_wait, Duration::from_secs(30));
    assert_eq!(config.push.request_wait, Duration::from_secs(10));
    assert_eq!(config.push.min_expires, Duration::from_secs(600));
    // P-097, P-098.
    assert!(config.push.refresh);
    assert_eq!(config.push.refresh_rate, 1000);
    assert_eq!(config.push.voip_expires, Duration::from_secs(7 * 86_400));
    assert!(!config.push.is_configured());
    assert_eq!(config.listeners[0].transport, Transport::Udp);
    assert_eq!(config.listeners[0].purpose, Purpose::Public);
    assert_eq!(config.node.workers, None);
    assert_eq!(config.warnings, <[String; 0]>::default());
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = Folder::new();
    let config = folder.parse(&good("[node]\ndata_dir = \"data\"")).unwrap();
    assert_eq!(config.node.data_dir, folder.0.path().join("data"));
    assert_eq!(config.store, Store::Embedded { path: folder.0.path().join("data/bindings") });
}

#[test]
fn every_push_service_is_understood() {
    let folder = Folder::new();
    folder.put_service_account("fcm.json");
    let config = folder
        .parse(&good(
            r#"
            [[listener]]
            transport = "tls"
            addr = "[::]:5061"
            advertise = "SIP.example.com:443"
            cert = "cert.pem"
            key = "key.pem"
            client_ca = "cert.pem"
            client_names = ["sbc.example.com"]
            purpose = "peer"
            [push.apns.app]
            team_id = "ABCDE12345"
            key_id = "ABCDE12345"
            key_file = "p256.pem"
            topics = ["org.example.app"]
            environment = "sandbox"
            endpoint = "https://127.0.0.1:2197/"
            ca_file = "cert.pem"
            [push.fcm.app]
            service_account_file = "fcm.json"
            aliases = ["123456"]
            token_endpoint = "https://127.0.0.1:2198/token"
            [push.webpush]
            vapid_key_file = "p256.pem"
            subject = "https://example.com/contact"
            allow_hosts = ["push.example.com:8443", "*.push.Example.org"]
            allow_addresses = ["127.0.0.0/8"]
            [compat]
            header_pn_params = true
            [[security.strong_alternative]]
            net = "127.0.0.0/8"
            kind = "loopback"
            "#,
        ))
        .unwrap();
    let listener = &config.listeners[1];
    assert_eq!(listener.advertise, Some(("sip.example.com".to_owned(), Some(443))));
    assert_eq!(listener.purpose, Purpose::Peer);
    let Transport::Tls(files) = &listener.transport else { panic!("{listener:?}") };
    assert_eq!(files.client_names, ["sbc.example.com"]);

    let apns = &config.push.apns[0];
    assert!(apns.sandbox && apns.name == "app" && apns.endpoint.as_deref() == Some("https://127.0.0.1:2197"));
    let fcm = &config.push.fcm[0];
    assert_eq!(fcm.project, "from-the-account");
    assert_eq!(fcm.token_endpoint.as_deref(), Some("https://127.0.0.1:2198/token"));
    let webpush = config.push.webpush.unwrap();
    assert_eq!(
        webpush.allow_hosts,
        [
            HostRule { host: "push.example.com".to_owned(), below: false, port: Some(8443) },
            HostRule { host: "push.example.org".to_owned(), below: true, port: None },
        ]
    );
    assert_eq!(webpush.allow_hosts[1].to_string(), "*.push.example.org");
    assert!(config.header_pn_params); // P-010
    assert_eq!(config.strong_alternatives[0].kind, Protection::Loopback);
    // P-139: the opening is announced.
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.starts_with("push.webpush.allow_addresses"), "{warning}");
}

#[test]
fn what_is_allowed_but_unwise_is_warned_of() {
    let folder = Folder::new();
    let warned = |text: &str| folder.parse(text).unwrap().warnings;

    let md5 = warned(&good("[auth]\nalgorithms = [\"SHA-256\", \"MD5\"]"));
    assert!(md5.len() == 1 && md5[0].contains("MD5"), "{md5:?}");

    let open = warned(
        "domains = [\"a.example\"]\nauth.mode = \"none\"\n[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"",
    );
    assert!(open.len() == 1 && open[0].starts_with("auth.mode is none"), "{open:?}");

    // P-112: nobody could ever register a push token.
    let plain = warned(&good("[push.webpush]\nvapid_key_file = \"p256.pem\"\nsubject = \"mailto:a@example.com\""));
    assert!(plain.len() == 1 && plain[0].contains("P-112"), "{plain:?}");

    // P-125: keys are for nobody else's eyes.
    let path = folder.0.path().join("users.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let readable = warned(&good(""));
    assert!(readable.len() == 1 && readable[0].contains("every user of this machine"), "{readable:?}");
}

#[test]
fn hosts_and_domains_are_read_strictly() {
    let folder = Folder::new();
    let domains = |list: &str| folder.parse(&good("").replace("[\"example.com\"]", list)).map(|config| config.domains);
    assert_eq!(
        domains(r#"["Example.COM", "192.0.2.1", "[2001:DB8::1]"]"#).unwrap(),
        ["example.com", "192.0.2.1", "[2001:db8::1]"]
    );
    for bad in
        ["", "a b.example", "-a.example", "a..example", "example.com.", "300.1.1.1", "sip:example.com", "exämple.com"]
    {
        let faults = domains(&format!("[\"{bad}\"]")).unwrap_err();
        assert!(faults.0.len() == 1 && faults.0[0].key == "domains[0]", "{bad}: {faults}");
    }
    let faults = domains(r#"["example.com", "EXAMPLE.com"]"#).unwrap_err();
    assert_eq!(faults.to_string(), "domains[1]: example.com is there already");
}
