//! What the operating system asks of the process: to stop, or to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT: drain and end. Asked again during a drain: end now.
    Stop,
    /// SIGHUP: read certificates, keys and users again.
    Reload,
}

/// The signals of this process, caught from [`Signals::catch`] on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Starts to catch signals; needs a running runtime.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Safe to drop and call again: none is lost.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(()) = self.terminate.recv() => Asked::Stop,
            Some(()) = self.interrupt.recv() => Asked::Stop,
            Some(()) = self.hang_up.recv() => Asked::Reload,
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends this process a signal by the `kill` command: sending one directly needs unsafe code.
    async fn kill(signal: &str) {
        let status = std::process::Command::new("kill").args([signal, &std::process::id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    #[tokio::test]
    async fn signals_are_told_apart() {
        let mut signals = Signals::catch().unwrap();
        kill("-HUP").await;
        assert_eq!(signals.next().await, Asked::Reload);
        kill("-TERM").await;
        assert_eq!(signals.next().await, Asked::Stop);
        kill("-INT").await;
        assert_eq!(signals.next().await, Asked::Stop);
    }
}
