//! Priority and fairness: whose turn it is, who is refused, and what is told of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corral_server::authn::{MASTERS, User};
use corral_server::flow::Bounds;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;

use crate::fixture::{Answer, Fixture, config_map};
use crate::watches::Lines;
use crate::webhook_server::Webhook;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const CMS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PAGES: &str = "/debug/api_priority_and_fairness";
/// How long something may take that is about to happen.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn admin() -> User {
    User::new("admin", &[MASTERS])
}

fn one_of(group: &str, name: &str) -> User {
    User::new(name, &[group, "system:authenticated"])
}

fn one_of_the_crowd(name: &str) -> User {
    one_of("crowd", name)
}

/// A level with the only seat that such a small share is worth.
fn level(name: &str, response: Value) -> Value {
    level_of(1, name, response)
}

/// A level that neither lends nor borrows.
fn level_of(shares: u32, name: &str, response: Value) -> Value {
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": response,
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

/// The labels of a measure of a level, and of one of the schema that leads there.
fn of_level(name: &str) -> String {
    format!("priority_level=\"{name}\"")
}

fn of_schema(name: &str) -> String {
    format!("flow_schema=\"{name}\",priority_level=\"{name}\"")
}

/// So few seats that the smallest share is worth one.
fn few_seats() -> Bounds {
    Bounds {
        reads: 20,
        writes: 20,
        ..Bounds::default()
    }
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
        let hook = Some(fixture.silent_webhook("configmaps").await);
        fixture.empower_everybody().await;
        Self { fixture, hook }
    }

    /// One where nobody asks a webhook.
    async fn without_hook() -> Self {
        let fixture = Arc::new(Fixture::start_within(few_seats()).await);
        fixture.empower_everybody().await;
        let hook = None;
        Self { fixture, hook }
    }

    /// Makes a level of requests of a group, which has its name, and waits until it is used.
    async fn make(&self, level: Value) {
        let name = level["metadata"]["name"].as_str().expect("a name");
        let schema = schema(name, name, name);
        let levels = format!("{GROUP}/prioritylevelconfigurations");
        let made = self.fixture.create(&levels, level.clone()).await;
        assert_eq!((made.code, &made.headers.get("warning")), (201, &None));
        let schemas = format!("{GROUP}/flowschemas");
        let made = self.fixture.create(&schemas, schema).await;
        assert_eq!(made.code, 201);
        let uid = made.body["metadata"]["uid"].as_str().unwrap_or_default();
        let path = format!("{CMS}/none");
        let is_used = async || {
            let user = one_of(name, "somebody");
            let answer = self.read(user, &path).await;
            answer.headers["x-kubernetes-pf-flowschema-uid"] == uid
        };
        let asking = async {
            while !is_used().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = tokio::time::timeout(WAIT_MAX, asking).await;
        asked.expect("its schema is used");
    }

    async fn read(&self, user: User, path: &str) -> Answer {
        self.fixture
            .ask_as(user, "GET", path, "application/json", Value::Null)
            .await
    }

    /// A measure of priority and fairness.
    async fn metric(&self, name: &str, labels: &str) -> f64 {
        let metrics = self.fixture.text(admin(), "/metrics").await;
        let begin = format!("apiserver_flowcontrol_{name}{{{labels}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&begin));
        let value = line.unwrap_or_else(|| panic!("no {begin}"));
        value.parse().expect("a number")
    }

    /// One where the crowd's requests are treated so.
    async fn of(response: Value) -> Self {
        let stage = Self::with(few_seats()).await;
        stage.make(level("crowd", response)).await;
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
        let looked = tokio::time::timeout(WAIT_MAX, look).await;
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
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}});
    let other = User::new("other", &["system:authenticated"]);
    let made = stage
        .fixture
        .ask_as(other, "POST", SECRETS, "application/json", body);
    assert_eq!(made.await.code, 201);

    let (both, one) = (of_schema("crowd"), of_level("crowd"));
    for (name, labels, value) in [
        ("current_inqueue_requests", &both, FLOOD + 1),
        ("current_inqueue_seats", &both, FLOOD + 1),
        ("current_executing_requests", &both, 1),
        ("current_executing_seats", &both, 1),
        ("nominal_limit_seats", &one, 1),
        ("current_limit_seats", &one, 1),
    ] {
        assert_eq!(stage.metric(name, labels).await, value as f64, "{name}");
    }
    assert!(stage.metric("dispatched_requests_total", &both).await >= 1.0);
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
    let limit = WAIT_MAX;
    let none = format!("{CMS}/none");
    let ask = || stage.read(one_of_the_crowd("b"), &none);
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
    assert_eq!(
        stage.read(user(), CMS).await.code,
        200,
        "reads have turns of their own"
    );
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "by-admin"}});
    assert_eq!(
        stage.fixture.create(SECRETS, body).await.code,
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

/// How long a request keeps its seat where the webhook is slow: whatever the machine does, a turn lasts at least as long.
const TURN: Duration = Duration::from_millis(25);
/// Requests that a flooding client has under way.
const N_FLOOD: usize = 40;

/// A client that writes over and over, until it is dropped.
struct Flood(JoinSet<()>);

impl Flood {
    /// One whose requests wait for each other.
    async fn of(stage: &Stage) -> Self {
        let mut writers = JoinSet::new();
        for _ in 0..N_FLOOD {
            let fixture = stage.fixture.clone();
            writers.spawn(async move {
                loop {
                    write(&fixture, one_of_the_crowd("flood")).await;
                }
            });
        }
        let waiting = async {
            let schema = of_schema("crowd");
            let n_waiting = || stage.metric("current_inqueue_requests", &schema);
            while n_waiting().await < N_FLOOD as f64 / 2.0 {
                tokio::task::yield_now().await;
            }
        };
        let waiting = tokio::time::timeout(WAIT_MAX, waiting).await;
        waiting.expect("it fills its level");
        Self(writers)
    }

    async fn end(mut self, stage: &Stage) {
        self.0.shutdown().await;
        stage.wait_for(0, 0).await;
    }
}

/// Has an object checked that is not kept, which the store has no part in, and tells how long that took.
async fn write(fixture: &Fixture, user: User) -> (Duration, u16) {
    let path = format!("{CMS}?dryRun=All");
    let began = Instant::now();
    let body = config_map("a", "1");
    let answer = fixture.ask_as(user, "POST", &path, "application/json", body);
    let code = answer.await.code;
    (began.elapsed(), code)
}

/// How long the slowest of some requests of a client takes.
async fn slowest(stage: &Stage, user: impl Fn() -> User, n: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..n {
        let (took, code) = write(&stage.fixture, user()).await;
        assert_eq!(code, 201);
        slowest = slowest.max(took);
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_client_does_not_slow_another() {
    let stage = Stage::without_hook().await;
    stage.make(level("crowd", queues(50))).await;
    let hook = Webhook::allowing_after(TURN).await;
    let client = hook.client_config();
    stage
        .fixture
        .ask_before_creation("configmaps", client)
        .await;
    let alike = || one_of_the_crowd("quiet");
    let other = || User::new("other", &["system:authenticated"]);
    while hook.asked().is_empty() {
        write(&stage.fixture, admin()).await;
    }

    let mut rounds: [Vec<Duration>; 3] = Default::default();
    for _ in 0..5 {
        rounds[0].push(slowest(&stage, alike, 10).await);
        let flood = Flood::of(&stage).await;
        rounds[1].push(slowest(&stage, alike, 10).await);
        rounds[2].push(slowest(&stage, other, 10).await);
        flood.end(&stage).await;
    }
    let [alone, same_level, another_level] = rounds.map(|mut round| {
        round.sort();
        round[round.len() / 2]
    });

    // The same flood where nobody is told from anybody: whoever comes waits for all of it.
    let in_line = json!({"queues": 1, "handSize": 1, "queueLengthLimit": 100});
    let in_line = json!({"spec": {"limited": {"limitResponse": {"queuing": in_line}}}});
    let path = format!("{GROUP}/prioritylevelconfigurations/crowd");
    let patched = stage
        .fixture
        .patch(&path, "merge-patch+json", in_line)
        .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let in_turns = |took: Duration| took.div_duration_f64(alone);
    let is_flooded = |took: Duration| in_turns(took) > N_FLOOD as f64 / 4.0;
    let mut unprotected = Duration::ZERO;
    // The level is another from some moment on, which may be within a flood.
    for _ in 0..10 {
        let flood = Flood::of(&stage).await;
        // It may be refused at last, having waited for as long as it may.
        let (took, _) = write(&stage.fixture, alike()).await;
        flood.end(&stage).await;
        unprotected = unprotected.max(took);
        if is_flooded(unprotected) {
            break;
        }
    }
    println!(
        "alone {alone:?}, at the level of the flood {same_level:?}, at another {another_level:?}, in line {unprotected:?}"
    );

    assert!(is_flooded(unprotected), "no flood");
    // One of the flood has the seat, and each of its two queues may be a turn ahead.
    assert!(in_turns(same_level) < 5.0, "{same_level:?} at its level");
    // Its seats are its own, whoever fills those of others.
    assert!(
        in_turns(another_level) < 2.5,
        "{another_level:?} at another"
    );
}

/// Has seats shared anew until it is so: a change of a level does what is done every ten seconds, too.
async fn shared_anew(stage: &Stage, is_so: impl AsyncFn() -> bool) {
    let path = format!("{GROUP}/prioritylevelconfigurations/borrower");
    let mut n = 0;
    let sharing = async {
        while !is_so().await {
            n += 1;
            let label = json!({"metadata": {"labels": {"n": n.to_string()}}});
            let told = stage.fixture.patch(&path, "merge-patch+json", label).await;
            assert_eq!(told.code, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shared = tokio::time::timeout(WAIT_MAX, sharing).await;
    shared.expect("seats are shared as they are wanted");
}

#[tokio::test]
async fn a_level_lends_the_seats_that_it_does_not_use_and_gets_them_back() {
    const N_BORROWING: usize = 25;
    let mut stage = Stage::with(few_seats()).await;
    // As much as all levels that every cluster has together.
    let mut lender = level_of(245, "lender", queues(50));
    lender["spec"]["limited"]["lendablePercent"] = 90.into();
    stage.make(lender).await;
    let mut borrower = level("borrower", queues(50));
    borrower["spec"]["limited"]["borrowingLimitPercent"] = Value::Null;
    stage.make(borrower).await;
    let of = async |name: &str, level: &str| stage.metric(name, &of_level(level)).await;
    let nominal = of("nominal_limit_seats", "lender").await;
    let kept = of("lower_limit_seats", "lender").await;
    assert_eq!((nominal, kept), (20.0, 2.0));
    assert_eq!(of("nominal_limit_seats", "borrower").await, 1.0);
    assert!(of("upper_limit_seats", "borrower").await > N_BORROWING as f64);

    let user = |level: &str| one_of(level, "somebody");
    let mut writes = Vec::new();
    for index in 0..N_BORROWING {
        writes.push(stage.write(user("borrower"), &format!("borrowing-{index}")));
    }
    let executing = async |level: &str| {
        stage
            .metric("current_executing_seats", &of_schema(level))
            .await
    };
    shared_anew(&stage, async || {
        executing("borrower").await == N_BORROWING as f64
    })
    .await;
    assert!(of("current_limit_seats", "borrower").await >= N_BORROWING as f64);
    assert!(of("demand_seats_high_watermark", "borrower").await >= N_BORROWING as f64);
    assert!(of("target_seats", "borrower").await > 1.0);
    assert!(of("current_limit_seats", "lender").await < nominal);

    // Its owner wants all of them, and has them although nobody else has ended.
    for index in 0..nominal as usize {
        writes.push(stage.write(user("lender"), &format!("lending-{index}")));
    }
    shared_anew(&stage, async || executing("lender").await == nominal).await;
    assert_eq!(of("current_limit_seats", "lender").await, nominal);
    assert_eq!(executing("borrower").await, N_BORROWING as f64);
    let left = of("current_limit_seats", "borrower").await;
    assert!(left < N_BORROWING as f64, "{left}");
    // Whoever borrowed more than is left gets no more.
    writes.push(stage.write(user("borrower"), "one-more"));
    let waiting = async || {
        stage
            .metric("current_inqueue_seats", &of_schema("borrower"))
            .await
            == 1.0
    };
    shared_anew(&stage, waiting).await;

    stage.hook = None;
    for write in writes {
        assert_eq!(write.await.expect("it ends").code, 201);
    }
}

#[tokio::test]
async fn what_reads_much_takes_several_seats() {
    const N_SEATS: f64 = 20.0;
    // What one request may have of so many.
    const WIDE: f64 = 3.0;
    let mut stage = Stage::with(few_seats()).await;
    for index in 0..10 {
        let data = json!({"a": "x".repeat(100_000)});
        let object = json!({"metadata": {"name": format!("large-{index}")}, "stringData": data});
        assert_eq!(stage.fixture.create(SECRETS, object).await.code, 201);
    }
    stage.make(level_of(245, "crowd", queues(50))).await;
    let schema = of_schema("crowd");
    let of = async |name: &str| stage.metric(name, &schema).await;
    assert_eq!(
        stage
            .metric("current_limit_seats", &of_level("crowd"))
            .await,
        N_SEATS
    );

    // A list keeps its seats until its client has taken it.
    let before = of("work_estimated_seats_sum").await;
    let list = Request::get(SECRETS).body(kube::client::Body::empty());
    let local = stage.fixture.server.local(one_of_the_crowd("reader"));
    let list = local.oneshot(list.expect("a request")).await;
    let list = list.expect("never fails");
    assert_eq!(list.status(), 200);
    assert_eq!(of("current_executing_requests").await, 1.0);
    assert_eq!(of("current_executing_seats").await, WIDE);
    assert_eq!(of("work_estimated_seats_sum").await - before, WIDE);
    let bytes = list.into_body().collect().await.expect("a list");
    assert!(bytes.to_bytes().len() > 1_000_000);
    stage.wait_for(0, 0).await;

    // Where fewer seats are free it waits, and so does a watch that begins with what there is; one that goes on from
    // somewhere takes one seat.
    let mut writes = Vec::new();
    for index in 0..18 {
        writes.push(stage.write(one_of_the_crowd("writer"), &format!("write-{index}")));
    }
    stage.wait_for(0, 18).await;
    let current = stage.fixture.get(&format!("{SECRETS}?limit=1")).await;
    let revision = current.body["metadata"]["resourceVersion"].as_str();
    let revision = revision.expect("a version").to_owned();
    let going_on = format!("{SECRETS}?watch=1&timeoutSeconds=1&resourceVersion={revision}");
    let going_on = stage.read(one_of_the_crowd("follower"), &going_on).await;
    assert_eq!(going_on.code, 200);
    let before = of("work_estimated_seats_sum").await;
    let mut wide = JoinSet::new();
    for (index, path) in [
        SECRETS.to_owned(),
        format!("{SECRETS}?watch=1&timeoutSeconds=1"),
    ]
    .into_iter()
    .enumerate()
    {
        let fixture = stage.fixture.clone();
        let user = one_of_the_crowd(&format!("reader-{index}"));
        wide.spawn(async move {
            fixture
                .ask_as(user, "GET", &path, "application/json", Value::Null)
                .await
                .code
        });
    }
    stage.wait_for(2, 18).await;
    assert_eq!(of("current_inqueue_seats").await, 2.0 * WIDE);
    assert_eq!(of("work_estimated_seats_sum").await - before, 2.0 * WIDE);
    assert!(of("request_dispatch_no_accommodation_total").await >= 1.0);
    stage.hook = None;
    assert_eq!(wide.join_all().await, [200, 200]);
    for write in writes {
        assert_eq!(write.await.expect("it ends").code, 201);
    }
    // A watch has given its seats back when it has begun.
    let began = "flow_schema=\"crowd\",priority_level=\"crowd\",type=\"watch\"";
    assert_eq!(
        stage.metric("request_execution_seconds_count", began).await,
        2.0
    );
    stage.wait_for(0, 0).await;
}

#[tokio::test]
async fn a_write_that_many_are_told_of_takes_seats_for_them() {
    let stage = Stage::without_hook().await;
    stage.make(level_of(245, "crowd", queues(50))).await;
    let mut watches = Vec::new();
    for _ in 0..25 {
        let path = format!("{CMS}?watch=1&resourceVersion=0");
        watches.push(Lines::open(&stage.fixture, &path).await);
    }
    let schema = of_schema("crowd");
    let of = async |name: &str| stage.metric(name, &schema).await;
    let before = of("work_estimated_seats_sum").await;
    let written = stage.write(one_of_the_crowd("writer"), "a").await;
    assert_eq!(written.expect("it ends").code, 201);
    // A seat for ten of them each.
    assert_eq!(of("work_estimated_seats_sum").await - before, 3.0);
    assert_eq!(of("watch_count_samples_sum").await, 25.0);
    stage.wait_for(0, 0).await;
}
