//! Who may do what, and who one is.

use corral_server::authn::User;
use serde_json::{Value, json};

use crate::fixture::{Fixture, config_map};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_role_gives_just_what_it_says() {
    let fixture = Fixture::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]});
    assert_eq!(
        fixture.create(&format!("{rbac}/roles"), role).await.code,
        201
    );
    let binding = json!({"metadata": {"name": "bob"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}]});
    assert_eq!(
        fixture
            .create(&format!("{rbac}/rolebindings"), binding)
            .await
            .code,
        201
    );
    fixture.config_map("a", "1").await;
    let bob = || User::new("bob", &[]);
    let path = format!("{CMS}/a");
    // Rights follow from caches; a consistent list waits until the cache has seen the binding.
    for kind in ["roles", "rolebindings"] {
        fixture.get(&format!("{rbac}/{kind}")).await;
    }
    let read = fixture
        .ask_as(bob(), "GET", &path, "application/json", Value::Null)
        .await;
    assert_eq!(read.code, 200);
    let write = fixture
        .ask_as(bob(), "POST", CMS, "application/json", config_map("b", "1"))
        .await;
    assert_eq!(
        (write.code, write.body["reason"].as_str()),
        (403, Some("Forbidden"))
    );
    let elsewhere = fixture
        .ask_as(
            bob(),
            "GET",
            "/api/v1/namespaces/kube-system/configmaps/a",
            "application/json",
            Value::Null,
        )
        .await;
    assert_eq!(elsewhere.code, 403);
}

#[tokio::test]
async fn nobody_reads_only_health_and_version() {
    let fixture = Fixture::start().await;
    let ask = |path: &'static str| {
        fixture.ask_as(
            User::anonymous(),
            "GET",
            path,
            "application/json",
            Value::Null,
        )
    };
    for (path, code) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/api/v1/namespaces", 403),
        ("/metrics", 403),
        ("/apis", 403),
    ] {
        assert_eq!(ask(path).await.code, code, "{path}");
    }
}

#[tokio::test]
async fn a_token_names_its_account_and_dies_with_it() {
    let fixture = Fixture::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let answer = fixture
        .create(&format!("{accounts}/robot/token"), request)
        .await;
    let token = answer.body["status"]["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let review = |token: &str| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let good = fixture.create(reviews, review(&token)).await.body;
    assert_eq!(
        good["status"]["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    let mut forged = token.clone();
    forged.replace_range(token.len() - 6.., "AAAAAA");
    assert_eq!(
        fixture.create(reviews, review(&forged)).await.body["status"].get("authenticated"),
        None
    );
    fixture
        .ask("DELETE", &format!("{accounts}/robot"), json!({}))
        .await;
    // The same name again is another account.
    fixture
        .create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    fixture.get(accounts).await;
    let dead = fixture.create(reviews, review(&token)).await.body;
    assert_eq!(dead["status"].get("authenticated"), None);
}

#[tokio::test]
async fn others_check_tokens_by_the_keys_that_the_issuer_publishes() {
    let fixture = Fixture::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    fixture
        .create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["vault"]}});
    let answer = fixture
        .create(&format!("{accounts}/robot/token"), request)
        .await;
    let token = answer.body["status"]["token"].as_str().expect("a token");

    let about = fixture.get("/.well-known/openid-configuration").await.body;
    let issuer = about["issuer"].as_str().expect("an issuer");
    let keys = about["jwks_uri"].as_str().expect("a place");
    let place = keys.strip_prefix(issuer).expect("at the issuer");
    let keys: jsonwebtoken::jwk::JwkSet =
        serde_json::from_value(fixture.get(place).await.body).expect("a set of keys");

    let header = jsonwebtoken::decode_header(token).expect("a token");
    let key = keys
        .find(&header.kid.expect("a named key"))
        .expect("published");
    let key = jsonwebtoken::DecodingKey::from_jwk(key).expect("a key");
    let mut validation = jsonwebtoken::Validation::new(header.alg);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&["vault"]);
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation);
    assert_eq!(
        claims.expect("signed by that key").claims["sub"],
        "system:serviceaccount:default:robot"
    );
}
