//! The cluster that is broken: homes and edges as processes of their own, each on its own loopback address, a Redis, the lab's
//! push services, and the relays between them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use reveille::lab::{DOMAIN, Lab, LabOptions};
use reveille_testkit::redis::Redis;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::{
    callers::Callers,
    node::{self, Node},
    relay::{Link, Relay, Relays, Route, Weather},
    servers::{Arrangement, Servers},
    witness::{Senders, Witness},
};

/// Shards of the cluster: enough for every home to have some, few enough for a probe in each.
pub(crate) const SHARDS: u16 = 16;
/// The cluster's name, part of every key in Redis.
pub(crate) const NAME: &str = "faults";
/// Entries of a shard's change feed: as many as several cycles write, so that the checker misses none.
const FEED_LENGTH: u32 = 20_000;
/// How long the cluster may take to be steady again: generous, since the machine may be busy. It is no measure of the cluster.
const STEADY_PATIENCE: Duration = Duration::from_secs(60);
/// How often a node is started until it serves.
const STARTS: u32 = 5;
const POLL: Duration = Duration::from_millis(50);
/// `node.drain_timeout`: the default of the program.
const DRAIN_TIMEOUT: &str = "\"30s\"";

/// What a node is for. They are kept apart, so that a fault of one is not a fault of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Owns connections.
    Edge,
    /// Owns bindings.
    Home,
}

/// A place for a node, whether one runs there or not.
pub(crate) struct Seat {
    /// `node.id`.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) role: Role,
    node: Option<Node>,
    config: PathBuf,
    log: PathBuf,
    cluster: Relay,
}

/// An edge as phones know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    /// Its place in the cluster.
    pub(crate) seat: usize,
    /// Counts its lives: a connection of an earlier one is gone.
    pub(crate) life: u32,
    /// Its TLS listener.
    pub(crate) addr: SocketAddr,
}

/// The edges, for phones to choose from.
pub(crate) type Edges = Arc<Mutex<Vec<Edge>>>;

/// Edges that were killed, by seat and life: who was connected there lost what was under way.
pub(crate) type Killed = Arc<Mutex<Vec<(usize, u32)>>>;

/// See the module.
pub(crate) struct Cluster {
    /// All places, homes first.
    pub(crate) seats: Vec<Seat>,
    /// The push services and the credentials.
    pub(crate) lab: Lab,
    /// Where the nodes keep what they know. A write is acknowledged when a replica has it too.
    pub(crate) redis: Servers,
    /// The links.
    pub(crate) weather: watch::Sender<Weather>,
    /// The edges that phones are told of.
    pub(crate) edges: Edges,
    /// Those that did not drain.
    pub(crate) killed: Killed,
    /// Who writes to it.
    pub(crate) witness: Witness,
    relays: Relays,
    callers: Callers,
}

/// How a cluster is made.
pub(crate) struct Plan<'a> {
    pub(crate) redis: Arrangement,
    pub(crate) homes: u8,
    pub(crate) edges: u8,
    pub(crate) lease: Duration,
    pub(crate) users: Vec<String>,
    pub(crate) logs: &'a Path,
}

impl Cluster {
    /// Starts everything and waits until it is steady.
    pub(crate) async fn start(plan: Plan<'_>) -> anyhow::Result<Self> {
        // An INVITE is refused well before the 32 s after which its sender gives up.
        let push = "call_wait = \"15s\"".to_owned();
        let registrar = format!("shards = {SHARDS}");
        let lab = Lab::start(LabOptions { users: plan.users, registrar, push, ..LabOptions::default() }).await?;
        let cert = lab.pns.ca().issue(&["reveille-node"]).context("a certificate of the nodes")?;
        fs::write(lab.folder().join("cluster.pem"), cert.cert_pem)?;
        fs::write(lab.folder().join("cluster-key.pem"), cert.key_pem)?;
        fs::write(lab.folder().join("secret"), "5e".repeat(32))?;
        let count = usize::from(plan.homes) + usize::from(plan.edges);
        let (weather, watched) =
            watch::channel(Weather { redis: vec![Link::Open; count], peers: vec![Link::Open; count] });
        let callers = Callers::new(count);
        let relays = Relays { weather: watched, callers: callers.clone(), senders: Senders::default() };
        let redis = block_in_place(|| Servers::start(plan.redis, &relays)).context("Redis")?;
        let witness = Witness::start(redis.all().iter().map(Redis::addr), Arc::clone(&relays.senders));
        let (seats, edges, killed) = (Vec::new(), Edges::default(), Killed::default());
        let mut cluster = Self { seats, lab, redis, weather, edges, killed, witness, relays, callers };
        for seat in 0..count {
            let role = if seat < usize::from(plan.homes) { Role::Home } else { Role::Edge };
            let made = cluster.furnish(seat, role, plan.lease, plan.logs)?;
            cluster.seats.push(made);
        }
        for seat in 0..count {
            cluster.run(seat).await?;
        }
        cluster.steady().await?;
        Ok(cluster)
    }

