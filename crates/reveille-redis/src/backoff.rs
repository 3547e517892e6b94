//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// No pause is longer.
pub(crate) const LONGEST: Duration = Duration::from_millis(500);

/// Pauses that double from 10 ms to half a second, each with some chance in it, so that many nodes do not come at once.
pub(crate) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(10))
        .with_max_delay(LONGEST)
        .with_jitter()
        .without_max_times()
        .build()
}
