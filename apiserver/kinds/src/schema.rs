//! The shape of kinds as data: types, list topology, merge keys and defaults.
//!
//! The tree comes from the JSON schemas of k8s-openapi, overlaid with `facts.json`, which `cargo xtask facts` makes
//! from the Go modules of the Kubernetes API (what those schemas leave out: list types and keys, patch strategies,
//! Go types for messages). Definitions are built when first needed and kept for the life of the process; they refer
//! to each other by name, so that recursive types cost nothing.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock, RwLock};

use serde::Deserialize;
use serde_json::Value;

use crate::kind::AnyKind;
use crate::protobuf::Layout;
use crate::sorted::Sorted;

mod check;
mod complete;
mod convert;
mod empty;

pub(crate) use check::ZERO_TIME;
pub use check::{Report, TypeError};

/// How a list merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// As one value.
    Atomic,
    /// By value: each item is an element with an owner.
    Set,
    /// By the values of some fields of its items.
    Map(Vec<Arc<str>>),
}

/// Strategic merge patch: what a field asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strategy {
    /// Items are merged, not replaced.
    pub merge: bool,
    /// Only keys that the patch names are kept.
    pub retain_keys: bool,
    /// The field by which items of a list are matched.
    pub merge_key: Option<Arc<str>>,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// The shape of its value.
    pub node: Node,
    /// Strategic merge patch.
    pub strategy: Strategy,
    /// The value it has when left out.
    pub default: Option<Value>,
    /// Its type in Go, which Kubernetes names in messages.
    pub go_type: Arc<str>,
    /// Whether Kubernetes leaves the field out when it holds a zero value.
    pub omit_zero: bool,
    /// Whether that holds for a struct and a time, too.
    pub omit_zero_struct: bool,
    /// Whether something empty is kept all the same, until the object is complete.
    pub keeps_empty: bool,
    /// The structs that it is embedded in, with dots, which Go names in messages about types; empty for an own field.
    pub embedded: Arc<str>,
    /// Whether it is repeated in protobuf although its type has a name, which else means a message of its own.
    pub repeated: bool,
}

/// A struct.
#[derive(Debug)]
pub struct Definition {
    /// The name of its Go type without the package.
    pub short_name: Arc<str>,
    /// Its fields by name.
    pub fields: Sorted<Field>,
    /// Whether it has one owner as a whole.
    pub atomic: bool,
    /// Times that every object has. Clients in Go send `null` for one that is not set.
    pub required_times: Vec<Arc<str>>,
    /// Lists that the type must have: it cannot tell one that is not set from an empty one.
    pub required_lists: Vec<Arc<str>>,
    /// What stands in every object, with the value that it has where it is not set.
    pub always: Vec<(Arc<str>, Value)>,
    /// What an object says only where it is not empty, and what it may say while it is checked.
    pub kept_empty: &'static [&'static str],
    /// The shape of fields that have no name here; `None` if there are no others.
    pub rest: Option<Node>,
    /// Its messages in protobuf.
    pub(crate) layout: OnceLock<Arc<Layout>>,
}

/// A reference to a definition, resolved when first used.
#[derive(Debug, Clone)]
pub struct DefinitionRef(Arc<Cell>);

#[derive(Debug)]
struct Cell {
    name: String,
    built: OnceLock<Definition>,
}

impl DefinitionRef {
    /// The definition.
    pub fn get(&self) -> &Definition {
        self.0.built.get_or_init(|| SCHEMAS.build(&self.0.name))
    }

    /// A definition that stands by itself.
    pub fn of(name: &str, definition: Definition) -> Self {
        Self(Arc::new(Cell {
            name: name.to_owned(),
            built: OnceLock::from(definition),
        }))
    }

    /// Its name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its messages in protobuf.
    pub(crate) fn layout(&self) -> &Arc<Layout> {
        let definition = self.get();
        let make = || Arc::new(Layout::of(self.name(), definition));
        definition.layout.get_or_init(make)
    }
}

/// What stands in place of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Whether.
    Boolean,
    /// A list of such structs.
    List,
}

