//! Tokens of ServiceAccounts: signed, bound to the account and (if asked) to a pod, node or secret, and good for a time.

use corral_api::field::go_quote;
use corral_api::meta::ObjectMeta;
use corral_api::status::Status;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::issuer::{PublicKey, SigningKey};
use super::{Found, Known, User, legacy};
use crate::api::Api;
use crate::given::Given;
use crate::pki::Pki;

/// Who issues the tokens, as other systems name this cluster, unless an administrator says otherwise.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longest life of a token.
pub const LIFE_SECONDS_MAX: i64 = 1 << 32;
/// Shortest life of a token.
pub const LIFE_SECONDS_MIN: i64 = 600;
/// Clocks may disagree by this much; what a token is bound to counts this long after it should be gone.
const LEEWAY_SECONDS: i64 = 60;
/// The life by which tokens are known that were asked for by admission for pods that may not read them again in time, as
/// programs did when tokens had no end.
const EXTENDED_ASKED_SECONDS: i64 = 3607;
/// How long such tokens are good for.
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

/// An object that a token dies with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Bound {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// What a token is bound to besides its account: a pod, a node or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Binding {
    /// The pod that it dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The node that it dies with; beside a pod, that on which the pod is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    /// The secret that it dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Bound,
    #[serde(flatten)]
    binding: Binding,
    /// After this who uses the token has read it too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(default, deserialize_with = "one_or_many")]
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

/// Audiences of a token: a text, or a list of texts (RFC 7519, 4.1.3).
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Texts::deserialize(from)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    })
}

/// What a token is for.
#[derive(Debug, Clone)]
pub struct Grant<'a> {
    /// Namespace of the account.
    pub namespace: &'a str,
    /// The account.
    pub account: Bound,
    /// What it is bound to besides.
    pub binding: Binding,
    /// Who shall accept it.
    pub audiences: Vec<String>,
    /// Seconds of its life.
    pub seconds: i64,
}

/// A token that was made.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// When it ends, as its owner is told.
    pub expires: Timestamp,
    /// What it is known by.
    pub id: String,
}

/// Makes and checks tokens.
pub struct Tokens {
    signing: SigningKey,
    /// All keys that are believed.
    public: Vec<PublicKey>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    extends: bool,
}

impl Tokens {
    /// With the key of a cluster, or those that are given.
    ///
    /// # Errors
    /// When a key makes no sense, or nobody issues them.
    pub fn new(pki: &Pki, given: &Given) -> Result<Self, String> {
        let signing = given.signing_key(&pki.token_key())?;
        let mut public = given.checking_keys()?;
        if !public.iter().any(|key| key.id == signing.public.id) {
            public.insert(0, signing.public.clone());
        }
        let issuers = given.issuers.clone();
        if issuers.iter().all(String::is_empty) {
            return Err("tokens of ServiceAccounts need an issuer".to_owned());
        }
        let audiences = match given.audiences.is_empty() {
            true => issuers.clone(),
            false => given.audiences.clone(),
        };
        Ok(Self {
            signing,
            public,
            issuers,
            audiences,
            extends: given.extend_expiration,
        })
    }

