//! The links that a run can cut: a relay on the loopback interface before Redis, one for each node, and one before each node's
//! cluster listener. What passes a relay before a cluster listener belongs to two nodes; who called is found in `/proc`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::witness::Senders;
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
    /// From this node to Redis.
    Redis(usize),
    /// From any node to this one.
    Peer(usize),
}

/// The processes of the nodes that run, by the number of the node.
pub(crate) type Pids = Arc<Mutex<Vec<Option<u32>>>>;

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

impl Relay {
    /// Opens a relay on this address, at a port of the system's choice, that leads nowhere yet.
    pub(crate) async fn open(
        host: Ipv4Addr,
        route: Route,
        weather: watch::Receiver<Weather>,
        pids: Pids,
        senders: Senders,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let addr = listener.local_addr()?;
        let target = Arc::new(Mutex::new(None));
        let wanted = Arc::clone(&target);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let path = Path { route, caller: None, weather: weather.clone() };
                let (target, pids, senders) = (*wanted.lock(), Arc::clone(&pids), Arc::clone(&senders));
                tokio::spawn(carry(stream, target, path, pids, senders));
            }
        });
        Ok(Self { addr, target, task })
    }

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
    caller: Option<usize>,
    weather: watch::Receiver<Weather>,
}

impl Path {
    /// Waits until the link is as wanted, and says how it is then.
    async fn until(&mut self, wanted: impl Fn(Link) -> bool) -> Link {
        let (route, caller) = (self.route, self.caller);
        match self.weather.wait_for(|weather| wanted(link(weather, route, caller))).await {
            Ok(weather) => link(&weather, route, caller),
            Err(_) => Link::Cut,
        }
    }
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
        Route::Redis(node) => weather.redis.get(node).copied().unwrap_or_default(),
        Route::Peer(node) => {
            [Some(node), caller].into_iter().flatten().map(peer).max_by_key(badness).unwrap_or_default()
        }
    }
}

async fn carry(stream: TcpStream, target: Option<SocketAddr>, mut path: Path, pids: Pids, senders: Senders) {
    let Some(target) = target else { return };
    // Taken at once: whoever called has this life.
    let own = match path.route {
        Route::Redis(node) => pids.lock().get(node).copied().flatten().map(|pid| (node, pid)),
        Route::Peer(_) => None,
    };
    if matches!(path.route, Route::Peer(_))
        && let (Ok(caller), Ok(own)) = (stream.peer_addr(), stream.local_addr())
    {
        path.caller = tokio::task::spawn_blocking(move || caller_of(caller, own, &pids)).await.ok().flatten();
    }
    if path.until(|link| link != Link::Silent).await == Link::Cut {
        return;
    }
    let Ok(onward) = TcpStream::connect(target).await else { return };
    if let (Some(writer), Ok(from)) = (own, onward.local_addr()) {
        senders.lock().insert(from.port(), writer);
    }
    let _ = (stream.set_nodelay(true), onward.set_nodelay(true));
    let ((from_caller, to_caller), (from_target, to_target)) = (stream.into_split(), onward.into_split());
    let mut cut = path.clone();
    let both = async { tokio::join!(pump(from_caller, to_target, path.clone()), pump(from_target, to_caller, path)) };
    tokio::select! {
        _ = both => {}
        _ = cut.until(|link| link == Link::Cut) => {}
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

/// The node whose process has the other end of a connection, found by its socket's inode (proc_pid_net(5), proc_pid_fd(5)).
fn caller_of(caller: SocketAddr, own: SocketAddr, pids: &Pids) -> Option<usize> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (in_table(caller)?, in_table(own)?);
    let inode = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let matches = fields.next() == Some(&*local) && fields.next() == Some(&*remote);
        matches.then(|| fields.nth(6)).flatten()
    })?;
    let socket = format!("socket:[{inode}]");
    let pids = pids.lock().clone();
    let owns = |pid: &Option<u32>| {
        let Some(files) = pid.and_then(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok()) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
    };
    pids.iter().position(owns)
}

/// An IPv4 address as `/proc/net/tcp` writes it: the octets as one number of the machine's order.
fn in_table(addr: SocketAddr) -> Option<String> {
    let SocketAddr::V4(addr) = addr else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(route: Route) -> (watch::Sender<Weather>, Relay, TcpStream, TcpStream) {
        let (sender, weather) = watch::channel(Weather { redis: vec![Link::Open], peers: vec![Link::Open] });
        let pids: Pids = Arc::new(Mutex::new(vec![Some(std::process::id())]));
        let relay = Relay::open(Ipv4Addr::LOCALHOST, route, weather, pids, Senders::default()).await.unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        relay.lead(Some(server.local_addr().unwrap()));
        let client = TcpStream::connect(relay.addr).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (sender, relay, client, accepted)
    }

    #[tokio::test]
    async fn a_silent_link_holds_back_and_an_open_one_delivers() {
        let (weather, _relay, mut client, mut server) = pair(Route::Redis(0)).await;
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
        let (weather, relay, mut client, mut server) = pair(Route::Redis(0)).await;
        weather.send_modify(|weather| weather.redis[0] = Link::Cut);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let mut again = TcpStream::connect(relay.addr).await.unwrap();
        assert_eq!(again.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_slow_link_delivers_later() {
        let (weather, _relay, mut client, mut server) = pair(Route::Redis(0)).await;
        let delay = Duration::from_millis(80);
        weather.send_modify(|weather| weather.redis[0] = Link::Slow(delay));
        let sent = Instant::now();
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        assert!(sent.elapsed() >= delay);
    }

    #[tokio::test]
    async fn the_caller_of_a_peer_is_found_by_its_process() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = server.local_addr().unwrap();
        let client = TcpStream::connect(own).await.unwrap();
        let caller = client.local_addr().unwrap();
        let pids = |pid| Arc::new(Mutex::new(vec![None, pid]));
        assert_eq!(caller_of(caller, own, &pids(Some(std::process::id()))), Some(1));
        assert_eq!(caller_of(caller, own, &pids(None)), None);
    }

    #[test]
    fn the_worse_link_of_two_nodes_counts() {
        let weather = Weather { redis: vec![], peers: vec![Link::Open, Link::Cut, Link::Silent] };
        assert_eq!(link(&weather, Route::Peer(0), None), Link::Open);
        assert_eq!(link(&weather, Route::Peer(0), Some(2)), Link::Silent);
        assert_eq!(link(&weather, Route::Peer(2), Some(1)), Link::Cut);
    }
}
