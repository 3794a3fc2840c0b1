use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Texts that look like the structure around them, up to more than a block of them.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,20}",
        r#"["\\\[\]{},: a]{0,40}"#,
        r#"\\{0,140}"#,
        "\\PC{0,100}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// An object as [`Scanner::each_field`] tells it.
fn fields(json: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let mut found = Map::new();
    let mut scanner = Scanner::new(json);
    scanner.each_field(|scanner, key| {
        let value = serde_json::from_slice(&json[scanner.range()?]).expect("the JSON of a value");
        let key = String::from_utf8(key.to_vec()).expect("a key");
        found.insert(key, value);
        Ok(())
    })?;
    scanner.end().map(|()| found)
}

proptest! {
    #[test]
    fn a_value_is_passed_over_to_its_end(value in value(), pretty: bool, pad in 0_usize..70) {
        let text = match pretty {
            true => serde_json::to_string_pretty(&value),
            false => serde_json::to_string(&value),
        };
        let text = text.expect("text");
        let json = format!("{}{text},\"{{\\\"[\"}}", " ".repeat(pad));
        let range = Scanner::new(json.as_bytes()).range();
        prop_assert_eq!(range, Ok(pad..pad + text.len()));
    }

    #[test]
    fn what_is_cut_off_has_no_end(items in prop::collection::vec(value(), 1..4), cut in 0.0..1.0) {
        let whole = Value::from(items).to_string();
        let mut cut = (whole.len() as f64 * cut) as usize;
        while !whole.is_char_boundary(cut) {
            cut -= 1;
        }
        prop_assert!(Scanner::new(&whole.as_bytes()[..cut]).range().is_err());
    }

    #[test]
    fn the_fields_of_an_object_are_those_that_are_set(entries in prop::collection::vec((text(), value()), 0..8)) {
        let mut object: Map<String, Value> = entries.into_iter().collect();
        let json = Value::Object(object.clone()).to_string();
        object.retain(|_, value| !value.is_null());
        prop_assert_eq!(fields(json.as_bytes()), Ok(object));
    }
}

#[test]
fn brackets_are_counted_across_blocks() {
    for depth in [1, 63, 64, 65, 200, DEPTH_MAX] {
        let json = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let range = Scanner::new(json.as_bytes()).range();
        assert_eq!(range, Ok(0..2 * depth), "{depth}");
    }
    let deep = "[".repeat(DEPTH_MAX + 2 * BLOCK) + &"]".repeat(DEPTH_MAX + 2 * BLOCK);
    assert!(Scanner::new(deep.as_bytes()).range().is_err());
}

#[test]
fn what_is_no_object_has_no_fields() {
    for bad in [
        "",
        "[]",
        "{\"a\":1",
        "{\"a\"}",
        "{\"a\":1,}",
        "{\"a\":1}x",
        "{a:1}",
        "{\"a\":tru}",
    ] {
        assert!(fields(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(fields(b" { } "), Ok(Map::new()));
    assert_eq!(
        fields(br#"{"\u0061":[null]}"#),
        Ok(Map::from_iter([("a".to_owned(), json!([null]))]))
    );
}
