use serde_json::json;

use super::*;

fn validate(schema: &Value, new: &Value, old: Option<&Value>) -> Findings {
    let (rules, problems) = Rules::compile(schema, true);
    assert_eq!(problems, []);
    rules.validate(&FieldPath::root(), new, old, &mut Budget::of_request())
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(FieldError::to_string).collect()
}

fn problems(schema: &Value) -> Vec<String> {
    let base = FieldPath::new("spec.validation.openAPIV3Schema");
    let (_, problems) = Rules::compile(schema, true);
    problems
        .iter()
        .map(|p| p.below(&base).to_string())
        .collect()
}

#[test]
fn rules_are_validated_with_their_messages() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min must not exceed max"},
            {"rule": "self.name.startsWith('a')", "messageExpression": "'not ' + self.name", "fieldPath": ".name"},
            {"rule": "self.max < 100", "reason": "FieldValueForbidden"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"}}}}});
    let object = json!({"spec": {"min": 300, "max": 200, "name": "b"}});
    assert_eq!(
        texts(&validate(&schema, &object, None).errors),
        [
            "spec: Invalid value: min must not exceed max",
            "spec.name: Invalid value: not b",
            "spec: Forbidden: failed rule: self.max < 100",
        ]
    );
    assert_eq!(
        texts(&validate(&schema, &json!({"spec": {"min": 1, "max": 2}}), None).errors),
        [
            "spec: Invalid value: \"object\": no such key: name evaluating rule: self.name.startsWith('a')"
        ]
    );
}

#[test]
fn transition_rules_need_an_old_value() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v"}]}},
        "once": {"type": "integer", "x-kubernetes-validations":
            [{"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true}]}}});
    let old = json!({"a": "x", "once": 1, "list": [{"k": "p", "v": 2}, {"k": "q", "v": 5}]});
    let new = json!({"a": "y", "once": 2, "list": [{"k": "q", "v": 4}, {"k": "p", "v": 3}, {"k": "r", "v": 0}]});
    assert_eq!(validate(&schema, &new, None).errors, []);
    assert_eq!(
        texts(&validate(&schema, &new, Some(&old)).errors),
        [
            "a: Invalid value: \"y\": failed rule: self == oldSelf",
            "list[0]: Invalid value: failed rule: self.v >= oldSelf.v",
            "once: Invalid value: 2: failed rule: !oldSelf.hasValue() || self == oldSelf.value()",
        ]
    );
}

#[test]
fn unchanged_parts_only_warn() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 10"}]},
        "b": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 10"}]}}});
    let found = validate(
        &schema,
        &json!({"a": 20, "b": 20}),
        Some(&json!({"a": 20, "b": 1})),
    );
    assert_eq!(
        texts(&found.errors),
        ["b: Invalid value: 20: failed rule: self < 10"]
    );
    assert_eq!(
        texts(&found.warnings),
        ["a: Invalid value: 20: failed rule: self < 10"]
    );
}

#[test]
fn what_does_not_compile_is_told() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"a": {"type": "string"}},
        "x-kubernetes-validations": [
            {"rule": "self.b == 1"},
            {"rule": "self.a"},
            {"rule": "true", "messageExpression": "1"},
            {"rule": "true", "optionalOldSelf": true}]}}});
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations";
    let rule = |rule: &str, expression: &str| {
        format!(
            "{{\"Rule\":\"{rule}\",\"Message\":\"\",\"MessageExpression\":\"{expression}\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}"
        )
    };
    assert_eq!(
        problems(&schema),
        [
            format!(
                "{at}[0].rule: Invalid value: {}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b == 1\n | ....^",
                rule("self.b == 1", "")
            ),
            format!(
                "{at}[1].rule: Invalid value: {}: cel expression must evaluate to a bool",
                rule("self.a", "")
            ),
            format!(
                "{at}[2].messageExpression: Invalid value: {}: messageExpression must evaluate to a string",
                rule("true", "1")
            ),
            format!(
                "{at}[3].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ]
    );
}

#[test]
fn what_costs_too_much_is_told() {
    let schema = json!({"type": "object", "properties": {"list": {"type": "array",
        "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}});
    let at = "spec.validation.openAPIV3Schema.properties[list].x-kubernetes-validations[0].rule";
    let advice = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    assert_eq!(
        problems(&schema),
        [
            format!(
                "{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {advice}"
            ),
            format!(
                "{at}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            format!(
                "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {advice}"
            ),
        ]
    );
}

#[test]
fn old_values_within_lists_without_keys_cannot_be_used() {
    let schema = json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 3,
        "items": {"type": "string", "maxLength": 3, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    assert_eq!(
        problems(&schema),
        [
            "spec.validation.openAPIV3Schema.properties[list].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[list]"
        ]
    );
}

#[test]
fn the_budget_ends_validation() {
    let schema = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer"},
        "maxItems": 10, "x-kubernetes-validations": [{"rule": "self.all(x, x > 0)"}, {"rule": "true"}]}}});
    let (rules, problems) = Rules::compile(&schema, true);
    assert_eq!(problems, []);
    let object = json!({"list": [1, 2, 3, 4, 5]});
    let mut budget = Budget::new(10);
    let found = rules.validate(&FieldPath::root(), &object, None, &mut budget);
    assert_eq!(
        texts(&found.errors),
        [
            "list: Invalid value: \"array\": validation failed due to running out of cost budget, no further validation rules will be run"
        ]
    );
    assert!(budget.is_overdrawn());
    let mut budget = Budget::of_request().with_call_max(10);
    let found = rules.validate(&FieldPath::root(), &object, None, &mut budget);
    assert_eq!(
        texts(&found.errors),
        [
            "list: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.all(x, x > 0)"
        ]
    );
}
