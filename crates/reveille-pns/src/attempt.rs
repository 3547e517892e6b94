//! One attempt at a push: route, credential, stream, answer; with the two repetitions that are made at once, each bounded: a
//! stream the peer did not process, and a credential that was stale.

use std::sync::Arc;

use reveille_push::{Outcome, PushTarget};
use reveille_runtime::clock;

use crate::{
    Limits,
    metrics::LaneMetrics,
    pool::{Pool, SendError},
    provider::{Classified, CredentialError, Next, Provider, Push, wall_now},
    queue::Job,
};

/// Makes one attempt, within the request timeout and the job's deadline.
pub(crate) async fn attempt(
    provider: &dyn Provider,
    job: &mut Job,
    limits: &Limits,
    metrics: &LaneMetrics,
) -> Classified {
    let until = job.deadline.min(clock::now() + limits.request_timeout);
    let repeatable = provider.repeatable(job.class);
    let mut sent = false;
    let mut turn = match Turn::begin(provider, &job.target) {
        Ok(turn) => turn,
        Err(classified) => return classified,
    };
    let classified = match tokio::time::timeout_at(until.into(), drive(provider, job, metrics, &mut sent)).await {
        Ok(Ok(classified) | Err(classified)) => classified,
        Err(_) => lost("timeout", repeatable || !sent),
    };
    turn.failed = classified.outcome == Outcome::Unavailable;
    classified
}

/// Tells the provider that an attempt has ended, even where its task does not live to tell.
struct Turn<'a> {
    provider: &'a dyn Provider,
    target: PushTarget,
    failed: bool,
}

impl<'a> Turn<'a> {
    fn begin(provider: &'a dyn Provider, target: &PushTarget) -> Result<Self, Classified> {
        provider.begin(target)?;
        Ok(Self { provider, target: target.clone(), failed: true })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.provider.ended(&self.target, self.failed);
    }
}

/// `sent` tells whoever gives up on this whether the peer may have seen the push.
async fn drive(
    provider: &dyn Provider,
    job: &mut Job,
    metrics: &LaneMetrics,
    sent: &mut bool,
) -> Result<Classified, Classified> {
    let repeatable = provider.repeatable(job.class);
    let mut refusals = 0;
    // Ways that could not be connected: a host has several addresses, and a call does not wait for one that is dead.
    let mut dead: Vec<Arc<Pool>> = Vec::new();
    loop {
        let push = Push {
            target: &job.target,
            class: job.class,
            ttl: job.ttl(clock::now()),
            attempt: job.attempts.saturating_add(u32::try_from(dead.len()).unwrap_or(u32::MAX)),
            repeat: job.attempts,
            refusals,
            id: job.correlation,
            now: wall_now(),
        };
        let started = clock::now();
        if let Some(result) = provider.batched(&push, &job.ticket) {
            *sent = true;
            let classified = result.await;
            metrics.answered(clock::now().saturating_duration_since(started));
            return Ok(classified);
        }
        let pool = provider.route(&push).await?;
        if dead.iter().any(|tried| Arc::ptr_eq(tried, &pool)) {
            return Err(lost("connect", true));
        }
        let auth = provider.authorize(&push).await.map_err(|error| match error {
            CredentialError::Refused => Classified::fault("no_token"),
            CredentialError::Unavailable => Classified::new(Outcome::Unavailable, "no_token", Next::Retry),
        })?;
        let Ok(lease) = pool.lease().await else {
            dead.push(pool);
            continue;
        };
        // P-047, P-069: the last look before it leaves.
        if job.ticket.is_withdrawn() {
            return Ok(Classified::done(Outcome::Withdrawn, "withdrawn"));
        }
        let request = provider.request(&push, &auth)?;
        let started = clock::now();
        *sent = true;
        let reply = match lease.send(request, MAX_BODY).await {
            Ok(reply) => reply,
            Err(SendError::Connect) => return Err(lost("connect", true)),
            Err(SendError::Unprocessed) if !job.replayed => {
                // P-150: the peer says it did not touch the stream.
                *sent = false;
                job.replayed = true;
                metrics.retry("unprocessed");
                continue;
            }
            Err(SendError::Unprocessed) => return Err(lost("unprocessed", repeatable)),
            Err(SendError::Interrupted) => return Err(lost("interrupted", repeatable)),
        };
        metrics.answered(clock::now().saturating_duration_since(started));
        let classified = provider.classify(&push, &reply);
        match classified.next {
            Next::Renew if refusals < provider.renewals() && provider.renew(&push, &auth).await => {
                refusals += 1;
                metrics.retry("credential_renewed");
            }
            Next::Renew => return Ok(Classified::fault(classified.reason)),
            Next::Hold => {
                provider.hold(push.now);
                return Ok(Classified { next: Next::Retry, ..classified });
            }
            Next::Done | Next::Alarm | Next::Suspect | Next::Retry | Next::RetryIn(_) | Next::Fault => {
                return Ok(classified);
            }
        }
    }
}

fn lost(reason: &'static str, again: bool) -> Classified {
    Classified::new(Outcome::Unavailable, reason, if again { Next::Retry } else { Next::Done })
}

/// P-140.
const MAX_BODY: usize = 4 * 1024;
