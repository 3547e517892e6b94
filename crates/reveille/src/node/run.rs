//! `reveille serve`: a node from its start to the signal that ends it.

use anyhow::bail;

use super::Node;
use crate::{
    config::Config,
    shutdown::{Asked, Signals},
};

/// Runs a node until SIGTERM or SIGINT, which drain it; a second one stops it at once. SIGHUP reads files again.
///
/// # Errors
/// When the node cannot start, or a part of it fails too often to go on.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let node = Node::start(config).await?;
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = node.watch_health() => continue,
            () = node.drain_asked() => Asked::Stop,
            reason = failed(&node) => {
                tracing::error!(%reason, "a part of the node cannot go on; the process ends so that it is started anew");
                node.stop().await;
                bail!("{reason}");
            }
        };
        match asked {
            Asked::Reload => node.reload().await,
            Asked::Stop => break,
        }
    }
    let draining = node.drain();
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = &mut draining => break,
            asked = signals.next() => if asked == Asked::Stop {
                tracing::warn!("asked to stop during the drain: stopping now");
                break;
            },
        }
    }
    Ok(())
}

async fn failed(node: &Node) -> String {
    node.fatal.clone().ended().await
}
