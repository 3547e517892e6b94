//! The listener: TLS, HTTP/2, and each request to the provider its path names.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::device::{Provider, Wake};
use super::fault::Listener;
use super::keys::names;
use super::state::LabRequest;
use super::tamper::{Bend, Tamper};
use super::{Lab, LabError, apns, fcm, hook, webpush};
use crate::ca::IssuedCert;

/// Orders to the connections; each looks for a change of the counters it cares about.
#[derive(Clone, Default)]
pub(super) struct Control {
    pub(super) drains: u64,
    pub(super) cuts: u64,
    pub(super) mutes: u64,
    pub(super) listener: Listener,
    /// The next so many connections say GOAWAY after so many requests: (requests, connections).
    pub(super) goaway: Option<(u32, Arc<AtomicU64>)>,
    connections: Arc<AtomicU64>,
}

impl Control {
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An answer, and what it means for the counters.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    pub(super) fault: Option<Fault>,
    /// The pushes that were accepted: one, or as many as a batch holds.
    pub(super) wakes: Vec<Accepted>,
    /// Hold the answer back this long.
    pub(super) hold: Duration,
    /// End the stream with this instead of answering.
    pub(super) reset: Option<Reset>,
}

/// How a stream ends that gets no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// It was never processed.
    Refused,
    /// It was, and the answer is lost.
    Broken,
}

/// The token it was for, the wake-up, and its delay (`None`: it never arrives).
pub(super) type Accepted = (String, Wake, Option<Duration>);

/// What was wrong with a request, beyond a device's verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Unauthenticated,
    Expired,
    Malformed,
}

impl Answer {
    pub(super) fn new(status: u16, reason: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            reason,
            headers: Vec::new(),
            body: body.into(),
            fault: None,
            wakes: Vec::new(),
            hold: Duration::ZERO,
            reset: None,
        }
    }

    /// The page a gateway answers with.
    pub(super) fn html(status: u16) -> Self {
        let page = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
        Self::new(status, "Html", page).header("content-type", "text/html")
    }

    /// No answer at all.
    pub(super) fn reset(how: Reset) -> Self {
        Self { reset: Some(how), ..Self::new(500, "Reset", Bytes::new()) }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }
}

/// The TLS side: the lab's certificate, and ALPN h2 or no connection at all.
pub(super) fn tls_config(cert: &IssuedCert) -> Result<TlsAcceptor, LabError> {
    let tls = |error: &dyn std::fmt::Display| LabError::Tls(error.to_string());
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert.cert_pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| tls(&e))?;
    let key = PrivateKeyDer::from_pem_slice(cert.key_pem.as_bytes()).map_err(|e| tls(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| tls(&e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| tls(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The TLS sides of the lab: the sound one and two that no client should put up with.
#[derive(Clone)]
pub(super) struct Acceptors {
    pub(super) sound: TlsAcceptor,
    pub(super) unknown_root: TlsAcceptor,
    pub(super) wrong_name: TlsAcceptor,
}

/// Accepts connections until aborted. `listening` says whether the port is open.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Acceptors,
    lab: Arc<Lab>,
    mut control: watch::Receiver<Control>,
    listening: watch::Sender<bool>,
) {
    let Ok(addr) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    loop {
        let order = control.borrow_and_update().listener;
        if order == Listener::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
        }
        listening.send_replace(listener.is_some());
        let Some(open) = &listener else {
            if order == Listener::Refused {
                if control.changed().await.is_err() {
                    return;
                }
            } else {
                tokio::time::sleep(REBIND).await; // somebody else has the port for now
            }
            continue;
        };
        tokio::select! {
            changed = control.changed() => if changed.is_err() { return },
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &tls, &lab, &control),
                Err(_) => tokio::task::yield_now().await, // out of descriptors: let others close theirs
            }
        }
    }
}

