//! One real server: verdicts, order, fences, what a reader sees, what the server sees.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use reveille_redis::{ClaimError, CommandError, DeferError, Fence, FencedError, Followed, RedisConfig};
use reveille_registrar::replica::{Replica, StoreError, StoreFull};
use support::{Node, Redis, aor, config, keyring, mode, soon, write};

fn one(user: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(format!("{user}@example.com"), value.to_owned())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_loaded_and_read_through() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    assert_eq!(node.write(3, 2, "bob", Some("two")), Ok(()));
    assert_eq!(node.write(4, 3, "carol", Some("three")), Ok(()));
    assert_eq!(node.write(3, 4, "bob", None), Ok(()));
    assert_eq!(node.load(3), one("alice", "one"));
    assert_eq!(node.load(4), one("carol", "three"));
    assert_eq!(node.load(5), BTreeMap::new());
    let read = node.store.read_through(3, &aor("alice"), soon()).await.unwrap();
    assert_eq!(read, Some((1, Bytes::from_static(b"one"))));
    assert_eq!(node.store.read_through(3, &aor("bob"), soon()).await.unwrap(), None);
    assert!(node.store.is_healthy());
    assert!(node.store.load(64).is_err(), "no such shard");
}

/// P-170: the writes of one address are answered, and take effect, in the order in which they were handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_per_address() {
    let server = Redis::start().unwrap();
    let config = RedisConfig { batch: 7, writers: 3, ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    let count = 3000_u64;
    for id in 0..count {
        let (shard, user) = ((id % 5) as u16, format!("user{}", id % 35));
        node.store.write(shard, write(id, &user, Some(&id.to_string()))).unwrap();
    }
    let mut last = [None; 5];
    for _ in 0..count {
        let (shard, id, verdict) = node.verdict();
        assert_eq!(verdict, Ok(()));
        assert!(last[usize::from(shard)].replace(id) < Some(id), "shard {shard}, write {id}");
    }
    for shard in 0..5 {
        for (user, value) in node.load(shard) {
            let n: u64 = user.trim_start_matches("user").split('@').next().unwrap().parse().unwrap();
            let newest = (0..count).rev().find(|id| id % 35 == n).unwrap();
            assert_eq!(value, newest.to_string(), "{user}");
        }
        assert_eq!(node.load(shard).len(), 7);
    }
    assert_eq!(node.metrics.queue_depth.get(), 0);
    assert_eq!(node.metrics.writes.get(), count);
}

/// A node that lost a shard and does not know it changes nothing, and learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owner_is_fenced() {
    let server = Redis::start().unwrap();
    let old = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(old.write(3, 1, "alice", Some("old")), Ok(()));
    let new = Node::open(&config(mode(&server), "n2")).await;
    let refused = new.store.claim(&[(3, 0), (4, 1)], soon()).await;
    assert_eq!(refused[0], Err(ClaimError::Claimed { epoch: 1, owner: "n1".to_owned() }));
    assert_eq!(refused[1], Ok(2));
    assert_eq!(new.store.claim(&[(3, 1)], soon()).await, [Ok(2)]);
    assert_eq!(new.write(3, 1, "alice", Some("new")), Ok(()));

    assert_eq!(old.store.epoch(3), Some(1), "it has not heard");
    assert_eq!(old.write(3, 2, "alice", Some("stale")), Err(StoreError::Fenced));
    assert_eq!(old.store.epoch(3), None, "now it has");
    assert_eq!(old.write(3, 3, "bob", Some("stale")), Err(StoreError::Fenced));
    assert_eq!(new.load(3), one("alice", "new"));
    let fences = new.store.fences(&[3, 5, 4], soon()).await.unwrap();
    let fence = |epoch, owner: &str| Fence { epoch, owner: owner.to_owned() };
    assert_eq!(fences, [fence(2, "n2"), fence(1, "n1"), fence(2, "n2")]);
    assert_eq!(old.metrics.fenced.get(), 2);
}

