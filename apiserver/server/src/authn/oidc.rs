//! Tokens of other issuers: checked by the keys that the issuer publishes, and read as its mappings say.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::config::{ClaimRule, Jwt, Mappings, Prefixed};
use super::expressions::{Claims, Expressions};
use super::{AUTHENTICATED, User};
use crate::outbound;

/// How often an issuer is asked for its keys, at most: anybody may send tokens of keys that there are not.
const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// How long an issuer has for an answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 100;
/// Clocks may disagree by this much about when a token begins to be good.
const BEGIN_LEEWAY_SECONDS: i64 = 300;
/// Algorithms by which an issuer proves itself without a shared secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The issuers of a configuration.
#[derive(Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

struct Issuer {
    config: Jwt,
    expressions: Expressions,
    keys: ArcSwapOption<JwkSet>,
    // When the keys were last asked for. Held while they are fetched, so that one request does it for all.
    fetched: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuers {
    /// The issuers of a configuration; those that have not changed keep their keys.
    ///
    /// # Errors
    /// When an expression makes no sense.
    pub fn new(configs: &[Jwt], before: &Self) -> Result<Self, String> {
        let issuer = |config: &Jwt| {
            let known = before.0.iter().find(|issuer| issuer.config == *config);
            if let Some(known) = known {
                return Ok(known.clone());
            }
            Ok(Arc::new(Issuer {
                expressions: Expressions::compile(config)?,
                config: config.clone(),
                keys: ArcSwapOption::empty(),
                fetched: Mutex::default(),
            }))
        };
        Ok(Self(
            configs.iter().map(issuer).collect::<Result<_, String>>()?,
        ))
    }

    /// The user of a token, if one of the issuers has made it for us, and the audiences that it is good for.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Option<(User, Vec<String>)> {
        if self.0.is_empty() {
            return None;
        }
        // Who claims to have made it decides whose keys are tried; the signature is checked with those.
        let claimed = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token).ok()?;
        let url = claimed.claims.get("iss")?.as_str()?;
        let issuer = self
            .0
            .iter()
            .find(|issuer| issuer.config.issuer.url == url)?;
        let claims = issuer.verify(token, &claimed.header).await?;
        match issuer.user(&claims, audiences) {
            Ok(found) => Some(found),
            Err(why) => {
                tracing::debug!(issuer = url, why, "a token is refused");
                None
            }
        }
    }
}

impl Issuer {
    async fn verify(&self, token: &str, header: &Header) -> Option<Map<String, Value>> {
        if !ALGORITHMS.contains(&header.alg) {
            return None;
        }
        if let Some(claims) = self.try_keys(token, header) {
            return Some(claims);
        }
        // The issuer may have a new key.
        self.fetch().await;
        self.try_keys(token, header)
    }

