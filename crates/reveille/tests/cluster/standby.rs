//! Nodes that follow the shards they would take over: what is there when they do, and what they have to read.

use std::time::Duration;

use reveille_testkit::{pns::Provider, ua::Phone};

use super::{
    PATIENCE,
    field::{Field, MANY, SHARDS},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// Many users with a phone each, which sleep; they had registered at one node.
struct Users(Vec<(String, Phone)>);

impl Users {
    async fn register(field: &Field, at: &str) -> Self {
        let mut users = Vec::new();
        for n in 0..MANY {
            let name = format!("u{n}");
            let phone = field.phone(&name, Provider::Apns, at).build();
            users.push((name, phone));
        }
        let mut users = Self(users);
        users.refresh(field, at).await;
        users
    }

    /// Each registers once more.
    async fn refresh(&mut self, field: &Field, at: &str) {
        for (name, phone) in &mut self.0 {
            phone.connect_to(field.node(at).addr("tls")).await.unwrap();
            let answer = phone.register(3600).await.unwrap();
            assert_eq!(answer.code(), 200, "{name}");
            phone.sleep().await;
        }
    }

    /// What the owner of each has in memory: the CSeq of the newest registration.
    async fn newest(&self, field: &Field) -> Vec<Option<u64>> {
        let mut newest = Vec::new();
        for (name, _) in &self.0 {
            newest.push(field.newest(name).await);
        }
        newest
    }
}

/// Waits until nothing is missing of any shard at the node that would take it over.
async fn warm(field: &Field) {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut warm = 0.0;
        for node in field.nodes.values() {
            warm += node.metric("reveille_standby_shards_warm").await;
        }
        if warm == SHARDS as f64 {
            return;
        }
        assert!(tokio::time::Instant::now() < give_up, "{warm} of {SHARDS} shards are warm");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A metric, over all nodes that run.
async fn sum(field: &Field, metric: &str) -> f64 {
    let mut sum = 0.0;
    for node in field.nodes.values() {
        sum += node.metric(metric).await;
    }
    sum
}

async fn owned(field: &Field, name: &str) -> u64 {
    let status = field.status(name).await;
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["id"] == name).unwrap()["shards"].as_u64().unwrap()
}

/// Kills a node, and waits until the others serve its shards. Returns how many records they read for it, and how many of its shards
/// they took over warm.
async fn kill(field: &mut Field, name: &str) -> (f64, f64) {
    let (read, warm) = ("reveille_redis_records_read_total", "reveille_standby_successions_total{result=\"warm\"}");
    let dead = field.nodes.remove(name).unwrap();
    let (reads, warmed) = (sum(field, read).await, sum_line(field, warm).await);
    dead.kill();
    field.settled().await;
    (sum(field, read).await - reads, sum_line(field, warm).await - warmed)
}

/// No record was read, and every shard came warm. On a machine that is late with its leases one may go on to a third node.
fn assert_taken_over(read: f64, warm: f64, shards: u64) {
    assert!(read == 0.0 && warm >= shards as f64, "{read} records read, {warm} of {shards} shards warm");
}

/// One line of the metrics, over all nodes that run.
async fn sum_line(field: &Field, line: &str) -> f64 {
    let mut sum = 0.0;
    for node in field.nodes.values() {
        let (_, body) = node.get("/metrics").await.unwrap();
        let value = body.lines().find_map(|found| found.strip_prefix(line));
        sum += value.map_or(0.0, |value| value.trim().parse::<f64>().unwrap());
    }
    sum
}

/// Takes all entries out of all feeds: whoever has not read them misses them.
fn trim_feeds(field: &Field) {
    for shard in 0..SHARDS {
        let answer = field.redis.ask(&["XTRIM", &format!("rv:lab:{{{shard}}}:feed"), "MAXLEN", "0"]).unwrap();
        assert!(answer.starts_with(':'), "{answer}");
    }
}

/// A home dies; those that had followed its shards serve them without reading one record, and what was acknowledged in the last
/// moment is there. An operator sees how far each node is.
#[tokio::test]
async fn a_followed_shard_is_taken_over_without_reading_a_record() {
    let mut field = Field::start(&NODES).await;
    let mut users = Users::register(&field, "n1").await;
    warm(&field).await;
    let status = field.status("n1").await;
    for node in status["nodes"].as_array().unwrap() {
        let standby = &node["standby"];
        assert!(node["epoch"].as_u64().unwrap() > 0, "{node}");
        assert!(standby["lag_ms"].as_u64().is_some() && standby["lag_entries"].as_u64().is_some(), "{node}");
        assert_eq!(standby["bytes"].as_u64() > Some(0), standby["records"].as_u64() > Some(0), "{node}");
    }
    let shown = field.command("n1", &["cluster", "status"]);
    assert!(shown.contains("standby") && shown.contains("lag"), "{shown}");

    let victim = field.home_of("u0").await;
    let rest: Vec<_> = NODES.into_iter().filter(|name| *name != victim).collect();
    let shards = owned(&field, victim).await;
    users.refresh(&field, rest[0]).await; // until the last moment
    let before = users.newest(&field).await;
    let (read, warm) = kill(&mut field, victim).await;
    assert_taken_over(read, warm, shards);
    assert_eq!(users.newest(&field).await, before);
    assert_eq!(sum(&field, "reveille_redis_records_read_total").await - read, 0.0);

    let caller = field.caller("caller", rest[1]).await;
    let (name, phone) = &mut users.0[0];
    let _call = caller.invite(&format!("sip:{name}@{}", reveille::lab::DOMAIN)).unwrap();
    phone.wait_wake(PATIENCE).await.expect("who had inherited the binding wakes the phone");
}

/// Entries are trimmed while the node that stands by is stopped, and its followers' own shards go to others and come back: in the end
/// every acknowledged binding is there, whether the shard was warm or had to be read.
#[tokio::test]
async fn a_standby_that_stood_still_catches_up() {
    let mut field = Field::start(&NODES).await;
    let mut users = Users::register(&field, "n1").await;
    warm(&field).await;
    let gaps = sum(&field, "reveille_standby_gaps_total").await;
    // The one that is second where n1 is first; whatever it owns goes elsewhere meanwhile.
    field.node("n2").signal("-STOP");
    let give_up = tokio::time::Instant::now() + PATIENCE;
    while field.status("n1").await["nodes"].as_array().unwrap().len() > 2 {
        assert!(tokio::time::Instant::now() < give_up, "n2 is not missed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while field.status("n1").await["owned"] != SHARDS {
        assert!(tokio::time::Instant::now() < give_up, "its shards are not taken over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    users.refresh(&field, "n1").await;
    trim_feeds(&field);
    users.refresh(&field, "n1").await;
    field.node("n2").signal("-CONT");
    field.settled().await;
    warm(&field).await;
    assert!(sum(&field, "reveille_standby_gaps_total").await > gaps, "entries were missed");
    let before = users.newest(&field).await;
    let shards = owned(&field, "n1").await;
    let (read, warm) = kill(&mut field, "n1").await;
    assert_taken_over(read, warm, shards);
    assert_eq!(users.newest(&field).await, before);
}

/// Feeds are trimmed under the followers, and a home dies at once: whoever had missed something knows it, and reads.
#[tokio::test]
async fn feeds_trimmed_under_the_followers_cost_no_binding() {
    let mut field = Field::start(&NODES).await;
    let mut users = Users::register(&field, "n1").await;
    warm(&field).await;
    for round in 0..3 {
        users.refresh(&field, "n1").await;
        trim_feeds(&field);
        if round == 1 {
            users.refresh(&field, "n1").await;
        }
    }
    let before = users.newest(&field).await;
    let victim = if field.home_of("u0").await == "n1" { "n2" } else { field.home_of("u0").await };
    kill(&mut field, victim).await;
    assert_eq!(users.newest(&field).await, before);
}

/// A node joins and another is now second for some shards: it follows them from then on, and the one that was second before drops
/// them.
#[tokio::test]
async fn whoever_becomes_second_follows() {
    let mut field = Field::start(&["n1", "n2"]).await;
    let mut users = Users::register(&field, "n1").await;
    warm(&field).await;
    for name in ["n3", "n4"] {
        field.add(name, r#"["edge", "home"]"#).await;
    }
    field.settled().await;
    warm(&field).await;
    for name in ["n2", "n3", "n4"] {
        users.refresh(&field, "n1").await;
        let before = users.newest(&field).await;
        let shards = owned(&field, name).await;
        let (read, warmed) = kill(&mut field, name).await;
        assert_taken_over(read, warmed, shards);
        assert_eq!(users.newest(&field).await, before, "{name}");
        if field.nodes.len() > 1 {
            warm(&field).await;
        }
    }
    assert_eq!(field.node("n1").metric("reveille_standby_records").await, 0.0, "nobody is second to one alone");
}
