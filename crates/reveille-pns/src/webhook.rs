//! A push service that we do not know, behind a URL of the operator's: wake requests go there in batches, as a signed JSON array
//! over HTTP/2, and each has its own result (`docs/webhook.md`).

mod batch;
mod message;
mod reason;

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use reveille_push::{Outcome, Provider as Pns, PushClass, PushTarget, Ticket, WebhookName, caps::Announcement};
use ring::{digest, hmac};
use url::Url;

use self::batch::{Batcher, Sender};
use crate::{
    BoxFuture, Limits, Resolver, SettingsError, WebhookSettings,
    credential::read,
    metrics::Metrics,
    opaque::Opaque,
    pool::{Origin, Pool, Pools, SendError},
    provider::{Authorization, Classified, CredentialError, Provider, Push, Reply},
    tls,
};

/// One service behind a webhook.
pub(crate) struct Webhook {
    name: String,
    provider: WebhookName,
    params: Vec<String>,
    batcher: Batcher<Post>,
    opaque: Opaque,
    settings: WebhookSettings,
}

/// Posts batches.
struct Post {
    url: String,
    origin: Origin,
    pools: Pools,
    headers: HeaderMap,
    key: ArcSwap<SigningKey>,
}

/// The key shared with the service, and its name in requests.
struct SigningKey {
    key: hmac::Key,
    id: String,
}

impl SigningKey {
    fn load(settings: &WebhookSettings) -> Result<Self, SettingsError> {
        let setting = format!("push.webhook.{}.key_file", settings.name);
        let text = read(&settings.key_file, &setting)?;
        let secret = text.trim_end_matches(['\r', '\n']).as_bytes();
        if secret.len() < SHORTEST_KEY {
            return Err(SettingsError::new(setting, format_args!("holds less than {SHORTEST_KEY} octets")));
        }
        let hash = digest::digest(&digest::SHA256, secret);
        let id = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), id })
    }
}

impl Webhook {
    pub(crate) fn new(
        settings: WebhookSettings,
        resolver: Arc<dyn Resolver>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<Self, SettingsError> {
        let setting = |field: &str| format!("push.webhook.{}.{field}", settings.name);
        let provider =
            WebhookName::new(&settings.provider).map_err(|error| SettingsError::new(setting("provider"), error))?;
        let url = Url::parse(settings.url.as_str()).map_err(|error| SettingsError::new(setting("url"), error))?;
        let origin = Origin::of(&url, &setting("url"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(SettingsError::new(setting("url"), "must have no user, password or fragment"));
        }
        let headers = headers(&settings.headers).map_err(|reason| SettingsError::new(setting("headers"), reason))?;
        let tls = tls::client(settings.ca_file.as_deref(), &setting("ca_file"))?;
        let key = ArcSwap::from_pointee(SigningKey::load(&settings)?);
        let pools = Pools::new(tls, resolver, limits, metrics.connections("webhook"));
        let post = Post { url: url.into(), origin, pools, headers, key };
        let batcher = Batcher::new(post, settings.batch, settings.batch_time);
        let (name, params) = (settings.name.clone(), settings.params.clone());
        Ok(Self { name, provider, params, batcher, opaque: Opaque::new(), settings })
    }
}

/// The operator's own headers. Those that we set, and those that HTTP/2 has no place for, are not among them.
fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} is no header name"))?;
        if name.as_str().starts_with("reveille-") || RESERVED.contains(&name.as_str()) {
            return Err(format!("{name} is not yours to set"));
        }
        // The value may be a secret, and is not shown.
        let mut value = HeaderValue::from_str(value).map_err(|_| format!("{name} has no sound value"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

impl Sender for Post {
    fn post(&self, body: Bytes, now: u64) -> BoxFuture<'_, Result<Reply, SendError>> {
        let key = self.key.load();
        let mut request = Request::post(&self.url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("reveille-timestamp", now)
            .header("reveille-key", &key.id)
            .header("reveille-signature", message::signature(&key.key, now, &body))
            .body(Full::new(body))
            .map_err(|_| SendError::Interrupted);
        if let Ok(request) = &mut request {
            for (name, value) in &self.headers {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let pool = self.pools.get(&self.origin);
        Box::pin(async move { pool.send(request?, MAX_ANSWER).await })
    }
}

impl Provider for Webhook {
    fn pns(&self) -> &'static str {
        "webhook"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn serves(&self) -> Pns {
        Pns::Webhook(self.provider)
    }

    fn announcement(&self) -> Announcement {
        Announcement::new(self.serves())
    }

    fn allows(&self, target: &PushTarget) -> bool {
        let listed = || self.params.iter().any(|param| **param == *target.param || param == "*");
        target.provider == self.serves() && (listed() || (self.params.is_empty() && target.param.is_empty()))
    }

    fn ready(&self, _: SystemTime) -> bool {
        true
    }

    fn batched<'a>(&'a self, push: &Push<'a>, ticket: &Ticket) -> Option<BoxFuture<'a, Classified>> {
        Some(self.batcher.submit(message::wake(push, &self.opaque), push.class == PushClass::Call, ticket.clone()))
    }

    // Its pushes go through `batched`; what follows is never asked of it.

    fn route<'a>(&'a self, _: &'a Push<'a>) -> BoxFuture<'a, Result<Arc<Pool>, Classified>> {
        Box::pin(std::future::ready(Err(Classified::bug("unbatched"))))
    }

    fn authorize<'a>(&'a self, _: &'a Push<'a>) -> BoxFuture<'a, Result<Authorization, CredentialError>> {
        Box::pin(std::future::ready(Err(CredentialError::Refused)))
    }

    fn renew<'a>(&'a self, _: &'a Push<'a>, _: &'a Authorization) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }

    fn request(&self, _: &Push<'_>, _: &Authorization) -> Result<Request<Full<Bytes>>, Classified> {
        Err(Classified::done(Outcome::Refused, "unbatched"))
    }

    fn classify(&self, _: &Push<'_>, _: &Reply) -> Classified {
        Classified::done(Outcome::Refused, "unbatched")
    }

    fn maintain(&self, _: SystemTime) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn token_age(&self, _: SystemTime) -> Option<u64> {
        None
    }

    fn reload(&self) -> Result<(), SettingsError> {
        let key = SigningKey::load(&self.settings)?;
        let setting = format!("push.webhook.{}.ca_file", self.name);
        let tls = tls::client(self.settings.ca_file.as_deref(), &setting)?;
        let post = self.batcher.sender();
        post.key.store(Arc::new(key));
        post.pools.renew(tls);
        Ok(())
    }
}

/// Octets; that of the hash, below which a key weakens HMAC (RFC 2104 §3).
const SHORTEST_KEY: usize = 32;
/// A result takes some hundred octets at most.
const MAX_ANSWER: usize = 512 * 1024;
const RESERVED: &[&str] =
    &["content-type", "content-length", "host", "connection", "transfer-encoding", "keep-alive", "upgrade", "te"];
