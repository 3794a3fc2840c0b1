"""What Kubernetes' own Python client needs from an API server, checked against a real one.

Run with a kubeconfig as the only argument. Each function below is one property; the first that fails ends the run.
"""

import json
import sys
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"
# How long anything is waited for; machines that run tests are slow and shared.
WAIT_MAX = 60
HTTP_SERVER = (
    "import http.server as h; s = h.HTTPServer(('127.0.0.1', 8099), h.SimpleHTTPRequestHandler); "
    "print('serving', flush=True); s.serve_forever()"
)


def config_map(name, data, labels=None):
    metadata = client.V1ObjectMeta(name=name, labels=labels)
    return client.V1ConfigMap(metadata=metadata, data=data)


def refused(call, status, reason):
    """Makes a call that must be refused, and answers the Status that came."""
    try:
        call()
    except ApiException as error:
        assert (error.status, error.reason) == (status, reason), error
        body = json.loads(error.body)
        assert (body["kind"], body["code"], body["status"]) == ("Status", status, "Failure"), body
        return body
    raise AssertionError(f"not refused with {status}")


def objects_are_created_read_replaced_and_deleted(core, apps):
    made = core.create_namespaced_config_map(NAMESPACE, config_map("c", {"a": "1"}))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo, made
    read = core.read_namespaced_config_map("c", NAMESPACE)
    assert (read.data, read.metadata.uid) == ({"a": "1"}, made.metadata.uid)
    read.data["b"] = "2"
    replaced = core.replace_namespaced_config_map("c", NAMESPACE, read)
    assert replaced.metadata.resource_version != made.metadata.resource_version
    # `read` has the version from before.
    conflict = refused(
        lambda: core.replace_namespaced_config_map("c", NAMESPACE, read), 409, "Conflict"
    )
    assert conflict["reason"] == "Conflict" and conflict["details"]["name"] == "c", conflict
    status = core.delete_namespaced_config_map("c", NAMESPACE)
    assert status.status == "Success", status
    gone = refused(lambda: core.read_namespaced_config_map("c", NAMESPACE), 404, "Not Found")
    assert gone["message"] == 'configmaps "c" not found' and gone["reason"] == "NotFound", gone

    labels = {"app": "typed"}
    container = client.V1Container(
        name="c", image="corral.dev/host", command=["sleep", "1000"],
        resources=client.V1ResourceRequirements(requests={"cpu": "10m", "memory": "16Mi"}),
    )
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=0),
    )
    spec = client.V1DeploymentSpec(
        replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template
    )
    deployment = client.V1Deployment(metadata=client.V1ObjectMeta(name="typed"), spec=spec)
    made = apps.create_namespaced_deployment(NAMESPACE, deployment, field_validation="Strict")
    assert made.spec.strategy.rolling_update.max_surge == "25%", made.spec.strategy
    scale = apps.read_namespaced_deployment_scale("typed", NAMESPACE)
    # Without a version: the controller writes the status meanwhile.
    scale.spec.replicas, scale.metadata.resource_version = 2, None
    apps.replace_namespaced_deployment_scale("typed", NAMESPACE, scale)
    available = lambda: apps.read_namespaced_deployment_status("typed", NAMESPACE).status
    wait_for("two replicas", lambda: available().available_replicas == 2)
    apps.delete_namespaced_deployment("typed", NAMESPACE, propagation_policy="Foreground")
    pods = lambda: core.list_namespaced_pod(NAMESPACE, label_selector="app=typed").items
    wait_for("the pods to go with their owner", lambda: not pods())
    rehearsed = core.create_namespaced_config_map(
        NAMESPACE, config_map("dry", {}), dry_run="All"
    )
    assert rehearsed.metadata.uid
    refused(lambda: core.read_namespaced_config_map("dry", NAMESPACE), 404, "Not Found")


def errors_are_status_objects(core, kubeconfig):
    core.create_namespaced_config_map(NAMESPACE, config_map("twice", {}))
    again = lambda: core.create_namespaced_config_map(NAMESPACE, config_map("twice", {}))
    assert refused(again, 409, "Conflict")["reason"] == "AlreadyExists"
    wrong = lambda: core.create_namespaced_config_map(NAMESPACE, config_map("NO", {}))
    invalid = refused(wrong, 422, "Unprocessable Entity")
    assert invalid["reason"] == "Invalid", invalid
    assert invalid["details"]["causes"][0]["field"] == "metadata.name", invalid
    nobody = config.new_client_from_config(kubeconfig)
    nobody.set_default_header("Impersonate-User", "nobody")
    listing = lambda: client.CoreV1Api(nobody).list_namespaced_secret(NAMESPACE)
    assert refused(listing, 403, "Forbidden")["reason"] == "Forbidden"
    stranger = config.new_client_from_config(kubeconfig)
    stranger.configuration.cert_file = stranger.configuration.key_file = None
    stranger = client.ApiClient(stranger.configuration)
    stranger.set_default_header("Authorization", "Bearer nonsense")
    listing = lambda: client.CoreV1Api(stranger).list_namespaced_secret(NAMESPACE)
    assert refused(listing, 401, "Unauthorized")["reason"] == "Unauthorized"