/// The shape of a value.
#[derive(Debug, Clone)]
pub enum Node {
    /// Anything at all, with one owner as a whole.
    Any,
    /// Anything whose shape is that of the value: objects have an owner for each field, arrays one as a whole.
    Deduced,
    /// A struct, or something else that is taken as it is and has one owner as a whole.
    StructOr {
        /// Which.
        definition: DefinitionRef,
        /// What else.
        other: Other,
    },
    /// Text.
    String,
    /// Base64 text.
    Bytes,
    /// A time.
    Time,
    /// Whether.
    Boolean,
    /// A whole number of 32 or 64 bits.
    Integer {
        /// 32 or 64.
        bits: u8,
    },
    /// A number.
    Number,
    /// A quantity; given as text or number, kept as text.
    Quantity,
    /// A number or a text.
    IntOrString,
    /// A struct.
    Struct {
        /// Which.
        definition: DefinitionRef,
        /// Whether it has one owner as a whole where it stands here.
        atomic: bool,
    },
    /// A map from text to values of one shape.
    Map {
        /// The shape of the values.
        value: Arc<Node>,
        /// Whether it has one owner as a whole.
        atomic: bool,
    },
    /// A list.
    List {
        /// The shape of the items.
        item: Arc<Node>,
        /// How it merges.
        kind: ListKind,
    },
}

impl Node {
    /// The field of a struct.
    pub fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Self::Struct { definition, .. } | Self::StructOr { definition, .. } => {
                definition.get().fields.get(name)
            }
            _ => None,
        }
    }

    /// The shape behind a key of a struct or map.
    pub fn child(&self, name: &str) -> Option<&Node> {
        match self {
            Self::Struct { definition, .. } => {
                let definition = definition.get();
                let field = definition.fields.get(name).map(|f| &f.node);
                field.or(definition.rest.as_ref())
            }
            Self::Map { value, .. } => Some(value),
            Self::Deduced => Some(self),
            _ => None,
        }
    }

    /// The shape of a list's items.
    pub fn item(&self) -> Option<&Node> {
        match self {
            Self::List { item, .. } => Some(item),
            _ => None,
        }
    }

    /// The value of a field that stands for a missing one in the key of a list item.
    pub fn default_of(&self, name: &str) -> Option<&Value> {
        self.field(name).and_then(|f| f.default.as_ref())
    }
}

/// The schema of a kind.
pub fn of(kind: &dyn AnyKind) -> Node {
    let names = kind.names();
    let id = format!("{}/{}", names.api_version(), names.kind);
    if let Some(node) = SCHEMAS
        .kinds
        .read()
        .expect("no panic under the lock")
        .get(&id)
    {
        return node.clone();
    }
    let (root, definitions) = kind.openapi();
    SCHEMAS.add(definitions);
    let node = SCHEMAS.node(&root, None);
    let mut kinds = SCHEMAS.kinds.write().expect("no panic under the lock");
    kinds.insert(id, node.clone());
    node
}

/// The schema of what every object has, whatever its kind: metadata.
pub fn of_metadata() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let field = Field {
            node: of_type::<corral_api::meta::ObjectMeta>(),
            strategy: Strategy::default(),
            default: None,
            go_type: "v1.ObjectMeta".into(),
            omit_zero: false,
            omit_zero_struct: true,
            keeps_empty: false,
            embedded: "".into(),
            repeated: false,
        };
        let definition = Definition {
            short_name: "ObjectMeta".into(),
            fields: Sorted::from([("metadata".into(), field)]),
            atomic: false,
            required_times: Vec::new(),
            required_lists: Vec::new(),
            always: Vec::new(),
            kept_empty: &[],
            rest: None,
            layout: OnceLock::new(),
        };
        Node::Struct {
            definition: DefinitionRef::of("metadata", definition),
            atomic: false,
        }
    })
}

/// The schema of a type that is no kind of its own, such as `DeleteOptions`.
pub fn of_type<T: corral_api::schemars::JsonSchema>() -> Node {
    let (root, definitions) = raw_type::<T>();
    SCHEMAS.add(definitions);
    SCHEMAS.node(&root, None)
}

/// The JSON schema of a type as k8s-openapi gives it: the root, and the definitions that it refers to.
pub fn raw_type<T: corral_api::schemars::JsonSchema>() -> (Value, serde_json::Map<String, Value>) {
    let settings = corral_api::schemars::generate::SchemaSettings::draft07();
    let mut generator = settings.into_generator();
    let root = generator.subschema_for::<T>().to_value();
    (root, generator.take_definitions(true))
}

