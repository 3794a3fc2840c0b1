//! Creating, changing and deleting.

use serde_json::{Value, json};

use crate::fixture::{Fixture, config_map};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict() {
    let fixture = Fixture::start().await;
    let created = fixture.config_map("a", "1").await;
    assert_eq!(created.code, 201);
    let mut first = created.body.clone();
    first["data"]["key"] = "2".into();
    assert_eq!(
        fixture.ask("PUT", &format!("{CMS}/a"), first).await.code,
        200
    );
    let mut second = created.body;
    second["data"]["key"] = "3".into();
    let conflict = fixture.ask("PUT", &format!("{CMS}/a"), second).await;
    assert_eq!(conflict.code, 409);
    assert_eq!(
        conflict.body["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn concurrent_patches_without_a_version_all_land() {
    let fixture = std::sync::Arc::new(Fixture::start().await);
    fixture.config_map("a", "1").await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..8 {
        let fixture = fixture.clone();
        tasks.spawn(async move {
            let patch = json!({"data": {format!("k{index}"): "x"}});
            fixture
                .patch(&format!("{CMS}/a"), "merge-patch+json", patch)
                .await
                .code
        });
    }
    assert!(tasks.join_all().await.into_iter().all(|code| code == 200));
    let data = fixture.get(&format!("{CMS}/a")).await.body["data"].clone();
    assert_eq!(data.as_object().map(|d| d.len()), Some(9));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let fixture = Fixture::start().await;
    let dry = fixture
        .create(&format!("{CMS}?dryRun=All"), config_map("a", "1"))
        .await;
    assert_eq!(
        (dry.code, dry.body["metadata"]["name"].as_str()),
        (201, Some("a"))
    );
    assert_eq!(fixture.get(&format!("{CMS}/a")).await.code, 404);
    fixture.config_map("a", "1").await;
    fixture
        .patch(
            &format!("{CMS}/a?dryRun=All"),
            "merge-patch+json",
            json!({"data": {"key": "2"}}),
        )
        .await;
    fixture
        .ask(
            "DELETE",
            &format!("{CMS}/a?dryRun=All"),
            serde_json::Value::Null,
        )
        .await;
    assert_eq!(
        fixture.get(&format!("{CMS}/a")).await.body["data"]["key"],
        "1"
    );
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let fixture = Fixture::start().await;
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    fixture.create(CMS, object).await;
    let deleted = fixture.ask("DELETE", &format!("{CMS}/a"), json!({})).await;
    assert!(
        deleted.body["metadata"]["deletionTimestamp"].is_string(),
        "{}",
        deleted.body
    );
    let added = fixture
        .patch(
            &format!("{CMS}/a"),
            "merge-patch+json",
            json!({"metadata": {"finalizers": ["example.com/wait", "b/c"]}}),
        )
        .await;
    assert_eq!(added.code, 422);
    fixture
        .patch(
            &format!("{CMS}/a"),
            "merge-patch+json",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert_eq!(fixture.get(&format!("{CMS}/a")).await.code, 404);
}

#[tokio::test]
async fn preconditions_protect_another_object_of_the_same_name() {
    let fixture = Fixture::start().await;
    fixture.config_map("a", "1").await;
    let refused = fixture
        .ask(
            "DELETE",
            &format!("{CMS}/a"),
            json!({"preconditions": {"uid": "other"}}),
        )
        .await;
    assert_eq!(
        (refused.code, refused.body["reason"].as_str()),
        (409, Some("Conflict"))
    );
    assert_eq!(fixture.get(&format!("{CMS}/a")).await.code, 200);
}

#[tokio::test]
async fn status_and_spec_have_their_own_writers() {
    let fixture = Fixture::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let created = fixture
        .create(deployments, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": {"replicas": 7}}))
        .await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(created.body["status"].get("replicas"), None);
    assert_eq!(created.body["metadata"]["generation"], 1);

    let path = format!("{deployments}/d");
    let both = json!({"spec": {"replicas": 5}, "status": {"replicas": 5}});
    let status = fixture
        .patch(&format!("{path}/status"), "merge-patch+json", both.clone())
        .await;
    assert_eq!(status.body["spec"]["replicas"], 1);
    assert_eq!(status.body["status"]["replicas"], 5);
    assert_eq!(status.body["metadata"]["generation"], 1);
    let main = fixture
        .patch(
            &path,
            "merge-patch+json",
            json!({"spec": {"replicas": 3}, "status": {"replicas": 9}}),
        )
        .await;
    assert_eq!(main.body["spec"]["replicas"], 3);
    assert_eq!(main.body["status"]["replicas"], 5);
    assert_eq!(main.body["metadata"]["generation"], 2);

    let scale = fixture.get(&format!("{path}/scale")).await.body;
    assert_eq!(
        (
            scale["spec"]["replicas"].as_i64(),
            scale["status"]["selector"].as_str()
        ),
        (Some(3), Some("a=b"))
    );
}

#[tokio::test]
async fn concurrent_scales_without_a_version_all_land() {
    let fixture = std::sync::Arc::new(Fixture::start().await);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let created = fixture
        .create(deployments, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}}}))
        .await;
    assert_eq!(created.code, 201, "{}", created.body);
    let path = format!("{deployments}/d/scale");
    let mut tasks = tokio::task::JoinSet::new();
    for replicas in 0..8 {
        let (fixture, path) = (fixture.clone(), path.clone());
        tasks.spawn(async move {
            let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"},
                "spec": {"replicas": replicas}});
            fixture.ask("PUT", &path, scale).await.code
        });
    }
    assert!(tasks.join_all().await.into_iter().all(|code| code == 200));
    let mut old = fixture.get(&path).await.body;
    old["metadata"]["resourceVersion"] = created.body["metadata"]["resourceVersion"].clone();
    assert_eq!(fixture.ask("PUT", &path, old).await.code, 409);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_treated_as_asked() {
    let fixture = Fixture::start().await;
    let mut object = config_map("a", "1");
    object["dat"] = json!({});
    let strict = fixture
        .create(&format!("{CMS}?fieldValidation=Strict"), object.clone())
        .await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.body["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\""
    );
    let warned = fixture
        .create(&format!("{CMS}?fieldValidation=Warn"), object.clone())
        .await;
    let warning = warned.headers.get("warning").and_then(|w| w.to_str().ok());
    assert_eq!(
        (warned.code, warning),
        (201, Some("299 - \"unknown field \\\"dat\\\"\""))
    );
    object["metadata"]["name"] = "b".into();
    let ignored = fixture
        .create(&format!("{CMS}?fieldValidation=Ignore"), object)
        .await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
}

