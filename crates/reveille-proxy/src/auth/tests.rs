//! Challenge and answer, as a whole.

use std::collections::HashMap;

use super::*;

struct Table(HashMap<(String, Algorithm), String>);

impl Users for Table {
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        let text = self.0.get(&(user.to_owned(), algorithm)).filter(|_| realm == REALM)?;
        Ha1::from_hex(text, algorithm)
    }

    fn exists(&self, user: &str) -> bool {
        self.0.keys().any(|(known, _)| known == user)
    }
}

const REALM: &str = "example.com";
const NOW: u64 = 1_000_000;
const METHOD: &str = "REGISTER";
const URI: &str = "sip:example.com";

fn digest(algorithms: &[Algorithm]) -> Digest {
    digest_with(DigestConfig { realm: REALM.into(), algorithms: algorithms.to_vec(), ..DigestConfig::default() })
}

fn digest_with(config: DigestConfig) -> Digest {
    let mut table = HashMap::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512_256, Algorithm::Md5] {
        for user in ["alice", "carol@example.com", "dave@elsewhere.org"] {
            table.insert((user.to_owned(), algorithm), ha1(user, REALM, "secret", algorithm));
        }
    }
    Digest::new(config, Arc::new(Table(table)), NonceKeys::new(b"key", None))
}

/// A phone's answer.
#[derive(Clone)]
struct Answer {
    user: &'static str,
    password: &'static str,
    nonce: String,
    uri: &'static str,
    method: &'static str,
    algorithm: Algorithm,
    qop: &'static str,
    nc: u32,
    body: &'static [u8],
}

impl Answer {
    fn to(digest: &Digest, algorithm: Algorithm) -> Self {
        let challenges = digest.challenge(NOW, false);
        let nonce = challenges[0].split("nonce=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self {
            user: "alice",
            password: "secret",
            nonce,
            uri: URI,
            method: METHOD,
            algorithm,
            qop: "auth",
            nc: 1,
            body: b"",
        }
    }

    fn line(&self) -> String {
        let h = |text: &str| match self.algorithm {
            Algorithm::Sha256 => hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text)),
            Algorithm::Sha512_256 => hex::encode(<sha2::Sha512_256 as sha2::Digest>::digest(text)),
            Algorithm::Md5 => hex::encode(<md5::Md5 as md5::Digest>::digest(text)),
        };
        let Self { user, password, nonce, uri, method, algorithm, qop, nc, body } = self;
        let a1 = h(&format!("{user}:{REALM}:{password}"));
        let a2 = match *qop {
            "auth-int" => h(&format!("{method}:{uri}:{}", h(std::str::from_utf8(body).unwrap()))),
            _ => h(&format!("{method}:{uri}")),
        };
        let head = format!(
            "Digest username=\"{user}\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm={algorithm}"
        );
        if qop.is_empty() {
            return format!("{head}, response=\"{}\"", h(&format!("{a1}:{nonce}:{a2}")));
        }
        let response = h(&format!("{a1}:{nonce}:{nc:08x}:cn:{qop}:{a2}"));
        format!("{head}, response=\"{response}\", qop={qop}, nc={nc:08x}, cnonce=\"cn\"")
    }
}

fn judge(digest: &Digest, now: u64, line: &str) -> Verdict {
    digest.verify(now, METHOD, URI, [line].into_iter(), b"")
}

fn accepted(algorithm: Algorithm) -> Verdict {
    Verdict::Accepted { user: "alice".into(), algorithm, line: 0 }
}

#[test]
fn strongest_is_offered_first_each_on_its_own_line_s141() {
    let all = digest(&[Algorithm::Md5, Algorithm::Sha512_256, Algorithm::Sha256, Algorithm::Md5]);
    let lines = all.challenge(NOW, false);
    let offered: Vec<_> =
        lines.iter().map(|line| line.split("algorithm=").nth(1).unwrap().split(',').next().unwrap()).collect();
    assert_eq!(offered, ["SHA-256", "SHA-512-256", "MD5"]);
    assert!(lines.iter().all(|line| line.starts_with("Digest realm=\"example.com\"") && line.contains("qop=\"auth\"")));
    assert!(lines.iter().all(|line| !line.contains("stale")));
    assert!(all.challenge(NOW, true).iter().all(|line| line.ends_with(", stale=true")));
    assert_eq!(digest(&[]).challenge(NOW, false).len(), 1);
}

