//! Who makes a request: whom a proxy names, a client certificate, a token of a ServiceAccount, for bootstrapping, of a file,
//! of another issuer or of a service, or nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use corral_api::status::Status;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::reload::Watched;
use crate::websocket;

pub mod bootstrap;
pub mod cache;
pub mod config;
mod expressions;
pub mod issuer;
pub mod legacy;
pub mod oidc;
pub mod request_header;
pub mod token_file;
pub mod tokens;
pub mod webhook;
pub mod x509;

use config::{Anonymous, AuthenticationConfiguration};
use oidc::Issuers;
use request_header::RequestHeader;
use token_file::TokenFile;
use tokens::Tokens;
use webhook::{Webhook, WebhookConfig};
use x509::{Peer, Signers};

/// Longest bearer token that is looked at.
const TOKEN_LENGTH_MAX: usize = 16 * 1024;

/// The group of everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everyone else.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Name.
    pub name: String,
    /// Uid, if there is one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More that authentication found out.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody with a name and groups, who has proved it.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        Self {
            name: name.to_owned(),
            groups,
            ..Default::default()
        }
    }

    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("system:serviceaccounts:{namespace}");
        Self::new(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &group],
        )
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Default::default()
        }
    }

    /// Whether the user is of a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is told of a token in the audit log: keys of annotations, and what they say.
