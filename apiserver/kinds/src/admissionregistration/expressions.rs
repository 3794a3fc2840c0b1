//! What is wrong with expressions when they are written. Those that were there before may use what a newer server knows.

use std::collections::BTreeSet;

use corral_api::field::{FieldError, FieldPath};
use corral_api::k8s::api::admissionregistration::v1::{
    MatchCondition, MutatingAdmissionPolicySpec, ValidatingAdmissionPolicySpec, Variable,
};
use corral_cel::Version;
use corral_cel::admission::{CompileError, Compiler, Options, Returns};

use crate::rules::Errors;

/// Checks the expressions of webhooks or of one policy.
pub struct Expressions {
    new: Compiler,
    stored: Compiler,
    /// Those that were there before.
    kept: BTreeSet<String>,
    /// Whether `params` may be used.
    params: bool,
}

impl Expressions {
    /// Those of webhooks; given are the conditions that were there before.
    pub fn of_webhooks<'a>(before: impl Iterator<Item = &'a MatchCondition>) -> Self {
        Self {
            new: Compiler::new(Version::COMPATIBLE),
            stored: Compiler::new(Version::NEWEST),
            kept: before.map(|one| one.expression.clone()).collect(),
            params: false,
        }
    }

    fn of_policy(has_params: bool, has_variables: bool, kept: BTreeSet<String>) -> Self {
        let compiler = match has_variables {
            true => Compiler::of_policy,
            false => Compiler::new,
        };
        Self {
            new: compiler(Version::COMPATIBLE),
            stored: compiler(Version::NEWEST),
            kept,
            params: has_params,
        }
    }

    /// Those of a validating policy.
    pub fn of_validating(
        spec: &ValidatingAdmissionPolicySpec,
        old: Option<&ValidatingAdmissionPolicySpec>,
    ) -> Self {
        let mut kept = BTreeSet::new();
        if let Some(old) = old {
            let conditions = old.match_conditions.iter().flatten();
            kept.extend(conditions.map(|one| one.expression.clone()));
            for one in old.validations.iter().flatten() {
                kept.insert(one.expression.clone());
                kept.extend(one.message_expression.clone());
            }
            let annotations = old.audit_annotations.iter().flatten();
            kept.extend(annotations.map(|one| one.value_expression.clone()));
        }
        let has_variables = spec.variables.as_ref().is_some_and(|list| !list.is_empty());
        Self::of_policy(spec.param_kind.is_some(), has_variables, kept)
    }

    /// Those of a mutating policy.
    pub fn of_mutating(
        spec: &MutatingAdmissionPolicySpec,
        old: Option<&MutatingAdmissionPolicySpec>,
    ) -> Self {
        let mut kept = BTreeSet::new();
        if let Some(old) = old {
            let conditions = old.match_conditions.iter().flatten();
            kept.extend(conditions.map(|one| one.expression.clone()));
            for one in old.mutations.iter().flatten() {
                let patch = one.json_patch.as_ref();
                kept.extend(patch.and_then(|patch| patch.expression.clone()));
                let applied = one.apply_configuration.as_ref();
                kept.extend(applied.and_then(|applied| applied.expression.clone()));
            }
        }
        Self::of_policy(spec.param_kind.is_some(), true, kept)
    }

    fn options(&self) -> Options {
        Options {
            params: self.params,
            authorizer: true,
            patch_types: false,
        }
    }

    /// A condition that must hold of a request. It knows no variables.
    pub fn condition(&self, errors: &mut Errors, path: &FieldPath, text: &str) {
        let (version, text) = match self.kept.contains(text) {
            true => (Version::NEWEST, text.trim()),
            false => (Version::COMPATIBLE, text.trim()),
        };
        let compiled = Compiler::new(version).compile(text, Returns::Condition, self.options());
        tell(errors, path, text, compiled);
    }

    /// A rule, by which objects are judged.
    pub fn rule(&self, errors: &mut Errors, path: &FieldPath, text: &str) {
        let compiled = self
            .compiler(text)
            .compile(text, Returns::Condition, self.options());
        tell(errors, path, text, compiled);
    }

    /// What makes a message.
    pub fn message(&self, errors: &mut Errors, path: &FieldPath, text: &str) {
        let options = Options {
            authorizer: false,
            ..self.options()
        };
        let compiled = self.compiler(text).compile(text, Returns::Text, options);
        tell(errors, path, text, compiled);
    }

    /// What makes the value of an audit annotation.
    pub fn note(&self, errors: &mut Errors, path: &FieldPath, text: &str) {
        let compiler = self.compiler(text);
        let compiled = compiler.compile(text.trim(), Returns::Note, self.options());
        tell(errors, path, text, compiled);
    }

    /// What changes an object.
    pub fn change(&self, errors: &mut Errors, path: &FieldPath, text: &str, returns: Returns) {
        let options = Options {
            patch_types: true,
            ..self.options()
        };
        let trimmed = text.trim();
        let compiled = self.compiler(text).compile(trimmed, returns, options);
        tell(errors, path, trimmed, compiled);
    }

    /// A variable, which later expressions may use.
    pub fn variable(&mut self, errors: &mut Errors, path: &FieldPath, variable: &Variable) {
        let (name, text, options) = (&variable.name, &variable.expression, self.options());
        let of_new = self.new.add_variable(name, text, options);
        let of_stored = self.stored.add_variable(name, text, options);
        let result = match self.kept.contains(text) {
            true => of_stored,
            false => of_new,
        };
        tell(errors, path, text, result);
    }

    fn compiler(&self, text: &str) -> &Compiler {
        match self.kept.contains(text) {
            true => &self.stored,
            false => &self.new,
        }
    }
}

fn tell<T>(errors: &mut Errors, path: &FieldPath, text: &str, result: Result<T, CompileError>) {
    if let Err(error) = result {
        errors.push(match error.internal {
            true => FieldError::internal(path, error.detail),
            false => FieldError::invalid(path, text, error.detail),
        });
    }
}
