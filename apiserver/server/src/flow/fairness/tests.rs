use http::Method;
use serde_json::{Value, json};

use super::*;

fn fairness(seats: usize) -> Arc<Fairness> {
    Fairness::new(seats, &prometheus::Registry::new()).expect("new names")
}

fn object<S: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Object<S> {
    Object {
        name: name.to_owned(),
        uid: format!("uid of {name}"),
        spec: serde_json::from_value(spec).expect("a spec"),
    }
}

/// A level with some shares, whose requests wait in one queue for each flow.
fn level(name: &str, shares: i32, length: i32) -> Object<PriorityLevelConfigurationSpec> {
    let queuing = json!({"queues": 8, "handSize": 1, "queueLengthLimit": length});
    let response = json!({"type": "Queue", "queuing": queuing});
    let limited = json!({"nominalConcurrencyShares": shares, "limitResponse": response});
    object(name, json!({"type": "Limited", "limited": limited}))
}

fn schema(name: &str, level: &str, precedence: i32, user: &str) -> Object<FlowSchemaSpec> {
    let resources = json!({
        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
    });
    let subject = json!({"kind": "User", "user": {"name": user}});
    object(
        name,
        json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [subject], "resourceRules": [resources]}],
        }),
    )
}

fn asked(uri: &str) -> Arc<RequestInfo> {
    let uri = uri.parse().expect("a URI");
    Arc::new(RequestInfo::new(&Method::GET, &uri).expect("a request"))
}

fn user(name: &str) -> Arc<User> {
    Arc::new(User::new(name, &[]))
}

async fn seat(fairness: &Arc<Fairness>, name: &str) -> Result<Seat, Refused> {
    let (user, info) = (user(name), asked("/api/v1/namespaces/a/configmaps/x"));
    let schema = fairness.classify(&user, &info);
    let wait = Duration::from_secs(15);
    fairness.seat(&schema, &user, &info, Work::ONE, wait).await
}

#[tokio::test]
async fn the_first_schema_in_order_decides_and_dangling_ones_do_not() {
    let fairness = fairness(10);
    fairness.configure(
        vec![level("one", 1, 1), level("two", 1, 1)],
        vec![
            schema("late", "one", 500, "ann"),
            schema("b", "two", 400, "ann"),
            schema("a", "one", 400, "ann"),
            schema("dangling", "three", 100, "ann"),
        ],
    );
    let info = asked("/api/v1/pods");
    let found = fairness.classify(&user("ann"), &info);
    assert_eq!(
        (found.name.as_str(), found.level.name.as_str()),
        ("a", "one")
    );
    assert_eq!(found.uid, "uid of a");
    assert_eq!(found.level_uid, "uid of one");
    let other = fairness.classify(&user("eve"), &info);
    assert_eq!(other.name, CATCH_ALL);
    let master = Arc::new(User::new("root", &["system:masters"]));
    assert_eq!(fairness.classify(&master, &info).level.name, EXEMPT);
}

