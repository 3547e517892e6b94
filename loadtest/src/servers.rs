//! The Redis of a run: one of the three arrangements that nodes know, with a relay before each server. What a server announces to
//! others (Sentinel, Cluster) is its relay, so that nodes have no way past it.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, bail};
use clap::ValueEnum;
use reveille_testkit::redis::{Cluster, MASTER_NAME, Redis, RedisError, Sentinels};
use serde::Serialize;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::{
    cluster::NAME,
    relay::{Relay, Relays, Route},
};

/// Every write is on the disk before it is answered: what is killed must come back as it was.
const DURABLE: &str = "appendonly yes\nappendfsync always\n";
/// How long Sentinels or a Cluster may take to put a replica in the place of a dead master.
const FAIL_OVER_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How the servers are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrangement {
    /// A master and a replica, which the harness promotes by hand.
    Standalone,
    /// A master, two replicas, and three Sentinels, which promote.
    Sentinel,
    /// Three masters with a replica each, which promotes itself.
    Cluster,
}

/// See the module.
pub(crate) struct Servers {
    group: Group,
    /// Before each server; with `standalone` only one, that leads to the master.
    fronts: Vec<Relay>,
    /// Before each Sentinel.
    watchers: Vec<Relay>,
}

enum Group {
    Standalone(Vec<Redis>),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    /// When they, or the relays, do not start.
    pub(crate) fn start(arrangement: Arrangement, relays: &Relays) -> anyhow::Result<Self> {
        let open = |server: &Redis| {
            let relay = relays.open(Ipv4Addr::LOCALHOST, Route::Redis)?;
            relay.lead(Some(server.addr()));
            std::io::Result::Ok(relay)
        };
        let (mut fronts, mut failed) = (Vec::new(), None);
        let front = |server: &Redis| match open(server) {
            Ok(relay) => {
                fronts.push(relay);
                fronts.last().map_or(0, |relay| relay.addr.port())
            }
            Err(error) => {
                failed = Some(error);
                0
            }
        };
        let group = match arrangement {
            Arrangement::Standalone => {
                let master = Redis::durable()?;
                let replica = master.replica()?;
                fronts.push(open(&master)?);
                Group::Standalone(vec![master, replica])
            }
            Arrangement::Sentinel => Group::Sentinel(Sentinels::start(DURABLE, front)?),
            Arrangement::Cluster => Group::Cluster(Cluster::start(DURABLE, front)?),
        };
        if let Some(error) = failed {
            return Err(error).context("a relay");
        }
        let sentinels = match &group {
            Group::Sentinel(trio) => trio.sentinels.as_slice(),
            _ => &[],
        };
        let watchers = sentinels.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { group, fronts, watchers })
    }

    /// What a node's configuration says of them in `[store.redis]`.
    pub(crate) fn settings(&self) -> String {
        let (mode, ways) = match &self.group {
            Group::Standalone(_) => ("standalone\"".to_owned(), &self.fronts),
            Group::Sentinel(_) => (format!("sentinel\"\nmaster = \"{MASTER_NAME}\""), &self.watchers),
            Group::Cluster(_) => ("cluster\"".to_owned(), &self.fronts),
        };
        let urls: Vec<_> = ways.iter().map(|relay| format!("\"redis://{}\"", relay.addr)).collect();
        format!("urls = [{}]\nmode = \"{mode}", urls.join(", "))
    }

    /// Those that hold data.
    pub(crate) fn all(&self) -> &[Redis] {
        match &self.group {
            Group::Standalone(servers) => servers,
            Group::Sentinel(trio) => &trio.servers,
            Group::Cluster(cluster) => &cluster.servers,
        }
    }

    fn all_mut(&mut self) -> &mut [Redis] {
        match &mut self.group {
            Group::Standalone(servers) => servers,
            Group::Sentinel(trio) => &mut trio.servers,
            Group::Cluster(cluster) => &mut cluster.servers,
        }
    }

    /// The server that has a shard's keys.
    ///
    /// # Errors
    /// When none takes itself for it.
    pub(crate) fn of_shard(&self, shard: u16) -> anyhow::Result<&Redis> {
        let place = match &self.group {
            Group::Cluster(cluster) => block_in_place(|| cluster.master_of(&format!("rv:{NAME}:{{{shard}}}:fence")))?,
            _ => *self.masters().first().context("no server is master")?,
        };
        self.all().get(place).context("no such server")
    }

    /// The places of those that take themselves for masters.
    fn masters(&self) -> Vec<usize> {
        block_in_place(|| (0..self.all().len()).filter(|&place| self.all()[place].is_master()).collect())
    }

    /// SIGKILL to every master: nothing is served until [`Self::revive`], unless a replica is promoted meanwhile.
    pub(crate) fn kill(&mut self) {
        for place in self.masters() {
            self.all_mut()[place].kill();
        }
    }

    /// Starts again what is dead, as it was.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn revive(&mut self) -> anyhow::Result<()> {
        for server in self.all_mut().iter_mut().filter(|server| server.pid().is_none()) {
            block_in_place(|| server.restart())?;
        }
        Ok(())
    }

    /// SIGKILL to a master. Its replica takes its place: by hand after the hold, or else by the servers' own doing. After that (and the
    /// hold) it comes back and becomes a replica.
    ///
    /// # Errors
    /// When that does not happen.
    pub(crate) async fn fail_over(&mut self, victim: usize, hold: Duration) -> anyhow::Result<()> {
        let masters = self.masters();
        let dead = *masters.get(victim % masters.len().max(1)).context("no server is master")?;
        self.all_mut()[dead].kill();
        if let Group::Standalone(servers) = &mut self.group {
            sleep(hold).await;
            let place = 1 - dead;
            block_in_place(|| {
                servers[place].promote()?;
                self.fronts[0].lead(Some(servers[place].addr()));
                servers[dead].restart()?;
                servers[dead].follow(servers[place].port())
            })?;
            return Ok(());
        }
        let start = Instant::now();
        while self.masters().len() < masters.len() {
            if start.elapsed() > FAIL_OVER_PATIENCE {
                bail!("no replica took the place of its master within {FAIL_OVER_PATIENCE:?}");
            }
            sleep(POLL).await;
        }
        sleep(hold).await;
        self.revive()
    }

    /// Writes what they said last into files there.
    pub(crate) fn write_logs(&self, folder: &Path) -> std::io::Result<()> {
        let sentinels = match &self.group {
            Group::Sentinel(trio) => trio.sentinels.as_slice(),
            _ => &[],
        };
        let named = |kind: &'static str| {
            move |(place, server): (usize, &Redis)| (format!("{kind}{}.log", place + 1), server.log())
        };
        let all = self.all().iter().enumerate().map(named("redis"));
        let mut logs = all.chain(sentinels.iter().enumerate().map(named("sentinel")));
        logs.try_for_each(|(name, log)| fs::write(folder.join(name), log))
    }

    /// What keeps the servers from being as at the start, but for who is master.
    pub(crate) fn unsteady(&self) -> Option<String> {
        let masters = self.masters();
        let wanted = if matches!(self.group, Group::Cluster(_)) { 3 } else { 1 };
        if masters.len() != wanted {
            return Some(format!("{} servers of Redis are masters", masters.len()));
        }
        block_in_place(|| {
            let linked = self.all().iter().filter(|server| server.is_linked()).count();
            let followed: usize = self.all().iter().map(Redis::followers).sum();
            if linked + wanted != self.all().len() || followed != linked {
                return Some(format!("{linked} replicas of Redis follow, and {followed} are followed"));
            }
            match &self.group {
                Group::Standalone(_) => None,
                Group::Sentinel(trio) => {
                    let master = self.fronts.get(*masters.first()?)?.addr.port().to_string();
                    let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
                    let knows = |sentinel: &Redis| sentinel.ask(&command).is_ok_and(|said| said.ends_with(&master));
                    (!trio.sentinels.iter().all(knows)).then(|| "the Sentinels disagree".to_owned())
                }
                Group::Cluster(cluster) => {
                    let ok =
                        |info: Result<String, RedisError>| info.is_ok_and(|info| info.contains("cluster_state:ok"));
                    let whole = cluster.servers.iter().all(|server| ok(server.ask(&["CLUSTER", "INFO"])));
                    (!whole).then(|| "the Cluster is not whole".to_owned())
                }
            }
        })
    }
}
