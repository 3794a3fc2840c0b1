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

/// Gives somebody cluster-wide rights by one rule.
async fn grant(fixture: &Fixture, name: &str, user: &str, rule: Value) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": name}, "rules": [rule]});
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
    for (kind, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("{rbac}/{kind}");
        let made = fixture.create(&path, object).await;
        assert_eq!(made.code, 201, "{}", made.body);
        // Rights follow from caches; a consistent list waits until the cache has seen it.
        fixture.get(&path).await;
    }
}

/// What somebody is told who asks in the name of somebody else: who that is, or why not.
async fn taken_for(fixture: &Fixture, user: User, headers: &[(&str, &str)]) -> Value {
    let mut request = hyper::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(format!("impersonate-{name}"), *value);
    }
    let answer = fixture.send_as(user, request, json!({})).await;
    match answer.code {
        201 => answer.body["status"]["userInfo"].clone(),
        _ => answer.body["message"].clone(),
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";

fn refused(user: &str, what: &str, verb: &str, resource: &str) -> String {
    format!(
        "{what} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \
         \"{AUTHENTICATION}\" at the cluster scope"
    )
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn who_may_be_another_for_one_verb_may_no_more_than_that() {
    let fixture = Fixture::start().await;
    let imp = || User::new("imp", &["imps"]);
    let jane = &[("user", "jane")][..];
    let on = "impersonate-on:user-info:create";
    let reviews = "selfsubjectreviews.authentication.k8s.io";
    let told = taken_for(&fixture, imp(), jane).await;
    assert_eq!(told, refused("imp", reviews, on, "selfsubjectreviews"));
    let rule =
        json!({"apiGroups": [AUTHENTICATION], "resources": ["selfsubjectreviews"], "verbs": [on]});
    grant(&fixture, "on", "imp", rule).await;
    let told = taken_for(&fixture, imp(), jane).await;
    let user = "users.authentication.k8s.io \"jane\"";
    assert_eq!(told, refused("imp", user, "impersonate:user-info", "users"));
    let rule = json!({"apiGroups": [AUTHENTICATION], "resources": ["users", "groups", "userextras/a.io/b"],
        "verbs": ["impersonate:user-info"]});
    grant(&fixture, "whom", "imp", rule).await;
    let told = taken_for(&fixture, imp(), jane).await;
    let known = json!({"username": "jane", "groups": ["system:authenticated"]});
    assert_eq!(told, known);
    let more = &[("user", "jane"), ("group", "g"), ("extra-a.io%2fb", "c")];
    let known = json!({"username": "jane", "groups": ["g", "system:authenticated"], "extra": {"a.io/b": ["c"]}});
    assert_eq!(taken_for(&fixture, imp(), more).await, known);
    for (header, value, what, resource, why) in [
        ("uid", "u", " \"u\"", "uids", ""),
        (
            "group",
            "system:masters",
            " \"system:masters\"",
            "groups",
            ": impersonating the system:masters group is not allowed",
        ),
        (
            "group",
            "",
            "",
            "groups",
            ": impersonating the empty string group is not allowed",
        ),
        (
            "extra-a",
            "b",
            "",
            "userextras",
            ": impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"a\": must be a \
             domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            "extra-",
            "b",
            "",
            "userextras",
            ": impersonating the empty string key in extra is not allowed",
        ),
        (
            "extra-a.io%2fb",
            "",
            "",
            "userextras",
            ": impersonating the empty string value in extra is not allowed",
        ),
    ] {
        let told = taken_for(&fixture, imp(), &[("user", "jane"), (header, value)]).await;
        let what = format!("{resource}.{AUTHENTICATION}{what}");
        let refusal = refused("imp", &what, "impersonate:user-info", resource);
        assert_eq!(told, format!("{refusal}{why}"), "{header}");
    }
    // Jane may nothing, and whoever is taken for her may not even try what was not given.
    let list = hyper::Request::get(CMS).header("impersonate-user", "jane");
    let list = fixture.send_as(imp(), list, Value::Null).await;
    assert_eq!(
        list.body["message"],
        "configmaps is forbidden: User \"imp\" cannot impersonate-on:user-info:list resource \"configmaps\" in API \
         group \"\" in the namespace \"default\""
    );
    let path = hyper::Request::get("/logs").header("impersonate-user", "jane");
    let path = fixture.send_as(imp(), path, Value::Null).await;
    assert_eq!(
        path.body["message"],
        "forbidden: User \"imp\" cannot impersonate-on:user-info:get path \"/logs\""
    );
    let admin = User::new("admin", &[corral_server::authn::MASTERS]);
    let metrics = fixture.text(admin, "/metrics").await;
    let allowed =
        "apiserver_impersonation_attempts_total{decision=\"allowed\",mode=\"user-info\"} 2\n";
    assert!(metrics.contains(allowed));
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn accounts_and_nodes_are_impersonated_by_verbs_of_their_own() {
    let fixture = Fixture::start().await;
    let agent = |node: &[&str]| {
        let mut user = User::service_account("kube-system", "agent");
        let names = node.iter().map(|&node| node.to_owned()).collect();
        let key = "authentication.kubernetes.io/node-name".to_owned();
        user.extra.insert(key, names);
        user
    };
    let name = "system:serviceaccount:kube-system:agent";
    let rules = [
        ("associated-node", "nodes"),
        ("serviceaccount", "serviceaccounts"),
    ];
    for (mode, resource) in rules {
        let rule = json!({"apiGroups": [AUTHENTICATION], "resources": [resource], "verbs": [format!("impersonate:{mode}")]});
        grant(&fixture, mode, name, rule).await;
        let rule = json!({"apiGroups": [AUTHENTICATION], "resources": ["selfsubjectreviews"],
            "verbs": [format!("impersonate-on:{mode}:create")]});
        grant(&fixture, &format!("on-{mode}"), name, rule).await;
    }
    let node = &[("user", "system:node:n1")][..];
    let known =
        json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]});
    assert_eq!(taken_for(&fixture, agent(&["n1"]), node).await, known);
    let on = "impersonate-on:arbitrary-node:create";
    let reviews = "selfsubjectreviews.authentication.k8s.io";
    let refusal = refused(name, reviews, on, "selfsubjectreviews");
    // On another node, on no node, and on more than there can be.
    for elsewhere in [&["n2"][..], &[], &["n1", "n2"]] {
        let told = taken_for(&fixture, agent(elsewhere), node).await;
        assert_eq!(told, refusal, "{elsewhere:?}");
    }
    let account = ("user", "system:serviceaccount:a:b");
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:a",
        "system:authenticated",
    ];
    let known = json!({"username": account.1, "groups": groups});
    assert_eq!(taken_for(&fixture, agent(&[]), &[account]).await, known);
    // Whoever wants more for it needs the right to be it altogether.
    let told = taken_for(&fixture, agent(&[]), &[account, ("group", "g")]).await;
    let refusal = format!(
        "serviceaccounts \"b\" is forbidden: User \"{name}\" cannot impersonate resource \"serviceaccounts\" in API \
         group \"\" in the namespace \"a\""
    );
    assert_eq!(told, refusal);
    let legacy = || User::new("legacy", &[]);
    let rule = json!({"apiGroups": [""], "resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]});
    grant(&fixture, "legacy", "legacy", rule).await;
    let known = json!({"username": "system:node:n1", "groups": ["system:authenticated"]});
    assert_eq!(taken_for(&fixture, legacy(), node).await, known);
    let told = taken_for(&fixture, legacy(), &[account, ("group", "system:masters")]).await;
    assert_eq!(
        told["groups"],
        json!(["system:masters", "system:authenticated"])
    );
}

#[tokio::test]
async fn a_name_counts_where_a_collection_is_read_not_where_it_is_deleted() {
    let fixture = Fixture::start().await;
    let path = format!("{CMS}?fieldSelector=metadata.name%3Da");
    let ask = async |method: &str| {
        let user = User::new("bob", &[]);
        let asked = fixture.ask_as(user, method, &path, "application/json", Value::Null);
        let message = asked.await.body["message"].clone();
        let begins = message.as_str().expect("a message").split(" is ").next();
        begins.expect("a beginning").to_owned()
    };
    assert_eq!(ask("GET").await, "configmaps \"a\"");
    assert_eq!(ask("DELETE").await, "configmaps");
}
