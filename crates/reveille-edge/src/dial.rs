//! Connections that we open. What is sent to one before it stands waits in its queue; one that cannot be made is a flow that
//! closed.

use std::{io, sync::Arc};

use reveille_proxy::egress::Destination;
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

/// Whether connections of this transport can be opened at all.
pub(crate) fn can_dial(core: &Core, transport: Transport) -> bool {
    match transport {
        Transport::Tcp => true,
        Transport::Tls => core.client_tls.is_some(),
        Transport::Udp | Transport::Ws | Transport::Wss | Transport::Quic => false,
    }
}

/// Connects, then drives the connection.
pub(crate) async fn dial(destination: Destination, registration: Registration, core: Arc<Core>) {
    let link = Arc::clone(registration.link());
    let connecting = Box::pin(tokio::time::timeout(core.timeouts.connect, connect(&destination, &link, &core)));
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
    match (destination.transport, &core.client_tls) {
        (Transport::Tcp, _) => Ok(Connected::Tcp(tcp)),
        (Transport::Tls, Some(tls)) => {
            let begun = Instant::now();
            let done = handshake(tcp, destination, tls.current()).await;
            match &done {
                Ok(_) => core.metrics.handshake(Side::Client).observe(begun.elapsed().as_secs_f64()),
                Err(error) => core.metrics.handshake_failed(Side::Client, tls::failure(error)),
            }
            done.map(|stream| Connected::Tls(Box::new(stream)))
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

async fn handshake(
    tcp: TcpStream,
    destination: &Destination,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    // A name is sent as SNI (S-162); an address is looked for in the certificate.
    let name = match &destination.server_name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        None => ServerName::IpAddress(destination.address.ip().into()),
    };
    TlsConnector::from(config).connect(name, tcp).await
}
