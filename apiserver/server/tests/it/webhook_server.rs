//! A webhook in the process of a test: HTTPS with a certificate of its own, an answer that the test gives, and a list of
//! what it was asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

type Answer = dyn Fn(&Value) -> (u16, String) + Send + Sync;

/// A webhook.
pub struct Webhook {
    pub port: u16,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Webhook {
    /// One that answers reviews.
    pub async fn reviewing(response: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self::start(reviews(response), Duration::ZERO).await
    }

    /// One that allows everything, after a while.
    pub async fn allowing_after(delay: Duration) -> Self {
        Self::start(reviews(|_| json!({"allowed": true})), delay).await
    }

    /// One that answers whatever it wants.
    pub async fn answering(
        answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self::start(answer, Duration::ZERO).await
    }

    async fn start(
        answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
        delay: Duration,
    ) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let names = ["localhost", "127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (asked, connections) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let serving = tokio::spawn(serve(
            listener,
            TlsAcceptor::from(Arc::new(tls)),
            (Arc::new(answer), delay),
            Arc::clone(&asked),
            connections.clone(),
        ));
        Self {
            port,
            bundle: STANDARD.encode(made.cert.pem()),
            asked,
            connections,
            serving,
        }
    }

    /// How it is reached.
    pub fn client_config(&self) -> Value {
        let url = format!("https://127.0.0.1:{}/review", self.port);
        json!({"url": url, "caBundle": self.bundle})
    }

    /// Its certificate, as configurations hold it.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The requests of the reviews since this was last asked.
    pub fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().expect("no panic under the lock"))
    }

    /// How many connections were made to it.
    pub fn n_connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The answers to reviews that hold these responses.
fn reviews(
    response: impl Fn(&Value) -> Value + Send + Sync + 'static,
) -> impl Fn(&Value) -> (u16, String) + Send + Sync + 'static {
    move |review| {
        let mut given = response(&review["request"]);
        given["uid"] = review["request"]["uid"].clone();
        let kind = (&review["kind"], &review["apiVersion"]);
        let answer = json!({"kind": kind.0, "apiVersion": kind.1, "response": given});
        (200, answer.to_string())
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    (answer, delay): (Arc<Answer>, Duration),
    asked: Arc<Mutex<Vec<Value>>>,
    connections: Arc<AtomicUsize>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), asked.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (answer, asked) = (answer.clone(), asked.clone());
                async move {
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                    let mut told = review["request"].clone();
                    told["review"] = review["apiVersion"].clone();
                    told["query"] = query.into();
                    asked.lock().expect("no panic under the lock").push(told);
                    tokio::time::sleep(delay).await;
                    let (code, text) = answer(&review);
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = code.try_into().unwrap_or_default();
                    Ok::<_, hyper::Error>(response)
                }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}
