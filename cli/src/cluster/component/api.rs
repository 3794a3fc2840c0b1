//! The API that a component works on.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use corral_runtime::backoff::Backoff;
use http::Request;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Longest silence of a connection that is being read. Watches are asked to end sooner and bookmarks come every minute, so
/// that a server which says nothing for so long is gone without having said so.
const SILENCE_MAX: Duration = Duration::from_secs(330);
/// What everybody who is somebody may read, and says nothing else than that.
const HARMLESS: &str = "/apis/coordination.k8s.io/v1";

/// An API with a kubeconfig.
pub struct RemoteApi {
    file: PathBuf,
    config: Config,
}

impl RemoteApi {
    /// Reads the kubeconfig.
    ///
    /// # Errors
    /// When it is not there or makes no sense.
    pub async fn open(file: &Path) -> anyhow::Result<Self> {
        let name = || format!("cannot use the kubeconfig {}", file.display());
        let text = Kubeconfig::read_from(file).with_context(name)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(text, &options).await;
        let mut config = config.with_context(name)?;
        config.read_timeout = Some(SILENCE_MAX);
        config.reset_reader_on_write = true;
        Ok(Self {
            file: file.to_owned(),
            config,
        })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let url = self.config.cluster_url.to_string();
        url.trim_end_matches('/').to_owned()
    }

    /// The authorities that the kubeconfig trusts, in PEM; nothing when those of the machine are meant.
    pub fn ca(&self) -> Option<String> {
        let trusted = self.config.root_cert.as_ref()?;
        Some(trusted.iter().map(|der| pem(der)).collect())
    }

    /// A client that is the kubeconfig's user.
    ///
    /// # Errors
    /// When its certificates make no sense.
    pub fn client(&self) -> anyhow::Result<Client> {
        let name = || format!("cannot use the kubeconfig {}", self.file.display());
        Client::try_from(self.config.clone()).with_context(name)
    }

    /// A client that is nobody.
    ///
    /// # Errors
    /// As [`RemoteApi::client`].
    pub fn nobody(&self) -> anyhow::Result<Client> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo::default();
        Ok(Client::try_from(config)?)
    }

    /// Waits until the server answers: it may be starting beside us.
    ///
    /// # Errors
    /// When it is not the one that the kubeconfig means, or does not know the kubeconfig's user: time changes neither.
    pub async fn reach(&self) -> anyhow::Result<()> {
        let client = self.client()?;
        let url = self.url();
        let mut attempt = 0;
        loop {
            let request = Request::get(HARMLESS).body(Vec::new())?;
            let Err(error) = client.request_text(request).await else {
                return Ok(());
            };
            match &error {
                kube::Error::Api(status) if status.code == 401 => bail!(
                    "{url} does not know the user of the kubeconfig {}",
                    self.file.display()
                ),
                // Rights may come later; whoever needs one tells.
                kube::Error::Api(status) if status.code < 500 => return Ok(()),
                kube::Error::Auth(_) => {
                    return Err(error).with_context(|| {
                        format!(
                            "cannot use the credentials of the kubeconfig {}",
                            self.file.display()
                        )
                    });
                }
                _ if is_mistrust(&error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "{url} is not the server that the kubeconfig {} means, or does not take its certificate",
                            self.file.display()
                        )
                    });
                }
                _ => tracing::warn!(%url, %error, "waiting for the API server"),
            }
            tokio::time::sleep(Backoff::CONNECT.delay(attempt, &url)).await;
            attempt += 1;
        }
    }
}

/// A certificate in PEM.
fn pem(der: &[u8]) -> String {
    const LINE_LEN: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut lines = String::new();
    for line in text.as_bytes().chunks(LINE_LEN) {
        lines.push_str(&String::from_utf8_lossy(line));
        lines.push('\n');
    }
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

/// Whether TLS was what failed: one side does not trust the other.
fn is_mistrust(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error's source is that of what it wraps, which the chain would leave out.
        let wrapped = error.downcast_ref::<std::io::Error>();
        if let Some(wrapped) = wrapped.and_then(std::io::Error::get_ref)
            && is_mistrust(wrapped)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistrust_is_found_within_errors_of_input_and_output() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = std::io::Error::other(std::io::Error::other(tls));
        assert!(is_mistrust(&wrapped));
        assert!(is_mistrust(&kube::Error::Service(Box::new(wrapped))));
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(!is_mistrust(&refused));
    }

    #[tokio::test]
    async fn the_authority_of_a_kubeconfig_is_told_as_it_was_given() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::default();
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let identity = corral_server::pki::Identity {
            certificate: ca.clone(),
            key: key.serialize_pem(),
        };
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("kubeconfig");
        let text = crate::kubeconfig::render("https://127.0.0.1:1", &ca, "u", &identity);
        std::fs::write(&file, text).expect("a file");
        let api = RemoteApi::open(&file).await.expect("it makes sense");
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(api.ca().map(|text| lines(&text)), Some(lines(&ca)));
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_missing_or_wrong_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("there");
        let told = |error: anyhow::Error| format!("{error:#}");
        let missing = RemoteApi::open(&file).await.err().map(told);
        assert!(missing.is_some_and(|text| text.contains("there")));
        std::fs::write(&file, "apiVersion: v1\nkind: Config\ncurrent-context: x\n")
            .expect("a file");
        let wrong = RemoteApi::open(&file).await.err().map(told);
        assert!(wrong.is_some_and(|text| text.contains("there") && text.contains("context")));
    }
}
