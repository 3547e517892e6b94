//! The task that takes part in the cluster. Decisions are those of [`OwnLease`] and [`Ownership`], which know neither clock nor
//! network; here their wishes become calls, and answers come back to them. A call never holds the task up.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use reveille_cluster::{
    Epoch, Fence, Incarnation, Lease, MemberOutput, NodeInfo, Output, OwnLease, Ownership, OwnershipConfig, Standing,
};
use reveille_redis::{ClaimError, FencedError, LeaseError, MapEvent, RedisStore};
use reveille_registrar::{Registrar, flow::NodeTag};
use reveille_runtime::clock;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{Command, Parts, View};
use crate::admin::{Health, Reason};

/// How long a call to the store may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after the map could not be watched.
const WATCH_PAUSE: Duration = Duration::from_millis(200);
/// Stands in the map's stream for the roster, where a shard's number would stand: no cluster has that many shards.
const MEMBERS: u16 = u16::MAX;

/// What a call, or a watcher, has to report.
enum Report {
    Renewed { attempt: u64, leases: Vec<Lease> },
    Refused { attempt: u64, holder: Incarnation },
    Failed { attempt: u64 },
    Claimed { sent: Instant, results: Vec<(u16, Epoch, Result<(), Fence>)> },
    Released { sent: Instant, shard: u16, epoch: Epoch, result: Result<(), Fence> },
    Fences { sent: Instant, fences: Vec<(u16, Fence)> },
    Flushed { shard: u16, epoch: Epoch },
    Map { shard: u16, fence: Fence },
    Members,
    Left,
}

