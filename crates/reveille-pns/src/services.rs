//! The port as the shards see it: finds the credential for a target and hands the push to its dispatcher.

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use prometheus::Registry;
use ractor::Actor;
use reveille_push::{
    Outcome, Provider as Pns, PushClass, PushJob, PushServices, PushTarget, Unsupported, caps::Announcement,
};
use reveille_runtime::{Child, Fatal, Gate, RestartPolicy, RuntimeMetrics, Supervisor, clock};
use tokio::sync::oneshot;

use crate::{
    Limits, Resolver, Settings, SettingsError, SharedCredentials,
    apns::Apns,
    dispatcher::{Dispatcher, DispatcherMsg, Health},
    fcm::Fcm,
    metrics::Metrics,
    provider::{Provider, wall_now},
    queue::Job,
    resolve::HickoryResolver,
    webhook::Webhook,
    webpush::WebPush,
};

/// What the process lends to the dispatchers.
pub struct Hosting {
    /// Where metrics are registered.
    pub registry: Registry,
    /// Gates and restarts are counted here.
    pub runtime: RuntimeMetrics,
    /// How a dispatcher that keeps failing ends the process.
    pub fatal: Fatal,
    /// In place of the system's DNS.
    pub resolver: Option<Arc<dyn Resolver>>,
    /// What the cluster's nodes share; nothing for a node that is alone.
    pub shared: Option<Arc<dyn SharedCredentials>>,
}

impl Hosting {
    /// With the system's DNS.
    pub fn new(registry: Registry, runtime: RuntimeMetrics, fatal: Fatal) -> Self {
        Self { registry, runtime, fatal, resolver: None, shared: None }
    }
}

/// Reads keys and roots and starts one dispatcher per credential. Within a tokio runtime.
///
/// # Errors
/// The first setting that cannot be used; [`check`] has them all.
pub async fn start(settings: Settings, hosting: Hosting) -> Result<Services, SettingsError> {
    let Hosting { registry, runtime, fatal, resolver, shared } = hosting;
    let metrics = Metrics::new(&registry).map_err(|error| SettingsError::new("telemetry", error))?;
    let resolver = resolver.map_or_else(system_resolver, Ok)?;
    let limits = settings.limits.clone();
    let (providers, errors) = build(settings, &resolver, shared.as_ref(), &metrics);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    let failed = |error: ractor::SpawnErr| SettingsError::new("push", error);
    let supervisor =
        Supervisor::spawn(RestartPolicy::default(), fatal, runtime.actor_restarts.clone()).await.map_err(failed)?;
    let mut lanes = Vec::new();
    for provider in providers {
        let lane = Arc::new(Lane { provider, gate: ArcSwapOption::empty(), health: Arc::new(Health::new()) });
        supervisor.supervise(child(Arc::clone(&lane), &limits, &metrics, &runtime)).await.map_err(failed)?;
        lanes.push(lane);
    }
    Ok(Services { inner: Arc::new(Inner { lanes, supervisor }) })
}

/// Every fault of the settings, the key files and the roots, without starting anything.
pub fn check(settings: Settings) -> Vec<SettingsError> {
    match (Metrics::new(&Registry::new()), system_resolver()) {
        (Ok(metrics), Ok(resolver)) => build(settings, &resolver, None, &metrics).1,
        (Err(error), _) => vec![SettingsError::new("telemetry", error)],
        (_, Err(error)) => vec![error],
    }
}

/// The push services of a node. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    lanes: Vec<Arc<Lane>>,
    supervisor: Supervisor,
}

/// One credential and its dispatcher.
struct Lane {
    provider: Arc<dyn Provider>,
    /// Replaced by each restart of the dispatcher.
    gate: ArcSwapOption<Gate<DispatcherMsg>>,
    health: Arc<Health>,
}

impl Lane {
    /// P-122: what has no working credential is not announced.
    fn is_healthy(&self) -> bool {
        !self.health.is_withdrawn() && self.provider.ready(wall_now())
    }

    fn tell(&self, msg: DispatcherMsg) {
        if let Some(gate) = self.gate.load_full() {
            let _ = gate.tell(msg);
        }
    }
}

