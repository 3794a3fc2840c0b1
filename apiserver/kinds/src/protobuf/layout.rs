//! What a message of a type looks like: its fields by name, to read JSON, and by number, to write them in order.

use std::sync::Arc;

use super::encode::Frame;
use crate::schema::{Definition, DefinitionRef, Field, Node, Numbered, Other, wire_order};

/// The messages of one type.
#[derive(Debug)]
pub struct Layout {
    /// Fields in order of their names. A field's index is its slot.
    pub(super) fields: Box<[Slot]>,
    /// Highest number first: messages are written from their end.
    pub(super) order: Box<[Item]>,
    /// A message of which no field is set.
    pub(super) zero: Box<[u8]>,
}

#[derive(Debug)]
pub(super) struct Slot {
    /// The first bytes of the name, which tell most names apart.
    head: u64,
    pub(super) name: Box<str>,
    pub(super) shape: Shape,
}

/// How a value is written.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Text,
    Bytes,
    Boolean,
    Integer,
    Double,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON as it is, in a message of its own.
    Raw,
    Struct(Target),
    /// A struct, or something else in its place.
    StructOr(Target, Other),
    /// A repeated field.
    List(Box<Shape>),
    /// A message whose first field is repeated: what a list is as the value of a map, or as a type with a name.
    ListMessage(Box<Shape>),
    Map(Box<Shape>),
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    Definition(DefinitionRef),
    Layout(Arc<Layout>),
}

impl Target {
    pub(super) fn layout(&self) -> &Layout {
        match self {
            Self::Definition(definition) => definition.layout(),
            Self::Layout(layout) => layout,
        }
    }
}

/// A field of a message, or a message inside it whose fields are in JSON those of the outer one.
#[derive(Debug)]
pub(super) enum Item {
    Field {
        slot: usize,
        tag: Tag,
        /// What stands there when the field is not set: Go writes fields that are no pointers always.
        zero: Box<[u8]>,
    },
    Inline {
        tag: Tag,
        items: Box<[Item]>,
    },
}

/// The number and wire type of a field, as they are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    number: u32,
    bytes: [u8; 5],
    length: u8,
}

impl Tag {
    pub(super) fn new(number: u32, wire: u8) -> Self {
        let mut rest = u64::from(number) << 3 | u64::from(wire);
        let mut tag = Self {
            number,
            bytes: [0; 5],
            length: 0,
        };
        for byte in &mut tag.bytes {
            tag.length += 1;
            *byte = u8::try_from(rest & 0x7f).unwrap_or(0);
            rest >>= 7;
            if rest == 0 {
                break;
            }
            *byte |= 0x80;
        }
        tag
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The first eight bytes of a name as a number.
pub(super) fn head_of(name: &[u8]) -> u64 {
    match name.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..name.len()].copy_from_slice(name);
            u64::from_le_bytes(padded)
        }
    }
}

impl Item {
    fn number(&self) -> u32 {
        match self {
            Self::Field { tag, .. } | Self::Inline { tag, .. } => tag.number,
        }
    }
}

impl Shape {
    fn of(field: &Field) -> Self {
        let go = field.go_type.trim_start_matches('*');
        match Self::of_node(&field.node, go) {
            // A list that Go gives a name is a message of its own.
            Self::List(item) if !go.starts_with("[]") && !go.is_empty() && !field.repeated => {
                Self::ListMessage(item)
            }
            other => other,
        }
    }

    fn of_node(node: &Node, go: &str) -> Self {
        match node {
            Node::String => Self::Text,
            Node::Bytes => Self::Bytes,
            Node::Boolean => Self::Boolean,
            Node::Integer { .. } => Self::Integer,
            Node::Number => Self::Double,
            // In JSON both kinds of times are told apart by their form.
            Node::Time if go.ends_with("MicroTime") => Self::MicroTime,
            Node::Time => Self::Time,
            Node::Quantity => Self::Quantity,
            Node::IntOrString => Self::IntOrString,
            Node::Any | Node::Deduced => Self::Raw,
            Node::StructOr { definition, other } => {
                Self::StructOr(Target::Definition(definition.clone()), *other)
            }
            Node::Struct { definition, .. } => Self::Struct(Target::Definition(definition.clone())),
            Node::List { item, .. } => Self::List(Box::new(Self::of_node(item, ""))),
            Node::Map { value, .. } => Self::Map(Box::new(match Self::of_node(value, "") {
                Self::List(item) => Self::ListMessage(item),
                other => other,
            })),
        }
    }

    /// The wire type.
    pub(super) fn wire(&self) -> u8 {
        match self {
            Self::Boolean | Self::Integer => 0,
            Self::Double => 1,
            Self::List(item) => item.wire(),
            _ => 2,
        }
    }

    /// What is written for a value that is not set, after its tag.
    fn zero(&self) -> Vec<u8> {
        match self {
            Self::Boolean | Self::Integer => vec![0],
            Self::Double => vec![0; 8],
            Self::Quantity => sized(&[0x0a, 1, b'0']),
            Self::IntOrString => sized(&[0x08, 0, 0x10, 0, 0x1a, 0]),
            Self::Struct(target) => sized(&target.layout().zero),
            _ => vec![0],
        }
    }
}

