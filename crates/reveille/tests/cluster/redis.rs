//! A real redis-server of the test's own.

#![allow(clippy::disallowed_methods, reason = "a server of another language sends no word when it is ready")]
#![allow(dead_code, reason = "each user of this module uses another part of it")]

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server process on a port of its own; ended when dropped.
pub(crate) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    fsync: &'static str,
    pub(crate) port: u16,
}

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

impl Redis {
    /// Every write is on the disk before it is answered: what a test kills must come back as it was.
    pub(crate) fn start() -> Self {
        Self::with_fsync("always")
    }

    /// The same with another `appendfsync`.
    pub(crate) fn with_fsync(fsync: &'static str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let dir = tempfile::tempdir().expect("a folder");
        Self { child: spawn(port, dir.path(), fsync), dir, fsync, port }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("it can be waited for");
    }

    /// Starts it again, with what it had written to its log.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, self.dir.path(), self.fsync);
    }

    /// Starts it again as one that has lost everything.
    pub(crate) fn restart_empty(&mut self) {
        self.dir = tempfile::tempdir().expect("a folder");
        self.restart();
    }

    /// What it answers to a command, with nested answers as lines.
    pub(crate) fn say(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let said = Command::new("redis-cli").args(["-p", &port]).args(command).output();
        let said = said.expect("redis-cli comes with redis-server (Debian package redis-tools)");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &std::path::Path, fsync: &str) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", fsync, "--loglevel", "warning", "--dir"]).arg(dir);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (Debian package redis-server)");
    let give_up = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().expect("a status").is_none(), "redis-server ended at once");
        assert!(Instant::now() < give_up, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
