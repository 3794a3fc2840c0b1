//! Declared types of data: what the checker knows of their fields, and how large they can become.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::types::Type;

/// A type of data with its bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclType {
    pub(crate) kind: DeclKind,
    /// The most items of a list, entries of a map or bytes of a text.
    pub(crate) elements_max: i64,
    /// The fewest bytes of JSON that a value takes.
    pub(crate) bytes_min: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DeclKind {
    Simple(Type),
    List(Arc<DeclType>),
    Map(Arc<DeclType>),
    Object {
        /// The name, or `None` until [`DeclType::named`] gave it one.
        name: Option<Arc<str>>,
        fields: BTreeMap<String, Arc<DeclType>>,
    },
}

/// The fewest bytes of `{}`, `[]` and `""`.
const EMPTY_BYTES: i64 = 2;

impl DeclType {
    pub(crate) fn simple(t: Type, bytes_min: i64, elements_max: i64) -> Self {
        Self {
            kind: DeclKind::Simple(t),
            elements_max,
            bytes_min,
        }
    }

    pub(crate) fn list(item: Self, items_max: i64) -> Self {
        Self {
            kind: DeclKind::List(Arc::new(item)),
            elements_max: items_max,
            bytes_min: EMPTY_BYTES,
        }
    }

    pub(crate) fn map(value: Self, entries_max: i64) -> Self {
        Self {
            kind: DeclKind::Map(Arc::new(value)),
            elements_max: entries_max,
            bytes_min: EMPTY_BYTES,
        }
    }

    pub(crate) fn object(
        name: Option<&str>,
        fields: BTreeMap<String, Arc<Self>>,
        bytes_min: i64,
    ) -> Self {
        Self {
            kind: DeclKind::Object {
                name: name.map(Arc::from),
                fields,
            },
            elements_max: 0,
            bytes_min,
        }
    }

    /// An object with these fields, for a variable that a caller declares.
    pub fn object_of(name: &str, fields: impl IntoIterator<Item = (String, Self)>) -> Self {
        let fields = fields.into_iter().map(|(k, t)| (k, Arc::new(t))).collect();
        Self::object(Some(name), fields, EMPTY_BYTES)
    }

    /// A type without known bounds.
    pub fn of(t: Type) -> Self {
        Self::simple(t, 1, 0)
    }

    /// The type as the checker sees it.
    pub fn cel_type(&self) -> Type {
        match &self.kind {
            DeclKind::Simple(t) => t.clone(),
            DeclKind::List(item) => Type::list(item.cel_type()),
            DeclKind::Map(value) => Type::map(Type::String, value.cel_type()),
            DeclKind::Object { name, .. } => {
                Type::Object(name.clone().unwrap_or_else(|| Arc::from("object")))
            }
        }
    }

    /// The same with names for all objects that have none: each is called by the way to it.
    pub fn named(&self, name: &str) -> Self {
        let kind = match &self.kind {
            DeclKind::Simple(t) => DeclKind::Simple(t.clone()),
            DeclKind::List(item) => DeclKind::List(Arc::new(item.named(&format!("{name}.@idx")))),
            DeclKind::Map(value) => DeclKind::Map(Arc::new(value.named(&format!("{name}.@elem")))),
            DeclKind::Object { name: own, fields } => {
                let own = own.clone().unwrap_or_else(|| Arc::from(name));
                let fields = fields
                    .iter()
                    .map(|(field, t)| (field.clone(), Arc::new(t.named(&format!("{own}.{field}")))))
                    .collect();
                DeclKind::Object {
                    name: Some(own),
                    fields,
                }
            }
        };
        Self { kind, ..*self }
    }

    /// The type of a field, of the items (`@items`) or values (`@values`) or of the keys (`@keys`).
    pub(crate) fn step(&self, step: &str) -> Option<Arc<Self>> {
        match (step, &self.kind) {
            ("@items" | "@values", DeclKind::List(inner) | DeclKind::Map(inner)) => {
                Some(inner.clone())
            }
            ("@keys", DeclKind::Map(_)) => {
                Some(Arc::new(Self::simple(Type::String, EMPTY_BYTES, 0)))
            }
            (field, DeclKind::Object { fields, .. }) => fields.get(field).cloned(),
            _ => None,
        }
    }
}

/// The objects that an environment knows, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects(HashMap<Arc<str>, Arc<DeclType>>);

impl Objects {
    /// Adds all objects that are in a type whose objects have names.
    pub(crate) fn add(&mut self, t: &Arc<DeclType>) {
        match &t.kind {
            DeclKind::Simple(_) => {}
            DeclKind::List(inner) | DeclKind::Map(inner) => self.add(inner),
            DeclKind::Object { name, fields } => {
                if let Some(name) = name {
                    self.0.insert(name.clone(), t.clone());
                }
                for field in fields.values() {
                    self.add(field);
                }
            }
        }
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The type of a field; keywords name fields that are escaped for being keywords, too.
    pub(crate) fn field(&self, object: &str, field: &str) -> Option<Type> {
        let DeclKind::Object { fields, .. } = &self.0.get(object)?.kind else {
            return None;
        };
        let found = fields.get(field).or_else(|| {
            let is_reserved = crate::escape::RESERVED.contains(&field);
            is_reserved.then(|| fields.get(&format!("__{field}__")))?
        });
        found.map(|t| t.cel_type())
    }
}
