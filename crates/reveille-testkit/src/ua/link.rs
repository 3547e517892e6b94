//! The phone's one connection to its proxy: a task that owns the socket, and a handle that feeds it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rsip::common::uri::Param;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use super::PhoneError;
use super::agent::Agent;
use super::compose::param;
use super::wire::{Item, SipMessage, next_item};

/// How a phone reaches its proxy.
#[derive(Clone)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream in the clear.
    Tcp,
    /// A TLS stream; the configuration is shared by phones that use the same one, and with it resumption.
    Tls {
        /// Trust and sessions.
        config: Arc<rustls::ClientConfig>,
        /// The name the proxy's certificate must carry.
        server_name: ServerName<'static>,
    },
}

impl Transport {
    /// TLS that trusts one root, given as PEM.
    ///
    /// # Errors
    /// When the PEM or the name cannot be used.
    pub fn tls(ca_pem: &str, server_name: &str) -> Result<Self, PhoneError> {
        let tls = |error: &dyn std::fmt::Display| PhoneError::Tls(error.to_string());
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(cert.map_err(|e| tls(&e))?).map_err(|e| tls(&e))?;
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| tls(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server_name = ServerName::try_from(server_name.to_owned()).map_err(|e| tls(&e))?;
        Ok(Self::Tls { config: Arc::new(config), server_name })
    }

    /// The token in Via.
    pub(super) fn via(&self) -> rsip::Transport {
        match self {
            Self::Udp => rsip::Transport::Udp,
            Self::Tcp => rsip::Transport::Tcp,
            Self::Tls { .. } => rsip::Transport::Tls,
        }
    }

    /// The URI parameter in Contact.
    pub(super) fn uri_param(&self) -> Option<Param> {
        match self {
            Self::Udp => None,
            Self::Tcp => Some(param("transport", Some("tcp"))),
            Self::Tls { .. } => Some(param("transport", Some("tls"))),
        }
    }

    pub(super) fn is_reliable(&self) -> bool {
        !matches!(self, Self::Udp)
    }
}

/// Orders to the task.
enum Command {
    Send(Bytes),
    Freeze,
    Close(oneshot::Sender<()>),
}

/// The handle; when the last one is dropped, the task ends and the socket closes.
#[derive(Clone)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    /// Our address on this connection.
    pub(super) local: SocketAddr,
    /// Tells this connection from earlier ones.
    pub(super) serial: u64,
}

/// Messages that may wait for a slow peer.
const QUEUE: usize = 1024;

impl Link {
    /// Connects; received items go to `agent`.
    pub(super) async fn open(
        server: SocketAddr,
        transport: &Transport,
        agent: &Arc<Agent>,
        serial: u64,
    ) -> Result<Self, PhoneError> {
        let (commands, orders) = mpsc::channel(QUEUE);
        let agent = Arc::clone(agent);
        let local = match transport {
            Transport::Udp => {
                let any: SocketAddr = if server.is_ipv4() {
                    ([127, 0, 0, 1], 0).into()
                } else {
                    (std::net::Ipv6Addr::LOCALHOST, 0).into()
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(server).await?;
                let local = socket.local_addr()?;
                tokio::spawn(run_datagram(socket, orders, agent, serial));
                local
            }
            Transport::Tcp => {
                let stream = connect(server).await?;
                let local = stream.local_addr()?;
                tokio::spawn(run_stream(stream, orders, agent, serial));
                local
            }
            Transport::Tls { config, server_name } => {
                let stream = connect(server).await?;
                let local = stream.local_addr()?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(server_name.clone(), stream).await?;
                tokio::spawn(run_stream(stream, orders, agent, serial));
                local
            }
        };
        Ok(Self { commands, local, serial })
    }

    /// Queues bytes; `false` when the connection is gone or its queue full.
    pub(super) fn send(&self, bytes: Bytes) -> bool {
        self.commands.try_send(Command::Send(bytes)).is_ok()
    }

    /// Stops reading for good but keeps the socket: the peer sees neither data nor FIN.
    pub(super) async fn freeze(&self) {
        let _ = self.commands.send(Command::Freeze).await;
    }

    /// Flushes, closes and waits until that is done.
    pub(super) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn run_stream<S>(mut stream: S, mut orders: mpsc::Receiver<Command>, agent: Arc<Agent>, serial: u64)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(8192);
    let mut frozen = false;
    loop {
        let before = buffer.len();
        tokio::select! {
            read = stream.read_buf(&mut buffer), if !frozen => {
                if !matches!(read, Ok(1..)) {
                    break;
                }
                agent.record(buffer.get(before..).unwrap_or_default());
                while let Some(item) = next_item(&mut buffer) {
                    match item {
                        Item::Message(message) => agent.receive(message),
                        Item::Pong => agent.pong(),
                    }
                }
            }
            order = orders.recv() => match order {
                Some(Command::Send(bytes)) => {
                    if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                        break;
                    }
                }
                Some(Command::Freeze) => frozen = true,
                Some(Command::Close(done)) => {
                    let _ = stream.shutdown().await;
                    drop(stream);
                    agent.link_closed(serial);
                    let _ = done.send(());
                    return;
                }
                None => break,
            }
        }
    }
    drop(stream);
    agent.link_closed(serial);
}

async fn run_datagram(socket: UdpSocket, mut orders: mpsc::Receiver<Command>, agent: Arc<Agent>, serial: u64) {
    let mut buffer = vec![0; 65_536];
    let mut frozen = false;
    loop {
        tokio::select! {
            read = socket.recv(&mut buffer), if !frozen => {
                // An ICMP error of an earlier send shows up here; the socket lives on.
                let Ok(length) = read else { continue };
                let datagram = buffer.get(..length).unwrap_or_default();
                agent.record(datagram);
                match SipMessage::parse(datagram, false) {
                    Some((message, _)) => agent.receive(message),
                    None => agent.pong(),
                }
            }
            order = orders.recv() => match order {
                Some(Command::Send(bytes)) => { let _ = socket.send(&bytes).await; }
                Some(Command::Freeze) => frozen = true,
                Some(Command::Close(done)) => {
                    agent.link_closed(serial);
                    drop(socket);
                    let _ = done.send(());
                    return;
                }
                None => break,
            }
        }
    }
    agent.link_closed(serial);
}
