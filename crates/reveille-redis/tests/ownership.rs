//! One real server: claims under epochs of the caller's choice, and writes under a lease.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{ClaimError, Fence, FencedError};
use reveille_registrar::replica::{Replica, StoreError};
use reveille_runtime::clock;
use support::{Node, Redis, aor, config, mode, soon};

/// Asking twice is asking once, and the epoch is what was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_the_epoch_it_names() {
    let server = Redis::start().unwrap();
    let (one, other) = (Node::open(&config(mode(&server), "1")).await, Node::open(&config(mode(&server), "2")).await);
    assert_eq!(one.store.claim_as(&[(3, 0, 1001), (4, 0, 1002)], soon()).await, [Ok(1001), Ok(1002)]);
    assert_eq!(one.store.claim_as(&[(3, 0, 1001)], soon()).await, [Ok(1001)], "a repetition");
    assert_eq!(one.write(3, 1, "alice", Some("one")), Ok(()));
    let refused = ClaimError::Claimed { epoch: 1001, owner: "1".to_owned() };
    assert_eq!(other.store.claim_as(&[(3, 0, 1001)], soon()).await, [Err(refused)]);
    assert_eq!(other.store.claim_as(&[(3, 1001, 2002)], soon()).await, [Ok(2002)]);
    assert_eq!(one.write(3, 2, "alice", Some("stale")), Err(StoreError::Fenced));
    let fences = one.store.fences(&[3], soon()).await.unwrap();
    assert_eq!(fences, [Fence { epoch: 2002, owner: "2".to_owned() }]);
}

/// A node without a lease sends nothing and acknowledges nothing, though the fence would still let it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_without_a_lease() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "1")).await;
    assert_eq!(node.write(3, 1, "alice", Some("no limit was set")), Ok(()));
    node.store.lease(Some(clock::now() + Duration::from_secs(60)));
    assert_eq!(node.write(3, 2, "alice", Some("leased")), Ok(()));
    for (id, until) in [(3, Some(clock::now())), (4, None)] {
        node.store.lease(until);
        assert_eq!(node.write(3, id, "alice", Some("late")), Err(StoreError::Unavailable));
    }
    let stored = node.store.read(3, &aor("alice")).await.unwrap().unwrap();
    assert_eq!(stored, "leased", "what is not acknowledged was not even sent");
    node.store.lease(Some(clock::now() + Duration::from_secs(60)));
    assert_eq!(node.write(3, 5, "alice", Some("again")), Ok(()));
    assert_eq!(node.store.read(3, &aor("bob")).await.unwrap(), None);
}

/// A shard that is held and paused is written again once it is claimed anew; one that a former life held can be given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_shard_waits_for_a_claim() {
    let server = Redis::start().unwrap();
    let node = Node::open(&config(mode(&server), "1")).await;
    assert_eq!(node.store.claim_as(&[(3, 0, 1001)], soon()).await, [Ok(1001)]);
    node.store.pause(3);
    assert_eq!(node.write(3, 1, "alice", Some("one")), Err(StoreError::Unavailable));
    assert_eq!(node.store.claim_as(&[(3, 1001, 2001)], soon()).await, [Ok(2001)]);
    assert_eq!(node.write(3, 2, "alice", Some("two")), Ok(()));
    let next_life = Node::open(&config(mode(&server), "1")).await;
    assert_eq!(next_life.store.release_as(3, 1001, soon()).await, Err(FencedError::Fenced { epoch: 2001 }));
    assert_eq!(next_life.store.release_as(3, 2001, soon()).await, Ok(()));
    assert_eq!(node.write(3, 3, "alice", Some("three")), Err(StoreError::Fenced));
}

/// The lease ends while a write is under way: the record may be there, and yet nobody is told that it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_returns_after_the_lease_is_not_acknowledged() {
    let server = Redis::start().unwrap();
    let node = Node::owner(&config(mode(&server), "1")).await;
    node.store.lease(Some(clock::now() + Duration::from_secs(60)));
    server.signal("STOP").unwrap();
    node.store.write(3, support::write(1, "alice", Some("under way"))).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.store.lease(None);
    server.signal("CONT").unwrap();
    assert_eq!(node.verdict(), (3, 1, Err(StoreError::Unavailable)));
}