impl Services {
    /// Waits until every credential was tried once (FCM fetches its first token), at most `patience`. A node that is not warm
    /// does not announce FCM yet, so it should not be ready yet either.
    pub async fn warm_up(&self, patience: Duration) {
        let all = async {
            for lane in &self.inner.lanes {
                let _ = lane.health.warm.subscribe().wait_for(|warm| *warm).await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Reads key files and roots again. What is fine is taken into use; of the rest the old stays (P-125).
    ///
    /// # Errors
    /// What could not be used.
    pub fn reload(&self) -> Result<(), Vec<SettingsError>> {
        let mut errors = Vec::new();
        for lane in &self.inner.lanes {
            match lane.provider.reload() {
                Ok(()) => lane.tell(DispatcherMsg::Reloaded),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Takes no more pushes, waits until those taken are answered, at most `patience`, and stops the dispatchers. What is
    /// unanswered then is answered [`Outcome::Unavailable`].
    pub async fn drain(&self, patience: Duration) {
        let waits: Vec<_> = self
            .inner
            .lanes
            .iter()
            .map(|lane| {
                let (done, wait) = oneshot::channel();
                lane.tell(DispatcherMsg::Drain(done));
                wait
            })
            .collect();
        let all = async {
            for wait in waits {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        self.inner.supervisor.drain(STOP).await;
    }

    /// The credentials that serve a target; of several the healthy ones first.
    fn lane(&self, target: &PushTarget) -> Option<&Lane> {
        let mut serving = self.inner.lanes.iter().filter(|lane| lane.provider.allows(target));
        let first = serving.next()?;
        if first.is_healthy() {
            return Some(first);
        }
        Some(serving.find(|lane| lane.is_healthy()).unwrap_or(first))
    }
}

impl PushServices for Services {
    fn check(&self, target: &PushTarget) -> Result<(), Unsupported> {
        if !self.inner.lanes.iter().any(|lane| lane.provider.serves() == target.provider) {
            return Err(Unsupported::Provider);
        }
        let lane = self.lane(target).ok_or(Unsupported::App)?;
        if lane.is_healthy() { Ok(()) } else { Err(Unsupported::Credential) }
    }

    fn announce(&self, provider: Pns) -> Option<Announcement> {
        let mut lanes = self.inner.lanes.iter();
        let lane = lanes.find(|lane| lane.provider.serves() == provider && lane.is_healthy())?;
        Some(lane.provider.announcement())
    }

    fn announced(&self) -> Vec<Announcement> {
        let webhooks = self.inner.lanes.iter().map(|lane| lane.provider.serves());
        let webhooks = webhooks.filter(|provider| matches!(provider, Pns::Webhook(_)));
        Pns::ALL.into_iter().chain(webhooks).filter_map(|provider| self.announce(provider)).collect()
    }

    fn submit(&self, job: PushJob) -> Result<(), PushJob> {
        let Some(lane) = self.lane(&job.target) else {
            // The allow-list has changed since the binding was made.
            job.answer(Outcome::Refused);
            return Ok(());
        };
        let Some(gate) = lane.gate.load_full() else { return Err(job) };
        let now = clock::now();
        match gate.try_send(DispatcherMsg::Submit(Box::new(Job::new(job, now)))) {
            Ok(()) => Ok(()),
            Err(refused) => match refused.into_inner() {
                Some(DispatcherMsg::Submit(job)) => job.give_back(now).map_or(Ok(()), Err),
                // Lost with the mailbox of a dispatcher that ended; the job has answered for itself.
                _ => Ok(()),
            },
        }
    }

    fn can_wake(&self, target: &PushTarget, class: PushClass) -> bool {
        self.lane(target).is_some_and(|lane| lane.provider.can_wake(target, class))
    }
}

fn system_resolver() -> Result<Arc<dyn Resolver>, SettingsError> {
    match HickoryResolver::system() {
        Ok(resolver) => Ok(Arc::new(resolver)),
        Err(error) => Err(SettingsError::new("push", format_args!("no resolver: {error}"))),
    }
}

fn child(lane: Arc<Lane>, limits: &Limits, metrics: &Metrics, runtime: &RuntimeMetrics) -> Child {
    let limits = limits.clone();
    let metrics = metrics.of(&*lane.provider);
    let refusals = runtime.gate(ACTOR);
    Child::new(ACTOR, move |supervisor| {
        let (lane, limits, refusals) = (Arc::clone(&lane), limits.clone(), refusals.clone());
        let dispatcher = Dispatcher {
            provider: Arc::clone(&lane.provider),
            health: Arc::clone(&lane.health),
            limits: limits.clone(),
            metrics: metrics.clone(),
        };
        async move {
            let (actor, _) = Dispatcher::spawn_linked(None, dispatcher, (), supervisor).await?;
            let cell = actor.get_cell();
            lane.gate.store(Some(Arc::new(Gate::new(actor, limits.queue, refusals))));
            Ok(cell)
        }
    })
}

fn build(
    settings: Settings,
    resolver: &Arc<dyn Resolver>,
    shared: Option<&Arc<dyn SharedCredentials>>,
    metrics: &Metrics,
) -> (Vec<Arc<dyn Provider>>, Vec<SettingsError>) {
    let Settings { apns, fcm, webpush, webhooks, limits } = settings;
    let mut built: Vec<Result<Arc<dyn Provider>, SettingsError>> = Vec::new();
    let mut names = HashSet::new();
    for settings in apns {
        if !names.insert(("apns", settings.name.clone())) {
            built.push(Err(SettingsError::new(format!("push.apns.{}", settings.name), "is there twice")));
        }
        let apns = Apns::new(settings, Arc::clone(resolver), shared.cloned(), &limits, metrics);
        built.push(apns.map(|it| Arc::new(it) as Arc<dyn Provider>));
    }
    for settings in fcm {
        if !names.insert(("fcm", settings.name.clone())) {
            built.push(Err(SettingsError::new(format!("push.fcm.{}", settings.name), "is there twice")));
        }
        built.push(
            Fcm::new(settings, Arc::clone(resolver), &limits, metrics).map(|it| Arc::new(it) as Arc<dyn Provider>),
        );
    }
    if let Some(settings) = webpush {
        let webpush = WebPush::new(settings, Arc::clone(resolver), &limits, metrics);
        built.push(webpush.map(|it| Arc::new(it) as Arc<dyn Provider>));
    }
    for settings in webhooks {
        let name = settings.provider.to_ascii_lowercase();
        if !names.insert(("webhook", name)) {
            let key = format!("push.webhook.{}.provider", settings.name);
            built.push(Err(SettingsError::new(key, "names a webhook that is there already")));
        }
        let webhook = Webhook::new(settings, Arc::clone(resolver), &limits, metrics);
        built.push(webhook.map(|it| Arc::new(it) as Arc<dyn Provider>));
    }
    let (mut providers, mut errors) = (Vec::new(), Vec::new());
    for one in built {
        match one {
            Ok(provider) => providers.push(provider),
            Err(error) => errors.push(error),
        }
    }
    (providers, errors)
}

const ACTOR: &str = "push_dispatcher";
/// For the actors to stop once their work is done.
const STOP: Duration = Duration::from_secs(1);