    /// Who issues the tokens.
    pub fn issuer(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// Whom tokens for the API name: what is meant by those who name nobody.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The keys by which others check the tokens.
    pub fn public_keys(&self) -> &[PublicKey] {
        &self.public
    }

    /// Makes a token.
    ///
    /// # Errors
    /// 500 when signing fails.
    pub fn issue(&self, grant: Grant<'_>, now: Timestamp) -> Result<Issued, Status> {
        let expires = now + jiff::SignedDuration::from_secs(grant.seconds);
        let is_for_api = grant.audiences.iter().all(|a| self.audiences.contains(a))
            && self.audiences.iter().all(|a| grant.audiences.contains(a));
        let lasts = self.extends
            && grant.binding.pod.is_some()
            && grant.seconds == EXTENDED_ASKED_SECONDS
            && is_for_api;
        let id = uuid::Uuid::new_v4().to_string();
        let claims = Claims {
            iss: self.issuer().to_owned(),
            sub: account_name(grant.namespace, &grant.account.name),
            aud: grant.audiences,
            exp: match lasts {
                true => now.as_second() + EXTENDED_SECONDS,
                false => expires.as_second(),
            },
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: id.clone(),
            kubernetes: Kubernetes {
                namespace: grant.namespace.to_owned(),
                serviceaccount: grant.account,
                binding: grant.binding,
                warnafter: lasts.then_some(expires.as_second()),
            },
        };
        let mut header = Header::new(self.signing.public.algorithm);
        header.typ = None;
        header.kid = Some(self.signing.public.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.signing.encoding)
            .map_err(|_| Status::internal("cannot sign the token"))?;
        Ok(Issued { token, expires, id })
    }

    /// Whom a token names, and for which of the audiences it is good.
    pub(super) async fn authenticate(&self, api: &Api, token: &str, audiences: &[String]) -> Found {
        // Who claims to have made it decides how it is read; the signature is checked before anything of it counts.
        let claimed = jsonwebtoken::dangerous::insecure_decode::<Map<String, Value>>(token);
        let Ok(claimed) = claimed else {
            return Ok(None);
        };
        let issuer = claimed.claims.get("iss").and_then(Value::as_str);
        let Some(issuer) = issuer else {
            return Ok(None);
        };
        let is_legacy = issuer == legacy::ISSUER;
        if !is_legacy && !self.issuers.iter().any(|known| known == issuer) {
            return Ok(None);
        }
        let signed_by = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384];
        if !signed_by.contains(&claimed.header.alg) {
            return Ok(None);
        }
        let Some(claims) = self.verified(token, &claimed.header) else {
            return Err("go-jose/go-jose: error in cryptographic primitive".to_owned());
        };
        let aud = claims
            .get("aud")
            .cloned()
            .unwrap_or_else(|| Value::Array(Vec::new()));
        let mut named = one_or_many(aud).unwrap_or_default();
        let names_nobody = named.is_empty();
        if names_nobody && is_legacy {
            named.extend(self.audiences.iter().cloned());
        }
        let wanted = match audiences {
            [] => &self.audiences,
            some => some,
        };
        let good_for: Vec<String> = wanted
            .iter()
            .filter(|a| named.contains(a))
            .cloned()
            .collect();
        if good_for.is_empty() {
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&named),
                quoted(wanted)
            ));
        }
        let found = match is_legacy {
            true => legacy::check(api, token, claims, names_nobody).await?,
            false => check(api, claims).await?,
        };
        let (user, notes) = found;
        Ok(Some(Known {
            user,
            audiences: good_for,
            notes,
        }))
    }

    /// The claims of a token that one of the keys has signed.
    fn verified(&self, token: &str, header: &Header) -> Option<Value> {
        let mut validation = Validation::new(header.alg);
        // Issuers, audiences and times are checked one by one, so that it can be told what is wrong.
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let fits = |key: &&PublicKey| key.algorithm == header.alg;
        let is_named = |key: &&PublicKey| header.kid.as_ref() == Some(&key.id);
        let named = self.public.iter().filter(is_named);
        let others = self.public.iter().filter(|key| !is_named(key));
        let mut keys = named.chain(others).filter(fits);
        keys.find_map(|key| {
            let decoded = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation);
            decoded.ok().map(|data| data.claims)
        })
    }
}

/// Texts as Go prints a list of them.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| go_quote(text)).collect();
    format!("[{}]", texts.join(" "))
}

