//! A small API server in memory, enough for controllers: any kind, all verbs, subresources status, scale-free binding
//! and finalize, watches with history, finalizers and graceful deletion of pods, optimistic concurrency, discovery.
//!
//! It neither validates nor defaults; the real server's in-process form is the fixture for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::Clock;

/// What a test waits through. Paused time stands still while controllers keep changing things, so no deadline would end
/// a test of two that undo each other's work.
const MAX_CHANGES_AWAITED: usize = 100_000;

/// One request that changed something, or tried to.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The body.
    pub body: Value,
    /// The status code of the answer.
    pub code: u16,
}

#[derive(Clone)]
struct Event {
    revision: u64,
    collection: String,
    namespace: String,
    name: String,
    line: Bytes,
}

/// Turns a request away: given method, path and body, may name a code and a reason.
type Refusal = Box<dyn Fn(&Method, &str, &Value) -> Option<(u16, &'static str)> + Send>;

struct State {
    revision: u64,
    next_uid: u64,
    /// Objects by collection path without namespace (`/api/v1/pods`), then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    history: Vec<Event>,
    recorded: Vec<Recorded>,
    refuse: Option<Refusal>,
    clock: Option<Arc<dyn Clock>>,
}

/// The fake.
pub struct FakeApi {
    /// Guards all of the fake's state.
    state: Mutex<State>,
    grown: watch::Sender<u64>,
}

type Answer = UnsyncBoxBody<Bytes, std::convert::Infallible>;

struct Target {
    collection: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

struct Refused(u16, &'static str, String);

/// The kinds that discovery lists: group version, kind, plural, namespaced.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("v1", "Namespace", "namespaces", false),
    ("v1", "Node", "nodes", false),
    ("v1", "Pod", "pods", true),
    ("v1", "Service", "services", true),
    ("v1", "Endpoints", "endpoints", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "ResourceQuota", "resourcequotas", true),
    ("v1", "Event", "events", true),
    (
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        true,
    ),
    ("apps/v1", "ControllerRevision", "controllerrevisions", true),
    ("apps/v1", "StatefulSet", "statefulsets", true),
    (
        "policy/v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        true,
    ),
    ("v1", "PersistentVolume", "persistentvolumes", false),
    (
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        true,
    ),
    (
        "storage.k8s.io/v1",
        "VolumeAttributesClass",
        "volumeattributesclasses",
        false,
    ),
    (
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        false,
    ),
    ("apps/v1", "Deployment", "deployments", true),
    ("apps/v1", "ReplicaSet", "replicasets", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("batch/v1", "Job", "jobs", true),
    ("batch/v1", "CronJob", "cronjobs", true),
    ("coordination.k8s.io/v1", "Lease", "leases", true),
    (
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        "clusterroles",
        false,
    ),
    (
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "endpointslices",
        true,
    ),
];

impl FakeApi {
    /// An empty API.
    pub fn new() -> Arc<Self> {
        let state = State {
            revision: 1,
            next_uid: 1,
            objects: BTreeMap::new(),
            history: Vec::new(),
            recorded: Vec::new(),
            refuse: None,
            clock: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            grown: watch::Sender::new(1),
        })
    }

    /// Where timestamps come from.
    pub fn set_clock(&self, clock: Arc<dyn Clock>) {
        self.lock().clock = Some(clock);
    }

    /// From now on, asks `refuse` before every write.
    pub fn refuse(
        &self,
        refuse: impl Fn(&Method, &str, &Value) -> Option<(u16, &'static str)> + Send + 'static,
    ) {
        self.lock().refuse = Some(Box::new(refuse));
    }

    /// Accepts every write again.
    pub fn accept_all(&self) {
        self.lock().refuse = None;
    }

    /// A client of this API.
    pub fn client(self: &Arc<Self>) -> kube::Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, std::convert::Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Every write so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.lock().recorded.clone()
    }

    /// Forgets the writes so far.
    pub fn clear_recorded(&self) {
        self.lock().recorded.clear();
    }

    /// Objects of a collection such as `/api/v1/pods`.
    pub fn objects(&self, collection: &str) -> Vec<Value> {
        self.lock()
            .objects
            .get(collection)
            .into_iter()
            .flat_map(|c| c.values().cloned())
            .collect()
    }

    /// Stores an object as if someone had created it; the object names its kind and namespace.
    ///
    /// # Panics
    /// When the object cannot be created.
    pub fn add(&self, object: Value) -> Value {
        let path = path_of(&object);
        self.write(&Method::POST, &path, object)
            .unwrap_or_else(|r| panic!("{} {}", r.1, r.2))
    }

    /// Merges a patch into an object, status and all, as if a node had done it.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn merge(&self, path: &str, patch: Value) -> Value {
        let mut state = self.lock();
        let target = target_of(path);
        let found = state
            .objects
            .get(&target.collection)
            .and_then(|c| c.get(&target.key()));
        let mut object = found.unwrap_or_else(|| panic!("no {path}")).clone();
        merge(&mut object, &patch);
        let stored = state.store(&target, object);
        self.grown.send_replace(state.revision);
        stored
    }

    /// Deletes an object at once.
    pub fn remove(&self, path: &str) {
        let mut state = self.lock();
        state.remove(&target_of(path));
        self.grown.send_replace(state.revision);
    }

    /// Resolves once `condition` holds; it is looked at after every change.
    ///
    /// # Panics
    /// After [`MAX_CHANGES_AWAITED`].
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut grown = self.grown.subscribe();
        let mut changes = 0;
        while !condition(self) {
            grown.changed().await.expect("the API is alive");
            changes += 1;
            assert!(changes < MAX_CHANGES_AWAITED, "changes without an end");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the fake is held")
    }

    async fn serve(self: &Arc<Self>, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if parts.method == Method::GET {
            return self.read(&path, &query, &parts.headers);
        }
        let outcome = self.write(&parts.method, &path, body.clone());
        let (code, answer) = match outcome {
            Ok(answer) => (200, answer),
            Err(Refused(code, reason, message)) => (code, status(code, reason, &message)),
        };
        let method = parts.method.to_string();
        self.lock().recorded.push(Recorded {
            method,
            path,
            body,
            code,
        });
        respond(code, &answer)
    }

    fn read(
        self: &Arc<Self>,
        path: &str,
        query: &str,
        headers: &http::HeaderMap,
    ) -> Response<Answer> {
        if let Some(answer) = discovery(path) {
            return respond(200, &answer);
        }
        let target = target_of(path);
        let accept = headers
            .get(http::header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let metadata_only = accept.contains("PartialObjectMetadata");
        if query.contains("watch=true") {
            return self.watch(&target, query, metadata_only);
        }
        let state = self.lock();
        let collection = state.objects.get(&target.collection);
        if target.name.is_some() {
            return match collection.and_then(|c| c.get(&target.key())) {
                Some(object) => respond(200, object),
                None => respond(404, &status(404, "NotFound", &format!("{path} not found"))),
            };
        }
        let items = collection.into_iter().flatten();
        let items =
            items.filter(|((ns, _), _)| target.namespace.is_empty() || *ns == target.namespace);
        let wanted = selected_name(query);
        let items =
            items.filter(|((_, name), _)| wanted.as_ref().is_none_or(|wanted| wanted == name));
        let items: Vec<_> = items
            .map(|(_, object)| view(object, metadata_only))
            .collect();
        respond(
            200,
            &json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": state.revision.to_string()}, "items": items,
            }),
        )
    }

    fn watch(
        self: &Arc<Self>,
        target: &Target,
        query: &str,
        metadata_only: bool,
    ) -> Response<Answer> {
        let from = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="));
        let from = from
            .and_then(|revision| revision.parse::<u64>().ok())
            .unwrap_or(0);
        let (collection, namespace) = (target.collection.clone(), target.namespace.clone());
        let wanted = selected_name(query);
        let lines = stream::unfold(
            (Arc::clone(self), self.grown.subscribe(), from),
            move |(api, mut grown, seen)| {
                let (collection, namespace) = (collection.clone(), namespace.clone());
                let wanted = wanted.clone();
                async move {
                    loop {
                        grown.borrow_and_update();
                        let next = api.next_event(&collection, &namespace, wanted.as_deref(), seen);
                        if let Some(event) = next {
                            let line = if metadata_only {
                                metadata_line(&event.line)
                            } else {
                                event.line
                            };
                            let frame = http_body::Frame::data(line);
                            return Some((
                                Ok::<_, std::convert::Infallible>(frame),
                                (api, grown, event.revision),
                            ));
                        }
                        grown.changed().await.ok()?;
                    }
                }
            },
        );
        let body = StreamBody::new(Box::pin(lines)).boxed_unsync();
        Response::builder()
            .status(StatusCode::OK)
            .body(body)
            .expect("a valid response")
    }

    fn next_event(
        &self,
        collection: &str,
        namespace: &str,
        name: Option<&str>,
        seen: u64,
    ) -> Option<Event> {
        let state = self.lock();
        let start = state
            .history
            .partition_point(|event| event.revision <= seen);
        let matches = |event: &&Event| {
            event.collection == collection
                && (namespace.is_empty() || event.namespace == namespace)
                && name.is_none_or(|name| event.name == name)
        };
        state.history[start..].iter().find(matches).cloned()
    }

    fn write(&self, method: &Method, path: &str, body: Value) -> Result<Value, Refused> {
        let target = target_of(path);
        let mut state = self.lock();
        if let Some((code, reason)) = state
            .refuse
            .as_ref()
            .and_then(|refuse| refuse(method, path, &body))
        {
            return Err(Refused(
                code,
                reason,
                format!("{reason}: refused by the test"),
            ));
        }
        let outcome = match (method.as_str(), target.subresource.as_deref()) {
            ("POST", Some("binding")) => state.bind(&target, &body),
            ("POST", _) => state.create(target, body),
            ("PUT", _) => state.update(&target, body, false),
            ("PATCH", _) => state.update(&target, body, true),
            ("DELETE", _) => state.delete(&target, &body),
            _ => Err(Refused(405, "MethodNotAllowed", method.to_string())),
        };
        self.grown.send_replace(state.revision);
        outcome
    }
}

