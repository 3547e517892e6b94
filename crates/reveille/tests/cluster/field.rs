//! A cluster of real node processes over a real Redis, with the lab's push services beside it.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, process::Command};

use reveille::lab::{Lab, LabOptions};
use reveille_testkit::{
    pns::Provider,
    redis::Redis,
    ua::{Phone, PhoneBuilder},
};
use serde_json::Value;

use crate::process::{PATIENCE, Server};

const PROGRAM: &str = env!("CARGO_BIN_EXE_reveille");

/// Shards of the test's clusters: enough for every node to have some.
pub(crate) const SHARDS: usize = 16;

/// Users `u0`, `u1` … beside those that every lab has: enough for every shard to have one.
pub(crate) const MANY: usize = 40;

/// See the module.
pub(crate) struct Field {
    pub(crate) nodes: BTreeMap<&'static str, Server>,
    pub(crate) lab: Lab,
    pub(crate) redis: Redis,
}

impl Field {
    /// Starts nodes of these names that do everything, and waits until every shard has an owner.
    pub(crate) async fn start(names: &[&'static str]) -> Self {
        Self::with_roles(&names.iter().map(|name| (*name, r#"["edge", "home"]"#)).collect::<Vec<_>>()).await
    }

    /// Starts nodes with these roles.
    pub(crate) async fn with_roles(nodes: &[(&'static str, &str)]) -> Self {
        let redis = Redis::durable().unwrap();
        let extra = format!(
            r#"
[[listener]]
transport = "tls"
addr = "127.0.0.1:0"
cert = "cluster.pem"
key = "cluster-key.pem"
client_ca = "ca.pem"
purpose = "cluster"

[store]
kind = "redis"

[store.redis]
urls = ["redis://127.0.0.1:{}"]
mode = "standalone"
timeout = "500ms"

[cluster]
name = "lab"
key_files = ["secret"]
server_name = "reveille-node"
lease = "2s"
"#,
            redis.port()
        );
        let registrar = format!("shards = {SHARDS}");
        let users = (0..MANY).map(|n| format!("u{n}")).collect();
        let lab = Lab::start(LabOptions { extra, registrar, users, ..LabOptions::default() }).await.unwrap();
        let cert = lab.pns.ca().issue(&["reveille-node"]).unwrap();
        fs::write(lab.folder().join("cluster.pem"), cert.cert_pem).unwrap();
        fs::write(lab.folder().join("cluster-key.pem"), cert.key_pem).unwrap();
        fs::write(lab.folder().join("secret"), "5e".repeat(32)).unwrap();
        let mut field = Self { nodes: BTreeMap::new(), lab, redis };
        for (name, roles) in nodes {
            field.add(name, roles).await;
        }
        field.settled().await;
        field
    }

    /// Starts one more node that does everything, and reaches Redis at this port.
    pub(crate) async fn add_over(&mut self, name: &'static str, redis: u16) {
        self.start_node(name, r#"["edge", "home"]"#, redis).await;
    }

    /// Starts one more node.
    pub(crate) async fn add(&mut self, name: &'static str, roles: &str) {
        self.start_node(name, roles, self.redis.port()).await;
    }

    async fn start_node(&mut self, name: &'static str, roles: &str, redis: u16) {
        let urls = format!("[\"redis://127.0.0.1:{redis}\"]");
        let data = format!("data-{name}");
        let environment = [
            ("REVEILLE__NODE__ID", name),
            ("REVEILLE__NODE__SERVER_HEADER", name), // so that a failure names who answered
            ("REVEILLE__NODE__DATA_DIR", &data),
            ("REVEILLE__NODE__ROLES", roles),
            ("REVEILLE__STORE__REDIS__URLS", &urls),
            ("REVEILLE__NODE__DRAIN_TIMEOUT", "8s"),
        ];
        let mut config = self.lab.config_file();
        if !roles.contains("edge") {
            // A home takes in nobody but other nodes.
            let text = fs::read_to_string(&config).unwrap();
            let (head, rest) = text.split_once("[[listener]]").unwrap();
            let rest = rest.split_once("[admin]").unwrap().1;
            config = self.lab.folder().join("home.toml");
            fs::write(&config, format!("{head}[admin]{rest}")).unwrap();
        }
        let server = Server::start(Path::new(PROGRAM), &config, &environment).await;
        self.nodes.insert(name, server);
    }

    /// A node that runs.
    pub(crate) fn node(&self, name: &str) -> &Server {
        &self.nodes[name]
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        self.nodes.remove(name).expect("the node runs").kill();
    }

    /// What a node says of the cluster.
    pub(crate) async fn status(&self, name: &str) -> Value {
        let (code, body) = self.node(name).get("/api/v1/cluster").await.unwrap();
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until every node sees every shard owned by one of the nodes that run, each of which is ready.
    pub(crate) async fn settled(&self) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut maps = Vec::new();
            for name in self.nodes.keys() {
                let status = self.status(name).await;
                let nodes = status["nodes"].as_array().unwrap();
                let owned = nodes.iter().map(|node| (node["id"].as_str().unwrap().to_owned(), node["shards"].as_u64()));
                maps.push(owned.collect::<BTreeMap<_, _>>());
            }
            let whole = maps.iter().all(|map| {
                map.keys().map(String::as_str).eq(self.nodes.keys().copied())
                    && map.values().map(|shards| shards.unwrap_or(0)).sum::<u64>() == SHARDS as u64
                    && map == &maps[0]
            });
            if whole {
                return;
            }
            assert!(tokio::time::Instant::now() < give_up, "the cluster does not settle: {maps:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// The node that owns the bindings of a user.
    pub(crate) async fn home_of(&self, user: &str) -> &'static str {
        let any = *self.nodes.keys().next().unwrap();
        let path = format!("/api/v1/cluster/home?aor=sip:{user}@{}", reveille::lab::DOMAIN);
        let (code, body) = self.node(any).get(&path).await.unwrap();
        assert_eq!(code, 200, "{body}");
        let owner: Value = serde_json::from_str(&body).unwrap();
        self.nodes.keys().find(|name| owner["node"] == **name).unwrap_or_else(|| panic!("{body}"))
    }

    /// The CSeq of a user's newest registration, as the node that owns his bindings has it in memory.
    pub(crate) async fn newest(&self, user: &str) -> Option<u64> {
        let owner = self.home_of(user).await;
        let path = format!("/api/v1/bindings?aor=sip:{user}@{}", reveille::lab::DOMAIN);
        let (code, body) = self.node(owner).get(&path).await.unwrap();
        let shown: Value = serde_json::from_str(&body).ok().filter(|_| code == 200)?;
        shown["bindings"][0]["cseq"].as_u64()
    }

    /// So many users, beside those that every lab has, whose bindings that node owns.
    pub(crate) async fn users_at(&self, node: &str, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        for user in (0..MANY).map(|n| format!("u{n}")) {
            if found.len() < count && self.home_of(&user).await == node {
                found.push(user);
            }
        }
        assert_eq!(found.len(), count, "{node} owns too little");
        found
    }

    /// Runs an operator's command against a node; what it printed.
    pub(crate) fn command(&self, node: &str, arguments: &[&str]) -> String {
        self.command_at(self.node(node).admin(), arguments)
    }

    /// The same at an admin port.
    pub(crate) fn command_at(&self, admin: SocketAddr, arguments: &[&str]) -> String {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .arg("-c")
            .arg(self.lab.config_file())
            .env("REVEILLE__ADMIN__ADDR", admin.to_string())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A phone that can be woken, toward one of the nodes.
    pub(crate) fn phone(&self, user: &str, provider: Provider, node: &str) -> PhoneBuilder {
        self.lab.phone(user, provider, self.node(node).addr("tls")).unwrap()
    }

    /// A phone without push, known by its instance-id wherever it connects.
    pub(crate) async fn caller(&self, user: &str, node: &str) -> Phone {
        let builder = self.lab.plain_phone(user, self.node(node).addr("tls")).unwrap();
        let mut caller = builder.instance(uuid::Uuid::new_v4()).reg_id(1).build();
        caller.connect().await.unwrap();
        assert_eq!(caller.register(3600).await.unwrap().code(), 200);
        caller
    }
}
