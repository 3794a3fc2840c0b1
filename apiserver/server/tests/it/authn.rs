//! Who is believed: tokens of a file, proxies, other issuers, a service, and nobody where paths are open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use corral_server::authn::request_header::RequestHeader;
use corral_server::authn::webhook::WebhookConfig;
use corral_server::authn::{AuthnConfig, Reload};
use corral_server::serving::Serving;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::fixture::{Fixture, Setup, body_of, send};
use crate::service::{Handler, Service, Signer};

/// How long something may take that is about to happen.
const WAIT_MAX: Duration = Duration::from_secs(30);
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn start(authn: AuthnConfig) -> Fixture {
    let setup = Setup {
        authn,
        ..Default::default()
    };
    Fixture::start_with(setup).await
}

async fn speak(
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
) -> http1::SendRequest<Full<Bytes>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

/// Whom the server takes a client for, or the code that it answers.
async fn who(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    headers: &[(&str, String)],
) -> Result<Value, u16> {
    let mut headers = headers.to_vec();
    headers.push(("content-type", "application/json".to_owned()));
    let answer = send(sender, "POST", WHOAMI, &headers, "{}").await;
    let code = answer.status().as_u16();
    let body = body_of(answer).await;
    match code {
        201 => {
            let mut review: Value = serde_json::from_slice(&body).expect("JSON");
            Ok(review["status"]["userInfo"].take())
        }
        code => Err(code),
    }
}

async fn who_has(fixture: &Fixture, token: &str) -> Result<Value, u16> {
    let mut sender = speak(fixture.connect_as(None).await).await;
    who(&mut sender, &[("authorization", format!("Bearer {token}"))]).await
}

#[tokio::test]
async fn a_token_of_the_file_names_its_user() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.csv");
    std::fs::write(&path, "abc,jane,7,\"devs,ops\"\n").expect("written");
    let fixture = start(AuthnConfig {
        token_file: Some(path.clone()),
        ..Default::default()
    })
    .await;
    assert_eq!(
        who_has(&fixture, "abc").await,
        Ok(
            json!({"username": "jane", "uid": "7", "groups": ["devs", "ops", "system:authenticated"]})
        )
    );
    assert_eq!(who_has(&fixture, "abd").await, Err(401));
    std::fs::write(&path, "abc,jane\n").expect("written");
    let authn = AuthnConfig {
        token_file: Some(path),
        ..Default::default()
    };
    let failed = Fixture::try_start(Setup {
        authn,
        ..Default::default()
    })
    .await;
    let error = failed.err().expect("refused").to_string();
    assert!(
        error.contains("at least 3 columns") && !error.contains("abc"),
        "{error}"
    );
}

#[tokio::test]
async fn a_browser_shows_its_token_among_the_protocols_of_a_websocket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.csv");
    std::fs::write(&path, "abc,jane,7,\"system:masters\"\n").expect("written");
    let fixture = start(AuthnConfig {
        token_file: Some(path),
        ..Default::default()
    })
    .await;
    let prefix = "base64url.bearer.authorization.k8s.io.";
    let (good, bad) = (format!("{prefix}YWJj"), format!("{prefix}YWJk"));
    let watch = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";
    for (protocols, code, agreed) in [
        (
            format!("{good}, base64.binary.k8s.io"),
            101,
            Some("base64.binary.k8s.io"),
        ),
        (format!("{bad}, base64.binary.k8s.io"), 401, None),
        // One that is spoken is needed besides, and one token is enough.
        (good.clone(), 401, None),
        (format!("{good}, {good}, base64.binary.k8s.io"), 401, None),
        ("base64.binary.k8s.io".to_owned(), 403, None),
    ] {
        let mut sender = speak(fixture.connect_as(None).await).await;
        let headers = [
            ("connection", "Upgrade".to_owned()),
            ("upgrade", "websocket".to_owned()),
            ("origin", "https://example.com".to_owned()),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
            ("sec-websocket-version", "13".to_owned()),
            ("sec-websocket-protocol", protocols.clone()),
        ];
        let answer = send(&mut sender, "GET", watch, &headers, Bytes::new()).await;
        assert_eq!(answer.status(), code, "{protocols}");
        let protocol = answer.headers().get("sec-websocket-protocol");
        assert_eq!(
            protocol.and_then(|p| p.to_str().ok()),
            agreed,
            "{protocols}"
        );
    }
}

