//! What is wrong with the rules of a schema that is written to the API.

use corral_api::field::{FieldErrorKind, FieldPath, go_quote};
use serde_json::Value as Json;

use super::path::normalized;
use super::validate::{RuleEnvs, RuleText, compile_message, compile_rule, rules_of};
use super::{CompileOptions, RULE_COST_MAX, RuleProblem, SCHEMA_COST_MAX};
use crate::env::Env;
use crate::schema::{EMBEDDED, REQUEST_BYTES_MAX, Reads, declared_type};
use crate::version::Version;

const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// How many of the most expensive rules are told when all together cost too much.
const MOST_EXPENSIVE: usize = 4;

/// Where the check is.
#[derive(Clone)]
struct At {
    path: FieldPath,
    /// How often the data of this schema can be there; `None` without a bound.
    cardinality: Option<u64>,
    /// The schema within which old values can't be told from each other.
    uncorrelatable: Option<FieldPath>,
    /// Whether rules here are compiled at all; not within `not`, `anyOf` and the like.
    compiled: bool,
    is_resource: bool,
}

pub(super) struct Checker<'o> {
    options: &'o CompileOptions,
    of_schema: Vec<RuleProblem>,
    of_rules: Vec<RuleProblem>,
    total: u64,
    most_expensive: Vec<(FieldPath, u64)>,
}

impl<'o> Checker<'o> {
    pub(super) fn new(options: &'o CompileOptions) -> Self {
        Self {
            options,
            of_schema: Vec::new(),
            of_rules: Vec::new(),
            total: 0,
            most_expensive: Vec::new(),
        }
    }

    /// All problems, in kube-apiserver's order.
    pub(super) fn check(mut self, schema: &Json) -> Vec<RuleProblem> {
        let root = At {
            path: FieldPath::root(),
            cardinality: Some(1),
            uncorrelatable: None,
            compiled: !self.options.form_only,
            is_resource: true,
        };
        self.schema(schema, &root);
        let mut out = self.of_schema;
        out.append(&mut self.of_rules);
        if self.total > SCHEMA_COST_MAX {
            for (path, _) in self.most_expensive {
                let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                out.push(problem(
                    path,
                    FieldErrorKind::Forbidden,
                    None,
                    detail.to_owned(),
                ));
            }
            let what =
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            let detail = too_expensive(what, self.total, SCHEMA_COST_MAX);
            out.push(problem(
                FieldPath::root(),
                FieldErrorKind::Forbidden,
                None,
                detail,
            ));
        }
        out
    }

    fn child(
        &mut self,
        schema: Option<&Json>,
        at: &At,
        step: &FieldPath,
        change: impl FnOnce(&mut At),
    ) {
        let Some(schema) = schema.filter(|s| s.is_object()) else {
            return;
        };
        let mut inner = At {
            path: step.clone(),
            is_resource: schema.flag(EMBEDDED),
            ..at.clone()
        };
        change(&mut inner);
        self.schema(schema, &inner);
    }

    fn schema(&mut self, schema: &Json, at: &At) {
        let n_before = self.of_schema.len();
        let cardinality = multiplied(at.cardinality, elements_max(schema));
        let data = |inner: &mut At| inner.cardinality = cardinality;
        let logic = |inner: &mut At| inner.compiled = false;
        self.child(
            schema.values(),
            at,
            &at.path.child("additionalProperties"),
            data,
        );
        let correlates = matches!(
            schema.text("x-kubernetes-map-type"),
            "" | "granular" | "atomic"
        );
        let properties = schema.get("properties").and_then(Json::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let step = at.path.child("properties").key(name);
            self.child(Some(property), at, &step, |inner| {
                inner.cardinality = cardinality;
                if !correlates {
                    inner.uncorrelatable.get_or_insert_with(|| at.path.clone());
                }
            });
        }
        self.child(schema.get("not"), at, &at.path.child("not"), logic);
        for name in ["allOf", "oneOf", "anyOf"] {
            let nested = schema.get(name).and_then(Json::as_array);
            for (i, nested) in nested.into_iter().flatten().enumerate() {
                self.child(Some(nested), at, &at.path.child(name).index(i), logic);
            }
        }
        for name in ["definitions", "dependencies"] {
            let nested = schema.get(name).and_then(Json::as_object);
            for (key, nested) in nested.into_iter().flatten() {
                self.child(Some(nested), at, &at.path.child(name).key(key), logic);
            }
        }
        let is_keyed = schema.text("x-kubernetes-list-type") == "map";
        self.child(schema.items(), at, &at.path.child("items"), |inner| {
            inner.cardinality = cardinality;
            if !is_keyed {
                inner.uncorrelatable.get_or_insert_with(|| at.path.clone());
            }
        });
        let rules = rules_of(schema);
        if rules.is_empty() {
            return;
        }
        for (i, rule) in rules.iter().enumerate() {
            self.form(schema, rule, &rule_path(at, i));
        }
        let has_errors = self.of_schema.len() > n_before
            || self
                .options
                .schema_errors
                .iter()
                .any(|e| is_within(e, &at.path));
        if at.compiled && !has_errors {
            self.compile(schema, &rules, at);
        }
    }

