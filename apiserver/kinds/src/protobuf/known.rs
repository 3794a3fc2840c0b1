//! Which messages there are: those of kinds, of their lists, and the types that all kinds share.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use corral_api::k8s::apimachinery::pkg::apis::meta::v1 as meta;
use corral_api::schemars::JsonSchema;

use super::Layout;
use crate::{all, schema};

/// Messages that belong to no kind. They are needed for nearly every client, so that they are made once.
struct Shared {
    list_metadata: Arc<Layout>,
    partial: Arc<Layout>,
    partials: Arc<Layout>,
    by_kind: HashMap<&'static str, Arc<Layout>>,
}

fn of_type<T: JsonSchema>() -> Arc<Layout> {
    Layout::of_node(&schema::of_type::<T>()).expect("the table of facts has the types of meta/v1")
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let list_metadata = of_type::<meta::ListMeta>();
    let partial = Arc::new(Layout::object(&of_type::<meta::ObjectMeta>()));
    let partials = Arc::new(Layout::list(&partial, &list_metadata));
    let by_kind = HashMap::from([
        ("Status", of_type::<meta::Status>()),
        ("DeleteOptions", of_type::<meta::DeleteOptions>()),
        ("APIVersions", of_type::<meta::APIVersions>()),
        ("APIGroup", of_type::<meta::APIGroup>()),
        ("APIGroupList", of_type::<meta::APIGroupList>()),
        ("APIResourceList", of_type::<meta::APIResourceList>()),
    ]);
    Shared {
        list_metadata,
        partial,
        partials,
        by_kind,
    }
});

impl Layout {
    /// The layout of objects of a type, as they name it.
    pub fn of_type(api_version: &str, kind: &str) -> Option<Arc<Self>> {
        match api_version {
            // Discovery of the core group tells no version.
            "v1" | "" => {
                if let Some(layout) = SHARED.by_kind.get(kind) {
                    return Some(layout.clone());
                }
            }
            "meta.k8s.io/v1" | "meta.k8s.io/v1beta1" => {
                return match kind {
                    "PartialObjectMetadata" => Some(Self::partial()),
                    "PartialObjectMetadataList" => Some(SHARED.partials.clone()),
                    _ => None,
                };
            }
            _ => {}
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(kind) = all::kind(group, version, kind) {
            return Self::of_node(&schema::of(kind));
        }
        let items = all::kind(group, version, kind.strip_suffix("List")?)?;
        Some(Arc::new(Self::of_node(&schema::of(items))?.listed()))
    }

    /// Objects of which only the metadata is told.
    pub fn partial() -> Arc<Self> {
        SHARED.partial.clone()
    }

    /// The metadata of lists.
    pub fn list_metadata() -> Arc<Self> {
        SHARED.list_metadata.clone()
    }

    /// The layout of lists of such objects.
    pub fn listed(self: &Arc<Self>) -> Self {
        Self::list(self, &SHARED.list_metadata)
    }
}
