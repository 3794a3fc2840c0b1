//! What is too large or too much is refused, and others are not affected.

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_body_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let json = ("content-type", "application/json".to_owned());
    let body = Bytes::from(vec![b' '; corral_server::chain::BODY_BYTES_MAX + 1]);
    let answer = send(&mut connection, "POST", CMS, &[json], body).await;
    assert_eq!(answer.status(), 413);
    let status: Value = serde_json::from_slice(
        &answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
    )
    .expect("a Status");
    assert_eq!(status["reason"], "RequestEntityTooLarge");
    assert_eq!(fixture.config_map("other", "1").await.code, 201);
}

#[tokio::test]
async fn a_url_and_headers_over_the_bound_are_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let long = format!(
        "{CMS}?labelSelector={}",
        "a".repeat(corral_server::request::URL_LENGTH_MAX)
    );
    assert_eq!(
        send(&mut connection, "GET", &long, &[], Bytes::new())
            .await
            .status(),
        414
    );

    let mut connection = fixture.connect().await;
    let large = (
        "x-large",
        "a".repeat(corral_server::serve::HEADER_BYTES_MAX),
    );
    assert_eq!(
        send(&mut connection, "GET", CMS, &[large], Bytes::new())
            .await
            .status(),
        431
    );
    assert_eq!(fixture.get(CMS).await.code, 200);
}

#[tokio::test]
async fn an_object_over_the_stores_bound_is_refused() {
    let fixture = Fixture::start().await;
    let value = "x".repeat(corral_storage::VALUE_BYTES_MAX);
    let refused = fixture
        .create(
            "/api/v1/namespaces",
            serde_json::json!({"metadata": {"name": "n", "annotations": {"a": value}}}),
        )
        .await;
    assert!(
        matches!(refused.code, 413 | 422),
        "{}",
        refused.body["message"]
    );
}

#[tokio::test]
async fn nesting_over_the_bound_is_refused() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let json = ("content-type", "application/json".to_owned());
    let answer = send(&mut connection, "POST", CMS, &[json], "[".repeat(100_000)).await;
    assert_eq!(answer.status(), 400);
}
