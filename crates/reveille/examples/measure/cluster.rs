//! Three homes and two edges as processes over a real redis-server: what phones notice of a home's death, and what several homes
//! cost over one.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use reveille::lab::{Lab, LabOptions};
use reveille_runtime::clock;
use reveille_testkit::{pns::DeviceKind, redis::Redis};
use serde_json::Value;

use crate::{
    EXTRA,
    datagram::Load,
    each, fill,
    probe::Probe,
    process::{Server, cpu_split, resident},
    quantile, user,
};

/// As many as a cluster has by default.
const SHARDS: u16 = 1024;
/// `cluster.lease`, the default.
const LEASE: Duration = Duration::from_secs(3);
/// Homes that die, one after the other.
const KILLS: usize = 6;
/// Users whose bindings are asked for; those of the dead home are a third.
const PROBED: usize = 3_000;
/// How long a cluster with a million bindings may take to settle.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running cluster.
struct Field {
    nodes: BTreeMap<String, Server>,
    lab: Lab,
    redis: Redis,
    param: String,
}

impl Field {
    /// Redis and the lab, without a node.
    async fn new(users: usize, standby: bool) -> Self {
        let redis = Redis::with("appendonly yes\nappendfsync everysec").unwrap();
        let extra = format!(
            r#"{EXTRA}
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

[cluster]
name = "lab"
key_files = ["secret"]
server_name = "reveille-node"
lease = "{}s"
standby = {standby}
"#,
            redis.port(),
            LEASE.as_secs()
        );
        let options = LabOptions {
            users: (0..users).map(user).collect(),
            extra,
            registrar: format!("shards = {SHARDS}"),
            ..LabOptions::default()
        };
        let lab = Lab::start(options).await.unwrap();
        let cert = lab.pns.ca().issue(&["reveille-node"]).unwrap();
        fs::write(lab.folder().join("cluster.pem"), cert.cert_pem).unwrap();
        fs::write(lab.folder().join("cluster-key.pem"), cert.key_pem).unwrap();
        fs::write(lab.folder().join("secret"), "5e".repeat(32)).unwrap();
        // A home takes in nobody but other nodes.
        let text = fs::read_to_string(lab.config_file()).unwrap();
        let (head, rest) = text.split_once("[[listener]]").unwrap();
        let (_, rest) = rest.split_once("[admin]").unwrap();
        fs::write(lab.folder().join("home.toml"), format!("{head}[admin]{rest}")).unwrap();
        let param = lab.pns.register_device(DeviceKind::ApnsVoip).param.unwrap();
        Self { nodes: BTreeMap::new(), lab, redis, param }
    }

