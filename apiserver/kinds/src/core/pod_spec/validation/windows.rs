//! Options of Windows in security contexts. Corral has no such nodes, but its API takes the same objects.

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::core::v1::{PodSpec, WindowsSecurityContextOptions};
use corral_api::names;

use super::every_container;
use crate::rules::{self, Errors};

const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
/// A domain is shorter than this.
const DOMAIN_LENGTH_LIMIT: usize = 256;
const USER_LENGTH_MAX: usize = 104;
const NETBIOS_LENGTH_MAX: usize = 15;

/// `windowsOptions` of a pod or a container.
pub(super) fn options(
    errors: &mut Errors,
    path: &FieldPath,
    options: &WindowsSecurityContextOptions,
) {
    if let Some(name) = &options.gmsa_credential_spec_name {
        let complaints = names::dns1123_subdomain(name);
        rules::complain(
            errors,
            &path.child("gmsaCredentialSpecName"),
            name,
            complaints,
        );
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            let detail = "gmsaCredentialSpec cannot be an empty string";
            errors.push(FieldError::invalid(&path, spec.as_str(), detail));
        } else if spec.len() > CREDENTIAL_SPEC_KIB_MAX * 1024 {
            let detail =
                format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB");
            errors.push(FieldError::invalid(&path, spec.as_str(), detail));
        }
    }
    if let Some(name) = &options.run_as_user_name {
        let path = path.child("runAsUserName");
        rules::complain(errors, &path, name, user_name(name));
    }
}

/// What is wrong with `domain\\user`, or `user` alone.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let (domain, user) = match name.split_once('\\') {
        None => (None, name),
        Some((_, user)) if user.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash".to_owned()];
        }
        Some((domain, user)) => (Some(domain), user),
    };
    let mut complaints = Vec::new();
    let mut complain = |detail: &str| complaints.push(format!("runAsUserName's {detail}"));
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LENGTH_LIMIT {
            complain(&format!(
                "Domain length must be under {DOMAIN_LENGTH_LIMIT} characters"
            ));
        }
        if !is_netbios(domain) && !is_dns(domain) {
            complain("Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        complain("User cannot be empty");
    } else if user.len() > USER_LENGTH_MAX {
        complain(&format!(
            "User length must not be longer than {USER_LENGTH_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        complain("User cannot contain only periods or spaces");
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        complain("User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    complaints
}

fn is_netbios(domain: &str) -> bool {
    let n_chars = domain.chars().count();
    (1..=NETBIOS_LENGTH_MAX).contains(&n_chars)
        && !domain.starts_with('.')
        && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    // Labels as everywhere else, with letters of either case.
    domain
        .split('.')
        .all(|label| names::dns1123_label(&label.to_ascii_lowercase()).is_empty())
}

/// Containers that are processes of the node: all of a pod or none, and in the node's network.
pub(super) fn host_processes(errors: &mut Errors, path: &FieldPath, spec: &PodSpec) {
    let context = spec.security_context.as_ref();
    let of_pod = context
        .and_then(|c| c.windows_options.as_ref())
        .and_then(|o| o.host_process);
    let containers = every_container(path, spec);
    let mut n_host_processes = 0;
    for (path, container) in &containers {
        let context = container.security_context.as_ref();
        let own = context
            .and_then(|c| c.windows_options.as_ref())
            .and_then(|o| o.host_process);
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = path.child("securityContext.windowsOptions.hostProcess");
            let detail = format!(
                "pod hostProcess value must be identical if both are specified, was {of_pod}"
            );
            errors.push(FieldError::invalid(&path, own, detail));
        }
        n_host_processes += usize::from(own.or(of_pod) == Some(true));
    }
    if n_host_processes == 0 {
        return;
    }
    if n_host_processes != containers.len() {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if spec.host_network != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(
            &path.child("hostNetwork"),
            false,
            detail,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_maybe_domains() {
        let none: Vec<String> = Vec::new();
        for right in ["ContainerUser", "corp\\jane doe", "a.example.com\\u"] {
            assert_eq!(user_name(right), none, "{right}");
        }
        for (wrong, complaint) in [
            ("", "runAsUserName cannot be an empty string"),
            (
                "a\\b\\c",
                "runAsUserName cannot contain more than one backslash",
            ),
            ("a\\", "runAsUserName's User cannot be empty"),
            (
                "\\u",
                "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
            ),
            (
                ". .",
                "runAsUserName's User cannot contain only periods or spaces",
            ),
        ] {
            assert_eq!(user_name(wrong), [complaint]);
        }
    }
}
