//! Which types the server has, and what people call them.

use anyhow::{Context, bail};
use serde_json::Value;

use super::api::Api;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A type of object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural, as in URLs.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The path of a collection, or of one object. `None` as namespace means all.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        let within = match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("/namespaces/{namespace}"),
            None => String::new(),
        };
        let name = name.map(|n| format!("/{n}")).unwrap_or_default();
        format!("{root}{within}/{}{name}", self.plural)
    }

    /// `deployment.apps`, as results are named.
    pub fn qualified(&self) -> String {
        corral_api::gvk::qualified(&self.singular, &self.group)
    }

    /// `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn is_called(&self, word: &str) -> bool {
        let (name, group) = word
            .split_once('.')
            .map_or((word, None), |(n, g)| (n, Some(g)));
        let named = [&self.plural, &self.singular]
            .into_iter()
            .chain(&self.short_names)
            .any(|n| n == name)
            || self.kind.to_lowercase() == name;
        let grouped = group.is_none_or(|g| {
            g == self.group
                || g.strip_suffix(&format!(".{}", self.group))
                    .is_some_and(|v| v == self.version)
        });
        named && grouped
    }
}

/// All types of a server.
pub struct Resources(Vec<Resource>);

impl Resources {
    /// Asks the server.
    pub async fn discover(api: &Api) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let list = api.get_as(path, AGGREGATED).await?;
            for group in list["items"].as_array().into_iter().flatten() {
                read_group(group, &mut all);
            }
        }
        Ok(Self(all))
    }

    /// The type that somebody means.
    pub fn find(&self, word: &str) -> anyhow::Result<&Resource> {
        let word = word.to_lowercase();
        self.0
            .iter()
            .find(|r| r.is_called(&word))
            .with_context(|| format!("the server doesn't have a resource type {word:?}"))
    }

    /// The types that a list of words means; a word may be a category.
    pub fn find_all(&self, words: &str) -> anyhow::Result<Vec<&Resource>> {
        let mut found = Vec::new();
        for word in words.split(',').filter(|w| !w.is_empty()) {
            let members: Vec<&Resource> = self
                .0
                .iter()
                .filter(|r| r.categories.iter().any(|c| c == word))
                .collect();
            if members.is_empty() {
                found.push(self.find(word)?);
            } else {
                found.extend(members);
            }
        }
        Ok(found)
    }

    /// The type of an object in a manifest.
    pub fn of_object(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        let found = self
            .0
            .iter()
            .find(|r| r.kind == kind && r.api_version() == api_version);
        found.with_context(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
    }
}

fn read_group(group: &Value, out: &mut Vec<Resource>) {
    let name = group["metadata"]["name"].as_str().unwrap_or("");
    for version in group["versions"].as_array().into_iter().flatten() {
        for resource in version["resources"].as_array().into_iter().flatten() {
            let text = |key: &str| resource[key].as_str().unwrap_or("").to_owned();
            let texts = |key: &str| -> Vec<String> {
                let list = resource[key].as_array().into_iter().flatten();
                list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
            };
            out.push(Resource {
                group: name.to_owned(),
                version: version["version"].as_str().unwrap_or("").to_owned(),
                kind: resource["responseKind"]["kind"]
                    .as_str()
                    .unwrap_or("")
                    .to_owned(),
                plural: text("resource"),
                singular: text("singularResource"),
                short_names: texts("shortNames"),
                categories: texts("categories"),
                namespaced: resource["scope"] == "Namespaced",
            });
        }
    }
}

/// What arguments name: types and names of each, as `TYPE NAME…`, `TYPE/NAME…` or `TYPE,TYPE`.
pub fn targets<'a>(
    resources: &'a Resources,
    words: &[String],
) -> anyhow::Result<Vec<(&'a Resource, Vec<String>)>> {
    let Some(first) = words.first() else {
        bail!("name a type of object, such as pods or deployment/web");
    };
    if first.contains('/') {
        let mut out: Vec<(&Resource, Vec<String>)> = Vec::new();
        for word in words {
            let (kind, name) = word
                .split_once('/')
                .with_context(|| format!("{word:?} is not TYPE/NAME, and others before it are"))?;
            out.push((resources.find(kind)?, vec![name.to_owned()]));
        }
        return Ok(out);
    }
    let names = words[1..].to_vec();
    let found = resources.find_all(first)?;
    Ok(found
        .into_iter()
        .map(|resource| (resource, names.clone()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments() -> Resource {
        Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            singular: "deployment".into(),
            short_names: vec!["deploy".into()],
            categories: vec!["all".into()],
            namespaced: true,
        }
    }

    #[test]
    fn types_have_many_names() {
        let all = Resources(vec![deployments()]);
        for word in [
            "deploy",
            "Deployment",
            "deployments",
            "deployment.apps",
            "deployments.v1.apps",
        ] {
            assert!(all.find(word).is_ok(), "{word}");
        }
        assert!(all.find("pods").is_err() && all.find("deploy.other").is_err());
        let named = targets(&all, &["deploy/web".into()]).expect("valid");
        assert_eq!(named[0].1, ["web"]);
        assert_eq!(
            deployments().path(Some("n"), Some("web")),
            "/apis/apps/v1/namespaces/n/deployments/web"
        );
    }
}
