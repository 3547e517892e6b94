//! What a node says of the cluster it is part of.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use reveille_proxy::peers::{Home, Peers};
use reveille_redis::RedisStore;
use reveille_registrar::{Aor, NodeTag, Record, Replica, StoreError};
use serde::Deserialize;
use serde_json::json;

use super::{Api, Whose, refusal};
use crate::cluster::{StatusSource, View};

/// What is known of the cluster; given to [`Api::join`].
pub struct Cluster {
    /// The driver.
    pub status: StatusSource,
    /// Who owns what.
    pub view: Arc<View>,
    /// The store that all nodes share.
    pub store: Arc<RedisStore>,
}

impl Cluster {
    /// The record of an address-of-record that another node owns, as it is stored.
    pub(super) async fn stored(&self, shard: u16, aor: &Aor) -> Result<Option<Record>, StoreError> {
        let value = self.store.read(shard, aor).await?;
        Ok(value.and_then(|value| Record::decode(&value).ok()))
    }

    pub(super) fn is_elsewhere(&self, aor: &Aor) -> bool {
        self.view.home(aor) != Home::Here
    }
}

pub(super) async fn status(State(api): State<Api>) -> Response {
    let Some(cluster) = api.cluster.get() else { return alone() };
    match cluster.status.status().await {
        Some(status) => Json(status.with_standbys(&cluster.store).await).into_response(),
        None => refusal(StatusCode::SERVICE_UNAVAILABLE, "the node stops"),
    }
}

/// `?node=`
#[derive(Deserialize)]
pub(super) struct Which {
    node: String,
}

/// Has a node give its shards away and end. It has begun to when it hears of it, which is not waited for.
pub(super) async fn drain(State(api): State<Api>, Query(Which { node }): Query<Which>) -> Response {
    if *node == *api.node {
        api.drain_asked.notify_one();
        return accepted(&node);
    }
    let Some(cluster) = api.cluster.get() else { return alone() };
    let status = cluster.status.status().await;
    match status.and_then(|status| status.nodes.into_iter().find(|other| other.id == node)) {
        Some(other) => {
            cluster.status.ask_to_drain(NodeTag(other.tag));
            accepted(&node)
        }
        None => refusal(StatusCode::NOT_FOUND, "node: no such node has a lease"),
    }
}

fn accepted(node: &str) -> Response {
    (StatusCode::ACCEPTED, Json(json!({ "node": node, "state": "asked to drain" }))).into_response()
}

pub(super) async fn home(State(api): State<Api>, Query(Whose { aor }): Query<Whose>) -> Response {
    let (Some(cluster), Some(sources)) = (api.cluster.get(), api.sources.get()) else { return alone() };
    let aor = match sources.read(&aor) {
        Ok(aor) => aor,
        Err(refusal) => return *refusal,
    };
    let tag = match cluster.view.home(&aor) {
        Home::Here => Some(cluster.view.own()),
        Home::At(tag) => Some(tag),
        Home::Nowhere => None,
    };
    let status = cluster.status.status().await;
    let name = status.zip(tag).and_then(|(status, tag)| status.nodes.into_iter().find(|node| node.tag == tag.0));
    Json(json!({
        "aor": aor.as_str(),
        "shard": sources.registrar.shard_of(&aor),
        "node": name.map(|node| node.id),
    }))
    .into_response()
}

fn alone() -> Response {
    refusal(StatusCode::NOT_FOUND, "this node is not part of a cluster, or has not joined it yet")
}
