//! The types of kinds, from what a server says of itself: discovery and OpenAPI v3.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{
    APIGroupList, APIResource, APIResourceList,
};
use corral_cel::{DeclType, schema};
use corral_runtime::Error;
use kube::Client;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Lookup;
use super::warnings::{Kind, Resource, Types};
use crate::discovery;

/// With as many kinds found for a rule, no more are looked for, as in Kubernetes.
const KINDS_OF_RULE_MAX: usize = 10;
/// The most schemas that one kind may consist of. The largest of Kubernetes' own has 8,000; references to references could
/// make any number.
const SCHEMAS_MAX: usize = 100_000;
const REFERENCE: &str = "#/components/schemas/";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// What types depend on; descriptions, by far the largest part, are not among it.
const KEPT: &[&str] = &[
    "type",
    "format",
    "required",
    "default",
    "enum",
    "maxLength",
    "maxItems",
    "maxProperties",
    "x-kubernetes-embedded-resource",
    INT_OR_STRING,
];

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    components: Components,
}

#[derive(Default, Deserialize)]
struct Components {
    #[serde(default)]
    schemas: HashMap<String, Value>,
}

/// What was asked of a server for one policy.
pub struct Schemas<'c> {
    client: &'c Client,
    /// Groups and versions in their order, the core group first.
    versions: Vec<(String, String)>,
    resources: BTreeMap<(String, String), Vec<APIResource>>,
    documents: BTreeMap<(String, String), Option<Document>>,
}

impl<'c> Schemas<'c> {
    /// Asks for the groups.
    pub async fn of_server(client: &'c Client) -> Result<Self, Error> {
        let groups: APIGroupList = discovery::get(client, "/apis").await?;
        let mut versions = vec![(String::new(), "v1".to_owned())];
        for group in groups.groups {
            let of_group = group.versions.into_iter();
            versions.extend(of_group.map(|v| (group.name.clone(), v.version)));
        }
        Ok(Self {
            client,
            versions,
            resources: BTreeMap::new(),
            documents: BTreeMap::new(),
        })
    }

    /// The types that a policy is checked against; kinds that the server doesn't describe are left out.
    pub async fn types(&mut self, lookup: &Lookup) -> Result<Types, Error> {
        let mut types = Types::default();
        for kind in self.kinds(&lookup.rules).await? {
            // Names of types are in warnings. Kubernetes' end in a number of the moment, so that they are none of
            // another type; these two are enough for that.
            if let Some(t) = self.declared(&kind, 1).await? {
                types.objects.push((kind, t));
            }
        }
        if let Some(kind) = &lookup.params {
            types.params = Some(self.declared(kind, 2).await?.flatten());
        }
        Ok(types)
    }

    async fn kinds(&mut self, rules: &[Vec<Resource>]) -> Result<Vec<Kind>, Error> {
        let mut kinds: Vec<Kind> = Vec::new();
        'rules: for rule in rules {
            let mut n_found = 0;
            for resource in rule {
                for kind in self.kinds_of(resource).await? {
                    n_found += 1;
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                    }
                    // The rules that follow aren't looked at, either.
                    if n_found == KINDS_OF_RULE_MAX {
                        break 'rules;
                    }
                }
            }
        }
        kinds.sort_unstable();
        Ok(kinds)
    }

    async fn kinds_of(&mut self, resource: &Resource) -> Result<Vec<Kind>, Error> {
        let fits = |(group, version): &&(String, String)| {
            (resource.group.is_empty() || resource.group == *group) && resource.version == *version
        };
        let versions: Vec<_> = self.versions.iter().filter(fits).cloned().collect();
        let mut kinds = Vec::new();
        for version in versions {
            let served = self.served(&version).await?;
            if let Some(name) = served.iter().find_map(|r| named(r, &resource.name)) {
                let (group, version) = version;
                kinds.push(Kind {
                    group,
                    version,
                    name,
                });
            }
        }
        Ok(kinds)
    }

    async fn served(&mut self, version: &(String, String)) -> Result<&[APIResource], Error> {
        if !self.resources.contains_key(version) {
            let path = format!("/{}", path_of(version));
            let list: Option<APIResourceList> = known(discovery::get(self.client, &path).await)?;
            let mut resources = list.map_or_else(Vec::new, |list| list.resources);
            resources.retain(|resource| !resource.name.contains('/'));
            self.resources.insert(version.clone(), resources);
        }
        Ok(&self.resources[version])
    }

    /// The type of a kind, `None` for a kind without a schema, and `Some(None)` for a schema without a type.
    async fn declared(
        &mut self,
        kind: &Kind,
        number: u8,
    ) -> Result<Option<Option<Arc<DeclType>>>, Error> {
        let version = (kind.group.clone(), kind.version.clone());
        if !self.versions.contains(&version) {
            return Ok(None);
        }
        if !self.documents.contains_key(&version) {
            let path = format!("/openapi/v3/{}", path_of(&version));
            let document = known(discovery::get(self.client, &path).await)?;
            self.documents.insert(version.clone(), document);
        }
        let document = self.documents[&version].as_ref();
        let schema = document.and_then(|document| of_kind(&document.components.schemas, kind));
        Ok(schema.map(|schema| {
            let declared = schema::declared_type(&schema, true)?;
            Some(Arc::new(declared.named(&format!("{}{number}", kind.name))))
        }))
    }
}

