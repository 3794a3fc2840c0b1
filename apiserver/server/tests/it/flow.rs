//! Priority and fairness: whose turn it is, who is refused, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use corral_server::authn::{MASTERS, User};
use corral_server::flow::Bounds;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::fixture::{Answer, Fixture, config_map};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const CMS: &str = "/api/v1/namespaces/default/configmaps";
const PAGES: &str = "/debug/api_priority_and_fairness";

fn admin() -> User {
    User::new("admin", &[MASTERS])
}

fn one_of_the_crowd(name: &str) -> User {
    User::new(name, &["crowd", "system:authenticated"])
}

/// A level with the only seat that such a small share is worth.
fn level(name: &str, response: Value) -> Value {
    let limited = json!({
        "nominalConcurrencyShares": 1, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": response,
    });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited},
    })
}

fn queues(length: u32) -> Value {
    // So many that two flows do not have both of their queues in common.
    let queuing = json!({"queues": 1024, "handSize": 2, "queueLengthLimit": length});
    json!({"type": "Queue", "queuing": queuing})
}

fn schema(name: &str, level: &str, group: &str) -> Value {
    let resources = json!({
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
    });
    let subject = json!({"kind": "Group", "group": {"name": group}});
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 500,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [subject], "resourceRules": [resources]}],
        },
    })
}

/// A server with few seats, one of which is the crowd's.
struct Stage {
    fixture: Arc<Fixture>,
    /// A webhook of ConfigMaps that takes connections and says nothing. Whoever asks it keeps its seat until this is gone.
    hook: Option<TcpListener>,
}