    fn wrong_form(
        &mut self,
        path: FieldPath,
        kind: FieldErrorKind,
        value: Option<String>,
        detail: &str,
    ) {
        self.of_schema.push(RuleProblem {
            of_schema: true,
            ..problem(path, kind, value, detail.to_owned())
        });
    }

    /// The rule's own fields.
    fn form(&mut self, schema: &Json, rule: &RuleText, path: &FieldPath) {
        use FieldErrorKind::{Invalid, NotSupported, Required};
        let (text, message) = (rule.rule.trim(), rule.message.trim());
        let quoted = |text: &str| Some(go_quote(text));
        if text.is_empty() {
            self.wrong_form(path.child("rule"), Required, None, "rule is not specified");
        } else if !rule.message.is_empty() && message.is_empty() {
            let value = quoted(&rule.message);
            self.wrong_form(
                path.child("message"),
                Invalid,
                value,
                "must be non-empty if specified",
            );
        } else if has_line_breaks(message) {
            let value = quoted(&rule.message);
            self.wrong_form(
                path.child("message"),
                Invalid,
                value,
                "must not contain line breaks",
            );
        } else if has_line_breaks(text) && message.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            self.wrong_form(path.child("message"), Required, None, detail);
        }
        if !rule.message_expression.is_empty() && rule.message_expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            self.wrong_form(path.child("messageExpression"), Required, None, detail);
        }
        if let Some(reason) = rule.reason.as_deref().filter(|r| !REASONS.contains(r)) {
            let allowed: Vec<String> = REASONS.iter().map(|r| go_quote(r)).collect();
            let detail = format!("supported values: {}", allowed.join(", "));
            self.wrong_form(path.child("reason"), NotSupported, quoted(reason), &detail);
        }
        if rule.field_path.is_empty() {
            return;
        }
        let value = || quoted(&rule.field_path);
        let path = path.child("fieldPath");
        if rule.field_path.trim().is_empty() {
            self.wrong_form(
                path.clone(),
                Invalid,
                value(),
                "must be non-empty if specified",
            );
        }
        if has_line_breaks(&rule.field_path) {
            self.wrong_form(
                path.clone(),
                Invalid,
                value(),
                "must not contain line breaks",
            );
        }
        if normalized(&rule.field_path, schema).is_none() {
            self.wrong_form(path, Invalid, value(), "must be a valid path");
        }
    }

    fn compile(&mut self, schema: &Json, rules: &[RuleText], at: &At) {
        let Some(t) = declared_type(schema, at.is_resource) else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            let path = at.path.child("x-kubernetes-validations");
            self.of_rules.push(problem(
                path,
                FieldErrorKind::Internal,
                None,
                detail.to_owned(),
            ));
            return;
        };
        // How often the data can be there at most if the schemas around it don't say.
        let unbounded = u64::try_from(REQUEST_BYTES_MAX / (t.bytes_min + 1)).unwrap_or(0);
        let cardinality = at.cardinality.unwrap_or(unbounded);
        let new = RuleEnvs::new(&t, Version::COMPATIBLE);
        let stored = RuleEnvs::new(&t, Version::NEWEST);
        for (i, rule) in rules.iter().enumerate() {
            if rule.rule.trim().is_empty() {
                continue;
            }
            let env_of = |text: &str| {
                let known = self.options.stored_expressions.contains(text);
                if known { stored.of(rule) } else { new.of(rule) }
            };
            let (env, message_env) = (env_of(&rule.rule), env_of(&rule.message_expression));
            self.rule(rule, env, message_env, &rule_path(at, i), cardinality, at);
        }
    }

    fn rule(
        &mut self,
        rule: &RuleText,
        env: &Env,
        message_env: &Env,
        path: &FieldPath,
        cardinality: u64,
        at: &At,
    ) {
        let rule_path = path.child("rule");
        let compiled = compile_rule(env, rule);
        let cost = compiled
            .as_ref()
            .map_or(0, |p| p.estimated_cost().max.saturating_mul(cardinality));
        self.cost(&rule_path, "estimated rule cost", cost);
        let uses_old = match &compiled {
            Err(detail) => {
                let value = Some(rule_as_json(rule));
                self.of_rules.push(problem(
                    rule_path.clone(),
                    FieldErrorKind::Invalid,
                    value,
                    detail.clone(),
                ));
                // What didn't compile is told once; whether it looks at old values isn't known.
                false
            }
            Ok(program) => program.names("oldSelf"),
        };
        if compiled.is_ok() && !rule.message_expression.is_empty() {
            let path = path.child("messageExpression");
            match compile_message(message_env, rule) {
                Err(detail) => self.of_rules.push(problem(
                    path,
                    FieldErrorKind::Invalid,
                    Some(rule_as_json(rule)),
                    detail,
                )),
                Ok(program) => {
                    let cost = program.estimated_cost().max;
                    self.cost(&path, "estimated messageExpression cost", cost);
                }
            }
        }
        if uses_old {
            if let Some(within) = &at.uncorrelatable {
                let detail =
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within ";
                self.of_rules.push(RuleProblem {
                    within: Some(within.clone()),
                    ..problem(
                        rule_path,
                        FieldErrorKind::Invalid,
                        Some(go_quote(&rule.rule)),
                        detail.to_owned(),
                    )
                });
            }
        } else if let Some(optional) = rule.optional_old_self {
            self.of_rules.push(problem(
                path.child("optionalOldSelf"),
                FieldErrorKind::Invalid,
                Some(optional.to_string()),
                "may not be set if oldSelf is not used in rule".to_owned(),
            ));
        }
    }

    fn cost(&mut self, path: &FieldPath, what: &str, cost: u64) {
        if !self.options.unchanged && cost > RULE_COST_MAX {
            let detail = too_expensive(what, cost, RULE_COST_MAX);
            self.of_rules.push(problem(
                path.clone(),
                FieldErrorKind::Forbidden,
                None,
                detail,
            ));
        }
        self.total = self.total.saturating_add(cost);
        if cost < SCHEMA_COST_MAX / 100 {
            return;
        }
        self.most_expensive.push((path.clone(), cost));
        self.most_expensive
            .sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.most_expensive.truncate(MOST_EXPENSIVE);
    }
}

