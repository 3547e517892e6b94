//! Real redis-servers for tests, load and measurements: one by itself, a master with replicas, [`Sentinels`], a [`Cluster`].
//!
//! Each server has a loopback port and a folder of its own, is known to be ready by what it says in its log, and is ended by its
//! process identifier when dropped. Calls block; they are short, but for those that wait for something.

mod cluster;
mod sentinel;

use std::{
    collections::VecDeque,
    fmt, fs,
    io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

pub use cluster::Cluster;
use parking_lot::Mutex;
use rand::Rng as _;
pub use sentinel::{MASTER_NAME, Sentinels};
use tempfile::TempDir;

/// How long a server may take to start, to answer, or to do what is waited for: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at what a server sends no word of.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines of its log that are kept of each server.
const LOG_LINES: usize = 400;
/// Ports to choose from, and 10,000 above them those of the cluster bus. The system gives neither to others who ask it for a port
/// or make a connection, so a server that was killed finds its own free when it comes back.
const PORTS: std::ops::Range<u16> = 12_000..22_000;
/// How many ports are tried.
const ATTEMPTS: u32 = 16;

/// What went wrong, with the log of the server where that explains it.
#[derive(Clone, thiserror::Error)]
#[error("{0}")]
pub struct RedisError(String);

impl fmt::Debug for RedisError {
    /// A test that unwraps it shows the lines of the log as lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<std::io::Error> for RedisError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A server process; ended when dropped.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    dir: TempDir,
    flags: &'static [&'static str],
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Redis {
    /// A server that keeps nothing on disk.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn start() -> Result<Self, RedisError> {
        Self::with("")
    }

    /// A server that has every write on disk before it answers: what is killed comes back as it was.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn durable() -> Result<Self, RedisError> {
        Self::with("appendonly yes\nappendfsync always\n")
    }

    /// A server with these lines in its configuration file, in which `{port}` stands for its port. Without any it keeps nothing
    /// on disk.
    ///
    /// # Errors
    /// [`RedisError`] when it does not start.
    pub fn with(lines: &str) -> Result<Self, RedisError> {
        Self::launch(&format!("save \"\"\nrepl-diskless-sync-delay 0\n{lines}"), &[])
    }

    fn launch(lines: &str, flags: &'static [&'static str]) -> Result<Self, RedisError> {
        let dir = tempfile::Builder::new().prefix("reveille-redis-").tempdir()?;
        let mut server = Self { child: None, port: 0, dir, flags, log: Arc::default() };
        for attempt in 1.. {
            server.port = rand::rng().random_range(PORTS);
            let text = format!("port {{port}}\nbind 127.0.0.1\ndir {}\n{lines}\n", server.dir.path().display());
            fs::write(server.file(), text.replace("{port}", &server.port.to_string()))?;
            match server.restart() {
                // Somebody else has that port.
                Err(_) if attempt < ATTEMPTS && server.log().contains("Failed listening on port") => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(server)
    }

    /// Starts an empty server that copies this one, and waits until it has.
    ///
    /// # Errors
    /// [`RedisError`] when it does not come to that.
    pub fn replica(&self) -> Result<Self, RedisError> {
        let replica = Self::with("appendonly yes\nappendfsync always\n")?;
        replica.follow(self.port)?;
        until("a replica follows", || Ok(replica.is_linked()))?;
        Ok(replica)
    }

    /// Starts the process again, with the configuration and the files that it left, and waits until it serves.
    ///
    /// # Errors
    /// [`RedisError`] when it does not.
    pub fn restart(&mut self) -> Result<(), RedisError> {
        self.kill();
        let (output, input) = std::io::pipe()?;
        let mut command = Command::new("redis-server");
        command.arg(self.file()).args(self.flags).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        self.child = Some(command.spawn().map_err(|error| {
            RedisError(format!("redis-server cannot be started ({error}): `cargo xtask test` installs it"))
        })?);
        // Or the end of the server would not be the end of the pipe.
        drop(command);
        let (sender, ready) = mpsc::channel();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || keep_log(output, &log, &sender));
        ready.recv_timeout(PATIENCE).map_err(|error| {
            let what = match error {
                mpsc::RecvTimeoutError::Timeout => "does not serve in time",
                mpsc::RecvTimeoutError::Disconnected => "ended before it served",
            };
            RedisError(format!("redis-server at port {} {what}:\n{}", self.port, self.log()))
        })
    }

    /// Ends the process at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal such as `STOP` or `CONT`.
    ///
    /// # Errors
    /// When the process does not run.
    pub fn signal(&self, signal: &str) -> Result<(), RedisError> {
        let pid = self.pid().ok_or_else(|| RedisError("the server does not run".to_owned()))?;
        let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status()?;
        status.success().then_some(()).ok_or_else(|| RedisError(format!("kill -{signal} {pid}: {status}")))
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it listens, over restarts too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// [`Self::port`] as an address.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.log.lock().iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// Says something to the server, over a connection of its own. A nested answer comes as lines, a number with its colon, a word
    /// with its plus or minus.
    ///
    /// # Errors
    /// When there is no answer. What the server refuses is an answer.
    pub fn ask(&self, command: &[&str]) -> Result<String, RedisError> {
        Ok(self.ask_all(&[command])?.remove(0))
    }

    /// As [`Self::ask`] for several things, one after the other over one connection: an answer for each.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_all(&self, commands: &[&[&str]]) -> Result<Vec<String>, RedisError> {
        let stream = TcpStream::connect(self.addr())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut stream = BufReader::new(stream);
        let answers = commands.iter().map(|command| {
            let words = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
            let request = format!("*{}\r\n{}", command.len(), words.collect::<String>());
            stream.get_mut().write_all(request.as_bytes())?;
            let mut lines = Vec::new();
            read_reply(&mut stream, &mut lines)?;
            Ok(lines.join("\n"))
        });
        answers.collect()
    }

    /// As [`Self::ask`], where the answer is to be `OK`.
    ///
    /// # Errors
    /// As [`Self::ask`], and for another answer.
    pub fn order(&self, command: &[&str]) -> Result<(), RedisError> {
        match self.ask(command)? {
            answer if answer == "+OK" => Ok(()),
            answer => Err(RedisError(format!("{}: {answer}", command.join(" ")))),
        }
    }

    /// Copies the server at this port from now on, over restarts too.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub fn follow(&self, port: u16) -> Result<(), RedisError> {
        self.order(&["REPLICAOF", "127.0.0.1", &port.to_string()])?;
        self.order(&["CONFIG", "REWRITE"])
    }

    /// Is a master from now on, over restarts too.
    ///
    /// # Errors
    /// As [`Self::order`].
    pub fn promote(&self) -> Result<(), RedisError> {
        self.order(&["REPLICAOF", "NO", "ONE"])?;
        self.order(&["CONFIG", "REWRITE"])
    }

    /// Tells others to reach it at this port of 127.0.0.1 instead of its own, over restarts too.
    fn announce(&self, kind: &str, port: u16) -> Result<(), RedisError> {
        self.order(&["CONFIG", "SET", &format!("{kind}-announce-ip"), "127.0.0.1"])?;
        self.order(&["CONFIG", "SET", &format!("{kind}-announce-port"), &port.to_string()])?;
        self.order(&["CONFIG", "REWRITE"])
    }

    /// Whether it is a replica that follows its master.
    pub fn is_linked(&self) -> bool {
        self.replication().contains("master_link_status:up")
    }

    /// Whether it takes itself for a master.
    pub fn is_master(&self) -> bool {
        self.replication().contains("role:master")
    }

    /// Whether it knows that it is a replica, linked or not.
    pub fn is_replica(&self) -> bool {
        self.replication().contains("role:slave")
    }

    /// How many replicas follow it.
    pub fn followers(&self) -> usize {
        self.replication().matches("state=online").count()
    }

    /// Nothing where it does not answer.
    fn replication(&self) -> String {
        self.ask(&["INFO", "replication"]).unwrap_or_default()
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.conf")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what a server says until it ends. `ready` hears when it serves.
fn keep_log(output: PipeReader, log: &Mutex<VecDeque<String>>, ready: &mpsc::Sender<()>) {
    let mut lines = BufReader::new(output).lines();
    while let Some(Ok(line)) = lines.next() {
        // A sentinel says the latter.
        let serves = line.contains("Ready to accept connections") || line.contains("Sentinel ID is");
        let mut log = log.lock();
        log.push_back(line);
        if log.len() > LOG_LINES {
            log.pop_front();
        }
        if serves {
            let _ = ready.send(());
        }
    }
}

fn read_reply(stream: &mut BufReader<TcpStream>, lines: &mut Vec<String>) -> Result<(), RedisError> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(RedisError("the server closed the connection".to_owned()));
    }
    let line = line.trim_end();
    match (line.get(..1), line.get(1..).and_then(|rest| rest.parse::<i64>().ok())) {
        (Some("$"), Some(length)) if length >= 0 => {
            let mut octets = Vec::new();
            stream.take(length.unsigned_abs() + 2).read_to_end(&mut octets)?;
            lines.push(String::from_utf8_lossy(octets.strip_suffix(b"\r\n").unwrap_or(&octets)).into_owned());
        }
        (Some("*"), Some(count)) => {
            for _ in 0..count {
                read_reply(stream, lines)?;
            }
        }
        _ => lines.push(line.to_owned()),
    }
    Ok(())
}

