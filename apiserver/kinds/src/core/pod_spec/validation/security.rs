//! Security contexts of pods and containers.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::{every_container, windows};
use crate::rules::{self, Errors, json};

const ID_MAX: i64 = i32::MAX as i64;
const SYSCTL_LENGTH_MAX: usize = 253;
const NOT_WITH_OWN_USERS: &str = "when `hostUsers` is false";
/// `PATH_MAX` without its final zero.
const PROFILE_LENGTH_MAX: usize = 4095;
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(errors: &mut Errors, path: &FieldPath, id: Option<i64>) {
    if let Some(id) = id
        && !(0..=ID_MAX).contains(&id)
    {
        let detail = format!("must be between 0 and {ID_MAX}, inclusive");
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// The pod's security context.
pub(super) fn pod(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let Some(context) = &spec.security_context else {
        return;
    };
    id(errors, &path.child("fsGroup"), context.fs_group);
    id(errors, &path.child("runAsUser"), context.run_as_user);
    id(errors, &path.child("runAsGroup"), context.run_as_group);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        let path = path.child("supplementalGroups").index(index);
        id(errors, &path, Some(*group));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let path = path.child("shareProcessNamespace");
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path, true, detail));
    }
    sysctls(errors, &path.child("sysctls"), context, spec);
    let chosen = |errors: &mut Errors, field: &str, value: &Option<String>, allowed: &[&str]| {
        if let Some(value) = value {
            rules::supported(errors, &path.child(field), value, allowed);
        }
    };
    chosen(
        errors,
        "fsGroupChangePolicy",
        &context.fs_group_change_policy,
        &["Always", "OnRootMismatch"],
    );
    if let Some(profile) = &context.seccomp_profile {
        seccomp(errors, &path.child("seccompProfile"), profile);
    }
    if let Some(options) = &context.windows_options {
        windows::options(errors, &path.child("windowsOptions"), options);
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(errors, &path.child("appArmorProfile"), profile);
    }
    chosen(
        errors,
        "supplementalGroupsPolicy",
        &context.supplemental_groups_policy,
        &["Merge", "Strict"],
    );
    // Mounting with the label is not offered yet in this version of Kubernetes.
    chosen(
        errors,
        "seLinuxChangePolicy",
        &context.se_linux_change_policy,
        &["Recursive"],
    );
}

/// `a.b/c`: segments of lower case letters, digits, `-` and `_`.
fn is_sysctl_name(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        bytes.first().is_some_and(|b| edge(*b))
            && bytes.last().is_some_and(|b| edge(*b))
            && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_LENGTH_MAX && name.split(['.', '/']).all(segment)
}

fn sysctls(errors: &mut Errors, path: &FieldPath, context: &PodSecurityContext, spec: &PodSpec) {
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl_name(name) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let detail = format!(
                "must have at most {SYSCTL_LENGTH_MAX} characters and match regex ^({segment}[\\./])*{segment}$"
            );
            errors.push(FieldError::invalid(&path, name, detail));
        } else if sysctls[..index].iter().any(|s: &Sysctl| s.name == name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        } else if spec.host_ipc == Some(true) && of_ipc {
            let detail = "may not be specified when 'hostIPC' is true";
            errors.push(FieldError::invalid(&path, name, detail));
        }
    }
}

fn seccomp(errors: &mut Errors, path: &FieldPath, profile: &SeccompProfile) {
    let type_path = path.child("type");
    if profile.type_.is_empty() {
        let detail = "type is required when seccompProfile is set";
        errors.push(FieldError::required(&type_path, detail));
    } else {
        rules::supported(errors, &type_path, &profile.type_, PROFILE_TYPES);
    }
    let path = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (Some(file), true) => rules::local_path(errors, &path, file),
        (None, true) => errors.push(FieldError::required(
            &path,
            "must be set when seccomp type is Localhost",
        )),
        (Some(_), false) => errors.push(FieldError::invalid(
            &path,
            json(profile),
            "can only be set when seccomp type is Localhost",
        )),
        (None, false) => {}
    }
}

fn app_armor(errors: &mut Errors, path: &FieldPath, profile: &AppArmorProfile) {
    let name_path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", name) => {
            let name = name.as_deref().unwrap_or_default();
            if name != name.trim() {
                let detail = "must not be padded with whitespace";
                errors.push(FieldError::invalid(&name_path, name, detail));
            } else if name.is_empty() {
                let detail = "must be set when AppArmor type is Localhost";
                errors.push(FieldError::required(&name_path, detail));
            }
            if name.len() > PROFILE_LENGTH_MAX {
                errors.push(FieldError::too_long(&name_path, PROFILE_LENGTH_MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => errors.push(FieldError::invalid(
            &name_path,
            name.as_str(),
            "can only be set when AppArmor type is Localhost",
        )),
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => errors.push(FieldError::required(
            &path.child("type"),
            "type is required when appArmorProfile is set",
        )),
        (other, _) => rules::supported(errors, &path.child("type"), other, PROFILE_TYPES),
    }
}

/// A container's security context.
pub(super) fn container(
    errors: &mut Errors,
    path: &FieldPath,
    context: &SecurityContext,
    spec: &PodSpec,
) {
    id(errors, &path.child("runAsUser"), context.run_as_user);
    id(errors, &path.child("runAsGroup"), context.run_as_group);
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        rules::supported(errors, &path, mount, &["Default", "Unmasked"]);
        if spec.host_users != Some(false) && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&path, mount.as_str(), detail));
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        seccomp(errors, &path.child("seccompProfile"), profile);
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, json(context), detail));
        }
        let added = context
            .capabilities
            .iter()
            .flat_map(|c| c.add.iter().flatten());
        if added.into_iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, json(context), detail));
        }
    }
    if let Some(options) = &context.windows_options {
        windows::options(errors, &path.child("windowsOptions"), options);
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(errors, &path.child("appArmorProfile"), profile);
    }
}

/// Users of its own rule out the node's namespaces.
pub(super) fn host_users(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, given) in [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ] {
        if given == Some(true) {
            let path = path.child(field);
            errors.push(FieldError::forbidden(&path, NOT_WITH_OWN_USERS));
        }
    }
    for (path, container) in every_container(path, spec) {
        let devices = container.volume_devices.as_ref();
        if devices.is_some_and(|d| !d.is_empty()) {
            let path = path.child("volumeDevices");
            errors.push(FieldError::forbidden(&path, NOT_WITH_OWN_USERS));
        }
    }
}