/// A write that was handed over under one claim does not slip through under a later one, even of the same node: in between the
/// shard may have been somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_belongs_to_the_claim_it_was_made_under() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    let count = 10_000;
    for id in 0..count {
        node.store.write(3, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    assert_eq!(node.store.claim(&[(3, 1)], soon()).await, [Ok(2)]);
    let verdicts: Vec<_> = (0..count).map(|_| node.verdict().2).collect();
    let written = verdicts.iter().take_while(|verdict| verdict.is_ok()).count();
    assert!(written < verdicts.len(), "the claim came in between");
    assert!(verdicts[written..].iter().all(|verdict| *verdict == Err(StoreError::Fenced)), "after {written}");
    assert_eq!(node.load(3).len(), written);
    assert_eq!(node.write(3, count, "late", Some("x")), Ok(()));
}

/// An owner that disowns a shard stops at once: what waits is not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disowned_shard_is_not_written() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    server.signal("STOP").unwrap();
    node.store.write(3, write(1, "alice", Some("first"))).unwrap();
    // The first is on its way, the second waits for it.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    node.store.write(3, write(2, "alice", Some("second"))).unwrap();
    node.store.disown(3);
    server.signal("CONT").unwrap();
    assert_eq!(node.verdict(), (3, 1, Ok(())));
    assert_eq!(node.verdict(), (3, 2, Err(StoreError::Fenced)));
    assert_eq!(node.load(3), one("alice", "first"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_shard_is_flushed_and_free() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    for id in 0..200 {
        node.store.write(3, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    assert_eq!(node.store.release(3, soon()).await, Ok(()));
    for id in 0..200 {
        assert_eq!(node.verdict(), (3, id, Ok(())), "before the release");
    }
    assert_eq!(node.write(3, 200, "late", Some("x")), Err(StoreError::Fenced));
    assert_eq!(node.store.release(3, soon()).await, Err(FencedError::Fenced { epoch: 0 }));
    let fences = node.store.fences(&[3], soon()).await.unwrap();
    assert_eq!(fences, [Fence { epoch: 1, owner: String::new() }]);
    let next = Node::open(&config(mode(&server), "n2")).await;
    assert_eq!(next.store.claim(&[(3, 1)], soon()).await, [Ok(2)]);
    assert_eq!(next.load(3).len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conditional_write_finds_a_conflict() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    let alice = aor("alice");
    let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let first = node.store.write_if(3, &alice, 0, value("one")).await.unwrap();
    assert_eq!(node.store.write_if(3, &alice, 0, value("no")).await, Err(FencedError::Conflict { current: first }));
    let second = node.store.write_if(3, &alice, first, value("two")).await.unwrap();
    assert!(second > first);
    let conflict = Err(FencedError::Conflict { current: second });
    assert_eq!(node.store.write_if(3, &alice, first, None).await, conflict);
    assert_eq!(node.load(3), one("alice", "two"));
    node.store.write_if(3, &alice, second, None).await.unwrap();
    assert_eq!(node.load(3), BTreeMap::new());
    assert_eq!(node.metrics.conflicts.get(), 2);
}

/// The feed tells every write, deletions and claims included, to a node that only listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_hears_every_change() {
    let server = Redis::start().unwrap();
    let owner = Node::owner(&config(mode(&server), "n1")).await;
    let follower = Node::open(&config(mode(&server), "n2")).await;
    assert_eq!(owner.write(3, 1, "before", Some("x")), Ok(()));
    let from = follower.store.feed_positions(&[3, 4], soon()).await.unwrap();
    let mut feed = follower.store.follow(from);
    assert_eq!(owner.write(3, 2, "alice", Some("one")), Ok(()));
    assert_eq!(owner.write(5, 3, "elsewhere", Some("x")), Ok(()));
    assert_eq!(owner.write(3, 4, "alice", None), Ok(()));
    for (user, expected) in [("alice", Some("one")), ("alice", None)] {
        let Followed::Change(change) = feed.next().await.unwrap() else { panic!("a change") };
        assert_eq!((change.shard, change.aor), (3, aor(user)));
        assert_eq!(change.value.as_deref(), expected.map(str::as_bytes));
    }
    // Asked again after it was given up, it loses nothing.
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(20), feed.next()).await;
    assert!(nothing.is_err());
    assert_eq!(follower.store.claim(&[(4, 1)], soon()).await, [Ok(2)]);
    let claimed = Followed::Claimed { shard: 4, owner: "n2".to_owned(), epoch: 2 };
    assert_eq!(feed.next().await.unwrap(), claimed);
    // A reader that begins at the beginning misses nothing either.
    let mut all = follower.store.follow(vec![(3, String::new())]);
    assert!(matches!(all.next().await.unwrap(), Followed::Claimed { epoch: 1, .. }));
    assert!(matches!(all.next().await.unwrap(), Followed::Change(change) if change.aor == aor("before")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_left_behind_is_told_of_the_gap() {
    let server = Redis::start().unwrap();
    let config = RedisConfig { feed_length: 10, ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    let from = node.store.feed_positions(&[3], soon()).await.unwrap();
    for id in 0..2000 {
        node.store.write(3, write(id, &format!("user{id}"), Some("x"))).unwrap();
        assert_eq!(node.verdict().2, Ok(()));
    }
    let mut feed = node.store.follow(from.clone());
    assert_eq!(feed.next().await.unwrap(), Followed::Gap { shard: 3 });
    let Followed::Change(first) = feed.next().await.unwrap() else { panic!("a change") };
    let kept = 2001 - usize::try_from(first.version).unwrap();
    assert!((10..500).contains(&kept), "{kept} entries kept");
    for _ in 1..kept {
        assert!(matches!(feed.next().await.unwrap(), Followed::Change(_)));
    }
    assert_eq!(node.load(3).len(), 2000, "the records themselves are all there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_left_behind_reaches_the_owner() {
    let server = Redis::start().unwrap();
    let loser = Node::open(&RedisConfig { deferred_limit: 2, ..config(mode(&server), "n1") }).await;
    let owner = Node::owner(&config(mode(&server), "n2")).await;
    let from = owner.store.feed_positions(&[3], soon()).await.unwrap();
    let mut feed = owner.store.follow(from);
    loser.store.defer(3, &aor("alice"), Some(b"late"), soon()).await.unwrap();
    loser.store.defer(3, &aor("bob"), None, soon()).await.unwrap();
    let full = loser.store.defer(3, &aor("carol"), None, soon()).await;
    assert_eq!(full, Err(DeferError::Full { length: 2 }));
    assert_eq!(feed.next().await.unwrap(), Followed::Deferred { shard: 3 });
    let mut found = owner.store.deferred(3, soon()).await.unwrap();
    found.sort_by_key(|deferred| deferred.aor.as_str().to_owned());
    assert_eq!((found[0].aor.clone(), found[0].value.as_deref()), (aor("alice"), Some(&b"late"[..])));
    assert_eq!((found[1].aor.clone(), found[1].value.as_deref()), (aor("bob"), None));
    let ids = [found[0].id.clone()];
    assert_eq!(loser.store.take_deferred(3, &ids, soon()).await, Err(FencedError::Fenced { epoch: 0 }));
    owner.store.take_deferred(3, &ids, soon()).await.unwrap();
    let left = owner.store.deferred(3, soon()).await.unwrap();
    assert_eq!(left, found[1..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_recovers() {
    let server = Redis::start().unwrap();
    let config = RedisConfig { queue: 3, ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    server.signal("STOP").unwrap();
    for id in 0..3 {
        node.store.write(3, write(id, "alice", Some("x"))).unwrap();
    }
    assert_eq!(node.store.write(3, write(3, "alice", Some("x"))), Err(StoreFull));
    server.signal("CONT").unwrap();
    for id in 0..3 {
        assert_eq!(node.verdict(), (3, id, Ok(())));
    }
    assert_eq!(node.write(3, 4, "alice", Some("y")), Ok(()));
    assert_eq!(node.metrics.refusals.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_full_by_weight_too() {
    let server = Redis::start().unwrap();
    let config = RedisConfig { queue_bytes: 100, ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    let large = "x".repeat(500);
    server.signal("STOP").unwrap();
    node.store.write(3, write(0, "alice", Some(&large))).unwrap();
    assert_eq!(node.store.write(4, write(1, "alice", Some("x"))), Err(StoreFull), "the first may be of any weight");
    server.signal("CONT").unwrap();
    assert_eq!(node.verdict(), (3, 0, Ok(())));
    assert_eq!(node.write(4, 2, "alice", Some("x")), Ok(()));
}

/// A store that is closed answers what it took, takes nothing more, and lets go of whoever heard its verdicts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_has_answered_everything() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    for id in 0..1000 {
        node.store.write((id % 64) as u16, write(id, "alice", Some("x"))).unwrap();
    }
    node.store.close().await;
    assert_eq!(node.verdicts.iter().filter(|(_, _, verdict)| verdict.is_ok()).count(), 1000, "and the ear is gone");
    assert_eq!(node.store.write(3, write(1000, "alice", Some("x"))), Err(StoreFull));
}

/// P-109: neither the server's keys and values, nor its files, nor what passes over the wire names a user or a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_never_sees_a_name_or_a_token() {
    let server = Redis::with("appendonly yes").unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    let secret = "prid-0123456789abcdef";
    for id in 0..20 {
        assert_eq!(node.write(3, id, &format!("findable{id}"), Some(secret)), Ok(()));
    }
    assert_eq!(node.write(3, 20, "findable7", None), Ok(()));
    node.store.defer(3, &aor("findable-late"), Some(secret.as_bytes()), soon()).await.unwrap();
    server.ask(&["BGREWRITEAOF"]).unwrap();
    support::until("the file is written", || {
        server.ask(&["INFO", "persistence"]).unwrap().contains("aof_rewrite_in_progress:0")
    });
    server.ask(&["SAVE"]).unwrap();
    let mut seen = 0;
    for entry in
        std::fs::read_dir(server.dir()).unwrap().chain(std::fs::read_dir(server.dir().join("appendonlydir")).unwrap())
    {
        let path = entry.unwrap().path();
        if path.is_file() {
            let content = std::fs::read(&path).unwrap();
            let holds = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!holds("findable") && !holds(secret) && !holds("example.com"), "{}", path.display());
            seen += usize::from(holds("rv:lab:{3}:records"));
        }
    }
    assert!(seen >= 1, "the search looks at the right files");
    let shown = format!("{:?} {:?}", keyring(), node.store);
    assert!(!shown.contains("[1, 1") && !shown.contains("[7, 7"), "{shown}");
}

/// A node that takes everything over at once reads all shards at once, over a few connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_shards_are_read_at_once_over_few_connections() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    for id in 0..64 * 100 {
        node.store.write((id % 64) as u16, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    for _ in 0..64 * 100 {
        assert_eq!(node.verdict().2, Ok(()));
    }
    let most = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let loads: Vec<_> = (0..64)
                .map(|shard| {
                    let store = &node.store;
                    scope.spawn(move || store.load(shard).unwrap().map(Result::unwrap).count())
                })
                .collect();
            let mut most = 0;
            while loads.iter().any(|load| !load.is_finished()) {
                most = most.max(server.ask(&["CLIENT", "LIST"]).unwrap().lines().count());
            }
            assert!(loads.into_iter().all(|load| load.join().unwrap() == 100));
            most
        })
    });
    assert!(most < 25, "{most} connections");
}

/// One spoilt record is left out; a key that is missing stops the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_left_out_and_a_missing_key_is_an_error() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    server.ask(&["HSET", "rv:lab:{3}:records", "0123456789abcdef", "\u{1}garbage"]).unwrap();
    assert_eq!(node.load(3), one("alice", "one"));
    assert_eq!(node.metrics.damaged.get(), 1);
    let other = reveille_redis::Keyring::new([7; 32], vec![(9, [9; 32])]).unwrap();
    let blind = Node::open(&RedisConfig { keys: other, ..config(mode(&server), "n2") }).await;
    let store = blind.store.clone();
    let loaded = tokio::task::spawn_blocking(move || store.load(3).is_err()).await.unwrap();
    assert!(loaded);
    let read = blind.store.read_through(3, &aor("alice"), soon()).await;
    assert_eq!(read, Err(CommandError::Record(reveille_redis::OpenError::Key(1))));
}
