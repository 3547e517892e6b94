//! The port for operators and their tools: metrics, health and, behind a token, the API.
//!
//! Liveness looks only at the process itself. Readiness is a set of reasons not to send traffic here: while it is empty the
//! node is ready.

pub mod api;
mod health;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
pub use health::{Health, Reason};
use prometheus::Registry;
use reveille_runtime::metrics;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::config;

/// The admin port, open.
#[derive(Debug)]
pub struct AdminServer {
    addr: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

impl AdminServer {
    /// Binds the port and serves until `stop`. `api` is nested under `/api` behind the bearer token.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn start(
        settings: &config::Admin,
        registry: Registry,
        health: Health,
        api: Router,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.addr).await?;
        let addr = listener.local_addr()?;
        let door = match &settings.token_file {
            Some(path) => Door::Token(path.clone()),
            None => Door::from_address(addr.ip()),
        };
        let app = router(registry, health, api, door);
        let serving = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
        let task = tokio::spawn(async move { serving.await });
        Ok(Self { addr, task })
    }

    /// The address bound, with the port the system chose where the configuration left it open.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the last answer is out. Ends only after `stop`.
    pub async fn stopped(self) {
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the admin port failed"),
            Err(error) => tracing::warn!(%error, "the admin task failed"),
        }
    }
}

/// Who is let in to the API.
#[derive(Clone, Debug)]
enum Door {
    /// Whoever shows the token in this file, which is read anew each time, so that it can be changed.
    Token(PathBuf),
    /// Everybody: the port is on a loopback address.
    Open,
    /// Nobody: there is no token, and the port can be reached from elsewhere.
    Shut,
}

impl Door {
    fn from_address(address: IpAddr) -> Self {
        if address.is_loopback() { Self::Open } else { Self::Shut }
    }
}

fn router(registry: Registry, health: Health, api: Router, door: Door) -> Router {
    let api = api.layer(middleware::from_fn_with_state(Arc::new(door), guard));
    Router::new()
        .route("/metrics", get(show_metrics).with_state(registry))
        .route("/health/live", get(|| async { Json(json!({ "status": "live" })) }))
        .route("/health/ready", get(show_readiness).with_state(health))
        .nest("/api", api)
}

async fn show_metrics(State(registry): State<Registry>) -> Response {
    match metrics::encode(&registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_readiness(State(health): State<Health>) -> Response {
    let reasons = health.reasons();
    if reasons.is_empty() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let reasons: Vec<_> = reasons.iter().map(|reason| reason.as_str()).collect();
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reasons": reasons }))).into_response()
}

async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match &*door {
        Door::Open => next.run(request).await,
        Door::Shut => {
            let error = "the API needs admin.token_file, or an admin.addr that is a loopback address";
            (StatusCode::FORBIDDEN, Json(json!({ "error": error }))).into_response()
        }
        Door::Token(path) => {
            let expected = tokio::fs::read(path).await.unwrap_or_default();
            if is_bearer(request.headers(), expected.trim_ascii()) {
                return next.run(request).await;
            }
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, Json(json!({ "error": "a bearer token is required" })))
                .into_response()
        }
    }
}

fn is_bearer(headers: &HeaderMap, expected: &[u8]) -> bool {
    let Some((scheme, token)) = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer")
        && expected.len() >= SHORTEST_TOKEN
        && bool::from(token.trim().as_bytes().ct_eq(expected))
}

/// A shorter token, or an empty file, opens nothing.
pub(crate) const SHORTEST_TOKEN: usize = 16;

#[cfg(test)]
mod tests;
