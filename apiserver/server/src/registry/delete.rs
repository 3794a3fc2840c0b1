//! Deletion: preconditions, grace periods, finalizers and propagation.

use corral_api::field::{FieldError, FieldPath};
use corral_api::meta::MetaIndex;
use corral_api::status::{Status, StatusDetails};
use corral_kinds::AnyKind;
use corral_storage::{self as storage, Operation};
use serde::Deserialize;
use serde_json::Value;

use super::{Resource, WriteContext, Written};
use crate::cacher::storage_status;
use crate::object::{canonical, with_revision};

pub mod unreadable;

/// Waits for the garbage collector to delete dependents first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Waits for the garbage collector to let dependents go.
pub const ORPHAN: &str = "orphan";
/// How often a deletion is tried again because another writer came first.
const RETRIES_MAX: usize = 16;

/// What a deletion makes of an object.
struct Plan {
    /// As it is marked, or as it is last seen.
    object: Value,
    /// Whether nothing has to happen before it goes.
    goes: bool,
}

/// Conditions on the object that a deletion means.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its version.
    pub resource_version: Option<String>,
}

/// `DeleteOptions` of `meta/v1`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds to wait; 0 deletes at once.
    pub grace_period_seconds: Option<i64>,
    /// What the object must be.
    pub preconditions: Option<Preconditions>,
    /// The old form of `propagation_policy`.
    pub orphan_dependents: Option<bool>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<String>,
    /// `All` to change nothing.
    pub dry_run: Option<Vec<String>>,
    /// Whether what cannot be read is removed unread.
    #[serde(rename = "ignoreStoreReadErrorWithClusterBreakingPotential")]
    pub ignore_read_error: Option<bool>,
}

impl DeleteOptions {
    /// Whether nothing is to be changed.
    pub fn is_dry_run(&self) -> bool {
        let dry_run = self.dry_run.iter().flatten();
        dry_run.into_iter().any(|value| value == "All")
    }

    /// Checks the options.
    ///
    /// # Errors
    /// 422 for values that there are not.
    pub fn validate(&self) -> Result<(), Status> {
        let mut errors = Vec::new();
        let path = FieldPath::new("propagationPolicy");
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let policy = self.propagation_policy.clone();
            errors.push(FieldError::invalid(&path, policy, why));
        }
        let policies = ["Foreground", "Background", "Orphan", "nil"];
        if let Some(policy) = self.propagation_policy.as_deref()
            && !matches!(policy, "Foreground" | "Background" | "Orphan")
        {
            errors.push(FieldError::not_supported_of(&path, policy, &policies));
        }
        let dry_run = self.dry_run.as_deref().unwrap_or_default();
        if dry_run.iter().any(|value| value != "All") {
            let path = FieldPath::new("dryRun");
            let given = Value::from(dry_run.to_vec());
            errors.push(FieldError::not_supported(&path, given, &["All"]));
        }
        match errors.is_empty() {
            true => unreadable::validate(self),
            false => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)),
        }
    }
}

