//! The links that a run can cut: a relay on the loopback interface before each server of Redis, and one before each node's cluster
//! listener.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    callers::{Caller, Callers},
    witness::Senders,
};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// How a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    /// What is sent arrives.
    #[default]
    Open,
    /// What is sent arrives so much later.
    Slow(Duration),
    /// What is sent arrives when the link is open again, and nobody is told.
    Silent,
    /// Connections are closed, and new ones too.
    Cut,
}

/// All links, by the number of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// Between a node and Redis.
    pub(crate) redis: Vec<Link>,
    /// Between a node and all its peers.
    pub(crate) peers: Vec<Link>,
}

/// Whose link a relay is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// From whoever calls to a server of Redis, a Sentinel, or the present master.
    Redis,
    /// From any node to this one.
    Peer(usize),
}

/// What all relays share.
#[derive(Clone)]
pub(crate) struct Relays {
    /// How the links are.
    pub(crate) weather: watch::Receiver<Weather>,
    /// Who called.
    pub(crate) callers: Callers,
    /// Told of the nodes' connections to Redis.
    pub(crate) senders: Senders,
}

/// A relay; its port stays while it lives.
pub(crate) struct Relay {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Pieces on the way in one direction: the sender is held up beyond, as by a full window.
const IN_FLIGHT: usize = 64;
/// Octets in a piece.
const PIECE: usize = 16 * 1024;

impl Relays {
    /// Opens a relay on this address, at a port of the system's choice, that leads nowhere yet.
    pub(crate) fn open(&self, host: Ipv4Addr, route: Route) -> std::io::Result<Relay> {
        let listener = std::net::TcpListener::bind((host, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        let target = Arc::new(Mutex::new(None));
        let (wanted, relays) = (Arc::clone(&target), self.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (known, caller) = watch::channel(None);
                let path = Path { route, caller, weather: relays.weather.clone() };
                let (target, relays) = (*wanted.lock(), relays.clone());
                tokio::spawn(carry(stream, target, path, known, relays));
            }
        });
        Ok(Relay { addr, target, task })
    }
}

impl Relay {
    /// Leads new connections there, or nowhere.
    pub(crate) fn lead(&self, target: Option<SocketAddr>) {
        *self.target.lock() = target;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one connection runs over.
#[derive(Clone)]
struct Path {
    route: Route,
    /// The node that called, if it was one, once that is known.
    caller: watch::Receiver<Option<Option<usize>>>,
    weather: watch::Receiver<Weather>,
}

impl Path {
    /// Waits until the link is as wanted, and says how it is then.
    async fn until(&mut self, wanted: impl Fn(Link) -> bool) -> Link {
        // Who called matters only while some link is bad.
        let is_calm = is_calm(&self.weather.borrow());
        if !is_calm {
            let _ = self.caller.wait_for(Option::is_some).await;
        }
        let (route, caller) = (self.route, self.caller.borrow().flatten());
        match self.weather.wait_for(|weather| wanted(link(weather, route, caller))).await {
            Ok(weather) => link(&weather, route, caller),
            Err(_) => Link::Cut,
        }
    }
}

/// Whether all is as it should be.
fn is_calm(weather: &Weather) -> bool {
    weather.redis.iter().chain(&weather.peers).all(|link| *link == Link::Open)
}

/// The worse of the links that a connection runs over.
fn link(weather: &Weather, route: Route, caller: Option<usize>) -> Link {
    let peer = |node: usize| weather.peers.get(node).copied().unwrap_or_default();
    let badness = |link: &Link| match link {
        Link::Open => 0,
        Link::Slow(_) => 1,
        Link::Silent => 2,
        Link::Cut => 3,
    };
    match route {
        // Servers of Redis reach each other always.
        Route::Redis => caller.and_then(|node| weather.redis.get(node).copied()).unwrap_or_default(),
        Route::Peer(node) => {
            [Some(node), caller].into_iter().flatten().map(peer).max_by_key(badness).unwrap_or_default()
        }
    }
}

async fn carry(
    stream: TcpStream,
    target: Option<SocketAddr>,
    mut path: Path,
    known: watch::Sender<Option<Option<usize>>>,
    relays: Relays,
) {
    let Some(target) = target else { return };
    let (Ok(caller), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else { return };
    // To find out who called takes long on a busy machine, so nothing waits for it that need not.
    let finding = tokio::spawn(async move {
        let found = relays.callers.of(caller, own).await;
        known.send_replace(Some(match found {
            Caller::Node(node, _) => Some(node),
            Caller::Other | Caller::Gone => None,
        }));
        (found, relays.senders)
    });
    if path.until(|link| link != Link::Silent).await == Link::Cut {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else { return };
    let Ok(from) = onward.local_addr() else { return };
    let is_redis = matches!(path.route, Route::Redis);
    // Not a part of what follows: what a connection brought is asked for when it is gone, too.
    let naming = tokio::spawn(async move {
        if let (true, Ok((caller, senders))) = (is_redis, finding.await) {
            senders.lock().insert((target.port(), from.port()), caller);
        }
    });
    let _ = (stream.set_nodelay(true), onward.set_nodelay(true));
    let ((from_caller, to_caller), (from_target, to_target)) = (stream.into_split(), onward.into_split());
    let mut cut = path.clone();
    let both = async { tokio::join!(pump(from_caller, to_target, path.clone()), pump(from_target, to_caller, path)) };
    let is_cut = async {
        let _ = naming.await;
        cut.until(|link| link == Link::Cut).await
    };
    tokio::select! {
        _ = both => {}
        _ = is_cut => {}
    }
}

/// One direction. The end of the stream is passed on like a piece.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut path: Path) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
    let read = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            match from.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send((Instant::now(), piece.freeze())).await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = pieces.recv().await {
            if let Link::Slow(delay) = path.until(|link| link != Link::Silent).await {
                sleep_until(at + delay).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        path.until(|link| link != Link::Silent).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(route: Route) -> (watch::Sender<Weather>, Relay, TcpStream, TcpStream) {
        let (sender, weather) = watch::channel(Weather { redis: vec![Link::Open], peers: vec![Link::Open] });
        let callers = Callers::new(1);
        callers.begins(0, std::process::id());
        let relays = Relays { weather, callers, senders: Senders::default() };
        let relay = relays.open(Ipv4Addr::LOCALHOST, route).unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        relay.lead(Some(server.local_addr().unwrap()));
        let client = TcpStream::connect(relay.addr).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (sender, relay, client, accepted)
    }

    #[tokio::test]
    async fn a_silent_link_holds_back_and_an_open_one_delivers() {
        let (weather, _relay, mut client, mut server) = pair(Route::Redis).await;
        weather.send_modify(|weather| weather.redis[0] = Link::Silent);
        client.write_all(b"late").await.unwrap();
        let mut heard = [0; 4];
        let early = tokio::time::timeout(Duration::from_millis(100), server.read_exact(&mut heard)).await;
        assert!(early.is_err(), "nothing passes a silent link");
        weather.send_modify(|weather| weather.redis[0] = Link::Open);
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"late");
    }

    #[tokio::test]
    async fn a_cut_closes_both_ends_and_new_connections() {
        let (weather, relay, mut client, mut server) = pair(Route::Redis).await;
        weather.send_modify(|weather| weather.redis[0] = Link::Cut);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let mut again = TcpStream::connect(relay.addr).await.unwrap();
        assert_eq!(again.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_slow_link_delivers_later() {
        let (weather, _relay, mut client, mut server) = pair(Route::Redis).await;
        let delay = Duration::from_millis(80);
        weather.send_modify(|weather| weather.redis[0] = Link::Slow(delay));
        let sent = Instant::now();
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        assert!(sent.elapsed() >= delay);
    }

    #[test]
    fn the_worse_link_of_two_nodes_counts() {
        let weather = Weather { redis: vec![Link::Open, Link::Cut], peers: vec![Link::Open, Link::Cut, Link::Silent] };
        assert_eq!(link(&weather, Route::Redis, Some(1)), Link::Cut);
        assert_eq!(link(&weather, Route::Redis, None), Link::Open, "a server of Redis");
        assert_eq!(link(&weather, Route::Peer(0), None), Link::Open);
        assert_eq!(link(&weather, Route::Peer(0), Some(2)), Link::Silent);
        assert_eq!(link(&weather, Route::Peer(2), Some(1)), Link::Cut);
    }
}