#[test]
fn right_answer_is_accepted_by_every_algorithm_offered() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512_256, Algorithm::Md5] {
        let digest = digest(&[algorithm]);
        assert_eq!(judge(&digest, NOW, &Answer::to(&digest, algorithm).line()), accepted(algorithm));
    }
}

#[test]
fn no_credentials_for_us_is_missing_s142_s151() {
    let digest = digest(&[Algorithm::Sha256]);
    assert_eq!(digest.verify(NOW, METHOD, URI, [].into_iter(), b""), Verdict::Missing);
    let sha = Answer::to(&digest, Algorithm::Sha256);
    let md5 = Answer { algorithm: Algorithm::Md5, ..sha.clone() }.line();
    for line in [
        "NoOneKnowsThisScheme opaque-data=here".to_owned(),
        md5.clone(),
        // Absent means MD5.
        md5.replace(", algorithm=MD5", ""),
        sha.line().replace("SHA-256", "SHA-256-sess"),
        sha.line().replace("realm=\"example.com\"", "realm=\"other.com\""),
    ] {
        assert_eq!(judge(&digest, NOW, &line), Verdict::Missing, "{line}");
    }
}

#[test]
fn absent_algorithm_is_md5_where_that_is_offered_s142() {
    let digest = digest(&[Algorithm::Md5]);
    let line = Answer::to(&digest, Algorithm::Md5).line().replace(", algorithm=MD5", "");
    assert_eq!(judge(&digest, NOW, &line), accepted(Algorithm::Md5));
}

#[test]
fn our_realm_is_found_among_others_s149() {
    let digest = digest(&[Algorithm::Sha256]);
    let ours = Answer::to(&digest, Algorithm::Sha256).line();
    let other = ours.replace("realm=\"example.com\"", "realm=\"other.com\"");
    let lines = ["Basic x", &other, "Digest broken", &ours];
    let verdict = digest.verify(NOW, METHOD, URI, lines.into_iter(), b"");
    assert_eq!(verdict, Verdict::Accepted { user: "alice".into(), algorithm: Algorithm::Sha256, line: 3 });
    assert_eq!(digest.verify(NOW, METHOD, URI, ["Digest broken"].into_iter(), b""), Verdict::BadRequest);
}

#[test]
fn wrong_password_and_unknown_user_look_the_same_s148() {
    let digest = digest(&[Algorithm::Sha256]);
    let right = Answer::to(&digest, Algorithm::Sha256);
    for wrong in [
        Answer { password: "wrong", ..right.clone() },
        Answer { user: "mallory", ..right.clone() },
        Answer { method: "INVITE", ..right.clone() },
    ] {
        assert_eq!(judge(&digest, NOW, &wrong.line()), Verdict::Rejected);
    }
    let line = right.line();
    let at = line.find("response=\"").unwrap() + 10;
    let cut = format!("{}{}", &line[..at], &line[at + 2..]);
    assert_eq!(judge(&digest, NOW, &cut), Verdict::Rejected);
    assert_eq!(judge(&digest, NOW, &line), accepted(Algorithm::Sha256));
}

#[test]
fn nobody_can_authenticate_as_a_user_with_no_secret_s148() {
    // The stand-in secret is known to all who read the source; an answer made with it must not pass.
    let digest = digest(&[Algorithm::Sha256]);
    let nonce = Answer::to(&digest, Algorithm::Sha256).nonce;
    let text = format!(
        "Digest username=\"mallory\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"{URI}\", algorithm=SHA-256, response=\"00\", \
         qop=auth, nc=00000001, cnonce=\"cn\""
    );
    let answer = Credentials::parse(&text).ok().unwrap();
    let forged = digest::response(Algorithm::Sha256, &Ha1::nobody(Algorithm::Sha256), &answer, METHOD, b"");
    let text = text.replace("response=\"00\"", &format!("response=\"{forged}\""));
    assert_eq!(judge(&digest, NOW, &text), Verdict::Rejected);
}

