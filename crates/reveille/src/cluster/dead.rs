//! Dead push tokens, known to every home (P-156, P-171): what a shard here hears is told by way of the store, what others tell is
//! entered here.
//!
//! Homes are told at once; that nothing was missed is looked after every 10 s. While Redis is away marks wait, and hold nobody up.

use std::{sync::Arc, time::Duration};

use reveille_redis::{Buried, BuriedWatch, CommandError, RedisStore};
use reveille_registrar::{DeadMark, DeadTargets};
use reveille_runtime::clock;
use tokio::task::JoinHandle;

/// Between two looks, whatever is told meanwhile.
const LOOK: Duration = Duration::from_secs(10);
/// The pause after Redis did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How long Redis has for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the marks of this home those of all.
pub struct DeadSharing {
    store: Arc<RedisStore>,
    marks: Arc<DeadTargets>,
    position: String,
}

impl DeadSharing {
    /// For a home that answers by these.
    pub fn new(store: Arc<RedisStore>, marks: Arc<DeadTargets>) -> Self {
        Self { store, marks, position: String::new() }
    }

    /// Hears what was told before, and then goes on telling and hearing.
    pub async fn start(mut self) -> JoinHandle<()> {
        let heard = self.exchange().await;
        tokio::spawn(self.run(heard.is_ok()))
    }

    async fn run(mut self, mut answered: bool) {
        let mut watch = self.store.watch_buried(self.position.clone());
        loop {
            if !answered {
                tokio::time::sleep(PAUSE).await;
            } else if self.waits(&mut watch).await {
                // What the watch has lost sight of it finds again from here.
                watch = self.store.watch_buried(self.position.clone());
            }
            let exchanged = self.exchange().await;
            if let Err(error) = &exchanged {
                tracing::debug!(%error, "marks of dead push tokens wait for Redis");
            }
            answered = exchanged.is_ok();
        }
    }

    /// Waits for something to tell or to hear. Returns whether the watch is to begin anew.
    async fn waits(&self, watch: &mut BuriedWatch) -> bool {
        tokio::select! {
            () = self.marks.news() => false,
            changed = watch.changed() => changed.is_err(),
            () = tokio::time::sleep(LOOK) => true,
        }
    }

    /// Tells what is to be told, and hears what is new.
    async fn exchange(&mut self) -> Result<(), CommandError> {
        let (untold, unix) = (self.marks.untold(), clock::unix_now());
        let told: Vec<_> = untold.iter().map(|mark| buried(mark, unix)).collect();
        self.store.bury(&told, clock::now() + PATIENCE).await?;
        self.marks.told(&untold);
        let (heard, position) = self.store.buried(&self.position, clock::now() + PATIENCE).await?;
        let unix = clock::unix_now();
        for Buried { name, verdicts, age } in heard {
            self.marks.hear(DeadMark { name, verdicts, at: unix.saturating_sub(age.as_secs()) }, unix);
        }
        self.position = position;
        Ok(())
    }
}

fn buried(mark: &DeadMark, unix: u64) -> Buried {
    let age = Duration::from_secs(unix.saturating_sub(mark.at));
    Buried { name: mark.name, verdicts: mark.verdicts, age }
}
