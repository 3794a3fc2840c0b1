//! What selects an object: its labels, and the fields that field selectors may name. Both are read off its JSON in one pass
//! that skips everything else, because every object is looked at so, whenever it changes and whenever a server starts.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    pub fn read(fields: &[SelectableField], json: &[u8]) -> Result<Self, serde_json::Error> {
        let paths = fields.iter().flat_map(|field| [field.path, field.or]);
        let wanted: Vec<Wanted> = paths
            .enumerate()
            .filter(|(_, path)| !path.is_empty())
            .collect();
        let mut found = vec![String::new(); fields.len() * 2];
        let mut labels = BTreeMap::new();
        let mut reader = serde_json::Deserializer::from_slice(json);
        let whole = Whole {
            wanted: &wanted,
            found: &mut found,
            labels: &mut labels,
        };
        reader.deserialize_map(whole)?;
        reader.end()?;
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

/// Where a value goes, and what is left of the way to it.
type Wanted = (usize, &'static str);

struct Whole<'a> {
    wanted: &'a [Wanted],
    found: &'a mut [String],
    labels: &'a mut BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(self.wanted))? {
            match key {
                Name::Metadata => {
                    let metadata: Metadata = map.next_value()?;
                    *self.labels = metadata.labels.unwrap_or_default();
                }
                Name::Nobodys => drop(map.next_value::<IgnoredAny>()?),
                Name::Wanted(wanted) => map.next_value_seed(Walk {
                    wanted: &wanted,
                    found: self.found,
                })?,
            }
        }
        Ok(())
    }
}

/// What the name of a field leads to.
enum Name {
    Metadata,
    Nobodys,
    Wanted(Vec<Wanted>),
}

/// Reads the name of a field, and looks up what is wanted below it.
struct Key<'a>(&'a [Wanted]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        if name == "metadata" {
            return Ok(Name::Metadata);
        }
        let below = |(place, path): &Wanted| match path.split_once('.') {
            Some((head, rest)) if head == name => Some((*place, rest)),
            None if *path == name => Some((*place, "")),
            _ => None,
        };
        let below: Vec<Wanted> = self.0.iter().filter_map(below).collect();
        Ok(match below.is_empty() {
            true => Name::Nobodys,
            false => Name::Wanted(below),
        })
    }
}

/// Reads what is wanted of a value.
struct Walk<'a> {
    wanted: &'a [Wanted],
    found: &'a mut [String],
}

impl Walk<'_> {
    fn take(self, value: impl fmt::Display) {
        for (place, path) in self.wanted {
            if path.is_empty() {
                self.found[*place] = value.to_string();
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(self.wanted))? {
            match key {
                Name::Metadata | Name::Nobodys => drop(map.next_value::<IgnoredAny>()?),
                Name::Wanted(wanted) => map.next_value_seed(Walk {
                    wanted: &wanted,
                    found: self.found,
                })?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.take(text);
        Ok(())
    }

    fn visit_bool<E>(self, truth: bool) -> Result<(), E> {
        self.take(truth);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.take(number);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.take(number);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.take(number);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
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
            "{\"spec\":{\"a\":}}",
            "{\"status\":{\"succeeded\":3}",
        ] {
            assert!(Index::read(&FIELDS, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