/// See the module.
pub(super) struct Driver {
    store: Arc<RedisStore>,
    registrar: Registrar,
    view: Arc<View>,
    health: Health,
    lease: OwnLease,
    ownership: Ownership,
    own: NodeInfo,
    shards: u16,
    fenced: mpsc::UnboundedReceiver<u16>,
    reports: mpsc::UnboundedSender<Report>,
    inbox: mpsc::UnboundedReceiver<Report>,
    /// The map's version that the view shows.
    shown: Option<u64>,
    drained: Option<oneshot::Sender<()>>,
    left: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { info, member, shards, store, registrar, view, fenced, health } = parts;
        let (reports, inbox) = mpsc::unbounded_channel();
        let lease = OwnLease::new(clock::now(), member, info.clone(), rand::random::<u64>() >> 24);
        let ownership = Ownership::new(OwnershipConfig::new(shards, info.tag));
        // Until the first lease.
        store.lease(None);
        Self {
            store,
            registrar,
            view,
            health,
            lease,
            ownership,
            own: info,
            shards,
            fenced,
            reports,
            inbox,
            shown: None,
            drained: None,
            left: None,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let watcher = tokio::spawn(watch(Arc::clone(&self.store), self.reports.clone()));
        loop {
            self.settle(clock::now());
            let due = [self.lease.poll_timeout(), self.ownership.poll_timeout()].into_iter().flatten().min();
            tokio::select! {
                Some(report) = self.inbox.recv() => self.hear(clock::now(), report),
                Some(shard) = self.fenced.recv() => self.read_fences(vec![shard]),
                command = commands.recv() => match command {
                    Some(command) => self.obey(clock::now(), command),
                    None => break,
                },
                () = clock::sleep_until(due) => {
                    let now = clock::now();
                    self.lease.handle_timeout(now);
                    self.ownership.handle_timeout(now);
                }
            }
        }
        watcher.abort();
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Drain(done) => {
                self.drained = Some(done);
                self.lease.describe(now, |info| info.draining = true);
            }
            Command::Leave(done) => {
                self.left = Some(done);
                self.lease.leave(now);
            }
            Command::Status(reply) => _ = reply.send(self.status(now)),
        }
    }

    fn hear(&mut self, now: Instant, report: Report) {
        match report {
            Report::Renewed { attempt, leases } => self.lease.renewed(now, attempt, leases),
            Report::Refused { attempt, holder } => self.lease.refused(now, attempt, holder),
            Report::Failed { attempt } => self.lease.failed(now, attempt),
            Report::Claimed { sent, results } => {
                // Those whose claim came too late are in the store's hands all the same: nothing may be written under it.
                for &(shard, epoch, result) in &results {
                    self.ownership.claimed(now, sent, shard, epoch, result);
                    if self.ownership.may_write(now, shard).is_none() {
                        self.store.pause(shard);
                    }
                }
            }
            Report::Released { sent, shard, epoch, result } => {
                self.ownership.released(now, sent, shard, epoch, result);
            }
            Report::Fences { sent, fences } if fences.len() == usize::from(self.shards) => {
                self.ownership.map_read(now, sent, fences);
            }
            Report::Fences { sent, fences } => {
                for (shard, fence) in fences {
                    if let Some(epoch) = self.ownership.may_write(now, shard) {
                        self.ownership.fenced(now, sent, shard, epoch, fence);
                    }
                }
            }
            Report::Flushed { shard, epoch } => self.ownership.flushed(now, shard, epoch),
            Report::Map { shard, fence } => self.ownership.map_event(now, shard, fence),
            Report::Members => self.lease.members_changed(now),
            Report::Left => {
                if let Some(left) = self.left.take() {
                    let _ = left.send(());
                }
            }
        }
    }

    /// Does what lease and ownership want, until they want nothing more.
    fn settle(&mut self, now: Instant) {
        let (mut claims, mut news) = (Vec::new(), Vec::new());
        loop {
            if let Some(output) = self.lease.poll_output() {
                self.member(now, output);
            } else if let Some(output) = self.ownership.poll_output() {
                match output {
                    Output::Claim { shard, expected, epoch } => claims.push((shard, expected, epoch)),
                    Output::Announce { shard, fence } => news.push((shard, fence)),
                    output => self.own(now, output),
                }
            } else {
                break;
            }
        }
        self.claim(now, claims);
        self.announce(news);
        let version = self.ownership.map().version();
        if self.shown != Some(version) {
            self.shown = Some(version);
            self.view.follow(self.ownership.map());
        }
        if self.ownership.is_drained()
            && let Some(drained) = self.drained.take()
        {
            let _ = drained.send(());
        }
    }

    fn member(&mut self, now: Instant, output: MemberOutput) {
        match output {
            MemberOutput::Renew { attempt, incarnation, ttl, description } => {
                self.renew(now, attempt, incarnation, ttl, description);
            }
            MemberOutput::Leave { incarnation } => {
                let (store, reports) = (Arc::clone(&self.store), self.reports.clone());
                tokio::spawn(async move {
                    if let Err(error) = store.resign(incarnation.0, now + PATIENCE).await {
                        tracing::debug!(%error, "the lease was not given back and runs out by itself");
                    }
                    let _ = reports.send(Report::Left);
                });
            }
            MemberOutput::AnnounceMembers => {
                let (store, tag) = (Arc::clone(&self.store), self.own.tag.0.to_string());
                let news = reveille_redis::Ownership { shard: MEMBERS, tag, epoch: clock::unix_now_millis() };
                // What is lost is seen with the next renewal.
                tokio::spawn(async move { _ = store.announce(&[news], now + PATIENCE).await });
            }
            MemberOutput::RosterChanged => {
                let roster = self.lease.roster();
                self.view.meet(roster);
                self.ownership.roster_changed(now, roster);
                let draining = roster.get(self.own.tag).and_then(|me| me.info.as_ref()).is_some_and(|me| me.draining);
                tracing::info!(nodes = roster.members().len(), "the cluster has changed");
                if draining {
                    self.ownership.drain(now);
                }
            }
            MemberOutput::Leased { sent, until, incarnation } => {
                self.store.lease(Some(until));
                self.ownership.leased(now, sent, until, incarnation);
                self.health.clear(Reason::Degraded);
            }
            MemberOutput::Lapsed(why) => {
                self.store.lease(None);
                self.ownership.lapsed();
                self.health.raise(Reason::Degraded);
                tracing::error!(%why, "degraded: the node serves from memory and writes nothing");
            }
        }
    }

    fn renew(&self, now: Instant, attempt: u64, incarnation: Incarnation, ttl: Duration, description: Vec<u8>) {
        let (store, reports) = (Arc::clone(&self.store), self.reports.clone());
        tokio::spawn(async move {
            let report = match store.renew(incarnation.0, ttl, &description, now + ttl).await {
                Ok(members) => Report::Renewed { attempt, leases: members.into_iter().filter_map(lease).collect() },
                Err(LeaseError::Held { incarnation, .. }) => {
                    Report::Refused { attempt, holder: Incarnation(incarnation) }
                }
                Err(error) => {
                    tracing::debug!(%error, "the lease was not renewed");
                    Report::Failed { attempt }
                }
            };
            let _ = reports.send(report);
        });
    }

    fn own(&mut self, now: Instant, output: Output) {
        match output {
            Output::Claim { .. } | Output::Announce { .. } => {} // gathered
            Output::Release { shard, epoch } => self.release(now, shard, epoch),
            Output::Look => self.lease.members_changed(now),
            Output::ReadMap => self.read_fences((0..self.shards).collect()),
            Output::Start { shard, .. } => self.registrar.acquire(shard),
            Output::Suspend { shard } => self.store.pause(shard),
            // The claim has set the store's epoch already.
            Output::Resume { .. } => {}
            Output::HandOver { shard, epoch } => {
                let (store, reports) = (Arc::clone(&self.store), self.reports.clone());
                let gone = self.registrar.release(shard);
                tokio::spawn(async move {
                    gone.await;
                    store.flush(shard).await;
                    let _ = reports.send(Report::Flushed { shard, epoch });
                });
            }
            Output::Drop { shard } => {
                self.store.disown(shard);
                // It leaves at once; nobody waits until it has left.
                drop(self.registrar.release(shard));
            }
        }
    }

    /// All claims of a turn in one exchange.
    fn claim(&self, now: Instant, claims: Vec<(u16, Epoch, Epoch)>) {
        if claims.is_empty() {
            return;
        }
        let (store, reports) = (Arc::clone(&self.store), self.reports.clone());
        tokio::spawn(async move {
            let wanted: Vec<_> = claims.iter().map(|(shard, expected, epoch)| (*shard, expected.0, epoch.0)).collect();
            let answers = store.claim_as(&wanted, now + PATIENCE).await;
            let results = claims.iter().zip(answers).filter_map(|(&(shard, _, epoch), answer)| match answer {
                Ok(_) => Some((shard, epoch, Ok(()))),
                Err(ClaimError::Claimed { epoch: held, owner }) => Some((shard, epoch, Err(fence(&owner, held)))),
                Err(_) => None, // asked again in its time
            });
            let _ = reports.send(Report::Claimed { sent: now, results: results.collect() });
        });
    }

    fn release(&self, now: Instant, shard: u16, epoch: Epoch) {
        let (store, reports) = (Arc::clone(&self.store), self.reports.clone());
        tokio::spawn(async move {
            let result = match store.release_as(shard, epoch.0, now + PATIENCE).await {
                Ok(()) => Ok(()),
                Err(FencedError::Fenced { .. }) => match store.fences(&[shard], now + PATIENCE).await.as_deref() {
                    Ok([held]) => Err(fence(&held.owner, held.epoch)),
                    _ => return,
                },
                Err(_) => return, // asked again in its time
            };
            let _ = reports.send(Report::Released { sent: now, shard, epoch, result });
        });
    }

    fn read_fences(&self, shards: Vec<u16>) {
        let (store, reports, sent) = (Arc::clone(&self.store), self.reports.clone(), clock::now());
        tokio::spawn(async move {
            if let Ok(fences) = store.fences(&shards, sent + PATIENCE).await {
                let fences = shards.into_iter().zip(fences.iter().map(|held| fence(&held.owner, held.epoch)));
                let _ = reports.send(Report::Fences { sent, fences: fences.collect() });
            }
        });
    }

    fn announce(&self, news: Vec<(u16, Fence)>) {
        if news.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let news: Vec<_> = news
            .into_iter()
            .map(|(shard, fence)| {
                let tag = fence.owner.map(|tag| tag.0.to_string()).unwrap_or_default();
                reveille_redis::Ownership { shard, tag, epoch: fence.epoch.0 }
            })
            .collect();
        tokio::spawn(async move {
            if let Err(error) = store.announce(&news, clock::now() + PATIENCE).await {
                tracing::warn!(%error, shards = news.len(), "new owners were not announced; the others find out by reading");
            }
        });
    }

    fn status(&self, now: Instant) -> Status {
        let mut owned: BTreeMap<u32, usize> = BTreeMap::new();
        let map = self.ownership.map();
        for tag in (0..self.shards).filter_map(|shard| map.owner(shard)) {
            *owned.entry(tag.0).or_default() += 1;
        }
        let nodes = self.lease.roster().members().iter().map(|member| {
            let info = member.info.as_ref();
            NodeStatus {
                id: info.map(|info| info.id.clone()).unwrap_or_default(),
                tag: member.tag.0,
                address: info.map(|info| info.address.to_string()).unwrap_or_default(),
                roles: info.map(roles).unwrap_or_default(),
                version: info.map(|info| info.version.clone()).unwrap_or_default(),
                weight: info.map_or(0, |info| info.weight),
                draining: info.is_some_and(|info| info.draining),
                shards: owned.get(&member.tag.0).copied().unwrap_or_default(),
                lease_ms: u64::try_from(member.lease_ends.saturating_duration_since(now).as_millis()).unwrap_or(0),
            }
        });
        Status {
            node: self.own.id.clone(),
            standing: match self.lease.standing() {
                Standing::Joining => "joining".to_owned(),
                Standing::Live => "live".to_owned(),
                Standing::Degraded(why) => format!("degraded: {why}"),
            },
            shards: usize::from(self.shards),
            owned: owned.values().sum(),
            in_memory: self.ownership.count(),
            map_version: map.version(),
            nodes: nodes.collect(),
        }
    }
}

