//! Secrets that nodes share for a time, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test ends where something unexpected happens

mod support;

use std::time::Duration;

use reveille_redis::{CommandError, SecretName};
use reveille_runtime::clock;
use support::{Node, Redis, config, mode, soon, until_async};

const LIFE: Duration = Duration::from_secs(3600);
const NEVER: Duration = Duration::ZERO;

fn token() -> SecretName {
    SecretName::new("token", "team/key")
}

async fn two(server: &Redis) -> (Node, Node) {
    (Node::open(&config(mode(server), "n1")).await, Node::open(&config(mode(server), "n2")).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_first_decides_for_all() {
    let server = Redis::start().unwrap();
    let (one, two) = two(&server).await;
    assert_eq!(two.store.secret(&token(), soon()).await, Ok(None));
    let first = one.store.keep_secret(&token(), b"one", LIFE, NEVER, soon()).await.unwrap();
    assert_eq!((first.value.as_slice(), first.remaining), (&b"one"[..], LIFE));
    let second = two.store.keep_secret(&token(), b"two", 2 * LIFE, NEVER, soon()).await.unwrap();
    assert_eq!(second.value.as_slice(), b"one", "the loser uses the winner's");
    assert!(second.remaining <= LIFE, "and its life is not prolonged");
    assert_eq!(two.store.secret(&token(), soon()).await.unwrap().unwrap().value, first.value);
    // Names do not get into each other's way.
    assert_eq!(two.store.secret(&SecretName::new("token", "team/other"), soon()).await, Ok(None));
    assert_eq!(two.store.secret(&SecretName::new("other", "team/key"), soon()).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_wins() {
    let server = Redis::start().unwrap();
    let (one, two) = two(&server).await;
    let ask = |node: &Node, value: u8| {
        let store = node.store.clone();
        async move { store.keep_secret(&token(), &[value], LIFE, NEVER, soon()).await.unwrap().value }
    };
    let asked: Vec<_> = (0..40).map(|n| tokio::spawn(ask(if n % 2 == 0 { &one } else { &two }, n))).collect();
    let mut told = Vec::new();
    for asked in asked {
        told.push(asked.await.unwrap());
    }
    told.dedup();
    assert_eq!(told.len(), 1);
}

/// The end of a secret is Redis's to say, and so is whether one is old enough to be replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_replaced_when_it_is_old_and_gone_when_it_ends() {
    let server = Redis::start().unwrap();
    let (one, two) = two(&server).await;
    one.store.keep_secret(&token(), b"old", LIFE, NEVER, soon()).await.unwrap();
    let kept = two.store.keep_secret(&token(), b"new", LIFE, LIFE / 2, soon()).await.unwrap();
    assert_eq!(kept.value.as_slice(), b"old", "more than half its life is left");
    let replaced = two.store.keep_secret(&token(), b"new", LIFE, LIFE, soon()).await.unwrap();
    assert_eq!((replaced.value.as_slice(), replaced.remaining), (&b"new"[..], LIFE));
    // Its end comes without anybody's doing.
    let short = SecretName::new("short", "");
    one.store.keep_secret(&short, b"x", Duration::from_millis(300), NEVER, soon()).await.unwrap();
    until_async("the secret ends", || async { two.store.secret(&short, soon()).await == Ok(None) }).await;
    let next = two.store.keep_secret(&short, b"y", LIFE, NEVER, soon()).await.unwrap();
    assert_eq!(next.value.as_slice(), b"y");
}

/// P-109: neither name nor value can be read in Redis, and a value put in another's place opens for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_sees_neither_name_nor_value_p109() {
    let server = Redis::start().unwrap();
    let (one, two) = two(&server).await;
    let other = SecretName::new("token", "someone@example.com");
    one.store.keep_secret(&token(), b"very secret", LIFE, NEVER, soon()).await.unwrap();
    let name = server.ask(&["KEYS", "*"]).unwrap();
    assert!(name.starts_with("rv:lab:{") && name.contains("}:shared:token:") && !name.contains("team"), "{name}");
    assert!(!server.ask(&["GET", &name]).unwrap().contains("secret"));
    one.store.keep_secret(&other, b"other", LIFE, NEVER, soon()).await.unwrap();
    let names = server.ask(&["KEYS", "*"]).unwrap();
    let second = names.lines().find(|found| *found != name).unwrap();
    assert!(!second.contains("someone"));
    server.ask(&["COPY", &name, second, "REPLACE"]).unwrap();
    assert!(matches!(two.store.secret(&other, soon()).await, Err(CommandError::Record(_))));
    server.ask(&["SET", &name, "rubbish"]).unwrap();
    server.ask(&["PEXPIRE", &name, "100000"]).unwrap();
    let spoilt = two.store.keep_secret(&token(), b"x", LIFE, NEVER, soon()).await;
    assert!(matches!(spoilt, Err(CommandError::Record(_))), "{spoilt:?}");
}

/// A server that stands still holds nobody up past the deadline, and one that is back is used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_waited_for_no_longer_than_asked() {
    let server = Redis::start().unwrap();
    let (one, _two) = two(&server).await;
    server.signal("STOP").unwrap();
    let before = clock::now();
    let asked = one.store.secret(&token(), before + Duration::from_millis(200)).await;
    assert_eq!(asked, Err(CommandError::Unavailable));
    assert!(clock::now() - before < Duration::from_secs(5));
    server.signal("CONT").unwrap();
    assert_eq!(one.store.keep_secret(&token(), b"x", LIFE, NEVER, soon()).await.unwrap().value.as_slice(), b"x");
}

/// P-116: what an owner noted, the next one finds, however often that was; and nobody reads it in Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shards_note_reaches_its_next_owner_p116() {
    let server = Redis::start().unwrap();
    let (one, two) = two(&server).await;
    assert_eq!(two.store.noted(3, soon()).await, Ok(None));
    for note in [&b"first"[..], b"second"] {
        one.store.note(3, note, soon()).await.unwrap();
    }
    let (note, age) = two.store.noted(3, soon()).await.unwrap().unwrap();
    assert_eq!(note, b"second");
    assert!(age < Duration::from_secs(60));
    assert_eq!(two.store.noted(4, soon()).await, Ok(None));
    let key = server.ask(&["KEYS", "*"]).unwrap();
    assert!(key.starts_with("rv:lab:{3}:shared:spent:"), "with the shard: {key}");
    assert!(!server.ask(&["GET", &key]).unwrap().contains("second"));
    // How old it is Redis says.
    server.ask(&["PEXPIRE", &key, "3000000"]).unwrap();
    let (_, age) = two.store.noted(3, soon()).await.unwrap().unwrap();
    assert!((600..660).contains(&age.as_secs()), "{age:?}");
}
