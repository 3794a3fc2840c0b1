//! Tokens of ServiceAccounts: signed, bound to the account and (if asked) to a pod, node or secret, and good for a time.

use corral_api::meta::ObjectMeta;
use corral_api::status::Status;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::User;
use super::issuer::PublicKey;
use crate::api::Api;
use crate::pki::Pki;

/// Who issues the tokens, as other systems name this cluster, unless an administrator says otherwise.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longest life of a token.
pub const LIFE_SECONDS_MAX: i64 = 1 << 32;
/// Shortest life of a token.
pub const LIFE_SECONDS_MIN: i64 = 600;
/// Clocks may disagree by this much.
const LEEWAY_SECONDS: u64 = 10;

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
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    nbf: i64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
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

/// Makes and checks tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    public: PublicKey,
    issuer: String,
}

impl Tokens {
    /// With the key of a cluster, in the name of an issuer.
    ///
    /// # Errors
    /// When the key makes no sense.
    pub fn new(pki: &Pki, issuer: String) -> Result<Self, jsonwebtoken::errors::Error> {
        let public = pki.token_public_key();
        let no_key = || jsonwebtoken::errors::ErrorKind::InvalidKeyFormat;
        Ok(Self {
            encoding: EncodingKey::from_ec_pem(pki.token_key().as_bytes())?,
            decoding: DecodingKey::from_ec_pem(public.as_bytes())?,
            public: PublicKey::of_pem(&public).ok_or_else(no_key)?,
            issuer,
        })
    }

    /// Who issues the tokens: what is meant by them unless somebody says otherwise.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key by which others check the tokens.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Makes a token, and tells when it ends.
    ///
    /// # Errors
    /// 500 when signing fails.
    pub fn issue(&self, grant: Grant<'_>, now: Timestamp) -> Result<(String, Timestamp), Status> {
        let expires = now + jiff::SignedDuration::from_secs(grant.seconds);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                grant.namespace, grant.account.name
            ),
            aud: grant.audiences,
            exp: expires.as_second(),
            iat: now.as_second(),
            nbf: now.as_second(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: grant.namespace.to_owned(),
                serviceaccount: grant.account,
                binding: grant.binding,
            },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.public.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding)
            .map_err(|_| Status::internal("cannot sign the token"))?;
        Ok((token, expires))
    }

    /// Whom a token names, and for which of the audiences it is good.
    pub(super) async fn authenticate(
        &self,
        api: &Api,
        token: &str,
        audiences: &[String],
    ) -> Option<(User, Vec<String>)> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        // Checked below: the API itself is meant unless somebody asks about others.
        validation.validate_aud = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .ok()?
            .claims;
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() {
            &own
        } else {
            audiences
        };
        let good_for: Vec<String> = claims
            .aud
            .iter()
            .filter(|a| wanted.contains(a))
            .cloned()
            .collect();
        if good_for.is_empty() {
            return None;
        }
        check_bound(api, &claims.kubernetes).await?;
        Some((user(claims), good_for))
    }
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
async fn check_bound(api: &Api, bound: &Kubernetes) -> Option<()> {
    let namespace = &bound.namespace;
    same(api, "serviceaccounts", namespace, &bound.serviceaccount).await?;
    let Binding { pod, node, secret } = &bound.binding;
    if let Some(secret) = secret {
        same(api, "secrets", namespace, secret).await?;
    }
    match (pod, node) {
        // Its node is told with it, and may be gone before it is.
        (Some(pod), _) => same(api, "pods", namespace, pod).await,
        (None, Some(node)) => same(api, "nodes", "", node).await,
        (None, None) => Some(()),
    }
}

/// Whether an object is the one that is bound.
async fn same(api: &Api, plural: &str, namespace: &str, bound: &Bound) -> Option<()> {
    /// All that is asked of it.
    #[derive(Deserialize)]
    struct Live {
        metadata: ObjectMeta,
    }
    let live: Live = lookup(api, plural, namespace, &bound.name).await?;
    (live.metadata.uid.as_deref() == Some(&bound.uid)).then_some(())
}

/// From the cache, or from the store if the cache does not know it yet.
async fn lookup<T: serde::de::DeserializeOwned>(
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