    /// Starts a node; its name says what it does.
    async fn add(&mut self, name: &str) {
        let (role, file) = if name.starts_with("edge") { ("edge", "reveille.toml") } else { ("home", "home.toml") };
        let (data, roles) = (format!("data-{name}"), format!(r#"["{role}"]"#));
        let environment = [
            ("REVEILLE__NODE__ID", name),
            ("REVEILLE__NODE__DATA_DIR", data.as_str()),
            ("REVEILLE__NODE__ROLES", roles.as_str()),
        ];
        let program = std::env::current_exe().unwrap();
        let server = Server::start(&program, &self.lab.folder().join(file), &environment).await;
        self.nodes.insert(name.to_owned(), server);
    }

    fn of(&self, role: &str) -> impl Iterator<Item = (&String, &Server)> {
        self.nodes.iter().filter(move |(name, _)| name.starts_with(role))
    }

    /// The edges' ports for datagrams.
    fn edges(&self) -> Vec<SocketAddr> {
        self.of("edge").map(|(_, node)| node.addr("udp")).collect()
    }

    /// Waits until all nodes agree that the homes that run own every shard, and these hold so many bindings.
    async fn settled(&self, bindings: usize) {
        let give_up = clock::now() + PATIENCE;
        let homes = self.of("home").count();
        loop {
            let mut agreed = true;
            for node in self.nodes.values() {
                let status: Value = serde_json::from_str(&node.get("/api/v1/cluster").await.unwrap().1).unwrap();
                let owned = status["nodes"].as_array().unwrap().iter().filter_map(|node| node["shards"].as_u64());
                let owned: Vec<u64> = owned.filter(|shards| *shards > 0).collect();
                agreed &= owned.len() == homes && owned.iter().sum::<u64>() == u64::from(SHARDS);
            }
            let held = self.bindings().await;
            if agreed && held == bindings {
                return;
            }
            assert!(clock::now() < give_up, "the cluster does not settle: {held} of {bindings} bindings");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Bindings in the memory of all homes.
    async fn bindings(&self) -> usize {
        let mut sum = 0.0;
        for (_, node) in self.of("home") {
            sum += node.metric("reveille_registrar_bindings").await;
        }
        sum as usize
    }

    /// A metric over all homes.
    async fn of_homes(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for (_, node) in self.of("home") {
            sum += node.metric(metric).await;
        }
        sum
    }

    /// Waits until every shard is followed by the home that would take it over.
    async fn warm(&self, standby: bool) {
        if !standby || self.of("home").count() < 2 {
            return;
        }
        let start = clock::now();
        while self.of_homes("reveille_standby_shards_warm").await < f64::from(SHARDS) {
            assert!(clock::now() < start + PATIENCE, "shards are not followed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let records = self.of_homes("reveille_standby_records").await;
        let bytes = self.of_homes("reveille_standby_bytes").await;
        println!(
            "every shard followed after {:.1} s: {records} records, {:.0} octets each; {}",
            seconds(start),
            bytes / records.max(1.0),
            self.memory()
        );
    }

    /// The node that owns the bindings of a user, and its tag.
    async fn home_of(&self, n: usize) -> String {
        let (_, any) = self.of("edge").next().unwrap();
        let (_, body) = any.get(&format!("/api/v1/cluster/home?aor={}", fill::aor(n).as_str())).await.unwrap();
        serde_json::from_str::<Value>(&body).unwrap()["node"].as_str().unwrap().to_owned()
    }

    fn cpu(&self, role: &str) -> Duration {
        self.of(role).map(|(_, node)| node.cpu()).sum()
    }

    fn redis_cpu(&self) -> Duration {
        let (user, system) = cpu_split(self.redis_pid());
        user + system
    }

    /// What Redis answers.
    fn ask_redis(&self, command: &[&str]) -> String {
        self.redis.ask(command).unwrap()
    }

    fn redis_pid(&self) -> u32 {
        self.redis.pid().unwrap()
    }

    /// How long Redis will still believe in a node.
    fn lease_left(&self, name: &str) -> Duration {
        let tag = reveille::cluster::tag(name).0;
        let answer = self.ask_redis(&["PTTL", &format!("rv:lab:{{members}}:lease:{tag}")]);
        let millis = answer.trim_start_matches(':').parse::<u64>();
        Duration::from_millis(millis.expect("the node has a lease"))
    }

    fn memory(&self) -> String {
        let mib = |bytes: u64| bytes >> 20;
        let mut text: Vec<_> =
            self.nodes.iter().map(|(name, node)| format!("{name} {}", mib(node.resident()))).collect();
        text.push(format!("redis {}", mib(resident(self.redis_pid()))));
        format!("MiB resident: {}", text.join(", "))
    }
}

/// From the death of a home to the first answer about each of its users. Half of them ask at once and wait, the others ask for
/// the first time about when the shards get their next owner, which has not read them yet.
pub(crate) async fn takeover(bindings: usize, standby: bool) {
    let mut field = Field::new(PROBED, standby).await;
    let (empty, start) = (resident(field.redis_pid()), clock::now());
    fill::bindings(&field.lab, field.redis.port(), SHARDS, &field.param, bindings).await;
    let each_in_redis = (resident(field.redis_pid()) - empty) / bindings as u64;
    println!("{bindings} bindings written in {:.1} s, {each_in_redis} bytes each in Redis", seconds(start));
    for key in ["records", "feed"] {
        let name = format!("rv:lab:{{0}}:{key}");
        let count = field.ask_redis(&[if key == "feed" { "XLEN" } else { "HLEN" }, &name]);
        println!("shard 0: {key} {count}, octets {}", field.ask_redis(&["MEMORY", "USAGE", &name]));
    }
    let start = clock::now();
    for name in ["home1", "home2", "home3", "edge1", "edge2"] {
        field.add(name).await;
    }
    field.settled(bindings).await;
    println!("five nodes started and every binding in memory after {:.1} s; {}", seconds(start), field.memory());
    field.warm(standby).await;
    println!(
        "| Killed | Lease left ms | AORs | kill to 200, less the lease, ms: p50 | p99 | max | lease's end to 200 ms: p50 | p99 | max | first asked after the takeover ms: p50 | p99 | max | refused | hydrated after s |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let mut whole = Vec::new();
    for kill in 0..KILLS {
        let victim = format!("home{}", kill % 3 + 1);
        let mut users = Vec::new();
        for n in 0..PROBED {
            if field.home_of(n).await == victim {
                users.push(n);
            }
        }
        let mut probe = Probe::new(&users, &field.edges());
        probe.run(clock::now(), &vec![Duration::ZERO; users.len()]); // credentials
        let (read, redis) = (field.of_homes("reveille_redis_records_read_total").await, field.redis_cpu());
        // Not always in the same moment between two renewals.
        tokio::time::sleep(LEASE / 3 * kill as u32 / KILLS as u32).await;
        let left = field.lease_left(&victim);
        let zero = clock::now();
        field.nodes.remove(&victim).unwrap().kill();
        let (half, last) = (users.len() / 2, LEASE + Duration::from_millis(500));
        let starts: Vec<_> = (0..users.len())
            .map(|at| {
                if at < half {
                    Duration::from_secs(1) * at as u32 / half as u32
                } else {
                    left + (last - left) * (at - half) as u32 / half as u32
                }
            })
            .collect();
        let probing = std::thread::spawn(move || {
            let answered = probe.run(zero, &starts);
            (answered, starts, std::mem::take(&mut probe.refused))
        });
        let hydrated = hydrated(&field, bindings, zero).await;
        let (answered, starts, refused) = probing.join().unwrap();
        let mut waited = answered[..half].to_vec();
        whole.extend_from_slice(&waited);
        let mut touched: Vec<_> =
            answered[half..].iter().zip(&starts[half..]).map(|(at, start)| *at - *start).collect();
        println!(
            "| {victim} | {} | {} | {} | {} | {} | {refused:?} | {:.1} |",
            left.as_millis(),
            users.len(),
            row(&mut waited, LEASE),
            row(&mut waited, left),
            row(&mut touched, Duration::ZERO),
            hydrated.as_secs_f64()
        );
        // Counters begin anew with a process; those that live have theirs.
        let read_now = field.of_homes("reveille_redis_records_read_total").await;
        println!(
            "{}; records held beside {}; sum of records read by the living {read_now:.0} (before the kill {read:.0} with the victim's); Redis CPU since {:.2} s",
            field.memory(),
            field.of_homes("reveille_standby_records").await,
            (field.redis_cpu() - redis).as_secs_f64()
        );
        field.add(&victim).await;
        let start = clock::now();
        field.settled(bindings).await;
        println!("{victim} is back and has its bindings {:.1} s after it served", seconds(start));
        field.warm(standby).await;
    }
    println!(
        "all {} AORs that waited, kill to 200 less the lease: p50 | p99 | max {}",
        whole.len(),
        row(&mut whole, LEASE)
    );
}

/// How long after `zero` the homes that are left have every binding in memory.
async fn hydrated(field: &Field, bindings: usize, zero: Instant) -> Duration {
    while field.bindings().await != bindings {
        assert!(clock::now() < zero + PATIENCE, "bindings are missing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    clock::now() - zero
}

/// Median, p99 and maximum in milliseconds, less something.
fn row(times: &mut [Duration], less: Duration) -> String {
    let less = less.as_secs_f64() * 1e3;
    let mut at = |share| quantile(times, share) - less;
    format!("{:.0} | {:.0} | {:.0}", at(0.5), at(0.99), at(1.0))
}

fn seconds(since: Instant) -> f64 {
    (clock::now() - since).as_secs_f64()
}

/// Refreshes through two edges to one home and to three: processor time of all processes together.
pub(crate) async fn spread(count: usize) {
    const USERS: usize = 10_000;
    println!(
        "| Homes | Standby | In flight | Refreshes/s | CPU µs/refresh: edges | homes | redis | all | p50 ms | p99 ms |\n|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    for (homes, standby) in [(1, true), (3, true), (3, false), (1, true), (3, false), (3, true)] {
        let mut field = Field::new(USERS, standby).await;
        for home in 1..=homes {
            field.add(&format!("home{home}")).await;
        }
        field.add("edge1").await;
        field.add("edge2").await;
        field.settled(0).await;
        let half = USERS / 2;
        let mut loads: Vec<_> = field
            .edges()
            .into_iter()
            .enumerate()
            .map(|(at, edge)| Load::new(at * half..(at + 1) * half, edge, field.param.clone()))
            .collect();
        drive(&mut loads, half, 32); // everybody registers
        drive(&mut loads, half, 32); // and refreshes once
        field.settled(USERS).await;
        field.warm(standby).await;
        for in_flight in [16, 64, 256] {
            let usage = |field: &Field| [field.cpu("edge"), field.cpu("home"), field.redis_cpu()];
            let (before, start) = (usage(&field), clock::now());
            let mut latencies = drive(&mut loads, count / 2, in_flight / 2);
            let (after, took) = (usage(&field), seconds(start));
            let [edges, homes_cpu, redis] = [0, 1, 2].map(|at| each(after[at] - before[at], count));
            let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
            println!(
                "| {homes} | {standby} | {in_flight} | {:.0} | {edges:.1} | {homes_cpu:.1} | {redis:.1} | {:.1} | {p50:.2} | {p99:.2} |",
                count as f64 / took,
                edges + homes_cpu + redis
            );
        }
        let (resent, refused) = loads.iter().fold((0, 0), |sum, load| (sum.0 + load.resent, sum.1 + load.refused));
        println!("{resent} datagrams sent again, {refused} REGISTERs challenged again");
    }
}

/// Each load in a thread of its own, all at once.
fn drive(loads: &mut [Load], count: usize, in_flight: usize) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let running: Vec<_> = loads.iter_mut().map(|load| scope.spawn(move || load.run(count, in_flight))).collect();
        running.into_iter().flat_map(|load| load.join().unwrap()).collect()
    })
}
