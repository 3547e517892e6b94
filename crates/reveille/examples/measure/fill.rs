//! Bindings written straight into Redis, as a home would have written them: a million REGISTERs would take an hour that says
//! nothing about what is measured afterwards.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reveille::{
    cluster::ClusterKeys,
    lab::{DOMAIN, Lab},
};
use reveille_push::{Provider, PushTarget, Secret};
use reveille_redis::{Endpoint, Keyring, Metrics, Mode, RedisConfig, RedisStore};
use reveille_registrar::{
    Acks, Aor, Binding, FlowRef, NodeTag, Record, Replica, StoreError, Transport, Write, aor::Aliases,
};
use reveille_runtime::clock;
use reveille_sip::uri::Uri;
use tokio::sync::mpsc;

use crate::user;

/// Writes without an answer at any time.
const IN_FLIGHT: usize = 4_096;
/// How long a claim or a release may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Passes verdicts on.
struct Ear(mpsc::UnboundedSender<bool>);

impl Acks for Ear {
    fn written(&self, _: u16, _: u64, result: Result<(), StoreError>) {
        let _ = self.0.send(result.is_ok());
    }
}

/// Writes the bindings of the first `count` users, and leaves every shard without an owner.
pub(crate) async fn bindings(lab: &Lab, redis: u16, shards: u16, param: &str, count: usize) {
    let config = reveille::config::load(&lab.config_file()).unwrap();
    let cluster = config.cluster.as_ref().unwrap();
    let keys = ClusterKeys::load(cluster).unwrap();
    let keyring = Keyring::new(keys.naming(), keys.records()).unwrap();
    let mode = Mode::Standalone(Endpoint::new("127.0.0.1", redis));
    let config = RedisConfig::new(mode, cluster.name.clone(), "1", shards, keyring);
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let store = RedisStore::connect(&config, metrics).await.unwrap();
    let (sender, mut verdicts) = mpsc::unbounded_channel();
    store.attach(Arc::new(Ear(sender)));
    let all: Vec<_> = (0..shards).map(|shard| (shard, 0)).collect();
    for claimed in store.claim(&all, clock::now() + PATIENCE).await {
        claimed.unwrap();
    }
    let unix = clock::unix_now();
    let mut open = 0;
    for n in 0..count {
        let aor = aor(n);
        let (shard, value) = (aor.shard(shards), Bytes::from(record(n, param, unix).encode()));
        store.write(shard, Write { id: n as u64, aor, value: Some(value) }).unwrap();
        open += 1;
        if open == IN_FLIGHT {
            assert!(verdicts.recv().await.unwrap(), "a write failed");
            open -= 1;
        }
    }
    for _ in 0..open {
        assert!(verdicts.recv().await.unwrap(), "a write failed");
    }
    for shard in 0..shards {
        store.release(shard, clock::now() + PATIENCE).await.unwrap();
    }
    store.close().await;
}

/// The address-of-record of a user.
pub(crate) fn aor(n: usize) -> Aor {
    let uri = format!("sip:{}@{DOMAIN}", user(n));
    Aor::from_uri(&Uri::parse(&uri).unwrap(), &Aliases::default()).unwrap()
}

/// What the registrar keeps of an APNs phone that registered over TLS: what phones send, instance-id and reg-id included.
fn record(n: usize, param: &str, unix: u64) -> Record {
    let mut record = Record::new(unix);
    let key = record.take_key();
    let (name, prid, instance) = (user(n), format!("{n:064x}"), format!("\"<{}>\"", instance(n)));
    record.bindings.push(Binding {
        key,
        generation: 2,
        contact: format!(
            "sip:{name}@10.{}.{}.7:51234;transport=tls;pn-provider=apns;pn-param={param};pn-prid={prid}",
            n >> 8 & 255,
            n & 255
        ),
        params: format!("+sip.instance={instance};reg-id=1"),
        q: 1000,
        instance: Some(instance),
        reg_id: Some(1),
        call_id: format!("{n:08x}-1111-4222-8333-00a0{n:08x}"),
        cseq: 2,
        expires_at: unix + 7_200 + n as u64 % 600,
        registered_at: unix,
        flow: Some(FlowRef::Stream {
            node: NodeTag(1),
            epoch: 1_700_000_000,
            connection: n as u64,
            transport: Transport::Tls,
        }),
        path: Vec::new(),
        push: Some(PushTarget { provider: Provider::Apns, param: param.into(), prid: Secret::from(prid) }),
        dead_push: None,
        pnsreg: false,
        more: Vec::new(),
    });
    record
}

/// The instance-id of a user's phone.
pub(crate) fn instance(n: usize) -> String {
    format!("urn:uuid:00000000-0000-4000-8000-{n:012x}")
}
