//! The circumstances of a write, and what is found on the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;

use crate::authn::User;

/// What to do about fields that a kind does not have, and fields given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Leave them out.
    Ignore,
    /// Leave them out, with a warning each.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// What a client is warned of, in order, whatever becomes of its request.
pub type Warnings = Arc<Mutex<Vec<String>>>;

/// The circumstances of a write.
pub struct WriteContext {
    /// Who writes.
    pub user: User,
    /// Namespace of the URL; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name of the field manager.
    pub manager: String,
    /// Do everything except store.
    pub dry_run: bool,
    /// What to do about unknown and duplicate fields.
    pub validation: FieldValidation,
    /// Now.
    pub now: Timestamp,
    /// Warnings for the client, in order.
    pub warnings: Warnings,
    /// What else is known of the request.
    pub asked: Asked,
    /// Annotations for the audit log.
    pub audit: Mutex<Annotations>,
}

/// What is known of a request besides what is written.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The field manager that the client names.
    pub field_manager: Option<String>,
    /// What the client says shall be done about unknown and duplicate fields.
    pub field_validation: Option<String>,
    /// When the client is answered at the latest.
    pub deadline: Option<Instant>,
    /// Whether a whole collection is deleted: then policies and webhooks are told no name, as in Kubernetes.
    pub collection: bool,
    /// Whether webhooks were asked about what this write follows from, and are not asked again.
    pub admitted: bool,
}

/// Annotations of a request for the audit log, by the level from which on they are told.
#[derive(Debug, Default)]
pub struct Annotations {
    /// Always.
    pub metadata: BTreeMap<String, String>,
    /// Where requests are told with their bodies.
    pub request: BTreeMap<String, String>,
}

impl WriteContext {
    /// Adds a warning.
    pub fn warn(&self, text: impl Into<String>) {
        /// More are not kept; far fewer have room in a response.
        const WARNINGS_MAX: usize = 1000;
        let text = text.into();
        let mut warnings = self.warnings.lock().expect("no panic under the lock");
        // Nobody is told the same twice, nor what no header holds.
        if warnings.len() < WARNINGS_MAX
            && !warnings.contains(&text)
            && !text.contains(char::is_control)
        {
            warnings.push(text);
        }
    }

    /// Adds an annotation for the audit log. The first of a name stays.
    pub fn annotate(&self, key: String, value: String) {
        let mut audit = self.audit.lock().expect("no panic under the lock");
        annotate(&mut audit.metadata, key, value);
    }

    /// The same for something that holds a part of the object.
    pub fn annotate_request(&self, key: String, value: String) {
        let mut audit = self.audit.lock().expect("no panic under the lock");
        annotate(&mut audit.request, key, value);
    }
}

fn annotate(annotations: &mut BTreeMap<String, String>, key: String, value: String) {
    /// A request has no more annotations than this.
    const ANNOTATIONS_MAX: usize = 100;
    if annotations.len() < ANNOTATIONS_MAX {
        annotations.entry(key).or_insert(value);
    }
}

impl WriteContext {
    pub(super) fn n_warnings(&self) -> usize {
        self.warnings.lock().expect("no panic under the lock").len()
    }

    pub(super) fn keep_warnings(&self, n_warnings: usize) {
        let mut warnings = self.warnings.lock().expect("no panic under the lock");
        warnings.truncate(n_warnings);
    }
}

/// Which part of an object an update is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but `status`.
    Main,
    /// `status`.
    Status,
    /// The conditions of `status`, by whoever approves.
    Approval,
    /// What the kind's own subresource of this name changes.
    Of(&'static str),
    /// Everything: for subresources whose change the server computes itself.
    Whole,
}

impl Part {
    /// The subresource through which the part is written.
    pub fn subresource(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Approval => "approval",
            Self::Of(part) => part,
            Self::Main | Self::Whole => "",
        }
    }
}
