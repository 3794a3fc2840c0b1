//! A schema as the tree by which fields are owned and patches merge.

use std::sync::{Arc, LazyLock, OnceLock};

use corral_api::meta::ObjectMeta;

use super::structural::{Additional, ListType, Structural, Type};
use crate::schema::{self, Definition, DefinitionRef, Field, ListKind, Node, Strategy};

/// The tree of a whole object of a kind.
pub(super) fn of_object(name: &str, schema: &Structural) -> Node {
    structure(name, whole(fields(schema)), schema)
}

/// The fields of a struct.
type Fields = Vec<(Arc<str>, Field)>;

/// Adds what every whole object has.
fn whole(mut fields: Fields) -> Fields {
    static METADATA: OnceLock<Node> = OnceLock::new();
    let metadata = METADATA.get_or_init(schema::of_type::<ObjectMeta>);
    fields.extend([
        ("apiVersion".into(), field(Node::String, "string".into())),
        ("kind".into(), field(Node::String, "string".into())),
        (
            "metadata".into(),
            field(metadata.clone(), "v1.ObjectMeta".into()),
        ),
    ]);
    fields
}

fn field(node: Node, go_type: Arc<str>) -> Field {
    static OWN: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
    Field {
        node,
        strategy: Strategy::default(),
        default: None,
        go_type,
        omit_zero: false,
        omit_zero_struct: true,
        keeps_empty: false,
        embedded: OWN.clone(),
        repeated: false,
    }
}

fn fields(schema: &Structural) -> Fields {
    // No struct of it is there before somebody sets it.
    static POINTER: LazyLock<Arc<str>> = LazyLock::new(|| "*".into());
    let fields = schema.properties.iter().map(|(name, property)| {
        let mut field = field(of(property), POINTER.clone());
        field.default.clone_from(&property.default);
        (name.clone(), field)
    });
    fields.collect()
}

fn structure(name: &str, fields: Fields, schema: &Structural) -> Node {
    let definition = Definition {
        short_name: name.into(),
        fields: fields.into_iter().collect(),
        atomic: schema.atomic,
        required_times: Vec::new(),
        required_lists: Vec::new(),
        always: Vec::new(),
        kept_empty: &[],
        rest: schema.preserves.then_some(Node::Deduced),
        layout: OnceLock::new(),
    };
    Node::Struct {
        definition: DefinitionRef::of(name, definition),
        atomic: schema.atomic,
    }
}

fn of(schema: &Structural) -> Node {
    if schema.int_or_string {
        return Node::Any;
    }
    match (&schema.kind, &schema.additional) {
        (Some(Type::String), _) => Node::String,
        (Some(Type::Boolean), _) => Node::Boolean,
        (Some(Type::Integer), _) => Node::Integer { bits: 64 },
        (Some(Type::Number), _) => Node::Number,
        (Some(Type::Array), _) => Node::List {
            item: Arc::new(schema.items.as_deref().map_or(Node::Deduced, of)),
            kind: match schema.list_type {
                ListType::Atomic => ListKind::Atomic,
                ListType::Set => ListKind::Set,
                ListType::Map => {
                    let keys = schema.list_keys.iter();
                    ListKind::Map(keys.map(|key| Arc::from(key.as_str())).collect())
                }
            },
        },
        (Some(Type::Object), Additional::Of(value)) => Node::Map {
            value: Arc::new(of(value)),
            atomic: schema.atomic,
        },
        (Some(Type::Object), Additional::Anything) => Node::Map {
            value: Arc::new(Node::Deduced),
            atomic: schema.atomic,
        },
        (Some(Type::Object), _) => {
            let mut fields = fields(schema);
            if schema.embedded {
                fields = whole(fields);
            }
            structure("", fields, schema)
        }
        (None, _) => Node::Deduced,
    }
}