#[tokio::test]
async fn nobody_is_left_without_a_level_when_objects_are_broken() {
    let fairness = fairness(10);
    let broken = json!({"type": "Limited"});
    let exempt = json!({"type": "Exempt", "exempt": {}});
    fairness.configure(
        vec![object(CATCH_ALL, broken), object("mine", exempt)],
        vec![schema("mine", "mine", 100, "ann")],
    );
    let found = fairness.classify(&user("ann"), &asked("/api/v1/pods"));
    assert_eq!(found.name, CATCH_ALL);
    assert!(seat(&fairness, "ann").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_leaves_the_queue() {
    let fairness = fairness(2);
    fairness.configure(
        vec![level("one", 1000, 5)],
        vec![schema("one", "one", 100, "ann")],
    );
    let n_seats = fairness.levels()["one"].current;
    let mut held = Vec::new();
    for _ in 0..n_seats {
        held.push(seat(&fairness, "ann").await.expect("a seat"));
    }
    assert_eq!(
        seat(&fairness, "ann").await.err(),
        Some(Refused { after: 1 })
    );
    let level = fairness.levels()["one"].level.clone();
    assert_eq!(level.lock().n_waiting(), 0);
    assert_eq!(level.lock().counts().cancelled, 1);
    drop(held);
    assert!(level.lock().is_idle());
}

#[tokio::test]
async fn who_gives_up_leaves_the_queue_and_who_is_next_gets_the_seat() {
    let fairness = fairness(2);
    fairness.configure(
        vec![level("one", 1000, 5)],
        vec![schema("one", "one", 100, "ann")],
    );
    let level = fairness.levels()["one"].level.clone();
    let mut held = Vec::new();
    let n_seats = level.lock().limit();
    for _ in 0..n_seats {
        held.push(seat(&fairness, "ann").await.expect("a seat"));
    }
    let mut first = Box::pin(seat(&fairness, "ann"));
    let mut second = Box::pin(seat(&fairness, "ann"));
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(futures::poll!(second.as_mut()).is_pending());
    assert_eq!(level.lock().n_waiting(), 2);
    drop(first);
    assert_eq!(level.lock().n_waiting(), 1);
    held.pop();
    let seat = second.await.expect("it is its turn");
    drop((seat, held));
    assert!(level.lock().is_idle());
}

#[tokio::test]
async fn one_that_gives_up_after_its_turn_came_gives_the_seat_back() {
    let fairness = fairness(2);
    fairness.configure(
        vec![level("one", 1000, 5)],
        vec![schema("one", "one", 100, "ann")],
    );
    let level = fairness.levels()["one"].level.clone();
    let mut held = Vec::new();
    let n_seats = level.lock().limit();
    for _ in 0..n_seats {
        held.push(seat(&fairness, "ann").await.expect("a seat"));
    }
    let mut waits = Box::pin(seat(&fairness, "ann"));
    assert!(futures::poll!(waits.as_mut()).is_pending());
    drop(held);
    assert_eq!(level.lock().n_served(), 1);
    drop(waits);
    assert!(level.lock().is_idle());
    assert_eq!(level.lock().seats_used(), 0);
}

#[tokio::test]
async fn a_level_without_an_object_goes_when_its_last_request_is_done() {
    let fairness = fairness(10);
    let schemas = || vec![schema("one", "one", 100, "ann")];
    fairness.configure(vec![level("one", 100, 5)], schemas());
    let held = seat(&fairness, "ann").await.expect("a seat");
    fairness.configure(Vec::new(), schemas());
    assert!(!fairness.levels()["one"].wanted);
    assert_eq!(
        fairness.classify(&user("ann"), &asked("/api/v1/pods")).name,
        CATCH_ALL
    );
    drop(held);
    fairness.rebalance();
    assert!(!fairness.levels().contains_key("one"));
}

#[tokio::test]
async fn a_busy_level_borrows_from_one_that_lends_and_gives_back() {
    let fairness = fairness(100);
    let mut lender = level("lender", 50, 5);
    if let Some(limited) = &mut lender.spec.limited {
        limited.lendable_percent = Some(80);
    }
    fairness.configure(
        vec![lender, level("borrower", 45, 50)],
        vec![
            schema("borrower", "borrower", 100, "ann"),
            schema("lender", "lender", 100, "eve"),
        ],
    );
    let current = |name: &str| fairness.levels()[name].current;
    let (nominal, mut held) = (fairness.levels()["borrower"].limits.nominal, Vec::new());
    assert_eq!(nominal, 45);
    for _ in 0..current("borrower") {
        held.push(seat(&fairness, "ann").await.expect("a seat"));
    }
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(seat(&fairness, "ann"))).collect();
    let mut n_waiting = 0;
    for waits in &mut waiting {
        n_waiting += usize::from(futures::poll!(waits.as_mut()).is_pending());
    }
    fairness.rebalance();
    fairness.rebalance();
    assert!(current("borrower") >= held.len() + n_waiting);
    assert!(current("lender") >= 10);
    // Those who waited have their turn without anybody's leaving.
    assert_eq!(n_waiting, 5);
    for waits in waiting {
        held.push(waits.await.expect("a seat"));
    }
    // What was lent comes back when its owner wants it.
    let mut owners = Vec::new();
    while owners.len() < current("lender") {
        owners.push(seat(&fairness, "eve").await.expect("a seat"));
    }
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(seat(&fairness, "eve"))).collect();
    for waits in &mut waiting {
        let _ = futures::poll!(waits.as_mut());
    }
    let before = current("lender");
    fairness.rebalance();
    fairness.rebalance();
    assert!(current("lender") > before);
}
