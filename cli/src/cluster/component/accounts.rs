//! Clients in the names of ServiceAccounts, as kube-controller-manager has one for each of its controllers.
//!
//! A task per account owns its token: it makes the account if it is missing, asks for a token, and for the next one in
//! time, or when the server does not take it any more. Requests wait for the first.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use corral_api::k8s::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use corral_api::k8s::api::core::v1::ServiceAccount;
use corral_runtime::backoff::Backoff;
use corral_runtime::{Error, Tasks};
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use kube::api::PostParams;
use kube::client::Body;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::{Notify, watch};

/// Where the accounts of controllers are.
const NAMESPACE: &str = "kube-system";
/// How long a token is asked to last.
const TOKEN_SECONDS: i64 = 3600;
/// The part of a token's life after which the next one is asked for.
const RENEW_AFTER: f64 = 0.8;
/// Least time between tokens, whatever the server says of them.
const RENEW_PERIOD_MIN: Duration = Duration::from_secs(1);

/// Makes clients.
pub struct Accounts {
    own: Client,
    nobody: Client,
    tasks: Tasks,
    /// Guards the clients that were made, by account: there is one token for each, whatever the number of users and terms.
    made: Mutex<HashMap<String, Client>>,
}

impl Accounts {
    /// Accounts whose tokens `own` asks for; requests go by `nobody`, which has no credentials of its own.
    pub fn new(own: Client, nobody: Client, tasks: Tasks) -> Self {
        Self {
            own,
            nobody,
            tasks,
            made: Mutex::default(),
        }
    }

    /// A client in the name of an account.
    pub fn client(&self, name: &str) -> Client {
        let mut made = self.made.lock().expect("no panic while it is held");
        let client = made
            .entry(name.to_owned())
            .or_insert_with(|| self.make(name));
        client.clone()
    }

    fn make(&self, name: &str) -> Client {
        let (sender, token) = watch::channel(None);
        let stale = Arc::new(Notify::new());
        let keeper = Keeper {
            own: self.own.clone(),
            name: name.to_owned(),
            token: sender,
            stale: Arc::clone(&stale),
        };
        self.tasks.spawn(format!("token of {name}"), keeper.run());
        let service = AsAccount {
            nobody: self.nobody.clone(),
            token,
            stale,
        };
        Client::new(service, "default")
    }
}

/// Owns the token of one account.
struct Keeper {
    own: Client,
    name: String,
    token: watch::Sender<Option<HeaderValue>>,
    stale: Arc<Notify>,
}