    fn try_keys(&self, token: &str, header: &Header) -> Option<Map<String, Value>> {
        let keys = self.keys.load_full()?;
        let named = |key: &&jsonwebtoken::jwk::Jwk| match &header.kid {
            Some(id) => key.common.key_id.as_ref().is_none_or(|known| known == id),
            None => true,
        };
        let mut validation = Validation::new(header.alg);
        // Audiences and times are checked below, in Kubernetes' way.
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        keys.keys
            .iter()
            .take(KEYS_MAX)
            .filter(named)
            .find_map(|key| {
                let key = DecodingKey::from_jwk(key).ok()?;
                let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation);
                decoded.ok().map(|data| data.claims)
            })
    }

    async fn fetch(&self) {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return;
        }
        let outcome = tokio::time::timeout(FETCH_TIMEOUT, self.fetch_keys()).await;
        match outcome.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}"))) {
            Ok(keys) => self.keys.store(Some(Arc::new(keys))),
            Err(error) => {
                tracing::warn!(
                    issuer = self.config.issuer.url,
                    error,
                    "the keys of an issuer cannot be fetched"
                );
            }
        }
        *fetched = Some(Instant::now());
    }

    async fn fetch_keys(&self) -> Result<JwkSet, String> {
        let issuer = &self.config.issuer;
        let default = || {
            let base = issuer.url.trim_end_matches('/');
            format!("{base}/.well-known/openid-configuration")
        };
        let place = issuer.discovery_url.clone().unwrap_or_else(default);
        let ca = issuer.certificate_authority.as_deref();
        let discovery = outbound::get(&place, ca).await?;
        let discovery: Discovery =
            serde_json::from_slice(&discovery).map_err(|e| format!("{place}: {e}"))?;
        if discovery.issuer != issuer.url {
            return Err(format!(
                "{place} is the configuration of {:?}",
                discovery.issuer
            ));
        }
        let keys = outbound::get(&discovery.jwks_uri, ca).await?;
        serde_json::from_slice(&keys).map_err(|e| format!("{}: {e}", discovery.jwks_uri))
    }

    fn user(
        &self,
        claims: &Map<String, Value>,
        wanted: &[String],
    ) -> Result<(User, Vec<String>), String> {
        let config = &self.config;
        check_times(claims, jiff::Timestamp::now().as_second())?;
        let named = texts(claims.get("aud")).ok_or("aud is not text")?;
        let ours = &config.issuer.audiences;
        if !named.iter().any(|audience| ours.contains(audience)) {
            return Err("the token is for somebody else".to_owned());
        }
        // Who asks about audiences is told which of them the token is for.
        let good_for: Vec<String> = wanted
            .iter()
            .filter(|a| named.contains(a))
            .cloned()
            .collect();
        if !wanted.is_empty() && good_for.is_empty() {
            return Err("the token is not for the audiences asked about".to_owned());
        }
        let by_claim = |rule: &&ClaimRule| !rule.claim.is_empty();
        for rule in config.claim_validation_rules.iter().filter(by_claim) {
            let found = claims.get(&rule.claim);
            if found.and_then(Value::as_str) != Some(&rule.required_value) {
                return Err(format!(
                    "claim {:?} is not {:?}",
                    rule.claim, rule.required_value
                ));
            }
        }
        let mut user = user(&config.claim_mappings, claims)?;
        let claims = Claims::new(claims);
        self.expressions.check_claims(&claims)?;
        self.expressions.complete(&mut user, &claims)?;
        self.expressions.check_user(&user)?;
        Ok((user, good_for))
    }
}

fn check_times(claims: &Map<String, Value>, now: i64) -> Result<(), String> {
    let seconds = |name: &str| match claims.get(name) {
        None => Ok(None),
        // Whole seconds, or a fraction that is cut off.
        Some(value) => match (value.as_i64(), value.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            (None, Some(seconds)) => Ok(Some(seconds as i64)),
            _ => Err(format!("{name} is no time")),
        },
    };
    let ends = seconds("exp")?.ok_or("the token never ends")?;
    if ends <= now {
        return Err("the token has ended".to_owned());
    }
    match seconds("nbf")? {
        Some(begins) if begins > now + BEGIN_LEEWAY_SECONDS => {
            Err("the token is not good yet".to_owned())
        }
        _ => Ok(()),
    }
}

/// A text, or a list of texts.
fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

fn user(mappings: &Mappings, claims: &Map<String, Value>) -> Result<User, String> {
    let prefixed = |mapping: &Prefixed, text: &str| {
        format!("{}{text}", mapping.prefix.as_deref().unwrap_or(""))
    };
    let text = |claim: &str| match claims.get(claim).and_then(Value::as_str) {
        Some(text) => Ok(text),
        None => Err(format!("claim {claim:?} is not there, or no text")),
    };
    let username = &mappings.username;
    if username.claim == "email"
        && claims
            .get("email_verified")
            .is_some_and(|verified| verified != &Value::Bool(true))
    {
        return Err("the email is not verified".to_owned());
    }
    let mut user = User::default();
    if !username.claim.is_empty() {
        user.name = prefixed(username, text(&username.claim)?);
    }
    let claim = &mappings.groups.claim;
    if !claim.is_empty() && claims.contains_key(claim) {
        let groups =
            texts(claims.get(claim)).ok_or(format!("claim {claim:?} is no list of texts"))?;
        user.groups = groups
            .iter()
            .map(|group| prefixed(&mappings.groups, group))
            .collect();
    }
    user.groups.push(AUTHENTICATED.to_owned());
    if !mappings.uid.claim.is_empty() {
        text(&mappings.uid.claim)?.clone_into(&mut user.uid);
    }
    if let Some(id) = claims
        .get("jti")
        .and_then(Value::as_str)
        .filter(|id| !id.is_empty())
    {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        user.extra.insert(key, vec![format!("JTI={id}")]);
    }
    Ok(user)
}
