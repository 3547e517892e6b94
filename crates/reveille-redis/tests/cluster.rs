//! Redis Cluster, three masters and three replicas: slots move and masters die under load.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{Followed, MapEvent, Mode, Ownership, RedisConfig, SecretName, WaitReplicas};
use reveille_registrar::replica::Replica;
use reveille_testkit::redis::{Cluster, Redis};
use support::{Load, Node, Second, aor, config, endpoint, soon, until, until_async};

fn start() -> Cluster {
    Cluster::start("", Redis::port).unwrap()
}

fn config_of(cluster: &Cluster) -> RedisConfig {
    RedisConfig {
        shards: 16,
        write_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_millis(500),
        ..config(Mode::Cluster(vec![endpoint(&cluster.servers[1])]), "n1")
    }
}

/// The place of the server that has the slot of a shard now.
fn place(cluster: &Cluster, shard: u16) -> usize {
    cluster.master_of(&format!("{{{shard}}}")).unwrap()
}

fn slot(server: &Redis, shard: u16) -> String {
    server.ask(&["CLUSTER", "KEYSLOT", &format!("{{{shard}}}")]).unwrap().trim_start_matches(':').to_owned()
}

fn id(server: &Redis) -> String {
    server.ask(&["CLUSTER", "MYID"]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_everything_and_moves_slots_under_load() {
    let cluster = start();
    let config = RedisConfig { feed_length: 100_000, ..config_of(&cluster) };
    let node = Node::owner(&config).await;
    let second = Second::open(&RedisConfig { node: "n2".to_owned(), ..config }, 1 << 30).await;
    second.follow(0..16);
    assert!((0..16).any(|shard| place(&cluster, shard) != place(&cluster, 0)), "the shards lie on several masters");

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
    let (source, slot) = (&cluster.servers[place(&cluster, 3)], slot(&cluster.servers[0], 3));
    let target = cluster.servers.iter().find(|server| server.port() != source.port() && server.is_master());
    let target = target.unwrap();
    let port = target.port().to_string();
    let migrate = |keys: &[&str]| {
        let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        command.extend(keys);
        assert_eq!(source.ask(&command).unwrap(), "+OK");
    };
    // Every 300 acknowledged writes the move goes a step further: none of it may be noticed.
    load.run(&node, |load| {
        if load.acknowledged_count < 300 * (stage + 1) {
            return false;
        }
        stage += 1;
        match stage {
            1 => {
                target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)]).unwrap();
                source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)]).unwrap();
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
                    assert_eq!(server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(target)]).unwrap(), "+OK");
                }
            }
        }
        stage > 6
    });
    assert_eq!(load.unknown, 0, "every write was acknowledged");
    load.check(&node.store);
    assert_eq!(cluster.servers[place(&cluster, 3)].port(), target.port());

    // The master of shard 3 hands over to its replica, with its consent and without losing anything.
    let replica = cluster.servers.iter().find(|server| {
        server.ask(&["INFO", "replication"]).unwrap().contains(&format!("master_port:{}", target.port()))
    });
    let replica = replica.unwrap();
    assert_eq!(replica.ask(&["CLUSTER", "FAILOVER"]).unwrap(), "+OK");
    // A server that becomes a replica drops its clients.
    load.run(&node, |_| target.is_replica());
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
    let mut cluster = start();
    let wait = WaitReplicas { count: 1, within: Duration::from_millis(300) };
    let config = RedisConfig { wait_replicas: Some(wait), feed_length: 100_000, ..config_of(&cluster) };
    let node = Node::owner(&config).await;
    let second = Second::open(&RedisConfig { node: "n2".to_owned(), ..config }, 1 << 30).await;
    second.follow(0..16);
    let mut load = Load::new(16);
    load.run(&node, |load| load.acknowledged_count > 1000);
    let dead = place(&cluster, 3);
    cluster.servers[dead].kill();
    // Its replica takes over; until it has a replica of its own, writes there are not durable enough to acknowledge.
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 500 && load.unknown > 0);
    load.check(&node.store);
    cluster.servers[dead].restart().unwrap();
    until("it follows", || cluster.servers[dead].is_linked());
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
