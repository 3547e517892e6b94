//! A node that follows the shards of another, against a real server: what it has when it takes them over, and what it has to read.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::collections::{BTreeMap, BTreeSet};

use reveille_registrar::replica::StoreError;
use support::{Node, Redis, Second, config, mode, soon, until};

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(user, value)| ((*user).to_owned(), (*value).to_owned())).collect()
}

/// How often Redis has carried out a command.
fn count(server: &Redis, command: &str) -> u64 {
    let stats = server.ask(&["INFO", "commandstats"]).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|rest| rest.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

const MEMORY: usize = 1 << 30;

/// What was there before, what was written, replaced and removed since, up to the last moment before the claim: all of it is
/// inherited, and not one record is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followed_shard_is_taken_over_without_reading_a_record() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    let mut id = 0;
    let mut writes = |shard, user: &str, value| {
        id += 1;
        assert_eq!(first.write(shard, id, user, value), Ok(()));
    };
    writes(3, "alice", Some("one"));
    writes(3, "bob", Some("one"));
    writes(4, "dave", Some("one"));
    let second = Second::open(&config(mode(&server), "n2"), MEMORY).await;
    second.follow([3, 4, 5]);
    writes(3, "alice", Some("two"));
    writes(3, "bob", None);
    writes(3, "carol", Some("one"));
    let scans = count(&server, "hscan");
    // At once: what the follower has not read yet stands in the feed before the claim.
    writes(3, "carol", Some("two"));
    second.take_over(3, 1 << 20).await;
    second.take_over(4, 1 << 20).await;
    second.take_over(5, 1 << 20).await;
    let here = &second.node;
    assert_eq!(second.inherits(3).await, Some(of(&[("alice", "two"), ("carol", "two")])));
    assert_eq!(second.inherits(4).await, Some(of(&[("dave", "one")])));
    assert_eq!(second.inherits(5).await, Some(of(&[])));
    assert!(second.inherits(3).await.is_none(), "once");
    assert_eq!((count(&server, "hscan"), here.metrics.records_read.get()), (scans, 0));
    assert_eq!(second.metrics.successions.with_label_values(&["warm"]).get(), 3);
    // It is the owner now, and goes on where the other stood.
    assert_eq!(here.write(3, 1, "alice", Some("three")), Ok(()));
    assert_eq!(first.write(3, 99, "alice", Some("too late")), Err(StoreError::Fenced));
    assert_eq!(here.load(3)["alice@example.com"], "three");
}

/// Entries are trimmed before they were read: the shard is read anew, and followed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_feed_was_trimmed_is_read_anew() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    let second = Second::open(&config(mode(&server), "n2"), MEMORY).await;
    assert_eq!(first.write(3, 1, "alice", Some("one")), Ok(()));
    assert_eq!(first.write(4, 2, "bob", Some("one")), Ok(()));
    second.follow([3, 4]);
    let mut id = 100;
    let mut missed = || {
        id += 2;
        assert_eq!(first.write(3, id, "alice", Some("lost")), Ok(()));
        server.ask(&["XTRIM", "rv:lab:{3}:feed", "MAXLEN", "0"]).unwrap();
        assert_eq!(first.write(3, id + 1, "carol", Some("new")), Ok(()));
        second.metrics.gaps.get() > 0
    };
    tokio::task::block_in_place(|| until("entries are missed", &mut missed));
    second.until_warm(2);
    second.take_over(4, 1 << 20).await;
    assert_eq!(second.inherits(4).await, Some(of(&[("bob", "one")])), "the other shard had nothing to do with it");
    second.take_over(3, 1 << 20).await;
    assert_eq!(second.inherits(3).await, Some(of(&[("alice", "lost"), ("carol", "new")])));
}