#[tokio::test]
async fn a_proxy_names_users_if_it_is_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let signer = Signer::new("proxies");
    let path = folder.path().join("proxies.crt");
    std::fs::write(&path, signer.pem()).expect("written");
    let header = RequestHeader {
        allowed_names: vec!["front".into()],
        username_headers: vec!["X-Remote-User".into()],
        uid_headers: vec!["X-Remote-Uid".into()],
        group_headers: vec!["X-Remote-Group".into()],
        extra_header_prefixes: vec!["X-Remote-Extra-".into()],
    };
    let fixture = start(AuthnConfig {
        request_header: Some((path, header)),
        ..Default::default()
    })
    .await;
    let named = [
        ("x-remote-user", "jane".to_owned()),
        ("x-remote-uid", "7".to_owned()),
        ("x-remote-group", "devs".to_owned()),
        ("x-remote-extra-scopes", "all".to_owned()),
    ];
    let mut proxy = speak(fixture.connect_by(Some(signer.sign("front"))).await).await;
    assert_eq!(
        who(&mut proxy, &named).await,
        Ok(json!({
            "username": "jane", "uid": "7", "groups": ["devs", "system:authenticated"], "extra": {"scopes": ["all"]},
        }))
    );
    // A proxy that names nobody is nobody, and so is one of another name.
    assert_eq!(who(&mut proxy, &[]).await, Err(401));
    let mut other = speak(fixture.connect_by(Some(signer.sign("other"))).await).await;
    assert_eq!(who(&mut other, &named).await, Err(401));
    // The headers mean nothing from anybody else.
    let mut admin = fixture.connect().await;
    assert_eq!(
        who(&mut admin, &named).await.expect("known")["username"],
        "admin"
    );
    let mut nobody = speak(fixture.connect_as(None).await).await;
    assert_eq!(who(&mut nobody, &named).await, Err(403));
}

#[tokio::test]
async fn a_service_is_asked_about_tokens_once_in_a_while() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let handler: Handler = Arc::new(move |path, body| {
        counter.fetch_add(1, Ordering::Relaxed);
        let review: Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(
            (path, &review["apiVersion"]),
            ("/review?x=y", &json!("authentication.k8s.io/v1"))
        );
        let known = review["spec"]["token"] == "good";
        let user =
            json!({"username": "jane", "uid": "7", "groups": ["devs"], "extra": {"a": ["b"]}});
        (
            200,
            json!({"status": {"authenticated": known, "user": user}}),
        )
    });
    let service = Service::http(handler).await;
    let webhook = WebhookConfig {
        kubeconfig: service.kubeconfig(&folder, "/review?x=y"),
        version: "v1".into(),
        cache_life: Duration::from_secs(600),
    };
    let fixture = start(AuthnConfig {
        webhook: Some(webhook),
        ..Default::default()
    })
    .await;
    for _ in 0..3 {
        assert_eq!(
            who_has(&fixture, "good").await,
            Ok(json!({
                "username": "jane", "uid": "7", "groups": ["devs", "system:authenticated"], "extra": {"a": ["b"]},
            }))
        );
        assert_eq!(who_has(&fixture, "bad").await, Err(401));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// An issuer of tokens.
struct Issuer {
    service: Service,
    ca: Signer,
    key: Arc<Mutex<(String, KeyPair)>>,
}

fn new_key(id: &str) -> (String, KeyPair) {
    (id.to_owned(), KeyPair::generate().expect("a key"))
}

impl Issuer {
    async fn start() -> Self {
        let ca = Signer::new("issuers");
        let key = Arc::new(Mutex::new(new_key("one")));
        let address = Arc::new(Mutex::new(String::new()));
        let (published, own) = (key.clone(), address.clone());
        let handler: Handler = Arc::new(move |path, _| {
            let url = own.lock().expect("no panic").clone();
            let (id, key) = &*published.lock().expect("no panic");
            // The point of an uncompressed key: a byte, x, y.
            let point = key.der_bytes();
            let [x, y] = [&point[1..33], &point[33..65]].map(|c| URL_SAFE_NO_PAD.encode(c));
            match path {
                "/.well-known/openid-configuration" => (
                    200,
                    json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
                ),
                "/keys" => (
                    200,
                    json!({"keys": [
                        {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": x, "y": y},
                    ]}),
                ),
                _ => (404, json!({})),
            }
        });
        let service = Service::https(&ca, handler).await;
        *address.lock().expect("no panic") = format!("https://{}", service.address);
        Self { service, ca, key }
    }

    fn url(&self) -> String {
        format!("https://{}", self.service.address)
    }

    fn token(&self, more: Value) -> String {
        let mut claims = json!({
            "iss": self.url(), "aud": ["corral"], "sub": "jane", "groups": ["devs"], "oid": "7", "hd": "example.com",
            "exp": jiff::Timestamp::now().as_second() + 600, "jti": "id",
        });
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let (id, key) = &*self.key.lock().expect("no panic");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(id.clone());
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    }

    /// The configuration as YAML, which JSON is.
    fn configuration(&self, prefix: &str) -> String {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": self.url(), "certificateAuthority": self.ca.pem(), "audiences": ["corral", "other"],
                    "audienceMatchPolicy": "MatchAny"},
                "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}],
                "claimMappings": {
                    "username": {"claim": "sub", "prefix": prefix}, "groups": {"claim": "groups", "prefix": "g:"},
                    "uid": {"claim": "oid"},
                },
            }],
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        })
        .to_string()
    }
}

