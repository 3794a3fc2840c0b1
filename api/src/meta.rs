//! Object metadata as far as it can be read without knowing the kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Longest name that `generateName` may lead to.
pub const GENERATED_NAME_LENGTH_MAX: usize = 63;
/// Random characters that `generateName` appends.
pub const GENERATED_SUFFIX_LENGTH: usize = 5;
/// The alphabet of generated names: no vowels and no look-alikes.
pub const GENERATED_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// An owner as the index needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// Uid of the owner.
    pub uid: String,
    /// Whether the owner manages this object.
    pub controller: Option<bool>,
    /// Whether the owner's foreground deletion waits for this object.
    pub block_owner_deletion: Option<bool>,
}

/// The part of `metadata` that selects, orders and links objects. Reading it skips everything else.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct MetaIndex {
    /// Name.
    pub name: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Uid.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Owners.
    pub owner_references: Vec<Owner>,
    /// Finalizers that are left.
    pub finalizers: Vec<String>,
    /// Set once the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Counts changes of the spec.
    pub generation: i64,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    metadata: MetaIndex,
}

impl MetaIndex {
    /// Reads the index from an object's JSON.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with object metadata.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(serde_json::from_slice::<Envelope>(json)?.metadata)
    }
}

/// The owner that manages an object, if there is one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// A name from a prefix and random bytes, one byte of `random` for each character of the suffix.
pub fn generated_name(prefix: &str, random: [u8; GENERATED_SUFFIX_LENGTH]) -> String {
    let room = GENERATED_NAME_LENGTH_MAX - GENERATED_SUFFIX_LENGTH;
    let mut end = prefix.len().min(room);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    for byte in random {
        let index = usize::from(byte) % GENERATED_ALPHABET.len();
        name.push(char::from(GENERATED_ALPHABET[index]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_skips_what_it_does_not_need() {
        let json = br#"{"kind":"X","metadata":{"name":"a","uid":"u","managedFields":[{"x":[1]}],"labels":{"k":"v"}},"spec":{}}"#;
        let meta = MetaIndex::read(json).expect("valid");
        assert_eq!((meta.name.as_str(), meta.labels["k"].as_str()), ("a", "v"));
    }

    #[test]
    fn generated_names_stay_within_a_label() {
        let name = generated_name(&"x".repeat(80), [0, 1, 2, 3, 255]);
        assert_eq!(name.len(), GENERATED_NAME_LENGTH_MAX);
    }
}