/// What `facts.json` knows of one field.
#[derive(Debug, Deserialize, Default, Clone)]
pub struct FieldFacts {
    /// List type.
    #[serde(rename = "lt", default)]
    pub list_type: Option<String>,
    /// Keys of a list map.
    #[serde(rename = "lk", default)]
    pub list_keys: Vec<Arc<str>>,
    /// Map type.
    #[serde(rename = "mt", default)]
    pub map_type: Option<String>,
    /// Struct type.
    #[serde(rename = "st", default)]
    pub struct_type: Option<String>,
    /// Patch strategies, comma-separated.
    #[serde(rename = "ps", default)]
    pub strategy: String,
    /// Patch merge key.
    #[serde(rename = "pk", default)]
    pub merge_key: Option<Arc<str>>,
    /// Default.
    #[serde(rename = "d", default)]
    pub default: Option<Value>,
    /// Go type.
    #[serde(rename = "go", default)]
    pub go_type: Arc<str>,
    /// Left out when zero.
    #[serde(rename = "oz", default)]
    pub omit_zero: bool,
    /// Left out when zero, a struct as well.
    #[serde(rename = "oy", default)]
    pub omit_zero_struct: bool,
    /// Repeated in protobuf although its type has a name.
    #[serde(rename = "r", default)]
    pub repeated: bool,
    /// Number in protobuf; 0 if it has none.
    #[serde(rename = "n", default)]
    pub number: u32,
    /// All values that there are, where its type says so.
    #[serde(rename = "en", default)]
    pub values: Vec<Arc<str>>,
}

#[derive(Debug, Deserialize, Default)]
struct TypeFacts {
    #[serde(rename = "st", default)]
    struct_type: Option<String>,
    #[serde(rename = "f", default)]
    fields: HashMap<String, FieldFacts>,
    /// Fields that are always there; embedded structs as a whole.
    #[serde(rename = "rq", default)]
    required: Vec<Arc<str>>,
}

/// The facts of every type, parsed once.
static FACTS: LazyLock<HashMap<String, TypeFacts>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("facts.json"))
        .expect("facts.json is made by xtask and tested")
});

/// Whether a struct is one value to those who merge.
pub fn is_atomic(definition: &str) -> bool {
    let facts = FACTS.get(definition);
    facts.is_some_and(|facts| facts.struct_type.as_deref() == Some("atomic"))
}

/// The fields of a struct that are always there, those of embedded structs included; `None` for what is no struct.
pub fn required(definition: &str) -> Option<Vec<&'static str>> {
    let types = FACTS.get(definition)?;
    let (package, own) = definition.rsplit_once('.')?;
    let fields = types.required.iter().flat_map(|name| {
        let Some(go) = name.strip_prefix("+inline:") else {
            return vec![&**name];
        };
        let inner = go.rsplit('.').next().filter(|inner| *inner != own);
        let inner = inner.and_then(|inner| required(&format!("{package}.{inner}")));
        inner.unwrap_or_default()
    });
    Some(fields.collect())
}

/// The facts of a field, embedded structs included.
pub fn facts(definition: &str, field: &str) -> Option<&'static FieldFacts> {
    let types = FACTS.get(definition)?;
    if let Some(facts) = types.fields.get(field) {
        return Some(facts);
    }
    let (package, _) = definition.rsplit_once('.')?;
    types
        .fields
        .keys()
        .filter_map(|name| name.strip_prefix("+inline:"))
        .filter_map(|go| go.rsplit_once('.'))
        .find_map(|(_, name)| facts(&format!("{package}.{name}"), field))
}

/// The structs of a type, with dots, that a field is embedded in; empty for a field of its own.
fn embedded(definition: &str, field: &str) -> String {
    let Some(types) = FACTS.get(definition) else {
        return String::new();
    };
    if types.fields.contains_key(field) {
        return String::new();
    }
    let package = definition
        .rsplit_once('.')
        .map_or("", |(package, _)| package);
    let inlined = types.fields.keys();
    let inlined: Vec<&str> = inlined
        .filter_map(|name| name.strip_prefix("+inline:"))
        .collect();
    if matches!(field, "apiVersion" | "kind") && inlined.iter().any(|go| go.ends_with(".TypeMeta"))
    {
        return "TypeMeta".to_owned();
    }
    for name in inlined.iter().filter_map(|go| go.rsplit('.').next()) {
        let inner = format!("{package}.{name}");
        if facts(&inner, field).is_some() {
            return match embedded(&inner, field) {
                more if more.is_empty() => name.to_owned(),
                more => format!("{name}.{more}"),
            };
        }
    }
    String::new()
}