#[tokio::test]
async fn tokens_of_issuers_are_read_by_their_mappings() {
    let folder = tempfile::tempdir().expect("a folder");
    let issuer = Issuer::start().await;
    let path = folder.path().join("authentication.yaml");
    std::fs::write(&path, issuer.configuration("a:")).expect("written");
    let fixture = start(AuthnConfig {
        configuration: Some(path.clone()),
        reload: Reload(Duration::from_millis(20)),
        ..Default::default()
    })
    .await;
    let jane = json!({
        "username": "a:jane", "uid": "7", "groups": ["g:devs", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=id"]},
    });
    assert_eq!(
        who_has(&fixture, &issuer.token(json!({}))).await,
        Ok(jane.clone())
    );
    for bad in [
        json!({"aud": "somebody"}),
        json!({"exp": 1}),
        json!({"exp": null}),
        json!({"hd": "example.org"}),
        json!({"sub": 1}),
        json!({"iss": "https://127.0.0.1:1"}),
        json!({"nbf": jiff::Timestamp::now().as_second() + 1000}),
    ] {
        assert_eq!(
            who_has(&fixture, &issuer.token(bad.clone())).await,
            Err(401),
            "{bad}"
        );
    }
    // A token signed with the public key as a shared secret, and one that is not signed.
    let good = issuer.token(json!({}));
    let payload = good.split('.').nth(1).expect("a payload");
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    assert_eq!(
        who_has(&fixture, &format!("{unsigned}.{payload}.")).await,
        Err(401)
    );
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON");
    let point = issuer.key.lock().expect("no panic").1.der_bytes().to_vec();
    let shared = EncodingKey::from_secret(&point);
    let shared = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &shared);
    assert_eq!(who_has(&fixture, &shared.expect("a token")).await, Err(401));

    // The issuer has a new key, under a new name; the old one is good no longer.
    let old = issuer.token(json!({}));
    *issuer.key.lock().expect("no panic") = new_key("two");
    let new = issuer.token(json!({}));
    while who_has(&fixture, &new).await != Ok(jane.clone()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(who_has(&fixture, &old).await, Err(401));

    // What makes no sense changes nothing, and what does, does.
    std::fs::write(&path, "kind: Nonsense").expect("written");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(who_has(&fixture, &new).await, Ok(jane));
    std::fs::write(&path, issuer.configuration("b:")).expect("written");
    loop {
        let found = who_has(&fixture, &new).await.expect("known");
        if found["username"] == "b:jane" {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_of_two_issuers_speaks_for_its_own_users() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let path = folder.path().join("authentication.yaml");
    let parsed = |issuer: &Issuer, prefix: &str| -> Value {
        serde_json::from_str(&issuer.configuration(prefix)).expect("JSON")
    };
    let (mut both, other) = (parsed(&one, "one:"), parsed(&two, "two:"));
    let issuers = both["jwt"].as_array_mut().expect("issuers");
    issuers.push(other["jwt"][0].clone());
    std::fs::write(&path, both.to_string()).expect("written");
    let fixture = start(AuthnConfig {
        configuration: Some(path),
        ..Default::default()
    })
    .await;
    for (issuer, name) in [(&one, "one:jane"), (&two, "two:jane")] {
        let user = who_has(&fixture, &issuer.token(json!({}))).await;
        assert_eq!(user.expect("known")["username"], name);
    }
    // In the name of the other, with a key of its own.
    let forged = one.token(json!({"iss": two.url()}));
    assert_eq!(who_has(&fixture, &forged).await, Err(401));
}

#[tokio::test]
async fn a_service_that_fails_or_says_nothing_holds_up_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens.csv");
    std::fs::write(&file, "abc,jane,7\n").expect("written");
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let failing = fails.clone();
    let handler: Handler = Arc::new(move |_, _| match failing.load(Ordering::Relaxed) {
        true => (400, json!({})),
        false => (
            200,
            json!({"status": {"authenticated": true, "user": {"username": "ann"}}}),
        ),
    });
    let authn = |service: &Service| AuthnConfig {
        token_file: Some(file.clone()),
        webhook: Some(WebhookConfig {
            kubeconfig: service.kubeconfig(&folder, "/review"),
            version: "v1".into(),
            cache_life: Duration::from_secs(600),
        }),
        ..Default::default()
    };
    let service = Service::http(handler).await;
    let fixture = start(authn(&service)).await;
    assert_eq!(who_has(&fixture, "some").await, Err(401));
    assert_eq!(
        who_has(&fixture, "abc").await.expect("known")["username"],
        "jane"
    );
    // That it failed is not kept.
    fails.store(false, Ordering::Relaxed);
    assert_eq!(
        who_has(&fixture, "some").await.expect("known")["username"],
        "ann"
    );
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = silent.local_addr().expect("an address");
    let fixture = start(authn(&Service { address })).await;
    tokio::select! {
        found = who_has(&fixture, "some") => panic!("nobody knows it: {found:?}"),
        known = async {
            // The other waits for an answer before this one asks.
            let _asked = silent.accept().await.expect("a question");
            who_has(&fixture, "abc").await
        } => assert_eq!(known.expect("known")["username"], "jane"),
    }
}

#[tokio::test]
async fn nobody_asks_without_a_name_but_where_paths_are_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("authentication.yaml");
    let config = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n\
                  anonymous: {enabled: true, conditions: [{path: /livez}]}\n";
    std::fs::write(&path, config).expect("written");
    let codes = async |fixture: &Fixture| {
        let mut codes = Vec::new();
        for path in ["/livez", "/readyz", "/version"] {
            let mut sender = speak(fixture.connect_as(None).await).await;
            codes.push(
                send(&mut sender, "GET", path, &[], "")
                    .await
                    .status()
                    .as_u16(),
            );
        }
        codes
    };
    let open = start(AuthnConfig {
        configuration: Some(path.clone()),
        ..Default::default()
    })
    .await;
    assert_eq!(codes(&open).await, [200, 401, 401]);
    let closed = start(AuthnConfig {
        anonymous: Some(false),
        ..Default::default()
    })
    .await;
    assert_eq!(codes(&closed).await, [401, 401, 401]);
    let authn = AuthnConfig {
        configuration: Some(path),
        anonymous: Some(true),
        ..Default::default()
    };
    assert!(
        Fixture::try_start(Setup {
            authn,
            ..Default::default()
        })
        .await
        .is_err()
    );
}

#[tokio::test]
async fn expressions_say_what_claims_mean() {
    let folder = tempfile::tempdir().expect("a folder");
    let issuer = Issuer::start().await;
    let path = folder.path().join("authentication.yaml");
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer.url(), "certificateAuthority": issuer.ca.pem(), "audiences": ["corral"]},
            "claimValidationRules": [
                {"expression": "claims.exp - claims.iat <= 3600", "message": "the token is too old"},
            ],
            "claimMappings": {
                "username": {"expression": "'x:' + claims.sub"},
                "groups": {"expression": "claims.roles.split(',').map(r, 'role:' + r)"},
                "uid": {"expression": "claims.oid"},
                "extra": [
                    {"key": "example.com/tenant", "valueExpression": "claims.tenant"},
                    {"key": "example.com/none", "valueExpression": "claims.?none.orValue('')"},
                ],
            },
            "userValidationRules": [{"expression": "!user.username.startsWith('x:system:')"}],
        }],
    });
    std::fs::write(&path, config.to_string()).expect("written");
    let fixture = start(AuthnConfig {
        configuration: Some(path),
        ..Default::default()
    })
    .await;
    let iat = jiff::Timestamp::now().as_second();
    let claims = json!({"iat": iat, "roles": "a,b", "tenant": ["one", "two"]});
    assert_eq!(
        who_has(&fixture, &issuer.token(claims.clone())).await,
        Ok(json!({
            "username": "x:jane", "uid": "7", "groups": ["role:a", "role:b", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/credential-id": ["JTI=id"], "example.com/tenant": ["one", "two"],
            },
        }))
    );
    for (name, value) in [
        ("iat", json!(iat - 4000)),
        ("sub", json!("system:admin")),
        ("sub", json!(7)),
        ("roles", json!(null)),
    ] {
        let mut bad = claims.clone();
        bad[name] = value;
        assert_eq!(
            who_has(&fixture, &issuer.token(bad.clone())).await,
            Err(401),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn tokens_die_with_the_secret_or_the_node_that_they_are_bound_to() {
    let fixture = Fixture::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(fixture.create(secrets, secret).await.code, 201);
    assert_eq!(fixture.create("/api/v1/nodes", node).await.code, 201);
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(fixture.create(accounts, account).await.code, 201);
    let token = async |kind: &str, name: &str, uid: &str| {
        let reference = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": reference}});
        fixture
            .create(&format!("{accounts}/robot/token"), request)
            .await
    };
    let review = async |token: &Value| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        fixture.create(path, review).await.body["status"].clone()
    };
    for (kind, name, path) in [
        ("Secret", "s", format!("{secrets}/s")),
        ("Node", "n", "/api/v1/nodes/n".to_owned()),
    ] {
        let made = token(kind, name, "").await;
        assert_eq!(made.code, 201, "{}", made.body);
        let made = &made.body["status"]["token"];
        let known = review(made).await;
        assert_eq!(known["authenticated"], true, "{known}");
        let told = &known["user"]["extra"]["authentication.kubernetes.io/node-name"];
        let expected = if kind == "Node" {
            json!(["n"])
        } else {
            Value::Null
        };
        assert_eq!(*told, expected);
        assert_eq!(token(kind, name, "another").await.code, 409);
        assert_eq!(token(kind, "nobody", "").await.code, 404);
        assert_eq!(fixture.ask("DELETE", &path, json!({})).await.code, 200);
        // The cache that is asked hears of it a moment later.
        let ends = tokio::time::timeout(WAIT_MAX, async {
            while review(made).await["authenticated"] == true {
                tokio::task::yield_now().await;
            }
        });
        ends.await.expect("it dies with it");
    }
    let refused = token("Service", "s", "").await;
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.body["message"],
        "cannot bind token to object of type /v1, Kind=Service"
    );
}

