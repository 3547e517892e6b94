//! Real redis-servers of the run's own: a master, and a replica that can take its place.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server process on a port of its own; ended when dropped.
pub(crate) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    addr: SocketAddr,
}

impl Redis {
    /// Starts a server and waits until it listens.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let addr = reveille_testkit::port::free_addr()?;
        let dir = tempfile::Builder::new().prefix("reveille-redis-").tempdir()?;
        Ok(Self { child: spawn(addr, dir.path()).await?, dir, addr })
    }

    /// Starts an empty server that copies this one, and waits until it has.
    pub(crate) async fn start_replica(&self) -> anyhow::Result<Self> {
        let replica = Self::start().await?;
        let (host, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        replica.ask::<()>(redis::cmd("REPLICAOF").arg(host).arg(port)).await?;
        let give_up = Instant::now() + PATIENCE;
        while !replica.is_linked().await? {
            if Instant::now() > give_up {
                bail!("a replica does not reach its master");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(replica)
    }

    /// Whether a replica follows its master.
    pub(crate) async fn is_linked(&self) -> anyhow::Result<bool> {
        let info: String = self.ask(redis::cmd("INFO").arg("replication")).await?;
        Ok(info.contains("master_link_status:up"))
    }

    /// Makes a replica a master.
    pub(crate) async fn promote(&self) -> anyhow::Result<()> {
        self.ask(redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> anyhow::Result<T> {
        let client = redis::Client::open(format!("redis://{}", self.addr))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(command.query_async(&mut connection).await?)
    }

    /// Where it listens, over restarts too.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends the process without a word.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("redis-server")
    }

    /// Starts it again, with what it had written to its log.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(self.addr, self.dir.path()).await?;
        Ok(())
    }
}

/// Every write is on the disk before it is answered: what is killed must come back as it was.
async fn spawn(addr: SocketAddr, dir: &Path) -> anyhow::Result<Child> {
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--bind", &host, "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    // A replica that comes back is served at once, rather than after five seconds in which others might come.
    command
        .args(["--repl-diskless-sync-delay", "0", "--loglevel", "warning", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("redis-server (Debian package redis-server) cannot be started")?;
    let give_up = Instant::now() + PATIENCE;
    while TcpStream::connect(addr).await.is_err() {
        ensure!(child.try_wait()?.is_none(), "redis-server ended at once");
        ensure!(Instant::now() < give_up, "redis-server does not listen");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(child)
}
