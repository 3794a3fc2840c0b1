//! Deletion of objects that cannot be read, by `ignoreStoreReadErrorWithClusterBreakingPotential`.
//!
//! Nothing is known of such an object but its key: no finalizer, precondition or admission counts, and what it claimed
//! stays claimed. So it takes a permission of its own, and is refused for whatever can be read.

use corral_api::field::{FieldError, FieldPath};
use corral_api::status::{Status, StatusDetails, StatusReason};
use corral_storage::{self as storage, Operation};

use super::{DeleteOptions, Resource, WriteContext};
use crate::cacher::storage_status;

/// The verb that a user must be allowed beside `delete`.
pub const VERB: &str = "unsafe-delete-ignore-read-errors";
/// Marks such requests in the audit log.
pub const AUDIT_ANNOTATION: &str = "apiserver.k8s.io/unsafe-delete-ignore-read-error";
const FIELD: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

impl DeleteOptions {
    /// Whether what cannot be read is to be removed unread.
    pub fn ignores_read_error(&self) -> bool {
        self.ignore_read_error == Some(true)
    }
}

fn invalid(why: &str) -> FieldError {
    FieldError::invalid(&FieldPath::new(FIELD), true, why)
}

/// Refuses options that need the object.
pub(super) fn validate(options: &DeleteOptions) -> Result<(), Status> {
    if !options.ignores_read_error() {
        return Ok(());
    }
    let others = [
        (
            options.dry_run.as_ref().is_some_and(|all| !all.is_empty()),
            "dryRun",
        ),
        (options.propagation_policy.is_some(), "propagationPolicy"),
        (options.orphan_dependents.is_some(), "orphanDependents"),
        (options.grace_period_seconds.is_some(), "gracePeriodSeconds"),
        (options.preconditions.is_some(), "preconditions"),
    ];
    let errors: Vec<FieldError> = others
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| invalid(&format!("cannot be set together with .{name}")))
        .collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)),
    }
}

/// Refuses the option for many objects at once.
///
/// # Errors
/// 422 when it is set.
pub fn refuse_for_collections(options: &DeleteOptions) -> Result<(), Status> {
    if !options.ignores_read_error() {
        return Ok(());
    }
    let error =
        invalid("is not allowed with DELETECOLLECTION, try again after removing the option");
    Err(Status::invalid(
        "meta.k8s.io",
        "DeleteOptions",
        "",
        &[error],
    ))
}

impl Resource {
    /// Removes an object that cannot be read.
    ///
    /// # Errors
    /// 422 when it can be read, or is not there; 500 for kinds that Kubernetes does not let go like this.
    pub async fn delete_unreadable(
        &self,
        cx: &WriteContext,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Status, Status> {
        options.validate()?;
        let names = self.kind.names();
        if names.kind == "Namespace" {
            let why = format!("no unsafe deleter provided, can not honor {FIELD}");
            return Err(Status::internal(why));
        }
        let key = self.key(&cx.namespace, name);
        let expected = match self.storage.get(&key).await {
            Err(storage::Error::Unreadable { revision, .. }) => revision,
            Err(error) => return Err(storage_status(&error)),
            Ok(_) => {
                let why = "is exclusively used to delete corrupt object(s), try again by removing this option";
                return Err(Status::invalid(
                    names.group,
                    names.plural,
                    name,
                    &[invalid(why)],
                ));
            }
        };
        tracing::warn!(%key, user = cx.user.name, "removing an object that cannot be read");
        let delete = Operation::Delete { key, expected };
        match self.storage.commit(vec![delete]).await {
            // Somebody else removed it.
            Ok(_) | Err(storage::Error::NotFound { .. }) => {
                Ok(Status::success(Some(StatusDetails {
                    name: name.to_owned(),
                    group: names.group.to_owned(),
                    kind: names.kind.to_owned(),
                    ..Default::default()
                })))
            }
            Err(storage::Error::Conflict { .. }) => Err(self.modified(name)),
            Err(error) => Err(storage_status(&error)),
        }
    }
}

/// 403 for somebody without the permission.
pub fn forbidden(resource: &Resource, name: &str, reason: &str) -> Status {
    let names = resource.kind.names();
    let what = corral_api::gvk::qualified(names.plural, names.group);
    let message =
        format!("{what} {name:?} is forbidden: not permitted to do {VERB:?}, reason: {reason}");
    let mut status = Status::failure(403, StatusReason::Forbidden, message);
    status.details = Some(StatusDetails {
        name: name.to_owned(),
        group: names.group.to_owned(),
        kind: names.plural.to_owned(),
        ..Default::default()
    });
    status
}
