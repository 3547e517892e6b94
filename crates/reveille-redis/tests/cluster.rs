//! Redis Cluster, three masters and three replicas: slots move and masters die under load.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::process::Command;
use std::time::Duration;

use reveille_redis::{Followed, MapEvent, Mode, Ownership, RedisConfig, SecretName, WaitReplicas};
use reveille_registrar::replica::Replica;
use support::{Load, Node, Second, Server, aor, config, soon, try_say, until, until_async};

struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    fn start() -> Self {
        let server = |_| {
            let args = [
                "--save",
                "",
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync",
                "no",
                "--cluster-require-full-coverage",
                "no",
            ];
            Server::with(&args)
        };
        let servers: Vec<Server> = (0..6).map(server).collect();
        let nodes = servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
        let create = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(nodes)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli comes with redis-server");
        assert!(create.status.success(), "{}", String::from_utf8_lossy(&create.stdout));
        until("everybody agrees", || {
            servers.iter().all(|server| {
                server.say(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && server.say(&["CLUSTER", "NODES"]).matches("slave").count() == 3
            })
        });
        until("the replicas follow", || {
            let online = |server: &Server| server.say(&["INFO", "replication"]).matches("state=online").count();
            servers.iter().map(online).sum::<usize>() == 3
        });
        Cluster { servers }
    }

    fn config(&self) -> RedisConfig {
        RedisConfig {
            shards: 16,
            write_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_millis(500),
            ..config(Mode::Cluster(vec![self.servers[1].endpoint()]), "n1")
        }
    }

    /// The server that has the slot of a shard now.
    fn master(&self, shard: u16) -> &Server {
        let at = self.place(shard);
        &self.servers[at]
    }

    fn place(&self, shard: u16) -> usize {
        let slot: u64 = slot(&self.servers[0], shard).parse().unwrap();
        let alive = self.servers.iter().find(|server| try_say(server.port, &["PING"]).is_ok()).unwrap();
        let ranges = alive.say(&["CLUSTER", "SLOTS"]);
        // Each range: first, last, then host, port and name of the master, then of its replicas.
        let lines: Vec<&str> = ranges.lines().collect();
        let number = |line: &str| line.strip_prefix(':').and_then(|number| number.parse::<u64>().ok());
        let master = lines.windows(4).find_map(|part| {
            let (first, last) = (number(part[0])?, number(part[1])?);
            ((first..=last).contains(&slot)).then(|| number(part[3])).flatten()
        });
        let master = master.unwrap();
        self.servers.iter().position(|server| u64::from(server.port) == master).unwrap()
    }
}

fn slot(server: &Server, shard: u16) -> String {
    server.say(&["CLUSTER", "KEYSLOT", &format!("{{{shard}}}")]).trim_start_matches(':').to_owned()
}

