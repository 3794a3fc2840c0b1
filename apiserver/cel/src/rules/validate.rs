//! Validating objects by rules.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use corral_api::field::{FieldError, FieldErrorKind, FieldPath, ShowValue as _};
use serde_json::Value as Json;

use super::Findings;
use super::correlate::{Correlation, OldItems};
use super::path::normalized;
use crate::budget::Budget;
use crate::env::{Env, Program};
use crate::eval::Activation;
use crate::schema::{EMBEDDED, Reads, declared_type, list_type};
use crate::shape::{ListType, Shape};
use crate::source::Issues;
use crate::types::Type;
use crate::value::{Evaluated, EvaluationError, Value};
use crate::version::Version;

/// The longest message that an expression may give.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// A rule as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RuleText {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// The rules that stand at a schema.
pub(super) fn rules_of(schema: &Json) -> Vec<RuleText> {
    let rules = schema
        .get("x-kubernetes-validations")
        .and_then(Json::as_array);
    rules
        .into_iter()
        .flatten()
        .map(|rule| RuleText {
            rule: rule.text("rule").to_owned(),
            message: rule.text("message").to_owned(),
            message_expression: rule.text("messageExpression").to_owned(),
            reason: rule.get("reason").and_then(Json::as_str).map(str::to_owned),
            field_path: rule.text("fieldPath").to_owned(),
            optional_old_self: rule.get("optionalOldSelf").and_then(Json::as_bool),
        })
        .collect()
}

/// The environments of the rules of one schema: with an old value, and with one that may be missing.
pub(super) struct RuleEnvs {
    plain: Env,
    optional: Env,
}

/// What objects without a name of their own are called in messages. kube-apiserver adds a number of its own, so that
/// nobody relies on it.
const SELF_TYPE: &str = "selfType";

impl RuleEnvs {
    pub(super) fn new(t: &crate::decl::DeclType, version: Version) -> Self {
        let t = Arc::new(t.named(SELF_TYPE));
        let env = Env::new(version).with_data("self", &t);
        Self {
            plain: env.clone().with_data("oldSelf", &t),
            optional: env.with_optional_data("oldSelf", &t),
        }
    }

    pub(super) fn of(&self, rule: &RuleText) -> &Env {
        if rule.optional_old_self == Some(true) {
            &self.optional
        } else {
            &self.plain
        }
    }
}

/// A compiled rule; `Err` says what is wrong with it.
pub(super) fn compile_rule(env: &Env, rule: &RuleText) -> Result<Program, String> {
    let program = compile(env, &rule.rule).map_err(|e| format!("compilation failed: {e}"))?;
    if *program.output_type() != Type::Bool {
        return Err("cel expression must evaluate to a bool".to_owned());
    }
    match program.constant_error() {
        Some(e) => Err(format!("program instantiation failed: {e}")),
        None => Ok(program),
    }
}

pub(super) fn compile_message(env: &Env, rule: &RuleText) -> Result<Program, String> {
    let program = compile(env, &rule.message_expression)
        .map_err(|e| format!("messageExpression compilation failed: {e}"))?;
    if *program.output_type() != Type::String {
        return Err("messageExpression must evaluate to a string".to_owned());
    }
    match program.constant_error() {
        Some(e) => Err(format!("messageExpression instantiation failed: {e}")),
        None => Ok(program),
    }
}

fn compile(env: &Env, text: &str) -> Result<Program, Issues> {
    env.compile(text)
}

#[derive(Debug)]
struct Rule {
    text: RuleText,
    /// `None` for an empty one.
    program: Option<Result<Program, String>>,
    message: Option<Program>,
    uses_old: bool,
    field_path: Option<FieldPath>,
}

/// The rules of a schema and of all schemas below it that have some.
#[derive(Debug)]
pub(super) struct Validator {
    rules: Vec<Rule>,
    /// How its own rules see data; nothing if it has none. It describes everything below, of which validators above need
    /// no copies.
    shape: Option<Shape>,
    type_name: String,
    correlates_fields: bool,
    list_type: ListType,
    items: Option<Box<Validator>>,
    values: Option<Box<Validator>>,
    properties: BTreeMap<String, Validator>,
    all_of: Vec<Validator>,
}

