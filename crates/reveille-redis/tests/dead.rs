//! Marks of dead push tokens, on a real server (P-156).
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{Buried, CommandError};
use reveille_runtime::clock;
use support::{LONG, Node, Redis, config, mode, soon};

fn mark(name: u8, verdicts: u8, age: u64) -> Buried {
    Buried { name: [name; 16], verdicts, age: Duration::from_secs(age) }
}

async fn read(node: &Node, position: &str) -> (Vec<(u8, u8, u64)>, String) {
    let (marks, position) = node.store.buried(position, soon()).await.unwrap();
    (marks.iter().map(|mark| (mark.name[0], mark.verdicts, mark.age.as_secs() / 60)).collect(), position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p156_what_one_node_buries_the_others_hear_of() {
    let server = Redis::start().unwrap();
    let (one, two) = (Node::open(&config(mode(&server), "n1")).await, Node::open(&config(mode(&server), "n2")).await);
    assert_eq!(read(&two, "").await, (Vec::new(), String::new()));
    let mut watch = two.store.watch_buried(String::new());
    one.store.bury(&[mark(1, 1, 0), mark(2, 2, 600)], soon()).await.unwrap();
    tokio::time::timeout(LONG, watch.changed()).await.expect("a word at once").unwrap();
    let (marks, position) = read(&two, "").await;
    assert_eq!(marks, [(1, 1, 0), (2, 2, 10)]);
    assert_eq!(read(&two, &position).await, (Vec::new(), position.clone()), "each is told once");
    one.store.bury(&[mark(3, 1, 0)], soon()).await.unwrap();
    assert_eq!(read(&two, &position).await.0, [(3, 1, 0)]);
    // A node that starts hears of all.
    let three = Node::open(&config(mode(&server), "n3")).await;
    assert_eq!(read(&three, "").await.0.len(), 3);
    // More than are read at once.
    let many: Vec<_> = (0..2_500_u16).map(|n| mark(n.to_be_bytes()[1], 1, 0)).collect();
    one.store.bury(&many, soon()).await.unwrap();
    assert_eq!(read(&three, "").await.0.len(), 2_503);
}

/// How old a mark is Redis says, and what is older than a day is neither told nor kept for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p156_a_mark_ends_by_the_clock_of_redis() {
    let server = Redis::start().unwrap();
    let one = Node::open(&config(mode(&server), "n1")).await;
    let clock = server.ask(&["TIME"]).unwrap();
    let now: u64 = clock.lines().next().unwrap().parse().unwrap();
    let key = "rv:lab:{members}:dead";
    let name = "nnnnnnnnnnnnnnnn";
    // As many as Redis drops in one go: it trims by whole nodes of the stream.
    for n in 0..200 {
        let id = format!("{}-{n}", (now - 25 * 3600) * 1000);
        server.ask(&["XADD", key, &id, "n", name, "v", "1", "a", "0"]).unwrap();
    }
    let id = format!("{}-0", (now - 3600) * 1000);
    server.ask(&["XADD", key, &id, "n", name, "v", "1", "a", "60000"]).unwrap();
    // Of a later version, and rubbish.
    server.ask(&["XADD", key, "*", "later", "x"]).unwrap();
    server.ask(&["XADD", key, "*", "n", "short", "v", "1", "a", "0"]).unwrap();
    assert_eq!(read(&one, "").await.0, [(b'n', 1, 61)]);
    // Told when it was over already.
    one.store.bury(&[mark(9, 1, 24 * 3600)], soon()).await.unwrap();
    one.store.bury(&[mark(4, 1, 0)], soon()).await.unwrap();
    assert_eq!(read(&one, "").await.0, [(b'n', 1, 61), (4, 1, 0)]);
    let left: usize = server.ask(&["XLEN", key]).unwrap().trim_start_matches(':').parse().unwrap();
    assert!(left < 200, "old entries go: {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_holds_nobody_up() {
    let server = Redis::start().unwrap();
    let one = Node::open(&config(mode(&server), "n1")).await;
    server.signal("STOP").unwrap();
    let until = clock::now() + Duration::from_millis(200);
    assert_eq!(one.store.bury(&[mark(1, 1, 0)], until).await, Err(CommandError::Unavailable));
    assert_eq!(one.store.buried("", until).await, Err(CommandError::Unavailable));
    server.signal("CONT").unwrap();
    one.store.bury(&[mark(1, 1, 0)], soon()).await.unwrap();
    assert!(read(&one, "").await.0.contains(&(1, 1, 0)));
}
