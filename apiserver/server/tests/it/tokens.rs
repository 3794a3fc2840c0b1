//! Tokens of ServiceAccounts: how they are asked for, what they are good for, and by whose keys.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use corral_server::authn::AuthnConfig;
use corral_server::given::Given;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, Setup};

/// How long something may take that is about to happen.
const WAIT_MAX: Duration = Duration::from_secs(30);
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const OWN: &str = "https://kubernetes.default.svc.cluster.local";

/// A server with the account `robot`, whose uid is told.
async fn start(setup: Setup) -> (Fixture, String) {
    let fixture = Fixture::start_with(setup).await;
    let uid = make_account(&fixture, "robot").await;
    (fixture, uid)
}

async fn make_account(fixture: &Fixture, name: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let made = fixture.create(ACCOUNTS, account).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned()
}

async fn request(fixture: &Fixture, body: Value) -> Answer {
    fixture
        .create(&format!("{ACCOUNTS}/robot/token"), body)
        .await
}

async fn token(fixture: &Fixture, spec: Value) -> String {
    let made = request(fixture, json!({"spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.body["status"]["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

async fn review(fixture: &Fixture, token: &str, audiences: Value) -> Value {
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": token, "audiences": audiences}});
    fixture.create(path, review).await.body["status"].take()
}

/// A part of a token that is JSON.
fn part(token: &str, index: usize) -> Value {
    let text = token.split('.').nth(index).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn reviews_are_about_the_audiences_that_are_asked_about() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens.csv");
    std::fs::write(&file, "abc,jane,7\n").expect("written");
    let authn = AuthnConfig {
        token_file: Some(file),
        ..Default::default()
    };
    let (fixture, _) = start(Setup {
        authn,
        ..Default::default()
    })
    .await;
    // A token of a file is for the API, and for nobody else.
    let jane = review(&fixture, "abc", json!(["foo", OWN])).await;
    assert_eq!(
        (&jane["authenticated"], &jane["audiences"]),
        (&json!(true), &json!([OWN]))
    );
    assert_eq!(
        review(&fixture, "abc", json!([])).await["audiences"],
        json!([OWN])
    );
    let refused = json!({"user": {}, "error": "invalid bearer token"});
    assert_eq!(review(&fixture, "abc", json!(["foo"])).await, refused);
    assert_eq!(review(&fixture, "a.b.c", json!([])).await, refused);
    let some = token(&fixture, json!({"audiences": ["a", "b", "c"]})).await;
    let known = review(&fixture, &some, json!(["c", "x", "a"])).await;
    assert_eq!(known["audiences"], json!(["c", "a"]));
    let why = |targets: &str| {
        format!(
            "[invalid bearer token, token audiences [\"a\" \"b\" \"c\"] is invalid for the target audiences [{targets}]]"
        )
    };
    let told = review(&fixture, &some, json!(["x", "y"])).await;
    assert_eq!(told["error"], why("\"x\" \"y\""));
    let told = review(&fixture, &some, json!([])).await;
    assert_eq!(told["error"], why(&format!("{OWN:?}")));
    let end = &some[some.len() - 4..];
    let other = if end == "AAAA" { "BBBB" } else { "AAAA" };
    let forged = format!("{}{other}", &some[..some.len() - 4]);
    let told = review(&fixture, &forged, json!([])).await;
    assert_eq!(
        told["error"],
        "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]"
    );
}

#[tokio::test]
async fn a_request_for_a_token_is_what_it_says_it_is() {
    let (fixture, uid) = start(Setup::default()).await;
    for (body, code, why) in [
        (
            json!({"metadata": {"name": "other"}}),
            422,
            "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \"other\": must \
             match the service account name if specified",
        ),
        (
            json!({"metadata": {"namespace": "other"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1"}),
            400,
            "Pod in version \"v1\" cannot be handled as a TokenRequest: converting (v1.Pod) to \
             (authentication.TokenRequest): unknown conversion",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1"}}}),
            400,
            "Name parameter required.",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Deployment", "apiVersion": "apps/v1", "name": "x"}}}),
            400,
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            json!({"spec": {"boundObjectRef": {"kind": "Deployment", "apiVersion": "a/b/c", "name": "x"}}}),
            400,
            "cannot bind token to object of type /, Kind=Deployment",
        ),
        (
            json!({"spec": {"expirationSeconds": 1}}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 1: may not \
             specify a duration less than 10 minutes",
        ),
    ] {
        let refused = request(&fixture, body).await;
        assert_eq!(refused.code, code, "{}", refused.body);
        assert_eq!(refused.body["message"], why);
    }
    let refused = request(&fixture, json!({"metadata": {"uid": "x"}})).await;
    let why = format!(
        "Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"robot\": the UID in the token request (x) \
         does not match the UID of the service account ({uid})"
    );
    assert_eq!((refused.code, &refused.body["message"]), (409, &json!(why)));
    let strict = format!("{ACCOUNTS}/robot/token?fieldValidation=Strict");
    let refused = fixture.create(&strict, json!({"spec": {"foo": 1}})).await;
    assert_eq!(
        refused.body["message"],
        "TokenRequest in version \"v1\" cannot be handled as a TokenRequest: strict decoding error: unknown field \
         \"spec.foo\""
    );
    let nowhere = ACCOUNTS.replace("default", "none");
    let refused = fixture
        .create(&format!("{nowhere}/robot/token"), json!({}))
        .await;
    assert_eq!(refused.body["message"], "namespaces \"none\" not found");
}

#[tokio::test]
async fn an_answer_with_a_token_tells_what_was_asked_for() {
    let (fixture, uid) = start(Setup::default()).await;
    let mut made = request(&fixture, json!({"metadata": {"annotations": {"a": "b"}}}))
        .await
        .body;
    let ends = made["status"]["expirationTimestamp"].take();
    let ends: jiff::Timestamp = ends.as_str().expect("a time").parse().expect("a time");
    let token = made["status"]["token"].take();
    let token = token.as_str().expect("a token");
    assert_eq!(part(token, 1)["exp"], ends.as_second());
    assert_eq!(part(token, 0).get("typ"), None);
    for time in [
        "/metadata/creationTimestamp",
        "/metadata/managedFields/0/time",
    ] {
        made.pointer_mut(time).expect("a time").take();
    }
    let fields = json!({"f:metadata": {"f:annotations": {".": {}, "f:a": {}}}, "f:spec": {"f:expirationSeconds": {}}});
    assert_eq!(
        made,
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {
                "name": "robot", "namespace": "default", "uid": uid, "creationTimestamp": null,
                "annotations": {"a": "b"},
                "managedFields": [{
                    "manager": "test", "operation": "Update", "apiVersion": "authentication.k8s.io/v1",
                    "time": null, "fieldsType": "FieldsV1", "fieldsV1": fields, "subresource": "token",
                }],
            },
            "spec": {"audiences": [OWN], "expirationSeconds": 3600, "boundObjectRef": null},
            "status": {"token": null, "expirationTimestamp": null},
        })
    );
}

#[tokio::test]
async fn tokens_that_pods_get_are_good_for_longer_than_is_told() {
    const YEAR: i64 = 365 * 24 * 60 * 60;
    for extend_expiration in [true, false] {
        let given = Given {
            extend_expiration,
            ..Default::default()
        };
        let (fixture, _) = start(Setup {
            given,
            ..Default::default()
        })
        .await;
        let containers = json!([{"name": "a", "image": "b"}]);
        let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot", "containers": containers}});
        let made = fixture.create("/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p"});
        for (spec, lasts) in [
            (
                json!({"expirationSeconds": 3607, "boundObjectRef": bound}),
                extend_expiration,
            ),
            (
                json!({"expirationSeconds": 3608, "boundObjectRef": bound}),
                false,
            ),
            (json!({"expirationSeconds": 3607}), false),
            (
                json!({"expirationSeconds": 3607, "boundObjectRef": bound, "audiences": ["x"]}),
                false,
            ),
        ] {
            let made = request(&fixture, json!({"spec": spec})).await.body;
            let told = made["status"]["expirationTimestamp"]
                .as_str()
                .expect("a time");
            let told = told.parse::<jiff::Timestamp>().expect("a time").as_second();
            let claims = part(made["status"]["token"].as_str().expect("a token"), 1);
            let ends = claims["exp"].as_i64().expect("a time");
            let begins = claims["iat"].as_i64().expect("a time");
            assert_eq!(
                told - begins,
                spec["expirationSeconds"].as_i64().expect("a number")
            );
            assert_eq!(ends == begins + YEAR, lasts, "{spec}");
            let warns = &claims["kubernetes.io"]["warnafter"];
            assert_eq!(*warns, if lasts { json!(told) } else { Value::Null });
        }
    }
}

#[tokio::test]
async fn who_asks_for_a_bound_token_owns_what_it_says_of_the_object() {
    let (fixture, _) = start(Setup::default()).await;
    let secret = json!({"metadata": {"name": "s"}});
    assert_eq!(fixture.create(SECRETS, secret).await.code, 201);
    let bound = json!({"kind": "Secret", "apiVersion": "v1", "name": "s"});
    let made = request(&fixture, json!({"spec": {"boundObjectRef": bound}})).await;
    assert_eq!(made.body["spec"]["boundObjectRef"], bound);
    let owned = json!({"f:kind": {}, "f:apiVersion": {}, "f:name": {}});
    assert_eq!(
        made.body["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:boundObjectRef": owned, "f:expirationSeconds": {}}})
    );
}

/// Writes a key into a file, and answers the path.
fn keep(folder: &tempfile::TempDir, name: &str, pem: String) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, pem).expect("written");
    path
}

fn rsa() -> KeyPair {
    KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key")
}

fn by_rsa(key: &KeyPair) -> EncodingKey {
    EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).expect("a key")
}