fn has_rules(schema: &Json) -> bool {
    let own = schema
        .get("x-kubernetes-validations")
        .and_then(Json::as_array);
    own.is_some_and(|rules| !rules.is_empty())
        || schema.items().is_some_and(has_rules)
        || schema.values().is_some_and(has_rules)
        || schema
            .properties()
            .into_iter()
            .flatten()
            .any(|(_, s)| has_rules(s))
}

impl Validator {
    pub(super) fn of(schema: &Json, is_root: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        Self::build(schema, schema, is_root)
    }

    /// The rules of one schema over the types of another: those of an `allOf` stand on the schema around it.
    fn build(rules: &Json, node: &Json, is_resource: bool) -> Option<Self> {
        let below = |rules: Option<&Json>, node: Option<&Json>| {
            let (rules, node) = rules.zip(node)?;
            Self::build(rules, node, node.flag(EMBEDDED)).map(Box::new)
        };
        let properties: BTreeMap<String, Self> = rules
            .properties()
            .into_iter()
            .flatten()
            .filter_map(|(name, rules)| {
                let node = node.properties()?.get(name)?;
                let is_resource = node.flag(EMBEDDED);
                // Fields that expressions can't see aren't validated by any.
                declared_type(node, is_resource)?;
                Some((name.clone(), Self::build(rules, node, is_resource)?))
            })
            .collect();
        let all_of = rules.get("allOf").and_then(Json::as_array);
        let own = own_rules(rules, node, is_resource);
        let validator = Self {
            shape: (!own.is_empty()).then(|| Shape::of_schema(node, is_resource)),
            rules: own,
            type_name: node.text("type").to_owned(),
            correlates_fields: matches!(
                node.text("x-kubernetes-map-type"),
                "" | "granular" | "atomic"
            ),
            list_type: list_type(node),
            items: below(rules.items(), node.items()),
            values: below(rules.values(), node.values()),
            properties,
            all_of: all_of
                .into_iter()
                .flatten()
                .filter_map(|nested| Self::build(nested, node, is_resource))
                .collect(),
        };
        let is_empty = validator.rules.is_empty()
            && validator.items.is_none()
            && validator.values.is_none()
            && validator.properties.is_empty()
            && validator.all_of.is_empty();
        (!is_empty).then_some(validator)
    }
}

fn own_rules(rules: &Json, node: &Json, is_resource: bool) -> Vec<Rule> {
    let texts = rules_of(rules);
    if texts.is_empty() {
        return Vec::new();
    }
    let Some(t) = declared_type(node, is_resource) else {
        let wrong = "failed to convert to declType for CEL validation rules".to_owned();
        let broken = |text| Rule {
            text,
            program: Some(Err(wrong.clone())),
            message: None,
            uses_old: false,
            field_path: None,
        };
        return texts.into_iter().map(broken).collect();
    };
    let envs = RuleEnvs::new(&t, Version::NEWEST);
    texts
        .into_iter()
        .map(|text| {
            let env = envs.of(&text);
            let is_empty = text.rule.trim().is_empty();
            let program = (!is_empty).then(|| compile_rule(env, &text));
            let compiled = program.as_ref().and_then(|p| p.as_ref().ok());
            let has_message = compiled.is_some() && !text.message_expression.is_empty();
            Rule {
                uses_old: compiled.is_some_and(|p| p.names("oldSelf")),
                message: has_message
                    .then(|| compile_message(env, &text).ok())
                    .flatten(),
                field_path: normalized(&text.field_path, node)
                    .filter(|_| !text.field_path.is_empty()),
                program,
                text,
            }
        })
        .collect()
}

/// The variables of a rule.
struct Selves<'a> {
    new: Evaluated<'a>,
    /// `None` if there is no such variable.
    old: Option<Evaluated<'a>>,
}

