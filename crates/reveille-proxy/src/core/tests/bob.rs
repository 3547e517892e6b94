//! A realm with one user who can prove who he is.

use std::sync::Arc;

use reveille_registrar::flow::FlowRef;
use reveille_sip::{header::HeaderId, message::Message};
use sha2::{Digest as _, Sha256};

use super::bench::Bench;
use crate::{
    auth::{Algorithm, Digest, DigestConfig, Ha1, NonceKeys, Users, ha1},
    settings::Settings,
};

struct Bob;

impl Users for Bob {
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        (user == "bob").then(|| Ha1::from_hex(&ha1(user, realm, "secret", algorithm), algorithm)).flatten()
    }
    fn exists(&self, user: &str) -> bool {
        user == "bob"
    }
}

/// What judges his credentials.
pub(super) fn digest() -> Digest {
    let config =
        DigestConfig { realm: "example.com".into(), algorithms: vec![Algorithm::Sha256], ..DigestConfig::default() };
    Digest::new(config, Arc::new(Bob), NonceKeys::random().unwrap())
}

/// A node that lets nobody else in.
pub(super) fn guarded(settings: Settings) -> Bench {
    Bench::with(settings, Some(digest()))
}

/// He registers, is challenged, and answers; what becomes of it then is the test's business.
pub(super) fn register(bench: &mut Bench, flow: FlowRef, contact: &str) {
    let request = |cseq: u32, authorization: &str| {
        format!(
            "\nREGISTER sip:example.com SIP/2.0\nVia: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK{}\nMax-Forwards: 70\n\
             From: <sip:bob@example.com>;tag=a\nTo: <sip:bob@example.com>\nCall-ID: r\nCSeq: {cseq} REGISTER\n{authorization}\
             Contact: {contact}\nContent-Length: 0\n\n",
            Sha256::digest(format!("{contact}{authorization}"))
                .iter()
                .take(8)
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        )
    };
    bench.public(flow, &request(1, ""));
    let sent = bench.sent();
    let challenge = sent.last().map(|(_, message)| message).unwrap();
    let authorization = proof(challenge, HeaderId::WwwAuthenticate, "REGISTER", "sip:example.com");
    bench.public(flow, &request(2, &format!("Authorization: {authorization}\n")));
}

/// His answer to a challenge.
pub(super) fn proof(challenge: &Message, header: HeaderId, method: &str, uri: &str) -> String {
    let challenge = challenge.value(header).unwrap();
    let nonce = challenge.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    let hash = |text: String| hex::encode(Sha256::digest(text));
    let (first, second) = (hash("bob:example.com:secret".into()), hash(format!("{method}:{uri}")));
    let response = hash(format!("{first}:{nonce}:00000001:c:auth:{second}"));
    format!(
        "Digest username=\"bob\", realm=\"example.com\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm=SHA-256, qop=auth, \
         nc=00000001, cnonce=\"c\", response=\"{response}\""
    )
}
