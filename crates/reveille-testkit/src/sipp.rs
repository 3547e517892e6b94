//! Runs the SIPp program with a scenario and reads its statistics: real, foreign SIP traffic for tests.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// One run of SIPp over UDP or TCP on the loopback interface.
#[derive(Clone, Debug)]
pub struct Sipp {
    scenario: PathBuf,
    remote: Option<SocketAddr>,
    limit: Duration,
    args: Vec<OsString>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct SippOutcome {
    /// Exit code: 0 when every call succeeded, 1 when one failed (SIPp's manual); `None` when it was killed.
    pub code: Option<i32>,
    /// Calls that ran through.
    pub successful: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Retransmissions SIPp made.
    pub retransmissions: u64,
    /// The end of its error log, for assertion messages.
    pub errors: String,
}

impl SippOutcome {
    /// Exit code 0, no failed call, at least one successful.
    pub fn is_success(&self) -> bool {
        self.code == Some(0) && self.failed == 0 && self.successful > 0
    }
}

/// A SIPp that is running, typically the answering side.
pub struct RunningSipp {
    child: Child,
    dir: tempfile::TempDir,
    limit: Duration,
}

/// Whether SIPp is installed.
pub fn is_installed() -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("sipp").is_file()))
}

/// Credentials as a field of an input file: SIPp expands its keywords there, but not fields inside keywords.
pub fn credentials(user: &str, password: &str) -> String {
    format!("[authentication username={user} password={password}]")
}

/// Writes an input file for [`Sipp::input`]: one row per call, read in order.
///
/// # Errors
/// When the file cannot be written.
pub fn write_csv<const N: usize>(path: &Path, rows: impl IntoIterator<Item = [String; N]>) -> io::Result<()> {
    let mut text = String::from("SEQUENTIAL\n");
    for row in rows {
        text.push_str(&row.join(";"));
        text.push('\n');
    }
    std::fs::write(path, text)
}

impl Sipp {
    /// A scenario file; the run is killed after a minute unless [`Self::limit`] says otherwise.
    pub fn new(scenario: impl AsRef<Path>) -> Self {
        Self { scenario: scenario.as_ref().to_owned(), remote: None, limit: Duration::from_secs(60), args: Vec::new() }
    }

    /// The peer to talk to (calling side).
    #[must_use]
    pub fn remote(mut self, remote: SocketAddr) -> Self {
        self.remote = Some(remote);
        self
    }

    /// Calls to make or take in all (`-m`).
    #[must_use]
    pub fn calls(self, calls: u32) -> Self {
        self.arg("-m").arg(calls.to_string())
    }

    /// New calls per second (`-r`).
    #[must_use]
    pub fn rate(self, rate: u32) -> Self {
        self.arg("-r").arg(rate.to_string())
    }

    /// Calls at the same time (`-l`).
    #[must_use]
    pub fn concurrent(self, calls: u32) -> Self {
        self.arg("-l").arg(calls.to_string())
    }

    /// The port SIPp binds on 127.0.0.1 (`-p`).
    #[must_use]
    pub fn local_port(self, port: u16) -> Self {
        self.arg("-p").arg(port.to_string())
    }

    /// A CSV file with one line per call (`-inf`).
    #[must_use]
    pub fn input(self, file: impl AsRef<Path>) -> Self {
        self.arg("-inf").arg(file.as_ref().as_os_str())
    }

    /// TCP with one connection for all calls (`-t t1`) in place of UDP.
    #[must_use]
    pub fn tcp(self) -> Self {
        self.arg("-t").arg("t1")
    }

    /// `-key name value`: a word the scenario can use.
    #[must_use]
    pub fn key(self, name: &str, value: &str) -> Self {
        self.arg("-key").arg(name).arg(value)
    }

    /// Any other argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Kills the run after this long.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts SIPp.
    ///
    /// # Errors
    /// When it is not installed or cannot be started.
    pub fn spawn(self) -> io::Result<RunningSipp> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("sipp");
        if let Some(remote) = self.remote {
            command.arg(remote.to_string());
        }
        command
            .arg("-sf")
            .arg(std::path::absolute(&self.scenario)?)
            .args(["-i", "127.0.0.1", "-nostdin", "-trace_stat", "-fd", "1", "-stf"])
            .arg(dir.path().join("stat.csv"))
            .args(["-trace_err", "-error_file"])
            .arg(dir.path().join("errors.log"))
            .args(&self.args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        Ok(RunningSipp { child: command.spawn()?, dir, limit: self.limit })
    }

    /// Starts SIPp and waits for its end.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub async fn run(self) -> io::Result<SippOutcome> {
        self.spawn()?.finish().await
    }
}

impl RunningSipp {
    /// Waits for the end, or kills the run at its limit.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn finish(mut self) -> io::Result<SippOutcome> {
        let code = match tokio::time::timeout(self.limit, self.child.wait()).await {
            Ok(status) => status?.code(),
            Err(_) => {
                self.child.kill().await?;
                None
            }
        };
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let stats = read("stat.csv");
        let errors = read("errors.log");
        let tail = errors.len().saturating_sub(4096);
        Ok(SippOutcome {
            code,
            successful: statistic(&stats, "SuccessfulCall(C)"),
            failed: statistic(&stats, "FailedCall(C)"),
            retransmissions: statistic(&stats, "Retransmissions(C)"),
            errors: errors.get(tail..).unwrap_or(&errors).to_owned(),
        })
    }
}

/// A column of the last line of SIPp's statistics file.
fn statistic(csv: &str, column: &str) -> u64 {
    let mut lines = csv.lines();
    let index = lines.next().and_then(|names| names.split(';').position(|name| name == column));
    let last = lines.next_back();
    index.zip(last).and_then(|(index, line)| line.split(';').nth(index)?.parse().ok()).unwrap_or(0)
}
