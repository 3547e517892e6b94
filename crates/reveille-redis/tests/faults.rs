//! Real servers that stop, crash, lose connections and lag.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reveille_redis::{CommandError, RedisConfig, WaitReplicas};
use reveille_registrar::replica::{Replica, StoreError};
use reveille_runtime::clock;
use support::{Node, Redis, aor, config, load, mode, soon, until, write};

/// Connections die under load, replies are lost with them: every write is answered once, in order, and every acknowledged one is
/// there; no value ever goes back to an older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_lose_no_acknowledged_write() {
    let server = Redis::start().unwrap();
    let config = RedisConfig { response_timeout: Duration::from_millis(500), ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    let enough = AtomicBool::new(false);
    let store = node.store.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
                #[allow(clippy::disallowed_methods)] // the load needs time to run
                std::thread::sleep(Duration::from_millis(10));
            }
            enough.store(true, Ordering::Release);
        });
        let (mut sent, mut heard) = (0, 0);
        let mut newest: HashMap<(u16, u64), u64> = HashMap::new();
        let mut last: HashMap<u16, u64> = HashMap::new();
        while heard < sent || !enough.load(Ordering::Acquire) {
            while sent < heard + 500 && !enough.load(Ordering::Acquire) {
                let (shard, user) = ((sent % 16) as u16, sent % 80);
                // Deletions too: what is gone must not come back by a call that arrives twice.
                let value = (sent % 7 > 0).then(|| sent.to_string());
                store.write(shard, write(sent, &format!("user{user}"), value.as_deref())).unwrap();
                sent += 1;
            }
            if heard < sent {
                let (shard, id, verdict) = node.verdict();
                assert_eq!(verdict, Ok(()), "write {id}");
                assert!(last.insert(shard, id) < Some(id), "in order, and once");
                newest.insert((shard, id % 80), id);
                heard += 1;
            }
        }
        assert!(node.verdicts.try_recv().is_err(), "one verdict for each");
        assert!(sent > 1000, "{sent} writes under fire");
        let expected = |shard: u16| {
            let kept = newest.iter().filter(|((s, _), id)| *s == shard && **id % 7 > 0);
            kept.map(|((_, user), id)| (format!("user{user}@example.com"), id.to_string())).collect()
        };
        for shard in 0..16 {
            let expected: BTreeMap<_, _> = expected(shard);
            assert_eq!(load(&store, shard), expected, "shard {shard}");
        }
    });
    assert!(node.metrics.retries.get() > 0, "something was sent again");
}

/// A server that says nothing: writes are given up in time, and work again as soon as it speaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_in_time() {
    let server = Redis::start().unwrap();
    let config = RedisConfig {
        response_timeout: Duration::from_millis(150),
        connect_timeout: Duration::from_millis(150),
        write_timeout: Duration::from_millis(500),
        ..config(mode(&server), "n1")
    };
    let node = Node::owner(&config).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    server.signal("STOP").unwrap();
    let began = soon();
    assert_eq!(node.write(3, 2, "alice", Some("two")), Err(StoreError::Unavailable));
    assert!(soon() - began < Duration::from_millis(1200), "{:?}", soon() - began);
    assert!(!node.store.is_healthy());
    assert_eq!(node.metrics.healthy.get(), 0);
    let deadline = soon() - support::LONG + Duration::from_millis(100);
    let read = node.store.read_through(3, &aor("alice"), deadline).await;
    assert_eq!(read, Err(CommandError::Unavailable));
    server.signal("CONT").unwrap();
    // What was given up may have been written; what comes after it holds.
    tokio::task::block_in_place(|| until("it takes writes", || node.write(3, 3, "alice", Some("three")) == Ok(())));
    assert!(node.store.is_healthy());
    assert_eq!(node.load(3), BTreeMap::from([("alice@example.com".to_owned(), "three".to_owned())]));
}

/// Once a write had its whole time in vain, those that come after it are answered at once, whatever else is silent or gone; when the
/// server is back it is noticed though nobody writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_first_write_waits_for_a_server_that_is_away() {
    for silent in [true, false] {
        let mut server = Redis::durable().unwrap();
        let write_timeout = Duration::from_secs(4);
        let config =
            RedisConfig { response_timeout: Duration::from_millis(500), write_timeout, ..config(mode(&server), "n1") };
        let node = Node::owner(&config).await;
        assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
        if silent {
            server.signal("STOP").unwrap();
        } else {
            server.kill();
        }
        let began = clock::now();
        assert_eq!(node.write(3, 2, "alice", Some("two")), Err(StoreError::Unavailable));
        let first = clock::now() - began;
        assert!(first >= write_timeout, "it may only have been slow: {first:?}");
        // Sixty that together take less than one alone would have. Of other shards, too.
        let began = clock::now();
        for id in 3..63 {
            assert_eq!(node.write(id as u16, id, "bob", Some("x")), Err(StoreError::Unavailable));
        }
        assert!(clock::now() - began < write_timeout, "{:?}", clock::now() - began);
        if silent {
            server.signal("CONT").unwrap();
        } else {
            server.restart().unwrap();
        }
        let there = || server.ask(&["EXISTS", "rv:lab:{3}:probe"]).unwrap() == ":1";
        tokio::task::block_in_place(|| until("the server is asked", there));
        // The question was answered when its key is there, or very nearly.
        tokio::task::block_in_place(|| until("it takes writes", || node.write(3, 99, "alice", Some("x")) == Ok(())));
        assert_eq!(node.load(3).get("alice@example.com").map(String::as_str), Some("x"));
    }
}

