//! Kustomize, unmodified, on its own and within kubectl: overlays are applied, changed and pruned.

use std::process::Command;

use corral_e2e::{Cluster, Kubectl, root};

/// The shop as the overlays want it, in the words of [`shop`]. The names of ConfigMaps end with a hash of their data.
const MONDAY: &str =
    "2 registry.example/bakery/shop:2 corner-bread-77d58b4k8h corner-baker monday bakery";
const TUESDAY: &str =
    "1 registry.example/bakery/shop:3 corner-bread-4gdcbhdfhh corner-baker  bakery";
const RYE: &str = "corner-bread-77d58b4k8h=rye";
const WHEAT: &str = "corner-bread-4gdcbhdfhh=wheat";

fn overlay(name: &str) -> String {
    let folder = root().join("e2e/kustomize/bakery/overlays").join(name);
    folder.display().to_string()
}

/// What Kustomize builds of an overlay.
#[track_caller]
fn build(name: &str) -> String {
    let output = Command::new(root().join(".cache/clients/kustomize"))
        .args(["build", &overlay(name)])
        .output()
        .expect("kustomize is built; run cargo xtask clients-go");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("manifests are text")
}

/// The Deployment as it is stored.
fn shop(kubectl: Kubectl) -> String {
    let spec = ".spec.template.spec";
    kubectl.run(&[
        "get",
        "deployment",
        "corner-shop",
        "-o",
        &format!(
            "jsonpath={{.spec.replicas}} {{{spec}.containers[*].image}} \
             {{{spec}.containers[0].envFrom[*].configMapRef.name}} {{{spec}.serviceAccountName}} \
             {{{spec}.containers[0].env[*].value}} {{.spec.template.metadata.labels.part-of}}"
        ),
    ])
}

fn ports(kubectl: Kubectl) -> String {
    let ports = "{.spec.ports[*].name} {.spec.ports[*].port}";
    let path = format!("jsonpath={ports}");
    kubectl.run(&["get", "service", "corner-shop", "-o", &path])
}

