//! What each part is told, from the one configuration.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus::Registry;
use reveille_edge::{
    ClusterTls, EdgeSettings, LimitsSettings, ListenerSettings, OutboundSettings, TicketKeys, TimeoutSettings,
    TokenRing,
};
use reveille_pns::{ApnsSettings, FcmSettings, WebPushSettings, WebhookSettings};
use reveille_proxy::{
    auth::{self, DigestConfig},
    ingress,
    settings::{RegistrationSettings, Settings, WakeSettings},
};
use reveille_registrar::{
    Aliases, DeadTargets, NodeTag, RegistrarConfig, Transport as FlowTransport,
    shard::{RefreshRules, ShardConfig},
};
use reveille_runtime::{RuntimeMetrics, supervise::Fatal};
use reveille_sip::limits::Limits as SipLimits;
use reveille_transaction::TimerConfig;

use crate::{
    cluster::{self, ClusterKeys},
    config::{Algorithm, Config, Digest, Purpose, Transport, Unsupported},
};

pub(super) fn shards(config: &Config) -> u16 {
    u16::try_from(config.registrar.shards).unwrap_or(u16::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

pub(super) fn proxy(config: &Config) -> Settings {
    let (registrar, push) = (&config.registrar, &config.push);
    Settings {
        domains: config.domains.clone(),
        aliases: Aliases::new(),
        timers: TimerConfig::default(),
        transactions: config.limits.transactions,
        registration: RegistrationSettings {
            min_expires: seconds(registrar.min_expires),
            max_expires: seconds(registrar.max_expires),
            default_expires: seconds(registrar.default_expires),
            push_min_expires: seconds(push.min_expires),
            max_contacts: registrar.max_contacts,
            max_push_contacts: push.max_contacts,
            reject_unsupported_push: push.unsupported == Unsupported::Reject,
            header_pn_params: config.header_pn_params,
            flow_timer: seconds(registrar.flow_timer),
            pnsreg: seconds(push.pnsreg),
            voip_expires: seconds(push.voip_expires),
        },
        wake: WakeSettings {
            call_wait: push.call_wait,
            request_wait: push.request_wait,
            flow_patience: push.flow_patience,
        },
        trust_registered_flow: config.auth.digest.as_ref().is_some_and(|digest| digest.trust_registered_flow),
        strong_alternative: config.strong_alternatives.iter().map(|alternative| alternative.net).collect(),
        server_header: config.node.server_header.clone(),
        retry_after: seconds(config.limits.retry_after_min),
    }
}

pub(super) fn digest(realm: &str, digest: &Digest) -> DigestConfig {
    let algorithm = |algorithm: &Algorithm| match algorithm {
        Algorithm::Sha256 => auth::Algorithm::Sha256,
        Algorithm::Sha512_256 => auth::Algorithm::Sha512_256,
        Algorithm::Md5 => auth::Algorithm::Md5,
    };
    DigestConfig {
        realm: realm.to_owned(),
        algorithms: digest.algorithms.iter().map(algorithm).collect(),
        nonce_ttl: digest.nonce_ttl,
        allow_legacy_no_qop: digest.allow_no_qop,
    }
}

pub(super) fn registrar(
    config: &Config,
    registry: &Registry,
    runtime: RuntimeMetrics,
    fatal: Fatal,
    keys: Option<&ClusterKeys>,
) -> anyhow::Result<RegistrarConfig> {
    let metrics = reveille_registrar::metrics::Metrics::new(registry)?;
    let defaults = RegistrarConfig::new(metrics.clone(), runtime, fatal);
    let shared = |keys: &ClusterKeys| {
        Arc::new(DeadTargets::new(&keys.dead_tokens(), reveille_registrar::dead::MOST, metrics.dead_marks.clone()))
    };
    Ok(RegistrarConfig {
        dead: keys.map_or_else(|| Arc::clone(&defaults.dead), shared),
        shards: shards(config),
        shard: ShardConfig {
            max_bindings: config.registrar.max_bindings,
            awake_window: config.push.awake_window,
            max_waiters: config.push.waiters_per_aor,
            refresh: RefreshRules { enabled: config.push.refresh, per_second: config.push.refresh_rate },
            defers: config.cluster.is_some(),
            accept_dead_push: config.push.unsupported == Unsupported::Accept,
            ..ShardConfig::default()
        },
        queue: config.registrar.queue,
        assigned: config.cluster.is_some(),
        ..defaults
    })
}

pub(super) fn edge(config: &Config, tokens: TokenRing, tickets: Option<Arc<TicketKeys>>) -> EdgeSettings {
    let limits = &config.limits;
    EdgeSettings {
        node: config.cluster.as_ref().map_or(NodeTag(0), |_| cluster::tag(&config.node.id)),
        epoch: rand::random(),
        listeners: config.listeners.iter().enumerate().map(|(at, listener)| edge_listener(at, listener)).collect(),
        limits: LimitsSettings {
            connections: limits.connections,
            connections_per_source: limits.connections_per_source,
            connects_per_source: limits.connects_per_source,
            accepts: limits.accepts,
            handshakes: limits.handshakes,
            exempt: limits.exempt.clone(),
            messages_per_flow: limits.messages_per_flow,
            messages_burst: limits.messages_burst,
            queue_messages: limits.queue_messages,
            queue_bytes: limits.queue_bytes,
            retry_after_min: seconds(limits.retry_after_min),
            retry_after_max: seconds(limits.retry_after_max),
            ..LimitsSettings::default()
        },
        timeouts: TimeoutSettings {
            handshake: limits.handshake_timeout,
            first_message: limits.first_message_timeout,
            message: limits.message_timeout,
            idle: limits.idle_timeout,
            ..TimeoutSettings::default()
        },
        outbound: OutboundSettings::default(),
        cluster: config.cluster.as_ref().map(|cluster| ClusterTls {
            ca: cluster.ca.clone(),
            cert: cluster.cert.clone(),
            key: cluster.key.clone(),
            server_name: cluster.server_name.clone(),
        }),
        tokens,
        tickets,
        sip: SipLimits { message: limits.message_size, ..SipLimits::default() },
    }
}

fn edge_listener(at: usize, listener: &crate::config::Listener) -> ListenerSettings {
    let (transport, files) = match &listener.transport {
        Transport::Udp => (FlowTransport::Udp, None),
        Transport::Tcp => (FlowTransport::Tcp, None),
        Transport::Tls(files) => (FlowTransport::Tls, Some(files)),
    };
    ListenerSettings {
        advertise: listener.advertise.clone(),
        cert: files.map(|f| f.cert.clone()),
        key: files.map(|f| f.key.clone()),
        client_ca: files.and_then(|f| f.client_ca.clone()),
        client_names: files.map(|f| f.client_names.clone()).unwrap_or_default(),
        purpose: match listener.purpose {
            Purpose::Public => ingress::Purpose::Public,
            Purpose::Peer => ingress::Purpose::Peer,
            Purpose::Cluster => ingress::Purpose::Cluster,
        },
        ..ListenerSettings::new(format!("listener[{at}]"), transport, listener.addr)
    }
}

pub(super) fn push(config: &Config) -> anyhow::Result<reveille_pns::Settings> {
    let push = &config.push;
    let url = |key: String, text: &Option<String>| {
        text.as_deref().map(|t| t.parse().with_context(|| format!("{key}: not a URL"))).transpose()
    };
    let mut settings = reveille_pns::Settings {
        webpush: push.webpush.as_ref().map(|webpush| WebPushSettings {
            vapid_key_file: webpush.vapid_key_file.clone(),
            former_vapid_key_files: webpush.former_vapid_key_files.clone(),
            payload_keys_file: webpush.payload_keys_file.clone(),
            urgent_requests: webpush.urgent_requests,
            subject: webpush.subject.clone(),
            allow_hosts: webpush.allow_hosts.iter().map(ToString::to_string).collect(),
            allow_addresses: webpush.allow_addresses.clone(),
            ca_file: webpush.ca_file.clone(),
        }),
        ..reveille_pns::Settings::default()
    };
    settings.limits.queue = push.queue;
    for apns in &push.apns {
        settings.apns.push(ApnsSettings {
            name: apns.name.clone(),
            team_id: apns.team_id.clone(),
            key_id: apns.key_id.clone(),
            key_file: apns.key_file.clone(),
            topics: apns.topics.clone(),
            sandbox: apns.sandbox,
            voip_refresh: apns.voip_refresh,
            endpoint: url(format!("push.apns.{}.endpoint", apns.name), &apns.endpoint)?,
            ca_file: apns.ca_file.clone(),
        });
    }
    for fcm in &push.fcm {
        settings.fcm.push(FcmSettings {
            name: fcm.name.clone(),
            project: fcm.project.clone(),
            aliases: fcm.aliases.clone(),
            service_account_file: fcm.service_account_file.clone(),
            messages_per_minute: fcm.messages_per_minute,
            target_field: fcm.target_field.clone(),
            endpoint: url(format!("push.fcm.{}.endpoint", fcm.name), &fcm.endpoint)?,
            token_endpoint: url(format!("push.fcm.{}.token_endpoint", fcm.name), &fcm.token_endpoint)?,
            ca_file: fcm.ca_file.clone(),
        });
    }
    for webhook in &push.webhooks {
        let key = || format!("push.webhook.{}.url: not a URL", webhook.name);
        settings.webhooks.push(WebhookSettings {
            name: webhook.name.clone(),
            provider: webhook.provider.clone(),
            url: webhook.url.parse().with_context(key)?,
            params: webhook.params.clone(),
            key_file: webhook.key_file.clone(),
            ca_file: webhook.ca_file.clone(),
            batch: webhook.batch,
            batch_time: webhook.batch_time,
            headers: webhook.headers.clone(),
        });
    }
    Ok(settings)
}
