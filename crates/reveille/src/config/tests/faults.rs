//! Every fault is found, named by its key, and all of them at once.

use super::*;

#[test]
fn an_empty_file_lacks_three_things() {
    assert_eq!(
        Folder::new().faults(""),
        [
            "domains: at least one domain is required",
            "listener: at least one [[listener]] is required",
            "auth.users.file: is required",
        ]
    );
}

#[test]
fn unknown_keys_wrong_types_and_bad_values_come_at_once() {
    let faults = Folder::new().faults(
        r#"
        domains = ["example.com", 7]
        colour = "blue"
        [node]
        drain_timeout = "soon"
        idd = "x"
        [[listener]]
        transport = "udp"
        addr = "127.0.0.1:5060"
        [[listener]]
        transport = "tcp"
        addr = "nowhere"
        speed = 3
        [auth.users]
        file = "users.txt"
        [registrar]
        shards = 48
        max_bindings = "many"
        [push.apns.app]
        team = "ABCDEFGHIJ"
        "#,
    );
    for wanted in [
        "domains[1]: invalid type: integer `7`, expected a string",
        "colour: unknown key, expected one of `domains`, `node`,",
        "node.drain_timeout: invalid value: string \"soon\", expected a duration",
        "node.idd: unknown key, expected one of `id`,",
        "listener[1].addr: invalid socket address syntax",
        "listener[1].speed: unknown key, expected one of `transport`,",
        "registrar.shards: must be a power of two up to 32768, got 48",
        "registrar.max_bindings: invalid type: string \"many\", expected usize",
        "push.apns.app.team: unknown key",
        "push.apns.app.key_id: must be ten capital letters and digits",
        "push.apns.app.key_file: is required",
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(wanted)), "{wanted}\nis missing in\n{}", faults.join("\n"));
    }
    let addr = faults.iter().filter(|fault| fault.starts_with("listener[1].addr")).count();
    assert_eq!(addr, 1, "what cannot be read is not also called missing");
}

