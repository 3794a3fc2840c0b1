//! Specifications built from small pods.

use super::*;

fn pod(yaml: &str) -> Pod {
    serde_saphyr::from_str(yaml).expect("a pod")
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".into()],
        command: vec!["default".into()],
        env: vec!["A=image".into(), "PATH=/bin".into()],
        user: Some("web".into()),
        ..ImageConfig::default()
    }
}

fn accounts() -> Accounts {
    Accounts {
        passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\n".into(),
        group: "web:x:34:\nextra:x:50:web,other\n".into(),
    }
}

fn spec_of(pod: &Pod, image: &ImageConfig, env: &[(String, String)]) -> Result<Value, Error> {
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    build(&Input {
        pod,
        container,
        hostname: Some("p"),
        image,
        rootfs: Path::new("/root"),
        rootfs_read_only: false,
        accounts: &accounts(),
        env,
        mounts: &[Mount {
            source: "/data".into(),
            destination: "/etc/hosts".into(),
            read_only: true,
            recursive_read_only: false,
            from_host: false,
        }],
        base_mounts: &[],
        namespaces: &Namespaces {
            network: Some("/ns/net".into()),
            ..Namespaces::default()
        },
        shm: Some(Path::new("/shm")),
        cgroup: "/corral-x/podu/c".into(),
        cgroup_view: &cgroup::View::V2,
        node_memory: 1 << 30,
        devices: &[],
        localhost_profile: None,
    })
}

#[test]
fn the_images_command_and_user_are_used_when_the_pod_is_silent() {
    let pod = pod("{metadata: {name: p}, spec: {containers: [{name: c}]}}");
    let spec = spec_of(&pod, &image(), &[("B".into(), "pod".into())]).expect("builds");
    assert_eq!(spec["process"]["args"], json!(["/entry", "default"]));
    assert_eq!(
        spec["process"]["user"],
        json!({"uid": 33, "gid": 34, "additionalGids": [34, 50]})
    );
    assert_eq!(
        spec["process"]["env"],
        json!(["A=image", "PATH=/bin", "HOSTNAME=p", "B=pod", "HOME=/srv"])
    );
    assert_eq!(spec["process"]["cwd"], "/");
    assert!(spec["process"].get("noNewPrivileges").is_none());
    assert!(spec["linux"].get("seccomp").is_none());
    assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 2);
}

#[test]
fn args_keep_the_entrypoint_and_command_replaces_both() {
    let args =
        pod("{metadata: {name: p}, spec: {containers: [{name: c, args: ['$(A)', '$(Z)']}]}}");
    let spec = spec_of(&args, &image(), &[("A".into(), "pod".into())]).expect("builds");
    assert_eq!(spec["process"]["args"], json!(["/entry", "pod", "$(Z)"]));
    let command = pod("{metadata: {name: p}, spec: {containers: [{name: c, command: [run]}]}}");
    let spec = spec_of(&command, &image(), &[]).expect("builds");
    assert_eq!(spec["process"]["args"], json!(["run"]));
}

#[test]
fn non_root_is_enforced() {
    let named = pod(
        "{metadata: {name: p}, spec: {securityContext: {runAsNonRoot: true}, containers: [{name: c}]}}",
    );
    assert!(matches!(
        spec_of(&named, &image(), &[]),
        Err(Error::NamedUser { .. })
    ));
    let root = ImageConfig {
        user: None,
        ..image()
    };
    assert!(matches!(
        spec_of(&named, &root, &[]),
        Err(Error::Root { .. })
    ));
    let number = ImageConfig {
        user: Some("7:8".into()),
        ..image()
    };
    let spec = spec_of(&named, &number, &[]).expect("builds");
    assert_eq!(
        spec["process"]["user"],
        json!({"uid": 7, "gid": 8, "additionalGids": [8]})
    );
}

#[test]
fn hardening_fields_arrive_in_the_specification() {
    let pod = pod(
        "{metadata: {name: p}, spec: {containers: [{name: c, securityContext: {\
        allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsUser: 5, runAsGroup: 6, \
        capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]}}",
    );
    let spec = spec_of(&pod, &image(), &[]).expect("builds");
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!([]));
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(
        (
            &spec["process"]["user"]["uid"],
            &spec["process"]["user"]["gid"]
        ),
        (&json!(5), &json!(6))
    );
}

#[test]
fn limits_become_cgroup_values_and_sums() {
    let pod = pod(
        "{metadata: {name: p}, spec: {initContainers: [{name: i, resources: {limits: {cpu: '3', memory: 1Gi}}}], \
        containers: [{name: c, resources: {limits: {cpu: 500m, memory: 64Mi}}}, \
        {name: d, resources: {limits: {cpu: 500m, memory: 64Mi}}}]}}",
    );
    let spec = spec_of(&pod, &image(), &[]).expect("builds");
    assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
    assert_eq!(
        spec["linux"]["resources"]["cpu"],
        json!({"shares": 512, "quota": 50_000, "period": 100_000})
    );
    let inner = pod.spec.as_ref().expect("spec");
    assert_eq!(resources::qos(inner), resources::Qos::Guaranteed);
    assert_eq!(spec["process"]["oomScoreAdj"], -997);
    let limits = resources::pod_limits(inner);
    assert_eq!(
        (limits.cpu_quota, limits.memory),
        (Some(300_000), Some(1 << 30))
    );
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let pod = pod("{metadata: {name: p}, spec: {hostUsers: false, containers: [{name: c}]}}");
    assert_eq!(
        spec_of(&pod, &image(), &[]),
        Err(Error::Unsupported("hostUsers: false"))
    );
}
