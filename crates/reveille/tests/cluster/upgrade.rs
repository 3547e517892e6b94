//! Nodes of this version over a Redis that nodes of another version have filled: what an upgrade that rolls comes upon.

use bytes::Bytes;
use reveille::{cluster::ClusterKeys, lab::DOMAIN};
use reveille_push::{Provider as Pns, PushTarget, Secret};
use reveille_redis::{Endpoint, Keyring, Metrics, Mode, RedisConfig, RedisStore};
use reveille_registrar::{Aor, Binding, Record, aor::Aliases};
use reveille_runtime::clock;
use reveille_sip::uri::Uri;
use reveille_testkit::{pns::Provider, ua::Phone};

use super::{
    PATIENCE, SOON,
    field::{Field, SHARDS},
};

/// Writes into Redis as a node would have.
struct Before {
    store: RedisStore,
}

impl Before {
    async fn open(field: &Field) -> Self {
        let config = reveille::config::load(&field.lab.config_file()).unwrap();
        let cluster = config.cluster.as_ref().unwrap();
        let keys = ClusterKeys::load(cluster).unwrap();
        let keyring = Keyring::new(keys.naming(), keys.records()).unwrap();
        let mode = Mode::Standalone(Endpoint::new("127.0.0.1", field.redis.port()));
        let config = RedisConfig::new(mode, cluster.name.clone(), "1", SHARDS as u16, keyring);
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        Self { store: RedisStore::connect(&config, metrics).await.unwrap() }
    }

    async fn write(&self, user: &str, value: Vec<u8>) {
        let (aor, shard) = place(user);
        self.store.claim(&[(shard, 0)], clock::now() + PATIENCE).await.pop().unwrap().unwrap();
        self.store.write_if(shard, &aor, 0, Some(Bytes::from(value))).await.unwrap();
        self.store.release(shard, clock::now() + PATIENCE).await.unwrap();
    }

    async fn stored(&self, user: &str) -> Bytes {
        let (aor, shard) = place(user);
        self.store.read_through(shard, &aor, clock::now() + PATIENCE).await.unwrap().expect("a record").1
    }
}

fn place(user: &str) -> (Aor, u16) {
    let aor = Aor::from_uri(&Uri::parse(&format!("sip:{user}@{DOMAIN}")).unwrap(), &Aliases::default()).unwrap();
    let shard = aor.shard(SHARDS as u16);
    (aor, shard)
}

/// What version 1 holds of a phone that sleeps.
fn version_1(phone: &Phone) -> Vec<u8> {
    let push = phone.push().unwrap();
    let (param, prid) = (push.param.clone().unwrap(), push.prid.clone().unwrap());
    let contact = format!("sip:alice@192.0.2.1:5061;transport=tls;pn-provider=apns;pn-param={param};pn-prid={prid}");
    let mut record = Record::new(1_700_000_000 << 16);
    let key = record.take_key();
    record.bindings.push(Binding {
        key,
        generation: 1,
        contact,
        params: String::new(),
        q: 1000,
        instance: None,
        reg_id: None,
        call_id: "before the upgrade".to_owned(),
        cseq: 1,
        expires_at: clock::unix_now() + 3600,
        registered_at: clock::unix_now() - 600,
        flow: None,
        path: Vec::new(),
        push: Some(PushTarget { provider: Pns::Apns, param: param.into(), prid: Secret::from(prid) }),
        dead_push: None,
        pnsreg: false,
        more: Vec::new(),
    });
    let value = record.encode();
    assert_eq!(value[0], 1, "the version that nodes before this one read");
    value
}

/// A call wakes a phone of which nodes of version 1 have left a record, and its refresh is written in its turn. A record of a later
/// version stays as it is: its phone is asked to come again, until a node takes the shard that can read it.
#[tokio::test]
async fn records_of_other_versions_survive_an_upgrade() {
    let mut field = Field::with_roles(&[]).await;
    let before = Before::open(&field).await;
    // Nobody listens there; the phone is woken by push, and connects anew.
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let mut alice = field.lab.phone("alice", Provider::Apns, nowhere).unwrap().build();
    before.write("alice", version_1(&alice)).await;
    let later = b"\x04 what this version cannot know".to_vec();
    let user = (0..).map(|n| format!("u{n}")).find(|user| place(user).1 != place("alice").1).unwrap();
    before.write(&user, later.clone()).await;
    field.add("n1", r#"["edge", "home"]"#).await;
    field.settled().await;

    let caller = field.caller("caller", "n1").await;
    let mut call = caller.invite(&format!("sip:alice@{DOMAIN}")).unwrap();
    alice.wait_wake(SOON).await.expect("a push arrives");
    alice.connect_to(field.node("n1").addr("tls")).await.unwrap();
    assert_eq!(alice.register(3600).await.unwrap().code(), 200);
    let incoming = alice.expect_invite(SOON).await.expect("the call reaches the phone");
    incoming.answer().unwrap();
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 200);
    let refreshed = before.stored("alice").await;
    assert_eq!(refreshed[0], 1, "nodes of version 1 can take the shard");
    let refreshed = Record::decode(&refreshed).unwrap();
    assert_ne!(refreshed.bindings.last().unwrap().call_id, "before the upgrade");

    let mut other = field.phone(&user, Provider::Fcm, "n1").build();
    other.connect().await.unwrap();
    let refused = other.register(3600).await.unwrap();
    assert_eq!((refused.code(), refused.header("Retry-After").is_some()), (503, true));
    let mut call = caller.invite(&format!("sip:{user}@{DOMAIN}")).unwrap();
    assert_eq!(call.final_response(PATIENCE).await.unwrap().message.code(), 480, "the user exists");
    assert_eq!(before.stored(&user).await, later);
    assert_eq!(field.node("n1").metric("reveille_registrar_records_unreadable_total").await, 1.0);
}
