//! The store through its port: verdicts, order, what a reader sees, what a restart finds.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test or a bench ends where something unexpected happens

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prometheus::Registry;
use reveille_registrar::aor::Aor;
use reveille_registrar::replica::{Acks, Replica, StoreError, StoreFull, Write};
use reveille_store::{EmbeddedStore, Metrics, StoreConfig};

type Verdict = (u16, u64, Result<(), StoreError>);

/// Passes verdicts on; holds them up while `gate` is locked.
struct Ear {
    verdicts: Mutex<Sender<Verdict>>,
    gate: Mutex<()>,
}

impl Acks for Ear {
    fn written(&self, shard: u16, write: u64, result: Result<(), StoreError>) {
        drop(self.gate.lock());
        let _ = self.verdicts.lock().unwrap().send((shard, write, result));
    }
}

fn open(config: &StoreConfig) -> (EmbeddedStore, Arc<Ear>, Receiver<Verdict>) {
    let store = EmbeddedStore::open(config, Metrics::new(&Registry::new()).unwrap()).unwrap();
    let (sender, receiver) = channel();
    let ear = Arc::new(Ear { verdicts: Mutex::new(sender), gate: Mutex::new(()) });
    store.attach(ear.clone());
    (store, ear, receiver)
}

fn refused(config: &StoreConfig) -> String {
    EmbeddedStore::open(config, Metrics::new(&Registry::new()).unwrap()).unwrap_err().to_string()
}

fn write(id: u64, user: &str, value: Option<&str>) -> Write {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Write { id, aor: Aor::from_canonical(format!("{user}@example.com")), value }
}

fn contents(store: &EmbeddedStore, shard: u16) -> BTreeMap<String, String> {
    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
    store.load(shard).unwrap().map(Result::unwrap).map(|(aor, value)| (aor.as_str().to_owned(), text(value))).collect()
}

/// P-170: a verdict per write, in the order of handing over, and across batches.
#[test]
fn verdicts_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { batch: 7, ..StoreConfig::new(dir.path(), 16) };
    let (store, _, verdicts) = open(&config);
    for id in 0..500 {
        store.write((id % 16) as u16, write(id, "alice", Some("x"))).unwrap();
    }
    for id in 0..500 {
        assert_eq!(verdicts.recv().unwrap(), ((id % 16) as u16, id, Ok(())));
    }
}

/// The last of several writes to one record holds, within a batch as well; a deletion is a write like any other.
#[test]
fn last_write_holds() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), 16);
    {
        let (store, ear, verdicts) = open(&config);
        // While the first verdict is held up, the others gather to one batch.
        let held = ear.gate.lock().unwrap();
        for (id, user, value) in [
            (0, "first", Some("0")),
            (1, "alice", Some("1")),
            (2, "alice", Some("2")),
            (3, "bob", Some("3")),
            (4, "bob", None),
            (5, "carol", None),
            (6, "carol", Some("6")),
        ] {
            store.write(3, write(id, user, value)).unwrap();
        }
        drop(held);
        assert_eq!(verdicts.iter().take(7).filter(|(_, _, result)| result.is_ok()).count(), 7);
    }
    let (store, ..) = open(&config);
    let expected =
        [("alice", "2"), ("carol", "6"), ("first", "0")].map(|(u, v)| (format!("{u}@example.com"), v.to_owned()));
    assert_eq!(contents(&store, 3), BTreeMap::from(expected));
}

/// Shards are apart, those next to each other and those whose number has a zero octet included.
#[test]
fn shards_are_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ..) = open(&StoreConfig::new(dir.path(), 1024));
    let shards = [0, 1, 2, 255, 256, 257, 511, 512, 1023];
    for shard in shards {
        store.write(shard, write(u64::from(shard), "alice", Some(&shard.to_string()))).unwrap();
    }
    for shard in shards {
        assert_eq!(contents(&store, shard), BTreeMap::from([("alice@example.com".to_owned(), shard.to_string())]));
    }
    assert_eq!(contents(&store, 3), BTreeMap::new());
    assert!(matches!(store.load(1024), Err(StoreError::Unavailable)), "no such shard");
}

/// A reader sees what was handed over before it came, even if the disk has not caught up.
#[test]
fn reading_waits_for_earlier_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, ..) = open(&StoreConfig { batch: 1, ..StoreConfig::new(dir.path(), 4) });
    for id in 0..100 {
        store.write(0, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    assert_eq!(contents(&store, 0).len(), 100);
}

/// A queue that is full refuses at once, and takes again when there is room. Nothing refused is answered.
#[test]
fn full_queue_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { queue: 4, ..StoreConfig::new(dir.path(), 4) };
    let (store, ear, verdicts) = open(&config);
    let held = ear.gate.lock().unwrap();
    store.write(0, write(0, "alice", Some("x"))).unwrap();
    // The writer has taken the first one and is stuck in its verdict, or has yet to take it: either way it ends full.
    let taken = (1..100).take_while(|&id| store.write(0, write(id, "alice", Some("x"))).is_ok()).count();
    assert!((3..=8).contains(&taken), "{taken}");
    assert_eq!(store.write(0, write(1000, "alice", Some("x"))), Err(StoreFull));
    drop(held);
    for id in 0..=taken as u64 {
        assert_eq!(verdicts.recv().unwrap().1, id);
    }
    store.write(0, write(2000, "alice", Some("x"))).unwrap();
    assert_eq!(verdicts.recv().unwrap().1, 2000);
}

