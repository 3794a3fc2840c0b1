//! Who a node is: the certificate that it was given when it joined, kept in its data directory and renewed in time.
//!
//! The token is needed once. A node that starts again shows its certificate; one that runs for long asks for the
//! next before the last third of its life, and goes on with it without a pause.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use corral_nodelet::server::tls::ServerCertificate;
use corral_server::pki::{Identity, write_private};
use http::{Request, Response, Uri};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::join::{self, Token};
use crate::kubeconfig;

/// Part of a certificate's life after which the next one is asked for.
const RENEW_AFTER: f64 = 2.0 / 3.0;
/// Pause before a server that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(600);
/// How often a server that does not answer is looked for when a node starts.
const SERVER_LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Longest sleep: a clock that was set is noticed after this long.
const SLEEP_MAX: Duration = Duration::from_secs(86_400);

/// A node's certificate and key, and the CA that it trusts, in PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The node's certificate and key.
    pub identity: Identity,
    /// The cluster's CA.
    pub ca: String,
}

/// Where a node keeps its credentials.
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Below a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join("pki"),
        }
    }

    /// The credentials kept; `None` before the node has joined.
    pub fn load(&self) -> anyhow::Result<Option<Credentials>> {
        let read = |name: &str| {
            let path = self.directory.join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        // Written last, so that it is there only if the others are.
        if !self.directory.join("node.crt").exists() {
            return Ok(None);
        }
        Ok(Some(Credentials {
            identity: Identity {
                certificate: read("node.crt")?,
                key: read("node.key")?,
            },
            ca: read("ca.crt")?,
        }))
    }

    fn save(&self, credentials: &Credentials) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        // Key and certificate must fit each other; without a certificate the node joins again.
        let certificate = self.directory.join("node.crt");
        if certificate.exists() {
            std::fs::remove_file(&certificate)?;
        }
        write_private(&self.directory.join("ca.crt"), &credentials.ca)?;
        write_private(&self.directory.join("node.key"), &credentials.identity.key)?;
        write_private(&certificate, &credentials.identity.certificate)?;
        Ok(())
    }
}

/// What is read off a certificate.
struct Facts {
    user: String,
    not_before: u64,
    not_after: u64,
}