impl Keeper {
    async fn run(self) {
        let mut failures = 0;
        loop {
            match self.renew().await {
                Ok(life) => {
                    failures = 0;
                    tokio::time::sleep(RENEW_PERIOD_MIN).await;
                    let wait = tokio::time::sleep(life.mul_f64(RENEW_AFTER));
                    tokio::select! {
                        () = wait => {}
                        () = self.stale.notified() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(account = self.name, %error, "no token for a controller");
                    let wait = Backoff::CONNECT.delay(failures, &self.name);
                    tokio::time::sleep(wait).await;
                    failures += 1;
                }
            }
        }
    }

    /// Asks for a token, and answers how long it lasts.
    async fn renew(&self) -> Result<Duration, Error> {
        let asked = match self.ask().await {
            Err(error) if error.is_not_found() => {
                self.make().await?;
                self.ask().await
            }
            other => other,
        };
        let status = asked?.status.unwrap_or_default();
        let token = status.token.unwrap_or_default();
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header =
            header.map_err(|_| Error::Invalid("the token is no header's value".to_owned()))?;
        header.set_sensitive(true);
        self.token.send_replace(Some(header));
        let end = status
            .expiration_timestamp
            .map_or(0, |end| end.0.as_second());
        let left = end - jiff::Timestamp::now().as_second();
        Ok(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    async fn ask(&self) -> Result<TokenRequest, Error> {
        let accounts = Api::<ServiceAccount>::namespaced(self.own.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let answer = accounts.create_subresource("token", &self.name, &params, &request);
        Ok(answer.await?)
    }

    async fn make(&self) -> Result<(), Error> {
        let accounts = Api::<ServiceAccount>::namespaced(self.own.clone(), NAMESPACE);
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        let made = accounts.create(&PostParams::default(), &account).await;
        match made.map_err(Error::from) {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Sends each request with the newest token.
#[derive(Clone)]
struct AsAccount {
    nobody: Client,
    token: watch::Receiver<Option<HeaderValue>>,
    stale: Arc<Notify>,
}

impl tower::Service<Request<Body>> for AsAccount {
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, tower::BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut this = self.clone();
        Box::pin(async move {
            let token = this.token.wait_for(Option::is_some).await?.clone();
            if let Some(token) = token {
                request.headers_mut().insert(AUTHORIZATION, token);
            }
            let answer = this.nobody.send(request).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                this.stale.notify_one();
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A server that knows only the newest token, and no account before it is made.
    #[derive(Default)]
    struct Fake {
        made: AtomicUsize,
        tokens: AtomicUsize,
        revoked: AtomicUsize,
    }

    impl Fake {
        fn answer(&self, request: &Request<Body>) -> (u16, Value) {
            let path = request.uri().path();
            let refusal = |code: u16, reason: &str| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason,
                    "reason": reason, "code": code});
                (code, status)
            };
            if path.ends_with("/serviceaccounts") {
                self.made.fetch_add(1, Ordering::SeqCst);
                return (201, json!({"metadata": {"name": "a"}}));
            }
            if path.ends_with("/serviceaccounts/a/token") {
                if self.made.load(Ordering::SeqCst) == 0 {
                    return refusal(404, "NotFound");
                }
                let number = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
                let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                let status =
                    json!({"token": format!("t{number}"), "expirationTimestamp": end.to_string()});
                return (
                    201,
                    json!({"metadata": {}, "spec": {"audiences": []}, "status": status}),
                );
            }
            let number = self.tokens.load(Ordering::SeqCst);
            let shown = request.headers().get(AUTHORIZATION);
            let known = shown.is_some_and(|shown| shown == format!("Bearer t{number}").as_str());
            match known && self.revoked.load(Ordering::SeqCst) != number {
                true => (200, json!({"metadata": {"name": "n"}})),
                false => refusal(401, "Unauthorized"),
            }
        }

        fn client(self: &Arc<Self>) -> Client {
            let fake = Arc::clone(self);
            let service = tower::service_fn(move |request: Request<Body>| {
                let (code, body) = fake.answer(&request);
                let mut answer = Response::new(Body::from(body.to_string().into_bytes()));
                *answer.status_mut() = StatusCode::from_u16(code).expect("a code");
                async move { Ok::<_, Infallible>(answer) }
            });
            Client::new(service, "default")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_is_made_and_gets_a_new_token_when_the_old_one_is_refused() {
        let fake = Arc::new(Fake::default());
        let tasks = Tasks::new(CancellationToken::new());
        let accounts = Accounts::new(fake.client(), fake.client(), tasks.clone());
        let objects = Api::<ServiceAccount>::namespaced(accounts.client("a"), "other");
        objects.get("n").await.expect("the first token is good");
        assert_eq!(fake.made.load(Ordering::SeqCst), 1);
        let again = Api::<ServiceAccount>::namespaced(accounts.client("a"), "other");
        again.get("n").await.expect("the token is shared");
        assert_eq!(fake.tokens.load(Ordering::SeqCst), 1);
        fake.revoked.store(1, Ordering::SeqCst);
        objects.get("n").await.expect_err("it is revoked");
        while fake.tokens.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(RENEW_PERIOD_MIN).await;
        }
        objects.get("n").await.expect("the next token is good");
        tasks.shutdown().cancel();
        tasks.join().await;
    }
}
