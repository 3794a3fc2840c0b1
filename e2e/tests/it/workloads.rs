//! Deployments, Jobs and CronJobs with real containers.

use corral_e2e::Cluster;

fn deployment(replicas: u32, command: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - {{name: web, image: corral.dev/host, command: [sh, -c, '{command}']}}\n"
    )
}

#[test]
fn a_deployment_rolls_out_scales_and_rolls_back() {
    let cluster = Cluster::up();
    cluster.apply(&deployment(2, "sleep 1000"));
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    cluster.kubectl(&["scale", "deploy/web", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert_eq!(
        cluster.jsonpath(&["deploy", "web"], "{.status.readyReplicas}"),
        "3"
    );

    cluster.apply(&deployment(3, "sleep 2000"));
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let history = cluster.kubectl(&["rollout", "history", "deploy/web"]);
    assert!(
        history.contains("\n1 ") && history.contains("\n2 "),
        "{history}"
    );
    cluster.kubectl(&["rollout", "undo", "deploy/web"]);
    cluster.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert_eq!(
        cluster.jsonpath(
            &["deploy", "web"],
            "{.spec.template.spec.containers[0].command[2]}"
        ),
        "sleep 1000"
    );

    cluster.kubectl(&["delete", "deploy/web", "--timeout=60s"]);
    cluster.wait("its pods to be gone", || {
        cluster.kubectl(&["get", "pods", "--no-headers"]).is_empty()
    });
}

#[test]
fn a_job_runs_to_completion_and_its_log_is_kept() {
    let cluster = Cluster::up();
    cluster.kubectl(&[
        "create",
        "job",
        "hello",
        "--image=corral.dev/host",
        "--",
        "sh",
        "-c",
        "echo hello from a job",
    ]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/hello",
        "--timeout=60s",
    ]);
    assert_eq!(
        cluster.kubectl(&["logs", "job/hello"]),
        "hello from a job\n"
    );
    assert_eq!(
        cluster.jsonpath(&["job", "hello"], "{.status.succeeded}"),
        "1"
    );
}

#[test]
fn a_failing_job_stops_at_its_backoff_limit() {
    let cluster = Cluster::up();
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: bad}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      \
               restartPolicy: Never\n      containers: [{name: c, image: corral.dev/host, command: [sh, -c, 'exit 3']}]\n";
    cluster.apply(job);
    cluster.kubectl(&["wait", "--for=condition=failed", "job/bad", "--timeout=60s"]);
    let reason = cluster.jsonpath(
        &["job", "bad"],
        "{.status.conditions[?(@.type==\"Failed\")].reason}",
    );
    assert_eq!(reason, "BackoffLimitExceeded");
    let code = cluster.jsonpath(
        &["pods", "-l", "job-name=bad"],
        "{.items[0].status.containerStatuses[0].state.terminated.exitCode}",
    );
    assert_eq!(code, "3");
}

#[test]
fn a_job_comes_out_of_a_cron_job() {
    let cluster = Cluster::up();
    cluster.kubectl(&[
        "create",
        "cronjob",
        "report",
        "--image=corral.dev/host",
        "--schedule=0 0 1 1 *",
        "--",
        "echo",
        "report",
    ]);
    cluster.kubectl(&["create", "job", "now", "--from=cronjob/report"]);
    cluster.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/now",
        "--timeout=60s",
    ]);
    assert_eq!(cluster.kubectl(&["logs", "job/now"]), "report\n");
}
