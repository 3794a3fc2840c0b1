//! What selects an object: its labels, and the fields that field selectors may name. Both are read off its JSON in one pass
//! that skips everything else, because every object is looked at so, whenever it changes and whenever a server starts.

use std::collections::BTreeMap;

use crate::scan::{Malformed, Scanner};

/// A field that a field selector may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectableField {
    /// How selectors name it.
    pub name: &'static str,
    /// Where it is: names of fields with dots between them.
    path: &'static str,
    /// Where else it may be, if it is not there.
    or: &'static str,
    /// Its value where it is not set.
    unset: &'static str,
}

impl SelectableField {
    /// A text that is found where its name says.
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            path: name,
            or: "",
            unset: "",
        }
    }

    /// A number that is found where its name says.
    pub const fn number(name: &'static str) -> Self {
        Self {
            unset: "0",
            ..Self::text(name)
        }
    }

    /// A truth value that is found where its name says.
    pub const fn boolean(name: &'static str) -> Self {
        Self {
            unset: "false",
            ..Self::text(name)
        }
    }

    /// The same, found somewhere else.
    pub const fn at(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// The same, found somewhere else if it is not where it should be.
    pub const fn or(self, or: &'static str) -> Self {
        Self { or, ..self }
    }
}

/// What selects an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The values of its kind's selectable fields, in their order.
    pub fields: Vec<String>,
}

impl Index {
    /// Reads the index from an object's JSON.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with object metadata.
    pub fn read(fields: &[SelectableField], json: &[u8]) -> Result<Self, Malformed> {
        let paths = fields.iter().flat_map(|field| [field.path, field.or]);
        let wanted: Vec<Wanted> = paths
            .enumerate()
            .filter(|(_, path)| !path.is_empty())
            .collect();
        let mut found = vec![String::new(); fields.len() * 2];
        let mut labels = BTreeMap::new();
        let mut scanner = Scanner::new(json);
        scanner.each_field(|scanner, key| match key {
            b"metadata" => {
                labels = BTreeMap::new();
                scanner.each_field(|scanner, key| match key {
                    b"labels" => read_labels(scanner, &mut labels),
                    _ => scanner.skip().map(drop),
                })
            }
            key => below(&wanted, key).read(scanner, &mut found),
        })?;
        scanner.end()?;
        let mut found = found.into_iter();
        let value = |field: &SelectableField| {
            let (value, other) = (found.next()?, found.next()?);
            let set = [value, other].into_iter().find(|text| !text.is_empty());
            Some(set.unwrap_or_else(|| field.unset.to_owned()))
        };
        Ok(Self {
            labels,
            fields: fields.iter().filter_map(value).collect(),
        })
    }
}

fn read_labels(
    scanner: &mut Scanner<'_>,
    labels: &mut BTreeMap<String, String>,
) -> Result<(), Malformed> {
    labels.clear();
    scanner.each_field(|scanner, key| {
        let key = std::str::from_utf8(key).map_err(|_| Malformed("a label is not UTF-8"))?;
        labels.insert(key.to_owned(), scanner.string()?);
        Ok(())
    })
}

/// Where a value goes, and what is left of the way to it.
type Wanted = (usize, &'static str);

/// What is wanted of a value.
struct Below(Vec<Wanted>);

/// What is wanted of the field of this name.
fn below(wanted: &[Wanted], name: &[u8]) -> Below {
    let below = |(place, path): &Wanted| {
        let rest = path.get(name.len()..)?;
        if !path.as_bytes().starts_with(name) {
            return None;
        }
        match rest.is_empty() {
            true => Some((*place, rest)),
            false => Some((*place, rest.strip_prefix('.')?)),
        }
    };
    Below(wanted.iter().filter_map(below).collect())
}

impl Below {
    fn read(&self, scanner: &mut Scanner<'_>, found: &mut [String]) -> Result<(), Malformed> {
        if self.0.is_empty() {
            return scanner.skip().map(drop);
        }
        match scanner.peek() {
            Some(b'{') => {
                return scanner.each_field(|scanner, key| below(&self.0, key).read(scanner, found));
            }
            Some(b'"') => self.take(found, &scanner.string()?),
            Some(b't' | b'f') => self.take(found, &scanner.boolean()?.to_string()),
            Some(b'[' | b'n') => drop(scanner.skip()?),
            _ => self.take(found, &scanner.number_text()?),
        }
        Ok(())
    }

    fn take(&self, found: &mut [String], value: &str) {
        for (place, path) in &self.0 {
            if path.is_empty() {
                value.clone_into(&mut found[*place]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: [SelectableField; 5] = [
        SelectableField::text("spec.nodeName"),
        SelectableField::boolean("spec.hostNetwork"),
        SelectableField::number("status.successful").at("status.succeeded"),
        SelectableField::text("source")
            .at("source.component")
            .or("reporter"),
        SelectableField::text("reporter"),
    ];

    fn read(object: serde_json::Value) -> Index {
        Index::read(&FIELDS, object.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn fields_are_found_where_they_are_and_have_a_value_where_they_are_not() {
        let found = read(json!({
            "metadata": {"labels": {"b": "2", "a": "1"}, "managedFields": [{"spec": {"nodeName": "x"}}]},
            "spec": {"containers": [{"nodeName": "y"}], "nodeName": "n\"1", "hostNetwork": true},
            "status": {"succeeded": 3}, "source": {"component": "s"}, "reporter": "r",
        }));
        assert_eq!(found.fields, ["n\"1", "true", "3", "s", "r"]);
        let labels: Vec<(&str, &str)> = found.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("a", "1"), ("b", "2")]);
        let unset = read(json!({"reporter": "r", "spec": null, "status": {"succeeded": null}}));
        assert_eq!(unset.fields, ["", "false", "0", "r", "r"]);
        assert_eq!(read(json!({})).fields, ["", "false", "0", "", ""]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in [
            "",
            "[]",
            "{\"metadata\":1}",
            "{} x",
            "{\"spec\":{\"nodeName\":}}",
            "{\"spec\":{\"a\":[}",
            "{\"status\":{\"succeeded\":3}",
        ] {
            assert!(Index::read(&FIELDS, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
