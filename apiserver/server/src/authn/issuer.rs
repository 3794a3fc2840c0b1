//! The keys of ServiceAccount tokens, and what lets others check such tokens: the documents of OpenID Connect discovery.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::PrivateKeyDer;
use rustls_pemfile::Item;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Where the issuer tells about itself.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where its keys are.
pub const KEYS_PATH: &str = "/openid/v1/jwks";
/// Media type of a set of keys.
pub const KEYS_TYPE: &str = "application/jwk-set+json";

/// What stands before a point that is not compressed.
const UNCOMPRESSED: u8 = 4;
/// Bytes of both coordinates of a point on the curve P-256, and on P-384.
const P256_BYTES: usize = 64;
const P384_BYTES: usize = 96;
/// What is said of keys that are none of these.
const OTHER: &str =
    "tokens are signed with RSA keys and with keys on the curves P-256 and P-384 only";

/// A key that tokens are checked with.
#[derive(Clone)]
pub struct PublicKey {
    /// Its name in the head of a token: the hash of its DER form, as kube-apiserver names keys.
    pub id: String,
    /// How it signs.
    pub algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    numbers: Value,
}

impl PublicKey {
    /// Reads a key with its algorithm in DER.
    ///
    /// # Errors
    /// When it is none that signs tokens.
    pub fn of_der(der: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| error.to_string())?;
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let invalid = |error: jsonwebtoken::errors::Error| error.to_string();
        let parsed = info.parsed().map_err(|error| error.to_string())?;
        let (algorithm, decoding, numbers) = match &parsed {
            public_key::PublicKey::RSA(key) => {
                // The zero before a number whose first bit is set is none of it.
                let zeros = key.modulus.iter().take_while(|byte| **byte == 0).count();
                let zeros_of_exponent = key.exponent.iter().take_while(|byte| **byte == 0).count();
                let (n, e) = (
                    encoded(&key.modulus[zeros..]),
                    encoded(&key.exponent[zeros_of_exponent..]),
                );
                let decoding = DecodingKey::from_rsa_components(&n, &e).map_err(invalid)?;
                let numbers = json!({"kty": "RSA", "n": n, "e": e});
                (Algorithm::RS256, decoding, numbers)
            }
            public_key::PublicKey::EC(point) => {
                let Some((&UNCOMPRESSED, point)) = point.data().split_first() else {
                    return Err(OTHER.to_owned());
                };
                let (algorithm, curve) = match point.len() {
                    P256_BYTES => (Algorithm::ES256, "P-256"),
                    P384_BYTES => (Algorithm::ES384, "P-384"),
                    _ => return Err(OTHER.to_owned()),
                };
                let (x, y) = point.split_at(point.len() / 2);
                let (x, y) = (encoded(x), encoded(y));
                let decoding = DecodingKey::from_ec_components(&x, &y).map_err(invalid)?;
                let numbers = json!({"kty": "EC", "crv": curve, "x": x, "y": y});
                (algorithm, decoding, numbers)
            }
            _ => return Err(OTHER.to_owned()),
        };
        Ok(Self {
            id: encoded(&Sha256::digest(der)),
            algorithm,
            decoding,
            numbers,
        })
    }

    /// All keys in a file: public ones, those of private ones, and those of certificates.
    ///
    /// # Errors
    /// When there is none, or one makes no sense.
    pub fn all_of_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for item in rustls_pemfile::read_all(&mut &*pem) {
            let der = match item.map_err(|error| error.to_string())? {
                Item::SubjectPublicKeyInfo(key) => key.to_vec(),
                Item::X509Certificate(certificate) => {
                    let read = x509_parser::parse_x509_certificate(&certificate);
                    let (_, read) = read.map_err(|error| error.to_string())?;
                    read.public_key().raw.to_vec()
                }
                Item::Pkcs1Key(key) => public_of(&key.into())?,
                Item::Pkcs8Key(key) => public_of(&key.into())?,
                Item::Sec1Key(key) => public_of(&key.into())?,
                _ => continue,
            };
            keys.push(Self::of_der(&der)?);
        }
        match keys.is_empty() {
            false => Ok(keys),
            true => Err("there is no key in it".to_owned()),
        }
    }
}

fn public_of(key: &PrivateKeyDer<'_>) -> Result<Vec<u8>, String> {
    let pair = KeyPair::try_from(key).map_err(|error| error.to_string())?;
    Ok(pair.subject_public_key_info())
}

