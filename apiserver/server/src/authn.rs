//! Who makes a request: client certificate, ServiceAccount token, bootstrap token, or nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::status::Status;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::api::Api;

pub mod bootstrap;
pub mod issuer;
pub mod tokens;
pub mod x509;

use tokens::Tokens;

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

/// Finds out who makes a request.
pub struct Authenticator {
    api: Arc<Api>,
    tokens: Arc<Tokens>,
}

impl Authenticator {
    /// An authenticator over the ServiceAccounts and Secrets of a server.
    pub fn new(api: Arc<Api>, tokens: Arc<Tokens>) -> Self {
        Self { api, tokens }
    }

    /// Tokens, for those that make them.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The user of a request: from its token, else from the connection's certificate, else nobody.
    ///
    /// # Errors
    /// 401 when a token is given that is not good.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&User>,
    ) -> Result<User, Status> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Ok(certificate.cloned().unwrap_or_else(User::anonymous));
        };
        let text = header.to_str().map_err(|_| Status::unauthorized())?;
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Status::unauthorized());
        }
        let token = token.trim();
        self.token(token, &[])
            .await
            .map(|(user, _)| user)
            .ok_or_else(Status::unauthorized)
    }

    /// The user of a token and the audiences it is good for; `None` if it is not good.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
        if token.is_empty() || token.len() > TOKEN_LENGTH_MAX {
            return None;
        }
        if let Some(user) = bootstrap::authenticate(&self.api, token) {
            return Some((user, Vec::new()));
        }
        self.tokens.authenticate(&self.api, token, audiences).await
    }
}