#[tokio::test]
async fn services_never_share_an_address_or_a_port() {
    let fixture = std::sync::Arc::new(Fixture::start().await);
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..10 {
        let (fixture, service) = (fixture.clone(), service(&format!("s{index}")));
        tasks.spawn(async move { fixture.create(services, service).await });
    }
    let answers = tasks.join_all().await;
    let taken: Vec<String> = answers
        .iter()
        .map(|a| {
            format!(
                "{} {}",
                a.body["spec"]["clusterIP"], a.body["spec"]["ports"][0]["nodePort"]
            )
        })
        .collect();
    assert!(
        answers.iter().all(|a| a.code == 201),
        "{:?}",
        answers
            .iter()
            .map(|a| &a.body["message"])
            .collect::<Vec<_>>()
    );
    let distinct: std::collections::HashSet<&String> = taken.iter().collect();
    assert_eq!(distinct.len(), 10, "{taken:?}");

    let address = answers[0].body["spec"]["clusterIP"].clone();
    let mut wanted = service("again");
    wanted["spec"]["clusterIP"] = address.clone();
    assert_eq!(fixture.create(services, wanted.clone()).await.code, 422);
    let name = answers[0].body["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    fixture
        .ask("DELETE", &format!("{services}/{name}"), json!({}))
        .await;
    assert_eq!(
        fixture.create(services, wanted).await.code,
        201,
        "a freed address can be had again"
    );
}

#[tokio::test]
async fn a_time_that_a_client_leaves_unset_is_taken() {
    let fixture = Fixture::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(fixture.create(services, service).await.code, 201);
    let path = format!("{services}/web/status");
    let mut live = fixture.get(&path).await.body;
    live["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": null}]);
    let answer = fixture.ask("PUT", &path, live).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    // Typed clients in Rust, and our own controllers, cannot read `null` there.
    assert_eq!(
        answer.body["status"]["conditions"][0]["lastTransitionTime"],
        "0001-01-01T00:00:00Z"
    );
}

