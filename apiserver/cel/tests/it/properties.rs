//! What holds for any text.

use std::collections::HashMap;

use corral_cel::budget::CALL_COST_MAX;
use corral_cel::rules::Rules;
use corral_cel::{Budget, Env, Type, Value, Version};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// What one evaluation may cost here.
const COST_MAX: u64 = 20_000;

fn env() -> Env {
    Env::new(Version::new(1, 36))
        .with_variable("object", Type::Dyn)
        .with_variable("list", Type::list(Type::Int))
        .with_variable("text", Type::String)
}

fn object() -> Json {
    json!({"a": 1, "b": [1, "x", null, 1.5], "c": {"d": true}, "s": "é€😀"})
}

fn evaluate(text: &str) {
    let Ok(program) = env().compile(text) else {
        return;
    };
    let (object, list, word) = (object(), json!([3, 1, 2]), json!("some text"));
    let variables = HashMap::from([
        ("object", Value::of_json(&object)),
        ("list", Value::of_json(&list)),
        ("text", Value::of_json(&word)),
    ]);
    let mut budget = Budget::new(u64::MAX).with_call_max(COST_MAX);
    let result = program.evaluate(&variables, &mut budget);
    let cost = u64::MAX - budget.left().expect("there was more than enough");
    match result {
        Err(e) if e.is_limit() => {}
        // The last step may go beyond the limit before that is noticed, and the next one is never begun.
        _ => assert!(cost <= COST_MAX, "{text} cost {cost}"),
    }
}

/// Words of the language in any order.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "object",
        "list",
        "text",
        "x",
        "y",
        ".",
        ".",
        "?",
        ":",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        "1",
        "2u",
        "1.5",
        "-",
        "!",
        "+",
        "*",
        "/",
        "%",
        "==",
        "<",
        "in",
        "&&",
        "||",
        "'a'",
        "b'\\xff'",
        "r'\\d+'",
        "'%s'",
        "null",
        "true",
        "size",
        "all",
        "exists",
        "map",
        "filter",
        "has",
        "cel.bind",
        "format",
        "matches",
        "split",
        "replace",
        "quantity",
        "ip",
        "cidr",
        "url",
        "semver",
        "duration",
        "timestamp",
        "dyn",
        "type",
        "optional.of",
        "optMap",
        "transformList",
        "`x-y`",
        "__result__",
        "@",
        "\"",
        "\\",
        "\n",
        "é",
        "// c",
        "sets.contains",
        "flatten",
        "lists.range",
        "9223372036854775807",
        "0x",
        "1e400",
    ]);
    prop::collection::vec(word, 0..24).prop_map(|words| words.join(" "))
}

/// Expressions that compile more often than not, and some of them would run for long.
fn loops() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "1",
        "list",
        "object.b",
        "text",
        "'a'",
        "lists.range(50)",
        "object.c",
        "[1, 2, 3]",
        "x",
        "true",
        "9223372036854775807",
        "'%d'.format([1])",
        "object.nope",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let (a, b) = (inner.clone(), inner.clone());
        let macros = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        let pairs = (a.clone(), b.clone());
        prop_oneof![
            (a.clone(), macros, b.clone()).prop_map(|(a, m, b)| format!("dyn({a}).{m}(x, {b})")),
            pairs
                .clone()
                .prop_map(|(a, b)| format!("dyn({a}) + dyn({b})")),
            pairs
                .clone()
                .prop_map(|(a, b)| format!("(dyn({a}) == {b} || dyn({b}))")),
            pairs.clone().prop_map(|(a, b)| format!("dyn({a})[{b}]")),
            pairs
                .clone()
                .prop_map(|(a, b)| format!("string(dyn({a})).replace('a', string(dyn({b})))")),
            pairs
                .clone()
                .prop_map(|(a, b)| format!("string(dyn({a})).matches(string(dyn({b})))")),
            pairs.prop_map(|(a, b)| format!("[{a}, {b}].map(y, dyn(y))")),
            a.prop_map(|a| format!("(true ? dyn({a}).size() : dyn(1))")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        evaluate(&text);
    }

    #[test]
    fn no_words_panic(text in words()) {
        evaluate(&text);
    }

    #[test]
    fn evaluations_end_within_their_limit(text in loops()) {
        evaluate(&text);
    }

    #[test]
    fn no_rule_panics(rule in prop_oneof![words(), loops()], message in words()) {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"object": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": rule, "messageExpression": message}]}}});
        let (rules, _) = Rules::compile(&schema, true);
        let mut budget = Budget::new(COST_MAX);
        let path = corral_api::field::FieldPath::root();
        rules.validate(&path, &json!({"spec": {"object": "x"}}), None, &mut budget);
    }
}

#[test]
fn deep_texts_are_refused_or_read() {
    let deep = |open: &str, middle: &str, close: &str, n: usize| {
        format!("{}{middle}{}", open.repeat(n), close.repeat(n))
    };
    for n in [10, 40, 100, 249, 251, 1_000, 40_000] {
        for text in [
            deep("(", "1", ")", n),
            deep("[", "", "]", n),
            deep("!", "true", "", n),
            deep("-", "(1)", "", n),
            deep("{'a': ", "1", "}", n),
            deep("1 + ", "1", "", n),
            deep("true && ", "true", "", n),
            deep("object", "", ".a", n),
            deep("object", "", "[0]", n),
            deep("true ? 1 : ", "1", "", n),
            deep("[1].map(x, ", "1", ")", n),
            deep("f(", "1", ")", n),
            deep("'a' in ", "'a'", "", n),
            deep("size(", "'a'", ")", n),
            deep("dyn(", "'a'", ")", n),
        ] {
            evaluate(&text);
        }
    }
}

#[test]
fn a_loop_that_would_not_end_soon_is_broken_off() {
    let program = env()
        .compile("lists.range(10000).all(x, lists.range(10000).all(y, x + y >= 0))")
        .expect("it compiles");
    let mut budget = Budget::new(u64::MAX);
    let result = program.evaluate(&HashMap::new(), &mut budget);
    assert!(result.is_err_and(|e| e.is_limit()));
    let cost = u64::MAX - budget.left().expect("there was more than enough");
    assert!(cost > CALL_COST_MAX && cost < 2 * CALL_COST_MAX);
}
