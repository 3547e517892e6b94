//! The way to the servers: each request goes to the one that has its slot, follows redirections, brings the functions along
//! where they are missing, and is repeated until its deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, Value};

use crate::backoff;
use crate::config::{Endpoint, RedisConfig, WaitReplicas};
use crate::error::{CommandError, ConnectError};
use crate::functions::{Function, Functions};
use crate::keys::Keys;
use crate::link::{Connector, Lost, Pool};
use crate::metrics::Metrics;
use crate::reply::{Reply, Shape};
use crate::topology::Topology;

/// A command and where it belongs.
#[derive(Default)]
pub(crate) struct Request {
    pub(crate) slot: u16,
    pub(crate) cmd: Cmd,
    /// Where the server said to ask, this once.
    pub(crate) ask: Option<Endpoint>,
}

impl Request {
    pub(crate) fn new(slot: u16, cmd: Cmd) -> Self {
        Request { slot, cmd, ask: None }
    }
}

/// What became of a request that was sent.
pub(crate) enum Outcome {
    /// An answer.
    Answer(Value),
    /// Send it again, at once: the way is known better now.
    Redirected,
    /// Send it again, a little later.
    Later,
    /// Never.
    Refused(String),
}

/// The replies to one batch.
pub(crate) struct Round {
    /// One for each request, in order.
    pub(crate) outcomes: Vec<Outcome>,
    /// How many replicas hold it, where that was asked.
    pub(crate) held: Option<u32>,
    /// There were no replies at all.
    pub(crate) lost: bool,
}

/// All that is needed to reach the servers.
pub(crate) struct Gateway {
    pub(crate) keys: Keys,
    /// This node's tag.
    pub(crate) node: String,
    pub(crate) functions: Functions,
    pub(crate) topology: Arc<Topology>,
    pub(crate) connector: Arc<Connector>,
    pub(crate) metrics: Metrics,
    pub(crate) wait: Option<WaitReplicas>,
    /// Whether the newest exchange succeeded.
    pub(crate) healthy: AtomicBool,
    /// How long a reply may take.
    pub(crate) within: Duration,
    control: Pool,
}

impl Gateway {
    pub(crate) async fn open(config: &RedisConfig, metrics: Metrics) -> Result<Self, ConnectError> {
        let topology = Topology::find(config).await?;
        let connector = Arc::new(Connector::to_data(config));
        let gateway = Gateway {
            keys: Keys::new(&config.cluster),
            node: config.node.clone(),
            functions: Functions::new(),
            topology,
            control: Pool::new(connector.clone(), metrics.clone()),
            connector,
            metrics,
            wait: config.wait_replicas.filter(|wait| wait.count > 0),
            healthy: AtomicBool::new(false),
            within: config.response_timeout,
        };
        // A wrong password or certificate is better found now than with the first REGISTER.
        let first = gateway.topology.table().of(0).clone();
        let mut ping = redis::pipe();
        ping.cmd("PING");
        let server = |reason| ConnectError::Server { endpoint: first.to_string(), reason };
        let exchanged = gateway.control.exchange(&first, &ping, gateway.within).await;
        exchanged.map_err(|Lost(reason)| server(reason))?;
        gateway.note(true);
        Ok(gateway)
    }

    pub(crate) fn call(&self, function: Function, keys: &[&str]) -> Cmd {
        self.functions.call(function, keys)
    }

