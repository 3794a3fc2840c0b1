//! What is measured of pod security, under the names that dashboards for kube-apiserver use.

use prometheus::{IntCounterVec, Opts, Registry};

use super::level::{Level, Standard, Version};
use crate::admission::{Action, Attributes};
use crate::paths::KUBERNETES_MINOR;

/// What a standard is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refusing.
    Enforce,
    /// The audit log.
    Audit,
    /// Warning.
    Warn,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }
}

/// The metrics.
pub struct Metrics {
    evaluations: IntCounterVec,
    exemptions: IntCounterVec,
    errors: IntCounterVec,
}

/// Operation, resource and subresource as labels.
fn request<'a>(attributes: &Attributes<'a>) -> [&'a str; 3] {
    let operation = match attributes.action {
        Action::Create => "create",
        Action::Update => "update",
    };
    let resource = match attributes.kind.names().kind {
        "Pod" => "pod",
        "Namespace" => "namespace",
        _ => "controller",
    };
    [operation, resource, attributes.subresource]
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        const REQUEST: [&str; 3] = ["request_operation", "resource", "subresource"];
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), &[labels, &REQUEST].concat())
        };
        let metrics = Self {
            evaluations: counter(
                "pod_security_evaluations_total",
                "Pods and templates checked against a standard.",
                &["decision", "policy_level", "policy_version", "mode"],
            )?,
            exemptions: counter(
                "pod_security_exemptions_total",
                "Requests that are exempt.",
                &[],
            )?,
            errors: counter(
                "pod_security_errors_total",
                "Errors that kept requests from being checked as meant.",
                &["fatal"],
            )?,
        };
        registry.register(Box::new(metrics.evaluations.clone()))?;
        registry.register(Box::new(metrics.exemptions.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        Ok(metrics)
    }

    pub(super) fn evaluated(
        &self,
        allowed: bool,
        standard: Standard,
        mode: Mode,
        attributes: &Attributes<'_>,
    ) {
        let decision = if allowed { "allow" } else { "deny" };
        let version = match standard.version {
            _ if standard.level == Level::Privileged => "latest".to_owned(),
            Version::Minor(minor) if minor > KUBERNETES_MINOR => "future".to_owned(),
            version => version.to_string(),
        };
        let [operation, resource, subresource] = request(attributes);
        let labels = [
            decision,
            standard.level.as_str(),
            &version,
            mode.as_str(),
            operation,
            resource,
            subresource,
        ];
        self.evaluations.with_label_values(&labels).inc();
    }

    pub(super) fn exempted(&self, attributes: &Attributes<'_>) {
        self.exemptions
            .with_label_values(&request(attributes))
            .inc();
    }

    pub(super) fn failed(&self, fatal: bool, attributes: &Attributes<'_>) {
        let [operation, resource, subresource] = request(attributes);
        let fatal = if fatal { "true" } else { "false" };
        let labels = [fatal, operation, resource, subresource];
        self.errors.with_label_values(&labels).inc();
    }
}