    /// Opens the relays of a node and writes its configuration.
    fn furnish(&self, seat: usize, role: Role, lease: Duration, logs: &Path) -> anyhow::Result<Seat> {
        let host = Ipv4Addr::new(127, 0, 1, u8::try_from(seat + 1)?);
        let cluster = self.relays.open(host, Route::Peer(seat))?;
        let name = match role {
            Role::Home => format!("home{}", seat + 1),
            Role::Edge => format!("edge{}", seat + 1),
        };
        let config = self.lab.folder().join(format!("{name}.toml"));
        let text = fs::read_to_string(self.lab.config_file())?;
        fs::write(&config, configuration(&text, &name, role, host, lease, (&self.redis.settings(), cluster.addr))?)?;
        Ok(Seat { log: logs.join(format!("{name}.log")), name, role, node: None, config, cluster })
    }

    /// Starts the node of a place.
    pub(crate) async fn run(&mut self, seat: usize) -> anyhow::Result<()> {
        let place = self.seats.get_mut(seat).context("no such node")?;
        let begun = |pid| self.callers.begins(seat, pid);
        // A node that does not reach Redis when it starts ends, and is started again as by an orchestrator.
        let mut attempts = 1..STARTS;
        let node = loop {
            match Node::start(&place.config, &place.log, begun).await {
                Ok(node) => break node,
                Err(error) if attempts.next().is_none() => return Err(error).with_context(|| place.name.clone()),
                Err(_) => {}
            }
        };
        place.cluster.lead(node.listeners.last().copied());
        if place.role == Role::Edge {
            let addr = *node.listeners.first().context("an edge without a listener")?;
            let mut edges = self.edges.lock();
            match edges.iter_mut().find(|edge| edge.seat == seat) {
                Some(edge) => *edge = Edge { addr, life: edge.life + 1, ..*edge },
                None => edges.push(Edge { seat, life: 1, addr }),
            }
        }
        place.node = Some(node);
        Ok(())
    }

    /// The node of a place leaves it, alive or not; its connections are gone, or will be.
    pub(crate) fn leave(&mut self, seat: usize) -> anyhow::Result<Node> {
        let place = self.seats.get_mut(seat).context("no such node")?;
        let node = place.node.take().with_context(|| format!("{} does not run", place.name))?;
        if let Some(edge) = self.edges.lock().iter_mut().find(|edge| edge.seat == seat) {
            edge.life += 1;
        }
        Ok(node)
    }

    /// The node of a place is going to be killed, and not asked.
    pub(crate) fn doom(&self, seat: usize) {
        let edges = self.edges.lock();
        self.killed.lock().extend(edges.iter().find(|edge| edge.seat == seat).map(|edge| (seat, edge.life)));
    }

    /// Nothing listens any more where a node was.
    pub(crate) fn vacate(&self, seat: usize) {
        self.callers.ends(seat);
        if let Some(place) = self.seats.get(seat) {
            place.cluster.lead(None);
        }
    }

    /// The node of a place.
    pub(crate) fn node(&self, seat: usize) -> anyhow::Result<&Node> {
        let place = self.seats.get(seat).context("no such node")?;
        place.node.as_ref().with_context(|| format!("{} does not run", place.name))
    }

    /// The places of a role.
    pub(crate) fn seats_of(&self, role: Role) -> Vec<usize> {
        (0..self.seats.len()).filter(|&seat| self.seats[seat].role == role).collect()
    }

    /// Waits until every node is live and sees the same: all nodes there, every shard owned, and each by the same home.
    pub(crate) async fn steady(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            let problem = match self.unsteady().await {
                Ok(None) => return Ok(start.elapsed()),
                Ok(Some(problem)) => problem,
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > STEADY_PATIENCE {
                bail!("the cluster is not steady after {STEADY_PATIENCE:?}: {problem}");
            }
            sleep(POLL).await;
        }
    }