/// A key that signs tokens.
pub struct SigningKey {
    pub(super) encoding: EncodingKey,
    /// What they are checked with.
    pub public: PublicKey,
}

impl SigningKey {
    /// Reads a private key.
    ///
    /// # Errors
    /// When there is none, or none that signs tokens.
    pub fn of_pem(pem: &str) -> Result<Self, String> {
        let key = rustls_pemfile::private_key(&mut pem.as_bytes());
        let key = key.map_err(|error| error.to_string())?;
        let key = key.ok_or("there is no private key in it")?;
        let public = PublicKey::of_der(&public_of(&key)?)?;
        let of_curve = |algorithm| {
            let pair = EcdsaKeyPair::from_private_key_der(algorithm, key.secret_der());
            let document = pair.ok()?.to_pkcs8v1().ok()?;
            Some(EncodingKey::from_ec_der(document.as_ref()))
        };
        let encoding = match public.algorithm {
            Algorithm::ES256 => of_curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => of_curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()).ok(),
        };
        Ok(Self {
            encoding: encoding.ok_or(OTHER)?,
            public,
        })
    }
}

/// The set of keys (RFC 7517).
pub fn set(keys: &[PublicKey]) -> Value {
    let told = keys.iter().map(|key| {
        let mut told = json!({"use": "sig", "kid": key.id, "alg": name(key.algorithm)});
        for (field, number) in key.numbers.as_object().into_iter().flatten() {
            told[field] = number.clone();
        }
        told
    });
    json!({"keys": told.collect::<Vec<_>>()})
}

/// What the issuer tells about itself (OpenID Connect Discovery 1.0). The keys are named by the issuer's own address,
/// which every pod reaches.
pub fn configuration(issuer: &str, keys: &[PublicKey]) -> Value {
    let mut algorithms: Vec<&str> = keys.iter().map(|key| name(key.algorithm)).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}{KEYS_PATH}", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        _ => "RS256",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key as `openssl ecparam -genkey` writes it, and the same as `openssl pkcs8` does.
    const SEC1: &str = "\
-----BEGIN EC PARAMETERS-----
BggqhkjOPQMBBw==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIB9Ic07Ej2Anhs8i4BVsiAdZ9iQwswwkT5O8a1+ZExWboAoGCCqGSM49
AwEHoUQDQgAEyMxMOGjlpFWDtIu9CJf+SO6PksgIRK23doc0g2cOz77Pk6dxs3O7
Pn6cbTrIqyX/z9xYk2CnA3+LRntRUYH5Ng==
-----END EC PRIVATE KEY-----
";
    const PKCS8: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgH0hzTsSPYCeGzyLg
