//! A plugin of Kubernetes' KMS API, version 2: it encrypts a seed, and every value gets a key of its own from the seed.
//!
//! ```text
//!   Status, every minute ──▶ the id of the plugin's key ── another? ──▶ Encrypt(new seed) ──▶ the state
//!   write: the state's seed            read: the seed that is stored with the value ── unknown? ──▶ Decrypt
//! ```
//!
//! A plugin that does not answer stops neither reads of values whose seed is known, nor writes until the state is three
//! minutes old: then a change of its key could have gone unnoticed.

mod client;
pub mod messages;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::client::Client;
use self::messages::{
    DecryptRequest, EncryptRequest, EncryptedObject, SOURCE_SEED, StatusResponse, validate_key_id,
};
use super::cipher::{Cipher, random};
use super::metrics::{EncryptionMetrics, Way};
use super::transformer::aggregate;
use super::{Failure, KmsConfig};

/// How often a plugin that is well is asked for its state, and one that is not.
const WELL_PERIOD: Duration = Duration::from_secs(60);
const UNWELL_PERIOD: Duration = Duration::from_secs(10);
/// How long a plugin's last word stands for writes.
const STATE_LIFE: Duration = Duration::from_secs(180);
/// How long an answer of a check stands for further checks.
const CHECK_WELL_LIFE: Duration = Duration::from_secs(20);
const CHECK_UNWELL_LIFE: Duration = Duration::from_secs(3);
/// How long a seed that a plugin has decrypted is kept after its last use.
const SEED_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Most seeds that are kept. There is one for each start of a server and each change of the plugin's key.
const SEEDS_MAX: usize = 4_096;
/// Bytes of a seed.
const SEED_BYTES: usize = 32;

/// A plugin.
pub(super) struct Kms {
    config: KmsConfig,
    client: Client,
    state: ArcSwapOption<State>,
    /// Ciphers by what is stored of their seeds. Guards nothing else; held for look-ups only.
    seeds: Mutex<HashMap<Vec<u8>, Used>>,
    /// The last check; the lock makes those who ask at once wait for one answer.
    checked: tokio::sync::Mutex<Checked>,
    metrics: EncryptionMetrics,
    probe: Mutex<Option<JoinHandle<()>>>,
}

/// A cipher, and when it was used last.
type Used = (Arc<Cipher>, Instant);

/// What writes use.
struct State {
    cipher: Arc<Cipher>,
    /// What is stored with every value, without the value.
    object: EncryptedObject,
    expires: Instant,
}

#[derive(Default)]
struct Checked {
    last: Option<(Instant, Result<(), String>)>,
    /// The version of the API that the plugin named first.
    version: String,
}

impl Drop for Kms {
    fn drop(&mut self) {
        if let Ok(mut probe) = self.probe.lock()
            && let Some(probe) = probe.take()
        {
            probe.abort();
        }
    }
}

