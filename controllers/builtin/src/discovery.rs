//! Which kinds the server has, for the controllers that work on any kind.

use corral_api::k8s::apimachinery::pkg::apis::meta::v1::{
    APIGroupList, APIResource, APIResourceList,
};
use corral_runtime::Error;
use http::Request;
use kube::Client;
use kube::core::ApiResource;
use serde::de::DeserializeOwned;

/// A kind as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Kind {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// What discovery found, and what it could not find out.
#[derive(Debug, Clone, Default)]
pub struct Discovered {
    pub kinds: Vec<Kind>,
    /// Group versions that could not be asked, with the error.
    pub failures: Vec<String>,
}

/// Asks for every group's preferred version.
pub async fn discover(client: &Client) -> Result<Discovered, Error> {
    let groups: APIGroupList = get(client, "/apis").await?;
    let mut paths = vec!["/api/v1".to_owned()];
    for group in groups.groups {
        let preferred = group
            .preferred_version
            .or_else(|| group.versions.into_iter().next());
        paths.extend(preferred.map(|version| format!("/apis/{}", version.group_version)));
    }
    let mut discovered = Discovered::default();
    for path in paths {
        match get::<APIResourceList>(client, &path).await {
            Ok(list) => {
                let top_level = list
                    .resources
                    .into_iter()
                    .filter(|resource| !resource.name.contains('/'));
                discovered
                    .kinds
                    .extend(top_level.map(|resource| kind(&list.group_version, resource)));
            }
            Err(error) => discovered
                .failures
                .push(format!("{path}: {}", error.message())),
        }
    }
    Ok(discovered)
}

fn kind(group_version: &str, resource: APIResource) -> Kind {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    Kind {
        resource: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: group_version.to_owned(),
            kind: resource.kind,
            plural: resource.name,
        },
        namespaced: resource.namespaced,
        verbs: resource.verbs,
    }
}

/// What the server says at a path.
pub async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, Error> {
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    Ok(client.request(request).await?)
}
