//! The `x-kubernetes-validations` of a CustomResourceDefinition's schema: compiling them, and validating objects.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath};
use serde_json::Value;

use crate::budget::Budget;

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
    /// Why.
    pub detail: String,
    /// Whether kube-apiserver counts it to the errors of the schema, which it reports before those of expressions,
    /// and with which it leaves the expressions of that schema and the ones around it alone.
    pub of_schema: bool,
}

impl RuleProblem {
    /// The error of a schema that is at `schema`, such as `spec.validation.openAPIV3Schema`.
    pub fn below(&self, schema: &FieldPath) -> FieldError {
        let path = if self.path == FieldPath::root() {
            schema.clone()
        } else {
            schema.child(self.path.as_str())
        };
        FieldError {
            kind: self.kind,
            path,
            value: self.value.clone(),
            detail: self.detail.clone(),
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
pub struct Rules {}

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
pub fn expressions_of(_schema: &Value) -> BTreeSet<String> {
    BTreeSet::new()
}

impl Rules {
    /// Compiles the rules of a structural schema and tells what is wrong with them. `is_root` for the schema of a
    /// whole custom resource.
    pub fn compile(schema: &Value, is_root: bool) -> (Self, Vec<RuleProblem>) {
        Self::compile_with(schema, is_root, &CompileOptions::default())
    }

    /// The same for a schema that may have been there before.
    pub fn compile_with(
        _schema: &Value,
        _is_root: bool,
        _options: &CompileOptions,
    ) -> (Self, Vec<RuleProblem>) {
        (Self {}, Vec::new())
    }

    /// The rules of a stored schema, for validating objects; cheaper than [`Rules::compile`], as nothing is reported.
    pub fn of_stored(_schema: &Value, _is_root: bool) -> Self {
        Self {}
    }

    /// Whether there is nothing to validate.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Validates an object (which must fit the schema otherwise), after defaulting and pruning. `path` is where the
    /// object is ([`FieldPath::root`] for a whole one); `old` is what it was before an update, `None` on create.
    ///
    /// Once the budget is overdrawn, nothing more is validated and one error says so.
    pub fn validate(
        &self,
        _path: &FieldPath,
        _new: &Value,
        _old: Option<&Value>,
        _budget: &mut Budget,
    ) -> Findings {
        Findings::default()
    }
}