#[test]
fn what_comes_later_is_said_to() {
    let folder = Folder::new();
    for (more, fault) in [
        ("[[listener]]\ntransport = \"wss\"\naddr = \"127.0.0.1:7443\"", "listener[1].transport: \"wss\" is"),
        ("[[listener]]\ntransport = \"quic\"\naddr = \"127.0.0.1:7443\"", "listener[1].transport: \"quic\" is"),
        ("[relay]\nupstream = \"x\"", "relay:"),
    ] {
        let faults = folder.faults(&good(more));
        let [only] = &faults[..] else { panic!("{more}: {faults:?}") };
        assert!(only.starts_with(fault) && only.contains("not yet supported in this version"), "{only}");
    }
    let bearer = folder.faults("domains = [\"a.example\"]\nauth.mode = \"bearer\"\n[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"");
    assert_eq!(bearer, ["auth.mode: \"bearer\" is not yet supported in this version; use one of digest, none"]);
}

#[test]
fn single_faults_are_told_by_their_key() {
    let folder = Folder::new();
    for (more, fault) in [
        ("[node]\nid = \"a b\"", "node.id: must be 1 to 63 letters"),
        ("[node]\nroles = [\"edge\", \"home\", \"core\"]", "node.roles: must be one of edge, home, got \"core\""),
        ("[node]\nroles = [\"edge\"]", "node.roles: must be both edge and home unless store.kind is redis"),
        ("[node]\nroles = []", "node.roles: must name edge, home, or both"),
        ("[store]\nkind = \"etcd\"", "store.kind: must be one of embedded, redis, got \"etcd\""),
        ("[store.redis]\nurls = [\"redis://127.0.0.1\"]", "store.redis: means nothing unless store.kind is redis"),
        ("[cluster]\nname = \"c\"", "cluster: means nothing unless store.kind is redis"),
        (
            "[[listener]]\ntransport = \"sctp\"\naddr = \"127.0.0.1:1\"",
            "listener[1].transport: must be one of udp, tcp, tls, got \"sctp\"",
        ),
        ("[[listener]]\ntransport = \"tcp\"", "listener[1].addr: is required"),
        ("[[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"", "listener[1].addr: 127.0.0.1:5060 is taken"),
        (
            "[[listener]]\ntransport = \"tcp\"\naddr = \"0.0.0.0:5060\"",
            "listener[1].advertise: is required, since addr is a wildcard",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\naddr = \"0.0.0.0:5060\"\nadvertise = \"not a host\"",
            "listener[1].advertise: must be a host",
        ),
        (
            "[[listener]]\ntransport = \"tcp\"\naddr = \"127.0.0.1:5060\"\ncert = \"cert.pem\"",
            "listener[1].cert: is for tls, and this listener is tcp",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"cert.pem\"",
            "listener[1].key: is required",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"gone.pem\"\nkey = \"key.pem\"",
            "listener[1].cert: gone.pem cannot be read",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"garbage\"\nkey = \"key.pem\"",
            "listener[1].cert: garbage holds no PEM certificates",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"cert.pem\"\nkey = \"garbage\"",
            "listener[1].key: garbage holds no PEM private key",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"cert.pem\"\nkey = \"other-key.pem\"",
            "listener[1].key: other-key.pem does not fit the certificate",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"empty\"",
            "listener[1].client_ca: empty is empty",
        ),
        (
            "[[listener]]\ntransport = \"tls\"\naddr = \"127.0.0.1:1\"\ncert = \"cert.pem\"\nkey = \"key.pem\"\nclient_names = [\"x\"]",
            "listener[1].client_names: means nothing without client_ca",
        ),
        ("[auth]\nalgorithms = []", "auth.algorithms: at least one"),
        (
            "[auth]\nalgorithms = [\"SHA-1\"]",
            "auth.algorithms[0]: must be one of SHA-256, SHA-512-256, MD5, got \"SHA-1\"",
        ),
        ("[auth]\nalgorithms = [\"MD5\", \"MD5\"]", "auth.algorithms[1]: MD5 is there already"),
        ("[auth]\nallow_no_qop = true", "auth.allow_no_qop: needs MD5"),
        ("[auth]\nrealm = 'say \"hi\"'", "auth.realm: must be text"),
        ("[auth]\nnonce_ttl = \"1s\"", "auth.nonce_ttl: must be between 10s and 1day, got 1s"),
        ("[registrar]\nshards = 0", "registrar.shards: must be a power of two"),
        ("[registrar]\nshards = 65536", "registrar.shards: must be a power of two"),
        (
            "[registrar]\nmin_expires = \"2h\"\ndefault_expires = \"3h\"",
            "registrar.min_expires: must be between 1s and 1h, got 2h",
        ),
        ("[registrar]\nmax_expires = \"30m\"", "registrar.default_expires: must lie between"),
        ("[registrar]\nmax_bindings = 0", "registrar.max_bindings: must be between 1 and 1000, got 0"),
        ("[push]\ncall_wait = \"151s\"", "push.call_wait: must be between 1s and 2m 30s, got 2m 31s"),
        ("[push]\nrequest_wait = \"21s\"", "push.request_wait: must be between 1s and 20s, got 21s"),
        ("[push]\nmin_expires = \"299s\"", "push.min_expires: must be between 5m"),
        ("[push]\npnsreg = \"120s\"", "push.pnsreg: must be between 2m 1s"),
        ("[push]\nrefresh_rate = 0", "push.refresh_rate: must be between 1 and 1000000, got 0"),
        ("[push]\nvoip_expires = \"31d\"", "push.voip_expires: must be between 0s and 30days"),
        ("[push]\nunsupported = \"ignore\"", "push.unsupported: must be one of reject, accept, got \"ignore\""),
        ("[limits]\nmessage_size = 1000", "limits.message_size: must be between 65535"),
        ("[limits]\nretry_after_min = \"20s\"", "limits.retry_after_max: must not be below"),
        ("[admin]\ntoken_file = \"short\"", "admin.token_file: the token in short is shorter than 16 characters"),
        ("[telemetry]\nlevel = \"reveille=loudly\"", "telemetry.level: not a log level or filter"),
        ("[telemetry]\nformat = \"xml\"", "telemetry.format: must be one of text, json"),
    ] {
        let faults = folder.faults(&good(more));
        let [only] = &faults[..] else { panic!("{more}: {faults:#?}") };
        assert!(only.starts_with(fault), "{only}\ninstead of\n{fault}");
    }
}

#[test]
fn p115_no_push_without_knowing_who_registers() {
    let folder = Folder::new();
    let faults = folder.faults(
        r#"
        domains = ["example.com"]
        auth.mode = "none"
        [[listener]]
        transport = "tls"
        addr = "127.0.0.1:5061"
        cert = "cert.pem"
        key = "key.pem"
        [push.webpush]
        vapid_key_file = "p256.pem"
        subject = "mailto:a@example.com"
        "#,
    );
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("auth.mode: must not be none while a push service is configured"), "{faults:?}");
}

#[test]
fn p123_only_known_kinds_of_strong_alternative() {
    let folder = Folder::new();
    for (net, kind, fault) in [
        (
            "10.0.0.0/8",
            "trusted-network",
            "kind: must be one of loopback, ipsec-esp, wireguard, got \"trusted-network\"",
        ),
        ("10.0.0.0/8", "", "kind: is required"),
        ("10.0.0.0/8", "loopback", "net: 10.0.0.0/8 reaches beyond the loopback addresses"),
        ("127.0.0.0/7", "loopback", "net: 127.0.0.0/7 reaches beyond"),
        ("10.0.0", "wireguard", "net: is required: a network such as"),
    ] {
        let faults =
            folder.faults(&good(&format!("[[security.strong_alternative]]\nnet = \"{net}\"\nkind = \"{kind}\"")));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(&format!("security.strong_alternative[0].{fault}")), "{faults:?}");
    }
}

