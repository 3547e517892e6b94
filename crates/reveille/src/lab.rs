//! A lab on one machine: a node of this program's own code whose push services are the lab's, reached over real HTTP/2 and TLS
//! with real credentials. The demo runs on it, and so do the end-to-end tests.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use reveille_proxy::auth::{Algorithm, ha1};
use reveille_registrar::Transport;
use reveille_testkit::{
    pns::{LabConfig, LabFiles, LabPns, Provider},
    ua::{self, Phone, PhoneBuilder},
};
use tempfile::TempDir;

use crate::{config, node::Node};

/// The lab's SIP domain and realm.
pub const DOMAIN: &str = "lab.example";
/// The password of every user of the lab.
pub const PASSWORD: &str = "lab-password";

/// A running lab: push services, credentials, and a folder for one node at a time.
pub struct Lab {
    /// The push services.
    pub pns: LabPns,
    dir: TempDir,
    config: String,
}

/// What a lab may do differently.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// Users beside `alice`, `bob`, `carol` and `caller`.
    pub users: Vec<String>,
    /// TOML appended to the node's configuration; sections that the lab writes itself can be set through `push` and `registrar`.
    pub extra: String,
    /// Keys of `[push]`.
    pub push: String,
    /// Keys of `[registrar]`.
    pub registrar: String,
    /// The lab's webhook is configured as well.
    pub webhook: bool,
    /// Instead of digest: `auth.mode = "none"`, and then no push services.
    pub open: bool,
}

impl Lab {
    /// Starts the push services and writes the credentials and the configuration of a node.
    ///
    /// # Errors
    /// When a port, a key or a file cannot be had.
    pub async fn start(options: LabOptions) -> anyhow::Result<Self> {
        let pns = LabPns::start(LabConfig::default()).await.context("the lab's push services")?;
        let dir = tempfile::Builder::new().prefix("reveille-lab-").tempdir()?;
        let config = write_files(&pns, dir.path(), &options)?;
        Ok(Self { pns, dir, config })
    }

    /// The node's folder: configuration, credentials and, beneath `data`, its store.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The node's configuration file, as `reveille serve -c` takes it.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("reveille.toml")
    }

    /// Starts a node in this process. What an earlier one stored is there.
    ///
    /// # Errors
    /// When the node cannot start.
    pub async fn start_node(&self) -> anyhow::Result<Node> {
        let config = config::parse(&self.config, self.dir.path()).map_err(|faults| anyhow::anyhow!("{faults}"))?;
        Node::start(config).await
    }

    /// A phone of `user` with a device at `provider`, toward the TLS listener of `node`.
    ///
    /// # Errors
    /// When the lab's certificate cannot be used.
    pub fn phone(&self, user: &str, provider: Provider, node: SocketAddr) -> anyhow::Result<PhoneBuilder> {
        Ok(self.plain_phone(user, node)?.device(self.pns.register_device(provider)))
    }

    /// A phone without push, over TLS.
    ///
    /// # Errors
    /// When the lab's certificate cannot be used.
    pub fn plain_phone(&self, user: &str, node: SocketAddr) -> anyhow::Result<PhoneBuilder> {
        let transport = ua::Transport::tls(&self.pns.ca().pem(), "localhost")?;
        Ok(Phone::builder(user, DOMAIN, node, transport).password(PASSWORD))
    }
}

/// The address of a node's first listener of this transport.
pub fn address(node: &Node, transport: Transport) -> Option<SocketAddr> {
    node.listeners().iter().find(|listener| listener.transport == transport).map(|listener| listener.addr)
}