/// What happened between the last reading and the claim was trimmed before anybody could read it: nothing is inherited, rather than
/// something old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_before_the_claim_is_noticed() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(first.write(3, 1, "alice", Some("one")), Ok(()));
    let second = Second::open(&config(mode(&server), "n2"), MEMORY).await;
    second.follow([3]);
    claim_unseen(&server, 3, "n9", 1, 1 << 20);
    second.take_over(3, 2 << 20).await;
    assert!(second.inherits(3).await.is_none());
    assert_eq!(second.node.load(3)["alice@example.com"], "one", "and is read as ever");
}

/// Claims a shard, and trims its feed in the same moment.
fn claim_unseen(server: &Redis, shard: u16, node: &str, expected: u64, epoch: u64) {
    let (fence, feed) = (format!("rv:lab:{{{shard}}}:fence"), format!("rv:lab:{{{shard}}}:feed"));
    let (expected, epoch) = (expected.to_string(), epoch.to_string());
    let claim = ["FCALL", "reveille2_claim", "2", &fence, &feed, node, &expected, "", "256", &epoch];
    let said = server.ask_all(&[&["MULTI"], &claim, &["XTRIM", &feed, "MAXLEN", "0"], &["EXEC"]]).unwrap();
    assert!(said[3].contains(&epoch), "{said:?}");
}

/// A claim that this server does not know (a failover forgot it), or that is not the one that was granted, inherits nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_own_claim_in_the_feed_nothing_is_inherited() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(first.write(3, 1, "alice", Some("one")), Ok(()));
    let second = Second::open(&config(mode(&server), "n2"), MEMORY).await;
    second.follow([3, 4, 5]);
    claim_unseen(&server, 3, "n2", 1, 1 << 20);
    second.node.store.claim_as(&[(3, 1, 1 << 20)], soon()).await.pop().unwrap().unwrap();
    second.node.store.succeed(3, 1 << 20);
    assert!(second.inherits(3).await.is_none(), "the claim's entry is gone");
    // An epoch of which the feed says nothing.
    second.node.store.claim_as(&[(4, 1, 1 << 20)], soon()).await.pop().unwrap().unwrap();
    second.node.store.succeed(4, 2 << 20);
    assert!(second.inherits(4).await.is_none(), "another epoch is held");
    // Lost again before anybody asked.
    second.take_over(5, 1 << 20).await;
    second.node.store.disown(5);
    assert!(second.inherits(5).await.is_none());
}

/// Records take as much memory as is allowed; shards that find no room are left out, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    let value = "x".repeat(1000);
    for shard in 0..4 {
        for n in 0..5 {
            assert_eq!(first.write(shard, u64::from(shard) * 10 + n, &format!("u{n}"), Some(&value)), Ok(()));
        }
    }
    let second = Second::open(&config(mode(&server), "n2"), 12_000).await;
    second.node.store.follow_only((0..4).collect());
    second.until_warm(2);
    assert_eq!((second.metrics.shards.get(), second.metrics.records.get()), (4, 10));
    assert!((10_000..12_000).contains(&second.metrics.bytes.get()), "{}", second.metrics.bytes.get());
    // Those that are no longer wanted give their memory back.
    second.node.store.follow_only(BTreeSet::new());
    let nothing = || second.metrics.bytes.get() == 0 && second.metrics.shards.get() == 0;
    tokio::task::block_in_place(|| until("nothing is followed", nothing));
}

/// What a node says of its standby is heard by the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_tell_how_far_they_are() {
    let server = Redis::start().unwrap();
    let first = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(first.write(3, 1, "alice", Some("one")), Ok(()));
    let second = Second::open(&config(mode(&server), "n2"), MEMORY).await;
    second.follow([3, 4]);
    let tags = ["n1", "n2"].map(str::to_owned);
    support::until_async("the other hears of it", || async {
        let said = first.store.standbys(&tags, soon()).await.unwrap();
        assert!(!said.contains_key("n1"), "it does not stand by");
        said.get("n2").is_some_and(|status| (status.warm, status.shards, status.records) == (2, 2, 1))
    })
    .await;
}