def every_type_of_patch_is_taken(core, api):
    core.create_namespaced_service(NAMESPACE, client.V1Service(
        metadata=client.V1ObjectMeta(name="s"),
        spec=client.V1ServiceSpec(ports=[client.V1ServicePort(name="a", port=80)]),
    ))

    def patch(body, kind):
        core.patch_namespaced_service("s", NAMESPACE, body, _content_type=kind)
        ports = core.read_namespaced_service("s", NAMESPACE).spec.ports
        return [(port.name, port.port) for port in ports]

    more = {"spec": {"ports": [{"name": "b", "port": 81}]}}
    merged = patch(more, "application/strategic-merge-patch+json")
    assert sorted(merged) == [("a", 80), ("b", 81)], merged
    assert patch(more, "application/merge-patch+json") == [("b", 81)]
    operations = [{"op": "replace", "path": "/spec/ports/0/port", "value": 82}]
    assert patch(operations, "application/json-patch+json") == [("b", 82)]
    # Left to the client, a list is a JSON patch and a map a strategic one.
    core.patch_namespaced_service("s", NAMESPACE, {"metadata": {"labels": {"l": "v"}}})
    assert core.read_namespaced_service("s", NAMESPACE).metadata.labels == {"l": "v"}
    applied = core.patch_namespaced_config_map(
        "applied", NAMESPACE,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"},
         "data": {"a": "1"}},
        field_manager="battery", force=True, _content_type="application/apply-patch+yaml",
    )
    assert applied.metadata.managed_fields[0].operation == "Apply", applied.metadata
    missing = lambda: core.patch_namespaced_config_map("missing", NAMESPACE, {"data": {}})
    refused(missing, 404, "Not Found")


def a_watch_tells_changes_resumes_and_expires(core):
    begin = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    first = core.create_namespaced_config_map(NAMESPACE, config_map("w", {"n": "1"}))
    core.patch_namespaced_config_map("w", NAMESPACE, {"data": {"n": "2"}})
    core.delete_namespaced_config_map("w", NAMESPACE)

    def events(version, count, **options):
        seen = []
        watcher = watch.Watch()
        changes = watcher.stream(
            core.list_namespaced_config_map, NAMESPACE, resource_version=version,
            timeout_seconds=WAIT_MAX, **options,
        )
        for event in changes:
            seen.append((event["type"], event["object"]))
            if len(seen) == count:
                watcher.stop()
        return seen

    name = "metadata.name=w"
    seen = events(begin, 3, field_selector=name)
    assert [(kind, item.data["n"]) for kind, item in seen] == [
        ("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2"),
    ], seen
    resumed = events(first.metadata.resource_version, 2, field_selector=name)
    assert [kind for kind, _ in resumed] == ["MODIFIED", "DELETED"], resumed

    # The end of the initial state is a bookmark; the client shows those as plain objects of the type.
    bookmarked = None
    watcher = watch.Watch()
    initial = watcher.stream(
        core.list_namespaced_config_map, NAMESPACE, allow_watch_bookmarks=True,
        send_initial_events=True, resource_version_match="NotOlderThan",
        timeout_seconds=WAIT_MAX,
    )
    names = []
    for event in initial:
        metadata = event["raw_object"]["metadata"]
        if event["type"] == "BOOKMARK":
            bookmarked = metadata
            watcher.stop()
        else:
            names.append(metadata["name"])
    assert bookmarked["annotations"] == {"k8s.io/initial-events-end": "true"}, bookmarked
    assert int(bookmarked["resourceVersion"]) >= int(begin) and "twice" in names, names
    # From a revision that never was, a watch says how it is: too large, to be tried again.
    future = lambda: core.list_namespaced_config_map(
        NAMESPACE, resource_version="999999999", resource_version_match="NotOlderThan"
    )
    refused(future, 504, "Gateway Timeout")


