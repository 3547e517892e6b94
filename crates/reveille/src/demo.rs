//! `reveille demo`: the main job on real parts. Three phones, one per push service, register over TLS, close their connection,
//! are called, pushed, come back, ring, answer and talk.

mod story;
mod timeline;

use std::time::Duration;

use anyhow::{Context, bail};
use reveille_registrar::Transport;
use reveille_testkit::pns::Provider;

use self::timeline::Timeline;
use crate::{
    cli::DemoOptions,
    lab::{self, Lab, LabOptions},
    node::Node,
    shutdown::{Asked, Signals},
};

/// The phones of the demo.
const PHONES: [(&str, Provider); 3] = [("alice", Provider::Apns), ("bob", Provider::Fcm), ("carol", Provider::WebPush)];
/// How long any step may take before the demo has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo and prints its timeline.
///
/// # Errors
/// Unless all three calls were answered and each INVITE arrived exactly once.
pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    let mut timeline = Timeline::new(options.json);
    let lab = Lab::start(LabOptions::default()).await?;
    timeline
        .note(&format!("lab push services (APNs, FCM, Web Push) on https://localhost:{}", lab.pns.addr().port()))?;
    let node = lab.start_node().await?;
    let sip = lab::address(&node, Transport::Tls).context("the node has no TLS listener")?;
    timeline.note(&format!(
        "node on sip:localhost:{};transport=tls, metrics on http://{}/metrics",
        sip.port(),
        node.admin_addr()
    ))?;
    let mut answered = 0;
    for (user, provider) in PHONES {
        match story::call_a_sleeping_phone(&lab, sip, user, provider, &mut timeline).await {
            Ok(()) => answered += 1,
            Err(error) => timeline.failed(user, &format!("{error:#}"))?,
        }
    }
    let unauthenticated = lab.pns.unauthenticated_total();
    timeline.summary(answered, PHONES.len(), unauthenticated)?;
    if options.keep {
        keep(&lab, &node).await?;
    }
    node.stop().await;
    if answered < PHONES.len() {
        bail!("{answered} of {} calls were answered", PHONES.len());
    }
    if unauthenticated > 0 {
        bail!("{unauthenticated} push requests left without a credential");
    }
    Ok(())
}

/// Leaves everything running until the user has had enough.
async fn keep(lab: &Lab, node: &Node) -> anyhow::Result<()> {
    eprintln!("\nNode and lab stay up; Ctrl-C ends them. To point a softphone at the node:");
    for listener in node.listeners() {
        eprintln!("  sip proxy   {};transport={}", listener.addr, listener.transport.uri_param());
    }
    eprintln!("  account     caller@{}  password {}  (also alice, bob, carol)", lab::DOMAIN, lab::PASSWORD);
    eprintln!("  trust       {} as a root certificate (TLS name: localhost)", lab.folder().join("ca.pem").display());
    eprintln!("  metrics     http://{}/metrics", node.admin_addr());
    eprintln!("  config      {}", lab.config_file().display());
    let mut signals = Signals::catch()?;
    loop {
        match signals.next().await {
            Asked::Reload => node.reload().await,
            Asked::Stop => return Ok(()),
        }
    }
}
