//! What selects an object: its labels, and the fields that field selectors may name. Both are read off its JSON in one pass
//! that skips everything else, because every object is looked at so, whenever it changes and whenever a server starts.

use std::borrow::Cow;

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

/// What selects an object, read off its JSON without copying what it can point to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index<'j> {
    /// Its labels, in order of the keys.
    pub labels: Vec<(Cow<'j, str>, Cow<'j, str>)>,
    /// The values of its kind's selectable fields, in their order.
    pub fields: Vec<Cow<'j, str>>,
}

impl<'j> Index<'j> {
    /// Reads the index from an object's JSON.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with object metadata.
    pub fn read(fields: &[SelectableField], json: &'j [u8]) -> Result<Self, Malformed> {
        let mut search = Search::new(fields);
        let all = search.all();
        let mut labels = Vec::new();
        let mut scanner = Scanner::new(json);
        scanner.each_field(|scanner, key| match key {
            b"metadata" => {
                labels.clear();
                scanner.each_field(|scanner, key| match key {
                    b"labels" => read_labels(scanner, &mut labels),
                    _ => scanner.skip().map(drop),
                })
            }
            key => search.read(search.below(all, key), scanner),
        })?;
        scanner.end()?;
        Ok(Self {
            labels,
            fields: search.values(),
        })
    }
}

fn read_labels<'j>(
    scanner: &mut Scanner<'j>,
    labels: &mut Vec<(Cow<'j, str>, Cow<'j, str>)>,
) -> Result<(), Malformed> {
    labels.clear();
    scanner.each_text(|key, value| labels.push((key, value)))?;
    labels.sort_by(|(one, _), (other, _)| one.cmp(other));
    // Of what is said twice the last counts.
    labels.reverse();
    labels.dedup_by(|(one, _), (other, _)| one == other);
    labels.reverse();
    Ok(())
}

/// Looks for the fields of a kind. Each has two places, of which the second may be nowhere.
struct Search<'f, 'j> {
    fields: &'f [SelectableField],
    found: Vec<Option<Cow<'j, str>>>,
}

/// Some of the places, as a set of bits: those below a value, whose ways begin with the same bytes.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    places: u64,
    /// How many bytes they begin with, the dot behind them included.
    passed: usize,
}

impl<'f, 'j> Search<'f, 'j> {
    fn new(fields: &'f [SelectableField]) -> Self {
        let n_places = fields.len() * 2;
        assert!(n_places <= u64::BITS as usize, "too many selectable fields");
        Self {
            fields,
            found: vec![None; n_places],
        }
    }

    fn path(&self, place: usize) -> &'static str {
        let field = &self.fields[place / 2];
        if place.is_multiple_of(2) {
            field.path
        } else {
            field.or
        }
    }

    fn all(&self) -> Wanted {
        let places = (0..self.found.len()).filter(|place| !self.path(*place).is_empty());
        Wanted {
            places: places.fold(0, |places, place| places | 1 << place),
            passed: 0,
        }
    }

    /// What is wanted of the field of this name.
    fn below(&self, wanted: Wanted, name: &[u8]) -> Wanted {
        let is_below = |place: usize| {
            let rest = self.path(place).as_bytes().get(wanted.passed..);
            let mut names = rest
                .into_iter()
                .flat_map(|rest| rest.split(|byte| *byte == b'.'));
            names.next() == Some(name)
        };
        let places = bits(wanted.places).filter(|place| is_below(*place));
        Wanted {
            places: places.fold(0, |places, place| places | 1 << place),
            passed: wanted.passed + name.len() + 1,
        }
    }

    fn read(&mut self, wanted: Wanted, scanner: &mut Scanner<'j>) -> Result<(), Malformed> {
        if wanted.places == 0 {
            return scanner.skip().map(drop);
        }
        let value = match scanner.peek() {
            Some(b'{') => {
                return scanner
                    .each_field(|scanner, key| self.read(self.below(wanted, key), scanner));
            }
            Some(b'[' | b'n') => return scanner.skip().map(drop),
            Some(b'"') => scanner.str()?,
            Some(b't' | b'f') => scanner.boolean()?.to_string().into(),
            _ => scanner.number_text()?.into(),
        };
        for place in bits(wanted.places) {
            if self.path(place).len() < wanted.passed {
                self.found[place] = Some(value.clone());
            }
        }
        Ok(())
    }

    /// The value of each field.
    fn values(self) -> Vec<Cow<'j, str>> {
        let mut found = self.found.into_iter().map(Option::unwrap_or_default);
        let value = |field: &SelectableField| {
            let (value, other) = (found.next()?, found.next()?);
            let set = [value, other].into_iter().find(|text| !text.is_empty());
            Some(set.unwrap_or(Cow::Borrowed(field.unset)))
        };
        self.fields.iter().filter_map(value).collect()
    }
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let first = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(first)
    })
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

    fn read(json: &str) -> Index<'_> {
        Index::read(&FIELDS, json.as_bytes()).expect("an object")
    }

    #[test]
    fn fields_are_found_where_they_are_and_have_a_value_where_they_are_not() {
        let object = json!({
            "metadata": {"labels": {"b": "2", "a": "1"}, "managedFields": [{"spec": {"nodeName": "x"}}]},
            "spec": {"containers": [{"nodeName": "y"}], "nodeName": "n\"1", "hostNetwork": true},
            "specs": {"nodeName": "z"}, "source.component": "t",
            "status": {"succeeded": 3}, "source": {"component": "s"}, "reporter": "r",
        });
        let object = object.to_string();
        let found = read(&object);
        assert_eq!(found.fields, ["n\"1", "true", "3", "s", "r"]);
        let labels: Vec<(&str, &str)> = found.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("a", "1"), ("b", "2")]);
        let unset = read(r#"{"reporter": "r", "spec": null, "status": {"succeeded": null}}"#);
        assert_eq!(unset.fields, ["", "false", "0", "r", "r"]);
        assert_eq!(read("{}").fields, ["", "false", "0", "", ""]);
        // What should be a text is none: it has nothing that could be selected.
        let deeper = read(r#"{"spec": {"nodeName": {"x": "y"}}, "reporter": [1]}"#);
        assert_eq!(deeper.fields, ["", "false", "0", "", ""]);
    }

    #[test]
    fn of_a_label_that_is_said_twice_the_last_counts() {
        let found = read(
            r#"{"metadata": {"labels": {"b": "1", "a\u0021": "2", "b": "3", "c": null, "b": "4"}}}"#,
        );
        let labels: Vec<(&str, &str)> = found.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("a!", "2"), ("b", "4")]);
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