impl<'a> Activation<'a> for Selves<'a> {
    fn variable(&self, name: &str) -> Option<Evaluated<'a>> {
        match name {
            "self" => Some(self.new.clone()),
            "oldSelf" => self.old.clone(),
            _ => None,
        }
    }
}

/// One validation.
pub(super) struct Run<'b> {
    pub budget: &'b mut Budget,
    pub findings: Findings,
}

/// Broken off when the budget is overdrawn.
type Flow = ControlFlow<()>;

impl Run<'_> {
    pub(super) fn validate<'a>(
        &mut self,
        validator: &'a Validator,
        path: &FieldPath,
        new: &'a Json,
        old: Option<&'a Json>,
        correlation: Correlation<'a>,
    ) -> Flow {
        if new.is_null() {
            return Flow::Continue(());
        }
        self.rules(validator, path, new, old, correlation)?;
        for nested in &validator.all_of {
            self.validate(nested, path, new, old, correlation.around())?;
        }
        match new {
            Json::Array(items) => {
                let Some(validator_of_items) = &validator.items else {
                    return Flow::Continue(());
                };
                let old = old.and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
                let old_items = OldItems::of(&validator.list_type, old);
                let correlated = correlation.old_items();
                for (i, item) in items.iter().enumerate() {
                    let old = old_items.of_item(item);
                    let path = path.index(i);
                    let correlation = correlation.item(item, correlated.of_item(item));
                    self.validate(validator_of_items, &path, item, old, correlation)?;
                }
            }
            Json::Object(fields) => {
                let old = old
                    .and_then(Json::as_object)
                    .filter(|_| validator.correlates_fields);
                let old_of = |name: &str| old.and_then(|o| o.get(name));
                if let Some(values) = &validator.values {
                    for (name, value) in fields {
                        let path = path.key(name);
                        self.validate(values, &path, value, old_of(name), correlation.key(name))?;
                    }
                }
                for (name, value) in fields {
                    if let Some(inner) = validator.properties.get(name) {
                        let path = path.child(name);
                        self.validate(inner, &path, value, old_of(name), correlation.key(name))?;
                    }
                }
            }
            _ => {}
        }
        Flow::Continue(())
    }

    fn invalid(&mut self, path: &FieldPath, validator: &Validator, detail: String) {
        let error = FieldError::invalid(path, validator.type_name.as_str(), detail);
        self.findings.errors.push(error);
    }

    fn stop(&mut self) -> Flow {
        self.budget.exhaust();
        Flow::Break(())
    }

    fn rules<'a>(
        &mut self,
        validator: &'a Validator,
        path: &FieldPath,
        new: &'a Json,
        old: Option<&'a Json>,
        correlation: Correlation<'a>,
    ) -> Flow {
        let Some(shape) = &validator.shape else {
            return Flow::Continue(());
        };
        if self.budget.left().is_none_or(|left| left == 0) {
            self.invalid(path, validator, OUT_OF_BUDGET.to_owned());
            return self.stop();
        }
        let old = old.filter(|old| !old.is_null());
        let uses_old = validator.rules.iter().any(|r| r.uses_old);
        let new_value = shape.view(new);
        let old_value = old.filter(|_| uses_old).map(|old| shape.view(old));
        for rule in &validator.rules {
            let optional = rule.text.optional_old_self == Some(true);
            if rule.uses_old && old.is_none() && !optional {
                continue;
            }
            let old = match &old_value {
                _ if !uses_old => None,
                Some(old) if optional => Some(old.clone().map(Value::some)),
                None if optional => Some(Ok(Value::Optional(None))),
                old => old.clone(),
            };
            let selves = Selves {
                new: new_value.clone(),
                old,
            };
            self.rule(validator, rule, path, new, &selves, correlation)?;
        }
        Flow::Continue(())
    }

    fn rule<'a>(
        &mut self,
        validator: &Validator,
        rule: &Rule,
        path: &FieldPath,
        new: &Json,
        selves: &Selves<'a>,
        correlation: Correlation<'_>,
    ) -> Flow {
        let program = match &rule.program {
            None => return Flow::Continue(()),
            Some(Ok(program)) => program,
            Some(Err(e)) => {
                self.invalid(path, validator, format!("rule compile error: {e}"));
                return Flow::Continue(());
            }
        };
        let result = program.evaluate(selves, self.budget);
        if self.budget.is_overdrawn() {
            self.invalid(path, validator, OUT_OF_BUDGET.to_owned());
            return self.stop();
        }
        match result {
            Ok(Value::Bool(true)) => return Flow::Continue(()),
            Ok(_) => {}
            Err(e) => {
                let is_limit = e.is_limit();
                self.invalid(path, validator, failure(&e, &shown(&rule.text)));
                return if is_limit {
                    self.stop()
                } else {
                    Flow::Continue(())
                };
            }
        }
        let at = match &rule.field_path {
            Some(below) => path.child(below.as_str()),
            None => path.clone(),
        };
        let is_old_trouble = !rule.uses_old && correlation.is_unchanged();
        let message = match &rule.message {
            Some(message) => match self.message(message, rule, selves) {
                Ok(message) => message,
                Err(detail) => {
                    let error = FieldError::invalid(&at, validator.type_name.as_str(), detail);
                    self.add(error, is_old_trouble);
                    return self.stop();
                }
            },
            None => None,
        };
        let message = message.unwrap_or_else(|| default_message(&rule.text));
        let is_scalar = !matches!(validator.type_name.as_str(), "object" | "array");
        let error = broken(&rule.text, at, is_scalar.then_some(new), message);
        self.add(error, is_old_trouble);
        Flow::Continue(())
    }

    fn add(&mut self, error: FieldError, is_old_trouble: bool) {
        if is_old_trouble {
            self.findings.warnings.push(error);
        } else {
            self.findings.errors.push(error);
        }
    }

    /// The message that an expression gives, `None` if it gives none that can be used; an error if evaluating it cost
    /// too much.
    fn message<'a>(
        &mut self,
        program: &Program,
        rule: &Rule,
        selves: &Selves<'a>,
    ) -> Result<Option<String>, String> {
        let result = program.evaluate(selves, self.budget);
        if self.budget.is_overdrawn() {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .to_owned(),
            );
        }
        let text = match result {
            Ok(value) => value.as_str().map(|t| t.trim().to_owned()),
            Err(e) if e.is_limit() => {
                let expression = corral_api::field::go_quote(&rule.text.message_expression);
                return Err(format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {expression}"
                ));
            }
            Err(_) => None,
        };
        Ok(text.filter(|t| !t.is_empty() && t.len() <= MESSAGE_BYTES_MAX && !t.contains('\n')))
    }
}

