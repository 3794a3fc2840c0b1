//! `/metrics`, as dashboards for kube-apiserver read it.

use std::collections::BTreeMap;

use bytes::Bytes;
use corral_server::authn::{MASTERS, User};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// The values of a page, by name and labels.
async fn page(fixture: &Fixture) -> BTreeMap<String, f64> {
    let text = fixture
        .text(User::new("admin", &[MASTERS]), "/metrics")
        .await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    values.collect()
}

#[tokio::test]
async fn what_dashboards_read_is_there_and_moves() {
    let fixture = Fixture::start().await;
    // A list is as new as the store: what the server has made for itself is counted from here on.
    assert_eq!(fixture.get("/api/v1/configmaps").await.code, 200);
    let before = page(&fixture).await;
    assert_eq!(fixture.config_map("one", "1").await.code, 201);
    assert_eq!(fixture.config_map("one", "1").await.code, 409);
    let mut watching = fixture.connect().await;
    let path = format!("{CMS}?watch=1&resourceVersion=0");
    let mut watch = send(&mut watching, "GET", &path, &[], Bytes::new()).await;
    watch
        .body_mut()
        .frame()
        .await
        .expect("an event")
        .expect("a frame");
    let mut asking = fixture.connect().await;
    for path in [CMS, "/livez"] {
        let answer = send(&mut asking, "GET", path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200);
        let _ = answer.into_body().collect().await;
    }
    let bad = [("authorization", "Bearer no-such-token".to_owned())];
    let stranger = fixture.connect_as(None).await;
    let io = hyper_util::rt::TokioIo::new(stranger);
    let (mut stranger, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("HTTP");
    tokio::spawn(connection);
    let refused = send(&mut stranger, "GET", CMS, &bad, Bytes::new()).await;
    assert_eq!(refused.status(), 401);
    let _ = refused.into_body().collect().await;
    let nobody = send(&mut stranger, "GET", CMS, &[], Bytes::new()).await;
    assert_eq!(nobody.status(), 403);
    let after = page(&fixture).await;
    let at = |page: &BTreeMap<String, f64>, name: &str| page.get(name).copied().unwrap_or(0.0);
    let of = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\"";
    let short = "component=\"apiserver\",group=\"\",resource=\"configmaps\"";
    let post = "scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"";
    let list = "scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"";
    let watch_labels = "scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"";
    for (name, more) in [
        (format!("apiserver_request_total{{code=\"201\",{of},{post}}}"), 1.0),
        (format!("apiserver_request_total{{code=\"409\",{of},{post}}}"), 1.0),
        (format!("apiserver_request_total{{code=\"200\",{of},{list}}}"), 1.0),
        (format!("apiserver_request_duration_seconds_count{{{of},{post}}}"), 2.0),
        (format!("apiserver_request_sli_duration_seconds_count{{{short},{post}}}"), 2.0),
        (format!("apiserver_response_sizes_count{{{short},{list}}}"), 3.0),
        (format!("apiserver_longrunning_requests{{{short},{watch_labels}}}"), 1.0),
        ("apiserver_resource_objects{group=\"\",resource=\"configmaps\"}".to_owned(), 1.0),
        ("apiserver_storage_objects{resource=\"configmaps\"}".to_owned(), 1.0),
        ("apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\"}".to_owned(), 1.0),
        ("etcd_requests_total{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 2.0),
        ("etcd_request_errors_total{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 1.0),
        ("etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"}".to_owned(), 2.0),
        ("apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"}".to_owned(), 2.0),
        ("apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}".to_owned(), 2.0),
        ("authentication_attempts{result=\"success\"}".to_owned(), 4.0),
        ("authentication_attempts{result=\"failure\"}".to_owned(), 1.0),
        ("authenticated_user_requests{username=\"admin\"}".to_owned(), 3.0),
        ("authorization_attempts_total{result=\"no-opinion\"}".to_owned(), 1.0),
        ("authorization_duration_seconds_count{result=\"no-opinion\"}".to_owned(), 1.0),
        ("rest_client_requests_total{code=\"201\",host=\"in-process\",method=\"POST\"}".to_owned(), 1.0),
    ] {
        let (was, is) = (at(&before, &name), at(&after, &name));
        assert_eq!(is - was, more, "{name}");
    }
    let own = "apiserver_current_inflight_requests{request_kind=\"readOnly\"}";
    assert!(at(&after, own) >= 1.0, "who asks is answered");
    for name in ["process_resident_memory_bytes", "process_open_fds"] {
        assert!(at(&after, name) > 0.0, "{name}");
    }
    let cpu = "process_cpu_seconds_total";
    assert!(at(&after, cpu) > at(&before, cpu), "it has just worked");
    // What is refused by a plugin is told of the plugin.
    let gone = "/api/v1/namespaces/none/configmaps";
    let refused = fixture
        .create(gone, crate::fixture::config_map("x", "1"))
        .await;
    assert_eq!(refused.code, 404);
    let rejected = page(&fixture).await;
    let name = "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"}";
    assert_eq!(at(&rejected, name), 1.0);
}

#[tokio::test]
async fn strange_requests_make_no_series() {
    let fixture = Fixture::start().await;
    let ask = async |n: usize| {
        for path in [
            format!("/apis/none-{n}.example.com/v1/things"),
            format!("/api/v1/namespaces/default/pods/p/none-{n}"),
            format!("/livez/none-{n}"),
            format!("/none-{n}"),
        ] {
            fixture.ask("GET", &path, Value::Null).await;
        }
    };
    // The server does things of its own meanwhile, which are measured elsewhere.
    let n_series = async || {
        let page = page(&fixture).await;
        let of_requests = |name: &&String| {
            let beginnings = ["apiserver_request_", "apiserver_response_"];
            beginnings.iter().any(|begin| name.starts_with(begin))
        };
        page.keys().filter(of_requests).count()
    };
    ask(0).await;
    // The page is told of by the next one.
    n_series().await;
    let before = n_series().await;
    for n in 1..20 {
        ask(n).await;
    }
    assert_eq!(n_series().await, before);
}

/// Expectations are answers of kube-apiserver v1.36.3.
#[tokio::test]
async fn addresses_and_node_ports_are_counted_and_refused_in_its_words() {
    let fixture = Fixture::start().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]);
    let chosen = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b", "nodePort": 30123}]);
    let taken = "failed to allocate IP 10.96.5.5: provided IP is already allocated";
    let foreign = |ip: &str| {
        format!("failed to allocate IP {ip}: the provided network does not match the current range")
    };
    let address =
        |ip: &str, why: &str| format!("spec.clusterIPs: Invalid value: [\"{ip}\"]: {why}");
    for (spec, refused) in [
        (json!({"ports": ports}), None),
        (json!({"ports": ports, "clusterIP": "10.96.5.5"}), None),
        (
            json!({"ports": ports, "clusterIP": "10.96.5.5"}),
            Some(address("10.96.5.5", taken)),
        ),
        (
            json!({"ports": ports, "clusterIP": "10.9.5.5"}),
            Some(address("10.9.5.5", &foreign("10.9.5.5"))),
        ),
        (
            json!({"ports": ports, "clusterIP": "10.96.255.255"}),
            Some(address("10.96.255.255", &foreign("10.96.255.255"))),
        ),
        (
            json!({"ports": ports, "clusterIP": "fd00::1"}),
            Some(
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"
                    .to_owned(),
            ),
        ),
        (json!({"ports": ports, "type": "NodePort"}), None),
        (json!({"ports": chosen, "type": "NodePort"}), None),
        (
            json!({"ports": chosen, "type": "NodePort"}),
            Some(
                "spec.ports[1].nodePort: Invalid value: 30123: provided port is already allocated"
                    .to_owned(),
            ),
        ),
    ] {
        let name = format!("s{}", uuid::Uuid::new_v4());
        let made = fixture.create(path, service(&name, spec.clone())).await;
        let told = refused.map(|why| json!(format!("Service \"{name}\" is invalid: {why}")));
        match told {
            None => assert_eq!(made.code, 201, "{}", made.body),
            Some(told) => assert_eq!((made.code, &made.body["message"]), (422, &told)),
        }
    }
    let dry = service("dry", json!({"ports": ports, "type": "NodePort"}));
    let dry = fixture.create(&format!("{path}?dryRun=All"), dry).await;
    assert_eq!(dry.code, 201);
    // The cache of Services hears of them a moment later.
    fixture.get(path).await;
    fixture.get("/apis/networking.k8s.io/v1/ipaddresses").await;
    let metrics = page(&fixture).await;
    let cidr = "{cidr=\"10.96.0.0/16\"";
    for (name, value) in [
        // With the address of the `kubernetes` Service.
        (format!("clusterip_allocator_allocated_ips{cidr}}}"), 5.0),
        (
            format!("clusterip_allocator_available_ips{cidr}}}"),
            65529.0,
        ),
        (
            format!("clusterip_allocator_allocation_total{cidr},scope=\"dynamic\"}}"),
            4.0,
        ),
        (
            format!("clusterip_allocator_allocation_total{cidr},scope=\"static\"}}"),
            2.0,
        ),
        (
            format!("clusterip_allocator_allocation_errors_total{cidr},scope=\"static\"}}"),
            1.0,
        ),
        ("nodeport_allocator_allocated_ports".to_owned(), 4.0),
        ("nodeport_allocator_available_ports".to_owned(), 2764.0),
        (
            "nodeport_allocator_allocation_total{scope=\"dynamic\"}".to_owned(),
            3.0,
        ),
        (
            "nodeport_allocator_allocation_total{scope=\"static\"}".to_owned(),
            1.0,
        ),
        (
            "nodeport_allocator_allocation_errors_total{scope=\"static\"}".to_owned(),
            1.0,
        ),
    ] {
        let found = metrics.get(&format!("kube_apiserver_{name}"));
        assert_eq!(found, Some(&value), "{name}");
    }
}

#[tokio::test]
async fn it_is_measured_how_long_certificates_of_clients_are_good() {
    let fixture = Fixture::start().await;
    let mut connection = fixture.connect().await;
    for _ in 0..2 {
        let answer = send(&mut connection, "GET", "/version", &[], Bytes::new()).await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a body");
    }
    let metrics = page(&fixture).await;
    let count = |rest: &str| {
        let name = format!("apiserver_client_certificate_expiration_seconds_{rest}");
        metrics.get(&name).copied()
    };
    assert_eq!(count("count"), Some(2.0));
    assert_eq!(count("bucket{le=\"0\"}"), Some(0.0));
    assert_eq!(count("bucket{le=\"2592000\"}"), Some(0.0));
}
