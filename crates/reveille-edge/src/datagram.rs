//! The core of a datagram listener: one task reads, parses and delivers; sending needs no task unless the socket is busy.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use reveille_proxy::{
    egress::SendError,
    ingress::{Hold, Inbound, Purpose},
};
use reveille_registrar::flow::{FlowRef, NodeTag, Transport};
use reveille_sip::{message::Message, method::Method, response::best_effort};
use tokio::{
    net::UdpSocket,
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    answer,
    flows::Core,
    keepalive::{self, Datagram},
    limits::PeerRates,
    listener::Phase,
    metrics::{DatagramDrop, Metrics},
    socket::{canonical, mapped},
};

/// The sending side of a datagram listener.
pub(crate) struct DatagramSender {
    socket: UdpSocket,
    is_v6: bool,
    metrics: Arc<Metrics>,
    backlog: Mutex<VecDeque<(SocketAddr, Bytes)>>,
    pending: Notify,
}

impl DatagramSender {
    pub(crate) fn new(socket: UdpSocket, is_v6: bool, metrics: Arc<Metrics>) -> Self {
        Self { socket, is_v6, metrics, backlog: Mutex::default(), pending: Notify::new() }
    }

    /// Sends at once, or queues while the socket is busy. A full queue loses the datagram, as the network might.
    pub(crate) fn send(&self, remote: SocketAddr, message: Bytes) -> Result<(), SendError> {
        let mut backlog = self.backlog.lock();
        if backlog.is_empty() {
            match self.try_send(remote, &message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // No route, too long: it will not go by this way later either.
                    tracing::debug!(%remote, %error, "datagram not sent");
                    self.metrics.datagram_dropped(DatagramDrop::SendFailed);
                    return Err(SendError::Gone);
                }
                Ok(()) => return Ok(()),
            }
        }
        if backlog.len() >= BACKLOG {
            self.metrics.datagram_dropped(DatagramDrop::QueueFull);
            return Ok(());
        }
        backlog.push_back((remote, message));
        drop(backlog);
        self.pending.notify_one();
        Ok(())
    }

    fn try_send(&self, remote: SocketAddr, octets: &[u8]) -> io::Result<()> {
        let remote = if self.is_v6 { mapped(remote) } else { remote };
        self.socket.try_send_to(octets, remote).map(drop)
    }

    /// Sends what had to wait. Ends when the edge stops.
    pub(crate) async fn flush(self: Arc<Self>, mut phase: watch::Receiver<Phase>) {
        loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => return,
                () = self.pending.notified() => {}
            }
            while let Some((remote, message)) = self.take() {
                if let Err(error) = self.try_send(remote, &message) {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.backlog.lock().push_front((remote, message));
                        if self.socket.writable().await.is_err() {
                            return;
                        }
                    } else {
                        self.metrics.datagram_dropped(DatagramDrop::SendFailed);
                    }
                }
            }
        }
    }

    fn take(&self) -> Option<(SocketAddr, Bytes)> {
        self.backlog.lock().pop_front()
    }
}

/// The receiving side of a datagram listener.
pub(crate) struct DatagramReader {
    pub(crate) index: u16,
    pub(crate) node: NodeTag,
    pub(crate) purpose: Purpose,
    pub(crate) sender: Arc<DatagramSender>,
    pub(crate) core: Arc<Core>,
}

impl DatagramReader {
    /// Reads until the edge stops; a draining edge goes on answering.
    pub(crate) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let limits = &self.core.limits;
        let rate = if self.purpose == Purpose::Public { limits.messages_per_flow } else { 0 };
        let mut rates = PeerRates::new(rate, limits.messages_burst, Instant::now().into_std());
        let mut space = vec![0_u8; LONGEST].into_boxed_slice();
        loop {
            tokio::select! {
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => return,
                ready = self.sender.socket.readable() => if ready.is_err() { return },
            }
            for _ in 0..BATCH {
                match self.sender.socket.try_recv_from(&mut space) {
                    Ok((length, remote)) => {
                        let datagram = space.get(..length).unwrap_or_default();
                        // The listener must outlive whatever one datagram does to us, as other connections outlive one.
                        let taken =
                            catch_unwind(AssertUnwindSafe(|| self.take(datagram, canonical(remote), &mut rates)));
                        if taken.is_err() {
                            self.core.metrics.datagram_dropped(DatagramDrop::Fault);
                            tracing::error!("a fault of ours in taking a datagram");
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The fault of an earlier datagram of ours, reported here; nothing to do with reading.
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(&self, datagram: &[u8], remote: SocketAddr, rates: &mut PeerRates) {
        let now = Instant::now().into_std();
        let sorted = keepalive::sort(datagram, remote);
        if sorted == Datagram::Filler {
            return;
        }
        let metrics = &self.core.metrics;
        if !rates.allow(remote, now) && !self.core.admission.is_exempt(remote.ip()) {
            metrics.datagram_dropped(DatagramDrop::Rate);
            return;
        }
        if let Datagram::Stun(answer) = sorted {
            if let Some(answer) = answer {
                metrics.keepalives_stun.inc();
                let _ = self.sender.send(remote, Bytes::copy_from_slice(answer.as_ref()));
            }
            return;
        }
        let transport = metrics.transport(Transport::Udp);
        transport.messages_in.inc();
        let message = match Message::parse(Bytes::copy_from_slice(datagram), &self.core.sip) {
            Ok(message) => message,
            Err(error) => {
                metrics.rejected(Transport::Udp, error.status);
                tracing::debug!(%remote, status = error.status, reason = error.reason, "unreadable datagram");
                // S-020; nothing where the head says neither request nor whither (S-233).
                if let Some(answer) = best_effort(datagram, error.status, error.reason) {
                    let _ = self.sender.send(remote, answer);
                }
                return;
            }
        };
        let flow = FlowRef::Datagram { node: self.node, listener: self.index, remote };
        let is_owed = message.is_request() && message.method() != Method::Ack;
        let hold = is_owed.then(|| Hold::on(self.core.table.datagrams_in_hand(), message.method())).flatten();
        let inbound =
            Inbound { message, flow, remote, purpose: self.purpose, transport: Transport::Udp, received: now, hold };
        if let Err(refused) = self.core.ingress.deliver(inbound) {
            transport.overloaded.inc();
            if let Some(answer) = answer::overloaded(&refused.message, remote, &self.core.limits) {
                let _ = self.sender.send(answer::datagram_target(&refused.message, remote), answer);
            }
        }
    }
}

/// No datagram is longer.
const LONGEST: usize = 65_535;
/// Datagrams read before other tasks get their turn.
const BATCH: usize = 64;
/// Datagrams that wait for a busy socket.
const BACKLOG: usize = 1_024;
