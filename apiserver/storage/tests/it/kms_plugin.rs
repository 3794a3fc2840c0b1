//! A plugin of a key management service, on a socket of a temporary directory. Its "encryption" turns bytes round and
//! puts the id of the key before them, so that tests see what it was given.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use corral_storage::encrypted::kms::messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What the plugin is and has seen.
#[derive(Debug)]
pub struct Plugin {
    pub key_id: String,
    pub healthz: String,
    pub decrypted: usize,
    pub encrypted: usize,
}

#[derive(Clone)]
struct Serving(Arc<Mutex<Plugin>>);

/// A plugin that runs until it is dropped.
pub struct KmsPlugin {
    pub state: Arc<Mutex<Plugin>>,
    pub socket: PathBuf,
    task: JoinHandle<()>,
}

impl KmsPlugin {
    pub fn start(directory: &Path, key_id: &str) -> Self {
        let socket = directory.join("kms.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("bound");
        let state = Arc::new(Mutex::new(Plugin {
            key_id: key_id.to_owned(),
            healthz: "ok".to_owned(),
            decrypted: 0,
            encrypted: 0,
        }));
        let serving = Serving(state.clone());
        let incoming = futures::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(serving)
                .serve_with_incoming(incoming)
                .await
                .expect("served");
        });
        Self {
            state,
            socket,
            task,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn set(&self, change: impl FnOnce(&mut Plugin)) {
        change(&mut self.state.lock().expect("no panic under the lock"));
    }

    pub fn decrypted(&self) -> usize {
        self.state
            .lock()
            .expect("no panic under the lock")
            .decrypted
    }
}

impl Drop for KmsPlugin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl NamedService for Serving {
    const NAME: &'static str = "v2.KeyManagementService";
}

impl Service<http::Request<Body>> for Serving {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            Ok(match path.rsplit('/').next() {
                Some("Status") => answer(request, move |_: StatusRequest| status(&state)).await,
                Some("Encrypt") => answer(request, move |r| encrypt(&state, &r)).await,
                _ => answer(request, move |r| decrypt(&state, &r)).await,
            })
        })
    }
}

async fn answer<A, B, F>(request: http::Request<Body>, f: F) -> http::Response<Body>
where
    A: Message + Default + 'static,
    B: Message + Default + 'static,
    F: Fn(A) -> Result<B, Status> + Send + Clone + 'static,
{
    Grpc::new(ProstCodec::<B, A>::default())
        .unary(Unary(f, std::marker::PhantomData), request)
        .await
}

struct Unary<F, A, B>(F, std::marker::PhantomData<fn(A) -> B>);

impl<A, B, F> UnaryService<A> for Unary<F, A, B>
where
    A: Message + Default + 'static,
    B: Message + Default + 'static,
    F: Fn(A) -> Result<B, Status> + Send + Clone + 'static,
{
    type Response = B;
    type Future = Answer<Result<Response<B>, Status>>;

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let f = self.0.clone();
        Box::pin(async move { f(request.into_inner()).map(Response::new) })
    }
}

fn status(state: &Mutex<Plugin>) -> Result<StatusResponse, Status> {
    let state = state.lock().expect("no panic under the lock");
    Ok(StatusResponse {
        version: "v2".to_owned(),
        healthz: state.healthz.clone(),
        key_id: state.key_id.clone(),
    })
}

fn encrypt(state: &Mutex<Plugin>, request: &EncryptRequest) -> Result<EncryptResponse, Status> {
    let mut state = state.lock().expect("no panic under the lock");
    state.encrypted += 1;
    let mut ciphertext = format!("{}:", state.key_id).into_bytes();
    ciphertext.extend(request.plaintext.iter().rev());
    Ok(EncryptResponse {
        ciphertext,
        key_id: state.key_id.clone(),
        annotations: BTreeMap::from([("version.example.com".to_owned(), b"1".to_vec())]),
    })
}

fn decrypt(state: &Mutex<Plugin>, request: &DecryptRequest) -> Result<DecryptResponse, Status> {
    let mut state = state.lock().expect("no panic under the lock");
    state.decrypted += 1;
    let prefix = format!("{}:", request.key_id).into_bytes();
    let sealed = request.ciphertext.strip_prefix(prefix.as_slice());
    let sealed = sealed.ok_or_else(|| Status::invalid_argument("another key"))?;
    assert_eq!(
        request.annotations.get("version.example.com"),
        Some(&b"1".to_vec())
    );
    Ok(DecryptResponse {
        plaintext: sealed.iter().rev().copied().collect(),
    })
}