pub type Notes = Vec<(&'static str, String)>;

/// Somebody whom a token names.
#[derive(Debug, Clone)]
pub struct Known {
    /// The user.
    pub user: User,
    /// For which of the audiences that were asked about the token is good.
    pub audiences: Vec<String>,
    /// What is noted of it.
    pub notes: Notes,
}

/// Whom a token names: nobody if it is somebody else's to say, or what is wrong with it.
type Found = Result<Option<Known>, String>;

/// Who is believed besides certificates of the cluster, ServiceAccounts and bootstrap tokens.
#[derive(Debug, Clone, Default)]
pub struct AuthnConfig {
    /// A file of tokens.
    pub token_file: Option<PathBuf>,
    /// A file of an `AuthenticationConfiguration`, read again when it changes.
    pub configuration: Option<PathBuf>,
    /// A service that knows tokens.
    pub webhook: Option<WebhookConfig>,
    /// Proxies that name users, and the file of their CA.
    pub request_header: Option<(PathBuf, RequestHeader)>,
    /// Whether requests without a name are served; the configuration may say so more finely.
    pub anonymous: Option<bool>,
    /// How often files are looked at.
    pub reload: Reload,
}

/// How often a file is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Reload(pub Duration);

impl Default for Reload {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

/// What an `AuthenticationConfiguration` says, and what is made of it.
struct Configured {
    config: AuthenticationConfiguration,
    issuers: Issuers,
}

/// Finds out who makes a request.
pub struct Authenticator {
    api: Arc<Api>,
    tokens: Arc<Tokens>,
    token_file: ArcSwap<TokenFile>,
    /// Where the tokens are read from.
    tokens_watched: Option<Watched>,
    webhook: Option<Webhook>,
    request_header: Option<RequestHeader>,
    /// Who may ask without a name where no configuration says so.
    anonymous: Anonymous,
    configuration_watched: Option<Watched>,
    configured: ArcSwap<Configured>,
}

impl Authenticator {
    /// An authenticator over the ServiceAccounts and Secrets of a server, and what an administrator adds.
    ///
    /// # Errors
    /// When a file makes no sense.
    pub async fn new(
        api: Arc<Api>,
        tokens: Arc<Tokens>,
        config: AuthnConfig,
    ) -> Result<Self, String> {
        let watch = |path: Option<PathBuf>, what: &str| {
            let read = |path: PathBuf| {
                let told = |error| format!("{what} {}: {error}", path.display());
                Watched::read(path.clone(), config.reload.0).map_err(told)
            };
            path.map(read).transpose()
        };
        let tokens_watched = watch(config.token_file, "token file")?;
        let configuration_watched = watch(config.configuration, "authentication configuration")?;
        let token_file = tokens_watched.as_ref().map(|watched| {
            let told = |e| format!("token file {}: {e}", watched.path().display());
            TokenFile::parse(watched.text()).map_err(told)
        });
        let webhook = match config.webhook {
            Some(webhook) => Some(Webhook::open(webhook).await?),
            None => None,
        };
        let anonymous = Anonymous::everywhere(config.anonymous != Some(false));
        let authenticator = Self {
            api,
            tokens,
            token_file: ArcSwap::from_pointee(token_file.transpose()?.unwrap_or_default()),
            tokens_watched,
            webhook,
            request_header: config.request_header.map(|(_, header)| header),
            configuration_watched,
            configured: ArcSwap::from_pointee(Configured {
                config: AuthenticationConfiguration::without_file(anonymous.clone()),
                issuers: Issuers::default(),
            }),
            anonymous,
        };
        if let Some(watched) = &authenticator.configuration_watched {
            let parsed = authenticator.configure(watched.text())?;
            if config.anonymous.is_some() && parsed {
                return Err(
                    "--anonymous-auth cannot be set beside anonymous in the authentication configuration"
                        .to_owned(),
                );
            }
        }
        Ok(authenticator)
    }

    /// Takes a configuration; answers whether it says who may ask without a name.
    fn configure(&self, text: &str) -> Result<bool, String> {
        let mut config = AuthenticationConfiguration::parse(text, self.tokens.issuer())
            .map_err(|e| format!("authentication configuration: {e}"))?;
        let before = self.configured.load();
        let says = config.anonymous.is_some();
        config
            .anonymous
            .get_or_insert_with(|| self.anonymous.clone());
        let issuers = Issuers::new(&config.jwt, &before.issuers)?;
        self.configured
            .store(Arc::new(Configured { config, issuers }));
        Ok(says)
    }

    /// The configuration in effect, as its file would write it.
    pub fn configuration(&self) -> serde_json::Value {
        // Nothing but texts and lists of them.
        serde_json::to_value(&self.configured.load().config).unwrap_or_default()
    }

    fn is_open(&self, path: &str) -> bool {
        let anonymous = &self.configured.load().config.anonymous;
        anonymous.as_ref().is_some_and(|open| open.allows(path))
    }

    /// Reads configuration and tokens again whenever their files have changed; what makes no sense changes nothing.
    pub async fn reload(&self, stop: CancellationToken) {
        tokio::join!(
            self.reload_tokens(stop.clone()),
            self.reload_configuration(stop)
        );
    }

    async fn reload_tokens(&self, stop: CancellationToken) {
        let Some(watched) = &self.tokens_watched else {
            return;
        };
        let mut changes = watched.changes(stop);
        while let Some(text) = changes.next().await {
            let read = TokenFile::parse(&text);
            changes.tell(read.map(|tokens| self.token_file.store(Arc::new(tokens))));
        }
    }

    async fn reload_configuration(&self, stop: CancellationToken) {
        let Some(watched) = &self.configuration_watched else {
            return;
        };
        let mut changes = watched.changes(stop);
        while let Some(text) = changes.next().await {
            changes.tell(self.configure(&text).map(|_| ()));
        }
    }

    /// Tokens, for those that make them.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The user of a request: whom a proxy names, else of the connection's certificate, else of its token, else nobody.
    ///
    /// # Errors
    /// 401 when a certificate, token or proxy is not good and nothing else is, or where nobody may ask without a name.
    pub async fn authenticate(
        &self,
        headers: &mut HeaderMap,
        (peer, signers): (&Peer, &Arc<Signers>),
        path: &str,
    ) -> Result<(User, Notes), Status> {
        let shown = peer.shown(signers).unwrap_or_default();
        let mut refused = shown.refused;
        if let (Some(proxy), Some(config)) = (&shown.proxy, &self.request_header) {
            match config.allows(proxy) {
                true => {
                    if let Some(user) = config.user(headers) {
                        config.strip(headers);
                        return Ok((user, Notes::new()));
                    }
                }
                false => refused = true,
            }
        }
        if let Some(user) = &shown.user {
            return Ok((user.clone(), Notes::new()));
        }
        let token = match bearer(headers) {
            Some(token) => Some(token.to_owned()),
            None => bearer_of_browser(headers).map_err(|()| Status::unauthorized())?,
        };
        if let Some(token) = token {
            let found = self.token(&token, &[]).await;
            let found = found.map(|known| (known.user, known.notes));
            return found.map_err(|_| Status::unauthorized());
        }
        match !refused && self.is_open(path) {
            true => Ok((User::anonymous(), Notes::new())),
            false => Err(Status::unauthorized()),
        }
    }

    /// The user of a token and the audiences it is good for, of those that are asked about or else the API's own.
    ///
    /// # Errors
    /// What is wrong with the token, as far as anybody can tell.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<Known, Vec<String>> {
        if token.is_empty() || token.len() > TOKEN_LENGTH_MAX {
            return Err(Vec::new());
        }
        let own = self.tokens.audiences();
        // Who knows nothing of audiences means the API.
        let of_api = || -> Vec<String> {
            let wanted = match audiences {
                [] => own,
                some => some,
            };
            wanted.iter().filter(|a| own.contains(a)).cloned().collect()
        };
        let for_api = |user: User| {
            let audiences = of_api();
            (!audiences.is_empty()).then_some(Known {
                user,
                audiences,
                notes: Notes::new(),
            })
        };
        let for_some = |(user, audiences): (User, Vec<String>)| Known {
            user,
            audiences: match audiences.is_empty() {
                true => own.to_vec(),
                false => audiences,
            },
            notes: Notes::new(),
        };
        let of_file = self.token_file.load().user(token).cloned();
        if let Some(known) = of_file.and_then(for_api) {
            return Ok(known);
        }
        let why = match self.tokens.authenticate(&self.api, token, audiences).await {
            Ok(Some(known)) => return Ok(known),
            Ok(None) => Vec::new(),
            Err(why) => vec![why],
        };
        if let Some(known) = bootstrap::authenticate(&self.api, token).and_then(for_api) {
            return Ok(known);
        }
        let configured = self.configured.load_full();
        if let Some(found) = configured.issuers.authenticate(token, audiences).await {
            return Ok(for_some(found));
        }
        let Some(webhook) = &self.webhook else {
            return Err(why);
        };
        let found = webhook.authenticate(token, audiences).await;
        found.map(for_some).ok_or(why)
    }
}

/// The token of a browser that opens a WebSocket: it can set no header but the protocols that it offers. What remains of
/// those is offered.
///
/// # Errors
/// When there are two, or one that cannot be read, or nothing remains: then nobody is believed.
fn bearer_of_browser(headers: &mut HeaderMap) -> Result<Option<String>, ()> {
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    if !websocket::is_wanted(headers) {
        return Ok(None);
    }
    let offered = websocket::offered(headers);
    let (tokens, rest): (Vec<&str>, Vec<&str>) = offered
        .iter()
        .partition(|protocol| protocol.starts_with(PREFIX));
    let token = match tokens.as_slice() {
        [] => return Ok(None),
        [token] if !rest.is_empty() => &token[PREFIX.len()..],
        _ => return Err(()),
    };
    let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| ())?;
    let token = String::from_utf8(token).map_err(|_| ())?;
    let rest = HeaderValue::from_str(&rest.join(", ")).map_err(|_| ())?;
    headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    Ok(Some(token))
}

/// The bearer token of a request. Other schemes and empty tokens are as good as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