/// The cluster, as one node sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whose view this is.
    pub node: String,
    /// `joining`, `live`, or `degraded` and why.
    pub standing: String,
    /// Shards of the cluster.
    pub shards: usize,
    /// Those that have an owner.
    pub owned: usize,
    /// Those that this node serves.
    pub in_memory: usize,
    /// Counts the changes of the map that this node has seen.
    pub map_version: u64,
    /// Every node with a lease.
    pub nodes: Vec<NodeStatus>,
}

/// A node, as another sees it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// `node.id`; empty where a later version describes itself in a way we cannot read.
    pub id: String,
    /// How it is named in flows and fences.
    pub tag: u32,
    /// Its cluster listener.
    pub address: String,
    /// What it does.
    pub roles: Vec<&'static str>,
    /// Its version.
    pub version: String,
    /// Its share of the shards.
    pub weight: u16,
    /// Whether it gives its shards away.
    pub draining: bool,
    /// Shards that it owns.
    pub shards: usize,
    /// Milliseconds that its lease runs at most.
    pub lease_ms: u64,
}

fn roles(info: &NodeInfo) -> Vec<&'static str> {
    [("edge", info.roles.edge), ("home", info.roles.home)].into_iter().filter(|(_, has)| *has).map(|(n, _)| n).collect()
}