/// Closing writes and answers what was taken, and takes nothing more.
#[test]
fn closing_finishes_what_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, verdicts) = open(&StoreConfig::new(dir.path(), 4));
    for id in 0..200 {
        store.write(1, write(id, &format!("user{id}"), Some("x"))).unwrap();
    }
    store.close();
    assert_eq!(verdicts.try_iter().filter(|(_, _, result)| result.is_ok()).count(), 200);
    assert_eq!(store.write(1, write(999, "late", Some("x"))), Err(StoreFull));
    assert_eq!(contents(&store, 1).len(), 200);
    store.close();
}

/// Two processes would destroy each other's work; the second is told so. Another shard count likewise.
#[test]
fn unfit_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), 16);
    let first = open(&config);
    assert!(refused(&config).contains("in use by another process"));
    drop(first);
    let other = StoreConfig { shards: 32, ..config.clone() };
    assert!(refused(&other).contains("was made for 16 shards, the configuration says 32"));
    open(&config);
}

fn engine_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.join("engine")];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() { pending.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// One way to spoil a file.
type Damage = fn(&Path);

/// Whatever file of the engine is spoilt: either every record is still there, or the error says where, what, and what to do.
#[test]
fn damage_is_reported_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), 4);
    for round in 0..2u64 {
        let (store, ..) = open(&config);
        for id in 0..50 {
            store.write(0, write(id, &format!("user{round}-{id}"), Some("x"))).unwrap();
        }
    }
    let damages: [(&str, Damage); 5] = [
        ("emptied", |path| fs::write(path, "").unwrap()),
        ("overwritten", |path| overwrite(path, 0, &[0xa5; 64])),
        ("spoilt inside", |path| overwrite(path, 1500, &[0xa5; 64])),
        ("cut off", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1500).unwrap()),
        ("removed", |path| fs::remove_file(path).unwrap()),
    ];
    let mut reported = 0;
    for (name, damage) in damages {
        for file in engine_files(dir.path()) {
            let file = file.strip_prefix(dir.path()).unwrap();
            let copy = tempfile::tempdir().unwrap();
            copy_tree(dir.path(), copy.path());
            damage(&copy.path().join(file));
            let config = StoreConfig::new(copy.path(), 4);
            match EmbeddedStore::open(&config, Metrics::new(&Registry::new()).unwrap()) {
                Err(error) => {
                    let shown = error.to_string();
                    assert!(shown.contains(copy.path().to_str().unwrap()) && shown.contains("; "), "{shown}");
                    reported += 1;
                }
                Ok(store) => assert_eq!(contents(&store, 0).len(), 100, "{name}: {}", file.display()),
            }
        }
    }
    assert!(reported > 5, "{reported}");
}

fn overwrite(path: &Path, at: u64, octets: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(octets, at.min(file.metadata().unwrap().len() / 2)).unwrap();
}

/// A sorted table that went bad on the disk is noticed when it is read, and not read as something else.
#[test]
fn damaged_table_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), 4);
    let value = "v".repeat(30_000);
    let fill = || {
        let (store, _, verdicts) = open(&config);
        for id in 0..700 {
            store.write(0, write(id, &format!("user{id}"), Some(&value))).unwrap();
        }
        assert!(verdicts.iter().take(700).all(|(_, _, result)| result.is_ok()));
    };
    // Until the engine, in its own time, has made a table of what was written.
    let table = (0..20).find_map(|_| {
        fill();
        engine_files(dir.path()).into_iter().find(|file| file.parent().is_some_and(|p| p.ends_with("tables")))
    });
    let table = table.expect("a table");
    overwrite(&table, 20_000, &[0xa5; 64]);
    match EmbeddedStore::open(&config, Metrics::new(&Registry::new()).unwrap()) {
        Err(error) => assert!(error.to_string().contains("damaged"), "{error}"),
        Ok(store) => assert!(store.load(0).unwrap().any(|record| record == Err(StoreError::Unavailable))),
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// P-109: files are the owner's alone, and no Debug shows a record.
#[test]
fn records_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path().join("store"), 4);
    drop(open(&config));
    drop(open(&config));
    for path in engine_files(&config.path).iter().chain([&config.path, &config.path.join("format")]) {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    assert!(!format!("{:?}", write(1, "alice", Some("secret"))).contains("secret"));
}

/// The metrics an operator watches.
#[test]
fn metrics_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let store = EmbeddedStore::open(&StoreConfig::new(dir.path(), 4), Metrics::new(&registry).unwrap()).unwrap();
    for id in 0..10 {
        store.write(0, write(id, "alice", Some("x"))).unwrap();
    }
    store.close();
    let text = reveille_runtime::metrics::encode(&registry).unwrap();
    for line in [
        "reveille_store_writes_total 10",
        "reveille_store_batch_size_sum 10",
        "reveille_store_write_duration_seconds_count 10",
        "reveille_store_queue_depth 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
