//! Which server has a slot, by what the configuration, the sentinels or the cluster say.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::ConnectionLike;
use redis::{Cmd, Value};
use tokio::sync::Notify;

use crate::backoff;
use crate::config::{Endpoint, Mode, RedisConfig};
use crate::error::{CommandError, ConnectError};
use crate::keys::SLOTS;
use crate::link::{Connector, Lost};
use crate::reply::Shape;

/// The present knowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    nodes: Vec<Endpoint>,
    /// The node of each slot, as its place in `nodes`. Empty: all lie on the first.
    slots: Vec<u16>,
    /// How new it is, where sentinels said it: they number their failovers.
    epoch: u64,
}

const NOWHERE: u16 = u16::MAX;

impl Table {
    fn one(endpoint: Endpoint) -> Self {
        Table { nodes: vec![endpoint], slots: Vec::new(), epoch: 0 }
    }

    fn nothing() -> Self {
        Table { nodes: Vec::new(), slots: Vec::new(), epoch: 0 }
    }

    /// The server to ask for a slot. For a slot without one this is any: it will say that the cluster is down.
    pub(crate) fn of(&self, slot: u16) -> &Endpoint {
        let at = self.slots.get(usize::from(slot)).map_or(0, |node| usize::from(*node));
        self.nodes.get(at).unwrap_or(&self.nodes[0])
    }

    fn set(&mut self, slots: std::ops::RangeInclusive<u16>, endpoint: Endpoint) {
        let at = self.nodes.iter().position(|node| *node == endpoint).unwrap_or_else(|| {
            self.nodes.push(endpoint);
            self.nodes.len() - 1
        });
        if let Some(range) = self.slots.get_mut(usize::from(*slots.start())..=usize::from(*slots.end())) {
            range.fill(u16::try_from(at).unwrap_or(NOWHERE));
        }
    }
}

/// Keeps the knowledge up to date.
pub(crate) struct Topology {
    mode: Mode,
    table: ArcSwap<Table>,
    stale: Notify,
    connector: Connector,
    interval: Duration,
    within: Duration,
}

