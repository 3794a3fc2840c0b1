//! One key with its cipher: what turns bytes into bytes, in the layout that Kubernetes stores.
//!
//! | cipher | layout | authenticated with it |
//! |---|---|---|
//! | `aesgcm` | nonce (12), ciphertext, tag (16) | the key of the store |
//! | `aescbc` | initialisation vector (16), ciphertext padded as PKCS #7 | nothing |
//! | `secretbox` | nonce (24), tag (16), ciphertext | nothing |
//! | seed of a plugin | info (32), then as `aesgcm` under a key derived from seed and info | the key of the store |

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptionContext, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hkdf;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;

use super::Failure;
use super::secretbox;

const GCM_NONCE_BYTES: usize = 12;
const GCM_TAG_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
/// Bytes of what is mixed with a seed, and of what comes out.
const DERIVED_BYTES: usize = 32;
/// Least bytes of a seed.
const SEED_BYTES_MIN: usize = 32;

const TOO_SHORT: &str = "the stored data was shorter than the required size";

/// A key with its cipher.
pub(super) enum Cipher {
    Gcm(LessSafeKey),
    Cbc(Box<CbcKeys>),
    Secretbox([u8; secretbox::KEY_BYTES]),
    Seed(hkdf::Prk),
}

/// A key for both directions.
pub(super) struct CbcKeys {
    encrypt: cipher::EncryptingKey,
    decrypt: cipher::DecryptingKey,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

impl Cipher {
    /// `aesgcm` with a key of 16, 24 or 32 bytes.
    pub(super) fn gcm(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            length => return Err(invalid_size(length)),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| invalid_size(key.len()))?;
        Ok(Self::Gcm(LessSafeKey::new(key)))
    }

    /// `aescbc` with a key of 16, 24 or 32 bytes.
    pub(super) fn cbc(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            length => return Err(invalid_size(length)),
        };
        let make = || UnboundCipherKey::new(algorithm, key);
        let encrypt = make().and_then(cipher::EncryptingKey::cbc);
        let decrypt = make().and_then(cipher::DecryptingKey::cbc);
        match (encrypt, decrypt) {
            (Ok(encrypt), Ok(decrypt)) => Ok(Self::Cbc(Box::new(CbcKeys { encrypt, decrypt }))),
            _ => Err(invalid_size(key.len())),
        }
    }

    /// `secretbox` with a key of 32 bytes.
    pub(super) fn secretbox(key: &[u8]) -> Result<Self, String> {
        let key = key.try_into().map_err(|_| {
            let length = key.len();
            format!("expected key size 32 for secretbox provider, got {length}")
        })?;
        Ok(Self::Secretbox(key))
    }

    /// A seed from which every value gets a key of its own.
    pub(super) fn seed(seed: &[u8]) -> Result<Self, String> {
        if seed.len() < SEED_BYTES_MIN {
            let length = seed.len();
            return Err(format!(
                "invalid seed length {length} used for key generation"
            ));
        }
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, seed);
        Ok(Self::Seed(prk))
    }

    /// What is stored for a value under a key of the store.
    pub(super) fn seal(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Gcm(gcm) => seal_gcm(gcm, key, value, Vec::new()),
            Self::Cbc(keys) => keys.seal(value),
            Self::Secretbox(secret) => {
                let nonce: [u8; secretbox::NONCE_BYTES] = random()?;
                let mut out = nonce.to_vec();
                out.extend(secretbox::seal(secret, &nonce, value));
                Ok(out)
            }
            Self::Seed(seed) => {
                let info: [u8; DERIVED_BYTES] = random()?;
                seal_gcm(&derive(seed, &info)?, key, value, info.to_vec())
            }
        }
    }

    /// The value that is stored under a key of the store.
    pub(super) fn open(&self, key: &str, stored: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Gcm(gcm) => open_gcm(gcm, key, stored),
            Self::Cbc(keys) => keys.open(stored),
            Self::Secretbox(secret) => {
                let (nonce, sealed) = split::<{ secretbox::NONCE_BYTES }>(stored)?;
                if sealed.len() < secretbox::TAG_BYTES {
                    return Err(Failure::of(TOO_SHORT));
                }
                // Kubernetes says this when the key is another, however it reads.
                secretbox::open(secret, &nonce, sealed)
                    .ok_or_else(|| Failure::of("output array was not large enough for encryption"))
            }
            Self::Seed(seed) => {
                let (info, sealed) = split::<DERIVED_BYTES>(stored)?;
                open_gcm(&derive(seed, &info)?, key, sealed)
            }
        }
    }
}

fn invalid_size(length: usize) -> String {
    format!("crypto/aes: invalid key size {length}")
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Failure::of("unable to read sufficient random bytes"))?;
    Ok(bytes)
}

fn split<const N: usize>(stored: &[u8]) -> Result<([u8; N], &[u8]), Failure> {
    let (head, tail) = stored
        .split_first_chunk::<N>()
        .ok_or_else(|| Failure::of(TOO_SHORT))?;
    Ok((*head, tail))
}

