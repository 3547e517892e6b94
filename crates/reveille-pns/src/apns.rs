//! Apple Push Notification service, one credential: (team, key, environment).

mod reason;
mod request;

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use reveille_push::{
    Outcome, Provider as Pns, PushClass, PushTarget,
    apns_param::{self, ApnsAddress},
    caps::Announcement,
};

use crate::{
    ApnsSettings, BoxFuture, Limits, Resolver, SettingsError, SharedCredentials,
    credential::{ProviderTokens, p256_key, read},
    metrics::Metrics,
    opaque::Opaque,
    pool::{Origin, Pool, Pools},
    provider::{Authorization, Classified, CredentialError, Provider, Push, Reply},
    tls,
};

/// One APNs credential.
pub(crate) struct Apns {
    settings: ApnsSettings,
    origin: Origin,
    authority: String,
    tokens: ArcSwap<ProviderTokens>,
    pools: Pools,
    opaque: Opaque,
    /// There in a cluster.
    shared: Option<Arc<dyn SharedCredentials>>,
}

impl Apns {
    pub(crate) fn new(
        settings: ApnsSettings,
        resolver: Arc<dyn Resolver>,
        shared: Option<Arc<dyn SharedCredentials>>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, SettingsError> {
        let key = |field: &str| format!("push.apns.{}.{field}", settings.name);
        let upper = |text: &str| text.len() == 10 && text.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if !upper(&settings.team_id) {
            return Err(SettingsError::new(key("team_id"), "must be ten of A-Z and 0-9"));
        }
        if settings.key_id.len() != 10 || !settings.key_id.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Err(SettingsError::new(key("key_id"), "must be ten letters and digits"));
        }
        if settings.topics.is_empty() {
            return Err(SettingsError::new(key("topics"), "names no app, so nothing could be pushed to"));
        }
        let origin = match &settings.endpoint {
            Some(url) => Origin::of(url, &key("endpoint"))?,
            None => {
                let host = if settings.sandbox { "api.sandbox.push.apple.com" } else { "api.push.apple.com" };
                Origin { host: host.into(), port: 443, address: None, key: 0 }
            }
        };
        let tls = tls::client(settings.ca_file.as_deref(), &key("ca_file"))?;
        let tokens = ArcSwap::from_pointee(load(&settings, shared.is_some())?);
        let pools = Pools::new(tls, resolver, limits, metrics.connections("apns"));
        Ok(Self { authority: origin.authority(), settings, origin, tokens, pools, opaque: Opaque::new(), shared })
    }

    fn address<'a>(target: &'a PushTarget, class: PushClass) -> Option<ApnsAddress<'a>> {
        apns_param::address(&target.param, target.prid.expose(), class).ok().flatten()
    }

    /// The token that wakes for this class, and its topic. P-151: a voip token is for calls alone; P-098: and for refreshes, where the
    /// operator says so.
    fn waking<'a>(&self, target: &'a PushTarget, class: PushClass) -> Option<ApnsAddress<'a>> {
        let voip = || Self::address(target, PushClass::Call).filter(|_| self.is_voip_refresh(class));
        Self::address(target, class).or_else(voip)
    }

    fn is_voip_refresh(&self, class: PushClass) -> bool {
        self.settings.voip_refresh && class == PushClass::Refresh
    }
}

fn load(settings: &ApnsSettings, is_shared: bool) -> Result<ProviderTokens, SettingsError> {
    let key = format!("push.apns.{}.key_file", settings.name);
    let signing = p256_key(&read(&settings.key_file, &key)?, &key)?;
    Ok(ProviderTokens::new(&settings.team_id, &settings.key_id, signing, is_shared))
}

impl Provider for Apns {
    fn pns(&self) -> &'static str {
        "apns"
    }

    fn name(&self) -> &str {
        &self.settings.name
    }

    fn serves(&self) -> Pns {
        if self.settings.sandbox { Pns::ApnsSandbox } else { Pns::Apns }
    }

    fn announcement(&self) -> Announcement {
        Announcement::new(self.serves())
    }

    fn allows(&self, target: &PushTarget) -> bool {
        // P-118: team and bundle both, or one customer's app could be pushed to with another's key.
        target.provider == self.serves()
            && Self::address(target, PushClass::Call).is_some_and(|address| {
                address.team == self.settings.team_id
                    && self.settings.topics.iter().any(|topic| topic == address.bundle)
            })
    }

    fn can_wake(&self, target: &PushTarget, class: PushClass) -> bool {
        target.can_wake(class) || self.is_voip_refresh(class)
    }

    fn ready(&self, _: SystemTime) -> bool {
        true
    }

    fn route<'a>(&'a self, _: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>> {
        Box::pin(async { Ok(self.pools.get(&self.origin)) })
    }

    fn authorize<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>> {
        let auth = self.tokens.load().authorization(push.unix()).ok_or(CredentialError::Refused);
        Box::pin(std::future::ready(auth))
    }

    fn renew<'a>(&'a self, push: &'a Push<'a>, used: &'a Authorization) -> BoxFuture<'a, bool> {
        let (tokens, now) = (self.tokens.load_full(), push.unix());
        Box::pin(async move {
            match &self.shared {
                Some(shared) => tokens.renew(&**shared, used.generation, now).await,
                None => tokens.expired(used.generation, now),
            }
        })
    }

    fn hold(&self, now: SystemTime) {
        self.tokens.load().hold(crate::provider::unix(now));
    }

    fn request(&self, push: &Push<'_>, auth: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        let address = self
            .waking(push.target, push.class)
            .ok_or_else(|| Classified::done(Outcome::Refused, "no_token_for_class"))?;
        request::build(&self.authority, push, &address, auth, &self.opaque)
            .ok_or_else(|| Classified::bug("unbuildable"))
    }

    fn classify(&self, push: &Push<'_>, reply: &Reply) -> Classified {
        reason::classify(push.class, reply, push.now)
    }

    fn repeatable(&self, class: PushClass) -> bool {
        // P-150, P-151: a call may ring once; the others have a collapse id.
        class != PushClass::Call && !self.is_voip_refresh(class)
    }

    fn maintain(&self, now: SystemTime) -> BoxFuture<'_, ()> {
        let (tokens, now) = (self.tokens.load_full(), crate::provider::unix(now));
        Box::pin(async move {
            if let Some(shared) = &self.shared {
                tokens.follow(&**shared, now).await;
            }
            // Signs ahead of the first push of a slot.
            tokens.authorization(now);
        })
    }

    fn token_age(&self, now: SystemTime) -> Option<u64> {
        self.tokens.load().age(crate::provider::unix(now))
    }

    fn reload(&self) -> Result<(), SettingsError> {
        let tokens = load(&self.settings, self.shared.is_some())?;
        let key = format!("push.apns.{}.ca_file", self.settings.name);
        let tls = tls::client(self.settings.ca_file.as_deref(), &key)?;
        self.tokens.store(Arc::new(tokens));
        // P-144: a new key does not go over a connection that has seen the old one.
        self.pools.renew(tls);
        Ok(())
    }
}