impl Kms {
    /// A plugin, asked once; from then on it is asked in the background.
    pub(super) async fn start(
        config: KmsConfig,
        metrics: EncryptionMetrics,
    ) -> Result<Arc<Self>, String> {
        let client = Client::new(&config.endpoint, config.timeout).map_err(|why| {
            format!(
                "could not configure KMSv2-Plugin's probe {:?}, error: {why}",
                config.name
            )
        })?;
        let kms = Arc::new(Self {
            config,
            client,
            state: ArcSwapOption::empty(),
            seeds: Mutex::new(HashMap::new()),
            checked: tokio::sync::Mutex::new(Checked::default()),
            metrics,
            probe: Mutex::new(None),
        });
        let mut well = kms.check_and_tell().await;
        let weak = Arc::downgrade(&kms);
        let probe = tokio::spawn(async move {
            loop {
                tokio::time::sleep(if well { WELL_PERIOD } else { UNWELL_PERIOD }).await;
                let Some(kms) = weak.upgrade() else { return };
                well = kms.check_and_tell().await;
            }
        });
        *kms.probe.lock().expect("no panic under the lock") = Some(probe);
        Ok(kms)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    async fn check_and_tell(&self) -> bool {
        let outcome = self.check().await;
        if let Err(error) = &outcome {
            let name = &self.config.name;
            tracing::error!(name, error, "a plugin of a key management service failed");
        }
        outcome.is_ok()
    }

    /// Whether the plugin is well; makes a new seed when the plugin's key is another one.
    pub(super) async fn check(&self) -> Result<(), String> {
        let mut checked = self.checked.lock().await;
        if let Some((at, outcome)) = &checked.last {
            let life = match outcome {
                Ok(()) => CHECK_WELL_LIFE,
                Err(_) => CHECK_UNWELL_LIFE,
            };
            if at.elapsed() < life {
                return outcome.clone();
            }
        }
        let outcome = self.ask(&mut checked.version).await;
        checked.last = Some((Instant::now(), outcome.clone()));
        outcome
    }

    async fn ask(&self, version: &mut String) -> Result<(), String> {
        let name = &self.config.name;
        let status = self.timed("Status", self.client.status()).await;
        let status = status.map_err(|failure| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {name}, error: {}",
                failure.text
            )
        })?;
        let mut errors = check_status(&status, version);
        match validate_key_id(&status.key_id) {
            Err(why) => {
                self.metrics.envelope.invalid(name, &status.key_id);
                errors.push(format!(
                    "got invalid KMSv2 KeyID hash {:?}: {why}",
                    hash(&status.key_id)
                ));
            }
            Ok(()) => {
                self.metrics.envelope.told(name, &status.key_id);
                errors.extend(self.rotate(&status.key_id).await.err());
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "kmsv2 Provider {name} is not healthy, error: {}",
                aggregate(&errors)
            )),
        }
    }

    /// What a plugin answers, and how long that takes.
    async fn timed<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let began = std::time::Instant::now();
        let outcome = call.await;
        let method = format!("/v2.KeyManagementService/{method}");
        let envelope = &self.metrics.envelope;
        envelope.asked(&self.config.name, &method, began.elapsed(), &outcome);
        outcome
    }

    /// Lets the state live on when it is of the plugin's key, or makes another.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Counted from before the plugin is asked: the bound is the worst case.
        let expires = Instant::now() + STATE_LIFE;
        if let Some(state) = self.state.load_full()
            && state.object.key_id == key_id
        {
            self.state.store(Some(Arc::new(State {
                cipher: state.cipher.clone(),
                object: state.object.clone(),
                expires,
            })));
            return Ok(());
        }
        let (cipher, object) = self.generate().await.map_err(|why| {
            format!(
                "failed to rotate DEK, error: {why}, statusKeyIDHash={:?}",
                hash(key_id)
            )
        })?;
        if object.key_id != key_id {
            return Err(format!(
                "failed to rotate DEK, statusKeyIDHash={:?}, encryptKeyIDHash={:?}",
                hash(key_id),
                hash(&object.key_id)
            ));
        }
        self.remember(cache_key(&object), cipher.clone());
        self.state.store(Some(Arc::new(State {
            cipher,
            object,
            expires,
        })));
        Ok(())
    }

    async fn generate(&self) -> Result<(Arc<Cipher>, EncryptedObject), String> {
        let began = std::time::Instant::now();
        let seed = random::<SEED_BYTES>();
        self.metrics.key_generated(began, seed.is_ok());
        let seed = seed.map_err(|failure| failure.text)?;
        let cipher = Arc::new(Cipher::seed(&seed)?);
        let request = EncryptRequest {
            plaintext: seed.to_vec(),
            uid: uid(),
        };
        let response = self.timed("Encrypt", self.client.encrypt(request)).await;
        let response = response
            .map_err(|failure| format!("failed to encrypt DEK, error: {}", failure.text))?;
        let object = EncryptedObject {
            // Anything, so that what the plugin answered is checked by the same rules as what is stored.
            encrypted_data: vec![0],
            key_id: response.key_id,
            encrypted_source: response.ciphertext,
            annotations: response.annotations,
            source_type: SOURCE_SEED,
        };
        object.validate()?;
        Ok((cipher, object))
    }

    /// What is stored for a value, behind the provider's prefix.
    pub(super) fn seal(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, Failure> {
        let state = self.state.load_full();
        let state = state.ok_or_else(|| Failure::of("got unexpected nil transformer"))?;
        if Instant::now() > state.expires {
            return Err(Failure::of(format!(
                "encryptedDEKSource with keyID hash {:?} expired",
                hash(&state.object.key_id)
            )));
        }
        let mut object = state.object.clone();
        object.encrypted_data = state.cipher.seal(key, value)?;
        let envelope = &self.metrics.envelope;
        envelope.used(Way::To, &self.config.name, &object.key_id);
        Ok(object.encode_to_vec())
    }

    /// The value, and whether a write would use another key.
    pub(super) async fn open(&self, key: &str, stored: &[u8]) -> Result<(Vec<u8>, bool), Failure> {
        let object = EncryptedObject::decode(stored)
            .map_err(|error| Failure::of(format!("proto: {error}")))?;
        object.validate().map_err(Failure::of)?;
        let cipher = self.cipher(&object).await?;
        let envelope = &self.metrics.envelope;
        envelope.used(Way::From, &self.config.name, &object.key_id);
        let value = cipher.open(key, &object.encrypted_data)?;
        let stale = self.state.load_full().is_none_or(|state| {
            state.object.key_id != object.key_id || state.object.source_type != object.source_type
        });
        Ok((value, stale))
    }

    async fn cipher(&self, object: &EncryptedObject) -> Result<Arc<Cipher>, Failure> {
        let cache_key = cache_key(object);
        if let Some(cipher) = self.known(&cache_key) {
            return Ok(cipher);
        }
        self.metrics.cache_miss();
        let request = DecryptRequest {
            ciphertext: object.encrypted_source.clone(),
            uid: uid(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let answer = self.timed("Decrypt", self.client.decrypt(request)).await;
        let answer = answer.map_err(|failure| Failure {
            text: format!("failed to decrypt DEK, error: {}", failure.text),
            code: failure.code,
        })?;
        let cipher = match object.source_type {
            SOURCE_SEED => Cipher::seed(&answer.plaintext),
            _ => Cipher::gcm(&answer.plaintext),
        };
        let cipher = Arc::new(cipher.map_err(Failure::of)?);
        self.remember(cache_key, cipher.clone());
        Ok(cipher)
    }

    fn known(&self, cache_key: &[u8]) -> Option<Arc<Cipher>> {
        let mut seeds = self.seeds.lock().expect("no panic under the lock");
        let (cipher, used) = seeds.get_mut(cache_key)?;
        *used = Instant::now();
        Some(cipher.clone())
    }

    fn remember(&self, cache_key: Vec<u8>, cipher: Arc<Cipher>) {
        let mut seeds = self.seeds.lock().expect("no panic under the lock");
        seeds.retain(|_, (_, used)| used.elapsed() < SEED_LIFE);
        if seeds.len() >= SEEDS_MAX {
            let oldest = seeds.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| seeds.remove(&key));
        }
        seeds.insert(cache_key, (cipher, Instant::now()));
        self.metrics.envelope.seeds(&self.config.name, seeds.len());
    }
}

/// What is wrong with a plugin's status, its key apart.
fn check_status(status: &StatusResponse, version: &mut String) -> Vec<String> {
    let mut errors = Vec::new();
    if status.healthz != "ok" {
        let healthz = &status.healthz;
        errors.push(format!("got unexpected healthz status: {healthz}"));
    }
    let told = &status.version;
    if !matches!(told.as_str(), "v2" | "v2beta1") {
        errors.push(format!("expected KMSv2 API version v2, got {told}"));
        return errors;
    }
    if version.is_empty() {
        version.clone_from(told);
    }
    if version != told {
        errors.push(format!(
            "KMSv2 API version should not change after the initial status response version {version}, got {told}"
        ));
    }
    errors
}

/// Everything that is stored of a value but the value.
fn cache_key(object: &EncryptedObject) -> Vec<u8> {
    let without = EncryptedObject {
        encrypted_data: Vec::new(),
        ..object.clone()
    };
    without.encode_to_vec()
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// An id of a key as it is told: hashed.
pub(super) fn hash(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key_id.as_bytes());
    let digits = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}
