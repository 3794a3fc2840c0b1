//! Requests that are too large or cost much to read: each is refused in Kubernetes' words or answered, and meanwhile others
//! are served as if it were not there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, send};
use crate::neighbour::{N_ATTACKERS, Neighbour};

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const HOARDS: &str = "/apis/tests.example/v1/namespaces/default/hoards";

/// How long any request of an attacker may take, in a debug build beside two others and whatever else the machine does: as
/// long as any request.
const LONGEST_MAX: Duration = corral_server::chain::REQUEST_TIMEOUT;

/// A request that means harm, and what it is answered.
struct Attack {
    method: &'static str,
    path: String,
    content: &'static str,
    header: Option<String>,
    body: Bytes,
    code: u16,
    words: &'static str,
}

impl Attack {
    fn post(path: &str, content: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            content,
            header: None,
            body: body.into(),
            code: 201,
            words: "",
        }
    }

    fn patch(path: &str, content: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            method: "PATCH",
            code: 200,
            ..Self::post(path, content, body)
        }
    }

    fn get(path: &str) -> Self {
        Self {
            method: "GET",
            code: 200,
            ..Self::post(path, "application/json", "")
        }
    }

    fn refused(self, code: u16, words: &'static str) -> Self {
        Self {
            code,
            words,
            ..self
        }
    }
}

/// One attacker's request, and its answer.
async fn attack(fixture: &Fixture, attack: &Attack) -> (u16, String) {
    let mut connection = fixture.connect_as_user("attacker").await;
    let content = ("content-type", attack.content.to_owned());
    let header = attack.header.clone().map(|header| ("x-large", header));
    let headers: Vec<_> = header.into_iter().chain([content]).collect();
    let sent = send(
        &mut connection,
        attack.method,
        &attack.path,
        &headers,
        attack.body.clone(),
    );
    let answer = sent.await;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a whole body");
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    let message = status["message"].as_str().map(str::to_owned);
    (code, message.unwrap_or(text))
}

/// Attacks from several connections at once while another client is measured.
async fn stands(fixture: Fixture, attacks: Vec<Attack>) {
    let mut neighbour = Neighbour::of(&fixture).await;
    let fixture = Arc::new(fixture);
    for made in attacks {
        let path: String = made.path.chars().take(100).collect();
        let what = format!("{} {path}", made.method);
        let made = Arc::new(made);
        let attack = async |enough| all_attack(&fixture, &made, enough).await;
        neighbour.beside_work(&what, attack).await;
    }
}

