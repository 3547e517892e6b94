//! One connection: address, TCP, TLS with ALPN `h2`, HTTP/2 with keep-alive PINGs, all within one time limit.

use std::{
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::IntGauge;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::Notify};
use tokio_rustls::TlsConnector;

use super::Origin;
use crate::{Limits, Resolver};

/// Makes connections to one origin.
pub(crate) struct Connector {
    pub(super) origin: Origin,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) keep_alive_timeout: Duration,
    /// Open connections.
    pub(super) open: IntGauge,
}

impl Connector {
    pub(crate) fn new(
        origin: Origin,
        tls: Arc<ClientConfig>,
        resolver: Arc<dyn Resolver>,
        limits: &Limits,
        open: IntGauge,
    ) -> Self {
        Self {
            origin,
            tls,
            resolver,
            timeout: limits.connect_timeout,
            keep_alive: limits.keep_alive,
            keep_alive_timeout: limits.keep_alive_timeout,
            open,
        }
    }

    /// A connection's sender, and how many concurrent streams its peer allows, kept current; `changed` hears of a change.
    pub(super) async fn connect(&self, changed: &Arc<Notify>) -> Result<Connected, ConnectError> {
        tokio::time::timeout(self.timeout, self.try_connect(changed)).await.map_err(|_| ConnectError::TimedOut)?
    }

    async fn try_connect(&self, changed: &Arc<Notify>) -> Result<Connected, ConnectError> {
        let tcp = self.tcp().await?;
        let host = self.origin.bare_host().to_owned();
        let name = ServerName::try_from(host).map_err(|_| ConnectError::Address)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.map_err(ConnectError::Tls)?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::NotHttp2);
        }
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive_timeout)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(WINDOW)
            // Until the peer's SETTINGS say how many it allows: Apple allows one before the first authenticated push (P-149).
            .initial_max_send_streams(1)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(ConnectError::Http2)?;
        let allowed = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let (kept, changed) = (Arc::clone(&allowed), Arc::clone(changed));
        let open = Open::new(&self.open);
        tokio::spawn(async move {
            let _open = open;
            let ended = poll_fn(|cx| {
                let progress = Pin::new(&mut connection).poll(cx);
                let now = connection.current_max_send_streams();
                if kept.swap(now, Ordering::Relaxed) != now {
                    changed.notify_waiters();
                }
                progress
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "a connection to the push service ended");
            }
        });
        Ok((sender, allowed))
    }

    /// Tries the addresses in turn. A vetted address is the only one; otherwise each new connection looks up afresh (P-149).
    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let addresses = match (self.origin.address, self.origin.bare_host().parse::<IpAddr>()) {
            (Some(vetted), _) => vec![vetted],
            (None, Ok(literal)) => vec![literal],
            (None, Err(_)) => self.resolver.resolve(self.origin.bare_host()).await,
        };
        // So that a dead first address leaves time for the next.
        let each = self.timeout / u32::try_from(addresses.len().clamp(1, 3)).unwrap_or(1);
        let mut last = ConnectError::Address;
        for address in addresses {
            let address = SocketAddr::new(address, self.origin.port);
            match tokio::time::timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Without it a push may wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = ConnectError::Tcp(error),
                Err(_) => last = ConnectError::TimedOut,
            }
        }
        Err(last)
    }
}

type Connected = (SendRequest<Full<Bytes>>, Arc<AtomicUsize>);

/// Counts one connection while it lives, however its task ends.
struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("timed out")]
    TimedOut,
    #[error("the name has no address")]
    Address,
    #[error("TCP: {0}")]
    Tcp(std::io::Error),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("the peer does not speak HTTP/2")]
    NotHttp2,
    #[error("HTTP/2: {0}")]
    Http2(hyper::Error),
}

/// P-140.
const MAX_HEADERS: u32 = 16 * 1024;
/// Answers are small; a peer cannot make us buffer more.
const WINDOW: u32 = 64 * 1024;
