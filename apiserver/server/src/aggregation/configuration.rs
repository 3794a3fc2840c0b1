//! What servers of others must know to believe this one: whose certificates name users, and which headers do.

use std::sync::Arc;
use std::time::Duration;

use corral_api::status::Status;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::api::Api;
use crate::authn::AuthnConfig;
use crate::bootstrap;
use crate::pki::Pki;
use crate::registry::{Ownership, Part};

/// The name in the certificate that this server shows to others.
pub const CLIENT_NAME: &str = "front-proxy-client";
const NAMESPACE: &str = "kube-system";
/// The ConfigMap.
pub const NAME: &str = "extension-apiserver-authentication";
/// The role of those who read it.
pub const READER: &str = "extension-apiserver-authentication-reader";

/// Makes the ConfigMap, or brings it up to date.
///
/// # Errors
/// When the store does not take it.
pub async fn ensure(
    api: &Api,
    pki: &Pki,
    client_ca: &str,
    authn: &AuthnConfig,
) -> Result<(), Status> {
    let data = data(pki, client_ca, authn);
    let made = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data});
    bootstrap::create(api, "", "configmaps", NAMESPACE, made).await?;
    let change = |live: &Value| {
        let mut next = live.clone();
        if let Some(metadata) = next["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        for (key, value) in data.as_object().into_iter().flatten() {
            next["data"][key] = value.clone();
        }
        Ok((next, Ownership::Update))
    };
    let cx = bootstrap::context(NAMESPACE);
    let maps = api.core("configmaps");
    maps.update(&cx, NAME, Part::Main, "", &change)
        .await
        .map(drop)
}

/// Pause before the next attempt after one that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Tries until the store takes it: what it keeps there may be unreadable, which is no reason not to serve.
pub async fn retry(
    shared: Arc<Shared>,
    client_ca: String,
    authn: AuthnConfig,
    stop: CancellationToken,
) {
    let mut told = String::new();
    loop {
        match ensure(&shared.api, &shared.pki, &client_ca, &authn).await {
            Ok(()) => return,
            Err(status) if status.message == told => {}
            Err(status) => {
                told = status.message;
                tracing::error!(
                    why = told,
                    "extensions of the API are not told whom to believe: {NAMESPACE}/{NAME} cannot be written"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }
}

fn data(pki: &Pki, client_ca: &str, authn: &AuthnConfig) -> Value {
    let mut authorities = pki.front_proxy_ca().to_owned();
    let mut names = vec![CLIENT_NAME.to_owned()];
    // A proxy in front of this server is one in front of the others, too.
    if let Some((path, header)) = &authn.request_header {
        match std::fs::read_to_string(path) {
            Ok(pem) => authorities.push_str(&pem),
            Err(error) => tracing::warn!(%error, "the CA of proxies is not told to others"),
        }
        match header.allowed_names.is_empty() {
            true => names.clear(),
            false => names.extend(header.allowed_names.iter().cloned()),
        }
    }
    json!({
        "client-ca-file": client_ca,
        "requestheader-allowed-names": json!(names).to_string(),
        "requestheader-client-ca-file": authorities,
        "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
        "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
        "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
    })
}
