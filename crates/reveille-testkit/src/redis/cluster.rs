//! A Redis Cluster of three masters and three replicas.

use super::{Redis, RedisError, until};

/// Slots of a Redis Cluster.
const SLOTS: usize = 16_384;
const MASTERS: usize = 3;

/// See the module.
pub struct Cluster {
    /// The servers. The first three are masters at the start, and each has the replica three places on.
    pub servers: Vec<Redis>,
}

impl Cluster {
    /// Starts all six, with these lines in their configuration, and waits until everybody agrees and every master has its replica.
    ///
    /// `front` hears of each server and says at which port the others (but for the cluster's bus), and clients, are to reach it.
    ///
    /// # Errors
    /// [`RedisError`] when it does not come to that.
    pub fn start(lines: &str, mut front: impl FnMut(&Redis) -> u16) -> Result<Self, RedisError> {
        let text = format!("cluster-enabled yes\ncluster-node-timeout 1000\ncluster-require-full-coverage no\n{lines}");
        let mut servers = Vec::new();
        for place in 0..2 * MASTERS {
            let server = Redis::with(&text)?;
            server.announce("cluster", front(&server))?;
            // Or two that have not met yet would have to find out which of their claims is the newer.
            server.order(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()])?;
            if place < MASTERS {
                let (first, behind) = (SLOTS * place / MASTERS, SLOTS * (place + 1) / MASTERS);
                server.order(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(behind - 1).to_string()])?;
            }
            servers.push(server);
        }
        let cluster = Self { servers };
        let (first, others) = cluster.servers.split_at(1);
        for other in others {
            // Its own port: until they have met, nobody knows another.
            first[0].order(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), &bus(other)])?;
        }
        let all_say = |command: &[&str], wanted: &dyn Fn(&str) -> bool| {
            let answers = cluster.servers.iter().map(|server| server.ask(command));
            answers.collect::<Result<Vec<_>, _>>().map(|answers| answers.iter().all(|answer| wanted(answer)))
        };
        until("all have met", || {
            let met = |nodes: &str| nodes.lines().filter(|line| !line.contains("handshake")).count() == 2 * MASTERS;
            all_say(&["CLUSTER", "NODES"], &met)
        })?;
        for place in 0..MASTERS {
            let id = cluster.servers[place].ask(&["CLUSTER", "MYID"])?;
            cluster.servers[place + MASTERS].order(&["CLUSTER", "REPLICATE", &id])?;
        }
        until("everybody agrees", || {
            Ok(all_say(&["CLUSTER", "INFO"], &|info| info.contains("cluster_state:ok"))?
                && all_say(&["CLUSTER", "NODES"], &|nodes| nodes.matches("slave").count() == MASTERS)?)
        })?;
        until("the replicas follow", || Ok(cluster.servers.iter().map(Redis::followers).sum::<usize>() == MASTERS))?;
        Ok(cluster)
    }

    /// The place of the server that serves a key now, as the first one that answers sees it.
    ///
    /// # Errors
    /// When none answers, or none has the key's slot.
    pub fn master_of(&self, key: &str) -> Result<usize, RedisError> {
        let nobody = || RedisError(format!("nobody serves {key}"));
        let alive = self.servers.iter().find(|server| server.ask(&["PING"]).is_ok()).ok_or_else(nobody)?;
        let slot = alive.ask(&["CLUSTER", "KEYSLOT", key])?;
        let slot = slot.trim_start_matches(':').parse::<usize>().map_err(|_| nobody())?;
        // A line for each node: its id, its address, flags …, and from the ninth word on the slots that it serves.
        let nodes = alive.ask(&["CLUSTER", "NODES"])?;
        let serves = |line: &&str| {
            line.split(' ').skip(8).filter(|word| !word.starts_with('[')).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse().is_ok_and(|first: usize| first <= slot)
                    && last.parse().is_ok_and(|last: usize| slot <= last)
            })
        };
        let id = nodes.lines().find(serves).and_then(|line| line.split(' ').next()).ok_or_else(nobody)?;
        let its = |server: &Redis| server.ask(&["CLUSTER", "MYID"]).is_ok_and(|own| own == id);
        self.servers.iter().position(its).ok_or_else(nobody)
    }
}

/// The port of a server's cluster bus.
fn bus(server: &Redis) -> String {
    (server.port + 10_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_served_and_a_replica_takes_over() {
        let mut cluster = Cluster::start("", Redis::port).unwrap();
        let places: std::collections::BTreeSet<_> =
            (0..50).map(|key| cluster.master_of(&key.to_string()).unwrap()).collect();
        assert_eq!(places, (0..MASTERS).collect());
        let dead = cluster.master_of("key").unwrap();
        cluster.servers[dead].kill();
        until("the replica serves", || Ok(cluster.servers[dead + MASTERS].is_master())).unwrap();
        until("everybody knows", || Ok(cluster.master_of("key")? == dead + MASTERS)).unwrap();
    }
}