impl Stage {
    async fn with(bounds: Bounds) -> Self {
        let fixture = Arc::new(Fixture::start_within(bounds).await);
        let hook = fixture.silent_webhook("configmaps").await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}],
        });
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        assert_eq!(fixture.create(path, binding).await.code, 201);
        let stage = Self {
            fixture,
            hook: Some(hook),
        };
        stage.served("crowd", |answer| answer.code == 404).await;
        stage
    }

    /// Asks for what is not there as a user, until it is answered as wanted.
    async fn served(&self, user: &str, is_so: impl Fn(&Answer) -> bool) {
        let path = format!("{CMS}/none");
        let ask = async || {
            let user = one_of_the_crowd(user);
            let answer = self
                .fixture
                .ask_as(user, "GET", &path, "application/json", Value::Null);
            is_so(&answer.await)
        };
        let asking = async {
            while !ask().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(30), asking).await;
        assert!(asked.is_ok(), "never answered as it shall be");
    }

    /// One where the crowd's requests are treated so.
    async fn of(response: Value) -> Self {
        let stage = Self::with(Bounds {
            reads: 20,
            writes: 20,
            ..Bounds::default()
        })
        .await;
        let fixture = &stage.fixture;
        let levels = format!("{GROUP}/prioritylevelconfigurations");
        let schemas = format!("{GROUP}/flowschemas");
        let made = fixture.create(&levels, level("crowd", response)).await;
        assert_eq!((made.code, &made.headers.get("warning")), (201, &None));
        let made = fixture.create(&schemas, schema("crowd", "crowd", "crowd"));
        let made = made.await;
        assert_eq!(made.code, 201);
        let uid = made.body["metadata"]["uid"].as_str().unwrap_or_default();
        let is_used = |answer: &Answer| answer.headers["x-kubernetes-pf-flowschema-uid"] == uid;
        stage.served("crowd", is_used).await;
        stage.wait_for(0, 0).await;
        stage
    }

    fn write(&self, user: User, name: &str) -> JoinHandle<Answer> {
        let (fixture, body) = (self.fixture.clone(), config_map(name, "1"));
        tokio::spawn(async move {
            fixture
                .ask_as(user, "POST", CMS, "application/json", body)
                .await
        })
    }

    /// The first line of a debug page that begins with something, as cells.
    async fn row(&self, page: &str, name: &str) -> Vec<String> {
        let text = self.fixture.text(admin(), &format!("{PAGES}/{page}")).await;
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("{name},")));
        let cells = row.unwrap_or_default().split(',');
        cells.map(|cell| cell.trim().to_owned()).collect()
    }

    /// Looks at a debug page until it is as wanted; the page is all that tells who waits.
    async fn wait(&self, page: &str, is_so: impl Fn(&str) -> bool) {
        let path = format!("{PAGES}/{page}");
        let look = async {
            while !is_so(&self.fixture.text(admin(), &path).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let looked = tokio::time::timeout(Duration::from_secs(30), look).await;
        assert!(
            looked.is_ok(),
            "{}",
            self.fixture.text(admin(), &path).await
        );
    }

    /// Waits until so many of the crowd wait and are served.
    async fn wait_for(&self, waiting: usize, served: usize) {
        let (waiting, served) = (waiting.to_string(), served.to_string());
        self.wait("dump_priority_levels", |page| {
            let row = page.lines().find(|line| line.starts_with("crowd,"));
            let cells: Vec<&str> = row.unwrap_or_default().split(',').map(str::trim).collect();
            cells.get(4) == Some(&waiting.as_str()) && cells.get(5) == Some(&served.as_str())
        })
        .await;
    }
}

fn version(answer: &Answer) -> u64 {
    let text = answer.body["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).expect("a version")
}

#[tokio::test]
async fn a_flood_of_one_is_overtaken_by_another_of_its_level_and_seen_by_nobody_else() {
    const FLOOD: usize = 12;
    let mut stage = Stage::of(queues(50)).await;
    let mut flood = vec![stage.write(one_of_the_crowd("flood"), "flood-0")];
    stage.wait_for(0, 1).await;
    for index in 1..=FLOOD {
        flood.push(stage.write(one_of_the_crowd("flood"), &format!("flood-{index}")));
    }
    stage.wait_for(FLOOD, 1).await;
    let quiet = stage.write(one_of_the_crowd("quiet"), "quiet");
    stage.wait_for(FLOOD + 1, 1).await;

    // Others have seats of their own, whoever fills the crowd's.
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}});
    let other = User::new("other", &["system:authenticated"]);
    let made = stage
        .fixture
        .ask_as(other, "POST", secrets, "application/json", body);
    assert_eq!(made.await.code, 201);

    let metrics = stage.fixture.text(admin(), "/metrics").await;
    let of = |name: &str, labels: &str| {
        let begin = format!("apiserver_flowcontrol_{name}{{{labels}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&begin));
        line.unwrap_or_else(|| panic!("no {begin}")).to_owned()
    };
    let both = "flow_schema=\"crowd\",priority_level=\"crowd\"";
    let one = "priority_level=\"crowd\"";
    assert_eq!(
        of("current_inqueue_requests", both),
        (FLOOD + 1).to_string()
    );
    assert_eq!(of("current_inqueue_seats", both), (FLOOD + 1).to_string());
    assert_eq!(of("current_executing_requests", both), "1");
    assert_eq!(of("current_executing_seats", both), "1");
    let dispatched: u64 = of("dispatched_requests_total", both)
        .parse()
        .expect("a number");
    assert!(dispatched >= 1);
    assert_eq!(of("nominal_limit_seats", one), "1");
    assert_eq!(of("current_limit_seats", one), "1");
    let requests = format!("{PAGES}/dump_requests?includeRequestDetails=1");
    let requests = stage.fixture.text(admin(), &requests).await;
    let waiting = requests
        .lines()
        .filter(|line| line.contains("0001-01-01T00:00:00Z"));
    assert_eq!(
        waiting.filter(|line| line.contains(" flood,")).count(),
        FLOOD,
        "{requests}"
    );

    stage.hook = None;
    let quiet = quiet.await.expect("it ends");
    assert_eq!(quiet.code, 201);
    let mut after = 0;
    for write in flood {
        let written = write.await.expect("it ends");
        assert_eq!(written.code, 201, "nobody starves: {written:?}");
        after += usize::from(version(&written) > version(&quiet));
    }
    // One had the seat, and the flood's two queues may each be a turn ahead.
    assert!(after >= FLOOD - 2, "{after}");
    stage.wait_for(0, 0).await;
}

#[tokio::test]
async fn those_beyond_the_queues_are_refused_and_told_when_to_come_back() {
    let mut stage = Stage::of(queues(1)).await;
    let user = || one_of_the_crowd("flood");
    let first = stage.write(user(), "first");
    stage.wait_for(0, 1).await;
    let waiting = [stage.write(user(), "second"), stage.write(user(), "third")];
    stage.wait_for(2, 1).await;
    let refused = stage.write(user(), "fourth").await.expect("it ends");
    assert_eq!(refused.code, 429);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["content-type"], "text/plain; charset=utf-8");
    let uid = async |plural: &str| {
        let found = stage.fixture.get(&format!("{GROUP}/{plural}/crowd")).await;
        found.body["metadata"]["uid"]
            .as_str()
            .expect("a uid")
            .to_owned()
    };
    let headers = &refused.headers;
    assert_eq!(
        headers["x-kubernetes-pf-flowschema-uid"],
        uid("flowschemas").await
    );
    let level = uid("prioritylevelconfigurations").await;
    assert_eq!(headers["x-kubernetes-pf-prioritylevel-uid"], level);
    let metrics = stage.fixture.text(admin(), "/metrics").await;
    let line = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"crowd\",priority_level=\"crowd\",reason=\"queue-full\"} 1";
    assert!(metrics.contains(line));
    let row = stage.row("dump_priority_levels", "crowd").await;
    assert_eq!(row[7], "1", "rejected, of {row:?}");
    // One that gives up is no more in the queue, and its place is another's.
    let [second, third] = waiting;
    second.abort();
    stage.wait_for(1, 1).await;
    let again = stage.write(user(), "fifth");
    stage.wait_for(2, 1).await;
    stage.hook = None;
    for write in [first, third, again] {
        assert_eq!(write.await.expect("it ends").code, 201);
    }
    assert_eq!(stage.fixture.get(&format!("{CMS}/second")).await.code, 404);
}

