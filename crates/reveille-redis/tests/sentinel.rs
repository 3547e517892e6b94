//! A master, two replicas and three sentinels: the master dies under load.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{Endpoint, Mode, RedisConfig, WaitReplicas};
use reveille_testkit::port::free_port;
use reveille_testkit::redis::{MASTER_NAME, Redis, Sentinels};
use support::{Load, Node, config, endpoint, soon, until};

fn config_of(trio: &Sentinels) -> RedisConfig {
    // One that does not answer does not matter.
    let dead = Endpoint::new("127.0.0.1", free_port().unwrap());
    let sentinels = std::iter::once(dead).chain(trio.sentinels.iter().map(endpoint)).collect();
    RedisConfig {
        wait_replicas: Some(WaitReplicas { count: 1, within: Duration::from_millis(500) }),
        write_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_millis(500),
        topology_interval: Duration::from_millis(200),
        ..config(Mode::Sentinel { sentinels, master: MASTER_NAME.to_owned() }, "n1")
    }
}

/// What the servers went through must not show, apart from writes whose fate nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failovers_and_switches_take_no_acknowledged_write_along() {
    let mut trio = Sentinels::start("", Redis::port).unwrap();
    let node = Node::owner(&config_of(&trio)).await;
    let mut load = Load::new(16);
    load.run(&node, |load| load.acknowledged_count > 1000);
    trio.servers[0].kill();
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 2000);
    load.check(&node.store);
    assert_eq!(node.store.fences(&[3], soon()).await.unwrap()[0].epoch, 1);

    // The old master comes back and believes in itself for a while; nothing is written there.
    trio.servers[0].restart().unwrap();
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 1000);
    until("it follows", || trio.servers[0].is_linked());
    load.check(&node.store);

    // A switch that an operator asks for: the master before it lives on and says that it is read-only.
    let master = trio.servers.iter().find(|server| server.is_master()).unwrap();
    until("a switch is possible", || trio.sentinels[1].ask(&["SENTINEL", "FAILOVER", MASTER_NAME]).unwrap() == "+OK");
    load.run(&node, |_| master.is_replica());
    let before = load.acknowledged_count;
    load.run(&node, |load| load.acknowledged_count > before + 1000);
    load.check(&node.store);
}