impl Resource {
    /// Deletes an object, or marks it as being deleted.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if it is not the one that the preconditions mean.
    pub async fn delete(
        &self,
        cx: &WriteContext,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, Status> {
        options.validate()?;
        let key = self.key(&cx.namespace, name);
        for _ in 0..RETRIES_MAX {
            let live = self
                .fetch(&key)
                .await?
                .ok_or_else(|| self.not_found(name))?;
            let json = with_revision(&live.value, live.revision);
            let old: Value = serde_json::from_slice(&json).map_err(Status::internal)?;
            self.check_preconditions(name, &old, options)?;
            self.admission.delete(self, cx, name, options, &old).await?;
            let plan = self.plan_deletion(cx, &old, options)?;
            let goes = plan.goes;
            let last = canonical(plan.object);
            let written = |revision| Written {
                json: with_revision(&last, revision),
                created: false,
                removed: goes,
            };
            if cx.dry_run || (!goes && last == live.value) {
                return Ok(written(live.revision));
            }
            let (key, expected) = (key.clone(), live.revision);
            let mut transaction = vec![if goes {
                Operation::Delete { key, expected }
            } else {
                let value = self.stored(&last).await?;
                Operation::Update {
                    key,
                    value,
                    expected,
                }
            }];
            let mut _turn = None;
            if goes {
                transaction.extend(self.admission.releases(&*self.kind, &live.value).await?);
                let quotas = self.admission.discharge(&*self.kind, cx, name, &live.value);
                let (given_back, turn) = quotas.await?;
                transaction.extend(given_back);
                _turn = turn;
            }
            match self.storage.commit(transaction).await {
                Ok(revision) => return Ok(written(revision)),
                Err(storage::Error::Conflict { .. }) => {}
                Err(storage::Error::NotFound { .. }) => {}
                Err(error) => return Err(storage_status(&error)),
            }
        }
        Err(self.modified(name))
    }

    /// That this object is the one that is meant.
    ///
    /// # Errors
    /// 409 if it is another.
    pub fn check_preconditions(
        &self,
        name: &str,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<(), Status> {
        let Some(preconditions) = &options.preconditions else {
            return Ok(());
        };
        let names = self.kind.names();
        let metadata = &old["metadata"];
        let (uid, version) = (&preconditions.uid, &preconditions.resource_version);
        for (wanted, key, label, maybe) in [
            (uid, "uid", "UID", "deleted and then recreated"),
            (version, "resourceVersion", "ResourceVersion", "modified"),
        ] {
            let live = metadata[key].as_str().unwrap_or("");
            if let Some(wanted) = wanted.as_deref().filter(|w| *w != live) {
                // Kubernetes names the kind here.
                let why = format!(
                    "the {label} in the precondition ({wanted}) does not match the {label} in record ({live}). The \
                     object might have been {maybe}"
                );
                return Err(Status::conflict(names.group, names.kind, name, &why));
            }
        }
        Ok(())
    }

    fn plan_deletion(
        &self,
        cx: &WriteContext,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<Plan, Status> {
        let object = self.decode(old.clone())?;
        let mut marked = old.clone();
        let begins = marked["metadata"].get("deletionTimestamp").is_none();
        if begins && self.kind.begin_deletion(&mut marked, cx.now) {
            return Ok(Plan {
                object: marked,
                goes: false,
            });
        }
        let finalizers = finalizers(&*self.kind, &marked, options);
        let default = self.kind.default_grace_period(&object);
        let grace = match default.map(|default| options.grace_period_seconds.unwrap_or(default)) {
            None => 0,
            // A negative period means the least that there is.
            Some(seconds) if seconds < 0 => 1,
            Some(seconds) => seconds,
        };
        let metadata = marked["metadata"]
            .as_object_mut()
            .ok_or_else(|| Status::internal("stored object without metadata"))?;
        let waits_for_namespace = self.kind.names().kind == "Namespace"
            && old["spec"]["finalizers"]
                .as_array()
                .is_some_and(|l| !l.is_empty());
        let goes = finalizers.is_empty() && grace == 0 && !waits_for_namespace;
        // What never waits is last seen as it was, unless it waited for something else.
        let is_marked = !goes || default.is_some();
        if finalizers.is_empty() && !goes {
            metadata.remove("finalizers");
        } else if !goes {
            metadata.insert("finalizers".into(), finalizers.into());
        }
        let already = metadata.contains_key("deletionTimestamp");
        let before = metadata
            .get("deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if (!already && is_marked) || grace < before {
            let start = match (
                already,
                metadata.get("deletionTimestamp").and_then(Value::as_str),
            ) {
                (true, Some(text)) => {
                    let until: jiff::Timestamp = text.parse().map_err(Status::internal)?;
                    until - jiff::SignedDuration::from_secs(before)
                }
                _ => cx.now,
            };
            let until = start + jiff::SignedDuration::from_secs(grace);
            metadata.insert(
                "deletionTimestamp".into(),
                corral_api::time::format_seconds(until).into(),
            );
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
            let generation = metadata.get("generation").and_then(Value::as_i64);
            if let Some(generation) = generation.filter(|_| !already) {
                metadata.insert("generation".into(), (generation + 1).into());
            }
        }
        if self.kind.names().kind == "Namespace" && !goes {
            marked["status"]["phase"] = "Terminating".into();
        }
        Ok(Plan {
            object: marked,
            goes,
        })
    }

    /// What a finished deletion answers.
    ///
    /// # Errors
    /// When the object cannot be read.
    pub fn deleted_status(&self, written: &Written) -> Result<Status, Status> {
        let names = self.kind.names();
        let meta = MetaIndex::read(&written.json).map_err(Status::internal)?;
        Ok(Status::success(Some(StatusDetails {
            name: meta.name,
            group: names.group.to_owned(),
            kind: names.plural.to_owned(),
            uid: meta.uid,
            ..Default::default()
        })))
    }
}

/// Finalizers after the propagation policy has been taken into account.
fn finalizers(kind: &dyn AnyKind, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let list = old["metadata"]["finalizers"].as_array();
    let mut finalizers: Vec<String> = list
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let policy = match (
        options.propagation_policy.as_deref(),
        options.orphan_dependents,
    ) {
        (Some(policy), _) => policy,
        (None, Some(true)) => "Orphan",
        (None, Some(false)) => "Background",
        // What was decided before holds; otherwise the kind decides.
        (None, None)
            if kind.orphans_by_default() && !finalizers.iter().any(|f| f == FOREGROUND) =>
        {
            "Orphan"
        }
        (None, None) => return finalizers,
    };
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match policy {
        "Foreground" => finalizers.push(FOREGROUND.to_owned()),
        "Orphan" => finalizers.push(ORPHAN.to_owned()),
        _ => {}
    }
    finalizers
}
