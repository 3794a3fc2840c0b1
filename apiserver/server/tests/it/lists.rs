//! Lists: pages, versions, selectors, representations.

use serde_json::json;

use crate::fixture::Fixture;

const CMS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &serde_json::Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

#[tokio::test]
async fn pages_come_from_one_moment() {
    let fixture = Fixture::start().await;
    for name in ["a", "b", "c", "d"] {
        fixture.config_map(name, "1").await;
    }
    let first = fixture.get(&format!("{CMS}?limit=2")).await.body;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    fixture.config_map("bb", "1").await;
    fixture.ask("DELETE", &format!("{CMS}/d"), json!({})).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = fixture
        .get(&format!("{CMS}?limit=2&continue={token}"))
        .await
        .body;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(second["metadata"].get("continue"), None);
    let short = fixture
        .get(&format!("{CMS}?limit=1&continue={token}"))
        .await
        .body;
    assert_eq!(names(&short), ["c"]);
    assert_eq!(short["metadata"]["remainingItemCount"], 1);
    assert_eq!(
        fixture.get(&format!("{CMS}?continue=nonsense")).await.code,
        400
    );
}

#[tokio::test]
async fn versions_are_matched_as_asked() {
    let fixture = Fixture::start().await;
    let old = fixture.config_map("a", "1").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let new = fixture.config_map("b", "1").await.body["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let exact = fixture
        .get(&format!(
            "{CMS}?resourceVersion={old}&resourceVersionMatch=Exact"
        ))
        .await
        .body;
    assert_eq!(names(&exact), ["a"]);
    let newer = fixture
        .get(&format!(
            "{CMS}?resourceVersion={new}&resourceVersionMatch=NotOlderThan"
        ))
        .await
        .body;
    assert_eq!(names(&newer), ["a", "b"]);
    let alone = fixture
        .get(&format!("{CMS}?resourceVersionMatch=Exact"))
        .await;
    assert_eq!(
        (alone.code, alone.body["reason"].as_str()),
        (422, Some("Invalid"))
    );
}

#[tokio::test]
async fn selectors_select() {
    let fixture = Fixture::start().await;
    for (name, tier) in [("a", "front"), ("b", "back")] {
        let object = json!({"metadata": {"name": name, "labels": {"tier": tier}}});
        fixture.create(CMS, object).await;
    }
    assert_eq!(
        names(
            &fixture
                .get(&format!("{CMS}?labelSelector=tier%3Dfront"))
                .await
                .body
        ),
        ["a"]
    );
    assert_eq!(
        names(
            &fixture
                .get(&format!("{CMS}?labelSelector=tier+notin+(front)"))
                .await
                .body
        ),
        ["b"]
    );
    assert_eq!(
        names(
            &fixture
                .get(&format!("{CMS}?fieldSelector=metadata.name%3Db"))
                .await
                .body
        ),
        ["b"]
    );
    let unknown = fixture
        .get(&format!("{CMS}?fieldSelector=spec.x%3Db"))
        .await;
    assert_eq!(
        (unknown.code, unknown.body["message"].as_str()),
        (
            400,
            Some(
                "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        )
    );
}
