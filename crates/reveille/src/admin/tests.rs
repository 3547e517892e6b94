//! The admin port over a real loopback connection.

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

struct Port {
    addr: SocketAddr,
    health: Health,
    stop: CancellationToken,
    server: AdminServer,
}

async fn open(token_file: Option<PathBuf>) -> Port {
    let registry = Registry::new();
    metrics::build_info(&registry, "0.0.0", "test").unwrap();
    let health = Health::new(&registry).unwrap();
    let settings = config::Admin { addr: ([127, 0, 0, 1], 0).into(), token_file };
    let api = Router::new().route("/echo", get(|| async { "hello" }));
    let stop = CancellationToken::new();
    let server = AdminServer::start(&settings, registry, health.clone(), api, stop.clone()).await.unwrap();
    Port { addr: server.addr(), health, stop, server }
}

/// One request on a connection of its own: the status and the whole answer.
async fn fetch(addr: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[tokio::test]
async fn metrics_and_liveness_need_no_token_and_no_readiness() {
    let port = open(None).await;
    let (status, text) = fetch(port.addr, "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("reveille_build_info{revision=\"test\",version=\"0.0.0\"} 1"), "{text}");
    assert!(text.contains("content-type: text/plain"), "{text}");
    assert_eq!(fetch(port.addr, "/health/live", "").await.0, 200);
    assert_eq!(fetch(port.addr, "/elsewhere", "").await.0, 404);
}

#[tokio::test]
async fn readiness_names_every_reason() {
    let port = open(None).await;
    let (status, text) = fetch(port.addr, "/health/ready", "").await;
    assert!(status == 503 && text.contains(r#"["starting"]"#), "{text}");

    port.health.started();
    let (status, text) = fetch(port.addr, "/health/ready", "").await;
    assert!(status == 200 && text.contains(r#"{"status":"ready"}"#), "{text}");
    assert!(fetch(port.addr, "/metrics", "").await.1.contains("reveille_ready 1"));

    port.health.raise(Reason::Store);
    port.health.drain();
    let (status, text) = fetch(port.addr, "/health/ready", "").await;
    assert!(status == 503 && text.contains(r#"["draining","store unavailable"]"#), "{text}");
    assert!(fetch(port.addr, "/metrics", "").await.1.contains("reveille_draining 1"));
    assert_eq!(fetch(port.addr, "/health/live", "").await.0, 200);

    port.health.clear(Reason::Store);
    assert_eq!(fetch(port.addr, "/health/ready", "").await.0, 503, "a drain is for good");
}

#[tokio::test]
async fn the_api_asks_for_the_token_and_follows_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first-token-0123456789\n").unwrap();
    let port = open(Some(file.clone())).await;
    let ask = |headers: &'static str| async move { fetch(port.addr, "/api/echo", headers).await.0 };

    for refused in [
        "",
        "Authorization: Bearer wrong-token-0123456789\r\n",
        "Authorization: Basic first-token-0123456789\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
    ] {
        assert_eq!(ask(refused).await, 401, "{refused:?}");
    }
    assert_eq!(ask("Authorization: bearer first-token-0123456789\r\n").await, 200);

    std::fs::write(&file, "second-token-0123456789").unwrap();
    assert_eq!(ask("Authorization: Bearer first-token-0123456789\r\n").await, 401);
    assert_eq!(ask("Authorization: Bearer second-token-0123456789\r\n").await, 200);

    std::fs::write(&file, "").unwrap();
    assert_eq!(ask("Authorization: Bearer \r\n").await, 401, "an empty file opens nothing");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ask("Authorization: Bearer \r\n").await, 401);
}

#[tokio::test]
async fn without_a_token_the_api_is_for_loopback_only() {
    let port = open(None).await;
    assert_eq!(fetch(port.addr, "/api/echo", "").await.0, 200);
    assert!(matches!(Door::from_address("192.0.2.1".parse().unwrap()), Door::Shut));
    assert!(matches!(Door::from_address("0.0.0.0".parse().unwrap()), Door::Shut));
    assert!(matches!(Door::from_address("::1".parse().unwrap()), Door::Open));
}

#[tokio::test]
async fn it_stops_when_told() {
    let port = open(None).await;
    port.stop.cancel();
    port.server.stopped().await;
    assert!(TcpStream::connect(port.addr).await.is_err());
}