/// A server that another authority may sign users for, and that knows the token `abc`.
async fn start_signed_by(signer: &Signer) -> (Fixture, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("tokens.csv"), "abc,jane,7\n").expect("written");
    std::fs::write(path("ca.crt"), signer.pem()).expect("written");
    let fixture = Fixture::start_with(Setup {
        authn: AuthnConfig {
            token_file: Some(path("tokens.csv")),
            reload: Reload(Duration::from_millis(20)),
            ..Default::default()
        },
        serving: Serving {
            client_ca: Some(path("ca.crt")),
            ..Default::default()
        },
        ..Default::default()
    })
    .await;
    (fixture, folder)
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_and_a_token_beside_it_counts() {
    let (known, stranger) = (Signer::new("known"), Signer::new("stranger"));
    let (fixture, _folder) = start_signed_by(&known).await;
    let good = [("authorization", "Bearer abc".to_owned())];
    let wrong = [("authorization", "Bearer wrong".to_owned())];
    let mut client = speak(fixture.connect_by(Some(known.sign("ann"))).await).await;
    let ann = who(&mut client, &[]).await.expect("known");
    assert_eq!(ann["username"], "ann");
    // Who is believed by a certificate need not be by a token.
    let ann = who(&mut client, &wrong).await.expect("known");
    assert_eq!(ann["username"], "ann");
    let ended = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    };
    let of_server = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    for bad in [
        stranger.sign("ann"),
        known.sign_with("ann", ended),
        known.sign_with("ann", of_server),
    ] {
        let mut client = speak(fixture.connect_by(Some(bad)).await).await;
        assert_eq!(who(&mut client, &[]).await, Err(401));
        assert_eq!(who(&mut client, &wrong).await, Err(401));
        let jane = who(&mut client, &good).await.expect("known");
        assert_eq!(jane["username"], "jane");
    }
}

