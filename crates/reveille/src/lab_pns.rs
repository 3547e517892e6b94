//! `reveille lab-pns`: the lab's push services on their own, for whoever tests a node, or anything else that sends pushes, from
//! outside this process (`docs/lab-pns.md`).

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, ensure};
use clap::Args;
use reveille_testkit::pns::{LabConfig, LabControl, LabFiles, LabPns};

use crate::{
    lab::{push_sections, sandbox_section, webhook_section},
    shutdown::{Asked, Signals},
};

/// How to run the lab's push services.
#[derive(Clone, Debug, Args)]
pub struct LabPnsOptions {
    /// Where to serve pushes, on the loopback interface; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub addr: SocketAddr,
    /// Where to listen for orders, on the loopback interface.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub control: SocketAddr,
    /// The folder that credentials are written to.
    #[arg(long, value_name = "FOLDER", default_value = "lab-pns")]
    pub dir: PathBuf,
    /// Concurrent streams allowed on a connection.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub streams: u32,
    /// Concurrent streams allowed until the first push with a good credential, as Apple allows 1.
    #[arg(long, value_name = "NUMBER")]
    pub streams_before_auth: Option<u32>,
}

/// Runs until asked to stop.
///
/// # Errors
/// When a port, a key or a file cannot be had, or an address is not on the loopback interface.
pub async fn run(options: LabPnsOptions) -> anyhow::Result<()> {
    for addr in [options.addr, options.control] {
        // Its keys are nobody's secret and its orders need no password.
        ensure!(addr.ip().is_loopback(), "{addr} is not on the loopback interface");
    }
    let mut signals = Signals::catch().context("signals")?;
    let config = LabConfig {
        addr: options.addr,
        max_concurrent_streams: options.streams,
        streams_before_auth: options.streams_before_auth,
        ..LabConfig::default()
    };
    let lab = Arc::new(LabPns::start(config).await.context("the lab's push services")?);
    let control = LabControl::start(Arc::clone(&lab), options.control).await.context("the control port")?;
    let dir = std::path::absolute(&options.dir).context("--dir")?;
    let files = lab.write_credentials(&dir).with_context(|| dir.display().to_string())?;
    println!("{}", describe(&files, control.addr()));
    while signals.next().await != Asked::Stop {}
    Ok(())
}

/// A configuration that leads to the lab; the rest is said in its comments.
fn describe(files: &LabFiles, control: SocketAddr) -> String {
    let endpoints = &files.endpoints;
    format!(
        "# The lab's push services are up; end them with Ctrl-C.\n\
         # APNs      {apns}\n\
         # sandbox   {sandbox}\n\
         # FCM       {fcm}\n\
         # tokens    {token}\n\
         # Web Push  {webpush}/push/…\n\
         # webhook   {webhook}\n\
         # control   http://{control}\n\
         # ca_file   {ca}\n\
         # What a node needs to push there:\n\n\
         {sections}\n{webhook_section}\n{sandbox_section}",
        apns = endpoints.apns,
        sandbox = endpoints.apns_sandbox,
        fcm = endpoints.fcm,
        token = endpoints.fcm_token,
        webpush = endpoints.webpush,
        webhook = endpoints.webhook,
        ca = files.ca_pem.display(),
        sections = push_sections(files),
        webhook_section = webhook_section(files),
        sandbox_section = sandbox_section(files),
    )
}