/// What a protobuf field number means in a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// A field of the type itself.
    Field(&'static str),
    /// A message whose fields are the type's own in JSON (an embedded struct): the name of its type.
    Inline(&'static str),
}

/// The protobuf fields of a type, in order of their numbers.
pub fn wire_order(definition: &str) -> Vec<(u32, Numbered)> {
    let fields = FACTS
        .get(definition)
        .into_iter()
        .flat_map(|facts| &facts.fields);
    let mut numbered: Vec<_> = fields
        .filter(|(_, facts)| facts.number > 0)
        .map(|(name, facts)| match name.strip_prefix("+inline:") {
            Some(go) => {
                let inner = go.rsplit('.').next().unwrap_or(go);
                (facts.number, Numbered::Inline(inner))
            }
            None => (facts.number, Numbered::Field(name.as_str())),
        })
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered
}

/// Whether Kubernetes has a kind, served here or not.
pub fn is_kind(api_version: &str, kind: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // The package of a group is called by its first label: `rbac.authorization.k8s.io` is in `rbac`.
    let package = match group.split('.').next() {
        Some("") | None => "core",
        Some(label) => label,
    };
    let modules = ["io.k8s.api", "io.k8s.kube-aggregator.pkg.apis"];
    let names = modules.map(|module| format!("{module}.{package}.{version}.{kind}"));
    names.iter().any(|name| FACTS.contains_key(name))
}

fn type_is_atomic(definition: &str) -> bool {
    FACTS
        .get(definition)
        .is_some_and(|t| t.struct_type.as_deref() == Some("atomic"))
}

/// Whether the parts of a field belong to one owner, if the field says so itself, whatever its type says.
fn field_is_atomic(facts: Option<&FieldFacts>) -> Option<bool> {
    let facts = facts?;
    let said = facts.struct_type.as_deref().or(facts.map_type.as_deref());
    said.map(|said| said == "atomic")
}

#[derive(Default)]
struct Schemas {
    kinds: RwLock<HashMap<String, Node>>,
    /// What definitions are built from once somebody asks, as text: most are never asked for, and as trees they would take
    /// ten times as much memory.
    sources: RwLock<HashMap<String, Box<[u8]>>>,
    cells: RwLock<HashMap<String, Arc<Cell>>>,
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::default);

impl Schemas {
    /// Remembers sources until they are built, without the prose.
    fn add(&self, definitions: serde_json::Map<String, Value>) {
        let mut sources = self.sources.write().expect("no panic under the lock");
        let cells = self.cells.read().expect("no panic under the lock");
        for (name, mut source) in definitions {
            if cells
                .get(&name)
                .is_none_or(|cell| cell.built.get().is_none())
            {
                strip_descriptions(&mut source);
                let text = serde_json::to_vec(&source).expect("a tree serialises into memory");
                sources.insert(name, text.into());
            }
        }
    }

    fn build(&self, name: &str) -> Definition {
        let source = self
            .sources
            .write()
            .expect("no panic under the lock")
            .remove(name);
        let source: Option<Value> =
            source.map(|text| serde_json::from_slice(&text).expect("the text of a tree"));
        let short_name = name.rsplit('.').next().unwrap_or(name).into();
        let mut fields = Vec::new();
        let kept_empty = empty::kept(name);
        let properties = source.as_ref().and_then(|s| s["properties"].as_object());
        for (field, schema) in properties.into_iter().flatten() {
            let facts = facts(name, field).cloned().unwrap_or_default();
            let node = self.node(schema, Some(&facts));
            let embedded = embedded(name, field).into();
            let mut made = make_field(node, facts, embedded);
            made.keeps_empty = kept_empty.contains(&field.as_str());
            fields.push((Arc::from(field.as_str()), made));
        }
        let fields: Sorted<Field> = fields.into_iter().collect();
        let required = source.as_ref().and_then(|s| s["required"].as_array());
        let required = required.into_iter().flatten().filter_map(Value::as_str);
        let required: Vec<(&str, &Field)> = required
            .filter_map(|name| Some((name, fields.get(name)?)))
            .collect();
        let those = |wanted: &dyn Fn(&Field) -> bool| {
            let found = required.iter().filter(|(_, field)| wanted(field));
            found.map(|(name, _)| Arc::from(*name)).collect()
        };
        let required_times = those(&|field| matches!(field.node, Node::Time));
        let required_lists = those(&|field| {
            matches!(field.node, Node::List { .. }) && field.unset() == Some(Value::Null)
        });
        let always = fields
            .iter()
            .filter_map(|(name, field)| Some((name.clone(), field.unset()?)))
            .collect();
        Definition {
            short_name,
            fields,
            atomic: type_is_atomic(name),
            required_times,
            required_lists,
            always,
            kept_empty,
            rest: None,
            layout: OnceLock::new(),
        }
    }

    fn reference(&self, name: &str) -> DefinitionRef {
        let mut cells = self.cells.write().expect("no panic under the lock");
        let cell = cells.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Cell {
                name: name.to_owned(),
                built: OnceLock::new(),
            })
        });
        DefinitionRef(cell.clone())
    }

    fn node(&self, schema: &Value, facts: Option<&FieldFacts>) -> Node {
        let reference = schema["$ref"]
            .as_str()
            .or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            return self.named(name, facts);
        }
        match schema["type"].as_str() {
            Some("string") => match schema["format"].as_str() {
                Some("byte") => Node::Bytes,
                Some("date-time") => Node::Time,
                _ => Node::String,
            },
            Some("boolean") => Node::Boolean,
            Some("integer") => Node::Integer {
                bits: if schema["format"] == "int32" { 32 } else { 64 },
            },
            Some("number") => Node::Number,
            Some("array") => Node::List {
                item: Arc::new(self.node(&schema["items"], None)),
                kind: list_kind(facts),
            },
            Some("object") if schema["additionalProperties"].is_object() => Node::Map {
                value: Arc::new(self.node(&schema["additionalProperties"], None)),
                atomic: facts.is_some_and(|f| f.map_type.as_deref() == Some("atomic")),
            },
            _ => Node::Any,
        }
    }

    fn named(&self, name: &str, facts: Option<&FieldFacts>) -> Node {
        match name.rsplit('.').next().unwrap_or(name) {
            "Quantity" => Node::Quantity,
            "IntOrString" => Node::IntOrString,
            "Time" | "MicroTime" => Node::Time,
            "FieldsV1" | "RawExtension" | "JSON" | "JSONSchemaPropsOrStringArray" => Node::Any,
            "JSONSchemaPropsOrBool" => Node::StructOr {
                definition: self.reference(name.trim_end_matches("OrBool")),
                other: Other::Boolean,
            },
            "JSONSchemaPropsOrArray" => Node::StructOr {
                definition: self.reference(name.trim_end_matches("OrArray")),
                other: Other::List,
            },
            _ => Node::Struct {
                definition: self.reference(name),
                atomic: field_is_atomic(facts).unwrap_or_else(|| type_is_atomic(name)),
            },
        }
    }
}

