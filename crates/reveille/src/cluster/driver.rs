//! The task that takes part in the cluster. Decisions are those of [`OwnLease`] and [`Ownership`], which know neither clock nor
//! network; here their wishes become calls, and answers come back to them. A call never holds the task up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reveille_cluster::{
    Epoch, Fence, Incarnation, Lease, MemberOutput, NodeInfo, Output, OwnLease, Ownership, OwnershipConfig,
};
use reveille_redis::{ClaimError, FencedError, LeaseError, RedisStore};
use reveille_registrar::{Registrar, flow::NodeTag};
use reveille_runtime::clock;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Command, Parts, View, promises,
    standby::Standby,
    status::Status,
    watch::{DRAIN, MEMBERS, watch},
};
use crate::admin::{Health, Reason};

/// How long a call to the store may take before it counts as unanswered.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// What a call, or a watcher, has to report.
pub(super) enum Report {
    Renewed { attempt: u64, leases: Vec<Lease> },
    Refused { attempt: u64, holder: Incarnation },
    Failed { attempt: u64 },
    Claimed { sent: Instant, results: Vec<(u16, Epoch, Result<(), Fence>)> },
    Released { sent: Instant, shard: u16, epoch: Epoch, result: Result<(), Fence> },
    Fences { sent: Instant, fences: Vec<(u16, Fence)> },
    Flushed { shard: u16, epoch: Epoch },
    Map { shard: u16, fence: Fence },
    Members,
    Drain(u32),
    HandedIn(u16),
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
    standby: Standby,
    drain_asked: Arc<Notify>,
    drained: Option<oneshot::Sender<()>>,
    left: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { info, member, shards, store, registrar, view, fenced, health, drain_asked } = parts;
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
            standby: Standby::default(),
            drain_asked,
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
            Command::AskToDrain(node) => self.tell_all(now, DRAIN, node.0.to_string()),
            Command::Status(reply) => {
                let deferred = self.registrar.deferred();
                let _ = reply.send(Status::of(&self.own, &self.lease, &self.ownership, deferred, now));
            }
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
            Report::Drain(tag) if tag == self.own.tag.0 => self.drain_asked.notify_one(),
            Report::Drain(_) => {}
            Report::HandedIn(shard) => {
                if self.ownership.may_write(now, shard).is_some() {
                    self.keep_promises(shard);
                }
            }
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
            self.standby.update(&self.store, &self.own, &self.ownership);
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
                // What is lost is seen with the next renewal.
                self.tell_all(now, MEMBERS, self.own.tag.0.to_string());
            }
            MemberOutput::RosterChanged => {
                let roster = self.lease.roster();
                self.view.meet(roster);
                self.ownership.roster_changed(now, roster);
                self.shown = None; // who is second may have changed
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

    /// Says something to every node that listens.
    fn tell_all(&self, now: Instant, what: u16, tag: String) {
        let store = Arc::clone(&self.store);
        let news = reveille_redis::Ownership { shard: what, tag, epoch: clock::unix_now_millis() };
        tokio::spawn(async move {
            if let Err(error) = store.announce(&[news], now + PATIENCE).await {
                tracing::debug!(%error, "the other nodes were not told");
            }
        });
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
            Output::Start { shard, epoch } => {
                self.store.succeed(shard, epoch.0);
                self.registrar.acquire(shard);
                self.keep_promises(shard);
            }
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

    /// Takes in what other nodes had promised for a shard and could not write.
    fn keep_promises(&self, shard: u16) {
        let (store, registrar) = (Arc::clone(&self.store), self.registrar.clone());
        tokio::spawn(promises::keep(store, registrar, shard));
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
}

fn lease(member: reveille_redis::Member) -> Option<Lease> {
    Some(Lease {
        tag: NodeTag(member.tag.parse().ok()?),
        incarnation: Incarnation(member.incarnation),
        remaining: member.remaining,
        description: member.description.to_vec(),
    })
}

pub(super) fn fence(owner: &str, epoch: u64) -> Fence {
    Fence { owner: owner.parse().ok().map(NodeTag), epoch: Epoch(epoch) }
}