/// What a rule is called in messages.
fn shown(rule: &RuleText) -> String {
    if rule.message.is_empty() {
        rule.rule.trim().to_owned()
    } else {
        rule.message.trim().to_owned()
    }
}

fn default_message(rule: &RuleText) -> String {
    if rule.message.is_empty() {
        format!("failed rule: {}", rule.rule.trim())
    } else {
        rule.message.trim().to_owned()
    }
}

fn failure(error: &EvaluationError, rule: &str) -> String {
    let text = error.to_string();
    if text.starts_with("no such overload") {
        format!(
            "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {rule}"
        )
    } else if error.is_limit() {
        format!(
            "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {rule}"
        )
    } else {
        format!("{text} evaluating rule: {rule}")
    }
}

/// The error of a rule that isn't kept. Of objects and lists the value isn't shown.
fn broken(rule: &RuleText, path: FieldPath, value: Option<&Json>, detail: String) -> FieldError {
    let shown = value.map(Json::show);
    let (kind, value, detail) = match rule.reason.as_deref() {
        Some("FieldValueForbidden") => (FieldErrorKind::Forbidden, None, detail),
        Some("FieldValueRequired") => (FieldErrorKind::Required, None, detail),
        Some("FieldValueDuplicate") => (FieldErrorKind::Duplicate, shown, String::new()),
        _ => (FieldErrorKind::Invalid, shown, detail),
    };
    FieldError {
        kind,
        path,
        value,
        detail,
    }
}
