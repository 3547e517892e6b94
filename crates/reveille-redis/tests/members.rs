//! Leases and the map of shards, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{LeaseError, MapEvent, Ownership, RedisConfig};
use support::{Node, Redis, config, mode, soon, until_async};

const TTL: Duration = Duration::from_secs(30);

fn owned(shard: u16, tag: &str, epoch: u64) -> Ownership {
    Ownership { shard, tag: tag.to_owned(), epoch }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roster_names_who_lives() {
    let server = Redis::start().unwrap();
    let (one, two) = (Node::open(&config(mode(&server), "n1")).await, Node::open(&config(mode(&server), "n2")).await);
    let roster = one.store.renew(11, TTL, b"at \xff 10.0.0.1", soon()).await.unwrap();
    assert_eq!(roster.len(), 1);
    assert_eq!((roster[0].tag.as_str(), roster[0].incarnation), ("n1", 11));
    assert_eq!(&roster[0].description[..], b"at \xff 10.0.0.1");
    assert!(roster[0].remaining <= TTL && roster[0].remaining > TTL / 2);
    let mut tags: Vec<_> =
        two.store.renew(22, TTL, b"two", soon()).await.unwrap().into_iter().map(|member| member.tag).collect();
    tags.sort();
    assert_eq!(tags, ["n1", "n2"]);
    // A lease that runs out takes its node off the roster; it may come back.
    two.store.renew(22, Duration::from_millis(1), b"two", soon()).await.unwrap();
    until_async("the lease runs out", || async { one.store.renew(11, TTL, b"one", soon()).await.unwrap().len() == 1 })
        .await;
    assert_eq!(two.store.renew(23, TTL, b"two again", soon()).await.unwrap().len(), 2);
    two.store.resign(23, soon()).await.unwrap();
    assert_eq!(one.store.renew(11, TTL, b"one", soon()).await.unwrap().len(), 1);
}

/// Two processes under one tag would both believe that they own its shards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_the_tag_is_refused() {
    let server = Redis::start().unwrap();
    let (one, twin) = (Node::open(&config(mode(&server), "n1")).await, Node::open(&config(mode(&server), "n1")).await);
    one.store.renew(11, TTL, b"", soon()).await.unwrap();
    let refused = twin.store.renew(12, TTL, b"", soon()).await;
    assert!(matches!(refused, Err(LeaseError::Held { incarnation: 11, remaining_ms: 1..=30_000 })), "{refused:?}");
    assert!(matches!(twin.store.resign(12, soon()).await, Err(LeaseError::Held { incarnation: 11, .. })));
    one.store.resign(11, soon()).await.unwrap();
    twin.store.renew(12, TTL, b"", soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions_of_the_dead_are_pruned_after_a_day() {
    let server = Redis::start().unwrap();
    let (one, two) = (Node::open(&config(mode(&server), "n1")).await, Node::open(&config(mode(&server), "n2")).await);
    two.store.renew(2, TTL, b"two", soon()).await.unwrap();
    two.store.resign(2, soon()).await.unwrap();
    one.store.renew(1, TTL, b"one", soon()).await.unwrap();
    assert_eq!(server.ask(&["HLEN", "rv:lab:{members}:nodes"]).unwrap(), ":2", "a day has not passed");
    let clock = server.ask(&["TIME"]).unwrap();
    let now: u64 = clock.lines().next().unwrap().parse().unwrap();
    let yesterday = ((now - 24 * 3600 - 5) * 1000).to_string();
    server.ask(&["HSET", "rv:lab:{members}:seen", "n2", &yesterday]).unwrap();
    one.store.renew(1, TTL, b"one", soon()).await.unwrap();
    assert_eq!(server.ask(&["HKEYS", "rv:lab:{members}:nodes"]).unwrap(), "n1");
    assert_eq!(server.ask(&["HKEYS", "rv:lab:{members}:seen"]).unwrap(), "n1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_map_is_read_whole_and_then_watched() {
    let server = Redis::start().unwrap();
    let (home, edge) = (Node::open(&config(mode(&server), "n1")).await, Node::open(&config(mode(&server), "e1")).await);
    assert_eq!(edge.store.owners(soon()).await.unwrap(), (Vec::new(), String::new()));
    assert_eq!(home.store.announce(&[owned(10, "n1", 1), owned(2, "n1", 4)], soon()).await, Ok(2));
    let (owners, position) = edge.store.owners(soon()).await.unwrap();
    assert_eq!(owners, [owned(2, "n1", 4), owned(10, "n1", 1)]);
    let mut watch = edge.store.watch_map(position);
    // Old news change nothing; a release is news of the same epoch.
    let news = [owned(2, "n0", 3), owned(2, "n9", 4), owned(2, "", 4), owned(10, "n2", 2)];
    assert_eq!(home.store.announce(&news, soon()).await, Ok(2));
    assert_eq!(home.store.announce(&news, soon()).await, Ok(0), "told twice, entered once");
    assert_eq!(watch.next().await.unwrap(), MapEvent::Moved(owned(2, "", 4)));
    assert_eq!(watch.next().await.unwrap(), MapEvent::Moved(owned(10, "n2", 2)));
    let nothing = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
    assert!(nothing.is_err());
    assert_eq!(edge.store.owners(soon()).await.unwrap().0, [owned(2, "", 4), owned(10, "n2", 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_left_behind_is_told_to_read_again() {
    let server = Redis::start().unwrap();
    let home = Node::open(&RedisConfig { map_length: 10, ..config(mode(&server), "n1") }).await;
    let (_, position) = home.store.owners(soon()).await.unwrap();
    for epoch in 1..1000 {
        home.store.announce(&[owned(2, "n1", epoch)], soon()).await.unwrap();
    }
    let mut watch = home.store.watch_map(position);
    assert_eq!(watch.next().await.unwrap(), MapEvent::Gap);
    assert!(matches!(watch.next().await.unwrap(), MapEvent::Moved(owner) if owner.epoch > 500));
}