fn make_field(node: Node, facts: FieldFacts, embedded: Arc<str>) -> Field {
    Field {
        node,
        strategy: Strategy {
            merge: facts.strategy.split(',').any(|s| s == "merge"),
            retain_keys: facts.strategy.split(',').any(|s| s == "retainKeys"),
            merge_key: facts.merge_key,
        },
        default: facts.default,
        go_type: facts.go_type,
        omit_zero: facts.omit_zero,
        omit_zero_struct: facts.omit_zero_struct,
        keeps_empty: false,
        embedded,
        repeated: facts.repeated,
    }
}

fn list_kind(facts: Option<&FieldFacts>) -> ListKind {
    match facts.map(|f| (f.list_type.as_deref(), &f.list_keys)) {
        Some((Some("set"), _)) => ListKind::Set,
        Some((Some("map"), keys)) if !keys.is_empty() => ListKind::Map(keys.clone()),
        _ => ListKind::Atomic,
    }
}

fn strip_descriptions(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("description");
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            strip_descriptions(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(strip_descriptions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Erased;

    #[test]
    fn a_field_may_share_what_its_type_does_not() {
        let is_atomic = |plural: &str, path: &[&str]| {
            let schema = crate::all::resource("", "v1", plural)
                .expect("it is built in")
                .schema();
            let node = path
                .iter()
                .try_fold(schema, |node, name| Some(node.field(name)?.node.clone()));
            matches!(node, Some(Node::Struct { atomic: true, .. }))
        };
        assert!(is_atomic("events", &["involvedObject"]));
        assert!(!is_atomic("persistentvolumes", &["spec", "claimRef"]));
    }

    #[test]
    fn lists_of_a_pod_have_their_topology() {
        let node = of(&Erased::<crate::core::pod::PodKind>::new());
        let spec = node.child("spec").expect("spec");
        let containers = spec.field("containers").expect("containers");
        assert_eq!(containers.strategy.merge_key.as_deref(), Some("name"));
        let Node::List { kind, item } = &containers.node else {
            panic!("containers is a list")
        };
        assert_eq!(*kind, ListKind::Map(vec!["name".into()]));
        let ports = item.child("ports").and_then(Node::item).expect("ports");
        assert_eq!(ports.default_of("protocol"), Some(&Value::from("TCP")));
        let volume = spec.child("volumes").and_then(Node::item).expect("volume");
        assert!(matches!(
            volume.child("configMap"),
            Some(Node::Struct { .. })
        ));
    }
}
