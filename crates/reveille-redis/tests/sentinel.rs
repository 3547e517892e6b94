//! A master, two replicas and three sentinels: the master dies under load.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{Endpoint, Mode, RedisConfig, WaitReplicas};
use support::{Load, Node, Server, config, file, free_port, soon, try_say, until};

struct Trio {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Trio {
    fn start() -> Self {
        let master = Server::with(&["--save", "", "--repl-diskless-sync", "no"]);
        let port = master.port.to_string();
        let replica = || Server::with(&["--save", "", "--repl-diskless-sync", "no", "--replicaof", "127.0.0.1", &port]);
        let servers = vec![master, replica(), replica()];
        until("the replicas follow", || servers[0].say(&["INFO", "replication"]).matches("state=online").count() == 2);
        let sentinel = |_| {
            let (dir, own) = (tempfile::tempdir().unwrap(), free_port());
            let text = format!(
                "port {own}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds main 1500\nsentinel failover-timeout main 3000\n\
                 sentinel parallel-syncs main 2\n"
            );
            let path = file(dir.path(), "sentinel.conf", &text).display().to_string();
            Server::launch("redis-server", own, vec![path, "--sentinel".to_owned()], dir)
        };
        let trio = Trio { servers, sentinels: (0..3).map(sentinel).collect() };
        until("the sentinels know everyone", || {
            trio.sentinels.iter().all(|sentinel| {
                let info = sentinel.say(&["INFO", "sentinel"]);
                info.contains("slaves=2,sentinels=3") && info.contains("status=ok")
            })
        });
        trio
    }

    fn config(&self) -> RedisConfig {
        // One that does not answer does not matter.
        let dead = Endpoint::new("127.0.0.1", free_port());
        let sentinels = std::iter::once(dead).chain(self.sentinels.iter().map(Server::endpoint)).collect();
        RedisConfig {
            wait_replicas: Some(WaitReplicas { count: 1, within: Duration::from_millis(500) }),
            write_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_millis(500),
            topology_interval: Duration::from_millis(200),
            ..config(Mode::Sentinel { sentinels, master: "main".to_owned() }, "n1")
        }
    }
}

/// What the servers went through must not show, apart from writes whose fate nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failovers_and_switches_take_no_acknowledged_write_along() {
    let mut trio = Trio::start();
    let node = Node::owner(&trio.config()).await;
    let mut load = Load::new(16);
    load.run(&node, |load| load.acknowledged_count > 1000);
    trio.servers[0].kill();
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 2000);
    load.check(&node.store);
    assert_eq!(node.store.fences(&[3], soon()).await.unwrap()[0].epoch, 1);

    // The old master comes back and believes in itself for a while; nothing is written there.
    trio.servers[0].run();
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 1000);
    let role = |server: &Server| try_say(server.port, &["INFO", "replication"]).unwrap_or_default();
    until("it follows", || role(&trio.servers[0]).contains("master_link_status:up"));
    load.check(&node.store);

    // A switch that an operator asks for: the master before it lives on and says that it is read-only.
    let master = trio.servers.iter().find(|server| role(server).contains("role:master")).unwrap();
    until("a switch is possible", || trio.sentinels[1].say(&["SENTINEL", "FAILOVER", "main"]) == "+OK");
    load.run(&node, |_| role(master).contains("role:slave"));
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 1000);
    load.check(&node.store);
}
