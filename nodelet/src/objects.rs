//! The objects that a pod refers to, fetched from the API server when they are needed.

use std::collections::BTreeMap;

use corral_api::k8s::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec,
};
use corral_api::k8s::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::images::Credential;

/// Why a pod's configuration cannot be resolved. Its text is what the pod's status shows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object lacks a key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// Where the object is.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The node cannot do this.
    #[error("{0} is not supported by this node")]
    Unsupported(&'static str),
    /// The API server refused or does not answer.
    #[error("failed to sync cache: {0}")]
    Api(String),
    /// The disk failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of variables cannot be read.
    #[error("couldn't parse env file")]
    EnvFile(#[source] std::io::Error),
    /// A file of variables lacks one.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoVariable {
        /// The variable.
        key: String,
        /// The file, in its volume.
        path: String,
    },
    /// A hostPath is not what its type says.
    #[error("hostPath type check failed: {0}")]
    HostPath(String),
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let action = action.into();
        move |source| Error::Io { action, source }
    }
}

/// A service account token and when to replace it.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub token: String,
    /// When it is no longer valid.
    pub expires_at: jiff::Timestamp,
}

/// Reads objects of the API.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

impl Objects {
    /// Reads through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// A ConfigMap; `None` when it is optional and absent.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<ConfigMap>, Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        present(api.get_opt(name).await, "configmap", name, optional)
    }

    /// A Secret; `None` when it is optional and absent.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<Secret>, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        present(api.get_opt(name).await, "secret", name, optional)
    }

    /// A ConfigMap's entries that are text.
    pub async fn config_map_text(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, String>, Error> {
        let found = self.config_map(namespace, name, optional).await?;
        Ok(found.and_then(|object| object.data).unwrap_or_default())
    }

    /// A Secret's entries that are text.
    pub async fn secret_text(
        &self,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, String>, Error> {
        let found = self.secret(namespace, name, optional).await?;
        let data = found.and_then(|object| object.data).unwrap_or_default();
        Ok(data
            .into_iter()
            .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
            .collect())
    }

    /// A token of the pod's service account, bound to the pod.
    pub async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
    ) -> Result<Token, Error> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(
                    audience
                        .map(|audience| vec![audience.to_owned()])
                        .unwrap_or_default(),
                ),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer: TokenRequest = api
            .create_subresource("token", &account, &PostParams::default(), &request)
            .await
            .map_err(|error| Error::Api(error.to_string()))?;
        let status = answer
            .status
            .and_then(|status| Some((status.token?, status.expiration_timestamp?.0)));
        let (token, expires_at) =
            status.ok_or_else(|| Error::Api("the token request has no token".into()))?;
        Ok(Token { token, expires_at })
    }

    /// The credentials that a pod may pull with. Secrets that do not exist are passed over: the image may be public.
    pub async fn pull_credentials(&self, pod: &Pod) -> Vec<Credential> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let references = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.image_pull_secrets.clone())
            .unwrap_or_default();
        let mut credentials = Vec::new();
        for reference in references {
            if let Ok(Some(secret)) = self.secret(&namespace, &reference.name, true).await {
                credentials.extend(docker_config(&secret));
            }
        }
        credentials
    }
}

fn present<K>(
    result: Result<Option<K>, kube::Error>,
    kind: &'static str,
    name: &str,
    optional: bool,
) -> Result<Option<K>, Error> {
    match result {
        Ok(Some(object)) => Ok(Some(object)),
        Ok(None) if optional => Ok(None),
        Ok(None) => Err(Error::NotFound {
            kind,
            name: name.to_owned(),
        }),
        Err(error) => Err(Error::Api(error.to_string())),
    }
}

/// The credentials in a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` secret.
fn docker_config(secret: &Secret) -> Vec<Credential> {
    use base64::Engine;
    let data = secret.data.clone().unwrap_or_default();
    let parsed =
        |key: &str| -> Option<serde_json::Value> { serde_json::from_slice(&data.get(key)?.0).ok() };
    let entries = parsed(".dockerconfigjson")
        .map(|config| config["auths"].clone())
        .or_else(|| parsed(".dockercfg"));
    let entries = entries
        .and_then(|entries| entries.as_object().cloned())
        .unwrap_or_default();
    let decode = |text: &str| {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()?;
        let (user, password) = String::from_utf8(bytes)
            .ok()?
            .split_once(':')
            .map(|(u, p)| (u.to_owned(), p.to_owned()))?;
        Some((user, password))
    };
    entries
        .into_iter()
        .filter_map(|(registry, entry)| {
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let plain = text("username").zip(text("password"));
            let (username, password) = plain.or_else(|| decode(entry["auth"].as_str()?))?;
            Some(Credential {
                registry,
                username,
                password,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configurations_give_credentials() {
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockerconfigjson": base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD,
                r#"{"auths":{"r.example":{"auth":"dTpwOnE="},"s.example":{"username":"a","password":"b"}}}"#,
            )}
        }))
        .expect("a secret");
        let credentials = docker_config(&secret);
        assert_eq!(
            (
                credentials[0].username.as_str(),
                credentials[0].password.as_str()
            ),
            ("u", "p:q")
        );
        assert_eq!(credentials[1].registry, "s.example");
    }
}