fn given(signing: &Path, checking: &[&Path]) -> Given {
    Given {
        signing_key: Some(signing.to_owned()),
        checking_keys: checking.iter().map(|path| (*path).to_owned()).collect(),
        issuers: vec![
            "https://first.example.com".into(),
            "https://second.example.com".into(),
        ],
        ..Default::default()
    }
}

#[tokio::test]
async fn tokens_are_signed_by_one_key_and_checked_by_all_in_the_name_of_any_issuer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (own, old) = (rsa(), rsa());
    let curve = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let signing = keep(&folder, "own.key", own.serialize_pem());
    // Several in a file, public and private.
    let others = keep(
        &folder,
        "others.pem",
        old.public_key_pem() + &curve.serialize_pem(),
    );
    let (fixture, uid) = start(Setup {
        given: given(&signing, &[&others]),
        ..Default::default()
    })
    .await;
    let made = token(&fixture, json!({})).await;
    let claims = part(&made, 1);
    let all = json!(["https://first.example.com", "https://second.example.com"]);
    assert_eq!((&claims["iss"], &claims["aud"]), (&all[0], &all));
    assert_eq!(part(&made, 0)["alg"], "RS256");
    assert_eq!(
        review(&fixture, &made, json!([])).await["authenticated"],
        true
    );
    let sign = |algorithm, key: &EncodingKey, issuer: &str| {
        let mut claims = claims.clone();
        claims["iss"] = issuer.into();
        jsonwebtoken::encode(&Header::new(algorithm), &claims, key).expect("a token")
    };
    let by_curve = EncodingKey::from_ec_pem(curve.serialize_pem().as_bytes()).expect("a key");
    for (algorithm, key) in [
        (Algorithm::RS256, &by_rsa(&old)),
        (Algorithm::ES384, &by_curve),
    ] {
        let other = sign(algorithm, key, "https://second.example.com");
        let known = review(&fixture, &other, json!([])).await;
        assert_eq!(known["user"]["uid"], uid, "{known}");
        let stranger = sign(algorithm, key, "https://third.example.com");
        let told = review(&fixture, &stranger, json!([])).await;
        assert_eq!(told["error"], "invalid bearer token");
    }
    let forged = sign(
        Algorithm::RS256,
        &by_rsa(&rsa()),
        "https://first.example.com",
    );
    assert!(review(&fixture, &forged, json!([])).await["error"].is_string());
    let keys = fixture.get("/openid/v1/jwks").await.body["keys"].take();
    let told: Vec<_> = keys
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| &key["alg"])
        .collect();
    assert_eq!(told, ["RS256", "RS256", "ES384"]);
    assert_eq!(keys[0]["kid"], part(&made, 0)["kid"]);
    let configuration = fixture.get("/.well-known/openid-configuration").await.body;
    assert_eq!(
        configuration["id_token_signing_alg_values_supported"],
        json!(["ES384", "RS256"])
    );
    assert_eq!(configuration["issuer"], "https://first.example.com");
}

