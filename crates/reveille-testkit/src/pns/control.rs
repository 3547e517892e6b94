//! The lab's control port: plain HTTP/1.1 and JSON on the loopback interface, so that whoever tests from outside this process
//! can make up devices, decide what befalls their pushes, break the lab and read its counters. docs/lab-pns.md has the list.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Device, DeviceKind, LabError, LabPns, Listener, Provider, Verdict};

/// A control port; dropping it closes the port.
pub struct LabControl {
    addr: SocketAddr,
    acceptor: JoinHandle<()>,
}

struct Desk {
    lab: Arc<LabPns>,
    devices: Mutex<HashMap<u64, Device>>,
}

impl LabControl {
    /// Opens the port for a lab.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start(lab: Arc<LabPns>, addr: SocketAddr) -> Result<Self, LabError> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let desk = Arc::new(Desk { lab, devices: Mutex::default() });
        let acceptor = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::task::yield_now().await; // out of descriptors: let others close theirs
                    continue;
                };
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let desk = Arc::clone(&desk);
                        async move { Ok::<_, Infallible>(answer(&desk, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self { addr, acceptor })
    }

    /// Where the port is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for LabControl {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return reply(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "the body is too large" })),
    };
    let asked: Value = match body.is_empty() {
        true => Value::Null,
        false => match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(_) => return reply(StatusCode::BAD_REQUEST, &json!({ "error": "the body is not JSON" })),
        },
    };
    let found = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/counts") => Ok(counts(&desk.lab)),
        (&Method::GET, "/requests") => Ok(requests(&desk.lab)),
        (&Method::POST, "/devices") => new_device(desk, &asked),
        (&Method::GET, path) if path.starts_with("/devices/") => return wakes(desk, path),
        (&Method::POST, "/verdict") => set_verdict(&desk.lab, &asked),
        (&Method::POST, "/next") => set_next(&desk.lab, &asked),
        (&Method::POST, "/faults") => faults(&desk.lab, &asked).await,
        _ => return reply(StatusCode::NOT_FOUND, &json!({ "error": "no such path" })),
    };
    match found {
        Ok(value) => reply(StatusCode::OK, &value),
        Err(why) => reply(StatusCode::BAD_REQUEST, &json!({ "error": why })),
    }
}

fn reply(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn counts(lab: &LabPns) -> Value {
    let providers: serde_json::Map<String, Value> = Provider::ALL
        .into_iter()
        .map(|provider| {
            let counts = lab.counts(provider);
            let value = json!({
                "requests": counts.requests,
                "accepted": counts.accepted,
                "unauthenticated": counts.unauthenticated,
                "expired": counts.expired,
                "malformed": counts.malformed,
                "tokens_issued": counts.tokens_issued,
            });
            (provider.as_str().to_owned(), value)
        })
        .collect();
    json!({
        "providers": providers,
        "unauthenticated": lab.unauthenticated_total(),
        "connections": lab.connections(),
        "over_limit": lab.over_limit(),
    })
}

/// Without paths and bodies: both name the device.
fn requests(lab: &LabPns) -> Value {
    let one = |request: super::LabRequest| {
        json!({
            "provider": request.provider.as_str(),
            "status": request.status,
            "reason": request.reason,
            "headers": request.headers,
        })
    };
    lab.requests().into_iter().map(one).collect()
}

fn new_device(desk: &Desk, asked: &Value) -> Result<Value, &'static str> {
    let kind = text(asked, "kind").and_then(kind_of).ok_or("kind")?;
    let device = desk.lab.register_device(kind);
    let mut devices = desk.devices.lock();
    let id = devices.len() as u64 + 1;
    let value = json!({
        "id": id,
        "pn-provider": device.provider.as_str(),
        "pn-param": device.param,
        "pn-prid": device.prid,
    });
    devices.insert(id, device);
    Ok(value)
}

/// The pushes that reached a device since they were last asked for.
fn wakes(desk: &Desk, path: &str) -> Response<Full<Bytes>> {
    let id = path.strip_prefix("/devices/").and_then(|rest| rest.strip_suffix("/wakes")).and_then(|id| id.parse().ok());
    let mut devices = desk.devices.lock();
    let Some(device) = id.and_then(|id: u64| devices.get_mut(&id)) else {
        return reply(StatusCode::NOT_FOUND, &json!({ "error": "no such device" }));
    };
    let mut wakes = Vec::new();
    while let Ok(wake) = device.wakes.try_recv() {
        wakes.push(json!({
            "urgent": wake.urgent,
            "ttl": wake.ttl.map(|ttl| ttl.as_secs()),
            "headers": wake.headers,
            "body": String::from_utf8_lossy(&wake.body),
        }));
    }
    reply(StatusCode::OK, &Value::from(wakes))
}