/// The generated ConfigMaps with their data.
fn bread(kubectl: Kubectl) -> Vec<String> {
    let path = r#"jsonpath={range .items[*]}{.metadata.name}={.data.kind}{"\n"}{end}"#;
    let listed = kubectl.run(&["get", "configmap", "-l", "part-of=bakery", "-o", path]);
    let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// Applies with kubectl's sets, which it has behind a gate.
#[track_caller]
fn apply_set(cluster: &Cluster, args: &[&str], manifests: &str) -> String {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(manifests.as_bytes())
        .expect("the file is ours");
    let output = cluster
        .kubectl_command(args)
        .arg(file.path())
        .env("KUBECTL_APPLYSET", "true")
        .output()
        .expect("kubectl is built; run scripts/clients");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn overlays_are_applied_with_kubectls_own_kustomize() {
    let cluster = Cluster::server_with(&[], None);
    for version in ["1.34", "1.35", "1.36"] {
        let namespace = format!("with-{}", version.replace('.', "-"));
        cluster.kubectl(&["create", "namespace", &namespace]);
        let kubectl = cluster.client_of(version, &namespace);
        let told = kubectl.run(&["apply", "-k", &overlay("monday")]);
        assert_eq!(told.matches(" created\n").count(), 4, "{told}");
        assert_eq!(shop(kubectl), MONDAY, "{version}");
        assert_eq!(ports(kubectl), "http metrics 8080 9090", "{version}");
        assert_eq!(bread(kubectl), [RYE], "{version}");
        let again = kubectl.run(&["apply", "-k", &overlay("monday")]);
        assert_eq!(again.matches(" unchanged\n").count(), 4, "{again}");
        let same = kubectl.try_run(&["diff", "-k", &overlay("monday")]);
        assert_eq!((same.code, same.out.as_str()), (Some(0), ""), "{same:?}");

        // What is not in the set by its label stays, whatever else is pruned.
        kubectl.run(&["create", "configmap", "mine"]);
        let prune = ["--prune", "-l", "part-of=bakery"];
        let only = ["--prune-allowlist", "core/v1/ConfigMap"];
        let tuesday = overlay("tuesday");
        let told = kubectl.run(&[&["apply", "-k", &tuesday], &prune[..], &only[..]].concat());
        let pruned = "configmap/corner-bread-77d58b4k8h pruned\n";
        assert!(told.contains(pruned), "{version}: {told}");
        assert_eq!(told.matches(" pruned").count(), 1, "{version}: {told}");
        assert_eq!(shop(kubectl), TUESDAY, "{version}");
        assert_eq!(ports(kubectl), "http 80", "{version}");
        assert_eq!(bread(kubectl), [WHEAT], "{version}");
        kubectl.run(&["get", "configmap", "mine"]);

        kubectl.run(&["delete", "-k", &tuesday]);
        let left = kubectl.run(&[
            "get",
            "deploy,svc,cm,sa",
            "-l",
            "part-of=bakery",
            "-o",
            "name",
        ]);
        assert_eq!(left, "", "{version}");
    }
}

#[test]
fn a_built_overlay_is_applied_on_the_server() {
    let cluster = Cluster::server_with(&[], None);
    let kubectl = cluster.client();
    let apply = ["apply", "--server-side", "-f", "-"];
    let told = kubectl.run_with_input(&apply, &build("monday"));
    let applied = " serverside-applied\n";
    assert_eq!(told.matches(applied).count(), 4, "{told}");
    assert_eq!(shop(kubectl), MONDAY);
    assert_eq!(ports(kubectl), "http metrics 8080 9090");
    assert_eq!(bread(kubectl), [RYE]);
    let owners = |kind: &str, name: &str| {
        let path = "{.metadata.managedFields[?(@.operation==\"Apply\")].manager}";
        cluster.jsonpath(&[kind, name, "--show-managed-fields"], path)
    };
    assert_eq!(owners("deployment", "corner-shop"), "kubectl");
    assert_eq!(owners("service", "corner-shop"), "kubectl");
    let version = || cluster.jsonpath(&["service", "corner-shop"], "{.metadata.resourceVersion}");
    let before = version();
    kubectl.run_with_input(&apply, &build("monday"));
    assert_eq!(version(), before, "nothing was to be written");

    kubectl.run_with_input(&apply, &build("tuesday"));
    assert_eq!(shop(kubectl), TUESDAY);
    assert_eq!(ports(kubectl), "http 80");
    // Nobody pruned.
    assert_eq!(bread(kubectl), [WHEAT, RYE]);
    cluster.wait("the Deployment to roll out with the new name", || {
        let path = "jsonpath={..configMapRef.name}";
        let sets = kubectl.run(&["get", "replicasets", "-o", path]);
        sets.contains("corner-bread-4gdcbhdfhh") && sets.contains("corner-bread-77d58b4k8h")
    });
}

#[test]
fn what_left_an_apply_set_is_pruned() {
    let cluster = Cluster::server_with(&[], None);
    let kubectl = cluster.client();
    for (parent, kind, server_side) in [
        ("bakery", "secret", "true"),
        ("configmaps/bakery", "configmap", "false"),
    ] {
        let apply = |manifests: &str| {
            let side = format!("--server-side={server_side}");
            let set = format!("--applyset={parent}");
            let args = ["apply", &side, "--prune", &set, "-f"];
            apply_set(&cluster, &args, manifests)
        };
        let told = apply(&build("monday"));
        assert!(!told.contains("pruned"), "{told}");
        assert_eq!(shop(kubectl), MONDAY);
        let parent_of = |path: &str| cluster.jsonpath(&[kind, "bakery"], path);
        let kinds =
            || parent_of(r"{.metadata.annotations.applyset\.kubernetes\.io/contains-group-kinds}");
        assert_eq!(kinds(), "ConfigMap,Deployment.apps,Service,ServiceAccount");
        let id = parent_of(r"{.metadata.labels.applyset\.kubernetes\.io/id}");
        let part = format!("applyset.kubernetes.io/part-of={id}");
        let members = |what: &str| kubectl.run(&["get", what, "-l", &part, "-o", "name"]);
        let all = "configmap,service,deployment,serviceaccount";
        assert_eq!(members(all).lines().count(), 4);

        // One of a kind that no later revision has, and one that looks alike but is not of the set.
        let ticket = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: ticket}\nspec:\n  schedule: '0 5 * * *'\n  \
                      jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}\n";
        apply(&format!("{}---\n{ticket}", build("monday")));
        assert!(kinds().contains("CronJob.batch"), "{}", kinds());
        kubectl.run(&["create", "configmap", "stranger"]);
        kubectl.run(&["label", "configmap", "stranger", "part-of=bakery"]);

        let told = apply(&build("tuesday"));
        assert!(
            told.contains("configmap/corner-bread-77d58b4k8h pruned\n"),
            "{told}"
        );
        assert!(told.contains("cronjob.batch/ticket pruned\n"), "{told}");
        assert_eq!(told.matches(" pruned\n").count(), 2, "{told}");
        assert_eq!(shop(kubectl), TUESDAY);
        assert_eq!(bread(kubectl), [WHEAT, "stranger="]);
        assert_eq!(members("configmap"), "configmap/corner-bread-4gdcbhdfhh\n");
        assert_eq!(kinds(), "ConfigMap,Deployment.apps,Service,ServiceAccount");

        kubectl.run(&["delete", "deploy,svc,cm,sa", "-l", "part-of=bakery"]);
        kubectl.run(&["delete", kind, "bakery"]);
    }
}