/// Attackers that make the same until it is enough, each at least once.
async fn all_attack(fixture: &Arc<Fixture>, made: &Arc<Attack>, enough: CancellationToken) {
    let mut attackers = JoinSet::new();
    for _ in 0..N_ATTACKERS {
        let (fixture, made, enough) = (fixture.clone(), made.clone(), enough.clone());
        attackers.spawn(async move {
            let mut answered = Vec::new();
            while answered.is_empty() || !enough.is_cancelled() {
                let began = Instant::now();
                let (code, message) = attack(&fixture, &made).await;
                answered.push((began.elapsed(), code, message));
            }
            answered
        });
    }
    for (took, code, message) in attackers.join_all().await.into_iter().flatten() {
        assert!(
            took < LONGEST_MAX,
            "{took:?}: {} {}",
            made.method,
            made.path
        );
        let shown: String = message.chars().take(300).collect();
        // All attackers make the same: it is there already, or somebody else has changed it.
        let is_due = code == made.code || (made.code < 300 && matches!(code, 200 | 201 | 409));
        assert!(is_due, "{code} {shown}");
        assert!(message.contains(made.words), "{shown}");
    }
}

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_a_bound_are_refused() {
    let fixture = Fixture::start().await;
    let long = "a".repeat(corral_server::request::URL_LENGTH_MAX);
    let large = Attack {
        header: Some("a".repeat(corral_server::serve::HEADER_BYTES_MAX)),
        ..Attack::get(CMS)
    };
    let value = "x".repeat(corral_storage::VALUE_BYTES_MAX);
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "n"}, "stringData": {"a": value}});
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = vec![b' '; corral_server::flow::BODY_BYTES_MAX + 1];
    let attacks = vec![
        Attack::post(CMS, JSON, body).refused(413, "Request entity too large: limit is 3145728"),
        Attack::get(&format!("{CMS}?labelSelector={long}")).refused(414, ""),
        large.refused(431, ""),
        Attack::post(secrets, JSON, object.to_string()).refused(422, "data: Too long"),
        Attack::post(CMS, JSON, "[".repeat(100_000)).refused(400, "nested deeper than 100 levels"),
    ];
    stands(fixture, attacks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_in_yaml_do_not_grow_by_their_aliases() {
    let mut laughs = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: laughs}\n".to_owned();
    laughs.push_str("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let deep = (0..100).map(|level| format!("{}k:\n", " ".repeat(level)));
    let deep: String = deep.collect();
    let aliases = format!("a: &a [x]\nb: [{}]\n", "*a,".repeat(300_000));
    let patched = format!("{CMS}/laughs?fieldManager=a");
    let excessive = "document contains excessive aliasing";
    let fixture = Fixture::start().await;
    let attacks = vec![
        Attack::post(CMS, YAML, laughs.clone()).refused(400, excessive),
        Attack::patch(&patched, APPLY, laughs).refused(400, excessive),
        Attack::post(CMS, YAML, deep).refused(400, "nested deeper than"),
        Attack::post(CMS, YAML, aliases).refused(400, excessive),
        Attack::post(CMS, YAML, "[".repeat(300_000)).refused(400, "nested deeper than"),
        Attack::post(CMS, YAML, "- ".repeat(300_000)).refused(400, "nested deeper than"),
        Attack::post(CMS, YAML, format!("[{}]", "0,".repeat(300_000)))
            .refused(400, "document has more than"),
        Attack::post(CMS, JSON, format!("[{}]", "0,".repeat(300_000))).refused(400, ""),
    ];
    stands(fixture, attacks).await;
}

fn operations(n: usize, operation: &Value) -> String {
    Value::Array(vec![operation.clone(); n]).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_patches_are_bounded_by_what_they_do() {
    let fixture = Fixture::start().await;
    let target = json!({"metadata": {"name": "target"}, "data": {"a": "x".repeat(200_000)}});
    assert_eq!(fixture.create(CMS, target).await.code, 201);
    let path = format!("{CMS}/target");
    let rejected = "the server rejected our request due to an error in our request";
    let put = |value: Value| json!({"op": "add", "path": "/data/a", "value": value});
    let copy = json!({"op": "copy", "from": "/data", "path": "/data/b"});
    let many = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    let list = json!({"op": "add", "path": "/list", "value": vec![0; 500_000]});
    let mut inserts = vec![list];
    inserts.extend(vec![
        json!({"op": "add", "path": "/list/0", "value": 1});
        9999
    ]);
    let mut wraps = Vec::new();
    for _ in 0..3000 {
        wraps.push(json!({"op": "add", "path": "/b", "value": {}}));
        wraps.push(json!({"op": "move", "from": "/data", "path": "/b/data"}));
        wraps.push(json!({"op": "move", "from": "/b", "path": "/data"}));
    }
    let whole = json!({"a": "x".repeat(200_000)});
    let mut tests = vec![json!({"op": "test", "path": "/data", "value": whole})];
    tests.extend(vec![json!({"op": "test", "path": "/data", "value": {}}); 1]);
    let attacks = vec![
        Attack::patch(&path, JSON_PATCH, operations(10_001, &put(json!("x")))).refused(413, many),
        Attack::patch(&path, JSON_PATCH, operations(10_000, &copy)).refused(422, rejected),
        Attack::patch(&path, JSON_PATCH, Value::Array(inserts).to_string())
            .refused(413, "the operations of the JSON patch move more than"),
        Attack::patch(&path, JSON_PATCH, Value::Array(wraps).to_string())
            .refused(422, "makes an object nested deeper than 100 levels"),
        Attack::patch(&path, JSON_PATCH, Value::Array(tests).to_string()).refused(422, rejected),
        Attack::patch(&path, JSON_PATCH, operations(10_000, &put(json!("y")))),
    ];
    stands(fixture, attacks).await;
}

/// A hundred thousand short texts that differ.
fn texts(n: usize) -> Vec<String> {
    (0..n).map(|index| format!("x/{index}")).collect()
}

fn named(names: Vec<String>) -> Vec<Value> {
    let item = |name: String| json!({"n": name});
    names.into_iter().map(item).collect()
}

async fn with_hoards(definition: Value) -> Fixture {
    let fixture = Fixture::start().await;
    let made = fixture.create(DEFINITIONS, definition).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let until = Instant::now() + Duration::from_secs(30);
    while fixture.get(HOARDS).await.code != 200 {
        assert!(Instant::now() < until, "the kind is never served");
        tokio::task::yield_now().await;
    }
    fixture
}

fn definition(spec: Value) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    json!({
        "metadata": {"name": "hoards.tests.example"},
        "spec": {"group": "tests.example", "scope": "Namespaced",
            "names": {"plural": "hoards", "singular": "hoard", "kind": "Hoard"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    })
}

fn hoard(name: &str, spec: Value) -> String {
    let object = json!({"apiVersion": "tests.example/v1", "kind": "Hoard", "metadata": {"name": name}, "spec": spec});
    object.to_string()
}

fn lists() -> Value {
    json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "required": ["n"],
                "properties": {"n": {"type": "string"}, "v": {"type": "integer"}}}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_merged_in_time() {
    let fixture = with_hoards(definition(lists())).await;
    let a = |name: &str| format!("{HOARDS}/{name}?fieldManager=a&force=true");
    let n = 4_000;
    let set = hoard("set", json!({"set": texts(n)}));
    let map = hoard("map", json!({"map": named(texts(n))}));
    let mut reversed = named(texts(n));
    reversed.reverse();
    let reversed = hoard("map", json!({"map": reversed}));
    let mut twice = texts(80_000);
    twice.push("x/0".to_owned());
    let large = "request is too large";
    let attacks = vec![
        Attack::patch(&a("set"), APPLY, set.clone()),
        Attack::patch(&a("set"), APPLY, set),
        Attack::patch(&a("map"), APPLY, map.clone()),
        Attack::patch(&a("map"), APPLY, reversed),
        Attack::patch(&a("map").replace("=a&", "=b&"), APPLY, map),
        Attack::post(HOARDS, JSON, hoard("none", json!({"set": twice})))
            .refused(422, "Duplicate value"),
        Attack::patch(
            &a("large"),
            APPLY,
            hoard("large", json!({"set": texts(80_000)})),
        )
        .refused(413, large),
    ];
    stands(fixture, attacks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_many_parts_is_read_in_time() {
    let fixture = Fixture::start().await;
    let owner = |index: usize| json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": format!("{index}")});
    let entry = |index: usize| {
        json!({"manager": format!("m{index}"), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:data": {format!("f:k{index}"): {}}}})
    };
    let labels: serde_json::Map<String, Value> = (0..6_000)
        .map(|index| (format!("l{index}"), "v".into()))
        .collect();
    let finalizers = texts(6_000);
    let object = |name: &str, part: &str, value: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, part: value}})
            .to_string()
    };
    let merged = |part: &str, value: Value| json!({"metadata": {part: value}}).to_string();
    let mut reversed = finalizers.clone();
    reversed.reverse();
    let fin = format!("{CMS}/fin");
    let ordered = json!({"metadata": {"$setElementOrder/finalizers": reversed,
        "$deleteFromPrimitiveList/finalizers": texts(4_000)}});
    let owners: Vec<Value> = (0..10_000).map(owner).collect();
    let attacks = vec![
        Attack::post(CMS, JSON, object("labels", "labels", labels.into())),
        Attack::post(CMS, JSON, object("fin", "finalizers", json!(finalizers))),
        Attack::patch(&fin, STRATEGIC, merged("finalizers", json!(reversed))),
        Attack::patch(&fin, STRATEGIC, ordered.to_string()),
        Attack::patch(&fin, MERGE_PATCH, merged("finalizers", json!(reversed))),
        Attack::post(CMS, JSON, object("own", "ownerReferences", json!(owners))),
        Attack::patch(
            &format!("{CMS}/own"),
            STRATEGIC,
            merged("ownerReferences", json!(owners)),
        ),
        Attack::post(
            CMS,
            JSON,
            object("man", "managedFields", (0..6_000).map(entry).collect()),
        ),
        Attack::patch(
            &format!("{CMS}/man"),
            MERGE_PATCH,
            merged("labels", json!({"a": "b"})),
        ),
    ];
    stands(fixture, attacks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appliers_of_many_fields_do_not_multiply() {
    let fixture = Fixture::start().await;
    let entry = |index: usize| {
        json!({"manager": format!("m{index}"), "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {format!("f:k{index}"): {}}}})
    };
    let data = |value: &str| -> Value {
        let fields = (0..12_000).map(|index| (format!("k{index}"), value.into()));
        Value::Object(fields.collect())
    };
    let entries: Vec<Value> = (0..2_000).map(entry).collect();
    let object = |entries: Option<&[Value]>, data: Value| {
        let metadata = match entries {
            Some(entries) => json!({"name": "crowd", "managedFields": entries}),
            None => json!({"name": "crowd"}),
        };
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
            .to_string()
    };
    let crowd = format!("{CMS}/crowd");
    let put = |body: String| Attack {
        method: "PUT",
        ..Attack::patch(&crowd, JSON, body)
    };
    let apply = |manager: &str, force: bool, body: String| {
        Attack::patch(
            &format!("{crowd}?fieldManager={manager}&force={force}"),
            APPLY,
            body,
        )
    };
    let attacks = vec![
        Attack::post(CMS, JSON, object(None, data("a"))),
        // They own what this change leaves as it is.
        put(object(Some(&entries), data("a"))),
        // Whose entries are those that are stored: each is asked whether the fields that change are its own.
        apply("a", false, object(None, data("b"))).refused(409, "Apply failed with 2000 conflicts"),
        put(object(Some(&entries), data("c"))),
        apply("a", true, object(None, data("d"))),
        // What was applied goes, but for what anybody else has.
        apply("a", true, object(None, json!({"k0": "d"}))),
    ];
    stands(fixture, attacks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_and_expressions_are_bounded() {
    let numbers = json!({"type": "array", "maxItems": 700, "items": {"type": "integer"},
        "x-kubernetes-validations": vec![json!({"rule": "self.all(x, self.all(y, x + y >= 0))"}); 8]});
    let ruled = json!({"type": "object", "properties": {"numbers": numbers,
        "text": {"type": "string", "pattern": "^(a|a?)+$"}}});
    let fixture = with_hoards(definition(ruled)).await;
    let other = |schema: Value| {
        let mut other = definition(schema);
        other["metadata"]["name"] = "others.tests.example".into();
        other["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
        other.to_string()
    };
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let rule = |rule: &str| json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": rule}]});
    let unique = json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}});
    let terms: Vec<String> = (0..250)
        .map(|index| format!("k{index} notin (a,b)"))
        .collect();
    let long = format!("{CMS}?labelSelector={}", "a,".repeat(10_000));
    let many = format!(
        "{CMS}?labelSelector={}",
        terms.join(",").replace(' ', "%20")
    );
    let fields = format!("{CMS}?fieldSelector={}", "metadata.name!=a,".repeat(1500));
    let backtracks = format!("{}b", "a".repeat(300_000));
    let selector = "selector is longer than";
    let attacks = vec![
        Attack::post(DEFINITIONS, JSON, other(text("((a{1000}){1000}){1000}")))
            .refused(422, "pattern"),
        Attack::post(DEFINITIONS, JSON, other(text(&"(".repeat(100_000)))).refused(422, "pattern"),
        Attack::post(
            DEFINITIONS,
            JSON,
            other(rule("self.all(x, x.matches('((a{1000}){1000}){1000}'))")),
        )
        .refused(422, ""),
        Attack::post(
            DEFINITIONS,
            JSON,
            other(rule("self.all(x, self.all(y, self.all(z, x + y == z)))")),
        )
        .refused(422, "estimated rule cost exceeds budget"),
        Attack::post(DEFINITIONS, JSON, other(rule(&"(".repeat(99_000)))).refused(422, ""),
        Attack::post(DEFINITIONS, JSON, other(rule(&"[".repeat(200_000)))).refused(422, ""),
        Attack::post(DEFINITIONS, JSON, other(unique))
            .refused(422, "uniqueItems cannot be set to true"),
        Attack::post(
            HOARDS,
            JSON,
            hoard("numbers", json!({"numbers": vec![1; 700]})),
        )
        .refused(422, ""),
        Attack::post(HOARDS, JSON, hoard("text", json!({"text": backtracks})))
            .refused(422, "should match"),
        Attack::get(&long).refused(400, selector),
        Attack::get(&fields).refused(400, selector),
        Attack::get(&many),
    ];
    stands(fixture, attacks).await;
}