fn admit(stream: TcpStream, tls: &Acceptors, lab: &Arc<Lab>, control: &watch::Receiver<Control>) {
    let order = control.borrow().listener;
    let tls = match order {
        Listener::Sound => &tls.sound,
        Listener::UnknownRoot => &tls.unknown_root,
        Listener::WrongName => &tls.wrong_name,
        Listener::Refused | Listener::Closed => return,
        Listener::NoTls => {
            tokio::spawn(async move {
                let mut stream = stream;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            });
            return;
        }
    };
    tokio::spawn(serve(stream, tls.clone(), Arc::clone(lab), control.clone()));
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, lab: Arc<Lab>, mut control: watch::Receiver<Control>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    // rustls refuses a client whose ALPN list lacks h2, but lets one without ALPN through.
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return;
    }
    let start = control.borrow_and_update().clone();
    start.connections.fetch_add(1, Ordering::Relaxed);
    let max_streams = lab.config.max_concurrent_streams;
    let bend = Arc::new(Bend {
        goaway_after: AtomicU32::new(goaway_after(&start)),
        mute: AtomicBool::new(false),
        first_limit: lab.config.streams_before_auth.map(|first| (first, max_streams)),
        lifted: AtomicBool::new(false),
        over_limit: Arc::clone(&lab.over_limit),
    });
    let bent = Arc::clone(&bend);
    let service = service_fn(move |request| handle(Arc::clone(&lab), Arc::clone(&bent), request));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(max_streams)
        .serve_connection(TokioIo::new(Tamper::new(stream, Arc::clone(&bend))), service);
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            changed = control.changed() => {
                let Ok(()) = changed else { return };
                let now = control.borrow_and_update().clone();
                if now.cuts != start.cuts {
                    return;
                }
                if now.mutes != start.mutes {
                    bend.mute.store(true, Ordering::Release);
                }
                if now.drains != start.drains {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// After how many requests this connection says GOAWAY; takes one of those ordered.
fn goaway_after(control: &Control) -> u32 {
    let Some((requests, connections)) = &control.goaway else { return u32::MAX };
    let left = |left: u64| left.checked_sub(1);
    match connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
        Ok(_) => *requests,
        Err(_) => u32::MAX,
    }
}

const REBIND: Duration = Duration::from_millis(20);

/// Pushes may not be larger than this in any of the services, with room to say so; a batch of a webhook may.
const BODY: usize = 1024 * 1024;

async fn handle(
    lab: Arc<Lab>,
    bend: Arc<Bend>,
    request: http::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, h2::Error> {
    let (parts, body) = request.into_parts();
    let provider = provider_of(&parts.uri);
    let (answer, body) = match Limited::new(body, BODY).collect().await {
        Ok(body) => dispatch(&lab, &parts, body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            (Answer::new(413, "TooLarge", Bytes::new()).fault(Fault::Malformed), Bytes::new())
        }
        // The connection or the stream ended: nobody is there to answer, and nobody broke a rule.
        Err(_) => return Ok(Response::new(Full::default())),
    };
    if let Some(provider) = provider {
        account(&lab, provider, &parts, body, &answer);
    }
    if !matches!(answer.fault, Some(Fault::Unauthenticated | Fault::Expired)) && parts.uri.path() != "/token" {
        bend.lifted.store(true, Ordering::Release);
    }
    if answer.hold > Duration::ZERO {
        tokio::time::sleep(answer.hold).await;
    }
    if let Some(provider) = provider {
        for (token, wake, delay) in answer.wakes {
            lab.state.deliver(provider, &token, wake, delay);
        }
    }
    match answer.reset {
        Some(Reset::Refused) => return Err(h2::Reason::REFUSED_STREAM.into()),
        Some(Reset::Broken) => return Err(h2::Reason::CANCEL.into()),
        None => {}
    }
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        if let Ok(value) = http::HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn dispatch(lab: &Lab, parts: &Parts, body: Bytes) -> (Answer, Bytes) {
    let path = parts.uri.path();
    let answer = if path == "/token" {
        fcm::token(lab, parts, &body)
    } else {
        match provider_of(&parts.uri) {
            Some(Provider::Apns) => apns::push(lab, Provider::Apns, parts, &body),
            Some(Provider::ApnsSandbox) => apns::push(lab, Provider::ApnsSandbox, parts, &body),
            Some(Provider::Fcm) => fcm::push(lab, parts, &body),
            Some(Provider::WebPush) => webpush::push(lab, parts, &body),
            Some(Provider::Webhook) => hook::push(lab, parts, &body),
            None => Answer::new(404, "NoSuchPath", Bytes::new()),
        }
    };
    (answer, body)
}

fn provider_of(uri: &http::Uri) -> Option<Provider> {
    match uri.path() {
        "/token" => Some(Provider::Fcm),
        "/hook" => Some(Provider::Webhook),
        path if path.starts_with("/3/") => {
            Some(if uri.host() == Some(names::APNS_SANDBOX_HOST) { Provider::ApnsSandbox } else { Provider::Apns })
        }
        path if path.starts_with("/v1/") => Some(Provider::Fcm),
        path if path.starts_with("/push/") => Some(Provider::WebPush),
        _ => None,
    }
}

fn account(lab: &Lab, provider: Provider, parts: &Parts, body: Bytes, answer: &Answer) {
    let token_request = parts.uri.path() == "/token";
    let accepted = answer.wakes.len() as u64;
    lab.state.count(provider, |counts| {
        match answer.fault {
            Some(Fault::Unauthenticated) => counts.unauthenticated += 1,
            Some(Fault::Expired) => counts.expired += 1,
            Some(Fault::Malformed) => counts.malformed += 1,
            None => {}
        }
        let success = answer.status.is_success();
        if token_request {
            counts.tokens_issued += u64::from(success);
        } else {
            counts.requests += 1;
            // A batch is as many pushes as were accepted of it.
            counts.accepted += if provider == Provider::Webhook { accepted } else { u64::from(success) };
        }
    });
    if lab.config.log_requests && !token_request {
        lab.state.record(LabRequest {
            at: Instant::now(),
            provider,
            path: parts.uri.path_and_query().map_or_else(String::new, |path| path.as_str().to_owned()),
            status: answer.status.as_u16(),
            reason: answer.reason,
            issued: apns::issued(&parts.headers),
            headers: plain_headers(&parts.headers, |name| name != "authorization"),
            body,
        });
    }
}

/// The headers whose name `keep` accepts, as text.
pub(super) fn plain_headers(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .filter(|(name, _)| keep(name.as_str()))
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

/// A header's value where it is there once and is text.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}