/// The name of a ServiceAccount as a user.
pub(super) fn account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The user of a token that is signed, and what is noted of it.
async fn check(api: &Api, claims: Value) -> Result<(User, super::Notes), String> {
    let now = Timestamp::now().as_second();
    let invalid = |_| "service account token claims could not be validated".to_owned();
    let claims: Claims = serde_json::from_value(claims).map_err(invalid)?;
    if now > claims.exp.saturating_add(LEEWAY_SECONDS) {
        return Err("service account token has expired".to_owned());
    }
    if now < claims.nbf.saturating_sub(LEEWAY_SECONDS) {
        return Err("service account token is not valid yet".to_owned());
    }
    check_bound(api, &claims.kubernetes).await?;
    let mut notes = super::Notes::new();
    if let Some(after) = claims.kubernetes.warnafter.filter(|after| now > *after) {
        let told = format!(
            "subject: {}, seconds after warning threshold: {}",
            claims.sub,
            now - after
        );
        notes.push(("authentication.k8s.io/stale-token", told));
    }
    Ok((user(claims), notes))
}

fn user(claims: Claims) -> User {
    let kubernetes = claims.kubernetes;
    let mut user = User::service_account(&kubernetes.namespace, &kubernetes.serviceaccount.name);
    user.uid = kubernetes.serviceaccount.uid;
    let id = format!("JTI={}", claims.jti);
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".into(),
        vec![id],
    );
    let Binding { pod, node, .. } = kubernetes.binding;
    for (object, what) in [(pod, "pod"), (node, "node")] {
        if let Some(object) = object {
            let key = |suffix| format!("authentication.kubernetes.io/{what}-{suffix}");
            user.extra.insert(key("name"), vec![object.name]);
            user.extra.insert(key("uid"), vec![object.uid]);
        }
    }
    user
}

/// The account and what the token is bound to must still be those that it was made for.
async fn check_bound(api: &Api, bound: &Kubernetes) -> Result<(), String> {
    let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
    let live = lookup::<Live>(api, "serviceaccounts", namespace, &account.name).await;
    let live = live.ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    if live.is_gone() {
        return Err(format!(
            "service account {namespace}/{} has been deleted",
            account.name
        ));
    }
    if live.uid() != account.uid {
        return Err(format!(
            "service account UID ({}) does not match claim ({})",
            live.uid(),
            account.uid
        ));
    }
    let Binding { pod, node, secret } = &bound.binding;
    if let Some(secret) = secret {
        same(api, "secrets", namespace, secret, "secret").await?;
    }
    match (pod, node) {
        // Its node is told with it, and may be gone before it is.
        (Some(pod), _) => same(api, "pods", namespace, pod, "pod").await,
        (None, Some(node)) => same(api, "nodes", "", node, "node").await,
        (None, None) => Ok(()),
    }
}

/// All that is asked of an object that a token is bound to.
#[derive(Deserialize)]
pub(super) struct Live {
    pub(super) metadata: ObjectMeta,
}

impl Live {
    pub(super) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or("")
    }

    /// Whether it should have been gone for a while.
    fn is_gone(&self) -> bool {
        let oldest = Timestamp::now().as_second() - LEEWAY_SECONDS;
        let deleted = self.metadata.deletion_timestamp.as_ref();
        deleted.is_some_and(|at| at.0.as_second() < oldest)
    }
}

/// Whether an object is the one that is bound.
async fn same(
    api: &Api,
    plural: &str,
    namespace: &str,
    bound: &Bound,
    what: &str,
) -> Result<(), String> {
    let live = lookup::<Live>(api, plural, namespace, &bound.name).await;
    let Some(live) = live.filter(|live| !live.is_gone()) else {
        return Err("service account token has been invalidated".to_owned());
    };
    if live.uid() == bound.uid {
        return Ok(());
    }
    Err(format!(
        "{what} UID ({}) does not match service account {what} ref claim ({})",
        live.uid(),
        bound.uid
    ))
}

/// From the cache, or from the store if the cache does not know it yet.
pub(super) async fn lookup<T: serde::de::DeserializeOwned>(
    api: &Api,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Option<T> {
    let resource = api.core(plural);
    let key = resource.key(namespace, name);
    let json = match resource.cacher.peek(&key) {
        Some(stored) => stored.json.clone(),
        None => resource.fetch(&key).await.ok()??.value,
    };
    serde_json::from_slice(&json).ok()
}
