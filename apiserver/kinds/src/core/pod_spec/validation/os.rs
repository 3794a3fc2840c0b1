//! What a pod may not ask for on the system that it says it is for.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{PodSecurityContext, PodSpec, SecurityContext};

use super::every_container;
use crate::rules::{Errors, supported};

const NOT_FOR_LINUX: &str = "windows options cannot be set for a linux pod";
const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";

/// `os`, and what it rules out.
pub(super) fn rules(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let Some(os) = &spec.os else { return };
    let os_path = path.child("os");
    match os.name.as_str() {
        "" => errors.push(FieldError::required(&os_path.child("name"), "")),
        "linux" => linux(errors, path, spec),
        "windows" => windows(errors, path, spec),
        other => supported(errors, &os_path, other, &["linux", "windows"]),
    }
}

fn linux(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let pod = spec.security_context.as_ref();
    let mut forbid = |given: bool, path: &FieldPath| {
        if given {
            let path = path.child("securityContext").child("windowsOptions");
            errors.push(FieldError::forbidden(&path, NOT_FOR_LINUX));
        }
    };
    forbid(pod.is_some_and(|c| c.windows_options.is_some()), path);
    for (path, container) in every_container(path, spec) {
        let context = container.security_context;
        forbid(context.is_some_and(|c| c.windows_options.is_some()), &path);
    }
}

fn windows(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let nothing = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&nothing);
    let at = path.child("securityContext");
    for (path, field, given) in [
        (&at, "appArmorProfile", context.app_armor_profile.is_some()),
        (&at, "seLinuxOptions", context.se_linux_options.is_some()),
        (path, "hostUsers", spec.host_users.is_some()),
        (path, "hostPID", spec.host_pid == Some(true)),
        (path, "hostIPC", spec.host_ipc == Some(true)),
        (&at, "seccompProfile", context.seccomp_profile.is_some()),
        (&at, "fsGroup", context.fs_group.is_some()),
        (
            &at,
            "fsGroupChangePolicy",
            context.fs_group_change_policy.is_some(),
        ),
        (
            &at,
            "sysctls",
            context.sysctls.as_ref().is_some_and(|s| !s.is_empty()),
        ),
        (
            path,
            "shareProcessNamespace",
            spec.share_process_namespace.is_some(),
        ),
        (&at, "runAsUser", context.run_as_user.is_some()),
        (&at, "runAsGroup", context.run_as_group.is_some()),
        (
            &at,
            "supplementalGroups",
            context.supplemental_groups.is_some(),
        ),
        (
            &at,
            "supplementalGroupsPolicy",
            context.supplemental_groups_policy.is_some(),
        ),
        (
            &at,
            "seLinuxChangePolicy",
            context.se_linux_change_policy.is_some(),
        ),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_WINDOWS));
        }
    }
    for (path, container) in every_container(path, spec) {
        if let Some(context) = &container.security_context {
            windows_container(errors, &path.child("securityContext"), context);
        }
    }
}

fn windows_container(errors: &mut Errors, path: &FieldPath, context: &SecurityContext) {
    for (field, given) in [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("capabilities", context.capabilities.is_some()),
        (
            "readOnlyRootFilesystem",
            context.read_only_root_filesystem.is_some(),
        ),
        ("privileged", context.privileged.is_some()),
        (
            "allowPrivilegeEscalation",
            context.allow_privilege_escalation.is_some(),
        ),
        ("procMount", context.proc_mount.is_some()),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_WINDOWS));
        }
    }
}