FWyIB1n2JDCzDCRPk7xrX5kTFZuhRANCAATIzEw4aOWkVYO0i70Il/5I7o+SyAhE
rbd2hzSDZw7Pvs+Tp3Gzc7s+fpxtOsirJf/P3FiTYKcDf4tGe1FRgfk2
-----END PRIVATE KEY-----
";
    /// A key as `openssl genrsa -traditional` writes it.
    const PKCS1: &str = "\
-----BEGIN RSA PRIVATE KEY-----
MIIEowIBAAKCAQEAkCcZqXNt+WF4wYQ5qtt+6cPBP1fj9tJ//GlPutedcSeC1yQC
NWrbmsFGoHfvZuqfPBRUrAl5WWapCFzPlh5i/QO4JeS018SxQr7ux+qOxG5SdMsH
0agWSW10726HUvjHPPFy6qqBJ/1U86txClLnIa2wqRBA+6Tf/HsJoGloSqeW4GhT
NzmBckutgu8FnF/tN5OvYCNtItg+uGC5WTDD0dENIkrVzDGjHnaaujS7SBGcmTUE
CGWsLRRWJBHnGb2xs5v1IG1uqUxBgbJHan4QBunbhFZ7mAX4Z4K+azifP+yy5yS9
mRisu52sRUg3by49ty6vTlXZ6HZYT72seGWDCwIDAQABAoIBAAqhT4OkQaJdEpDB
Wu1OEA8ArVdUow4YWhwiJKEvIEBFZ8vMryWtnRx4OeiVyj+JIrfv+d8mjbPO3b0s
9u6SNr4uEDN/KOorv4n1VtoYN8dQKWAieWT3uQ5Yy4GSjC54A7KV+Db03t8KOpcD
eAEJDwaimSnxIGb43Wma0HbAqdJYwBQSXBlNkF3CBiuJFl8N2pw4nxRAuLgeAvGU
K13zwlanECAah4AitYEPUsf/unbDl7fCzmT92EicfjtO12ylNGK6TG+WuaL65nlU
HcJefom7Ye2rotcqL0OYOATeKh5hTuqh4x6ydsdtlT/X29uCF4DQSp1GxOn5HCKQ
Ggy8k/ECgYEAyjWaWtGWgBtT/cnbcSXiieOONs8gpx1sfKRDdFzicb1pYblpvkgq
5/rSGp7MlJgbW8y34W6xjafbvrTu06/GoFGVMIkJ8rrlo9IIE40JaT0DMLSOXR3o
h3XS5317SP9FDmpZAsLOah6DYl6W8SXcGBWNXNJ8bJKklrA6Uml8c9ECgYEAtn/b
cUAkbk98nLQFkvRax8iiMjyIW+lBLxIInRisjuvsNLgmp6iixHBl2lyEOku84K6M
0vFXGvA3dgLaAfgxuQoqDjxgO2tbgxvuy55xK09kZOwk7rdvugC2wU2W+A8WMefR
A3k3MSFRGG4drYryIKy9DClDzystK3My+uC/jBsCgYEAnxWc4maR6SeW5MuygUo0
+Ba3BBfgsJlNiKITD7Ej1igWiHO+5Z0RZIDIW3kjqqQgohBlek4EElZFY7wlSRW5
Rtfob87grL6tfDz5bahABzOhFuh2OHwXPLtNuiHWpI9wXO7+KFXq30IyS2nvhrkq
dyg9lxFiImkcZBExUTT8XIECgYBNIJHsNdBvsjYWv9oPNifbgQZTNtPmDBkZPITZ
Z6EdscUcrqrfdlx7qojRFQJo5LNJPVuUlpxabSTzQddCt9LDwfDuHUQKOJ/vM/Hi
qe5oAGCMamRdYrbcJAsYfKMN6MpXgwIJdsQFhnAQZBE006DqgDZRGmtm9Xdcgo4M
CsnI+wKBgBwDiZeOXjg5i0kV4+ng6RhpZ5T4uSk1pUxL7hEFvHvHT5D9v5MqKx9Z
IsEX3vlelVqeAqMflFjR2musSuClQfTHVJDoY/GXtzcAks2mUXg7dAjV1/5HHQkH
2sPAhykr3RvnRkwoUEy+Tl9Qju+/8q5LS0iDJNpLTufRBg+FvkPE
-----END RSA PRIVATE KEY-----
";

    fn ids(pem: &str) -> Vec<String> {
        let keys = PublicKey::all_of_pem(pem.as_bytes()).expect("keys");
        keys.into_iter().map(|key| key.id).collect()
    }

    #[test]
    fn keys_sign_in_whichever_form_they_are_written() {
        for pem in [SEC1, PKCS8, PKCS1] {
            let key = SigningKey::of_pem(pem).expect("a key");
            assert_eq!(ids(pem), std::slice::from_ref(&key.public.id));
            let header = jsonwebtoken::Header::new(key.public.algorithm);
            let claims = json!({"a": "b"});
            let token = jsonwebtoken::encode(&header, &claims, &key.encoding).expect("a token");
            let mut validation = jsonwebtoken::Validation::new(key.public.algorithm);
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            let read = jsonwebtoken::decode::<Value>(&token, &key.public.decoding, &validation);
            assert_eq!(read.expect("it is good").claims, claims);
        }
        assert_eq!(ids(SEC1), ids(PKCS8));
        assert_eq!(ids(&format!("{SEC1}{PKCS1}")).len(), 2);
    }

    #[test]
    fn a_set_of_keys_has_their_numbers() {
        let keys = PublicKey::all_of_pem(PKCS1.as_bytes()).expect("a key");
        let told = &set(&keys)["keys"][0];
        assert_eq!((&told["kty"], &told["e"]), (&json!("RSA"), &json!("AQAB")));
        // 2048 bits, without a zero before them.
        assert_eq!(told["n"].as_str().map(str::len), Some(342));
    }
}