fn set_verdict(lab: &LabPns, asked: &Value) -> Result<Value, &'static str> {
    let prid = text(asked, "pn-prid").ok_or("pn-prid")?;
    let verdict = verdict_of(asked)?;
    if lab.set_verdict(prid, verdict) { Ok(json!({})) } else { Err("no such device") }
}

fn set_next(lab: &LabPns, asked: &Value) -> Result<Value, &'static str> {
    let provider = text(asked, "provider").and_then(provider_of).ok_or("provider")?;
    let times = number(asked, "times").unwrap_or(1);
    lab.set_next(provider, verdict_of(asked)?, u32::try_from(times).map_err(|_| "times")?);
    Ok(json!({}))
}

async fn faults(lab: &LabPns, asked: &Value) -> Result<Value, &'static str> {
    let asked = asked.as_object().filter(|asked| !asked.is_empty()).ok_or("nothing is asked for")?;
    for (name, value) in asked {
        match (name.as_str(), value) {
            ("listener", Value::String(name)) => {
                lab.set_listener(Listener::from_name(name).ok_or("listener")?).await;
            }
            ("goaway", Value::Object(_)) => {
                let requests = number(value, "requests").and_then(|n| u32::try_from(n).ok()).ok_or("requests")?;
                lab.go_away_after(requests, number(value, "connections").unwrap_or(1));
            }
            ("drain", Value::Bool(true)) => lab.drain_connections(),
            ("cut", Value::Bool(true)) => lab.cut_connections(),
            ("mute", Value::Bool(true)) => lab.mute_connections(),
            ("revoke", Value::String(name)) => lab.revoke_credentials(provider_of(name).ok_or("revoke")?),
            _ => return Err("listener, goaway, drain, cut, mute and revoke are the faults there are"),
        }
    }
    Ok(json!({}))
}

fn kind_of(name: &str) -> Option<DeviceKind> {
    Some(match name {
        "apns" => DeviceKind::ApnsVoipRemote,
        "apns-voip" => DeviceKind::ApnsVoip,
        "apns-remote" => DeviceKind::ApnsRemote,
        "apns.dev" => DeviceKind::ApnsSandbox,
        "fcm" => DeviceKind::Fcm,
        "webpush" => DeviceKind::WebPush,
        "webhook" => DeviceKind::Webhook,
        _ => return None,
    })
}

fn provider_of(name: &str) -> Option<Provider> {
    Provider::ALL.into_iter().find(|provider| provider.as_str() == name)
}

fn verdict_of(asked: &Value) -> Result<Verdict, &'static str> {
    let millis = |name| number(asked, name).map(Duration::from_millis);
    Ok(match text(asked, "verdict").ok_or("verdict")? {
        "accept" => Verdict::Accept,
        "gone" => {
            let since = number(asked, "since").map(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
            Verdict::Gone { since: since.map(|at| at.ok_or("since")).transpose()? }
        }
        "not-found" => Verdict::NotFound,
        "refuse" => Verdict::Refuse,
        "throttle" => Verdict::Throttle { retry_after: number(asked, "retry_after").map(Duration::from_secs) },
        "unavailable" => Verdict::Unavailable,
        "html" => Verdict::Html(number(asked, "status").map_or(Ok(502), u16::try_from).map_err(|_| "status")?),
        "reset" => Verdict::Reset { processed: asked.get("processed").and_then(Value::as_bool).unwrap_or(false) },
        "credential-fault" => Verdict::CredentialFault,
        "expired-credential" => Verdict::ExpiredCredential,
        "blackhole" => Verdict::Blackhole,
        "delay" => Verdict::Delay(millis("ms").ok_or("ms")?),
        "slow" => Verdict::SlowAnswer(millis("ms").ok_or("ms")?),
        _ => return Err("verdict"),
    })
}

fn text<'a>(asked: &'a Value, name: &str) -> Option<&'a str> {
    asked.get(name)?.as_str()
}

fn number(asked: &Value, name: &str) -> Option<u64> {
    asked.get(name)?.as_u64()
}

const BODY: usize = 64 * 1024;
