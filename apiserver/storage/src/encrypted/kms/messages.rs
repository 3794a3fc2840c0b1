//! The messages of version 2 of Kubernetes' KMS API, and what is stored of a value that a plugin's key protects.

// Names, numbers and meanings of the fields are those of the published API.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use prost::Message;

/// Asks how the plugin is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// How the plugin is.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

/// Asks for the text of what the plugin encrypted.
#[derive(Clone, PartialEq, Message)]
pub struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// That text.
#[derive(Clone, PartialEq, Message)]
pub struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

/// Asks to encrypt.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
}

/// What was encrypted, and by which key.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// What is stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) encrypted_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) source_type: i32,
}

/// The plugin encrypted the key itself.
pub(super) const SOURCE_KEY: i32 = 0;
/// The plugin encrypted a seed from which keys are derived.
pub(super) const SOURCE_SEED: i32 = 1;

const SOURCE_BYTES_MAX: usize = 1024;
const KEY_ID_BYTES_MAX: usize = 1024;
const ANNOTATIONS_BYTES_MAX: usize = 32 * 1024;

impl EncryptedObject {
    /// Refuses what a plugin must not answer, and what nobody stored.
    pub(super) fn validate(&self) -> Result<(), String> {
        let Self {
            encrypted_data,
            key_id,
            encrypted_source,
            annotations,
            source_type,
        } = self;
        if !matches!(*source_type, SOURCE_KEY | SOURCE_SEED) {
            return Err(format!("unknown encryptedDEKSourceType: {source_type}"));
        }
        if encrypted_data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        let source = "failed to validate encrypted DEK source";
        match encrypted_source.len() {
            0 => return Err(format!("{source}: encrypted DEK source is empty")),
            1..=SOURCE_BYTES_MAX => {}
            length => {
                return Err(format!(
                    "{source}: encrypted DEK source is {length} bytes, which exceeds the max size of {SOURCE_BYTES_MAX}"
                ));
            }
        }
        validate_key_id(key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        validate_annotations(annotations)
            .map_err(|why| format!("failed to validate annotations: {why}"))
    }
}

/// An id of a key is neither empty nor long.
pub(super) fn validate_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".to_owned()),
        1..=KEY_ID_BYTES_MAX => Ok(()),
        length => Err(format!(
            "keyID is {length} bytes, which exceeds the max size of {KEY_ID_BYTES_MAX}"
        )),
    }
}

fn validate_annotations(annotations: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let mut size = 0;
    for (name, value) in annotations {
        if !is_qualified_domain(name) {
            return Err(format!(
                "annotations: Invalid value: {name:?}: should be a domain with at least two segments separated by dots"
            ));
        }
        size += name.len() + value.len();
    }
    match size > ANNOTATIONS_BYTES_MAX {
        true => Err(format!(
            "total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS_BYTES_MAX}"
        )),
        false => Ok(()),
    }
}

fn is_qualified_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.contains('.') && name.split('.').all(label)
}
