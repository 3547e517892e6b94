//! What every node hears from the others by way of the store: who owns which shard, and a few words beside.

use std::{sync::Arc, time::Duration};

use reveille_redis::{MapEvent, RedisStore};
use reveille_runtime::clock;
use tokio::sync::mpsc;

use super::driver::{PATIENCE, Report, fence};

/// The pause after the map could not be watched.
const PAUSE: Duration = Duration::from_millis(200);
/// Stands in the map's stream for the roster, where a shard's number would stand: no cluster has that many shards.
pub(super) const MEMBERS: u16 = u16::MAX;
/// Stands there for a node that is to drain.
pub(super) const DRAIN: u16 = u16::MAX - 1;
/// Stands there for a shard that something was handed in for.
pub(super) const HANDED_IN: u16 = u16::MAX - 2;

/// Follows the map: first the whole of it, then every change; again from the beginning where changes were missed.
pub(super) async fn watch(store: Arc<RedisStore>, reports: mpsc::UnboundedSender<Report>) {
    loop {
        let Ok((owners, position)) = store.owners(clock::now() + PATIENCE).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // What was said once, and not of a shard, is over.
        for owner in owners.iter().filter(|owner| owner.shard < HANDED_IN) {
            report(&reports, owner);
        }
        let mut changes = store.watch_map(position);
        loop {
            match changes.next().await {
                Ok(MapEvent::Moved(owner)) => report(&reports, &owner),
                Ok(MapEvent::Gap) => break,
                Err(error) => {
                    tracing::debug!(%error, "the map cannot be watched");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn report(reports: &mpsc::UnboundedSender<Report>, owner: &reveille_redis::Ownership) {
    let report = match owner.shard {
        MEMBERS => Report::Members,
        HANDED_IN => Report::HandedIn(owner.tag.parse().unwrap_or(MEMBERS)),
        DRAIN => Report::Drain(owner.tag.parse().unwrap_or(0)),
        shard => Report::Map { shard, fence: fence(&owner.tag, owner.epoch) },
    };
    let _ = reports.send(report); // nobody there: the node stops
}
