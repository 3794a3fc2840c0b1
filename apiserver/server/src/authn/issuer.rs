//! What lets others check the tokens of ServiceAccounts: the documents of OpenID Connect discovery.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where the issuer tells about itself.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where its keys are.
pub const KEYS_PATH: &str = "/openid/v1/jwks";
/// Media type of a set of keys.
pub const KEYS_TYPE: &str = "application/jwk-set+json";

/// Bytes of one coordinate of a point on the curve P-256.
const COORDINATE: usize = 32;
/// What stands before a point that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// A key that signs tokens, as others need to know it.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Its name in the head of a token: the hash of its DER form, as kube-apiserver names keys.
    pub id: String,
    x: String,
    y: String,
}

impl PublicKey {
    /// Reads a key on the curve P-256 in PEM; nothing if it is none.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let der = STANDARD.decode(body.trim()).ok()?;
        // The point ends the structure.
        let (_, point) = der.split_at_checked(der.len().checked_sub(2 * COORDINATE + 1)?)?;
        let (&UNCOMPRESSED, coordinates) = point.split_first()? else {
            return None;
        };
        let (x, y) = coordinates.split_at(COORDINATE);
        Some(Self {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(&der)),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// The set of keys (RFC 7517): this one.
    pub fn set(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": self.x, "y": self.y,
        }]})
    }
}

/// What the issuer tells about itself (OpenID Connect Discovery 1.0). The keys are named by the issuer's own address,
/// which every pod reaches.
pub fn configuration(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}{KEYS_PATH}", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
