//! A sender of pushes: hyper over HTTP/2 and TLS, credentials signed with jsonwebtoken.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reveille_testkit::pns::{LabFiles, LabPns};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Seconds since 1970, moved by `offset`.
pub(crate) fn unix(offset: i64) -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + offset
}

/// A JWT signed with the key in a PEM file.
pub(crate) fn jwt(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key_pem: &str) -> String {
    let key = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(key_pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(key_pem.as_bytes()),
    };
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, &key.unwrap()).unwrap()
}

/// A P-256 key nobody knows.
pub(crate) fn stranger() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

/// One connection to the lab.
pub(crate) struct Sender {
    connection: SendRequest<Full<Bytes>>,
    host: String,
    pub(crate) files: LabFiles,
    _dir: tempfile::TempDir,
}

/// An answer of the lab.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The APNs reason, the FCM error code, or the Web Push text.
    pub(crate) fn reason(&self) -> String {
        let Ok(json) = serde_json::from_slice::<Value>(&self.body) else {
            return String::from_utf8_lossy(&self.body).into_owned();
        };
        let details = &json["error"]["details"][0]["errorCode"];
        [&json["reason"], details, &json["error"]["status"], &json["error"]]
            .iter()
            .find_map(|value| value.as_str())
            .unwrap_or("")
            .to_owned()
    }
}

impl Sender {
    /// Connects as `host`, checking the lab's certificate for that name.
    pub(crate) async fn connect(lab: &LabPns, host: &str) -> Self {
        let stream = tls(lab, host, &[b"h2"]).await.unwrap();
        let (connection, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(driver);
        let dir = tempfile::tempdir().unwrap();
        let files = lab.write_credentials(dir.path()).unwrap();
        Self { connection, host: format!("{host}:{}", lab.addr().port()), files, _dir: dir }
    }

    /// Sends a request; headers with an empty value are left out.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.host));
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.connection.ready().await?;
        let (parts, body) = self.connection.send_request(request).await?.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
    }

    /// A right APNs provider token.
    pub(crate) fn apns_token(&self) -> String {
        let key = std::fs::read_to_string(&self.files.apns_key_p8).unwrap();
        let claims = json!({ "iss": self.files.apns_team_id, "iat": unix(0) });
        jwt(Algorithm::ES256, Some(&self.files.apns_key_id), &claims, &key)
    }

    /// A push to an APNs VoIP token, in order but for what `change` replaces.
    pub(crate) async fn apns_voip(&mut self, token: &str, change: &[(&'static str, &str)]) -> Answer {
        let mut headers = self.apns_headers();
        for (name, value) in change {
            headers.retain(|(have, _)| have != name);
            headers.push((name, (*value).to_owned()));
        }
        self.send(Method::POST, &format!("/3/device/{token}"), &headers, r#"{"aps":{}}"#).await
    }

    /// As [`Self::apns_voip`], where the connection may end under it.
    pub(crate) async fn try_apns_voip(&mut self, token: &str) -> Result<Answer, hyper::Error> {
        let headers = self.apns_headers();
        self.try_send(Method::POST, &format!("/3/device/{token}"), &headers, r#"{"aps":{}}"#).await
    }

    fn apns_headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("authorization", format!("bearer {}", self.apns_token())),
            ("apns-topic", format!("{}.voip", self.files.apns_topic)),
            ("apns-push-type", "voip".to_owned()),
            ("apns-priority", "10".to_owned()),
            ("apns-expiration", "0".to_owned()),
        ]
    }

    /// The service account file.
    pub(crate) fn account(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(&self.files.fcm_service_account_json).unwrap()).unwrap()
    }

    /// The claims of a right assertion.
    pub(crate) fn assertion(&self) -> Value {
        json!({
            "iss": self.account()["client_email"], "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": self.files.endpoints.fcm_token, "iat": unix(0), "exp": unix(3600),
        })
    }

    /// Asks the token endpoint.
    pub(crate) async fn exchange(&mut self, grant: &str, assertion: &str) -> Answer {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", grant)
            .append_pair("assertion", assertion)
            .finish();
        let headers = [("content-type", "application/x-www-form-urlencoded".to_owned())];
        self.send(Method::POST, "/token", &headers, form).await
    }

    /// A right access token.
    pub(crate) async fn access_token(&mut self) -> String {
        let key = self.account()["private_key"].as_str().unwrap().to_owned();
        let assertion = jwt(Algorithm::RS256, None, &self.assertion(), &key);
        let answer = self.exchange("urn:ietf:params:oauth:grant-type:jwt-bearer", &assertion).await;
        assert_eq!(answer.status, 200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Sends an FCM message body with an authorization header.
    pub(crate) async fn fcm(&mut self, authorization: &str, body: &Value) -> Answer {
        let path = format!("/v1/projects/{}/messages:send", self.files.fcm_project);
        let headers = [("authorization", authorization.to_owned()), ("content-type", "application/json".to_owned())];
        self.send(Method::POST, &path, &headers, body.to_string()).await
    }

    /// The claims of a right VAPID token.
    pub(crate) fn vapid_claims(&self) -> Value {
        json!({ "aud": self.files.endpoints.webpush, "exp": unix(12 * 3600), "sub": self.files.vapid_subject })
    }

    /// A VAPID header over `claims`, signed with the right key.
    pub(crate) fn vapid(&self, lab: &LabPns, claims: &Value) -> String {
        let key = std::fs::read_to_string(&self.files.vapid_key_pem).unwrap();
        format!("vapid t={}, k={}", jwt(Algorithm::ES256, None, claims, &key), lab.vapid_public_key())
    }
}

/// A TLS connection to the lab under a name and an ALPN list.
pub(crate) async fn tls(
    lab: &LabPns,
    host: &str,
    alpn: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(lab.ca().pem().as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    let stream = TcpStream::connect(lab.addr()).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(host.to_owned()).unwrap(), stream)
        .await
}