#[test]
fn stale_is_for_the_right_password_only_s146() {
    let digest = digest(&[Algorithm::Sha256]);
    let right = Answer::to(&digest, Algorithm::Sha256);
    let wrong = Answer { password: "wrong", ..right.clone() };
    assert_eq!(judge(&digest, NOW + 301, &right.line()), Verdict::Stale);
    assert_eq!(judge(&digest, NOW + 301, &wrong.line()), Verdict::Rejected);
    let foreign = Answer { nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v".into(), ..right };
    assert_eq!(judge(&digest, NOW, &foreign.line()), Verdict::Stale);
    assert_eq!(judge(&digest, NOW, &Answer { password: "wrong", ..foreign }.line()), Verdict::Rejected);
}

#[test]
fn nonce_survives_one_rotation_and_serves_another_node_s145() {
    let (one, two) = (digest(&[Algorithm::Sha256]), digest(&[Algorithm::Sha256]));
    let answer = Answer::to(&one, Algorithm::Sha256);
    assert_eq!(judge(&two, NOW, &answer.line()), accepted(Algorithm::Sha256));
    one.set_keys(NonceKeys::new(b"next", Some(b"key")));
    assert_eq!(judge(&one, NOW, &answer.line()), accepted(Algorithm::Sha256));
    one.set_keys(NonceKeys::new(b"third", Some(b"next")));
    assert_eq!(judge(&one, NOW, &Answer { nc: 2, ..answer }.line()), Verdict::Stale);
}

#[test]
fn same_count_twice_is_a_replay_s147() {
    let digest = digest(&[Algorithm::Sha256]);
    let first = Answer::to(&digest, Algorithm::Sha256);
    let wrong = Answer { nc: 2, password: "wrong", ..first.clone() };
    let second = Answer { nc: 2, ..first.clone() };
    assert_eq!(judge(&digest, NOW, &first.line()), accepted(Algorithm::Sha256));
    assert_eq!(judge(&digest, NOW, &first.line()), Verdict::Stale);
    // A wrong answer uses nothing up.
    assert_eq!(judge(&digest, NOW, &wrong.line()), Verdict::Rejected);
    assert_eq!(judge(&digest, NOW, &second.line()), accepted(Algorithm::Sha256));
    assert_eq!(judge(&digest, NOW, &Answer { nc: 0, ..first }.line()), Verdict::Stale);
}

#[test]
fn qop_may_not_be_stripped_s144() {
    let bare = |digest: &Digest, algorithm| Answer { qop: "", ..Answer::to(digest, algorithm) }.line();
    let strict = digest(&[Algorithm::Sha256, Algorithm::Md5]);
    assert_eq!(judge(&strict, NOW, &bare(&strict, Algorithm::Sha256)), Verdict::Rejected);
    assert_eq!(judge(&strict, NOW, &bare(&strict, Algorithm::Md5)), Verdict::Rejected);
    let legacy = digest_with(DigestConfig {
        realm: REALM.into(),
        algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
        allow_legacy_no_qop: true,
        ..DigestConfig::default()
    });
    assert_eq!(judge(&legacy, NOW, &bare(&legacy, Algorithm::Sha256)), Verdict::Rejected);
    assert_eq!(judge(&legacy, NOW, &bare(&legacy, Algorithm::Md5)), accepted(Algorithm::Md5));
}

#[test]
fn auth_int_covers_the_body_s144() {
    let digest = digest(&[Algorithm::Sha256]);
    let answer = Answer { qop: "auth-int", body: b"v=0", ..Answer::to(&digest, Algorithm::Sha256) };
    let judge = |body: &[u8]| digest.verify(NOW, METHOD, URI, [answer.line().as_str()].into_iter(), body);
    assert_eq!(judge(b"v=1"), Verdict::Rejected);
    assert_eq!(judge(b"v=0"), accepted(Algorithm::Sha256));
}

#[test]
fn uri_is_compared_by_meaning_s143() {
    let digest = digest(&[Algorithm::Sha256]);
    for (hashed, requested, same) in [
        ("sip:example.com", "sip:example.com", true),
        ("sip:EXAMPLE.com", "sip:example.com", true),
        ("sip:example.com", "sip:example.com;transport=tls", true),
        ("sip:bob@example.com;x=1", "sip:bob@example.com", true),
        ("sip:bob@example.com", "sip:carol@example.com", false),
        ("sip:example.org", "sip:example.com", false),
        ("sip:example.com:5061", "sip:example.com", false),
        ("nonsense", "sip:example.com", false),
    ] {
        let answer = Answer { uri: hashed, ..Answer::to(&digest, Algorithm::Sha256) };
        let verdict = digest.verify(NOW, METHOD, requested, [answer.line().as_str()].into_iter(), b"");
        let expected = if same { accepted(Algorithm::Sha256) } else { Verdict::BadRequest };
        assert_eq!(verdict, expected, "{hashed} {requested}");
        let wrong = Answer { password: "wrong", ..answer };
        let verdict = digest.verify(NOW, METHOD, requested, [wrong.line().as_str()].into_iter(), b"");
        assert_eq!(verdict, Verdict::Rejected, "{hashed} {requested}");
    }
}

#[test]
fn user_name_with_our_domain_is_the_user_part_and_a_foreign_one_stays_whole_s152() {
    let digest = digest(&[Algorithm::Sha256]);
    for (name, expected) in [("carol@example.com", "carol"), ("dave@elsewhere.org", "dave@elsewhere.org")] {
        let line = Answer { user: name, ..Answer::to(&digest, Algorithm::Sha256) }.line();
        let Verdict::Accepted { user, .. } = judge(&digest, NOW, &line) else { panic!("{name}") };
        assert_eq!(user, expected);
    }
}

#[test]
fn nothing_secret_is_shown_s235() {
    let digest = digest(&[Algorithm::Sha256]);
    let shown = format!("{digest:?} {:?}", NonceKeys::new(b"key-material", None));
    assert!(!shown.contains("key-material") && !shown.contains(&ha1("alice", REALM, "secret", Algorithm::Sha256)));
}

/// What the nodes of a cluster ask: the first to do so has the nonce.
#[derive(Default)]
struct Shared(HashMap<[u8; 20], u32>);

impl Shared {
    fn judge(&mut self, node: u32, digest: &Digest, line: &str) -> Verdict {
        let verdict = judge(digest, NOW, line);
        let Verdict::Unpinned(nonce) = verdict else { return verdict };
        let owner = *self.0.entry(*nonce.octets()).or_insert(node);
        digest.pinned(NOW, nonce, if owner == node { Pin::Here } else { Pin::Elsewhere });
        judge(digest, NOW, line)
    }
}

#[test]
fn challenged_at_one_node_and_answered_at_another_once_in_the_cluster_s145_s147() {
    let node = |number| digest(&[Algorithm::Sha256]).among(number);
    let (one, two, three) = (node(1), node(2), node(3));
    let mut shared = Shared::default();
    let first = Answer::to(&one, Algorithm::Sha256);
    assert_eq!(shared.judge(2, &two, &first.line()), accepted(Algorithm::Sha256));
    // The captured answer, at every node; and what else that phone says.
    for (number, node) in [(1, &one), (2, &two), (3, &three)] {
        assert_eq!(shared.judge(number, node, &first.line()), Verdict::Stale, "{number}");
    }
    let second = Answer { nc: 2, ..first };
    assert_eq!(shared.judge(1, &one, &second.line()), Verdict::Stale, "not even its issuer takes it");
    assert_eq!(shared.judge(2, &two, &second.line()), accepted(Algorithm::Sha256));
    // A wrong password asks nobody.
    let wrong = Answer { password: "wrong", ..Answer::to(&one, Algorithm::Sha256) };
    assert_eq!(judge(&one, NOW, &wrong.line()), Verdict::Rejected);
}

#[test]
fn with_nobody_to_ask_a_node_takes_its_own_nonces_and_no_others_s147() {
    let node = |number| digest(&[Algorithm::Sha256]).among(number);
    let (one, two) = (node(1), node(2));
    let answer = Answer::to(&one, Algorithm::Sha256);
    for (node, expected) in [(&two, Verdict::Stale), (&one, accepted(Algorithm::Sha256))] {
        let Verdict::Unpinned(nonce) = judge(node, NOW, &answer.line()) else { panic!("met for the first time") };
        node.pinned(NOW, nonce, Pin::Unknown);
        assert_eq!(judge(node, NOW, &answer.line()), expected);
        assert_eq!(judge(node, NOW, &answer.line()), Verdict::Stale);
    }
}
