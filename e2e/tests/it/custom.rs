//! Kinds and rules of a user's own, with kubectl: CustomResourceDefinitions and admission policies.

use corral_e2e::Cluster;

const DEFINITION: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [schedule]
            x-kubernetes-validations:
            - {rule: 'self.replicas <= 5 || self.image != ''nginx''', message: too many of the default image}
            - {rule: 'self.schedule == oldSelf.schedule', message: the schedule stays as it is}
            properties:
              schedule: {type: string, pattern: '^[0-9*/ ]+$', description: When it runs.}
              image: {type: string, default: nginx}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
          status: {type: object, properties: {replicas: {type: integer}, labelSelector: {type: string}}}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.labelSelector}
    additionalPrinterColumns:
    - {name: Schedule, type: string, jsonPath: .spec.schedule}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    selectableFields: [{jsonPath: .spec.image}]
";

const OBJECT: &str = "
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: NAME}
spec: SPEC
";

fn object(name: &str, spec: &str) -> String {
    OBJECT.replace("NAME", name).replace("SPEC", spec)
}

#[test]
fn what_objects_of_a_new_kind_own_goes_with_them() {
    let cluster = Cluster::server_with(&[], None);
    cluster.wait("the controllers to run", || {
        cluster.try_kubectl(&["get", "sa", "default"]).ok
    });
    cluster.apply(DEFINITION);
    cluster.wait("the kind is served", || {
        cluster.try_kubectl(&["get", "ct"]).ok
    });
    cluster.apply(&object("a", "{schedule: '* * * * *'}"));
    let uid = cluster.jsonpath(&["ct", "a"], "{.metadata.uid}");
    let owner = "apiVersion: stable.example.com/v1, kind: CronTab, name: a";
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{{{owner}, uid: {uid}}}]\n"
    ));
    cluster.kubectl(&["delete", "ct", "a"]);
    cluster.wait("its dependent to go", || {
        let left = cluster.try_kubectl(&["get", "cm", "owned"]);
        left.err.contains("NotFound")
    });
}

#[test]
fn a_kind_of_a_users_own_is_like_any_other() {
    let mut cluster = Cluster::up();
    cluster.apply(DEFINITION);
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/crontabs.stable.example.com",
    ]);
    cluster.wait("the kind is served", || {
        cluster.try_kubectl(&["get", "ct"]).ok
    });
    for format in ["plaintext", "plaintext-openapiv2"] {
        let told = cluster.kubectl(&["explain", "crontab.spec.schedule", "--output", format]);
        assert!(told.contains("When it runs."), "{told}");
    }

    let apply = |manifest: &str| cluster.kubectl_with_input(&["apply", "-f", "-"], manifest);
    let made = apply(&object("a", "{schedule: '* * * * *'}"));
    assert!(made.ok, "{}", made.err);
    assert_eq!(cluster.jsonpath(&["ct", "a"], "{.spec.image}"), "nginx");
    let row = cluster.kubectl(&["get", "all", "--no-headers"]);
    assert!(
        row.contains("crontab.stable.example.com/a   * * * * *   1"),
        "{row}"
    );
    let refused = [
        (
            "{schedule: '* * * * *', replicas: 11}",
            "spec.replicas in body should be less than or equal to 10",
        ),
        (
            "{schedule: '* * * * *', replicas: 6}",
            "too many of the default image",
        ),
        ("{schedule: 1 * * * *}", "the schedule stays as it is"),
        ("{schedule: never}", "should match '^[0-9*/ ]+$'"),
        ("{}", "spec.schedule: Required value"),
        (
            "{schedule: '* * * * *', nothing: 1}",
            "unknown field \"spec.nothing\"",
        ),
    ];
    for (spec, why) in refused {
        let said = apply(&object("a", spec));
        assert!(!said.ok && said.err.contains(why), "{spec}: {}", said.err);
    }

    cluster.kubectl(&["scale", "ct/a", "--replicas=3"]);
    cluster.kubectl(&[
        "patch",
        "ct/a",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"replicas":2}}"#,
    ]);
    let scale = cluster.kubectl(&[
        "get",
        "ct/a",
        "--subresource=scale",
        "-o",
        "jsonpath={.spec.replicas} {.status.replicas}",
    ]);
    assert_eq!(scale, "3 2");
    apply(&object("b", "{schedule: '0 * * * *', image: mine}"));
    let chosen = cluster.kubectl(&[
        "get",
        "ct",
        "--field-selector",
        "spec.image=mine",
        "-o",
        "name",
    ]);
    assert_eq!(chosen.trim(), "crontab.stable.example.com/b");

    // A server that starts again serves it from the first moment on.
    cluster.terminate();
    cluster.start();
    let kept = cluster.kubectl(&["get", "ct", "a", "-o", "jsonpath={.spec.replicas}"]);
    assert_eq!(kept, "3");
    cluster.kubectl(&["delete", "crd", "crontabs.stable.example.com"]);
    cluster.wait("the kind is gone", || {
        !cluster.try_kubectl(&["get", "ct"]).ok
    });
}

const POLICIES: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  validations:
  - expression: object.spec.replicas <= int(params.data.max)
    messageExpression: "'no more than ' + params.data.max"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: replicas}
spec:
  policyName: replicas
  validationActions: [Deny]
  paramRef: {name: limits, namespace: default, parameterNotFoundAction: Deny}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: label}
spec:
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {"team": "blue"}}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: label}
spec: {policyName: label}
"#;

#[test]
fn policies_of_an_administrator_hold_for_everybody() {
    let cluster = Cluster::up();
    cluster.kubectl(&["create", "configmap", "limits", "--from-literal=max=2"]);
    let made = cluster.kubectl_with_input(&["apply", "-f", "-"], POLICIES);
    assert!(made.ok && made.err.is_empty(), "{}", made.err);
    let many = ["create", "deployment", "d", "--image=i", "--replicas=3"];
    let dry: Vec<&str> = many.into_iter().chain(["--dry-run=server"]).collect();
    cluster.wait("the policy holds", || !cluster.try_kubectl(&dry).ok);
    assert_eq!(
        cluster.try_kubectl(&many).err.trim(),
        "error: failed to create deployment: deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'replicas' \
         with binding 'replicas' denied request: no more than 2"
    );
    cluster.kubectl(&["create", "deployment", "d", "--image=i", "--replicas=0"]);
    let team = cluster.jsonpath(&["deployment", "d"], "{.metadata.labels.team}");
    assert_eq!(team, "blue");
    // What the server's own controllers write is not held up by rules for users.
    let scaled = cluster.try_kubectl(&["scale", "deployment", "d", "--replicas=5"]);
    assert!(
        scaled.ok,
        "the rule names deployments, not their scale: {}",
        scaled.err
    );
    let broken = POLICIES.replace("object.spec.replicas <=", "object.spec.replicas <");
    let broken = broken.replace("int(params", "int(nothing");
    let refused = cluster.kubectl_with_input(&["apply", "-f", "-"], &broken);
    assert!(
        refused.err.contains("undeclared reference to 'nothing'"),
        "{}",
        refused.err
    );
}
