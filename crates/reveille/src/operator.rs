//! The operators' verbs: ask a running node over its admin port and print what it says.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use axum::http::{Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    admin::api::{BindingInfo, Bindings},
    cluster::{StandbyInfo, Status},
    config::Config,
};

/// Prints the bindings of an address-of-record.
///
/// # Errors
/// Where the node cannot be reached, or refuses.
pub async fn show_bindings(config: &Config, aor: &str, json: bool) -> anyhow::Result<()> {
    let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("aor", aor).finish();
    let answer = get(config, &format!("/api/v1/bindings?{query}")).await?;
    if json {
        println!("{}", String::from_utf8_lossy(&answer));
        return Ok(());
    }
    let bindings: Bindings = serde_json::from_slice(&answer).context("the node's answer cannot be read")?;
    print!("{}", readable(&bindings));
    Ok(())
}

/// Prints the cluster as a node sees it.
///
/// # Errors
/// Where the node cannot be reached, or is not part of a cluster.
pub async fn show_cluster(config: &Config, json: bool) -> anyhow::Result<()> {
    let answer = get(config, "/api/v1/cluster").await?;
    if json {
        println!("{}", String::from_utf8_lossy(&answer));
        return Ok(());
    }
    let status: Status = serde_json::from_slice(&answer).context("the node's answer cannot be read")?;
    print!("{}", readable_cluster(&status));
    Ok(())
}

/// Asks for a node to be drained.
///
/// # Errors
/// Where the node asked cannot be reached, or knows no such node.
pub async fn drain(config: &Config, node: &str) -> anyhow::Result<()> {
    let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("node", node).finish();
    ask(config, Method::POST, &format!("/api/v1/drain?{query}")).await?;
    println!("{node} was asked to drain; `reveille cluster status` shows how far it is");
    Ok(())
}

fn readable_cluster(status: &Status) -> String {
    let mut text = format!(
        "seen by {} ({}): {} of {} shards have an owner, {} records wait for Redis\n\n{:<20} {:<10} {:>6} {:>6} {:>9} {:>8} {:>7} {:>7}  {:<10} {:<22} state\n",
        status.node,
        status.standing,
        status.owned,
        status.shards,
        status.deferred,
        "node",
        "roles",
        "shards",
        "epoch",
        "standby",
        "lag",
        "weight",
        "lease",
        "version",
        "address"
    );
    for node in &status.nodes {
        let state = if node.draining { "draining" } else { "live" };
        let id = if node.id.is_empty() { "(later version)" } else { &node.id };
        let lease = format!("{}ms", node.lease_ms);
        let roles = node.roles.join("+");
        let said = |what: &dyn Fn(StandbyInfo) -> String| node.standby.map_or_else(|| "-".to_owned(), what);
        let standby = said(&|standby| format!("{}/{}", standby.warm, standby.shards));
        let lag = said(&|standby| format!("{}ms", standby.lag_ms));
        let _ = writeln!(
            text,
            "{id:<20} {roles:<10} {:>6} {:>6} {standby:>9} {lag:>8} {:>7} {lease:>7}  {:<10} {:<22} {state}",
            node.shards, node.epoch, node.weight, node.version, node.address
        );
    }
    text
}

/// GET on the admin port of the node that runs with this configuration.
async fn get(config: &Config, path: &str) -> anyhow::Result<Bytes> {
    ask(config, Method::GET, path).await
}

