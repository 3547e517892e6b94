//! Faults of every kind, and what a good configuration turns into.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

mod cluster;
mod faults;
mod meaning;

/// A folder with every kind of file a configuration can name.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let (cert, key) = certificate();
        folder.put("cert.pem", &cert);
        folder.put("key.pem", &key);
        folder.put("other-key.pem", &certificate().1);
        folder.put("p256.pem", &rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem());
        folder.put("p384.pem", &rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem());
        folder.put(
            "users.txt",
            &format!("# alice, password \"wonderland\"\nalice:example.com:SHA-256:{}\n", "5e".repeat(32)),
        );
        folder.put("short", "0123456789abcde\n");
        folder.put("empty", "");
        folder.put("garbage", "neither PEM nor JSON: hunter2");
        folder
    }

    fn put(&self, name: &str, content: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A service account with a fresh key; slow, so only for the tests that need one.
    fn put_service_account(&self, name: &str) {
        use rsa::pkcs8::EncodePrivateKey;
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        let account = serde_json::json!({
            "type": "service_account",
            "project_id": "from-the-account",
            "client_email": "push@from-the-account.iam.gserviceaccount.com",
            "private_key": key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap().as_str(),
            "token_uri": "https://oauth2.googleapis.com/token",
        });
        self.put(name, &account.to_string());
    }

    fn parse(&self, text: &str) -> Result<Config, Faults> {
        parse(text, self.0.path())
    }

    /// The faults of `text`, as lines, with the folder's own path left out.
    fn faults(&self, text: &str) -> Vec<String> {
        let faults = self.parse(text).expect_err("a fault");
        let folder = format!("{}/", self.0.path().display());
        faults.to_string().lines().map(|line| line.replace(&folder, "")).collect()
    }
}

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["sip.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// The least good configuration; `more` is appended.
fn good(more: &str) -> String {
    format!(
        "domains = [\"example.com\"]\n\
         [auth.users]\nfile = \"users.txt\"\n\
         [[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:5060\"\n{more}"
    )
}