/// Writes everything a node needs; returns the text of its configuration.
fn write_files(pns: &LabPns, dir: &Path, options: &LabOptions) -> anyhow::Result<String> {
    let files = pns.write_credentials(dir)?;
    let cert = pns.ca().issue(&["localhost", "127.0.0.1"])?;
    write_private(&dir.join("node-cert.pem"), &cert.cert_pem)?;
    write_private(&dir.join("node-key.pem"), &cert.key_pem)?;
    let mut users = String::from("# user:realm:algorithm:H(user:realm:password)\n");
    let named = ["alice", "bob", "carol", "caller"].map(str::to_owned);
    for user in named.iter().chain(&options.users) {
        for algorithm in [Algorithm::Sha256, Algorithm::Md5] {
            writeln!(users, "{user}:{DOMAIN}:{}:{}", algorithm.as_str(), ha1(user, DOMAIN, PASSWORD, algorithm))?;
        }
    }
    write_private(&dir.join("users.txt"), &users)?;
    let mut config = format!(
        r#"# Written by the Reveille lab.
domains = ["{DOMAIN}"]

[node]
id = "lab"
data_dir = "data"
drain_timeout = "2s"

[[listener]]
transport = "tls"
addr = "127.0.0.1:0"
cert = "node-cert.pem"
key = "node-key.pem"

[[listener]]
transport = "udp"
addr = "127.0.0.1:0"

[[listener]]
transport = "tcp"
addr = "127.0.0.1:0"

[admin]
addr = "127.0.0.1:0"

[registrar]
{registrar}
"#,
        registrar = options.registrar
    );
    if options.open {
        config += "[auth]\nmode = \"none\"\n";
    } else {
        write!(
            config,
            r#"
[auth]
mode = "digest"
realm = "{DOMAIN}"
algorithms = ["SHA-256", "MD5"]
users = {{ file = "users.txt" }}

[push]
{push}

{sections}"#,
            push = options.push,
            sections = push_sections(&files),
        )?;
        if options.webhook {
            config.push('\n');
            config += &webhook_section(&files);
        }
    }
    config.push('\n');
    config += &options.extra;
    write_private(&dir.join("reveille.toml"), &config)?;
    Ok(config)
}

/// The sections of a configuration that lead to the lab's push services.
pub fn push_sections(files: &LabFiles) -> String {
    let endpoints = &files.endpoints;
    format!(
        r#"[push.apns.lab]
team_id = "{team}"
key_id = "{key_id}"
key_file = {key_file:?}
topics = ["{topic}"]
endpoint = "{apns}"
ca_file = {ca:?}

[push.fcm.lab]
project = "{project}"
service_account_file = {service_account:?}
endpoint = "{fcm}"
token_endpoint = "{token}"
ca_file = {ca:?}

[push.webpush]
vapid_key_file = {vapid:?}
subject = "{subject}"
allow_hosts = ["{host}"]
allow_addresses = ["127.0.0.0/8", "::1/128"]
ca_file = {ca:?}
"#,
        team = files.apns_team_id,
        key_id = files.apns_key_id,
        key_file = files.apns_key_p8,
        topic = files.apns_topic,
        apns = endpoints.apns,
        ca = files.ca_pem,
        project = files.fcm_project,
        service_account = files.fcm_service_account_json,
        fcm = endpoints.fcm,
        token = endpoints.fcm_token,
        vapid = files.vapid_key_pem,
        subject = files.vapid_subject,
        host = endpoints.webpush_host,
    )
}

/// The section of a configuration that leads to the lab's webhook.
pub fn webhook_section(files: &LabFiles) -> String {
    format!(
        r#"[push.webhook.lab]
provider = "{provider}"
url = "{url}"
params = ["{param}"]
key_file = {key_file:?}
ca_file = {ca:?}
"#,
        provider = files.webhook_provider,
        url = files.endpoints.webhook,
        param = files.webhook_param,
        key_file = files.webhook_key,
        ca = files.ca_pem,
    )
}

/// The section of a configuration that leads to the lab's APNs sandbox.
pub fn sandbox_section(files: &LabFiles) -> String {
    format!(
        r#"[push.apns.sandbox]
environment = "sandbox"
team_id = "{team}"
key_id = "{key_id}"
key_file = {key_file:?}
topics = ["{topic}"]
endpoint = "{endpoint}"
ca_file = {ca:?}
"#,
        team = files.apns_team_id,
        key_id = files.apns_sandbox_key_id,
        key_file = files.apns_sandbox_key_p8,
        topic = files.apns_topic,
        endpoint = files.endpoints.apns_sandbox,
        ca = files.ca_pem,
    )
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
