//! Certificates and tokens that change while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corral_server::authn::{AuthnConfig, Reload};
use corral_server::serving::Serving;
use corral_server::tls::KeyFiles;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::fixture::{Fixture, Setup};
use crate::service::Signer;

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
/// How often the server looks at its files in these tests, and how long they wait for it.
const PERIOD: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(30);
const NAME: &str = "api.example.com";

/// Who asks, and how.
struct Client {
    /// The name that the server is asked for.
    name: &'static str,
    /// The certificate, in PEM, by which it must be signed.
    trusts: String,
    shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    token: Option<&'static str>,
}

impl Client {
    fn of(fixture: &Fixture) -> Self {
        Self {
            name: "localhost",
            trusts: fixture.server.ca().to_owned(),
            shows: None,
            token: None,
        }
    }

    /// The user that the server takes it for; nothing where there is no connection, or no answer of the kind.
    async fn user(&self, fixture: &Fixture) -> Option<String> {
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut self.trusts.as_bytes()) {
            roots.add(certificate.ok()?).ok()?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match &self.shows {
            Some((certificate, key)) => {
                let chain = vec![certificate.clone()];
                config.with_client_auth_cert(chain, key.clone_key()).ok()?
            }
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(fixture.address()).await.ok()?;
        let name = ServerName::try_from(self.name).ok()?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let tls = connector.connect(name, tcp).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .ok()?;
        tokio::spawn(connection);
        let mut request = http::Request::post(WHOAMI)
            .header("host", "localhost")
            .header("content-type", "application/json");
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from_static(b"{}"))).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        let review: Value = serde_json::from_slice(&body).ok()?;
        let user = review["status"]["userInfo"]["username"].as_str()?;
        Some(user.to_owned())
    }

    /// Asks until it is taken for somebody, or for nobody any more.
    async fn becomes(&self, fixture: &Fixture, user: Option<&str>) {
        let asking = async {
            while self.user(fixture).await.as_deref() != user {
                tokio::time::sleep(PERIOD).await;
            }
        };
        let asked = tokio::time::timeout(WAIT_MAX, asking).await;
        assert!(asked.is_ok(), "never taken for {user:?}");
    }
}

/// Writes a file as tools do that rotate: at once.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("written");
    std::fs::rename(&next, path).expect("renamed");
}

async fn start(authn: AuthnConfig, serving: Serving) -> Fixture {
    Fixture::start_with(Setup {
        authn: AuthnConfig {
            reload: Reload(PERIOD),
            ..authn
        },
        serving,
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn tokens_of_a_file_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.csv");
    std::fs::write(&path, "old,jane,7\n").expect("written");
    let authn = AuthnConfig {
        token_file: Some(path.clone()),
        ..AuthnConfig::default()
    };
    let fixture = start(authn, Serving::default()).await;
    let with = |token| Client {
        token: Some(token),
        ..Client::of(&fixture)
    };
    assert_eq!(with("old").user(&fixture).await.as_deref(), Some("jane"));
    replace(&path, "new,jane,7\n");
    with("new").becomes(&fixture, Some("jane")).await;
    assert_eq!(with("old").user(&fixture).await, None);
    // What makes no sense changes nothing; what comes after it does.
    replace(&path, "new,jane\n");
    replace(&path, "newer,ann,8\n");
    with("newer").becomes(&fixture, Some("ann")).await;
}

#[tokio::test]
async fn what_changes_while_a_server_starts_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens.csv");
    let clients = folder.path().join("clients.crt");
    let signer = Signer::new("new");
    std::fs::write(&tokens, "old,jane,7\n").expect("written");
    std::fs::write(&clients, Signer::new("old").pem()).expect("written");
    let authn = AuthnConfig {
        token_file: Some(tokens.clone()),
        ..AuthnConfig::default()
    };
    let serving = Serving {
        client_ca: Some(clients.clone()),
        ..Serving::default()
    };
    let fixture = start(authn, serving).await;
    // Nothing has looked at the files again yet: this thread has run nothing else since.
    replace(&tokens, "new,jane,7\n");
    replace(&clients, &signer.pem());
    let with_token = Client {
        token: Some("new"),
        ..Client::of(&fixture)
    };
    with_token.becomes(&fixture, Some("jane")).await;
    let with_certificate = Client {
        shows: Some(signer.sign("ann")),
        ..Client::of(&fixture)
    };
    with_certificate.becomes(&fixture, Some("ann")).await;
}

#[tokio::test]
async fn authorities_of_clients_come_and_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients.crt");
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    std::fs::write(&path, old.pem()).expect("written");
    let serving = Serving {
        client_ca: Some(path.clone()),
        ..Serving::default()
    };
    let fixture = start(AuthnConfig::default(), serving).await;
    let by = |signer: &Signer, name| Client {
        shows: Some(signer.sign(name)),
        ..Client::of(&fixture)
    };
    let (jane, ann) = (by(&old, "jane"), by(&new, "ann"));
    assert_eq!(jane.user(&fixture).await.as_deref(), Some("jane"));
    assert_eq!(ann.user(&fixture).await, None);
    replace(&path, &new.pem());
    ann.becomes(&fixture, Some("ann")).await;
    assert_eq!(jane.user(&fixture).await, None);
    // The cluster's own are good all along.
    let own = fixture
        .server
        .client_identity("eve", "devs")
        .expect("an identity");
    let (mut chain, key) = own.to_rustls().expect("PEM");
    let eve = Client {
        shows: Some((chain.remove(0), key)),
        ..Client::of(&fixture)
    };
    assert_eq!(eve.user(&fixture).await.as_deref(), Some("eve"));
}

/// A certificate for the name, signed by itself, and its key.
fn for_the_name() -> (String, String) {
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn the_certificate_that_is_shown_is_rotated() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = KeyFiles {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
    };
    let (old, new) = (for_the_name(), for_the_name());
    std::fs::write(&files.certificate, &old.0).expect("written");
    std::fs::write(&files.key, &old.1).expect("written");
    let serving = Serving {
        certificate: Some(files.clone()),
        ..Serving::default()
    };
    let tokens = folder.path().join("tokens.csv");
    std::fs::write(&tokens, "token,jane,7\n").expect("written");
    let authn = AuthnConfig {
        token_file: Some(tokens),
        ..AuthnConfig::default()
    };
    let fixture = start(authn, serving).await;
    let trusting = |pem: &str| Client {
        name: NAME,
        trusts: pem.to_owned(),
        token: Some("token"),
        ..Client::of(&fixture)
    };
    let jane = Some("jane");
    let trusts = async |client: &Client| client.user(&fixture).await.as_deref() == jane;
    assert!(trusts(&trusting(&old.0)).await);
    assert!(!trusts(&trusting(&new.0)).await);
    // Certificate and key change one after the other: until both have, the old ones are shown.
    replace(&files.certificate, &new.0);
    assert!(trusts(&trusting(&old.0)).await);
    replace(&files.key, &new.1);
    trusting(&new.0).becomes(&fixture, jane).await;
    assert!(!trusts(&trusting(&old.0)).await);
    // Whoever asks for the cluster's own names is shown the cluster's own.
    let own = Client {
        token: Some("token"),
        ..Client::of(&fixture)
    };
    assert!(trusts(&own).await);
}
