//! `reveille lab-pns` as a carrier runs it: what it prints is a configuration that holds, and its control port is served.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(control: &str, request: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(control).unwrap();
    let head =
        format!("{request} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn what_it_prints_is_a_configuration_and_its_control_port_takes_orders() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_reveille"))
        .args(["lab-pns", "--streams-before-auth", "1", "--dir"])
        .arg(dir.path().join("keys"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    // The section printed last ends with an empty line.
    while !(printed.contains("[push.apns.sandbox]") && printed.ends_with("\n\n")) {
        printed += &lines.next().unwrap().unwrap();
        printed.push('\n');
    }
    let control = printed.lines().find_map(|line| line.strip_prefix("# control   http://")).unwrap().to_owned();

    let config = dir.path().join("reveille.toml");
    let rest = "domains = [\"lab.example\"]\n[auth]\nmode = \"digest\"\nusers = { file = \"users.txt\" }\n\
                [[listener]]\ntransport = \"udp\"\naddr = \"127.0.0.1:0\"\n";
    std::fs::write(dir.path().join("users.txt"), "# nobody\n").unwrap();
    std::fs::write(&config, format!("{rest}{printed}")).unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_reveille")).arg("check").arg("-c").arg(&config).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));

    let (status, device) = ask(&control, "POST /devices", r#"{"kind":"webpush"}"#);
    assert_eq!((status, device["pn-provider"].as_str()), (200, Some("webpush")));
    let (status, counts) = ask(&control, "GET /counts", "");
    assert_eq!((status, counts["unauthenticated"].as_u64()), (200, Some(0)));
    assert_eq!(ask(&control, "POST /faults", r#"{"listener":"refused"}"#).0, 200);
    let lab = printed.lines().find_map(|line| line.strip_prefix("# FCM       https://localhost:")).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", lab.parse::<u16>().unwrap())).is_err());
}

#[test]
fn it_serves_nobody_but_this_machine() {
    let output = Command::new(env!("CARGO_BIN_EXE_reveille"))
        .args(["lab-pns", "--control", "0.0.0.0:0", "--dir", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
}
