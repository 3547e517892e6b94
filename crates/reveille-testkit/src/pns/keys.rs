//! The lab's key material and its delivery to a node: one directory of files, readable by the owner alone (P-125).

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rsa::RsaPrivateKey;
use rsa::pkcs1::EncodeRsaPublicKey as _;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

use super::device::random_hex;
use super::{Endpoints, LabError};

/// Key pairs whose private halves go to the node and whose public halves the lab checks against.
pub(super) struct Keys {
    pub(super) apns: KeyPair,
    pub(super) apns_sandbox: KeyPair,
    /// The key of the webhook.
    pub(super) webhook: String,
    /// The newest last.
    vapid: Mutex<Vec<KeyPair>>,
    service_account_pem: String,
    /// PKCS#1 DER of the service account's public key.
    pub(super) service_account_public: Vec<u8>,
}

/// The names the lab registered its customer under.
pub(super) mod names {
    /// APNs key id (`kid`).
    pub(crate) const APNS_KEY_ID: &str = "LABKEY0001";
    /// Key id of the sandbox's key.
    pub(crate) const APNS_SANDBOX_KEY_ID: &str = "LABKEY0002";
    /// The sandbox's host.
    pub(crate) const APNS_SANDBOX_HOST: &str = "sandbox.localhost";
    /// APNs team (`iss`).
    pub(crate) const APNS_TEAM_ID: &str = "LABTEAM001";
    /// APNs bundle: the topic for alerts; with `.voip` the topic for calls.
    pub(crate) const APNS_BUNDLE: &str = "org.reveille.lab";
    /// FCM project.
    pub(crate) const FCM_PROJECT: &str = "reveille-lab";
    /// FCM service account (`iss`).
    pub(crate) const FCM_ACCOUNT: &str = "node@reveille-lab.iam.gserviceaccount.com";
    /// Key id of the service account's key.
    pub(crate) const FCM_KEY_ID: &str = "lab-service-account-key-1";
    /// What phones call the webhook's service.
    pub(crate) const WEBHOOK_PROVIDER: &str = "lab-hook";
    /// The one app it knows.
    pub(crate) const WEBHOOK_PARAM: &str = "lab-app";
    /// VAPID contact (`sub`).
    pub(crate) const VAPID_SUBJECT: &str = "mailto:ops@reveille.example";
    /// Host name of the lab's Web Push service: two labels (P-138), and loopback for every resolver that obeys RFC 6761.
    pub(crate) const WEBPUSH_HOST: &str = "push.localhost";
}

/// Where the credentials were written, and the names that go with them.
#[derive(Clone, Debug)]
pub struct LabFiles {
    /// The lab's root certificate: `ca_file` of every provider.
    pub ca_pem: PathBuf,
    /// APNs signing key, PKCS#8 PEM as Apple's `.p8`.
    pub apns_key_p8: PathBuf,
    /// APNs key id.
    pub apns_key_id: String,
    /// The signing key of the sandbox.
    pub apns_sandbox_key_p8: PathBuf,
    /// Its key id.
    pub apns_sandbox_key_id: String,
    /// APNs team id.
    pub apns_team_id: String,
    /// APNs bundle id; the VoIP topic is this and `.voip`.
    pub apns_topic: String,
    /// FCM service account, the JSON file Google hands out.
    pub fcm_service_account_json: PathBuf,
    /// FCM project id.
    pub fcm_project: String,
    /// VAPID key, PKCS#8 PEM.
    pub vapid_key_pem: PathBuf,
    /// VAPID contact.
    pub vapid_subject: String,
    /// The key that batches for the webhook are signed with.
    pub webhook_key: PathBuf,
    /// What phones call its service in `pn-provider`.
    pub webhook_provider: String,
    /// The `pn-param` it knows.
    pub webhook_param: String,
    /// Where the lab listens.
    pub endpoints: Endpoints,
}

impl Keys {
    /// Fresh keys. Takes a fraction of a second for the RSA key: call it where blocking is allowed.
    pub(super) fn generate() -> Result<Self, LabError> {
        let account = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(LabError::keys)?;
        Ok(Self {
            apns: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            apns_sandbox: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            webhook: random_hex(32),
            vapid: Mutex::new(vec![KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?]),
            service_account_pem: account.to_pkcs8_pem(LineEnding::LF).map_err(LabError::keys)?.to_string(),
            service_account_public: account.to_public_key().to_pkcs1_der().map_err(LabError::keys)?.as_bytes().to_vec(),
        })
    }

    /// A new VAPID key; subscriptions made until now stay with theirs.
    pub(super) fn rotate_vapid(&self) -> Result<(), LabError> {
        self.vapid.lock().push(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        Ok(())
    }

    /// The newest VAPID public key: an uncompressed point.
    pub(super) fn vapid_public(&self) -> Vec<u8> {
        self.vapid.lock().last().map(|key| key.public_key_raw().to_vec()).unwrap_or_default()
    }

    /// Whether this is a VAPID key of ours, new or old.
    pub(super) fn knows_vapid(&self, point: &[u8]) -> bool {
        self.vapid.lock().iter().any(|key| key.public_key_raw() == point)
    }

    fn vapid_pem(&self) -> String {
        self.vapid.lock().last().map(KeyPair::serialize_pem).unwrap_or_default()
    }

    /// Writes every credential of the node into `dir`, which is made where it is missing.
    pub(super) fn write(&self, dir: &Path, ca_pem: &str, endpoints: Endpoints) -> io::Result<LabFiles> {
        std::fs::create_dir_all(dir)?;
        let account = serde_json::json!({
            "type": "service_account",
            "project_id": names::FCM_PROJECT,
            "private_key_id": names::FCM_KEY_ID,
            "private_key": self.service_account_pem,
            "client_email": names::FCM_ACCOUNT,
            "client_id": "100000000000000000001",
            "token_uri": endpoints.fcm_token,
        });
        Ok(LabFiles {
            ca_pem: secret(dir, "ca.pem", ca_pem)?,
            apns_key_p8: secret(dir, "apns.p8", &self.apns.serialize_pem())?,
            apns_key_id: names::APNS_KEY_ID.to_owned(),
            apns_sandbox_key_p8: secret(dir, "apns-sandbox.p8", &self.apns_sandbox.serialize_pem())?,
            apns_sandbox_key_id: names::APNS_SANDBOX_KEY_ID.to_owned(),
            apns_team_id: names::APNS_TEAM_ID.to_owned(),
            apns_topic: names::APNS_BUNDLE.to_owned(),
            fcm_service_account_json: secret(dir, "fcm.json", &account.to_string())?,
            fcm_project: names::FCM_PROJECT.to_owned(),
            vapid_key_pem: secret(dir, "vapid.pem", &self.vapid_pem())?,
            vapid_subject: names::VAPID_SUBJECT.to_owned(),
            webhook_key: secret(dir, "webhook.key", &self.webhook)?,
            webhook_provider: names::WEBHOOK_PROVIDER.to_owned(),
            webhook_param: names::WEBHOOK_PARAM.to_owned(),
            endpoints,
        })
    }
}

/// Writes a file that only its owner may read.
fn secret(dir: &Path, name: &str, content: &str) -> io::Result<PathBuf> {
    let path = dir.join(name);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path)?.write_all(content.as_bytes())?;
    Ok(path)
}