    /// Waits until no node has anything left that it promised while Redis was away.
    pub(crate) async fn all_written(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        for (seat, place) in self.seats.iter().enumerate() {
            let admin = self.node(seat)?.admin;
            while node::get(admin, "/api/v1/cluster").await?["deferred"] != 0 {
                if start.elapsed() > STEADY_PATIENCE {
                    bail!("{} has promises left after {STEADY_PATIENCE:?}", place.name);
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// What keeps the cluster from being steady.
    async fn unsteady(&self) -> anyhow::Result<Option<String>> {
        if let Some(problem) = self.redis.unsteady() {
            return Ok(Some(problem));
        }
        let mut first = None;
        for (seat, place) in self.seats.iter().enumerate() {
            let status = node::get(self.node(seat)?.admin, "/api/v1/cluster").await?;
            if status["standing"] != "live" {
                return Ok(Some(format!("{} is {}", place.name, status["standing"])));
            }
            // What was promised while Redis was away is nowhere but in that node's memory until it is written.
            if status["deferred"] != 0 {
                return Ok(Some(format!("{} has {} records to write", place.name, status["deferred"])));
            }
            if status["owned"] != SHARDS {
                return Ok(Some(format!("{} sees {} shards owned", place.name, status["owned"])));
            }
            let nodes = status["nodes"].as_array().context("no nodes")?;
            let named = |node: &Value| Some((node["id"].as_str()?.to_owned(), node["shards"].as_u64()?));
            let shares: BTreeMap<_, _> = nodes.iter().filter_map(named).collect();
            if !shares.keys().eq(self.seats.iter().map(|seat| &seat.name).collect::<std::collections::BTreeSet<_>>()) {
                return Ok(Some(format!("{} sees {shares:?}", place.name)));
            }
            if shares.iter().any(|(name, &shards)| (shards > 0) != name.starts_with("home")) {
                return Ok(Some(format!("{} sees {shares:?}", place.name)));
            }
            match &first {
                None => first = Some(shares),
                Some(first) if *first != shares => return Ok(Some(format!("{first:?} and {shares:?}"))),
                Some(_) => {}
            }
        }
        self.maps_differ().await
    }

    /// A shard that two nodes see at different owners.
    async fn maps_differ(&self) -> anyhow::Result<Option<String>> {
        for user in probes() {
            let mut owners = BTreeMap::new();
            for (seat, place) in self.seats.iter().enumerate() {
                let owner = self.home_of(seat, &user).await?;
                owners.insert(owner, &place.name);
            }
            if owners.len() != 1 {
                return Ok(Some(format!("owners of {user}: {owners:?}")));
            }
        }
        Ok(None)
    }

    /// The node that owns a user's bindings, as the node of a place sees it.
    pub(crate) async fn home_of(&self, seat: usize, user: &str) -> anyhow::Result<String> {
        let path = format!("/api/v1/cluster/home?aor=sip:{user}@{DOMAIN}");
        let answer = node::get(self.node(seat)?.admin, &path).await?;
        answer["node"].as_str().map(str::to_owned).with_context(|| format!("nobody owns {user}: {answer}"))
    }
}

/// One user in each shard, in their order, named `probe…`.
pub(crate) fn probes() -> Vec<String> {
    let mut found = vec![None; usize::from(SHARDS)];
    for number in 0.. {
        let user = format!("probe{number}");
        let shard = reveille_registrar::Aor::from_canonical(format!("{user}@{DOMAIN}")).shard(SHARDS);
        found[usize::from(shard)].get_or_insert(user);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}

/// The lab's configuration with this node's name, listeners and part in the cluster. `ways`: to Redis, and to this node.
fn configuration(
    lab: &str,
    name: &str,
    role: Role,
    host: Ipv4Addr,
    lease: Duration,
    ways: (&str, SocketAddr),
) -> anyhow::Result<String> {
    let (head, rest) = lab.split_once("[[listener]]").context("the lab's configuration has no listener")?;
    let (_, tail) = rest.split_once("[admin]").context("the lab's configuration has no admin port")?;
    let (own, shown) = match role {
        Role::Edge => (
            "edge",
            "[[listener]]\ntransport = \"tls\"\naddr = \"HOST:0\"\ncert = \"node-cert.pem\"\nkey = \"node-key.pem\"\n\n",
        ),
        Role::Home => ("home", ""),
    };
    let mut head = head.replace("id = \"lab\"", &format!("id = \"{name}\"\nroles = [\"{own}\"]"));
    head = head.replace("\"data\"", &format!("\"data-{name}\"")).replace("\"2s\"", DRAIN_TIMEOUT);
    ensure!(head.contains(name) && head.contains(DRAIN_TIMEOUT), "the lab's configuration names no node");
    let mut text = format!("{head}{shown}");
    write!(
        text,
        r#"[[listener]]
transport = "tls"
addr = "HOST:0"
cert = "cluster.pem"
key = "cluster-key.pem"
client_ca = "ca.pem"
purpose = "cluster"

[store]
kind = "redis"

[store.redis]
{}
timeout = "1s"
feed_length = {FEED_LENGTH}
wait_replicas = 1

[cluster]
name = "{NAME}"
key_files = ["secret"]
server_name = "reveille-node"
advertise = "{}"
lease = "{}"

[admin]{tail}"#,
        ways.0,
        ways.1,
        humantime::format_duration(lease),
    )?;
    Ok(text.replace("HOST", &host.to_string()).replace("127.0.0.1:0", &format!("{host}:0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_probe() {
        let shards: Vec<_> = probes()
            .iter()
            .map(|user| reveille_registrar::Aor::from_canonical(format!("{user}@{DOMAIN}")).shard(SHARDS))
            .collect();
        assert_eq!(shards, (0..SHARDS).collect::<Vec<_>>());
    }
}