impl Topology {
    /// Finds out for the first time.
    pub(crate) async fn find(config: &RedisConfig) -> Result<Arc<Self>, ConnectError> {
        let connector = match config.mode {
            Mode::Sentinel { .. } => Connector::to_sentinels(config),
            _ => Connector::to_data(config),
        };
        let (mode, within) = (config.mode.clone(), config.response_timeout);
        let table = resolve(&mode, &Table::nothing(), &connector, within).await?;
        let (table, interval) = (ArcSwap::from_pointee(table), config.topology_interval);
        Ok(Arc::new(Topology { mode, table, stale: Notify::new(), connector, interval, within }))
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.mode, Mode::Cluster(_))
    }

    /// A server said where a slot lies.
    pub(crate) fn moved(&self, slot: u16, to: Endpoint) {
        if !self.is_cluster() || *self.table.load().of(slot) == to {
            return;
        }
        let mut table = Table::clone(&self.table.load());
        if table.slots.is_empty() {
            table.slots = vec![0; usize::from(SLOTS)];
        }
        table.set(slot..=slot, to);
        self.table.store(Arc::new(table));
        self.stale.notify_one();
    }

    /// Something went wrong that a change would explain.
    pub(crate) fn doubt(&self) {
        self.stale.notify_one();
    }

    /// Asks again whenever there is doubt, and now and then without. Ends never.
    pub(crate) async fn keep(self: Arc<Self>) {
        if matches!(self.mode, Mode::Standalone(_)) {
            return;
        }
        let mut pauses = backoff::pauses();
        loop {
            let known = self.table();
            let pause = match resolve(&self.mode, &known, &self.connector, self.within).await {
                Ok(table) => {
                    if table != *known {
                        tracing::info!(?table.nodes, "the arrangement of Redis servers has changed");
                        self.table.store(Arc::new(table));
                    }
                    pauses = backoff::pauses();
                    let _ = tokio::time::timeout(self.interval, self.stale.notified()).await;
                    // A failover takes seconds: many doubts, and no sense in asking at once each time.
                    SETTLE
                }
                Err(error) => {
                    tracing::debug!(%error, "the arrangement of Redis servers could not be read");
                    pauses.next().unwrap_or(backoff::LONGEST)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

const SETTLE: Duration = Duration::from_millis(50);

async fn resolve(mode: &Mode, known: &Table, connector: &Connector, within: Duration) -> Result<Table, ConnectError> {
    match mode {
        Mode::Standalone(endpoint) => Ok(Table::one(endpoint.clone())),
        Mode::Sentinel { sentinels, master } => ask_sentinels(sentinels, master, known.epoch, connector, within).await,
        Mode::Cluster(seeds) => {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            let mut last = nobody();
            for endpoint in known.nodes.iter().chain(seeds) {
                let answer = ask(endpoint, &command, connector, within).await;
                match answer.and_then(|value| slots(value, endpoint).map_err(|_| Lost(NONSENSE.to_owned()))) {
                    Ok(table) => return Ok(table),
                    Err(Lost(reason)) => last = ConnectError::Server { endpoint: endpoint.to_string(), reason },
                }
            }
            Err(last)
        }
    }
}

/// Sentinels learn of a failover one after the other, and one that is behind names the old master. So a majority is heard, the
/// newest news count, and older ones than were believed before do not.
async fn ask_sentinels(
    sentinels: &[Endpoint],
    master: &str,
    epoch: u64,
    connector: &Connector,
    within: Duration,
) -> Result<Table, ConnectError> {
    let asked = sentinels.iter().map(|endpoint| async move {
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(master);
        let epoch = match ask(endpoint, &command, connector, within).await {
            Ok(answer) => answer,
            Err(lost) => return (endpoint, Err(lost)),
        };
        // In the midst of a failover the one above still has the old address, with the new number.
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        (endpoint, ask(endpoint, &command, connector, within).await.map(|address| (epoch, address)))
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let (mut heard, mut best, mut last) = (0, None::<Table>, nobody());
    while let Some((endpoint, answer)) = asked.next().await {
        match answer.and_then(|(epoch, address)| named_master(epoch, address).map_err(|_| Lost(NONSENSE.to_owned()))) {
            Ok(table) => {
                heard += 1;
                if best.as_ref().is_none_or(|best| best.epoch < table.epoch) {
                    best = Some(table);
                }
                if heard > sentinels.len() / 2 {
                    break;
                }
            }
            Err(Lost(reason)) => last = ConnectError::Server { endpoint: endpoint.to_string(), reason },
        }
    }
    // Fewer than a majority may be all that is left; what they say is better than nothing, unless it is known to be old.
    best.filter(|best| best.epoch >= epoch).ok_or(last)
}

async fn ask(endpoint: &Endpoint, command: &Cmd, connector: &Connector, within: Duration) -> Result<Value, Lost> {
    let answer = async {
        let mut connection = connector.open(endpoint).await?;
        match connection.req_packed_command(command).await? {
            Value::ServerError(error) => Err(Lost(format!("{} {}", error.code(), error.details().unwrap_or("")))),
            value => Ok(value),
        }
    };
    match tokio::time::timeout(within + within, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Lost("no reply in time".to_owned())),
    }
}

const NONSENSE: &str = "an answer that names no server";

fn nobody() -> ConnectError {
    ConnectError::Server {
        endpoint: "no server".to_owned(),
        reason: "none that answers knows more than we do".to_owned(),
    }
}

/// The number of the newest failover, out of names and values in turn, and the address of the master.
fn named_master(state: Value, address: Value) -> Result<Table, CommandError> {
    let mut items = state.array()?.into_iter();
    let mut epoch = None;
    while let (Some(name), value) = (items.next(), items.next()) {
        if name.octets()? == b"config-epoch" {
            epoch = Some(value.number()?);
        }
    }
    let mut parts = address.array()?.into_iter();
    let (host, port) = (parts.next().text()?, parts.next().number()?);
    let port = u16::try_from(port).map_err(|_| CommandError::Answer)?;
    Ok(Table { epoch: epoch.ok_or(CommandError::Answer)?, ..Table::one(Endpoint::new(host, port)) })
}

fn slots(value: Value, from: &Endpoint) -> Result<Table, CommandError> {
    let mut table = Table { nodes: Vec::new(), slots: vec![NOWHERE; usize::from(SLOTS)], epoch: 0 };
    for range in value.array()? {
        let mut parts = range.array()?.into_iter();
        let mut bound = || u16::try_from(parts.next().number()?).map_err(|_| CommandError::Answer);
        let (first, last) = (bound()?, bound()?);
        let mut node = parts.next().array()?.into_iter();
        // No host: the one that was asked (a node that does not know its own address).
        let host = match node.next() {
            Some(Value::Nil) => from.host.clone(),
            some => some.text()?,
        };
        let host = if host.is_empty() { from.host.clone() } else { host };
        let port = u16::try_from(node.next().number()?).map_err(|_| CommandError::Answer)?;
        table.set(first..=last, Endpoint::new(host, port));
    }
    if table.nodes.is_empty() { Err(CommandError::Answer) } else { Ok(table) }
}
