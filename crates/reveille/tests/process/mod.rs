//! A `reveille serve` process of its own, as an operator would run it: started from a file, watched through its log and its
//! admin port, ended by signals. For tests and measurements that kill it or read what it uses from `/proc` (Linux only).

#![allow(dead_code, reason = "each user of this module uses another part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test or a measurement ends where something unexpected happens"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};

/// How long a node may take for what it is asked: generous, because the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often the admin port is asked, and a limit on how stale what it says may be.
const POLL: Duration = Duration::from_millis(50);
/// `USER_HZ` of Linux, the unit of processor times in `/proc`; the same on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    lines: mpsc::UnboundedReceiver<Value>,
    tail: Arc<Mutex<Vec<String>>>,
    listeners: Vec<(String, SocketAddr)>,
    admin: SocketAddr,
}

impl Server {
    /// Starts `program serve -c config` and waits until it serves. `environment` goes over the file.
    pub(crate) async fn start(program: &Path, config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REVEILLE__")) {
            command.env_remove(name);
        }
        command.arg("serve").arg("-c").arg(config).envs(environment.iter().copied());
        command.env("REVEILLE__TELEMETRY__FORMAT", "json").stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().expect("the program can be started");
        let (sender, lines) = mpsc::unbounded_channel();
        let tail = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let keeper = Arc::clone(&tail);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send(event);
                }
                let mut tail = keeper.lock();
                if tail.len() >= 50 {
                    tail.remove(0);
                }
                tail.push(line);
            }
        });
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, lines, tail, listeners: Vec::new(), admin: unknown };
        let serves = server.line("the node serves").await;
        server.admin = serves["admin"].as_str().and_then(|addr| addr.parse().ok()).expect("the admin port is logged");
        server
    }

    /// The admin port.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The first listener of a transport, by its name in the configuration.
    pub(crate) fn addr(&self, transport: &str) -> SocketAddr {
        self.addrs(transport)[0]
    }

    /// The listeners of a transport, in the order of the configuration.
    pub(crate) fn addrs(&self, transport: &str) -> Vec<SocketAddr> {
        self.listeners.iter().filter(|(name, _)| name == transport).map(|(_, addr)| *addr).collect()
    }

    /// The next event with this message; those before it are let pass.
    pub(crate) async fn line(&mut self, message: &str) -> Value {
        loop {
            let event = match timeout(PATIENCE, self.lines.recv()).await {
                Ok(Some(event)) => event,
                Ok(None) => panic!("the node ended before {message:?}: {:#?}", self.tail.lock()),
                Err(_) => panic!("no {message:?} in the log: {:#?}", self.tail.lock()),
            };
            let text = event["message"].as_str().unwrap_or_default();
            if text == "listening" {
                let addr = event["addr"].as_str().and_then(|addr| addr.parse().ok()).expect("an address");
                self.listeners.push((event["transport"].as_str().unwrap_or_default().to_owned(), addr));
            }
            if text == message {
                return event;
            }
        }
    }

    /// The last lines of the log, for assertion messages.
    pub(crate) fn tail(&self) -> String {
        self.tail.lock().join("\n")
    }

    /// Sends a signal by the `kill` command: sending one directly needs unsafe code.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("there is a kill command").success());
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("the process can be waited for");
    }

    /// Waits for the end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let (sender, ended) = tokio::sync::oneshot::channel();
        let pid = self.child.id();
        std::thread::spawn(move || {
            let _ = sender.send(self.child.wait());
        });
        match timeout(PATIENCE, ended).await {
            Ok(status) => status.expect("the waiting thread lives").expect("the process can be waited for"),
            Err(_) => panic!("process {pid} did not end"),
        }
    }

    /// GET on the admin port: status and body.
    pub(crate) async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).ok_or_else(|| std::io::Error::other(answer))
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, body) = self.get("/metrics").await.expect("the admin port answers");
        let of_this = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        body.lines().filter(of_this).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric has reached a value.
    pub(crate) async fn until_metric(&self, name: &str, least: f64) {
        let reached = async {
            while self.metric(name).await < least {
                sleep(POLL).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} is {} and not {least}: {}", self.metric(name).await, self.tail());
        }
    }

    /// Waits until a metric is no more than this.
    pub(crate) async fn until_metric_falls(&self, name: &str, most: f64) {
        let reached = async {
            while self.metric(name).await > most {
                sleep(POLL).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{name} is {} and not {most}: {}", self.metric(name).await, self.tail());
        }
    }

    /// Processor time used so far, user and system together, to 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        let (user, system) = self.cpu_split();
        user + system
    }

    /// Processor time used so far: user, system.
    pub(crate) fn cpu_split(&self) -> (Duration, Duration) {
        cpu_split(self.child.id())
    }

    /// Resident memory, bytes.
    pub(crate) fn resident(&self) -> u64 {
        resident(self.child.id())
    }
}

/// Processor time that a process has used so far: user, system.
pub(crate) fn cpu_split(pid: u32) -> (Duration, Duration) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it (proc_pid_stat(5)).
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut next = || {
        let ticks = fields.next().and_then(|field| field.parse::<u64>().ok()).expect("a number");
        Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND)
    };
    (next(), next())
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
