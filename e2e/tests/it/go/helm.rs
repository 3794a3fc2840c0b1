//! Helm, unmodified: a chart with hooks, tests and a kind of its own lives its whole life.

use std::process::{Command, Output};

use corral_e2e::{Cluster, root};

/// Helm against a cluster, with nothing of whoever runs the tests.
struct Helm<'a> {
    cluster: &'a Cluster,
    home: tempfile::TempDir,
}

impl Helm<'_> {
    fn output(&self, args: &[&str]) -> Output {
        let home = |name: &str| self.home.path().join(name);
        Command::new(root().join(".cache/clients/helm"))
            .args(args)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HELM_CACHE_HOME", home("cache"))
            .env("HELM_CONFIG_HOME", home("config"))
            .env("HELM_DATA_HOME", home("data"))
            .output()
            .expect("helm is built; run cargo xtask clients-go")
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "helm {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_tested_and_uninstalled() {
    let cluster = Cluster::up();
    let home = tempfile::tempdir().expect("a directory");
    let helm = Helm {
        cluster: &cluster,
        home,
    };
    let chart = root().join("e2e/charts/bakery").display().to_string();
    let wait = ["--wait", "--timeout=90s"];
    helm.run(&[&["install", "corner", &chart], &wait[..]].concat());
    let logs = |job: &str| cluster.kubectl(&["logs", &format!("job/corner-{job}")]);
    assert_eq!(logs("pre-install"), "pre-install\n");
    assert_eq!(
        cluster.jsonpath(&["oven", "corner"], "{.spec.degrees}"),
        "220"
    );
    let taste = || helm.run(&["test", "corner", "--timeout=60s"]);
    assert!(taste().contains("Phase:          Succeeded"));

    let ready = || cluster.jsonpath(&["deployment", "corner"], "{.status.readyReplicas}");
    let bread = || cluster.jsonpath(&["configmap", "corner"], "{.data.bread}");
    let changed = ["--set=replicas=2,bread=wheat"];
    helm.run(&[&["upgrade", "corner", &chart], &changed[..], &wait[..]].concat());
    assert_eq!((ready().as_str(), bread().as_str()), ("2", "wheat"));
    assert_eq!(logs("post-upgrade"), "post-upgrade\n");
    taste();
    helm.run(&[&["rollback", "corner", "1"], &wait[..]].concat());
    assert_eq!((ready().as_str(), bread().as_str()), ("1", "rye"));
    taste();
    let history = helm.run(&["history", "corner", "-o", "json"]);
    assert!(history.contains("Rollback to 1"), "{history}");
    // What the server refuses, Helm tells.
    cluster.kubectl(&["create", "quota", "none", "--hard=count/deployments.apps=0"]);
    cluster.wait("the quota to be known", || {
        !cluster
            .jsonpath(&["quota", "none"], "{.status.hard}")
            .is_empty()
    });
    let refused = helm.output(&["install", "other", &chart, "--no-hooks"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && told.contains("exceeded quota"),
        "{told}"
    );

    helm.run(&[&["uninstall", "other", "--no-hooks"], &wait[..]].concat());
    helm.run(&[&["uninstall", "corner"], &wait[..]].concat());
    assert_eq!(
        cluster.kubectl(&[
            "get",
            "deploy,svc,oven",
            "-l",
            "app.kubernetes.io/managed-by=Helm",
            "-o",
            "name"
        ]),
        ""
    );
    let left = cluster.try_kubectl(&["get", "deployment", "corner"]);
    assert!(left.err.contains("NotFound"), "{left:?}");
}