impl State {
    fn now(&self) -> String {
        let now = self
            .clock
            .as_ref()
            .map_or(jiff::Timestamp::UNIX_EPOCH, |clock| clock.now());
        corral_api::time::format_seconds(now)
    }

    fn find(&self, target: &Target) -> Result<Value, Refused> {
        let found = self
            .objects
            .get(&target.collection)
            .and_then(|c| c.get(&target.key()));
        let name = target.name.clone().unwrap_or_default();
        found
            .cloned()
            .ok_or_else(|| Refused(404, "NotFound", format!("{name} not found")))
    }

    fn create(&mut self, mut target: Target, mut object: Value) -> Result<Value, Refused> {
        let now = self.now();
        let uid = format!("uid-{}", self.next_uid);
        self.next_uid += 1;
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() {
            let prefix = metadata["generateName"].as_str().unwrap_or_default();
            metadata["name"] = json!(format!("{prefix}{}", self.next_uid));
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(uid);
        }
        metadata["generation"] = json!(1);
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(now);
        }
        if !target.namespace.is_empty() {
            metadata["namespace"] = json!(target.namespace);
        }
        target.name = metadata["name"].as_str().map(Into::into);
        if self.find(&target).is_ok() {
            let name = target.name.unwrap_or_default();
            return Err(Refused(
                409,
                "AlreadyExists",
                format!("{name} already exists"),
            ));
        }
        if target.collection == "/api/v1/namespaces" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = json!("Active");
        }
        Ok(self.store(&target, object))
    }

    fn update(&mut self, target: &Target, body: Value, is_patch: bool) -> Result<Value, Refused> {
        let old = self.find(target)?;
        let sent = &body["metadata"];
        for field in ["resourceVersion", "uid"] {
            if !sent[field].is_null() && sent[field] != old["metadata"][field] {
                return Err(Refused(
                    409,
                    "Conflict",
                    format!("{field} of {} differs", old["metadata"]["name"]),
                ));
            }
        }
        let mut new = old.clone();
        if is_patch {
            merge(&mut new, &body);
        } else {
            new = body;
        }
        match target.subresource.as_deref() {
            Some("status") => {
                let (status, metadata) = (new["status"].take(), new["metadata"].take());
                new = old.clone();
                new["status"] = status;
                // As in Kubernetes, these may be written along with it.
                let written = new["metadata"].as_object_mut().expect("an object");
                for field in ["labels", "annotations"] {
                    match metadata.get(field) {
                        Some(value) => written.insert(field.to_owned(), value.clone()),
                        None => written.remove(field),
                    };
                }
            }
            Some("finalize") => {
                let finalizers = new["spec"]["finalizers"].take();
                new = old.clone();
                new["spec"]["finalizers"] = finalizers;
            }
            _ => {
                new["status"] = old["status"].clone();
                if new["spec"] != old["spec"] {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    new["metadata"]["generation"] = json!(generation);
                }
            }
        }
        if new["status"].is_null() {
            new.as_object_mut().expect("an object").remove("status");
        }
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "name",
            "namespace",
        ] {
            match old["metadata"].get(field) {
                Some(value) => new["metadata"][field] = value.clone(),
                None => drop(
                    new["metadata"]
                        .as_object_mut()
                        .expect("an object")
                        .remove(field),
                ),
            }
        }
        if is_released(&new) {
            self.remove(target);
            return Ok(new);
        }
        Ok(self.store(target, new))
    }

    fn bind(&mut self, target: &Target, body: &Value) -> Result<Value, Refused> {
        let mut pod = self.find(target)?;
        let bound = pod["spec"]["nodeName"]
            .as_str()
            .is_some_and(|node| !node.is_empty());
        if bound {
            return Err(Refused(
                409,
                "Conflict",
                "pod is already assigned to a node".into(),
            ));
        }
        pod["spec"]["nodeName"] = body["target"]["name"].clone();
        merge(
            &mut pod,
            &json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}),
        );
        self.store(target, pod);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn delete(&mut self, target: &Target, options: &Value) -> Result<Value, Refused> {
        if target.name.is_none() {
            return self.delete_collection(target);
        }
        let mut object = self.find(target)?;
        for field in ["resourceVersion", "uid"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err(Refused(
                    409,
                    "Conflict",
                    format!("precondition failed: {field}"),
                ));
            }
        }
        let is_new = object["metadata"]["deletionTimestamp"].is_null();
        match options["propagationPolicy"].as_str() {
            Some("Foreground") if is_new => add_finalizer(&mut object, "foregroundDeletion"),
            Some("Orphan") if is_new => add_finalizer(&mut object, "orphan"),
            _ => {}
        }
        let is_namespace = target.collection == "/api/v1/namespaces";
        let is_pod = target.collection == "/api/v1/pods";
        let scheduled = object["spec"]["nodeName"]
            .as_str()
            .is_some_and(|node| !node.is_empty());
        let running = !matches!(
            object["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        let default_grace = if is_pod && scheduled && running {
            30
        } else {
            0
        };
        let grace = options["gracePeriodSeconds"]
            .as_i64()
            .unwrap_or(default_grace);
        if is_new {
            object["metadata"]["deletionTimestamp"] = json!(self.now());
            object["metadata"]["deletionGracePeriodSeconds"] =
                json!(if is_pod { grace } else { 0 });
        } else if grace == 0 {
            object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        if is_namespace {
            object["status"]["phase"] = json!("Terminating");
        }
        if is_released(&object) {
            self.remove(target);
            return Ok(object);
        }
        Ok(self.store(target, object))
    }

    fn delete_collection(&mut self, target: &Target) -> Result<Value, Refused> {
        let keys = self
            .objects
            .get(&target.collection)
            .into_iter()
            .flat_map(|c| c.keys().cloned());
        let keys: Vec<_> = keys.filter(|(ns, _)| *ns == target.namespace).collect();
        for (namespace, name) in keys {
            let one = Target {
                collection: target.collection.clone(),
                namespace,
                name: Some(name),
                subresource: None,
            };
            self.delete(&one, &Value::Null)?;
        }
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }

    fn store(&mut self, target: &Target, mut object: Value) -> Value {
        let known = self.objects.entry(target.collection.clone()).or_default();
        let event = if known.contains_key(&target.key()) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        known.insert(target.key(), object.clone());
        self.publish(target, event, &object);
        object
    }

    fn remove(&mut self, target: &Target) {
        let known = self.objects.entry(target.collection.clone()).or_default();
        if let Some(mut last) = known.remove(&target.key()) {
            self.revision += 1;
            last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            self.publish(target, "DELETED", &last);
        }
    }

    fn publish(&mut self, target: &Target, event: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": event, "object": object}));
        self.history.push(Event {
            revision: self.revision,
            collection: target.collection.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone().unwrap_or_default(),
            line: line.into(),
        });
    }
}