fn sized(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    super::put_varint(&mut out, message.len() as u64);
    out.extend_from_slice(message);
    out
}

impl Layout {
    pub(crate) fn of(name: &str, definition: &Definition) -> Self {
        let mut fields: Vec<Slot> = Vec::new();
        collect(name, definition, &mut fields);
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let order = order(name, definition, &fields);
        Self::new(fields, order)
    }

    fn new(fields: Vec<Slot>, order: Box<[Item]>) -> Self {
        let mut layout = Self {
            fields: fields.into(),
            order,
            zero: Box::default(),
        };
        let unset = vec![0; layout.fields.len()];
        layout.zero = Frame::of_unset(&layout, &unset);
        layout
    }

    /// The layout of objects of a shape; `None` where there are no messages of it.
    pub fn of_node(node: &Node) -> Option<Arc<Self>> {
        match node {
            Node::Struct { definition, .. } => {
                let layout = definition.layout();
                (!layout.order.is_empty()).then(|| layout.clone())
            }
            _ => None,
        }
    }

    /// Objects that have metadata and nothing else.
    pub(super) fn object(metadata: &Arc<Self>) -> Self {
        Self::of_parts(metadata, None)
    }

    /// Lists of objects.
    pub(super) fn list(items: &Arc<Self>, metadata: &Arc<Self>) -> Self {
        Self::of_parts(metadata, Some(items))
    }

    fn of_parts(metadata: &Arc<Self>, items: Option<&Arc<Self>>) -> Self {
        let slot = |name: &str, shape| Slot {
            head: head_of(name.as_bytes()),
            name: name.into(),
            shape,
        };
        let mut fields = Vec::new();
        let mut order = Vec::new();
        if let Some(items) = items {
            let item = Shape::Struct(Target::Layout(items.clone()));
            fields.push(slot("items", Shape::List(Box::new(item))));
            order.push(Item::Field {
                slot: 0,
                tag: Tag::new(2, 2),
                zero: Box::default(),
            });
        }
        let metadata = Shape::Struct(Target::Layout(metadata.clone()));
        let tag = Tag::new(1, 2);
        order.push(Item::Field {
            slot: fields.len(),
            tag,
            zero: [tag.as_slice(), &metadata.zero()].concat().into(),
        });
        fields.push(slot("metadata", metadata));
        Self::new(fields, order.into())
    }

    /// What a number means in a message of these items.
    pub(super) fn numbered(items: &[Item], number: u32) -> Option<&Item> {
        // Highest first.
        let found = items.binary_search_by(|item| number.cmp(&item.number()));
        found.ok().map(|index| &items[index])
    }

    /// The slot of a field, looked for from `from` on: fields mostly come in order of their names.
    pub(super) fn find(&self, name: &[u8], from: usize) -> Option<usize> {
        let head = head_of(name);
        let matches = |slot: &Slot| slot.head == head && slot.name.as_bytes() == name;
        let (before, after) = self.fields.split_at(from.min(self.fields.len()));
        let found = after.iter().position(matches).map(|index| from + index);
        found.or_else(|| before.iter().position(matches))
    }
}

/// The slots of a type's numbered fields, those of embedded structs included.
fn collect(name: &str, owner: &Definition, out: &mut Vec<Slot>) {
    for (_, numbered) in wire_order(name) {
        match numbered {
            Numbered::Inline(inner) => collect(&beside(name, inner), owner, out),
            Numbered::Field(field) => {
                if let Some(found) = owner.fields.get(field) {
                    out.push(Slot {
                        head: head_of(field.as_bytes()),
                        name: field.into(),
                        shape: Shape::of(found),
                    });
                }
            }
        }
    }
}

fn order(name: &str, owner: &Definition, fields: &[Slot]) -> Box<[Item]> {
    let numbered = wire_order(name);
    let items = numbered.into_iter().rev().filter_map(|(number, numbered)| {
        let field = match numbered {
            Numbered::Inline(inner) => {
                return Some(Item::Inline {
                    tag: Tag::new(number, 2),
                    items: order(&beside(name, inner), owner, fields),
                });
            }
            Numbered::Field(field) => field,
        };
        let slot = fields
            .binary_search_by(|slot| (*slot.name).cmp(field))
            .ok()?;
        let shape = &fields[slot].shape;
        let tag = Tag::new(number, shape.wire());
        let zero = match is_always_written(owner.fields.get(field)?) {
            true => [tag.as_slice(), &shape.zero()].concat(),
            false => Vec::new(),
        };
        Some(Item::Field {
            slot,
            tag,
            zero: zero.into(),
        })
    });
    items.collect()
}

/// Whether Go writes a field that is not set: all that is no pointer, no list and no map.
fn is_always_written(field: &Field) -> bool {
    let go = field.go_type.as_ref();
    let nothing = matches!(
        field.node,
        Node::List { .. } | Node::Map { .. } | Node::Bytes
    );
    !go.is_empty() && !go.starts_with('*') && !nothing
}

fn beside(definition: &str, name: &str) -> String {
    let package = definition
        .rsplit_once('.')
        .map_or("", |(package, _)| package);
    format!("{package}.{name}")
}
