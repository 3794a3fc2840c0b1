//! Kubernetes' own example of an extension API server, unmodified, as a pod of the cluster whose API it extends.

use corral_e2e::{Cluster, root};

/// What it needs, as its own documentation has it, but with the binaries of this machine.
fn manifest(clients: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: wardle}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: apiserver, namespace: wardle}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: "wardle:system:auth-delegator"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}}
subjects: [{{kind: ServiceAccount, name: apiserver, namespace: wardle}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: wardle-auth-reader, namespace: kube-system}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}}
subjects: [{{kind: ServiceAccount, name: apiserver, namespace: wardle}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: wardle-apiserver}}
rules:
- {{apiGroups: [""], resources: [namespaces], verbs: [get, watch, list]}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations, validatingadmissionpolicies,
    validatingadmissionpolicybindings, mutatingadmissionpolicies, mutatingadmissionpolicybindings]
  verbs: [get, watch, list]
- {{apiGroups: [flowcontrol.apiserver.k8s.io], resources: [prioritylevelconfigurations, flowschemas], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: wardle-apiserver}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: wardle-apiserver}}
subjects: [{{kind: ServiceAccount, name: apiserver, namespace: wardle}}]
---
apiVersion: v1
kind: Service
metadata: {{name: api, namespace: wardle}}
spec:
  ports: [{{port: 443, targetPort: 6443}}]
  selector: {{apiserver: "true"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: wardle-server, namespace: wardle}}
spec:
  selector: {{matchLabels: {{apiserver: "true"}}}}
  template:
    metadata: {{labels: {{apiserver: "true"}}}}
    spec:
      serviceAccountName: apiserver
      terminationGracePeriodSeconds: 1
      containers:
      - name: wardle-server
        image: corral.dev/host
        command: [/clients/sample-apiserver, --etcd-servers=http://127.0.0.1:2379, --secure-port=6443, --cert-dir=/data/certificates]
        volumeMounts: [{{name: data, mountPath: /data}}, {{name: clients, mountPath: /clients, readOnly: true}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: 6443, scheme: HTTPS}}, periodSeconds: 1}}
      - name: etcd
        image: corral.dev/host
        command: [etcd, --data-dir=/data/etcd]
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, emptyDir: {{}}}}, {{name: clients, hostPath: {{path: {clients}}}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1alpha1.wardle.example.com}}
spec:
  insecureSkipTLSVerify: true
  group: wardle.example.com
  groupPriorityMinimum: 1000
  versionPriority: 15
  service: {{name: api, namespace: wardle}}
  version: v1alpha1
"#
    )
}

const FLUNDER: &str = "apiVersion: wardle.example.com/v1alpha1\nkind: Flunder\nmetadata:\n  name: first\n  \
                       labels: {sample-label: \"true\"}\nspec: {reference: none}\n";

#[test]
fn kubernetes_own_example_of_an_extension_serves_a_part_of_the_api() {
    let cluster = Cluster::up();
    let clients = root().join(".cache/clients");
    let manifest = manifest(&clients.display().to_string());
    let anywhere = cluster.client_of("1.36", "");
    anywhere.run_with_input(&["apply", "-f", "-"], &manifest);
    let available = "{.status.conditions[?(@.type=='Available')].status}";
    let service = ["apiservice", "v1alpha1.wardle.example.com"];
    cluster.wait("the extension to be available", || {
        cluster.jsonpath(&service, available) == "True"
    });
    // kubectl finds the kind by discovery, and its explanation in OpenAPI.
    cluster.apply(FLUNDER);
    let listed = cluster.kubectl(&["get", "flunders", "--no-headers"]);
    assert!(listed.starts_with("first"), "{listed}");
    let explained = cluster.kubectl(&["explain", "flunder.spec"]);
    assert!(explained.contains("reference"), "{explained}");
    let resources = cluster.kubectl(&["api-resources", "--api-group=wardle.example.com"]);
    assert!(resources.contains("flunders"), "{resources}");
    // A watch goes through the server, and so do changes by every kind of patch.
    let mut watch = cluster.client().stream(&[
        "get",
        "flunder",
        "first",
        "--watch",
        "-o",
        "jsonpath={.metadata.labels.a}{'\\n'}",
    ]);
    assert_eq!(watch.line().as_deref(), Some(""));
    cluster.kubectl(&["label", "flunder", "first", "a=b"]);
    watch.line_where(|line| line == "b");
    drop(watch);
    let manifest = FLUNDER.replace("none", "other");
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    assert!(cluster.kubectl_with_input(&args, &manifest).ok);
    // It asks this server what somebody may do.
    cluster.kubectl(&["create", "serviceaccount", "guest"]);
    let guest = "--as=system:serviceaccount:default:guest";
    let refused = cluster.try_kubectl(&["get", "flunders", guest]);
    assert!(
        !refused.ok && refused.err.contains("Forbidden"),
        "{refused:?}"
    );
    let rights = [
        "create",
        "clusterrole",
        "flunders",
        "--verb=list,get",
        "--resource=flunders.wardle.example.com",
    ];
    cluster.kubectl(&rights);
    let bound = [
        "create",
        "rolebinding",
        "flunders",
        "--clusterrole=flunders",
        "--serviceaccount=default:guest",
    ];
    cluster.kubectl(&bound);
    cluster.wait("the guest to be let in", || {
        cluster.try_kubectl(&["get", "flunders", guest]).ok
    });

    cluster.kubectl(&[
        "scale",
        "-n",
        "wardle",
        "deployment/wardle-server",
        "--replicas=0",
    ]);
    cluster.wait("the extension to be missed", || {
        cluster.jsonpath(&service, available) == "False"
    });
    let said = cluster.try_kubectl(&["get", "--raw", "/apis/wardle.example.com/v1alpha1/flunders"]);
    assert!(
        said.err.contains("service unavailable") || said.err.contains("unable to handle"),
        "{said:?}"
    );
    // What does not concern it goes on: pods, their service accounts, nodes.
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: c, image: corral.dev/host, command: [sleep, '1000']}]\n",
    );
    cluster.wait("a pod to run", || {
        cluster.jsonpath(&["pod", "p"], "{.status.phase}") == "Running"
    });
    cluster.kubectl(&["delete", "pod", "p"]);
    cluster.kubectl(&["delete", "apiservice", "v1alpha1.wardle.example.com"]);
    cluster.kubectl(&["delete", "namespace", "wardle"]);
}