impl Target {
    fn key(&self) -> (String, String) {
        (
            self.namespace.clone(),
            self.name.clone().unwrap_or_default(),
        )
    }
}

/// The only field selector that the fake knows.
fn selected_name(query: &str) -> Option<String> {
    let selector = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldSelector="))?;
    Some(selector.strip_prefix("metadata.name%3D")?.to_owned())
}

fn add_finalizer(object: &mut Value, finalizer: &str) {
    let mut finalizers = object["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    finalizers.push(json!(finalizer));
    object["metadata"]["finalizers"] = json!(finalizers);
}

/// Whether nothing holds a deleted object back any more.
fn is_released(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let is_namespace = object["status"]["phase"] == "Terminating";
    !metadata["deletionTimestamp"].is_null()
        && none(&metadata["finalizers"])
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && (!is_namespace || none(&object["spec"]["finalizers"]))
}

fn view(object: &Value, metadata_only: bool) -> Value {
    if !metadata_only {
        return object.clone();
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

fn metadata_line(line: &Bytes) -> Bytes {
    let event: Value = serde_json::from_slice(line).expect("our own line");
    let object = view(&event["object"], true);
    format!("{}\n", json!({"type": event["type"], "object": object})).into()
}

fn target_of(path: &str) -> Target {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let version_end = if parts.first() == Some(&"api") { 2 } else { 3 };
    let (version, rest) = parts.split_at(version_end.min(parts.len()));
    let own = |part: &&str| (*part).to_owned();
    let namespaces_itself = |rest: &[&str]| {
        rest.first() == Some(&"namespaces")
            && (rest.len() < 3 || matches!(rest[2], "status" | "finalize"))
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !namespaces_itself(&parts[version.len()..]) => {
            ((*namespace).to_owned(), rest)
        }
        rest => (String::new(), rest),
    };
    Target {
        collection: format!("/{}/{}", version.join("/"), rest.first().unwrap_or(&"")),
        namespace,
        name: rest.get(1).map(own),
        subresource: rest.get(2).map(own),
    }
}

fn path_of(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let known = KINDS.iter().find(|(v, k, ..)| *v == version && *k == kind);
    let (_, _, plural, namespaced) =
        known.unwrap_or_else(|| panic!("{version} {kind} is not known to the fake"));
    let prefix = if version.contains('/') { "apis" } else { "api" };
    if *namespaced {
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default");
        format!("/{prefix}/{version}/namespaces/{namespace}/{plural}")
    } else {
        format!("/{prefix}/{version}/{plural}")
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn discovery(path: &str) -> Option<Value> {
    let path = path.trim_end_matches('/');
    if path == "/api" {
        return Some(
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        );
    }
    if path == "/apis" {
        let mut versions: Vec<_> = KINDS
            .iter()
            .map(|kind| kind.0)
            .filter(|v| v.contains('/'))
            .collect();
        versions.dedup();
        let groups = versions.iter().map(|version| {
            let name = version.split('/').next();
            let entry = json!({"groupVersion": version, "version": "v1"});
            json!({"name": name, "versions": [entry.clone()], "preferredVersion": entry})
        });
        return Some(
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()}),
        );
    }
    let version = path
        .strip_prefix("/apis/")
        .or_else(|| path.strip_prefix("/api/"))?;
    let kinds: Vec<_> = KINDS.iter().filter(|kind| kind.0 == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let resources = kinds.iter().map(|(_, kind, plural, namespaced)| {
        json!({
            "name": plural, "singularName": "", "kind": kind, "namespaced": namespaced,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        })
    });
    let resources: Vec<_> = resources.collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}),
    )
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn respond(code: u16, body: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    let response = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    response.body(body).expect("a valid response")
}
