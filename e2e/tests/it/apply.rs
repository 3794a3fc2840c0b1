//! Both ways of `kubectl apply`, diff, patches, field ownership.

use corral_e2e::Cluster;

const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1', b: '2'}\n";

#[test]
fn apply_diff_and_patch_work_with_kubectl() {
    let cluster = Cluster::up();
    assert_eq!(cluster.apply(CONFIG), "configmap/c created\n");
    assert_eq!(cluster.apply(CONFIG), "configmap/c unchanged\n");
    let changed = CONFIG.replace("b: '2'", "d: '4'");
    let diff = cluster.kubectl_with_input(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.code, Some(1), "{}", diff.err);
    assert!(
        diff.out.contains("-  b: \"2\"") && diff.out.contains("+  d: \"4\""),
        "{}",
        diff.out
    );
    assert_eq!(cluster.apply(&changed), "configmap/c configured\n");
    assert_eq!(
        cluster.jsonpath(&["cm", "c"], "{.data}"),
        r#"{"a":"1","d":"4"}"#
    );

    for (kind, patch) in [
        ("strategic", r#"{"data":{"a":"x"}}"#),
        ("merge", r#"{"data":{"d":null}}"#),
        ("json", r#"[{"op":"add","path":"/data/e","value":"5"}]"#),
    ] {
        cluster.kubectl(&["patch", "cm", "c", "--type", kind, "-p", patch]);
    }
    assert_eq!(
        cluster.jsonpath(&["cm", "c"], "{.data}"),
        r#"{"a":"x","e":"5"}"#
    );
}

#[test]
fn server_side_apply_tells_conflicts_and_takes_over_by_force() {
    let cluster = Cluster::up();
    let ours = [
        "apply",
        "--server-side",
        "--field-manager",
        "ours",
        "-f",
        "-",
    ];
    assert!(cluster.kubectl_with_input(&ours, CONFIG).ok);
    let theirs = [
        "apply",
        "--server-side",
        "--field-manager",
        "theirs",
        "-f",
        "-",
    ];
    let other = CONFIG.replace("a: '1'", "a: '9'");
    let conflict = cluster.kubectl_with_input(&theirs, &other);
    assert!(!conflict.ok);
    assert!(
        conflict.err.contains("conflict with \"ours\": .data.a"),
        "{}",
        conflict.err
    );
    let mut force = theirs.to_vec();
    force.push("--force-conflicts");
    assert!(cluster.kubectl_with_input(&force, &other).ok);
    assert_eq!(cluster.jsonpath(&["cm", "c"], "{.data.a}"), "9");
    let managers = cluster.kubectl(&[
        "get",
        "cm",
        "c",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ]);
    assert_eq!(managers, "ours theirs");
}