#[tokio::test]
async fn a_key_that_signs_no_tokens_is_refused_at_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = keep(&folder, "good.key", rsa().serialize_pem());
    let public = keep(&folder, "public.pem", rsa().public_key_pem());
    let nothing = keep(&folder, "nothing.pem", String::new());
    for given in [
        given(&public, &[]),
        given(&good, &[&nothing]),
        given(&folder.path().join("none"), &[]),
    ] {
        let setup = Setup {
            given,
            ..Default::default()
        };
        let error = Fixture::try_start(setup)
            .await
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains(&*folder.path().to_string_lossy()), "{error}");
    }
}

/// A token as it was before tokens had an end, and the Secret that holds it.
struct Old {
    token: String,
    secret: Value,
}

fn old(key: &KeyPair, name: &str, uid: &str, change: Value) -> Old {
    let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
    let mut claims =
        json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:robot"});
    for (name, value) in [
        ("namespace", "default"),
        ("secret.name", name),
        ("service-account.name", "robot"),
        ("service-account.uid", uid),
    ] {
        claims[claim(name)] = value.into();
    }
    for (name, value) in change.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &by_rsa(key));
    let token = token.expect("a token");
    let annotations = json!({"kubernetes.io/service-account.name": "robot", "kubernetes.io/service-account.uid": uid});
    let secret = json!({"metadata": {"name": name, "annotations": annotations},
        "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(&token)}});
    Old { token, secret }
}

#[tokio::test]
async fn tokens_in_secrets_are_good_while_the_secret_is_there() {
    const USED: &str = "kubernetes.io/legacy-token-last-used";
    const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";
    let folder = tempfile::tempdir().expect("a folder");
    let key = rsa();
    let checking = keep(&folder, "sa.pub", key.public_key_pem());
    let given = Given {
        checking_keys: vec![checking],
        ..Default::default()
    };
    let (fixture, uid) = start(Setup {
        given,
        ..Default::default()
    })
    .await;
    let today = jiff::Timestamp::now().to_string()[..10].to_owned();
    let tracking = "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    assert_eq!(
        fixture.get(tracking).await.body["data"],
        json!({"since": today})
    );
    let put = async |old: &Old| {
        let made = fixture.create(SECRETS, old.secret.clone()).await;
        assert_eq!(made.code, 201, "{}", made.body);
    };
    let good = old(&key, "good", &uid, json!({}));
    let why = async |old: &Old| review(&fixture, &old.token, json!([])).await["error"].take();
    let told = |why: &str| json!(format!("[invalid bearer token, {why}]"));
    assert_eq!(why(&good).await, told("Token has been invalidated"));
    put(&good).await;
    let known = review(&fixture, &good.token, json!([])).await;
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ];
    let user =
        json!({"username": "system:serviceaccount:default:robot", "uid": uid, "groups": groups});
    assert_eq!(
        known,
        json!({"authenticated": true, "audiences": [OWN], "user": user})
    );
    let labels = async || {
        let mut secret = fixture.get(&format!("{SECRETS}/good")).await.body;
        secret["metadata"]["labels"].take()
    };
    assert_eq!(labels().await, json!({USED: today}));
    for (name, change, expected) in [
        (
            "uid",
            json!({"kubernetes.io/serviceaccount/service-account.uid": "x"}),
            format!("ServiceAccount UID ({uid}) does not match claim (x)"),
        ),
        (
            "sub",
            json!({"sub": "system:serviceaccount:default:other"}),
            "sub claim is invalid".to_owned(),
        ),
        (
            "secret",
            json!({"kubernetes.io/serviceaccount/secret.name": ""}),
            "secretName claim is missing".to_owned(),
        ),
        (
            "copy",
            json!({"kubernetes.io/serviceaccount/secret.name": "good", "jti": "another"}),
            "Token does not match server's copy".to_owned(),
        ),
    ] {
        let bad = old(&key, name, &uid, change);
        put(&bad).await;
        let found = why(&bad).await;
        assert!(
            found
                .as_str()
                .is_some_and(|found| found.contains(&expected)),
            "{name}: {found}"
        );
    }
    let stranger = old(&rsa(), "stranger", &uid, json!({}));
    put(&stranger).await;
    let expected = told("go-jose/go-jose: error in cryptographic primitive");
    assert_eq!(why(&stranger).await, expected);
    // Who cleans up puts tokens out of use before it removes them.
    let path = format!("{SECRETS}/good");
    let mark = async |value: Value| {
        let labels = json!({"metadata": {"labels": {INVALID: value}}});
        let marked = fixture.patch(&path, "merge-patch+json", labels).await;
        assert_eq!(marked.code, 200, "{}", marked.body);
    };
    let becomes = async |is_good: bool| {
        let changes = tokio::time::timeout(WAIT_MAX, async {
            // The cache that is asked hears of it a moment later.
            while why(&good).await.is_null() != is_good {
                tokio::task::yield_now().await;
            }
        });
        changes.await.expect("it changes");
    };
    mark(json!("2024-01-01")).await;
    becomes(false).await;
    let found = why(&good).await;
    let expected = "the token in secret default/good for service account default/robot has been marked invalid";
    assert!(
        found.as_str().is_some_and(|found| found.contains(expected)),
        "{found}"
    );
    mark(Value::Null).await;
    becomes(true).await;
    assert_eq!(fixture.ask("DELETE", &path, json!({})).await.code, 200);
    becomes(false).await;
    assert_eq!(why(&good).await, told("Token has been invalidated"));
}

