//! The server as a client's transport, in this process: the same chain, without sockets or TLS.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use kube::client::Body as ClientBody;

use crate::Shared;
use crate::authn::User;
use crate::chain::{self, Origin};
use crate::response::Body;

/// What metrics call the server that components in its own process ask.
const HOST: &str = "in-process";

/// A tower service that answers as the server does, for one known user.
#[derive(Clone)]
pub struct Local {
    shared: Arc<Shared>,
    user: Arc<User>,
}

impl Local {
    pub(crate) fn new(shared: Arc<Shared>, user: User) -> Self {
        Self {
            shared,
            user: Arc::new(user),
        }
    }

    /// The same transport for another user.
    pub fn with_user(self, user: User) -> Self {
        Self::new(self.shared, user)
    }

    /// A client over this transport.
    pub fn client(self) -> kube::Client {
        kube::Client::new(self, "default")
    }
}

/// The client's errors as hyper-like errors; a local request has none of its own.
#[derive(Debug, thiserror::Error)]
#[error("the request's body failed: {0}")]
struct BodyFailed(String);

impl tower::Service<Request<ClientBody>> for Local {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ClientBody>) -> Self::Future {
        use http_body_util::BodyExt;
        let (shared, user) = (self.shared.clone(), self.user.clone());
        Box::pin(async move {
            let (began, method) = (Instant::now(), request.method().clone());
            let request = request.map(|body| body.map_err(|e| BodyFailed(e.to_string())));
            let answer = chain::serve(shared.clone(), request, Origin::Local(user)).await;
            let code = answer.status().as_u16();
            let metrics = &shared.metrics;
            metrics.client(HOST, &method, code, began.elapsed());
            Ok(answer)
        })
    }
}