impl Facts {
    fn read(pem: &str) -> anyhow::Result<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| anyhow::anyhow!("the node's certificate is not PEM"))?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents)
            .map_err(|_| anyhow::anyhow!("the node's certificate makes no sense"))?;
        let name = certificate.subject().iter_common_name().next();
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        Ok(Self {
            user: name
                .and_then(|name| name.as_str().ok())
                .unwrap_or("")
                .to_owned(),
            not_before: seconds(certificate.validity().not_before.timestamp()),
            not_after: seconds(certificate.validity().not_after.timestamp()),
        })
    }

    /// When the next certificate is asked for, in seconds of the epoch.
    fn renew_at(&self) -> u64 {
        let life = self.not_after.saturating_sub(self.not_before);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let part = (life as f64 * RENEW_AFTER) as u64;
        self.not_before + part
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A node that has joined.
pub struct Member {
    node: String,
    server: Uri,
    address: IpAddr,
    store: Store,
    current: Credentials,
    kubeconfig: PathBuf,
    client: Arc<ArcSwap<kube::Client>>,
    certificate: Arc<ServerCertificate>,
}

impl Member {
    /// Takes up the credentials of an earlier start, or joins with a token.
    ///
    /// # Errors
    /// When there are no credentials and no token, when they are another node's, or when the server refuses.
    pub async fn enter(
        server: &Uri,
        token_file: Option<&Path>,
        node: &str,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        let store = Store::new(data_dir);
        let kept = match store.load()? {
            Some(kept) if Facts::read(&kept.identity.certificate)?.not_after > now() => Some(kept),
            Some(_) => {
                tracing::warn!("the node's certificate has expired, joining again");
                None
            }
            None => None,
        };
        let current = match kept {
            Some(kept) => {
                let user = Facts::read(&kept.identity.certificate)?.user;
                ensure!(
                    user == format!("system:node:{node}"),
                    "the data directory {} belongs to {user}; start that node, or give this one another directory",
                    data_dir.display()
                );
                kept
            }
            None => {
                let address = join::local_address(server).await?;
                let path = token_file.context(
                    "the node has not joined yet: give --token-file with what corral token create made",
                )?;
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the token file {}", path.display()))?;
                let joined = join::join(server, &Token::parse(text.trim())?, node, address).await?;
                store.save(&joined)?;
                joined
            }
        };
        // A node that was restarted waits for its server; its containers run meanwhile.
        let address = loop {
            match join::local_address(server).await {
                Ok(address) => break address,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "waiting for the server");
                    tokio::time::sleep(SERVER_LOOK_PERIOD).await;
                }
            }
        };
        let kubeconfig = data_dir.join("node.kubeconfig");
        let client = client(server, node, &current, &kubeconfig).await?;
        let certificate =
            ServerCertificate::new(&current.identity.certificate, &current.identity.key)?;
        Ok(Self {
            node: node.to_owned(),
            server: server.clone(),
            address,
            store,
            current,
            kubeconfig,
            client: Arc::new(ArcSwap::from_pointee(client)),
            certificate: Arc::new(certificate),
        })
    }

    /// The address of this machine towards the server.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The cluster's CA in PEM.
    pub fn ca(&self) -> &str {
        &self.current.ca
    }

    /// A client that always uses the newest certificate.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(Newest(self.client.clone()), "default")
    }

    /// The certificate of the node's own API, always the newest.
    pub fn certificate(&self) -> Arc<ServerCertificate> {
        self.certificate.clone()
    }

    /// Asks for the next certificate in time, until told to stop.
    pub async fn keep(mut self, stop: CancellationToken) {
        loop {
            let wait = match Facts::read(&self.current.identity.certificate) {
                Ok(facts) => Duration::from_secs(facts.renew_at().saturating_sub(now())),
                Err(_) => Duration::ZERO,
            };
            let pause = if wait.is_zero() {
                match self.renew().await {
                    Ok(()) => {
                        tracing::info!(node = self.node, "the node's certificate was renewed");
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(
                            node = self.node,
                            error = format!("{error:#}"),
                            "cannot renew the node's certificate"
                        );
                        RETRY_PAUSE
                    }
                }
            } else {
                wait.min(SLEEP_MAX)
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let next = join::renew(&self.server, &self.current, &self.node, self.address).await?;
        let client = client(&self.server, &self.node, &next, &self.kubeconfig).await?;
        self.certificate
            .replace(&next.identity.certificate, &next.identity.key)?;
        self.store.save(&next)?;
        self.client.store(Arc::new(client));
        self.current = next;
        Ok(())
    }
}

/// A client with the node's certificate, also written as a kubeconfig for people who look into problems.
async fn client(
    server: &Uri,
    node: &str,
    credentials: &Credentials,
    path: &Path,
) -> anyhow::Result<kube::Client> {
    let user = format!("system:node:{node}");
    let url = server.to_string();
    let text = kubeconfig::render(
        url.trim_end_matches('/'),
        &credentials.ca,
        &user,
        &credentials.identity,
    );
    write_private(path, &text)?;
    let config = kube::Config::from_custom_kubeconfig(
        Kubeconfig::from_yaml(&text)?,
        &KubeConfigOptions::default(),
    )
    .await?;
    Ok(kube::Client::try_from(config)?)
}

/// Sends each request by the newest client.
#[derive(Clone)]
struct Newest(Arc<ArcSwap<kube::Client>>);

impl tower::Service<Request<Body>> for Newest {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, tower::BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = kube::Client::clone(&self.0.load());
        Box::pin(async move { Ok(client.send(request).await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: &str) -> Credentials {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.not_before = (UNIX_EPOCH + Duration::from_secs(1_000)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(4_000)).into();
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Credentials {
            ca: certificate.clone(),
            identity: Identity {
                certificate,
                key: key.serialize_pem(),
            },
        }
    }

    #[test]
    fn credentials_are_kept_privately_and_whole() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::new(directory.path());
        assert!(store.load().expect("nothing").is_none());
        for name in ["system:node:a", "system:node:b"] {
            let saved = credentials(name);
            store.save(&saved).expect("saved");
            let kept = store.load().expect("readable").expect("kept");
            assert_eq!(kept.identity.key, saved.identity.key);
            assert_eq!(
                Facts::read(&kept.identity.certificate).expect("facts").user,
                name
            );
        }
        let mode = std::fs::metadata(directory.path().join("pki/node.key"))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_next_certificate_is_asked_for_before_the_last_third() {
        let facts = Facts::read(&credentials("n").identity.certificate).expect("facts");
        assert_eq!(facts.renew_at(), 3_000);
    }
}
