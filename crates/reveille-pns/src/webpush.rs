//! Web Push with VAPID (RFC 8030, RFC 8292). The address of a push is a URL that a phone chose, so everything about it is
//! checked at REGISTER and again at every send (P-138 to P-141).

mod address;
mod hosts;
mod reason;
mod request;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use prometheus::IntCounterVec;
use reveille_push::{Outcome, Provider as Pns, PushTarget, caps::Announcement, webpush::PushUrl};

use self::hosts::AllowedHosts;
use crate::{
    BoxFuture, Limits, Resolver, SettingsError, WebPushSettings,
    credential::{Vapid, p256_key, read},
    metrics::Metrics,
    opaque::Opaque,
    pool::{Origin, Pool, Pools},
    provider::{Authorization, Classified, CredentialError, Next, Provider, Push, Reply},
    tls,
};

/// Web Push under one VAPID key.
pub(crate) struct WebPush {
    settings: WebPushSettings,
    hosts: AllowedHosts,
    vapid: ArcSwap<Vapid>,
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
        let vapid = ArcSwap::from_pointee(load(&settings)?);
        let pools = Pools::new(tls, Arc::clone(&resolver), limits, metrics.connections("webpush"));
        let rejections = metrics.ssrf_rejections.clone();
        Ok(Self { settings, hosts, vapid, resolver, pools, opaque: Opaque::new(), rejections })
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

fn load(settings: &WebPushSettings) -> Result<Vapid, SettingsError> {
    let key = "push.webpush.vapid_key_file";
    Ok(Vapid::new(p256_key(&read(&settings.vapid_key_file, key)?, key)?, &settings.subject))
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
        announcement.vapid = Some(self.vapid.load().public().to_owned());
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
            let mut origins =
                addresses.iter().map(|ip| Origin { host: Arc::clone(&host), port: url.port, address: Some(*ip) });
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
        let origin = url_of(push.target).map(|url| url.origin());
        let auth = origin.and_then(|origin| self.vapid.load().authorization(&origin, push.unix()));
        Box::pin(std::future::ready(auth.ok_or(CredentialError::Refused)))
    }

    fn renew<'a>(&'a self, push: &'a Push<'a>, used: &'a Authorization) -> BoxFuture<'a, bool> {
        if let Some(url) = url_of(push.target) {
            self.vapid.load().refused(&url.origin(), used.generation);
        }
        Box::pin(std::future::ready(true))
    }

    fn request(&self, push: &Push<'_>, auth: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        url_of(push.target)
            .and_then(|url| request::build(&url, push, auth, &self.opaque))
            .ok_or_else(|| Classified::bug("unbuildable"))
    }

    fn classify(&self, push: &Push<'_>, reply: &Reply) -> Classified {
        reason::classify(reply, push.now)
    }

    fn maintain(&self, _: SystemTime) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn token_age(&self, _: SystemTime) -> Option<u64> {
        None
    }

    fn reload(&self) -> Result<(), SettingsError> {
        let vapid = load(&self.settings)?;
        let tls = tls::client(self.settings.ca_file.as_deref(), "push.webpush.ca_file")?;
        self.vapid.store(Arc::new(vapid));
        self.pools.renew(tls);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
