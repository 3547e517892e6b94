//! Connections that we open. What is sent to one before it stands waits in its queue; one that cannot be made is a flow that
//! closed.

use std::{io, sync::Arc};

use reveille_proxy::{egress::Destination, ingress::Purpose};
use reveille_registrar::flow::Transport;
use reveille_sip::frame::Framer;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    flows::{Core, Link, Registration},
    metrics::Side,
    queue::CloseReason,
    stream, tls,
};

/// Whether connections of this transport can be opened at all. To other nodes there is TLS and nothing else (S-166).
pub(crate) fn can_dial(core: &Core, transport: Transport, purpose: Purpose) -> bool {
    match (transport, purpose) {
        (Transport::Tls, Purpose::Cluster) => core.cluster_tls.is_some(),
        (Transport::Tls, Purpose::Public | Purpose::Peer) => core.client_tls.is_some(),
        (Transport::Tcp, Purpose::Public | Purpose::Peer) => true,
        _ => false,
    }
}

/// Connects, then drives the connection.
pub(crate) async fn dial(destination: Destination, registration: Registration, core: Arc<Core>) {
    let link = Arc::clone(registration.link());
    let timeouts = &core.timeouts;
    let patience = match link.purpose {
        // As long as silence on a connection that stands would be borne.
        Purpose::Cluster => timeouts.connect.min(timeouts.cluster_ping + timeouts.cluster_pong),
        Purpose::Public | Purpose::Peer => timeouts.connect,
    };
    let connecting = Box::pin(tokio::time::timeout(patience, connect(&destination, &link, &core)));
    let connected = tokio::select! {
        reason = link.queue.closing() => return registration.end(reason),
        connected = connecting => connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(remote = %destination.address, %error, "connection failed");
            return registration.end(CloseReason::Connect);
        }
    };
    let framer = Framer::new(core.sip.clone());
    let runtime = core.runtime.clone();
    // A task of its own, so that the memory of the handshake is given back.
    match connected {
        Connected::Tcp(stream) => drop(runtime.spawn(stream::drive(stream, framer, registration, core, None))),
        Connected::Tls(stream) => drop(runtime.spawn(stream::drive(stream, framer, registration, core, None))),
    }
}

enum Connected {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

async fn connect(destination: &Destination, link: &Link, core: &Core) -> io::Result<Connected> {
    let tcp = TcpStream::connect(destination.address).await?;
    tcp.set_nodelay(true)?;
    if let Ok(local) = tcp.local_addr() {
        let _ = link.local.set(local);
    }
    match destination.transport {
        Transport::Tcp if link.purpose != Purpose::Cluster => Ok(Connected::Tcp(tcp)),
        Transport::Tls => {
            let (config, name) = verification(destination, link, core)?;
            let begun = Instant::now();
            let done = TlsConnector::from(config).connect(name, tcp).await;
            match &done {
                Ok(_) => core.metrics.handshake(Side::Client).observe(begun.elapsed().as_secs_f64()),
                Err(error) => core.metrics.handshake_failed(Side::Client, tls::failure(error)),
            }
            done.map(|stream| Connected::Tls(Box::new(stream)))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Whom to trust, and by which name.
fn verification(
    destination: &Destination,
    link: &Link,
    core: &Core,
) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    if link.purpose == Purpose::Cluster {
        let tls = core.cluster_tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        return Ok((tls.config.current(), tls.server_name.clone()));
    }
    let tls = core.client_tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
    // A name is sent as SNI (S-162); an address is looked for in the certificate.
    let name = match &destination.server_name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        None => ServerName::IpAddress(destination.address.ip().into()),
    };
    Ok((tls.current(), name))
}
