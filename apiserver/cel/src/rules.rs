//! The `x-kubernetes-validations` of a CustomResourceDefinition's schema: compiling them, and validating objects.

mod check;
mod correlate;
mod path;
mod validate;

use std::collections::BTreeSet;
use std::sync::Arc;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use serde_json::Value;

use crate::budget::Budget;
use check::Checker;
use correlate::{Correlation, Topology};
use validate::Validator;

/// The most that one rule may be estimated to cost.
pub const RULE_COST_MAX: u64 = 10_000_000;
/// The most that all rules of one schema may be estimated to cost.
pub const SCHEMA_COST_MAX: u64 = 100_000_000;

/// Something wrong with the rules of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleProblem {
    /// Where, below the schema: `properties[x].x-kubernetes-validations[0].rule`. [`FieldPath::root`] is the schema itself.
    pub path: FieldPath,
    /// The class.
    pub kind: FieldErrorKind,
    /// The value as it is shown, `None` where the class shows none.
    pub value: Option<String>,
    /// Why. Where that names a part of the schema, [`RuleProblem::below`] completes it.
    pub detail: String,
    /// The part of the schema that the detail ends with.
    pub(crate) within: Option<FieldPath>,
    /// Whether kube-apiserver counts it to the errors of the schema, which it reports before those of expressions,
    /// and with which it leaves the expressions of that schema and the ones around it alone.
    pub of_schema: bool,
}

impl RuleProblem {
    /// The error of a schema that is at `schema`, such as `spec.validation.openAPIV3Schema`.
    pub fn below(&self, schema: &FieldPath) -> FieldError {
        let below = |path: &FieldPath| {
            if *path == FieldPath::root() {
                schema.clone()
            } else {
                schema.child(path.as_str())
            }
        };
        let mut detail = self.detail.clone();
        if let Some(within) = &self.within {
            detail.push_str(below(within).as_str());
        }
        FieldError {
            kind: self.kind,
            path: below(&self.path),
            value: self.value.clone(),
            detail,
        }
    }
}

/// How to compile the rules of a schema that is written to the API.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// Rules and message expressions of the stored object before this write: what they use stays allowed. See
    /// [`expressions_of`].
    pub stored_expressions: BTreeSet<String>,
    /// Whether the version's schema is what it was before: then the limit of each rule isn't applied (the schema's is).
    pub unchanged: bool,
    /// Where the caller found errors in the schema (paths below the schema, such as `properties[x].type`): expressions
    /// of the schemas around them are not looked at, as they would only repeat that.
    pub schema_errors: Vec<FieldPath>,
    /// Whether nothing is checked but the rules' own form (required, line breaks, reason, fieldPath): for a schema that
    /// isn't structural or whose defaults are wrong.
    pub form_only: bool,
}

/// The rules of one schema, ready to validate objects. Cheap to share.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    validator: Validator,
    topology: Topology,
}

/// What [`Rules::validate`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What the object breaks.
    pub errors: Vec<FieldError>,
    /// What the object broke before the change already, in a part that the change leaves as it was: shown to the
    /// client as warnings (their text is the error's).
    pub warnings: Vec<FieldError>,
}

/// All rules and message expressions of a schema, for [`CompileOptions::stored_expressions`].
pub fn expressions_of(schema: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    collect_expressions(schema, &mut out);
    out
}

fn collect_expressions(schema: &Value, out: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let rules = fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array);
            for rule in rules.into_iter().flatten() {
                for name in ["rule", "messageExpression"] {
                    out.extend(rule.get(name).and_then(Value::as_str).map(str::to_owned));
                }
            }
            for inner in fields.values() {
                collect_expressions(inner, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_expressions(item, out);
            }
        }
        _ => {}
    }
}

impl Rules {
    /// Compiles the rules of a structural schema and tells what is wrong with them. `is_root` for the schema of a
    /// whole custom resource.
    pub fn compile(schema: &Value, is_root: bool) -> (Self, Vec<RuleProblem>) {
        Self::compile_with(schema, is_root, &CompileOptions::default())
    }

    /// The same for a schema that may have been there before.
    pub fn compile_with(
        schema: &Value,
        is_root: bool,
        options: &CompileOptions,
    ) -> (Self, Vec<RuleProblem>) {
        let problems = Checker::new(options).check(schema);
        (Self::of_stored(schema, is_root), problems)
    }

    /// The rules of a stored schema, for validating objects; cheaper than [`Rules::compile`], as nothing is reported.
    pub fn of_stored(schema: &Value, is_root: bool) -> Self {
        let validator = Validator::of(schema, is_root);
        Self {
            inner: validator.map(|validator| {
                Arc::new(Inner {
                    validator,
                    topology: Topology::of(schema),
                })
            }),
        }
    }

    /// Whether there is nothing to validate.
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Validates an object (which must fit the schema otherwise), after defaulting and pruning. `path` is where the
    /// object is ([`FieldPath::root`] for a whole one); `old` is what it was before an update, `None` on create.
    ///
    /// Once the budget is overdrawn, nothing more is validated and one error says so.
    pub fn validate(
        &self,
        path: &FieldPath,
        new: &Value,
        old: Option<&Value>,
        budget: &mut Budget,
    ) -> Findings {
        let Some(inner) = &self.inner else {
            return Findings::default();
        };
        let correlation = match old {
            Some(old) => Correlation::root(new, old, &inner.topology),
            None => Correlation::default(),
        };
        let mut run = validate::Run {
            budget,
            findings: Findings::default(),
        };
        // Nothing is left to do if the budget ran out: the findings say so.
        let _ = run.validate(&inner.validator, path, new, old, correlation);
        run.findings
    }
}

#[cfg(test)]
mod tests;