#[tokio::test]
async fn tokens_in_secrets_die_with_their_account() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = rsa();
    let checking = keep(&folder, "sa.pub", key.public_key_pem());
    let given = Given {
        checking_keys: vec![checking],
        ..Default::default()
    };
    let (fixture, uid) = start(Setup {
        given,
        ..Default::default()
    })
    .await;
    let good = old(&key, "good", &uid, json!({}));
    assert_eq!(fixture.create(SECRETS, good.secret).await.code, 201);
    let why = async || review(&fixture, &good.token, json!([])).await["error"].take();
    assert_eq!(why().await, Value::Null);
    let account = format!("{ACCOUNTS}/robot");
    assert_eq!(fixture.ask("DELETE", &account, json!({})).await.code, 200);
    let becomes = async |why_not: String| {
        let expected = json!(format!("[invalid bearer token, {why_not}]"));
        let changes = tokio::time::timeout(WAIT_MAX, async {
            while why().await != expected {
                tokio::task::yield_now().await;
            }
        });
        changes.await.expect("it is told");
    };
    becomes("serviceaccounts \"robot\" not found".to_owned()).await;
    let next = make_account(&fixture, "robot").await;
    becomes(format!(
        "ServiceAccount UID ({next}) does not match claim ({uid})"
    ))
    .await;
}