fn lease(member: reveille_redis::Member) -> Option<Lease> {
    Some(Lease {
        tag: NodeTag(member.tag.parse().ok()?),
        incarnation: Incarnation(member.incarnation),
        remaining: member.remaining,
        description: member.description.to_vec(),
    })
}

fn fence(owner: &str, epoch: u64) -> Fence {
    Fence { owner: owner.parse().ok().map(NodeTag), epoch: Epoch(epoch) }
}

/// Follows the map: first the whole of it, then every change; again from the beginning where changes were missed.
async fn watch(store: Arc<RedisStore>, reports: mpsc::UnboundedSender<Report>) {
    loop {
        let Ok((owners, position)) = store.owners(clock::now() + PATIENCE).await else {
            tokio::time::sleep(WATCH_PAUSE).await;
            continue;
        };
        for owner in owners {
            report(&reports, &owner);
        }
        let mut changes = store.watch_map(position);
        loop {
            match changes.next().await {
                Ok(MapEvent::Moved(owner)) => report(&reports, &owner),
                Ok(MapEvent::Gap) => break,
                Err(error) => {
                    tracing::debug!(%error, "the map cannot be watched");
                    tokio::time::sleep(WATCH_PAUSE).await;
                }
            }
        }
    }
}

fn report(reports: &mpsc::UnboundedSender<Report>, owner: &reveille_redis::Ownership) {
    let report = match owner.shard {
        MEMBERS => Report::Members,
        shard => Report::Map { shard, fence: fence(&owner.tag, owner.epoch) },
    };
    let _ = reports.send(report); // nobody there: the node stops
}