fn id(server: &Server) -> String {
    server.say(&["CLUSTER", "MYID"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_everything_and_moves_slots_under_load() {
    let cluster = Cluster::start();
    let config = RedisConfig { feed_length: 100_000, ..cluster.config() };
    let node = Node::owner(&config).await;
    let second = Second::open(&RedisConfig { node: "n2".to_owned(), ..config }, 1 << 30).await;
    second.follow(0..16);
    assert!((0..16).any(|shard| cluster.place(shard) != cluster.place(0)), "the shards lie on several masters");

    // Leases, the map, and feeds of shards on different masters.
    let roster = node.store.renew(1, Duration::from_secs(30), b"here", soon()).await.unwrap();
    assert_eq!(roster.len(), 1);
    let news = Ownership { shard: 3, tag: "n1".to_owned(), epoch: 1 };
    node.store.announce(std::slice::from_ref(&news), soon()).await.unwrap();
    assert_eq!(node.store.watch_map(String::new()).next().await.unwrap(), MapEvent::Moved(news));
    // Secrets lie wherever their names put them.
    for n in 0..32_u8 {
        let (name, life) = (SecretName::new("token", [n]), Duration::from_secs(60));
        assert_eq!(node.store.keep_secret(&name, &[n], life, Duration::ZERO, soon()).await.unwrap().value[..], [n]);
        assert!(node.store.secret(&name, soon()).await.unwrap().is_some_and(|secret| secret.value[..] == [n]));
    }
    let shards: Vec<u16> = (0..16).collect();
    let from = node.store.feed_positions(&shards, soon()).await.unwrap();
    let mut feed = node.store.follow(from);
    for shard in [0, 1, 2, 5] {
        assert_eq!(node.write(shard, u64::from(shard), "alice", Some("one")), Ok(()));
        let Followed::Change(change) = feed.next().await.unwrap() else { panic!("a change") };
        assert_eq!((change.shard, change.aor), (shard, aor("alice")));
    }

    // More than one step of a scan brings.
    for id in 0..1000 {
        node.store.write(3, support::write(id, &format!("many{id}"), Some("x"))).unwrap();
    }
    for id in 0..1000 {
        assert_eq!(node.verdict(), (3, id, Ok(())));
    }
    let mut load = Load::new(16);
    let mut stage = 0;
    let (source, slot) = (cluster.master(3), slot(&cluster.servers[0], 3));
    let target = cluster
        .servers
        .iter()
        .find(|server| server.port != source.port && server.say(&["INFO", "replication"]).contains("role:master"));
    let target = target.unwrap();
    let port = target.port.to_string();
    let migrate = |keys: &[&str]| {
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys);
        assert_eq!(source.say(&command), "+OK");
    };
    // Every 300 acknowledged writes the move goes a step further: none of it may be noticed.
    load.run(&node, |load| {
        if load.acknowledged_count < 300 * (stage + 1) {
            return false;
        }
        stage += 1;
        match stage {
            1 => {
                target.say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)]);
                source.say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)]);
            }
            // Half of the shard is here, half there: the servers ask to come again.
            2 => migrate(&["rv:lab:{3}:fence"]),
            3 => migrate(&["rv:lab:{3}:records", "rv:lab:{3}:feed"]),
            _ => {}
        }
        stage > 4
    });
    // All is there, and still everybody is sent to ask there only this once.
    assert_eq!(node.write(3, u64::MAX, "asked", Some("x")), Ok(()));
    assert!(node.store.read_through(3, &aor("asked"), soon()).await.unwrap().is_some());
    let loaded = node.load(3);
    assert_eq!(loaded["asked@example.com"], "x");
    assert_eq!(loaded.keys().filter(|user| user.starts_with("many")).count(), 1000);
    let mut asked = node.store.follow(vec![(3, String::new()), (4, String::new())]);
    while !matches!(asked.next().await.unwrap(), Followed::Change(change) if change.aor == aor("asked")) {}
    let before = load.acknowledged_count;
    load.run(&node, |load| {
        if load.acknowledged_count > before + 300 * (stage - 4) {
            stage += 1;
            if stage == 6 {
                for server in [target, source] {
                    assert_eq!(server.say(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(target)]), "+OK");
                }
            }
        }
        stage > 6
    });
    assert_eq!(load.unknown, 0, "every write was acknowledged");
    load.check(&node.store);
    assert_eq!(cluster.master(3).port, target.port);

    // The master of shard 3 hands over to its replica, with its consent and without losing anything.
    let replica = cluster
        .servers
        .iter()
        .find(|server| server.say(&["INFO", "replication"]).contains(&format!("master_port:{}", target.port)));
    let replica = replica.unwrap();
    assert_eq!(replica.say(&["CLUSTER", "FAILOVER"]), "+OK");
    // A server that becomes a replica drops its clients.
    let role = || try_say(target.port, &["INFO", "replication"]).unwrap_or_default();
    load.run(&node, |_| role().contains("role:slave"));
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 500);
    assert_eq!(load.unknown, 0, "every write was acknowledged");
    load.check(&node.store);
    // The feed lost nothing either.
    let mut heard = 0;
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), feed.next()).await {
        let event = event.unwrap();
        assert!(matches!(event, Followed::Change(_) | Followed::Gap { .. }), "{event:?}");
        heard += 1;
    }
    assert!(heard > 16, "{heard} changes heard");
    inherits_all(&second, &load).await;
}

/// A node that had followed all shards takes them over without reading a record, and has what was acknowledged.
async fn inherits_all(second: &Second, load: &Load) {
    second.until_warm(16);
    for shard in 0..16 {
        second.take_over(shard, 9 << 20).await;
    }
    for shard in 0..16 {
        let inherited = second.inherits(shard).await;
        load.check_shard(shard, &inherited.unwrap_or_else(|| panic!("shard {shard} is not inherited")));
    }
    assert_eq!(second.node.metrics.records_read.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_a_cluster_that_dies_takes_no_acknowledged_write_along() {
    let mut cluster = Cluster::start();
    let wait = WaitReplicas { count: 1, within: Duration::from_millis(300) };
    let config = RedisConfig { wait_replicas: Some(wait), feed_length: 100_000, ..cluster.config() };
    let node = Node::owner(&config).await;
    let second = Second::open(&RedisConfig { node: "n2".to_owned(), ..config }, 1 << 30).await;
    second.follow(0..16);
    let mut load = Load::new(16);
    load.run(&node, |load| load.acknowledged_count > 1000);
    let dead = cluster.place(3);
    cluster.servers[dead].kill();
    // Its replica takes over; until it has a replica of its own, writes there are not durable enough to acknowledge.
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 500 && load.unknown > 0);
    load.check(&node.store);
    cluster.servers[dead].run();
    until("it follows", || cluster.servers[dead].say(&["INFO", "replication"]).contains("master_link_status:up"));
    until_async("writes to the shard are acknowledged again", || async {
        node.store.write(3, support::write(u64::MAX, "late", Some("x"))).unwrap();
        node.verdict().2 == Ok(())
    })
    .await;
    let before = load.unknown;
    load.run(&node, |load| load.acknowledged_count > 2500);
    assert_eq!(load.unknown, before);
    load.check(&node.store);
    inherits_all(&second, &load).await;
}