/// Waits for something that servers do among themselves, of which they send no word.
///
/// # Errors
/// [`RedisError`] when it does not happen in time, with what kept it from being seen last.
#[allow(clippy::disallowed_methods, reason = "servers of another language are waited for in real time")]
pub fn until(what: &str, mut done: impl FnMut() -> Result<bool, RedisError>) -> Result<(), RedisError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let outcome = done();
        if let Ok(true) = outcome {
            return Ok(());
        }
        if Instant::now() > give_up {
            let why = outcome.err().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(RedisError(format!("in vain: {what}{why}")));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_server_comes_back_as_it_was() {
        let mut server = Redis::durable().unwrap();
        server.order(&["SET", "key", "value"]).unwrap();
        server.kill();
        assert!(server.ask(&["PING"]).is_err());
        server.restart().unwrap();
        assert_eq!(server.ask(&["GET", "key"]).unwrap(), "value");
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        let error = Redis::with("no-such-setting yes").err().unwrap().to_string();
        assert!(error.contains("no-such-setting"), "{error}");
    }

    #[test]
    fn a_replica_takes_over_and_its_master_follows_it() {
        let mut first = Redis::durable().unwrap();
        let second = first.replica().unwrap();
        first.order(&["SET", "key", "value"]).unwrap();
        until("it is copied", || Ok(second.ask(&["GET", "key"])? == "value")).unwrap();
        first.kill();
        second.promote().unwrap();
        first.restart().unwrap();
        first.follow(second.port()).unwrap();
        until("it follows", || Ok(first.is_linked() && second.followers() == 1)).unwrap();
        assert!(second.is_master() && !first.is_master());
        assert_eq!(second.ask(&["GET", "key"]).unwrap(), "value");
    }
}
