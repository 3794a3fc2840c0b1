//! Kinds of the group `admissionregistration.k8s.io`: who outside the server looks at writes, and which rules it applies
//! itself.

mod client;
mod expressions;
pub mod matching;
pub mod mutating_admission_policy;
pub mod mutating_admission_policy_binding;
pub mod mutating_webhook_configuration;
mod policy;
pub mod validating_admission_policy;
pub mod validating_admission_policy_binding;
pub mod validating_webhook_configuration;
pub mod webhook;

/// Names that end so are of configurations in files, which the API does not hold.
const STATIC_SUFFIX: &str = ".static.k8s.io";

/// What Kubernetes says of names that look like those of files.
fn name_warnings(name: Option<&str>) -> Vec<String> {
    let reserved = name.is_some_and(|name| name.ends_with(STATIC_SUFFIX));
    let text = format!(
        "metadata.name: names ending with \"{STATIC_SUFFIX}\" are reserved for static manifest-based configurations and \
         cannot be managed via the API"
    );
    reserved.then_some(text).into_iter().collect()
}