#[tokio::test]
async fn whoever_has_no_key_of_a_certificate_is_not_heard() {
    let known = Signer::new("known");
    let (fixture, _folder) = start_signed_by(&known).await;
    let ((certificate, _), (_, another_key)) = (known.sign("ann"), known.sign("bob"));
    let stolen = fixture
        .try_connect_by(Some((certificate, another_key)))
        .await;
    let Ok(stream) = stolen else { return };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = http::Request::get("/version").body(Full::<Bytes>::default());
    let answer = sender.send_request(request.expect("a request")).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn open_connections_are_believed_by_the_authorities_of_now() {
    let (first, next) = (Signer::new("first"), Signer::new("next"));
    let (fixture, folder) = start_signed_by(&first).await;
    let mut old = speak(fixture.connect_by(Some(first.sign("ann"))).await).await;
    let mut new = speak(fixture.connect_by(Some(next.sign("bob"))).await).await;
    assert_eq!(who(&mut old, &[]).await.expect("known")["username"], "ann");
    assert_eq!(who(&mut new, &[]).await, Err(401));
    std::fs::write(folder.path().join("ca.crt"), next.pem()).expect("written");
    let changes = tokio::time::timeout(WAIT_MAX, async {
        while who(&mut new, &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    changes.await.expect("the file is read again");
    assert_eq!(who(&mut old, &[]).await, Err(401));
}

#[tokio::test]
async fn of_several_common_names_the_last_counts_and_of_uids_there_is_one() {
    let known = Signer::new("known");
    let (fixture, _folder) = start_signed_by(&known).await;
    let uid = || rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
    let two = known.sign_with("first", |params| {
        // The builder keeps one of a kind: the other is of the same kind by its number.
        let name = rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]);
        params.distinguished_name.push(name, "last");
        params.distinguished_name.push(uid(), "u1");
    });
    let mut client = speak(fixture.connect_by(Some(two)).await).await;
    let user = who(&mut client, &[]).await.expect("known");
    assert_eq!(
        (&user["username"], &user["uid"]),
        (&json!("last"), &json!("u1"))
    );
}

#[tokio::test]
async fn a_client_without_tls_is_told_so() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = Fixture::start().await;
    let told = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for (sent, expected) in [
        ("GET /livez HTTP/1.1\r\nhost: a\r\n\r\n", told),
        ("POST /api HTTP/1.1\r\n\r\n", told),
        ("OPTIONS * HTTP/1.1\r\n\r\n", told),
        ("PUT * HTTP/1.1\r\n\r\n", ""),
        ("DELETE /api HTTP/1.1\r\n\r\n", ""),
    ] {
        let tcp = tokio::net::TcpStream::connect(fixture.address()).await;
        let mut tcp = tcp.expect("the server listens");
        tcp.write_all(sent.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // One that is not answered may be closed with what it has sent unread.
        let _ = tcp.read_to_end(&mut answer).await;
        assert_eq!(
            String::from_utf8_lossy(&answer).lines().last(),
            expected.lines().last(),
            "{sent}"
        );
    }
}

#[tokio::test]
async fn who_names_a_group_but_no_user_does_not_act_as_itself() {
    let fixture = Fixture::start().await;
    let mut admin = fixture.connect().await;
    let headers = |pairs: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        pairs
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect()
    };
    for bad in [
        headers(&[("impersonate-uid", "a")]),
        headers(&[("impersonate-group", "a")]),
        headers(&[("impersonate-extra-scopes", "a")]),
        headers(&[("impersonate-user", ""), ("impersonate-group", "a")]),
    ] {
        assert_eq!(who(&mut admin, &bad).await, Err(400), "{bad:?}");
    }
    let nobody = who(&mut admin, &headers(&[("impersonate-user", "")])).await;
    assert_eq!(nobody.expect("itself")["username"], "admin");
    let anonymous = headers(&[
        ("impersonate-user", "system:anonymous"),
        ("impersonate-group", "system:authenticated"),
    ]);
    let anonymous = who(&mut admin, &anonymous).await.expect("allowed");
    assert_eq!(
        anonymous["groups"],
        json!(["system:authenticated", "system:unauthenticated"])
    );
    // Who is not authenticated may not even ask who it is.
    let stranger = headers(&[("impersonate-user", "system:anonymous")]);
    assert_eq!(who(&mut admin, &stranger).await, Err(403));
}

#[tokio::test]
async fn bootstrap_tokens_are_good_while_their_secret_says_so() {
    let fixture = Fixture::start().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let make = async |id: &str, more: Value| {
        let mut data = json!({
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        });
        for (key, value) in more.as_object().expect("data") {
            data[key] = value.clone();
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": data});
        let made = fixture.create(secrets, secret).await;
        assert_eq!(made.code, 201, "{}", made.body);
    };
    let who = async |id: &str| who_has(&fixture, &format!("{id}.0123456789abcdef")).await;
    for (id, more) in [
        ("bad001", json!({"expiration": "2020-01-01T00:00:00Z"})),
        ("bad002", json!({"expiration": "soon"})),
        ("bad003", json!({"usage-bootstrap-authentication": "false"})),
        ("bad004", json!({"auth-extra-groups": "foo"})),
        ("bad005", json!({"token-id": "zzzzzz"})),
        ("bad006", json!({"token-secret": "fedcba9876543210"})),
        (
            "good01",
            json!({
                "expiration": "2090-01-01T00:00:00Z",
                "auth-extra-groups": "system:bootstrappers:y,system:bootstrappers:x",
            }),
        ),
    ] {
        make(id, more).await;
    }
    let known = tokio::time::timeout(WAIT_MAX, async {
        loop {
            // The cache that is asked hears of it a moment later.
            if let Ok(user) = who("good01").await {
                break user;
            }
            tokio::task::yield_now().await;
        }
    });
    let groups = [
        "system:bootstrappers",
        "system:bootstrappers:x",
        "system:bootstrappers:y",
        "system:authenticated",
    ];
    let expected = json!({"username": "system:bootstrap:good01", "groups": groups});
    assert_eq!(known.await.expect("known"), expected);
    for index in 1..=6 {
        assert_eq!(who(&format!("bad00{index}")).await, Err(401), "{index}");
    }
    let path = format!("{secrets}/bootstrap-token-good01");
    assert_eq!(fixture.ask("DELETE", &path, json!({})).await.code, 200);
    let ends = tokio::time::timeout(WAIT_MAX, async {
        while who("good01").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    ends.await.expect("it dies with its secret");
}