async fn ask(config: &Config, method: Method, path: &str) -> anyhow::Result<Bytes> {
    let addr = config.admin.addr;
    if addr.port() == 0 {
        bail!("admin.addr: the port is 0, so the node's own choice of port is not known here");
    }
    let stream = TcpStream::connect(addr).await.with_context(|| format!("admin.addr: no node answers at {addr}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(method).uri(path.parse::<Uri>()?).header(header::HOST, addr.to_string());
    if let Some(file) = &config.admin.token_file {
        let token =
            tokio::fs::read_to_string(file).await.with_context(|| format!("admin.token_file: {}", file.display()))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let response = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    bail!("the node at {addr} answered {status}: {}", said["error"].as_str().unwrap_or("no reason given"))
}

fn readable(found: &Bindings) -> String {
    let mut text = format!("{} (shard {}): ", found.aor, found.shard);
    match found.bindings.len() {
        0 => text.push_str("no bindings\n"),
        1 => text.push_str("1 binding\n"),
        count => {
            let _ = writeln!(text, "{count} bindings");
        }
    }
    for binding in &found.bindings {
        describe(&mut text, binding);
    }
    text
}

fn describe(text: &mut String, binding: &BindingInfo) {
    let seconds = |count| humantime::format_duration(std::time::Duration::from_secs(count));
    let _ = writeln!(text, "\n  {}", binding.contact);
    let flow = match (&binding.transport, binding.flow.as_str(), binding.heard_ago) {
        (Some(transport), "open", Some(ago)) => format!("{transport} connection open, heard {} ago", seconds(ago)),
        (Some(transport), "gone", _) => format!("{transport} connection gone"),
        (Some(transport), state, _) => format!("{transport} {state}"),
        (None, ..) if binding.path.is_empty() => "none: the phone sleeps".to_owned(),
        (None, ..) => format!("by Path {}", binding.path.join(", ")),
    };
    let push = match &binding.push {
        Some(provider) => format!("can be woken by {provider}"),
        None if binding.push_is_dead => "the push service has called the token dead".to_owned(),
        None => "none".to_owned(),
    };
    let _ = writeln!(text, "    flow        {flow}");
    let _ = writeln!(text, "    push        {push}");
    let _ = writeln!(text, "    expires     in {}", seconds(binding.expires_in));
    let _ = writeln!(text, "    registered  {} ago, {} times", seconds(binding.registered_ago), binding.registered);
    let _ = writeln!(text, "    call-id     {} (CSeq {})", binding.call_id, binding.cseq);
    if let Some(instance) = &binding.instance {
        let _ = writeln!(text, "    instance    {instance}");
    }
    if let Some(reg_id) = binding.reg_id {
        let _ = writeln!(text, "    reg-id      {reg_id}");
    }
    if binding.q < 1.0 {
        let _ = writeln!(text, "    q           {}", binding.q);
    }
}

/// Octets of an answer.
const LONGEST: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_read_well() {
        let standby = StandbyInfo { shards: 512, warm: 510, records: 9, bytes: 9, lag_ms: 131, lag_entries: 2 };
        let node = |id: &str, draining| crate::cluster::NodeStatus {
            id: id.into(),
            tag: 1,
            address: "10.0.0.1:5071".into(),
            roles: vec!["edge".into(), "home".into()],
            version: "0.1.0".into(),
            weight: 100,
            draining,
            shards: 512,
            epoch: 7,
            standby: (!draining).then_some(standby),
            lease_ms: 2500,
        };
        let text = readable_cluster(&Status {
            node: "sip-1".into(),
            standing: "live".into(),
            shards: 1024,
            owned: 1024,
            in_memory: 512,
            deferred: 3,
            map_version: 9,
            nodes: vec![node("sip-1", false), node("sip-2", true), node("", false)],
        });
        for part in [
            "seen by sip-1 (live): 1024 of 1024",
            "edge+home",
            "2500ms",
            "draining",
            "510/512",
            "131ms",
            "       - ",
            "(later version)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn bindings_read_well() {
        let asleep = BindingInfo {
            key: 1,
            contact: "sip:bob@192.0.2.7:5061;transport=tls".into(),
            q: 1.0,
            instance: Some("\"<urn:uuid:0>\"".into()),
            reg_id: None,
            path: vec![],
            call_id: "a@b".into(),
            cseq: 7,
            registered: 3,
            registered_ago: 90,
            expires_in: 3510,
            transport: Some("tls".into()),
            flow: "gone".into(),
            heard_ago: None,
            push: Some("apns".into()),
            push_is_dead: false,
        };
        let found = Bindings { aor: "bob@example.com".into(), shard: 3, bindings: vec![asleep] };
        let text = readable(&found);
        for part in ["1 binding\n", "tls connection gone", "can be woken by apns", "in 58m 30s", "1m 30s ago, 3 times"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(readable(&Bindings { bindings: vec![], ..found }).contains("no bindings"));
    }
}