fn problem(
    path: FieldPath,
    kind: FieldErrorKind,
    value: Option<String>,
    detail: String,
) -> RuleProblem {
    RuleProblem {
        path,
        kind,
        value,
        detail,
        within: None,
        of_schema: false,
    }
}

fn rule_path(at: &At, i: usize) -> FieldPath {
    at.path.child("x-kubernetes-validations").index(i)
}

fn has_line_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// Whether an error is at a schema or below it.
fn is_within(error: &FieldPath, schema: &FieldPath) -> bool {
    *schema == FieldPath::root()
        || error
            .as_str()
            .strip_prefix(schema.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn multiplied(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a?.saturating_mul(b?))
}

/// How many values of a schema's children there can be for each of its own; `None` without a bound.
fn elements_max(schema: &Json) -> Option<u64> {
    let bound = |name: &str| {
        schema
            .bound(name)
            .map(|n| u64::try_from(n.max(0)).unwrap_or(0))
    };
    match schema.text("type") {
        "object"
            if schema
                .get("additionalProperties")
                .is_some_and(|a| !a.is_null()) =>
        {
            bound("maxProperties")
        }
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

fn too_expensive(what: &str, cost: u64, max: u64) -> String {
    let factor = crate::number::of_uint(cost) / crate::number::of_uint(max);
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// The rule as kube-apiserver shows it in errors.
fn rule_as_json(rule: &RuleText) -> String {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        go_json(&rule.rule),
        go_json(&rule.message),
        go_json(&rule.message_expression),
        optional(rule.reason.as_deref().map(go_json)),
        go_json(&rule.field_path),
        optional(rule.optional_old_self.map(|b| b.to_string())),
    )
}

/// A text as Go writes it into JSON, safe for HTML.
fn go_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in Json::from(text).to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}