fn seal_gcm(
    gcm: &LessSafeKey,
    key: &str,
    value: &[u8],
    mut out: Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let nonce: [u8; GCM_NONCE_BYTES] = random()?;
    out.reserve(GCM_NONCE_BYTES + value.len() + GCM_TAG_BYTES);
    out.extend_from_slice(&nonce);
    let begin = out.len();
    out.extend_from_slice(value);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = gcm
        .seal_in_place_separate_tag(nonce, Aad::from(key.as_bytes()), &mut out[begin..])
        .map_err(|_| Failure::of("the value could not be encrypted"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn open_gcm(gcm: &LessSafeKey, key: &str, stored: &[u8]) -> Result<Vec<u8>, Failure> {
    let (nonce, sealed) = split::<GCM_NONCE_BYTES>(stored)?;
    let mut value = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let length = gcm
        .open_in_place(nonce, Aad::from(key.as_bytes()), &mut value)
        .map_err(|_| Failure::of("cipher: message authentication failed"))?
        .len();
    value.truncate(length);
    Ok(value)
}

/// The length of a derived key, as the library wants to be told it.
struct Derived;

impl hkdf::KeyType for Derived {
    fn len(&self) -> usize {
        DERIVED_BYTES
    }
}

fn derive(seed: &hkdf::Prk, info: &[u8]) -> Result<LessSafeKey, Failure> {
    let failed = |_| Failure::of("failed to derive a key from KDF");
    let mut key = [0; DERIVED_BYTES];
    seed.expand(&[info], Derived)
        .and_then(|derived| derived.fill(&mut key))
        .map_err(failed)?;
    let key = UnboundKey::new(&aead::AES_256_GCM, &key).map_err(failed)?;
    Ok(LessSafeKey::new(key))
}

impl CbcKeys {
    fn seal(&self, value: &[u8]) -> Result<Vec<u8>, Failure> {
        let vector: [u8; BLOCK_BYTES] = random()?;
        let padding = BLOCK_BYTES - value.len() % BLOCK_BYTES;
        let mut out = Vec::with_capacity(BLOCK_BYTES + value.len() + padding);
        out.extend_from_slice(&vector);
        out.extend_from_slice(value);
        out.resize(out.len() + padding, padding as u8);
        let context = EncryptionContext::Iv128(FixedLength::from(vector));
        self.encrypt
            .less_safe_encrypt(&mut out[BLOCK_BYTES..], context)
            .map_err(|_| Failure::of("the value could not be encrypted"))?;
        Ok(out)
    }

    fn open(&self, stored: &[u8]) -> Result<Vec<u8>, Failure> {
        let (vector, sealed) = split::<BLOCK_BYTES>(stored)?;
        if !sealed.len().is_multiple_of(BLOCK_BYTES) {
            return Err(Failure::of(
                "the stored data is not a multiple of the block size",
            ));
        }
        let mut value = sealed.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(vector));
        self.decrypt
            .decrypt(&mut value, context)
            .map_err(|_| Failure::of("the value could not be decrypted"))?;
        let padding = value.last().map_or(0, |last| usize::from(*last));
        let Some(length) = value.len().checked_sub(padding).filter(|_| padding > 0) else {
            return Err(Failure::of("invalid PKCS7 data (empty or not padded)"));
        };
        if value[length..]
            .iter()
            .any(|byte| usize::from(*byte) != padding)
        {
            return Err(Failure::of("invalid padding on input"));
        }
        value.truncate(length);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Cipher> {
        let key = [5; 32];
        let mut ciphers = vec![
            Cipher::secretbox(&key).expect("a key"),
            Cipher::seed(&key).expect("a seed"),
        ];
        for length in [16, 24, 32] {
            ciphers.push(Cipher::gcm(&key[..length]).expect("a key"));
            ciphers.push(Cipher::cbc(&key[..length]).expect("a key"));
        }
        ciphers
    }

    #[test]
    fn what_is_sealed_is_opened() {
        for cipher in all() {
            for length in [0, 1, 15, 16, 17, 1_000] {
                let value = vec![b'v'; length];
                let sealed = cipher.seal("/registry/a", &value).expect("sealed");
                let again = cipher.seal("/registry/a", &value).expect("sealed");
                assert_ne!(sealed, again, "the same value looks different every time");
                assert_eq!(cipher.open("/registry/a", &sealed).expect("opened"), value);
            }
            let error = cipher.open("/registry/a", b"short").expect_err("too short");
            assert_eq!(error.text, TOO_SHORT);
        }
    }

    #[test]
    fn a_value_moved_to_another_key_of_the_store_is_refused_where_the_key_is_authenticated() {
        for cipher in all() {
            let sealed = cipher.seal("/registry/a", b"value").expect("sealed");
            let moved = cipher.open("/registry/b", &sealed);
            match cipher {
                Cipher::Gcm(_) | Cipher::Seed(_) => {
                    let error = moved.expect_err("refused");
                    assert_eq!(error.text, "cipher: message authentication failed");
                }
                // Kubernetes stores these without.
                Cipher::Cbc(_) | Cipher::Secretbox(_) => assert!(moved.is_ok()),
            }
        }
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        for length in [0, 15, 17, 31, 33] {
            let key = vec![1; length];
            assert!(Cipher::gcm(&key).is_err());
            assert!(Cipher::cbc(&key).is_err());
            assert!(Cipher::secretbox(&key).is_err());
        }
        assert!(Cipher::seed(&[1; 31]).is_err());
    }
}
