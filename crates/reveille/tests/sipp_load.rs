//! Foreign traffic: the SIPp program registers ten thousand users with a `reveille serve` process and runs calls through it,
//! over UDP with digest and over TCP without, and not one call may fail.
//!
//! SIPp can answer a challenge with one fixed `uri` only, which fits every REGISTER and no INVITE: the calls come in over a
//! trunk, whose listener (`purpose = "peer"`) challenges nobody.
//!
//! A binding is only ever reached over the flow it was made on, so a SIPp that is called must have registered over the very
//! socket it answers on: `sipp/phone.xml` does both in one scenario.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use process::Server;
use reveille::lab::{DOMAIN, Lab, LabOptions, PASSWORD};
use reveille_testkit::sipp::{self, Sipp, SippOutcome};

/// Users that register.
const USERS: u32 = 10_000;
/// Those of them that are called.
const CALLED: u32 = 2_000;
/// Calls come from a trunk. There is no limit per source, as all phones share one address here.
const EXTRA: &str = r#"
[[listener]]
transport = "udp"
addr = "127.0.0.1:0"
purpose = "peer"

[[listener]]
transport = "tcp"
addr = "127.0.0.1:0"
purpose = "peer"

[limits]
exempt = ["127.0.0.0/8"]
"#;
/// Call-IDs that both SIPps of a call agree on: the number of the call.
const CALL_IDS: &str = "load-%u";
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn sipp_registers_10_000_users_with_digest_and_calls_over_udp() {
    run(Flavour { transport: "udp", digest: true, args: &[], phone_args: &[] }).await;
}

// The phones that are called have a connection each; those that only register share one, and so do the calls of the trunk.
#[tokio::test]
async fn sipp_registers_10_000_users_and_calls_over_tcp() {
    run(Flavour {
        transport: "tcp",
        digest: false,
        args: &["-t", "t1"],
        phone_args: &["-t", "tn", "-max_socket", "8000"],
    })
    .await;
}

struct Flavour {
    transport: &'static str,
    digest: bool,
    args: &'static [&'static str],
    phone_args: &'static [&'static str],
}

async fn run(flavour: Flavour) {
    assert!(
        sipp::is_installed(),
        "SIPp is missing: `cargo xtask test` installs it, or install the package that has it (sip-tester on Debian)"
    );
    let users = (0..USERS).map(user).collect();
    let options = LabOptions { users, extra: EXTRA.to_owned(), open: !flavour.digest, ..LabOptions::default() };
    let lab = Lab::start(options).await.unwrap();
    // SIPp answers MD5 only, and looks at the first challenge alone.
    let md5 = [("REVEILLE__AUTH__ALGORITHMS", r#"["MD5"]"#)];
    let environment = if flavour.digest { md5.as_slice() } else { &[] };
    let server = Server::start(Path::new(env!("CARGO_BIN_EXE_reveille")), &lab.config_file(), environment).await;
    let [phones, trunk] = server.addrs(flavour.transport)[..] else { panic!("two listeners") };

    let input = inputs(lab.folder());
    let sipp = |name: &str, remote: SocketAddr, input: &Path, args: &[&str]| {
        let sipp = Sipp::new(scenario(name)).remote(remote).input(input).limit(LIMIT);
        args.iter().fold(sipp.arg("-auth_uri").arg(DOMAIN), |sipp, arg| sipp.arg(arg))
    };
    let registering =
        sipp("register.xml", phones, &input.quiet, flavour.args).calls(USERS - CALLED).rate(4_000).concurrent(100);
    expect("registrations", &registering.run().await.unwrap(), USERS - CALLED, &server);

    // All phones are in the midst of their scenario until the last is called: only the rate holds them back.
    let answering =
        sipp("phone.xml", phones, &input.phones, flavour.phone_args).calls(CALLED).rate(400).concurrent(CALLED);
    let answering = answering.arg("-cid_str").arg(CALL_IDS).spawn().unwrap();
    server.until_metric("reveille_registrar_bindings", f64::from(USERS)).await;
    let calling = sipp("uac.xml", trunk, &input.callers, flavour.args).calls(CALLED).rate(300).concurrent(50);
    let called = calling.arg("-cid_str").arg(CALL_IDS).run().await.unwrap();
    let answered = answering.finish().await.unwrap();
    expect("calls", &called, CALLED, &server);
    expect("answers", &answered, CALLED, &server);
    assert_eq!(server.metric("reveille_registrar_bindings").await, f64::from(USERS));
    println!("calls: {} retransmissions of callers, {} of phones", called.retransmissions, answered.retransmissions);
}

fn expect(what: &str, outcome: &SippOutcome, successful: u32, server: &Server) {
    assert!(outcome.is_success(), "{what}: {outcome:?}\nthe node: {}", server.tail());
    assert_eq!(outcome.successful, u64::from(successful), "{what}: {outcome:?}");
}

struct Inputs {
    quiet: PathBuf,
    phones: PathBuf,
    callers: PathBuf,
}

fn inputs(folder: &Path) -> Inputs {
    let input = Inputs {
        quiet: folder.join("quiet.csv"),
        phones: folder.join("phones.csv"),
        callers: folder.join("callers.csv"),
    };
    let row = |n| [user(n), sipp::credentials(&user(n), PASSWORD), DOMAIN.to_owned(), "127.0.0.1:9".to_owned()];
    sipp::write_csv(&input.quiet, (CALLED..USERS).map(row)).unwrap();
    sipp::write_csv(&input.phones, (0..CALLED).map(row)).unwrap();
    // Callers are users too: each calls the phone of its own number, as one of those that only registered.
    let caller = |n| [user(CALLED + n), sipp::credentials(&user(CALLED + n), PASSWORD), DOMAIN.to_owned(), user(n)];
    sipp::write_csv(&input.callers, (0..CALLED).map(caller)).unwrap();
    input
}

fn user(n: u32) -> String {
    format!("u{n}")
}

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipp").join(name)
}
