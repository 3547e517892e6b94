//! A user that registers all the time, so that it is seen how long the bindings of its shard are out of reach.

use std::{sync::Arc, time::Duration};

use rand::rngs::StdRng;
use reveille_testkit::ua::Phone;
use tokio::time::{Instant, sleep};

use super::{RETRY, Shared};

/// Between two REGISTERs of a probe, and so the precision of what it measures.
const INTERVAL: Duration = Duration::from_millis(500);

/// Registers until everybody stops.
pub(super) async fn live(shared: Arc<Shared>, mut phone: Phone, user: String, turn: Duration, mut rng: StdRng) {
    sleep(turn).await;
    let mut begun = false;
    // Since when it fails, and under which fault that began.
    let mut failing = None;
    while !shared.stops() {
        let start = Instant::now();
        let connected = phone.is_connected() || phone.connect_to(shared.edge(&mut rng).addr).await.is_ok();
        if connected && shared.register(&mut phone, &user).await.is_some() {
            if let Some((since, kind)) = failing.take().filter(|_| begun) {
                shared.trace.say(format_args!("{user} was away for {:?}", Instant::now().duration_since(since)));
                shared.tallies.unavailable(kind, Instant::now().duration_since(since));
            }
            begun = true;
            // It may be slow and still succeed: that is time without service too, once it is longer than the interval.
            if start.elapsed() > INTERVAL {
                shared.tallies.unavailable(shared.tallies.present(), start.elapsed());
            }
            sleep(INTERVAL.saturating_sub(start.elapsed())).await;
        } else {
            failing.get_or_insert((start, shared.tallies.present()));
            phone.sleep().await;
            sleep(RETRY).await;
        }
    }
    phone.sleep().await;
}
