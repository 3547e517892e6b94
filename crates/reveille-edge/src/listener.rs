//! Accept loops of stream listeners.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reveille_proxy::ingress::Purpose;
use reveille_sip::frame::Framer;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    flows::{Core, Origin},
    limits::{Permit, TokenBucket},
    metrics::Side,
    socket::canonical,
    stream,
    tls::{self, Reloading},
};

/// How far the edge is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything is served.
    Running,
    /// No connection is accepted any more, except from other nodes: they have requests for those that are still open.
    Draining,
    /// Nor from other nodes.
    Leaving,
    /// Everything ends.
    Stopped,
}

/// A stream listener.
pub(crate) struct StreamListener {
    pub(crate) index: u16,
    pub(crate) purpose: Purpose,
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<ServerTls>,
}

/// The TLS of a listener.
#[derive(Clone)]
pub(crate) struct ServerTls {
    pub(crate) config: Arc<Reloading<ServerConfig>>,
    /// Names of which a client certificate must carry one; empty admits all.
    pub(crate) client_names: Arc<[String]>,
}

impl StreamListener {
    /// Accepts until the edge drains, and other nodes until it leaves them.
    pub(crate) async fn run(self, core: Arc<Core>, mut phase: watch::Receiver<Phase>) {
        let rate = core.limits.accepts;
        let mut bucket = TokenBucket::new(rate, Instant::now().into_std());
        let last = if self.purpose == Purpose::Cluster { Phase::Draining } else { Phase::Running };
        loop {
            let accepted = tokio::select! {
                _ = phase.wait_for(|phase| *phase > last) => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, remote)) => self.accepted(tcp, canonical(remote), &core),
                Err(error) => {
                    // Out of descriptors, mostly: what is open goes on, and trying at once again would only burn the core.
                    core.metrics.accept_errors.inc();
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            if rate != 0
                && let Some(debt) = bucket.charge(1, rate, rate, Instant::now().into_std())
            {
                // The rest waits in the kernel's queue, so a reconnect storm reaches us no faster than we can take it.
                tokio::time::sleep(debt).await;
            }
        }
    }

    fn accepted(&self, tcp: TcpStream, remote: SocketAddr, core: &Arc<Core>) {
        let now = Instant::now();
        let Ok(local) = tcp.local_addr().map(canonical) else { return };
        let permit = match core.admission.admit(remote, self.purpose, now.into_std()) {
            Ok(permit) => permit,
            Err(refusal) => return core.metrics.refused(refusal),
        };
        // Messages are written whole; waiting for more would only add delay.
        let _ = tcp.set_nodelay(true);
        let accepted =
            Accepted { index: self.index, purpose: self.purpose, remote, local, permit, core: Arc::clone(core) };
        match &self.tls {
            None => accepted.begin(tcp),
            Some(tls) => match core.admission.handshake(self.purpose) {
                Ok(place) => drop(tokio::spawn(accepted.handshake(tcp, tls.clone(), place))),
                Err(refusal) => core.metrics.refused(refusal),
            },
        }
    }
}

/// A connection that was let in.
struct Accepted {
    index: u16,
    purpose: Purpose,
    remote: SocketAddr,
    local: SocketAddr,
    permit: Permit,
    core: Arc<Core>,
}

impl Accepted {
    async fn handshake(self, tcp: TcpStream, tls: ServerTls, _place: OwnedSemaphorePermit) {
        let begun = Instant::now();
        let accepting = TlsAcceptor::from(tls.config.current()).accept(tcp);
        let metrics = &self.core.metrics;
        let stream = match tokio::time::timeout(self.core.timeouts.handshake, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(remote = %self.remote, %error, "TLS handshake failed");
                return metrics.handshake_failed(Side::Server, tls::failure(&error));
            }
            Err(_) => return metrics.handshake_failed(Side::Server, "timeout"),
        };
        if !is_admitted(&stream, &tls.client_names) {
            tracing::debug!(remote = %self.remote, "client certificate of nobody we know");
            return metrics.handshake_failed(Side::Server, "identity");
        }
        metrics.handshake(Side::Server).observe(begun.elapsed().as_secs_f64());
        // Boxed and in a task of its own, so that the memory of the handshake is given back.
        self.begin(Box::new(stream));
    }

    fn begin<S>(self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // A handshake may outlast the edge.
        if !self.core.table.is_running() {
            return;
        }
        let origin = Origin::Accepted { listener: self.index, local: self.local };
        let registration = self.core.table.register(&self.core, self.remote, self.purpose, origin);
        let framer = Framer::new(self.core.sip.clone());
        tokio::spawn(stream::drive(stream, framer, registration, self.core, Some(self.permit)));
    }
}

fn is_admitted(stream: &TlsStream<TcpStream>, names: &[String]) -> bool {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    names.is_empty() || certificates.first().is_some_and(|leaf| tls::carries_name(leaf, names))
}

/// An error of accept is retried after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
