//! Which node has the other end of a connection on this machine, found by its socket's inode (proc_pid_net(5), proc_pid_fd(5)).

use std::{collections::HashMap, fs, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A life of a node: its place, and its process.
pub(crate) type Writer = (usize, u32);

/// Who has the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// This node, with this process.
    Node(usize, u32),
    /// A process that is no node.
    Other,
    /// Nobody any more: the connection was closed before one looked.
    Gone,
}

/// How often a connection is looked for: the table changes while it is read, and a line may be missed.
const LOOKS: u32 = 2;

/// The processes of the nodes, and the connections they have.
#[derive(Clone)]
pub(crate) struct Callers {
    /// By the number of the node.
    pids: Arc<Mutex<Vec<Option<u32>>>>,
    seen: Arc<tokio::sync::Mutex<Option<Seen>>>,
}

/// All connections at one time, as the kernel writes their two ends, and the nodes they belong to. To read them takes so long that all
/// who ask meanwhile share the next reading.
struct Seen {
    begun: Instant,
    owners: HashMap<(String, String), Option<Writer>>,
}

impl Callers {
    /// For so many nodes, none of which runs.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { pids: Arc::new(Mutex::new(vec![None; nodes])), seen: Arc::default() }
    }

    /// A node has this process from now on.
    pub(crate) fn begins(&self, node: usize, pid: u32) {
        self.pids.lock()[node] = Some(pid);
    }

    /// A node has no process any more.
    pub(crate) fn ends(&self, node: usize) {
        self.pids.lock()[node] = None;
    }

    /// Who called `own` from `caller`.
    pub(crate) async fn of(&self, caller: SocketAddr, own: SocketAddr) -> Caller {
        let (Some(local), Some(remote)) = (in_table(caller), in_table(own)) else { return Caller::Other };
        let ends = (local, remote);
        for _ in 0..LOOKS {
            let asked = Instant::now();
            let mut seen = self.seen.lock().await;
            if seen.as_ref().is_none_or(|seen| seen.begun < asked) {
                let pids = self.pids.lock().clone();
                let begun = Instant::now();
                let owners = tokio::task::spawn_blocking(move || connections(&pids)).await.unwrap_or_default();
                *seen = Some(Seen { begun, owners });
            }
            if let Some(owner) = seen.as_ref().and_then(|seen| seen.owners.get(&ends)) {
                return owner.map_or(Caller::Other, |(node, pid)| Caller::Node(node, pid));
            }
        }
        Caller::Gone
    }
}

/// The state of a connection in the table.
const ESTABLISHED: &str = "01";

/// All connections by their two ends, and which of these processes have them.
fn connections(pids: &[Option<u32>]) -> HashMap<(String, String), Option<Writer>> {
    let mut sockets = HashMap::new();
    for (node, pid) in pids.iter().enumerate() {
        let Some((pid, files)) = pid.and_then(|pid| Some((pid, fs::read_dir(format!("/proc/{pid}/fd")).ok()?))) else {
            continue;
        };
        for link in files.flatten().filter_map(|file| fs::read_link(file.path()).ok()) {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            sockets.extend(inode.map(|inode| (inode.to_owned(), (node, pid))));
        }
    }
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let owned = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5).filter(|_| state == ESTABLISHED)?;
        Some(((local.to_owned(), remote.to_owned()), sockets.get(inode).copied()))
    });
    owned.collect()
}

/// An IPv4 address as `/proc/net/tcp` writes it: the octets as one number of the machine's order.
fn in_table(addr: SocketAddr) -> Option<String> {
    let SocketAddr::V4(addr) = addr else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port()))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_caller_is_found_by_its_process() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = server.local_addr().unwrap();
        let callers = Callers::new(2);
        callers.begins(1, std::process::id());
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(own).await.unwrap());
            let caller = clients.last().unwrap().local_addr().unwrap();
            assert_eq!(callers.of(caller, own).await, Caller::Node(1, std::process::id()));
        }
        callers.ends(1);
        let client = TcpStream::connect(own).await.unwrap();
        let caller = client.local_addr().unwrap();
        assert_eq!(callers.of(caller, own).await, Caller::Other);
        drop((client, server));
        assert_eq!(callers.of(caller, own).await, Caller::Gone);
    }
}