#[tokio::test]
async fn changed_objects_count_at_once_and_schemas_are_told_of_their_level() {
    let stage = Stage::of(json!({"type": "Reject"})).await;
    let fixture = &stage.fixture;
    let first = stage.write(one_of_the_crowd("a"), "first");
    stage.wait_for(0, 1).await;
    let refused = stage.write(one_of_the_crowd("b"), "second").await;
    assert_eq!(refused.expect("it ends").code, 429);
    // The schema leads to another level now, which is not there: nobody uses the schema.
    let path = format!("{GROUP}/flowschemas/crowd");
    let to = |level: &str| json!({"spec": {"priorityLevelConfiguration": {"name": level}}});
    let condition = async || {
        let schema = fixture.get(&path).await;
        let conditions = schema.body["status"]["conditions"].as_array();
        let all = conditions.cloned().unwrap_or_default();
        let text = |field: &str| all[0][field].as_str().unwrap_or_default().to_owned();
        match all.len() {
            0 => Default::default(),
            _ => (text("status"), text("reason"), text("message")),
        }
    };
    let told = async |status: &str| {
        while condition().await.0 != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(30);
    let ask = || {
        let get = "/api/v1/namespaces/default/configmaps/none";
        fixture.ask_as(
            one_of_the_crowd("b"),
            "GET",
            get,
            "application/json",
            Value::Null,
        )
    };
    tokio::time::timeout(limit, told("False"))
        .await
        .expect("it is told");
    fixture.patch(&path, "merge-patch+json", to("later")).await;
    tokio::time::timeout(limit, told("True"))
        .await
        .expect("it is told");
    let (_, reason, message) = condition().await;
    assert_eq!(reason, "NotFound");
    assert_eq!(
        message,
        "This FlowSchema references the PriorityLevelConfiguration object named \"later\" but there is no such object"
    );
    assert_eq!(ask().await.code, 404, "by another schema, which has seats");
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let made = fixture.create(&levels, level("later", queues(1))).await;
    tokio::time::timeout(limit, told("False"))
        .await
        .expect("it is told");
    assert_eq!(condition().await.1, "Found");
    let level_uid = made.body["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let served = ask().await;
    assert_eq!(served.code, 404);
    assert_eq!(
        served.headers["x-kubernetes-pf-prioritylevel-uid"],
        level_uid
    );
    // A level without an object goes when the last of its requests has.
    let gone = fixture
        .ask("DELETE", &format!("{levels}/crowd"), Value::Null)
        .await;
    assert_eq!(gone.code, 200);
    first.abort();
}

#[tokio::test]
async fn without_fairness_those_beyond_the_bounds_are_refused() {
    let mut stage = Stage::with(Bounds {
        fair: false,
        writes: 1,
        ..Bounds::default()
    })
    .await;
    let user = || User::new("somebody", &["system:authenticated"]);
    let first = stage.write(user(), "first");
    // The webhook is asked while the seat is held.
    let asks = stage.hook.as_ref().expect("it listens").accept().await;
    let refused = stage.write(user(), "second").await.expect("it ends");
    assert_eq!(
        (refused.code, &refused.headers["retry-after"]),
        (429, &"1".parse().expect("a value"))
    );
    assert!(
        !refused
            .headers
            .contains_key("x-kubernetes-pf-flowschema-uid")
    );
    let read = stage
        .fixture
        .ask_as(user(), "GET", CMS, "application/json", Value::Null);
    assert_eq!(read.await.code, 200, "reads have turns of their own");
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "by-admin"}});
    assert_eq!(
        stage.fixture.create(secrets, body).await.code,
        201,
        "masters are always answered"
    );
    let page = stage
        .fixture
        .text(admin(), &format!("{PAGES}/dump_queues"))
        .await;
    assert_eq!(page, "404 page not found\n");
    stage.hook = None;
    drop(asks);
    assert_eq!(first.await.expect("it ends").code, 201);
}
