//! Just enough of an API server for a node: objects in a map, lists, watches, merge patches, deletes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<BoxBody<Bytes, Infallible>>;

#[derive(Clone)]
pub struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<(String, Value)>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// By resource and name; one namespace is enough.
    objects: BTreeMap<(String, String), Value>,
    /// What clients wrote, in order: method, resource and name, and the object after it (before it, of a delete).
    writes: Vec<(Method, String, Value)>,
}

impl FakeApi {
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
            events: broadcast::channel(4096).0,
        }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.inner
            .lock()
            .expect("lock")
            .objects
            .get(&(resource.into(), name.into()))
            .cloned()
    }

    /// The writes that clients made to an object, in order, with what was then there.
    pub fn writes(&self, resource: &str, name: &str) -> Vec<(Method, Value)> {
        let key = format!("{resource}/{name}");
        let inner = self.inner.lock().expect("lock");
        let writes = inner.writes.iter().filter(|(_, of, _)| *of == key);
        writes
            .map(|(method, _, object)| (method.clone(), object.clone()))
            .collect()
    }

    pub fn all(&self, resource: &str) -> Vec<Value> {
        let inner = self.inner.lock().expect("lock");
        let objects = inner.objects.iter();
        objects
            .filter(|((kind, _), _)| kind == resource)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn put(&self, resource: &str, name: &str, object: Value) -> Value {
        let mut inner = self.inner.lock().expect("lock");
        self.store(&mut inner, None, resource, name, object)
    }

    /// Changes an object that is there, as one step; the closure says whether the change is meant.
    pub fn change(
        &self,
        resource: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> bool,
    ) -> Option<Value> {
        self.change_as(None, resource, name, change)
    }

    fn change_as(
        &self,
        client: Option<Method>,
        resource: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> bool,
    ) -> Option<Value> {
        let mut inner = self.inner.lock().expect("lock");
        let key = (resource.to_owned(), name.to_owned());
        let mut object = inner.objects.get(&key)?.clone();
        change(&mut object).then(|| self.store(&mut inner, client, resource, name, object))
    }

    fn store(
        &self,
        inner: &mut Inner,
        client: Option<Method>,
        resource: &str,
        name: &str,
        mut object: Value,
    ) -> Value {
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
        }
        let key = (resource.to_owned(), name.to_owned());
        let kind = if inner.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        inner.objects.insert(key, object.clone());
        inner.wrote(client, resource, name, &object);
        let _ = self
            .events
            .send((resource.to_owned(), json!({"type": kind, "object": object})));
        object
    }

    fn remove(&self, client: Method, resource: &str, name: &str) -> Option<Value> {
        let mut inner = self.inner.lock().expect("lock");
        inner.version += 1;
        let version = inner.version.to_string();
        let mut object = inner
            .objects
            .remove(&(resource.to_owned(), name.to_owned()))?;
        object["metadata"]["resourceVersion"] = json!(version);
        inner.wrote(Some(client), resource, name, &object);
        let _ = self.events.send((
            resource.to_owned(),
            json!({"type": "DELETED", "object": object}),
        ));
        Some(object)
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let path = request.uri().path().trim_matches('/').to_owned();
        let query = request.uri().query().unwrap_or("").to_owned();
        let method = request.method().clone();
        let body = request
            .into_body()
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut parts: Vec<&str> = path.split('/').collect();
        let skip = if parts[0] == "api" { 2 } else { 3 };
        parts.drain(..skip);
        if parts.first() == Some(&"namespaces") && parts.len() > 2 {
            parts.drain(..2);
        }
        let (resource, name) = (parts[0], parts.get(1).copied());
        match (method, name) {
            (Method::GET, None) if query.contains("watch=true") => self.watch(resource),
            (Method::GET, None) => self.list(resource),
            (Method::GET, Some(name)) => found(self.get(resource, name)),
            (Method::POST, None) => {
                let name = body["metadata"]["name"].as_str().unwrap_or("").to_owned();
                found(Some(self.put(resource, &name, body)))
            }
            (Method::PATCH, Some(name)) => self.patch(resource, name, body),
            (Method::DELETE, Some(name)) => found(self.remove(Method::DELETE, resource, name)),
            _ => found(None),
        }
    }

    fn list(&self, resource: &str) -> Answer {
        let inner = self.inner.lock().expect("lock");
        let items: Vec<&Value> = inner
            .objects
            .iter()
            .filter(|((kind, _), _)| kind == resource)
            .map(|(_, object)| object)
            .collect();
        answer(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": inner.version.to_string()}}),
        )
    }

    fn watch(&self, resource: &str) -> Answer {
        // Events between the list and this subscription are repeated as ADDED: a level-triggered reader cannot tell.
        let wanted = resource.to_owned();
        let receiver = self.events.subscribe();
        let now: Vec<Value> = {
            let inner = self.inner.lock().expect("lock");
            inner
                .objects
                .iter()
                .filter(|((kind, _), _)| *kind == wanted)
                .map(|(_, o)| o.clone())
                .collect()
        };
        let first = now
            .into_iter()
            .map(|object| json!({"type": "ADDED", "object": object}));
        let live = tokio_stream(receiver).filter_map(move |(resource, event)| {
            let event = (resource == wanted).then_some(event);
            async move { event }
        });
        let frames = futures::stream::iter(first).chain(live).map(|event| {
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(format!("{event}\n"))))
        });
        Response::new(BodyExt::boxed(SyncStream(StreamBody::new(Box::pin(
            frames,
        )))))
    }

    fn patch(&self, resource: &str, name: &str, patch: Value) -> Answer {
        let version = &patch["metadata"]["resourceVersion"];
        let mut conflict = false;
        let patched = self.change_as(Some(Method::PATCH), resource, name, |object| {
            conflict = !version.is_null() && *version != object["metadata"]["resourceVersion"];
            if !conflict {
                merge(object, &patch);
            }
            !conflict
        });
        if conflict {
            return answer(
                409,
                &json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict"}),
            );
        }
        found(patched)
    }
}

impl Inner {
    fn wrote(&mut self, client: Option<Method>, resource: &str, name: &str, object: &Value) {
        if let Some(method) = client {
            let key = format!("{resource}/{name}");
            self.writes.push((method, key, object.clone()));
        }
    }
}

/// The watch body is only ever polled by one task, but a boxed body must be `Sync`.
struct SyncStream<B>(B);

#[allow(unsafe_code)]
// SAFETY: every method of the inner body takes `&mut self` (through a pin), so shared references give no access to it.
unsafe impl<B> Sync for SyncStream<B> {}

impl<B: http_body::Body + Unpin> http_body::Body for SyncStream<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

fn tokio_stream(
    receiver: broadcast::Receiver<(String, Value)>,
) -> impl futures::Stream<Item = (String, Value)> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.ok().map(|item| (item, receiver))
    })
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("made an object");
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn found(object: Option<Value>) -> Answer {
    match object {
        Some(object) => answer(200, &object),
        None => answer(
            404,
            &json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
        ),
    }
}

fn answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed();
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .expect("a response")
}
