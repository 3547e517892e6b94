//! The operators' API: what a node knows, in JSON, with no push token in it.

mod cluster;

use std::{
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use reveille_push::target;
use reveille_registrar::{Aliases, Aor, Binding, FlowProbe, Liveness, Record, Registrar};
use reveille_sip::uri::Uri;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

pub use self::cluster::Cluster;

/// What the API looks at, once the node has it: the admin port opens first.
#[derive(Clone)]
pub struct Api {
    node: Arc<str>,
    drain_asked: Arc<Notify>,
    sources: Arc<OnceLock<Sources>>,
    cluster: Arc<OnceLock<Cluster>>,
}

struct Sources {
    registrar: Registrar,
    flows: Arc<dyn FlowProbe>,
    aliases: Aliases,
}

impl Api {
    /// The API of the node with this `node.id`; it has nothing to show yet. `drain_asked` is told when the node is to drain.
    pub fn new(node: String, drain_asked: Arc<Notify>) -> Self {
        Self { node: node.into(), drain_asked, sources: Arc::default(), cluster: Arc::default() }
    }

    /// Says what to look at. Only the first call counts.
    pub fn open(&self, registrar: Registrar, flows: Arc<dyn FlowProbe>, aliases: Aliases) {
        let _ = self.sources.set(Sources { registrar, flows, aliases });
    }

    /// Says what to look at in a cluster. Only the first call counts.
    pub fn join(&self, cluster: Cluster) {
        let _ = self.cluster.set(cluster);
    }

    /// The routes, without `/api` before them.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/bindings", get(bindings))
            .route("/v1/drain", post(cluster::drain))
            .route("/v1/cluster", get(cluster::status))
            .route("/v1/cluster/home", get(cluster::home))
            .with_state(self.clone())
    }
}

impl Sources {
    /// Reads an address-of-record that an operator wrote.
    fn read(&self, text: &str) -> Result<Aor, Box<Response>> {
        let text = if text.contains(':') { text.to_owned() } else { format!("sip:{text}") };
        Uri::parse(&text).ok().and_then(|uri| Aor::from_uri(&uri, &self.aliases).ok()).ok_or_else(|| {
            Box::new(refusal(StatusCode::BAD_REQUEST, "aor: not an address-of-record such as sip:bob@example.com"))
        })
    }
}

/// `?aor=`
#[derive(Deserialize)]
struct Whose {
    aor: String,
}

/// An address-of-record and what is registered for it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Bindings {
    /// The address-of-record, canonical, without the scheme.
    pub aor: String,
    /// The shard that owns it.
    pub shard: u16,
    /// Its bindings, in the order in which they were made.
    pub bindings: Vec<BindingInfo>,
}

/// One binding. Push parameters are left out of `contact`, and of the push target only its service is named (P-105, P-109).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct BindingInfo {
    /// Names the binding within its address-of-record.
    pub key: u64,
    /// The Contact URI.
    pub contact: String,
    /// q, from 0 to 1.
    pub q: f32,
    /// `+sip.instance`.
    pub instance: Option<String>,
    /// `reg-id`.
    pub reg_id: Option<u32>,
    /// Path values, in order.
    pub path: Vec<String>,
    /// Call-ID of the REGISTER that touched it last.
    pub call_id: String,
    /// CSeq of that REGISTER.
    pub cseq: u32,
    /// REGISTERs that touched it.
    pub registered: u32,
    /// Seconds since the last of them.
    pub registered_ago: u64,
    /// Seconds left.
    pub expires_in: u64,
    /// The transport it came over, where it came over a flow of ours.
    pub transport: Option<String>,
    /// `open`, `gone`, `datagram`, or `none`.
    pub flow: String,
    /// Seconds since the phone was last heard on an open flow.
    pub heard_ago: Option<u64>,
    /// The push service that can wake it.
    pub push: Option<String>,
    /// Whether the push service has called its token dead.
    pub push_is_dead: bool,
}

async fn bindings(State(api): State<Api>, Query(Whose { aor }): Query<Whose>) -> Response {
    let Some(sources) = api.sources.get() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is starting");
    };
    let aor = match sources.read(&aor) {
        Ok(aor) => aor,
        Err(refusal) => return *refusal,
    };
    let shard = sources.registrar.shard_of(&aor);
    // What another node owns is shown as it is stored.
    let found = match api.cluster.get().filter(|cluster| cluster.is_elsewhere(&aor)) {
        Some(cluster) => cluster.stored(shard, &aor).await.map_err(|error| error.to_string()),
        None => sources.registrar.inspect(&aor).await.map_err(|busy| busy.to_string()),
    };
    match found {
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error),
        Ok(record) => Json(describe(&aor, shard, &record.unwrap_or_default(), &*sources.flows)).into_response(),
    }
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

fn describe(aor: &Aor, shard: u16, record: &Record, flows: &dyn FlowProbe) -> Bindings {
    #[allow(clippy::disallowed_methods)] // shown to people, decides nothing
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let bindings = record.live(unix).map(|binding| info(binding, unix, flows)).collect();
    Bindings { aor: aor.as_str().to_owned(), shard, bindings }
}

fn info(binding: &Binding, unix: u64, flows: &dyn FlowProbe) -> BindingInfo {
    let (flow, heard_ago) = match binding.flow.as_ref().map(|flow| flows.liveness(flow)) {
        None => ("none", None),
        Some(Liveness::Gone) => ("gone", None),
        Some(Liveness::Connectionless) => ("datagram", None),
        Some(Liveness::Elsewhere) => ("elsewhere", None),
        Some(Liveness::Open { last_heard }) => ("open", Some(age(last_heard))),
    };
    BindingInfo {
        key: binding.key.0,
        contact: target::strip(&binding.contact).into_owned(),
        q: f32::from(binding.q) / 1000.0,
        instance: binding.instance.clone(),
        reg_id: binding.reg_id,
        path: binding.path.clone(),
        call_id: binding.call_id.clone(),
        cseq: binding.cseq,
        registered: binding.generation,
        registered_ago: unix.saturating_sub(binding.registered_at),
        expires_in: binding.expires_at.saturating_sub(unix),
        transport: binding.flow.map(|flow| flow.transport().uri_param().to_owned()),
        flow: flow.to_owned(),
        heard_ago,
        push: binding.push.as_ref().map(|push| push.provider.as_str().to_owned()),
        push_is_dead: binding.dead_push.is_some() && binding.push.is_none(),
    }
}

fn age(instant: Instant) -> u64 {
    reveille_runtime::clock::now().saturating_duration_since(instant).as_secs()
}