def lists_are_paged_and_selected(core):
    for number in range(5):
        labels = {"page": "yes", "odd": str(number % 2)}
        core.create_namespaced_config_map(NAMESPACE, config_map(f"p{number}", {}, labels))
    names, token, remaining = [], None, []
    while True:
        page = core.list_namespaced_config_map(
            NAMESPACE, limit=2, _continue=token, label_selector="page"
        )
        assert len(page.items) <= 2
        names += [item.metadata.name for item in page.items]
        remaining.append(page.metadata.remaining_item_count)
        token = page.metadata._continue
        # One that is made between two pages belongs to none: a list is of one moment.
        if len(names) == 2:
            labels = {"page": "yes"}
            core.create_namespaced_config_map(NAMESPACE, config_map("p9", {}, labels))
        if not token:
            break
    assert names == ["p0", "p1", "p2", "p3", "p4"], names
    odd = core.list_namespaced_config_map(NAMESPACE, label_selector="page,odd in (1)")
    assert [item.metadata.name for item in odd.items] == ["p1", "p3"]
    refused(
        lambda: core.list_namespaced_config_map(NAMESPACE, limit=1, _continue="nonsense"),
        400, "Bad Request",
    )
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page").items


def start_pod(core):
    container = client.V1Container(
        name="c", image="corral.dev/host", command=["python3", "-c", HTTP_SERVER],
        working_dir="/etc",
    )
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name="p"), spec=spec)
    core.create_namespaced_pod(NAMESPACE, pod)
    phase = lambda: core.read_namespaced_pod_status("p", NAMESPACE).status.phase
    wait_for("the pod to run", lambda: phase() == "Running")
    # What listens says so.
    wait_for("the pod to serve", lambda: log_of(core) == "serving\n")


def log_of(core, **options):
    """The log as it came: preloaded, this version of the client answers the repr of bytes."""
    answer = core.read_namespaced_pod_log("p", NAMESPACE, _preload_content=False, **options)
    return answer.data.decode()


def a_log_is_read_and_followed(core):
    log = log_of(core, timestamps=True, tail_lines=1)
    assert log.endswith("Z serving\n"), log
    lines = watch.Watch().stream(
        core.read_namespaced_pod_log, "p", NAMESPACE, follow=True, since_seconds=3600
    )
    assert next(lines) == "serving"
    refused(
        lambda: core.read_namespaced_pod_log("p", NAMESPACE, container="none"),
        400, "Bad Request",
    )


def a_command_is_run_over_a_websocket(core):
    def run(*command, **options):
        return stream(
            core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=list(command),
            stdout=True, stderr=True, **{"stdin": False, "tty": False, **options},
        )

    assert run("echo", "hello") == "hello\n"
    shell = run("sh", stdin=True, _preload_content=False)
    shell.write_stdin("echo out; echo err >&2; exit 3\n")
    shell.run_forever(timeout=WAIT_MAX)
    assert shell.read_stdout() == "out\n" and shell.read_stderr() == "err\n"
    assert shell.returncode == 3, shell.returncode
    terminal = run("sh", "-c", "tty; stty size", tty=True, stdin=True, _preload_content=False)
    terminal.run_forever(timeout=WAIT_MAX)
    assert terminal.read_stdout().startswith("/dev/pts/")
    binary = run("head", "-c", "300000", "/dev/zero", _preload_content=False, binary=True)
    binary.run_forever(timeout=WAIT_MAX)
    assert len(binary.read_stdout()) == 300000


def a_port_is_forwarded(core):
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", NAMESPACE, ports="8099")
    connection = forward.socket(8099)
    connection.settimeout(WAIT_MAX)
    connection.sendall(b"GET /debian_version HTTP/1.0\r\n\r\n")
    answer = b""
    while part := connection.recv(65536):
        answer += part
    assert answer.startswith(b"HTTP/1.0 200"), answer
    assert forward.error(8099) is None, forward.error(8099)
    nobody = portforward(core.connect_get_namespaced_pod_portforward, "p", NAMESPACE, ports="8098")
    closed = nobody.socket(8098)
    closed.settimeout(WAIT_MAX)
    assert closed.recv(1) == b""
    assert "8098" in nobody.error(8098), nobody.error(8098)


