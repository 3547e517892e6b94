//! Web Push with VAPID (RFC 8030, RFC 8292). The address of a push is a URL that a phone chose, so everything about it is
//! checked at REGISTER and again at every send (P-138 to P-141).

mod address;
mod budget;
mod hosts;
mod keys;
mod payload;
mod reason;
mod request;

use std::{net::IpAddr, path::Path, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use reveille_push::{Outcome, Provider as Pns, PushTarget, caps::Announcement, webpush::PushUrl};
use reveille_runtime::clock;

use self::{
    budget::{Budgets, Spent},
    hosts::AllowedHosts,
    keys::{Memory, Ring},
    payload::PayloadKeys,
};
use crate::{
    BoxFuture, Limits, Resolver, SettingsError, WebPushSettings,
    credential::{Vapid, p256_key, read},
    metrics::Metrics,
    opaque::Opaque,
    pool::{Origin, Pool, Pools},
    provider::{Authorization, Classified, CredentialError, Next, Provider, Push, Reply},
    tls,
};

/// Web Push under our VAPID keys.
pub(crate) struct WebPush {
    settings: WebPushSettings,
    hosts: AllowedHosts,
    ring: ArcSwap<Ring>,
    payload: ArcSwap<PayloadKeys>,
    memory: Memory,
    budgets: Mutex<Budgets>,
    resolver: Arc<dyn Resolver>,
    pools: Pools,
    opaque: Opaque,
    /// `reveille_push_ssrf_rejections_total{class}`
    rejections: IntCounterVec,
}

impl WebPush {
    pub(crate) fn new(
        settings: WebPushSettings,
        resolver: Arc<dyn Resolver>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, SettingsError> {
        if !(settings.subject.starts_with("mailto:") || settings.subject.starts_with("https://")) {
            return Err(SettingsError::new("push.webpush.subject", "must be a mailto: or https: contact"));
        }
        let hosts = AllowedHosts::parse(&settings.allow_hosts)
            .map_err(|reason| SettingsError::new("push.webpush.allow_hosts", reason))?;
        if !settings.allow_addresses.is_empty() {
            let networks = settings.allow_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            tracing::warn!(%networks, "push.webpush.allow_addresses lets Web Push reach these networks: for a lab only");
        }
        let tls = tls::client(settings.ca_file.as_deref(), "push.webpush.ca_file")?;
        let ring = ArcSwap::from_pointee(load(&settings)?);
        let payload = ArcSwap::from_pointee(load_payload(&settings)?);
        // Half of what the dispatcher may have under way.
        let share = limits.max_connections.saturating_mul(limits.streams) / 2;
        let budgets = Mutex::new(Budgets::new(share));
        let pools = Pools::new(tls, Arc::clone(&resolver), limits, metrics.connections("webpush"));
        let rejections = metrics.ssrf_rejections.clone();
        let (memory, opaque) = (Memory::default(), Opaque::new());
        Ok(Self { settings, hosts, ring, payload, memory, budgets, resolver, pools, opaque, rejections })
    }

    /// The key for this try at the push.
    fn key(&self, push: &Push<'_>) -> Option<Arc<Vapid>> {
        self.ring.load().key(self.memory.get(push.target.prid.expose()), push.refusals).cloned()
    }

    /// Resolves the host and vets every address it has; one bad address condemns them all (P-139).
    async fn vetted(&self, host: &str) -> Result<Vec<IpAddr>, Classified> {
        let addresses = self.resolver.resolve(host).await;
        let excused = |address: &IpAddr| self.settings.allow_addresses.iter().any(|net| net.contains(address));
        let bad = addresses.iter().filter(|address| !excused(address)).find_map(|address| address::forbidden(*address));
        if let Some(class) = bad {
            self.rejections.with_label_values(&[class]).inc();
            tracing::warn!(class, "a Web Push host resolves to an address that must not be pushed to");
            return Err(Classified::done(Outcome::Refused, "forbidden_address"));
        }
        Ok(addresses)
    }
}

fn load(settings: &WebPushSettings) -> Result<Ring, SettingsError> {
    let vapid = |path: &Path, key: &str| Ok(Vapid::new(p256_key(&read(path, key)?, key)?, &settings.subject));
    let current = vapid(&settings.vapid_key_file, "push.webpush.vapid_key_file")?;
    let former = settings.former_vapid_key_files.iter().enumerate();
    let former = former.map(|(n, path)| vapid(path, &format!("push.webpush.former_vapid_key_files[{n}]")));
    Ok(Ring::new(current, former.collect::<Result<Vec<_>, SettingsError>>()?))
}

fn load_payload(settings: &WebPushSettings) -> Result<PayloadKeys, SettingsError> {
    let path = settings.payload_keys_file.as_deref();
    path.map_or_else(|| Ok(PayloadKeys::default()), |path| PayloadKeys::load(path, "push.webpush.payload_keys_file"))
}

/// The target's URL, if it is one that may be pushed to at all.
fn url_of(target: &PushTarget) -> Option<PushUrl<'_>> {
    (target.provider == Pns::WebPush && target.param.is_empty()).then(|| PushUrl::parse(target.prid.expose()).ok())?
}

impl Provider for WebPush {
    fn pns(&self) -> &'static str {
        "webpush"
    }

    fn name(&self) -> &str {
        "webpush"
    }

    fn serves(&self) -> Pns {
        Pns::WebPush
    }

    fn announcement(&self) -> Announcement {
        let mut announcement = Announcement::new(Pns::WebPush);
        announcement.vapid = self.ring.load().announced().map(|key| key.public().to_owned());
        announcement
    }

    fn allows(&self, target: &PushTarget) -> bool {
        url_of(target).is_some_and(|url| self.hosts.allow(url.host, url.port))
    }

    fn ready(&self, _: SystemTime) -> bool {
        true
    }

    fn route<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>> {
        Box::pin(async move {
            let allowed = url_of(push.target).filter(|url| self.hosts.allow(url.host, url.port));
            let Some(url) = allowed else {
                self.rejections.with_label_values(&["host"]).inc();
                return Err(Classified::done(Outcome::Refused, "forbidden_host"));
            };
            let host: Arc<str> = url.host.to_ascii_lowercase().into();
            let addresses = self.vetted(&host).await?;
            let (port, key) = (url.port, self.key(push).map_or(0, |key| key.id()));
            let mut origins =
                addresses.iter().map(|ip| Origin { host: Arc::clone(&host), port, address: Some(*ip), key });
            // The address connected to already, or else the next one with each attempt.
            let standing = origins.clone().find(|origin| self.pools.is_connected(origin));
            let next = || origins.nth(push.attempt as usize % addresses.len().max(1));
            match standing.or_else(next) {
                Some(origin) => Ok(self.pools.get(&origin)),
                None => Err(Classified::new(Outcome::Unavailable, "no_address", Next::Retry)),
            }
        })
    }

    fn authorize<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>> {
        let parts = url_of(push.target).map(|url| url.origin()).zip(self.key(push));
        let auth = parts.and_then(|(origin, key)| key.authorization(&origin, push.unix()));
        Box::pin(std::future::ready(auth.ok_or(CredentialError::Refused)))
    }

    fn renew<'a>(&'a self, push: &'a Push<'a>, _: &'a Authorization) -> BoxFuture<'a, bool> {
        let again = push.refusals + 1;
        let next = Push { refusals: again, ..*push };
        // The first key's second turn: with a new signature, in case the clock or the token was at fault.
        if again == self.renewals()
            && let Some((url, key)) = url_of(push.target).zip(self.key(&next))
        {
            key.refused(&url.origin(), push.unix());
        }
        Box::pin(std::future::ready(true))
    }

    fn renewals(&self) -> u32 {
        self.ring.load().tries() - 1
    }

    fn begin(&self, target: &PushTarget) -> Result<(), Classified> {
        // What is no URL is refused where it is routed.
        let Some(url) = url_of(target) else { return Ok(()) };
        self.budgets.lock().begin(&url.origin(), clock::now()).map_err(|spent| match spent {
            Spent::Busy => Classified::new(Outcome::Unavailable, "host_busy", Next::Retry),
            Spent::Failing => Classified::new(Outcome::Unavailable, "host_failing", Next::Retry),
        })
    }

    fn ended(&self, target: &PushTarget, failed: bool) {
        if let Some(url) = url_of(target) {
            self.budgets.lock().ended(&url.origin(), failed, clock::now());
        }
    }

    fn request(&self, push: &Push<'_>, auth: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        let payload = self.payload.load();
        let keys = payload.get(push.target.prid.expose());
        url_of(push.target)
            .and_then(|url| request::build(&url, push, auth, &self.opaque, keys, self.settings.urgent_requests))
            .ok_or_else(|| Classified::bug("unbuildable"))
    }

    fn classify(&self, push: &Push<'_>, reply: &Reply) -> Classified {
        let classified = reason::classify(reply, push.now);
        if classified.outcome == Outcome::Accepted
            && let Some(key) = self.key(push)
        {
            self.memory.set(push.target.prid.expose(), key.id());
        }
        classified
    }

    fn maintain(&self, _: SystemTime) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn token_age(&self, _: SystemTime) -> Option<u64> {
        None
    }

    fn reload(&self) -> Result<(), SettingsError> {
        let ring = self.ring.load().succeed(load(&self.settings)?);
        let tls = tls::client(self.settings.ca_file.as_deref(), "push.webpush.ca_file")?;
        let payload = load_payload(&self.settings)?;
        self.ring.store(Arc::new(ring));
        self.payload.store(Arc::new(payload));
        self.pools.renew(tls);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