fn path_of((group, version): &(String, String)) -> String {
    match group.as_str() {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// Nothing where the server, or the one behind it, has nothing to say.
fn known<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if error.status().is_some_and(|s| s.code == 503) => Ok(None),
        other => other.map(Some),
    }
}

/// The kind that a name in lower case stands for: that of the resource, or of lists of it.
fn named(resource: &APIResource, name: &str) -> Option<String> {
    let kind = &resource.kind;
    let lower = kind.to_lowercase();
    let singular = match resource.singular_name.as_str() {
        "" => &lower,
        given => given,
    };
    if name == resource.name || name == singular {
        return Some(kind.clone());
    }
    let of_list = name.strip_prefix(lower.as_str());
    matches!(of_list, Some("list" | "lists")).then(|| format!("{kind}List"))
}

/// The schema of a kind with everything that it refers to in its place.
fn of_kind(schemas: &HashMap<String, Value>, kind: &Kind) -> Option<Value> {
    let is_meant = |schema: &Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|known| {
            known["group"] == *kind.group
                && known["version"] == *kind.version
                && known["kind"] == *kind.name
        })
    };
    let (name, schema) = schemas.iter().find(|(_, schema)| is_meant(schema))?;
    let mut whole = Whole {
        schemas,
        within: vec![name],
        n_left: SCHEMAS_MAX,
    };
    whole.of(schema)
}

struct Whole<'s> {
    schemas: &'s HashMap<String, Value>,
    /// The definitions that the one looked at is a part of.
    within: Vec<&'s str>,
    n_left: usize,
}

impl<'s> Whole<'s> {
    fn of(&mut self, schema: &'s Value) -> Option<Value> {
        self.n_left = self.n_left.checked_sub(1)?;
        let Some(name) = reference(schema) else {
            return self.plain(schema);
        };
        if self.within.contains(&name) {
            return Some(json!({"type": "object"}));
        }
        let definition = self.schemas.get(name)?;
        self.within.push(name);
        let whole = self.plain(definition);
        self.within.pop();
        whole
    }

    fn plain(&mut self, schema: &'s Value) -> Option<Value> {
        let mut whole = Map::new();
        for key in KEPT {
            if let Some(value) = schema.get(key) {
                whole.insert((*key).to_owned(), value.clone());
            }
        }
        // Kinds that are built in say so otherwise.
        if schema["format"] == "int-or-string" {
            whole.insert(INT_OR_STRING.to_owned(), Value::Bool(true));
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
                whole.insert(key.to_owned(), self.of(inner)?);
            }
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let mut all = Map::new();
            for (name, inner) in properties {
                all.insert(name.clone(), self.of(inner)?);
            }
            whole.insert("properties".to_owned(), Value::Object(all));
        }
        Some(Value::Object(whole))
    }
}

/// What a schema stands for; one with a description of its own has the reference in a list.
fn reference(schema: &Value) -> Option<&str> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return Some(reference.strip_prefix(REFERENCE).unwrap_or(reference));
    }
    let all = schema.get("allOf").and_then(Value::as_array);
    all.into_iter().flatten().find_map(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas(definitions: Value) -> HashMap<String, Value> {
        serde_json::from_value(definitions).expect("a document")
    }

    fn kind() -> Kind {
        Kind {
            group: "a.b".into(),
            version: "v1".into(),
            name: "Tree".into(),
        }
    }

    fn tree(properties: Value) -> Value {
        let kinds = json!([{"group": "a.b", "version": "v1", "kind": "Tree"}]);
        json!({"type": "object", "properties": properties, "x-kubernetes-group-version-kind": kinds})
    }

    #[test]
    fn references_are_followed_until_they_come_round() {
        let part = json!({"type": "object", "description": "A part.", "properties": {
            "size": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/part"}},
        }});
        let root = json!({"allOf": [{"$ref": "#/components/schemas/part"}], "description": "It."});
        let schemas = schemas(json!({"tree": tree(json!({"root": root})), "part": part}));
        let found = of_kind(&schemas, &kind()).expect("there is one");
        assert_eq!(
            found["properties"]["root"],
            json!({"type": "object", "properties": {
                "size": {"format": "int-or-string", INT_OR_STRING: true},
                "parts": {"type": "array", "items": {"type": "object"}},
            }})
        );
    }

    #[test]
    fn a_kind_of_boundless_size_has_no_schema() {
        let mut definitions = Map::new();
        definitions.insert("tree".into(), tree(json!({"0": {"$ref": "0"}})));
        for n in 0..30 {
            let next = json!({"$ref": (n + 1).to_string()});
            let both = json!({"properties": {"a": next, "b": next}});
            definitions.insert(n.to_string(), both);
        }
        definitions.insert("30".into(), json!({"type": "string"}));
        assert_eq!(of_kind(&schemas(Value::Object(definitions)), &kind()), None);
    }

    #[test]
    fn kinds_have_several_names() {
        let resource = APIResource {
            name: "trees".into(),
            singular_name: String::new(),
            kind: "Tree".into(),
            ..APIResource::default()
        };
        let kind = |name| named(&resource, name);
        assert_eq!(kind("trees").as_deref(), Some("Tree"));
        assert_eq!(kind("tree").as_deref(), Some("Tree"));
        assert_eq!(kind("treelists").as_deref(), Some("TreeList"));
        assert_eq!(kind("treetops"), None);
    }
}