/// However much waits for a server that is gone, it is tried now and then, and not by everything that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_left_in_peace() {
    let mut server = Redis::start().unwrap();
    let config = RedisConfig { write_timeout: Duration::from_secs(1), ..config(mode(&server), "n1") };
    let node = Node::owner(&config).await;
    assert_eq!(node.write(3, 0, "alice", Some("x")), Ok(()));
    let before = node.metrics.connections.get();
    server.kill();
    for id in 1..=2000 {
        node.store.write((id % 64) as u16, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    for _ in 0..2000 {
        assert_eq!(node.verdict().2, Err(StoreError::Unavailable));
    }
    let tried = node.metrics.connections.get() - before;
    assert!((4..100).contains(&tried), "{tried} connections tried in a second");
}

/// A call that is sent again asks anew whether it may: the lease may have ended, or the shard been given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_needs_the_lease_and_the_shard() {
    for lapse in [|node: &Node| node.store.lease(None), |node: &Node| node.store.disown(3)] {
        let mut server = Redis::durable().unwrap();
        let node = Node::owner(&config(mode(&server), "n1")).await;
        server.kill();
        node.store.write(3, write(1, "alice", Some("x"))).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        lapse(&node);
        server.restart().unwrap();
        assert_eq!(node.verdict(), (3, 1, Err(StoreError::Unavailable)));
        assert_eq!(server.ask(&["HLEN", "rv:lab:{3}:records"]).unwrap(), ":0");
    }
}

/// With `appendfsync always` a crash of the server loses nothing that was acknowledged, and nobody needs to be told: the
/// writers find it again, the functions included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_loses_no_acknowledged_write() {
    let mut server = Redis::durable().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    let mut newest: HashMap<u64, u64> = HashMap::new();
    for round in 0..3 {
        for n in 0..600 {
            let id = round * 600 + n;
            node.store.write(3, write(id, &format!("user{}", id % 50), Some(&id.to_string()))).unwrap();
        }
        for n in 0..600 {
            if n == 100 && round < 2 {
                server.kill();
                server.restart().unwrap();
            }
            let (shard, id, verdict) = node.verdict();
            assert_eq!((shard, verdict), (3, Ok(())), "write {id}");
            newest.insert(id % 50, id);
        }
    }
    let expected: BTreeMap<_, _> =
        newest.iter().map(|(user, id)| (format!("user{user}@example.com"), id.to_string())).collect();
    assert_eq!(node.load(3), expected);
    assert_eq!(node.store.fences(&[3], soon()).await.unwrap()[0].epoch, 1);
}

/// A store that forgets everything also forgets fences: the owner must not go on as if nothing had happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_memory_fences_its_former_owner() {
    let mut server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    server.kill();
    server.restart().unwrap();
    assert_eq!(node.write(3, 2, "alice", Some("two")), Err(StoreError::Fenced));
    assert_eq!(node.store.claim(&[(3, 0)], soon()).await, [Ok(1)]);
    assert_eq!(node.write(3, 3, "alice", Some("three")), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_waits_for_replicas_where_asked() {
    let master = Redis::start().unwrap();
    let wait = WaitReplicas { count: 1, within: Duration::from_millis(400) };
    let config = RedisConfig { wait_replicas: Some(wait), ..config(mode(&master), "n1") };
    let node = Node::open(&config).await;
    let claimed = node.store.claim(&[(3, 0)], soon()).await;
    assert!(format!("{claimed:?}").contains("Replicas { held: 0, wanted: 1 }"), "{claimed:?}");

    let replica = master.replica().unwrap();
    // The claim had taken effect, which its owner finds by asking for the fence.
    let fence = node.store.fences(&[3], soon()).await.unwrap().remove(0);
    assert_eq!((fence.epoch, fence.owner.as_str()), (1, "n1"));
    assert_eq!(node.store.claim(&[(3, 1)], soon()).await, [Ok(2)]);
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    replica.signal("STOP").unwrap();
    assert_eq!(node.write(3, 2, "alice", Some("two")), Err(StoreError::Unavailable));
    replica.signal("CONT").unwrap();
    until("the replica catches up", || {
        node.store.write(3, write(9, "alice", Some("three"))).unwrap();
        node.verdict().2 == Ok(())
    });
    assert_eq!(replica.ask(&["HLEN", "rv:lab:{3}:records"]).unwrap(), ":1");
}

/// A call that is already done is not done again when it arrives a second time, and an old one that arrives late does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_arrives_twice_or_late_does_no_harm() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "n1")).await;
    assert_eq!(node.write(3, 1, "alice", Some("one")), Ok(()));
    let call = |version: &str, op: &str, value: &str| {
        let keys = ["rv:lab:{3}:fence", "rv:lab:{3}:records", "rv:lab:{3}:feed"];
        let mut all = vec!["FCALL", "reveille2_write", "3"];
        all.extend(keys);
        all.extend(["1", "n1", "100", version, "field", "*", op, value]);
        server.ask(&all).unwrap()
    };
    let length = || server.ask(&["XLEN", "rv:lab:{3}:feed"]).unwrap();
    assert_eq!(call("2", "s", "value"), ":0");
    let before = length();
    assert_eq!(call("2", "s", "value"), ":0", "again");
    assert_eq!(length(), before, "and the feed says it once");
    assert_eq!(call("3", "d", "tombstone"), ":0");
    assert_eq!(call("3", "d", "tombstone"), ":0");
    assert_eq!(call("2", "s", "value"), "STALE\n3", "late: the deletion holds");
    assert_eq!(server.ask(&["HEXISTS", "rv:lab:{3}:records", "field"]).unwrap(), ":0");
    assert_eq!(call("3", "s", "another"), "STALE\n3", "the same number for something else");
}
