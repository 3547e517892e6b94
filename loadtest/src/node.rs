//! A node as a process of its own, watched through its log and its admin port, ended by signals.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::oneshot,
    time::timeout,
};

/// How long a node may take to start or to end: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer of the admin port may take. A paused node gives none.
const ADMIN_PATIENCE: Duration = Duration::from_secs(3);

/// A running process; killed when dropped.
pub(crate) struct Node {
    child: Child,
    /// The process, as `/proc` knows it.
    pub(crate) pid: u32,
    /// Its TLS listeners, in the order of its configuration.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Its admin port.
    pub(crate) admin: SocketAddr,
}

/// What a node says in its log until it serves.
#[derive(Default)]
struct Start {
    listeners: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Node {
    /// Starts a node from its configuration and waits until it serves. What it logs is added to `log`; `begun` hears of the process
    /// before it can have connected to anybody.
    pub(crate) async fn start(config: &Path, log: &Path, begun: impl FnOnce(u32)) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REVEILLE__")) {
            command.env_remove(name);
        }
        command.arg("serve").arg("-c").arg(config).env("REVEILLE__TELEMETRY__FORMAT", "json");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("a node cannot be started")?;
        let pid = child.id().context("the node ended at once")?;
        begun(pid);
        let stderr = child.stderr.take().context("standard error is piped")?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let (sender, serves) = oneshot::channel();
        tokio::spawn(async move {
            let (mut sender, mut start) = (Some(sender), Start::default());
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = writeln!(file, "{line}");
                if sender.is_some() && start.reads(&line) {
                    let _ = sender.take().map(|sender| sender.send(std::mem::take(&mut start)));
                }
            }
        });
        let start = timeout(PATIENCE, serves).await.context("the node does not serve in time")?;
        let start = start.with_context(|| format!("the node ended before it served: {}", log.display()))?;
        let admin = start.admin.context("the log names no admin port")?;
        Ok(Self { child, pid, listeners: start.listeners, admin })
    }

    /// Sends a signal by the `kill` command: sending one directly needs unsafe code.
    pub(crate) async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args([signal, &self.pid.to_string()]).status().await?;
        ensure!(status.success(), "kill {signal} {}", self.pid);
        Ok(())
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("a node cannot be killed")
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("process {} did not end", self.pid),
        }
    }
}

impl Start {
    /// Takes in a line of the log; true when the node serves.
    fn reads(&mut self, line: &str) -> bool {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
        let address = |field: &str| event[field].as_str().and_then(|addr| addr.parse().ok());
        match event["message"].as_str() {
            Some("listening") if event["transport"] == "tls" => self.listeners.extend(address("addr")),
            Some("the node serves") => {
                self.admin = address("admin");
                return true;
            }
            _ => {}
        }
        false
    }
}

/// GET on an admin port, and what came in JSON.
pub(crate) async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(ADMIN_PATIENCE, exchange).await.context("the admin port does not answer")??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {body}");
    serde_json::from_str(body).with_context(|| format!("{path}: {body}"))
}