#[tokio::test]
async fn reviews_are_not_answered_as_tables() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    let headers = [
        ("content-type", "application/json".to_owned()),
        (
            "accept",
            "application/json;as=Table;v=v1;g=meta.k8s.io".to_owned(),
        ),
    ];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let body = serde_json::to_vec(&body).expect("JSON");
    let answer = crate::fixture::send(&mut connection, "POST", path, &headers, body).await;
    assert_eq!(answer.status(), 406);
}

/// As operators of kube-rs do it with the status of their objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_applies_may_leave_out_the_name_of_what_is_there() {
    let fixture = Fixture::start().await;
    fixture.config_map("c", "a value").await;
    let apply = async |name: &str, metadata: Option<Value>| {
        let path = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=x");
        let mut body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"applied": name}});
        if let Some(metadata) = metadata {
            body["metadata"] = metadata;
        }
        let answer = fixture.patch(&path, "apply-patch+yaml", body).await;
        (answer.code, answer.body)
    };
    for metadata in [None, Some(json!({})), Some(json!({"labels": {"a": "b"}}))] {
        let (code, body) = apply("c", metadata).await;
        assert_eq!(code, 200, "{body}");
        assert_eq!(body["metadata"]["name"], "c");
        assert_eq!(body["data"], json!({"applied": "c", "key": "a value"}));
    }
    let undeterminable = "was undeterminable: name must be provided";
    for (name, metadata, message) in [
        ("c", Some(json!({"name": ""})), undeterminable),
        ("c", Some(json!({"name": null})), undeterminable),
        (
            "c",
            Some(json!({"name": "d"})),
            "does not match the name on the URL (c)",
        ),
        (
            "c",
            Some(json!({"namespace": "other"})),
            "does not match the namespace",
        ),
        ("none", None, undeterminable),
        ("none", Some(json!({"generateName": "n"})), undeterminable),
    ] {
        let (code, body) = apply(name, metadata).await;
        assert_eq!(code, 400, "{body}");
        let told = body["message"].as_str().expect("a message");
        assert!(told.contains(message), "{told}");
    }
    let path = "/apis/apps/v1/namespaces/default/deployments/none/status?fieldManager=x";
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 1}});
    let none = fixture.patch(path, "apply-patch+yaml", body).await;
    assert_eq!(none.code, 404, "{}", none.body);
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn a_strategic_patch_that_makes_no_sense_is_told_so() {
    let fixture = Fixture::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let pod = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
    let deployment = json!({"metadata": {"name": "d", "finalizers": ["a.io/b"]}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}});
    assert_eq!(fixture.create(path, deployment).await.code, 201);
    let path = format!("{path}/d");
    let patched = async |patch: Value| {
        let kind = "strategic-merge-patch+json";
        fixture
            .patch(&format!("{path}?dryRun=All"), kind, patch)
            .await
    };
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let list = |items: Value| pod(json!({"containers": items}));
    for (patch, code, told) in [
        (
            json!({"spec": {"replicas": "3"}}),
            422,
            " \"\" is invalid: patch: Invalid value: \"map[spec:map[replicas:3]]\": unrecognized type: int32",
        ),
        (
            json!([]),
            400,
            "json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            json!({"$patch": 3}),
            500,
            "unknown patch type: %!s(int64=3) in map: map[$patch:3]",
        ),
        (
            list(json!([{"name": "a", "$patch": "merge"}])),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            list(json!([{"$patch": "foo"}])),
            500,
            "unknown patch type: foo in map: map[$patch:foo]",
        ),
        (
            list(json!([{"$patch": "replace"}, {"image": "q"}])),
            500,
            "map: map[image:q] does not contain declared merge key: name",
        ),
        (
            json!({"metadata": {"finalizers": [1]}}),
            500,
            "list element types are not identical: [[a.io/b] [1]]",
        ),
        (
            json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            json!({"metadata": {"$setElementOrder": ["a"]}}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            pod(json!({"$setElementOrder/containers": [{}]})),
            500,
            "map: map[] does not contain declared merge key: name",
        ),
        (
            pod(json!({"$setElementOrder/containers": ["a"]})),
            500,
            "value for key 0 is not a map",
        ),
        (
            pod(json!({"$setElementOrder/containers": null})),
            500,
            "expected a []interface {}, but received a %!s(<nil>)",
        ),
        (
            pod(json!({"$setElementOrder/nope": []})),
            500,
            "unable to find api field in struct PodSpec for the json field \"nope\"",
        ),
        (
            pod(
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a"}, {"name": "b"}]}),
            ),
            500,
            "The order in patch list:\n[map[name:a] map[name:b]]\n doesn't match $setElementOrder list:\n\
             [map[name:b] map[name:a]]\n",
        ),
    ] {
        let answer = patched(patch.clone()).await;
        assert_eq!(
            (answer.code, answer.body["message"].as_str()),
            (code, Some(told)),
            "{patch}"
        );
    }
    // What an object is cannot be patched, and `3.0` is three.
    for (patch, replicas) in [
        (json!({"kind": "Pod", "apiVersion": "v1"}), 2),
        (json!({"kind": null}), 2),
        (json!({"spec": {"replicas": 3.0}}), 3),
    ] {
        let answer = patched(patch).await;
        assert_eq!(
            (answer.code, &answer.body["kind"]),
            (200, &json!("Deployment"))
        );
        assert_eq!(answer.body["spec"]["replicas"], replicas);
    }
    let user = || corral_server::authn::User::new("admin", &[corral_server::authn::MASTERS]);
    let request = hyper::Request::patch(&path);
    let request = request.header("content-type", "application/strategic-merge-patch+json");
    let request = request.body(kube::client::Body::from(b"null".to_vec()));
    let null =
        tower::ServiceExt::oneshot(fixture.server.local(user()), request.expect("a request"));
    assert_eq!(null.await.expect("an answer").status(), 200);
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn an_owner_that_is_given_twice_is_one_with_a_warning() {
    let fixture = Fixture::start().await;
    let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    let mut map = config_map("a", "1");
    let both = json!([
        owner("a", "2"),
        owner("a", "1"),
        owner("b", "1"),
        owner("a", "1"),
        owner("a", "2")
    ]);
    map["metadata"]["ownerReferences"] = both;
    let path = "/api/v1/namespaces/default/configmaps";
    let made = fixture.create(path, map).await;
    let left = json!([owner("a", "2"), owner("a", "1"), owner("b", "1")]);
    assert_eq!(made.body["metadata"]["ownerReferences"], left);
    let told = |when: &str, uids: &str| {
        format!(
            "299 - \".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in \
             1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: \
             {uids}\""
        )
    };
    assert_eq!(made.headers["warning"], told("", "1, 2"));
    let patch = json!({"metadata": {"ownerReferences": [owner("z", "9"), owner("z", "9")]}});
    let patched = fixture
        .patch(&format!("{path}/a"), "merge-patch+json", patch)
        .await;
    assert_eq!(
        patched.body["metadata"]["ownerReferences"],
        json!([owner("z", "9")])
    );
    assert_eq!(
        patched.headers["warning"],
        told(" after mutating admission happens", "9")
    );
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn what_of_the_metadata_counts_as_a_generation_depends_on_the_kind() {
    let fixture = Fixture::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let workload = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let slice = json!({"metadata": {"name": "w"}, "addressType": "IPv4", "endpoints": []});
    for (path, object, counted) in [
        (
            "apps/v1/namespaces/default/deployments",
            &workload,
            [2, 2, 3],
        ),
        (
            "apps/v1/namespaces/default/replicasets",
            &workload,
            [1, 1, 1],
        ),
        (
            "discovery.k8s.io/v1/namespaces/default/endpointslices",
            &slice,
            [1, 2, 2],
        ),
    ] {
        let path = format!("/apis/{path}");
        let made = fixture.create(&path, object.clone()).await;
        assert_eq!(made.body["metadata"]["generation"], 1);
        let changes = [
            json!({"annotations": {"foo": "1"}}),
            json!({"labels": {"l": "1"}, "finalizers": ["a.io/b"]}),
            json!({"annotations": null}),
        ];
        for (change, generation) in changes.into_iter().zip(counted) {
            let patch = json!({"metadata": change});
            let path = format!("{path}/w");
            let patched = fixture.patch(&path, "merge-patch+json", patch).await;
            let metadata = &patched.body["metadata"];
            assert_eq!(metadata["generation"], generation, "{path} {metadata}");
        }
    }
    let status = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}, "status": {"replicas": 1}});
    let path = "/apis/apps/v1/namespaces/default/deployments/w/status";
    let patched = fixture.patch(path, "merge-patch+json", status).await;
    let metadata = &patched.body["metadata"];
    assert_eq!(
        (
            &metadata["generation"],
            &metadata["annotations"]["deployment.kubernetes.io/revision"]
        ),
        (&json!(3), &json!("1"))
    );
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn who_is_refused_is_warned_all_the_same() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.config_map("a", "1").await.code, 201);
    let unknown = "299 - \"unknown field \\\"foo\\\"\"";
    let mut map = config_map("a", "1");
    map["foo"] = json!(1);
    let known = fixture.create(CMS, map.clone()).await;
    assert_eq!(
        (known.code, &known.headers["warning"]),
        (409, &unknown.parse().expect("a header"))
    );
    map["metadata"]["name"] = json!("A B");
    let invalid = fixture.create(CMS, map).await;
    assert_eq!(
        (invalid.code, &invalid.headers["warning"]),
        (422, &unknown.parse().expect("a header"))
    );
    let admission = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    for (name, action) in [("warns", "Warn"), ("denies", "Deny")] {
        let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["configmaps"]});
        let policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": name}]}});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": [action]}});
        let made = fixture.create(&format!("{admission}ies"), policy).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let made = fixture
            .create(&format!("{admission}ybindings"), binding)
            .await;
        assert_eq!(made.code, 201, "{}", made.body);
        fixture.get(&format!("{admission}ies")).await;
        fixture.get(&format!("{admission}ybindings")).await;
    }
    let patch = json!({"data": {"a": "b"}, "foo": 1});
    let path = format!("{CMS}/a");
    let denied = fixture.patch(&path, "merge-patch+json", patch).await;
    assert_eq!(denied.code, 422, "{}", denied.body);
    let warnings = denied.headers.get_all("warning").iter();
    let warnings: Vec<&str> = warnings.filter_map(|value| value.to_str().ok()).collect();
    let policy = "299 - \"Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns': warns\"";
    assert_eq!(warnings, [unknown, policy]);
}