def a_token_is_made_and_used(core, kubeconfig):
    core.create_namespaced_service_account(
        NAMESPACE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot"))
    )
    request = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)
    )
    made = core.create_namespaced_service_account_token("robot", NAMESPACE, request)
    settings = config.new_client_from_config(kubeconfig).configuration
    settings.cert_file = settings.key_file = None
    robot = client.ApiClient(settings)
    robot.set_default_header("Authorization", "Bearer " + made.status.token)
    who = client.AuthenticationV1Api(robot).create_self_subject_review(
        client.V1SelfSubjectReview()
    )
    assert who.status.user_info.username == f"system:serviceaccount:{NAMESPACE}:robot", who
    reading = lambda: client.CoreV1Api(robot).list_namespaced_config_map(NAMESPACE)
    refused(reading, 403, "Forbidden")
    rights = client.RbacAuthorizationV1Api(core.api_client)
    rights.create_namespaced_role_binding(NAMESPACE, client.V1RoleBinding(
        metadata=client.V1ObjectMeta(name="robot"),
        role_ref=client.V1RoleRef(
            api_group="rbac.authorization.k8s.io", kind="ClusterRole", name="view"
        ),
        subjects=[client.RbacV1Subject(kind="ServiceAccount", name="robot", namespace=NAMESPACE)],
    ))
    wait_for("the right to hold", lambda: succeeds(reading))


def the_dynamic_client_finds_kinds_by_itself(api):
    found = dynamic.DynamicClient(api)
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "d"}, "data": {"a": "1"}}
    made = maps.create(body=body, namespace=NAMESPACE)
    assert made.data.a == "1"
    applied = maps.server_side_apply(
        body={**body, "data": {"a": "2"}}, namespace=NAMESPACE,
        field_manager="dynamic", force_conflicts=True,
    )
    assert applied.data.a == "2"
    patched = maps.patch(
        name="d", namespace=NAMESPACE, body={"data": {"a": None}},
        content_type="application/merge-patch+json",
    )
    assert not patched.data, patched
    version = maps.get(namespace=NAMESPACE).metadata.resourceVersion
    maps.delete(name="d", namespace=NAMESPACE)
    for event in maps.watch(namespace=NAMESPACE, resource_version=version, timeout=WAIT_MAX):
        assert (event["type"], event["object"].metadata.name) == ("DELETED", "d"), event
        break
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.subresources["scale"].kind == "Scale"
    nothing = lambda: found.resources.get(api_version="v1", kind="Nothing")
    try:
        nothing()
    except dynamic.exceptions.ResourceNotFoundError:
        pass
    else:
        raise AssertionError("a kind was found that is not there")
    missing = lambda: maps.get(name="d", namespace=NAMESPACE)
    try:
        missing()
    except dynamic.exceptions.NotFoundError as error:
        assert error.summary() == 'configmaps "d" not found', error.summary()
    else:
        raise AssertionError("a deleted object was found")


def manifests_are_applied(api, core):
    manifest = [
        {"apiVersion": "v1", "kind": "ConfigMap",
         "metadata": {"name": "manifest", "namespace": NAMESPACE}},
        {"apiVersion": "batch/v1", "kind": "Job",
         "metadata": {"name": "job", "namespace": NAMESPACE},
         "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [
             {"name": "c", "image": "corral.dev/host", "command": ["true"]}]}}}},
    ]
    utils.create_from_yaml(api, yaml_objects=manifest)
    job = lambda: client.BatchV1Api(api).read_namespaced_job_status("job", NAMESPACE).status
    wait_for("the job", lambda: job().succeeded == 1)


def succeeds(call):
    try:
        call()
    except ApiException:
        return False
    return True


def wait_for(what, holds):
    deadline = time.monotonic() + WAIT_MAX
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def main(kubeconfig):
    api = config.new_client_from_config(kubeconfig)
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().minor == "36"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    wait_for(
        "the service account",
        lambda: succeeds(lambda: core.read_namespaced_service_account("default", NAMESPACE)),
    )
    for check, arguments in [
        (objects_are_created_read_replaced_and_deleted, (core, apps)),
        (errors_are_status_objects, (core, kubeconfig)),
        (every_type_of_patch_is_taken, (core, api)),
        (a_watch_tells_changes_resumes_and_expires, (core,)),
        (lists_are_paged_and_selected, (core,)),
        (start_pod, (core,)),
        (a_log_is_read_and_followed, (core,)),
        (a_command_is_run_over_a_websocket, (core,)),
        (a_port_is_forwarded, (core,)),
        (a_token_is_made_and_used, (core, kubeconfig)),
        (the_dynamic_client_finds_kinds_by_itself, (api,)),
        (manifests_are_applied, (api, core)),
    ]:
        print(check.__name__, flush=True)
        check(*arguments)
    core.delete_namespace(NAMESPACE)
    print("passed")


if __name__ == "__main__":
    main(sys.argv[1])
