//! Firebase Cloud Messaging, HTTP v1, one project.

mod reason;
mod request;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use reveille_push::{Outcome, Provider as Pns, PushTarget, caps::Announcement, fcm as format};
use url::Url;

use crate::{
    BoxFuture, FcmSettings, Limits, Resolver, SettingsError,
    credential::{AccessTokens, ServiceAccount, read},
    metrics::Metrics,
    opaque::Opaque,
    pool::{Origin, Pool, Pools},
    provider::{Authorization, Classified, CredentialError, Provider, Push, Reply},
    tls,
};

/// One Firebase project.
pub(crate) struct Fcm {
    settings: FcmSettings,
    origin: Origin,
    token_origin: Origin,
    token_endpoint: String,
    /// `https://host/v1/projects/PROJECT/messages:send`
    url: String,
    tokens: ArcSwap<AccessTokens>,
    pools: Pools,
    opaque: Opaque,
    /// Whether FCM has ever taken a message of ours.
    proven: AtomicBool,
}

impl Fcm {
    pub(crate) fn new(
        settings: FcmSettings,
        resolver: Arc<dyn Resolver>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, SettingsError> {
        let key = |field: &str| format!("push.fcm.{}.{field}", settings.name);
        if !matches!(format::FcmProject::parse(&settings.project), Ok(format::FcmProject::Id(_))) {
            return Err(SettingsError::new(key("project"), "is not a Firebase project id"));
        }
        if let Some(alias) = settings.aliases.iter().find(|alias| format::FcmProject::parse(alias).is_err()) {
            let reason = format_args!("{alias:?} is neither a project id nor a number");
            return Err(SettingsError::new(key("aliases"), reason));
        }
        let origin = match &settings.endpoint {
            Some(url) => Origin::of(url, &key("endpoint"))?,
            None => Origin { host: "fcm.googleapis.com".into(), port: 443, address: None, key: 0 },
        };
        let token_endpoint = settings.token_endpoint.as_ref().map_or(TOKEN_ENDPOINT, Url::as_str).to_owned();
        let parsed = Url::parse(&token_endpoint).map_err(|error| SettingsError::new(key("token_endpoint"), error))?;
        let token_origin = Origin::of(&parsed, &key("token_endpoint"))?;
        let tls = tls::client(settings.ca_file.as_deref(), &key("ca_file"))?;
        let tokens = ArcSwap::from_pointee(load(&settings, &token_endpoint)?);
        let url = format!("https://{}/v1/projects/{}/messages:send", origin.authority(), settings.project);
        let pools = Pools::new(tls, resolver, limits, metrics.connections("fcm"));
        Ok(Self {
            settings,
            origin,
            token_origin,
            token_endpoint,
            url,
            tokens,
            pools,
            opaque: Opaque::new(),
            proven: AtomicBool::new(false),
        })
    }

    fn token_pool(&self) -> Arc<Pool> {
        self.pools.get(&self.token_origin)
    }
}

fn load(settings: &FcmSettings, token_endpoint: &str) -> Result<AccessTokens, SettingsError> {
    let key = format!("push.fcm.{}.service_account_file", settings.name);
    let json = read(&settings.service_account_file, &key)?;
    Ok(AccessTokens::new(ServiceAccount::parse(&json, token_endpoint, &key)?, token_endpoint))
}

impl Provider for Fcm {
    fn pns(&self) -> &'static str {
        "fcm"
    }

    fn name(&self) -> &str {
        &self.settings.name
    }

    fn serves(&self) -> Pns {
        Pns::Fcm
    }

    fn announcement(&self) -> Announcement {
        Announcement::new(Pns::Fcm)
    }

    fn allows(&self, target: &PushTarget) -> bool {
        let known = || self.settings.aliases.iter().any(|alias| **alias == *target.param);
        target.provider == Pns::Fcm
            && format::validate(&target.param, target.prid.expose()).is_ok()
            && (*target.param == *self.settings.project || known())
    }

    fn per_minute(&self) -> Option<u32> {
        Some(self.settings.messages_per_minute)
    }

    fn ready(&self, now: SystemTime) -> bool {
        self.tokens.load().ready(now)
    }

    fn route<'a>(&'a self, _: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>> {
        Box::pin(async { Ok(self.pools.get(&self.origin)) })
    }

    fn authorize<'a>(&'a self, push: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>> {
        Box::pin(async { self.tokens.load_full().authorization(&self.token_pool(), push.now).await })
    }

    fn renew<'a>(&'a self, push: &'a Push<'a>, used: &'a Authorization) -> BoxFuture<'a, bool> {
        Box::pin(async { self.tokens.load_full().refused(&self.token_pool(), used.generation, push.now).await })
    }

    fn request(&self, push: &Push<'_>, auth: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        request::build(&self.url, &self.settings.target_field, push, auth, &self.opaque)
            .ok_or_else(|| Classified::bug("unbuildable"))
    }

    fn classify(&self, push: &Push<'_>, reply: &Reply) -> Classified {
        let classified = reason::classify(reply, push.now, self.proven.load(Ordering::Relaxed));
        if classified.outcome == Outcome::Accepted {
            self.proven.store(true, Ordering::Relaxed);
        }
        classified
    }

    fn maintain(&self, now: SystemTime) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.tokens.load_full().maintain(&self.token_pool(), now).await })
    }

    fn token_age(&self, now: SystemTime) -> Option<u64> {
        self.tokens.load().age(now)
    }

    fn reload(&self) -> Result<(), SettingsError> {
        let tokens = load(&self.settings, &self.token_endpoint)?;
        let key = format!("push.fcm.{}.ca_file", self.settings.name);
        let tls = tls::client(self.settings.ca_file.as_deref(), &key)?;
        self.tokens.store(Arc::new(tokens));
        self.pools.renew(tls);
        Ok(())
    }
}

const TOKEN_ENDPOINT: &str = "https://oauth2.googleapis.com/token";
