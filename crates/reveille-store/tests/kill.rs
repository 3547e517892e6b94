//! What was reported as written is there after the process was killed without warning (P-170).
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test or a bench ends where something unexpected happens

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use bytes::Bytes;
use prometheus::Registry;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Replica, StoreError, Write};
use reveille_store::{EmbeddedStore, Metrics, StoreConfig};

/// Names the data directory to the child; where it is not set, the child's part has nothing to do.
const DIRECTORY: &str = "REVEILLE_STORE_KILL_TEST";
const SHARDS: u16 = 8;
const KEYS: u64 = 500;
const ENOUGH: usize = 5_000;

fn store(path: impl Into<std::path::PathBuf>) -> EmbeddedStore {
    let config = StoreConfig { queue: 256, ..StoreConfig::new(path, SHARDS) };
    EmbeddedStore::open(&config, Metrics::new(&Registry::new()).unwrap()).unwrap()
}

fn place(id: u64) -> (u16, Aor) {
    let key = id % KEYS;
    ((key % u64::from(SHARDS)) as u16, Aor::from_canonical(format!("user{key}@example.com")))
}

struct Announce(SyncSender<u64>);

impl Acks for Announce {
    fn written(&self, _: u16, write: u64, result: Result<(), StoreError>) {
        result.unwrap();
        self.0.send(write).unwrap();
    }
}

/// The child: writes for ever, and prints the number of each write once it is reported.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = store(directory);
    let (sender, receiver) = sync_channel(64);
    store.attach(Arc::new(Announce(sender)));
    std::thread::spawn(move || {
        let mut out = std::io::stdout().lock();
        for id in receiver {
            writeln!(out, "written {id}").and_then(|()| out.flush()).unwrap();
        }
    });
    for id in 0.. {
        let (shard, aor) = place(id);
        let value = Some(Bytes::from(format!("{id} {}", "v".repeat(300))));
        let write = Write { id, aor, value };
        while store.write(shard, write.clone()).is_err() {
            std::thread::yield_now();
        }
    }
}

/// The parent: kills the child in the middle of its work, twice, and looks for everything that was reported.
#[test]
fn what_was_reported_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reported: HashMap<u64, u64> = HashMap::new();
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // A line cut off by the kill was not reported whole; the last whole one of each key counts.
            let line = line.unwrap();
            let Some(id) = line.strip_prefix("written ").and_then(|id| id.parse::<u64>().ok()) else { continue };
            lines += 1;
            if lines == ENOUGH {
                child.kill().unwrap();
            }
            if lines <= ENOUGH {
                reported.insert(id % KEYS, id);
            }
        }
        child.wait().unwrap();
        assert!(lines >= ENOUGH, "the child ended by itself after {lines} writes");

        let store = store(dir.path());
        let mut found = HashMap::new();
        for shard in 0..SHARDS {
            for record in store.load(shard).unwrap() {
                let (aor, value) = record.unwrap();
                let value = String::from_utf8(value.to_vec()).unwrap();
                let (id, rest) = value.split_once(' ').unwrap();
                assert_eq!(rest.len(), 300, "whole values only");
                let id: u64 = id.parse().unwrap();
                assert_eq!(place(id), (shard, aor));
                found.insert(id % KEYS, id);
            }
        }
        for (key, id) in reported {
            let kept = found.get(&key).copied();
            assert!(kept >= Some(id), "write {id} was reported, found {kept:?}");
        }
    }
}
