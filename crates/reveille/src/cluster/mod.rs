//! This node among others: what the plain values of `reveille-cluster` decide is done here, against Redis and the registrar.
//!
//! * [`keys`] is what all nodes hold alike: names and secrets;
//! * `driver` is the task that joins lease, ownership and map to the store; nothing else changes who owns what;
//! * `view` is the table that requests are routed by;
//! * `watch` is what it hears from the other nodes, `status` what it says to operators;
//! * `shared` is what they share beside bindings: credentials and marks that live for a time;
//! * `standby` chooses the shards whose feeds are followed, `promises` takes in what other nodes had promised while Redis was away;
//! * `dead` tells homes of dead push tokens;
//! * `tickets` keeps the keys of TLS session tickets the same at all edges;
//! * `tap` hears which writes the fence refused.

mod dead;
mod driver;
pub mod keys;
mod promises;
mod shared;
mod standby;
mod status;
mod tap;
mod tickets;
mod view;
mod watch;

use std::{sync::Arc, time::Duration};

use reveille_cluster::{MemberConfig, NodeInfo};
use reveille_redis::RedisStore;
use reveille_registrar::{Registrar, flow::NodeTag};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

pub use self::{
    dead::DeadSharing,
    keys::{ClusterKeys, SecretError, tag},
    shared::{Pins, SharedStore},
    status::{NodeStatus, StandbyInfo, Status},
    tap::Tapped,
    tickets::TicketSharing,
    view::View,
};
use crate::admin::Health;

/// What the cluster's driver is made of.
pub struct Parts {
    /// What this node says of itself.
    pub info: NodeInfo,
    /// Times of its lease.
    pub member: MemberConfig,
    /// Shards of the cluster.
    pub shards: u16,
    /// The shared store.
    pub store: Arc<RedisStore>,
    /// The shards' actors.
    pub registrar: Registrar,
    /// What requests are routed by.
    pub view: Arc<View>,
    /// Shards whose writes the fence refused: [`Tapped::new`].
    pub fenced: mpsc::UnboundedReceiver<u16>,
    /// Says when the node is degraded.
    pub health: Health,
    /// Told when another node passes on that an operator wants this one drained.
    pub drain_asked: Arc<Notify>,
}

/// The running driver.
pub struct Membership {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

enum Command {
    /// Give every shard away; told when that is done.
    Drain(oneshot::Sender<()>),
    /// Give the lease back, and end.
    Leave(oneshot::Sender<()>),
    /// Have another node drained.
    AskToDrain(NodeTag),
    /// Say how things are.
    Status(oneshot::Sender<Status>),
}

impl Membership {
    /// Starts to take part.
    pub fn start(parts: Parts) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(driver::Driver::new(parts).run(inbox));
        Self { commands, task }
    }

    /// A handle for the admin API.
    pub fn watch(&self) -> StatusSource {
        StatusSource(self.commands.clone())
    }

    /// Gives every shard to another home, within `patience`. Returns whether that was done in time.
    pub async fn drain(&self, patience: Duration) -> bool {
        let (done, drained) = oneshot::channel();
        self.commands.send(Command::Drain(done)).is_ok()
            && tokio::time::timeout(patience, drained).await.is_ok_and(|drained| drained.is_ok())
    }

    /// Gives the lease back, so that nobody waits for its end, and stops taking part.
    pub async fn leave(self) {
        let (done, left) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            let _ = tokio::time::timeout(LEAVE_PATIENCE, left).await;
        }
        self.task.abort();
    }
}

/// How long giving the lease back may take: where the store does not answer, the lease runs out by itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// Where the state of the cluster can be asked for, and a drain.
#[derive(Clone)]
pub struct StatusSource(mpsc::UnboundedSender<Command>);

impl StatusSource {
    /// The cluster as this node sees it; `None` once the driver has ended.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Status(reply)).ok()?;
        answer.await.ok()
    }

    /// Passes on that a node is to drain. It does so when it hears of it; nobody waits for that here.
    pub fn ask_to_drain(&self, node: NodeTag) {
        let _ = self.0.send(Command::AskToDrain(node)); // nobody there: the node stops
    }
}
