//! Services beside the server that it asks: webhooks, each described by a kubeconfig file as kube-apiserver takes it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A service that is asked by POST.
#[derive(Clone)]
pub struct Service {
    client: kube::Client,
    /// Path and query of its address.
    path: Uri,
    timeout: Duration,
}

/// Why a service has not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no answer.
    #[error("{0}")]
    Unreachable(String),
    /// It does not come in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It is longer than what is read, or breaks off.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// It is a failure.
    #[error("the answer is {0}")]
    Refused(StatusCode),
}

impl Error {
    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Late(_) => true,
            Self::Unreadable(_) => false,
            Self::Refused(code) => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

impl Service {
    /// The service of a kubeconfig file: its current context's cluster, and the user's credentials.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn of_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = kube::config::Kubeconfig::read_from(path).map_err(|e| told(&e))?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.map_err(|e| told(&e))?;
        // The client appends paths to an address; a webhook's address is whole.
        let address = config.cluster_url.clone();
        let whole = address.path_and_query().map_or("/", |path| path.as_str());
        let whole = whole.parse().map_err(|e: http::uri::InvalidUri| told(&e))?;
        let mut parts = address.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = Uri::from_parts(parts).map_err(|e| told(&e))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT.min(timeout));
        config.read_timeout = Some(timeout);
        config.write_timeout = Some(timeout);
        Ok(Self {
            client: kube::Client::try_from(config).map_err(|e| told(&e))?,
            path: whole,
            timeout,
        })
    }

    /// Asks.
    ///
    /// # Errors
    /// [`Error`] unless the answer is a success.
    pub async fn post(&self, json: Vec<u8>) -> Result<Bytes, Error> {
        let asked = tokio::time::timeout(self.timeout, self.ask(json)).await;
        asked.unwrap_or(Err(Error::Late(self.timeout)))
    }

    async fn ask(&self, json: Vec<u8>) -> Result<Bytes, Error> {
        let unreachable = |error: &dyn std::fmt::Display| Error::Unreachable(error.to_string());
        let request = Request::post(self.path.clone())
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(kube::client::Body::from(json))
            .map_err(|e| unreachable(&e))?;
        let answer = self.client.send(request).await;
        let (parts, body) = answer.map_err(|e| unreachable(&e))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        if !parts.status.is_success() {
            return Err(Error::Refused(parts.status));
        }
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(Error::Unreadable(error.to_string())),
        }
    }
}

/// Fetches a document of a service that is known by its address alone.
///
/// # Errors
/// When it does not come, in words that name the address.
pub async fn get(url: &str, ca: Option<&str>) -> Result<Bytes, String> {
    let told = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let address: Uri = url.parse().map_err(|e: http::uri::InvalidUri| told(&e))?;
    if address.scheme_str() != Some("https") {
        return Err(told(&"only https is asked"));
    }
    let path = address.path_and_query().map_or("/", |path| path.as_str());
    let path: Uri = path.parse().map_err(|e: http::uri::InvalidUri| told(&e))?;
    let mut parts = address.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    let mut config = kube::Config::new(Uri::from_parts(parts).map_err(|e| told(&e))?);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    if let Some(pem) = ca {
        let mut pem = pem.as_bytes();
        let certificates = rustls_pemfile::certs(&mut pem);
        let certificates: Result<Vec<_>, _> = certificates.map(|c| c.map(|c| c.to_vec())).collect();
        config.root_cert = Some(certificates.map_err(|e| told(&e))?);
    }
    let client = kube::Client::try_from(config).map_err(|e| told(&e))?;
    let request = Request::get(path)
        .header(http::header::ACCEPT, "application/json")
        .body(kube::client::Body::empty())
        .map_err(|e| told(&e))?;
    let answer = client.send(request).await.map_err(|e| told(&e))?;
    if !answer.status().is_success() {
        return Err(told(&answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    body.map(|body| body.to_bytes()).map_err(|e| told(&e))
}
