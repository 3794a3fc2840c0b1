//! The connections to servers of others: kept and used again, one set for each Service and whom it is trusted by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::Remote;
use crate::admission::webhooks::client::{Connector, cause, trust};
use crate::pki::{Error, Identity};
use crate::proxy::anybody;
use crate::response::Body;

/// How many sets of connections are kept; beyond, all are let go.
const POOLS_MAX: usize = 64;
/// Connections to one server that are kept while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long such a connection is kept, as Go does.
const IDLE_TIME: Duration = Duration::from_secs(90);

type Pool = Client<Connector, Body>;

/// What connections are told apart by.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    service: (String, String, u16),
    bundle: Vec<u8>,
    insecure: bool,
}

/// All connections.
pub struct Links {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    // Held for copies only.
    pools: Mutex<HashMap<Key, Arc<Pool>>>,
}

impl Links {
    /// Connections that show an identity.
    pub fn new(identity: &Identity) -> Result<Self, Error> {
        let (chain, key) = identity.to_rustls()?;
        Ok(Self {
            chain,
            key,
            pools: Mutex::default(),
        })
    }

    fn connector(&self, remote: &Remote, http2: bool) -> Result<Connector, String> {
        let verifier: Arc<dyn ServerCertVerifier> = match remote.insecure {
            true => anybody::verifier(),
            false => trust(&remote.bundle)?,
        };
        let (chain, key) = (self.chain.clone(), self.key.clone_key());
        let mut tls = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)
            .map_err(|error| error.to_string())?;
        tls.alpn_protocols = match http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        let name = server_name(remote);
        let server_name =
            ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
        Ok(Connector {
            tls: Arc::new(tls),
            server_name,
        })
    }

    fn pool(&self, remote: &Remote) -> Result<Arc<Pool>, String> {
        let key = Key {
            service: remote.service.clone(),
            bundle: remote.bundle.clone(),
            insecure: remote.insecure,
        };
        {
            let pools = self.pools.lock().expect("no panic under the lock");
            if let Some(pool) = pools.get(&key) {
                return Ok(pool.clone());
            }
        }
        let pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(self.connector(remote, true)?);
        let pool = Arc::new(pool);
        let mut pools = self.pools.lock().expect("no panic under the lock");
        if pools.len() >= POOLS_MAX {
            pools.clear();
        }
        pools.insert(key, pool.clone());
        Ok(pool)
    }

    /// Sends a request, whose URI names an address of the server.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn send(
        &self,
        remote: &Remote,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        let pool = self.pool(remote)?;
        let answer = pool.request(request).await;
        answer.map_err(|error| cause(&error))
    }

    /// Sends a request on a connection of its own, which may become something else.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn send_upgrade(
        &self,
        remote: &Remote,
        address: SocketAddr,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        let connector = self.connector(remote, false)?;
        let link = connector.connect(address).await;
        let link = link.map_err(|error| error.to_string())?;
        let handshake = http1::handshake(link).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Its end is seen by whoever holds the upgraded connection.
            let _ = connection.with_upgrades().await;
        });
        let answer = sender.send_request(request).await;
        answer.map_err(|error| error.to_string())
    }
}

/// The name in the certificate of a server, and of the host header.
pub fn server_name(remote: &Remote) -> String {
    let (namespace, name, _) = &remote.service;
    format!("{name}.{namespace}.svc")
}