    /// Sends requests to one server in one go. Those whose outcome is to send them again are ready for that afterwards.
    pub(crate) async fn round(
        &self,
        pool: &Pool,
        to: &Endpoint,
        requests: &mut [&mut Request],
        wait: Option<WaitReplicas>,
    ) -> Round {
        let mut pipeline = redis::Pipeline::with_capacity(requests.len() + 1);
        for request in requests.iter_mut() {
            if request.ask.is_some() {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(std::mem::take(&mut request.cmd));
        }
        if let Some(wait) = wait {
            pipeline.cmd("WAIT").arg(wait.count).arg(u64::try_from(wait.within.as_millis()).unwrap_or(u64::MAX));
        }
        let within = self.within + wait.map_or(Duration::ZERO, |wait| wait.within);
        let mut replies = match pool.exchange(to, &pipeline, within).await {
            Ok(replies) => replies.into_iter(),
            Err(_) => {
                self.note(false);
                self.topology.doubt();
                let mut commands = pipeline.cmd_iter();
                for request in requests.iter_mut() {
                    restore(request, &mut commands);
                    // The server that was named may be gone; the table will know.
                    request.ask = None;
                }
                let outcomes = requests.iter().map(|_| Outcome::Later).collect();
                return Round { outcomes, held: None, lost: true };
            }
        };
        let (mut outcomes, mut unloaded) = (Vec::with_capacity(requests.len()), false);
        let mut commands = pipeline.cmd_iter();
        for request in requests.iter_mut() {
            if request.ask.is_some() {
                let (_, _) = (replies.next(), commands.next());
                request.ask = None;
            }
            let reply = Reply::of(replies.next().unwrap_or(Value::Nil), to);
            let outcome = match reply {
                Reply::Answer(value) => {
                    commands.next();
                    outcomes.push(Outcome::Answer(value));
                    continue;
                }
                Reply::Moved(target) => {
                    self.topology.moved(request.slot, target);
                    Outcome::Redirected
                }
                Reply::Ask(target) => {
                    request.ask = Some(target);
                    Outcome::Redirected
                }
                Reply::Unloaded => {
                    unloaded = true;
                    Outcome::Redirected
                }
                Reply::Unsupported => {
                    self.functions.use_scripts();
                    Outcome::Redirected
                }
                Reply::ReadOnly => {
                    pool.reset(to);
                    self.topology.doubt();
                    Outcome::Later
                }
                Reply::Later => Outcome::Later,
                Reply::Refused(reason) => Outcome::Refused(reason),
            };
            if let Some(cmd) = commands.next() {
                request.cmd = match outcome {
                    Outcome::Redirected => self.functions.again(cmd),
                    _ => cmd.clone(),
                };
            }
            outcomes.push(outcome);
        }
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Answer(_))) {
            self.note(true);
        }
        let held = wait.and_then(|_| replies.next().number().ok()).and_then(|held| u32::try_from(held).ok());
        if unloaded {
            self.load(pool, to, requests).await;
        }
        Round { outcomes, held: wait.map(|_| held.unwrap_or(0)), lost: false }
    }

    /// Brings the functions to a server. Where that is forbidden scripts have to do.
    async fn load(&self, pool: &Pool, to: &Endpoint, requests: &mut [&mut Request]) {
        let Ok(replies) = pool.exchange(to, &self.functions.load(), self.within).await else { return };
        let refused = replies.into_iter().find_map(|reply| match Reply::of(reply, to) {
            Reply::Refused(reason) => Some(reason),
            _ => None,
        });
        let Some(reason) = refused else { return };
        if self.functions.uses_scripts() {
            tracing::error!(server = %to, reason, "Redis lets us load neither functions nor scripts");
            return;
        }
        self.functions.use_scripts();
        for request in requests.iter_mut().filter(|request| request.cmd.args_iter().len() > 0) {
            request.cmd = self.functions.again(&request.cmd);
        }
    }

    fn note(&self, healthy: bool) {
        self.metrics.healthy.set(i64::from(healthy));
        if self.healthy.swap(healthy, Ordering::Relaxed) != healthy {
            match healthy {
                true => tracing::info!("Redis answers"),
                false => tracing::warn!("Redis does not answer; what needs it waits or is refused"),
            }
        }
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// [`CommandError`], `Unavailable` once the deadline has passed.
    pub(crate) async fn ask(&self, request: Request, deadline: Instant) -> Result<Value, CommandError> {
        let mut answers = self.ask_all(vec![request], deadline, false).await;
        answers.pop().unwrap_or(Err(CommandError::Answer))
    }

    /// Asks many things, those for one server together. `durable`: waits for replicas, where the configuration says so.
    pub(crate) async fn ask_all(
        &self,
        mut requests: Vec<Request>,
        deadline: Instant,
        durable: bool,
    ) -> Vec<Result<Value, CommandError>> {
        let mut answers: Vec<_> = requests.iter().map(|_| None).collect();
        let asking = async {
            let (mut pauses, mut redirections) = (backoff::pauses(), 0);
            while answers.iter().any(Option::is_none) {
                let later = self.ask_round(&self.control, &mut requests, &mut answers, durable).await;
                redirections += 1;
                if later || redirections > MOST_REDIRECTIONS {
                    tokio::time::sleep(pauses.next().unwrap_or(backoff::LONGEST)).await;
                }
            }
        };
        // What has not been answered by then is answered below.
        let _ = tokio::time::timeout_at(deadline.into(), asking).await;
        answers.into_iter().map(|answer| answer.unwrap_or(Err(CommandError::Unavailable))).collect()
    }

    /// Sends requests and follows redirections, without pausing: what has no answer then has to come again later.
    pub(crate) async fn ask_redirected(
        &self,
        pool: &Pool,
        requests: &mut [Request],
        answers: &mut [Option<Result<Value, CommandError>>],
    ) {
        for _ in 0..MOST_REDIRECTIONS {
            let later = self.ask_round(pool, requests, answers, false).await;
            if later || answers.iter().all(Option::is_some) {
                return;
            }
        }
    }

    /// Sends what has no answer yet. Returns whether the rest should wait a little.
    pub(crate) async fn ask_round(
        &self,
        pool: &Pool,
        requests: &mut [Request],
        answers: &mut [Option<Result<Value, CommandError>>],
        durable: bool,
    ) -> bool {
        let table = self.topology.table();
        let mut groups: HashMap<Endpoint, (Vec<usize>, Vec<&mut Request>)> = HashMap::new();
        for (at, request) in requests.iter_mut().enumerate().filter(|(at, _)| answers[*at].is_none()) {
            let to = request.ask.clone().unwrap_or_else(|| table.of(request.slot).clone());
            let group = groups.entry(to).or_default();
            group.0.push(at);
            group.1.push(request);
        }
        let wait = self.wait.filter(|_| durable);
        let rounds = groups.into_iter().map(|(to, (places, mut requests))| async move {
            (places, self.round(pool, &to, &mut requests, wait).await)
        });
        let mut later = false;
        for (places, round) in join_all(rounds).await {
            for (at, outcome) in places.into_iter().zip(round.outcomes) {
                answers[at] = match outcome {
                    Outcome::Answer(value) => Some(self.durable(value, round.held)),
                    Outcome::Refused(reason) => Some(Err(CommandError::Refused(reason))),
                    Outcome::Redirected => None,
                    Outcome::Later => {
                        later = true;
                        None
                    }
                };
            }
        }
        later
    }

    fn durable(&self, value: Value, held: Option<u32>) -> Result<Value, CommandError> {
        match (self.wait, held) {
            (Some(wait), Some(held)) if held < wait.count => Err(CommandError::Replicas { held, wanted: wait.count }),
            _ => Ok(value),
        }
    }
}

/// Redirections in a row before one pauses: more than a cluster that works ever needs.
pub(crate) const MOST_REDIRECTIONS: u32 = 5;

fn restore<'a>(request: &mut Request, commands: &mut impl Iterator<Item = &'a Cmd>) {
    if request.ask.is_some() {
        commands.next();
    }
    if let Some(cmd) = commands.next() {
        request.cmd = cmd.clone();
    }
}