#[test]
fn faults_of_push_services_are_told_by_their_key() {
    let folder = Folder::new();
    folder.put_service_account("fcm.json");
    folder.put(
        "fcm-no-key.json",
        r#"{"client_email":"a@b","private_key":"hunter2","token_uri":"https://t.example/t","project_id":"p"}"#,
    );
    let apns =
        "team_id = \"ABCDE12345\"\nkey_id = \"ABCDE12345\"\nkey_file = \"p256.pem\"\ntopics = [\"org.example.app\"]\n";
    let webpush = "[push.webpush]\nvapid_key_file = \"p256.pem\"\nsubject = \"mailto:a@example.com\"\n";
    for (more, fault) in [
        (
            format!("[push.apns.a]\n{}", apns.replace("ABCDE12345\"\nkey_id", "abcde12345\"\nkey_id")),
            "push.apns.a.team_id: must be ten",
        ),
        (
            format!("[push.apns.a]\n{}", apns.replace("p256", "p384")),
            "push.apns.a.key_file: p384.pem holds no PEM private key on P-256",
        ),
        (
            format!("[push.apns.a]\n{}", apns.replace("p256.pem", "garbage")),
            "push.apns.a.key_file: garbage holds no PEM private key",
        ),
        (format!("[push.apns.a]\n{}", apns.replace("\"org.example.app\"", "")), "push.apns.a.topics: at least one"),
        (
            format!("[push.apns.a]\n{}", apns.replace("example.app", "example.app.voip")),
            "push.apns.a.topics[0]: must be the bundle id alone",
        ),
        (
            format!("[push.apns.a]\n{}", apns.replace("org.example.app", "phone")),
            "push.apns.a.topics[0]: must be a bundle id",
        ),
        (
            format!("[push.apns.a]\n{apns}environment = \"dev\""),
            "push.apns.a.environment: must be one of production, sandbox",
        ),
        (
            format!("[push.apns.a]\n{apns}[push.apns.b]\n{apns}"),
            "push.apns.b.topics: org.example.app has a credential already, push.apns.a",
        ),
        (
            format!("[push.apns.a]\n{apns}endpoint = \"http://127.0.0.1:1\""),
            "push.apns.a.endpoint: must be https://host[:port]",
        ),
        (
            format!("[push.apns.a]\n{apns}endpoint = \"https://127.0.0.1:1/path\""),
            "push.apns.a.endpoint: must be https://host[:port]",
        ),
        (
            format!("[push.apns.a]\n{apns}ca_file = \"key.pem\""),
            "push.apns.a.ca_file: key.pem holds no PEM certificates",
        ),
        (format!("[push.apns.'a b']\n{apns}"), "push.apns.a b: the name must be"),
        ("[push.fcm.a]".to_owned(), "push.fcm.a.service_account_file: is required"),
        (
            "[push.fcm.a]\nservice_account_file = \"garbage\"".to_owned(),
            "push.fcm.a.service_account_file: garbage is no service account",
        ),
        (
            "[push.fcm.a]\nservice_account_file = \"fcm-no-key.json\"".to_owned(),
            "push.fcm.a.service_account_file: fcm-no-key.json has no RSA private_key",
        ),
        (
            "[push.fcm.a]\nservice_account_file = \"fcm.json\"\nproject = \"../other\"".to_owned(),
            "push.fcm.a.project: must be a Firebase project id",
        ),
        (
            "[push.fcm.a]\nservice_account_file = \"fcm.json\"\n[push.fcm.b]\nservice_account_file = \"fcm.json\"\n"
                .to_owned(),
            "push.fcm.b: from-the-account is a project or alias already, of push.fcm.a",
        ),
        (
            "[push.fcm.a]\nservice_account_file = \"fcm.json\"\ntoken_endpoint = \"http://t.example/token\"".to_owned(),
            "push.fcm.a.token_endpoint: must be https://host[:port]/path",
        ),
        (webpush.replace("mailto:", ""), "push.webpush.subject: is required"),
        (format!("{webpush}allow_hosts = []"), "push.webpush.allow_hosts: at least one host"),
        // P-138: no address literals, no single labels.
        (format!("{webpush}allow_hosts = [\"127.0.0.1\"]"), "push.webpush.allow_hosts[0]: must be host"),
        (format!("{webpush}allow_hosts = [\"[::1]:443\"]"), "push.webpush.allow_hosts[0]: must be host"),
        (format!("{webpush}allow_hosts = [\"localhost\"]"), "push.webpush.allow_hosts[0]: must be host"),
        (format!("{webpush}allow_hosts = [\"*\"]"), "push.webpush.allow_hosts[0]: must be host"),
    ] {
        let faults = folder.faults(&good(&more));
        let [only] = &faults[..] else { panic!("{more}: {faults:#?}") };
        assert!(only.starts_with(fault), "{only}\ninstead of\n{fault}");
        assert!(!only.contains("hunter2"), "a reason never quotes a file: {only}");
    }
}

#[test]
fn a_users_file_is_read_and_not_quoted() {
    let faults = Folder::new().faults(&good("").replace("users.txt", "garbage"));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("auth.users.file: garbage: ") && faults[0].contains("line 1"), "{faults:?}");
    assert!(!faults[0].contains("hunter2"), "{faults:?}");
}

#[test]
fn a_secret_where_its_file_belongs_is_not_repeated() {
    let faults = Folder::new().faults(&good(
        "[push.webpush]\nsubject = \"mailto:a@b\"\nvapid_key_file = \"\"\"\n-----BEGIN\nhunter2\n\"\"\"",
    ));
    assert_eq!(faults, ["push.webpush.vapid_key_file: must be the path of a file, not its content"]);
}

#[test]
fn what_is_no_toml_is_one_fault() {
    let faults = Folder::new().faults("domains = [");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("syntax: "), "{faults:?}");
}

#[test]
fn a_file_that_is_not_there_is_one_fault() {
    let faults = load(Path::new("/nonexistent/reveille.toml")).unwrap_err();
    assert_eq!(faults.0.len(), 1);
    assert!(faults.to_string().starts_with("/nonexistent/reveille.toml: cannot be read"), "{faults}");
}
