//! The one place where a shell reads the time.
//!
//! Protocol code takes the time as an argument. The tasks and actors around it read it here, once per turn, so that a paused
//! tokio clock moves everything in a test.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time, as the runtime's clock has it (and so obeying a paused clock).
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time in whole seconds since the Unix epoch; 0 on a machine whose clock stands before it.
pub fn unix_now() -> u64 {
    since_epoch().as_secs()
}

/// Wall time in milliseconds since the Unix epoch.
pub fn unix_now_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Sleeps until `deadline`, or for ever where there is none: the timer arm of an owner's `select!`.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_paused_clock_is_obeyed() {
        let before = now();
        sleep_until(Some(before + Duration::from_secs(3600))).await;
        assert_eq!(now() - before, Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_the_sleep_never_ends() {
        let ended = tokio::time::timeout(Duration::from_secs(1_000_000), sleep_until(None)).await;
        assert!(ended.is_err());
    }
}
