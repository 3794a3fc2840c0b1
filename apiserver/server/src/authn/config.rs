//! `AuthenticationConfiguration`: issuers of tokens and who may ask without a name, from a file that may change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::expressions::Expressions;

/// Issuers of one configuration, as in kube-apiserver.
const ISSUERS_MAX: usize = 64;
const API_VERSIONS: [&str; 2] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
];

const KIND: &str = "AuthenticationConfiguration";

/// The configuration, as its file writes it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationConfiguration {
    api_version: String,
    kind: String,
    /// Issuers of tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt: Vec<Jwt>,
    /// Who may ask without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
}

/// Who may ask without a name.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// Whether anybody may.
    pub enabled: bool,
    /// Only for these paths; for all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<AnonymousCondition>,
}

/// A path that is open.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousCondition {
    /// The path, whole.
    pub path: String,
}

/// An issuer, and what its tokens mean.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// The issuer.
    pub issuer: Issuer,
    /// What tokens must claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_validation_rules: Vec<ClaimRule>,
    /// What claims mean.
    pub claim_mappings: Mappings,
    /// What must hold of users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_validation_rules: Vec<UserRule>,
}

/// An issuer.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// What tokens name in `iss`.
    pub url: String,
    /// Where its configuration is, if not below its address.
    #[serde(
        rename = "discoveryURL",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub discovery_url: Option<String>,
    /// Who signs the certificate of its service; those that the machine trusts if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// What tokens name in `aud`: one of these.
    #[serde(default)]
    pub audiences: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience_match_policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress_selector_type: Option<String>,
}

/// Something that a token must claim.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRule {
    /// The claim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub required_value: String,
    /// What must hold of the claims, instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expression: String,
    /// What is told where it does not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Something that must hold of a user.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UserRule {
    /// In CEL, of `user`.
    pub expression: String,
    /// What is told where it does not hold.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What claims mean.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mappings {
    /// The user's name.
    pub username: Prefixed,
    /// The user's groups.
    #[serde(default)]
    pub groups: Prefixed,
    /// The user's uid.
    #[serde(default)]
    pub uid: Plain,
    /// More about the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Extra>,
}

/// Something about a user.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extra {
    /// What it is called: a domain, a slash and a name.
    pub key: String,
    /// Its values, in CEL, of `claims`.
    pub value_expression: String,
}

/// A claim whose value gets a prefix.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefixed {
    /// The claim.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// The prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The value in CEL, of `claims`, instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expression: String,
}

/// A claim whose value is taken as it is.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plain {
    /// The claim.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// The value in CEL, of `claims`, instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expression: String,
}

impl Anonymous {
    /// On all paths, or on none.
    pub fn everywhere(enabled: bool) -> Self {
        Self {
            enabled,
            conditions: Vec::new(),
        }
    }

    /// Whether a path may be asked for without a name.
    pub fn allows(&self, path: &str) -> bool {
        let mut open = self.conditions.iter();
        self.enabled && (self.conditions.is_empty() || open.any(|open| open.path == path))
    }
}

impl AuthenticationConfiguration {
    /// What holds without a file.
    pub fn without_file(anonymous: Anonymous) -> Self {
        Self {
            api_version: API_VERSIONS[0].to_owned(),
            kind: KIND.to_owned(),
            jwt: Vec::new(),
            anonymous: Some(anonymous),
        }
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, own_issuer: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if !API_VERSIONS.contains(&config.api_version.as_str()) || config.kind != KIND {
            return Err(format!(
                "{} {} is no {} {KIND}",
                config.api_version, config.kind, API_VERSIONS[0]
            ));
        }
        if config.jwt.len() > ISSUERS_MAX {
            return Err(format!(
                "jwt: Too many: {}: must have at most {ISSUERS_MAX} items",
                config.jwt.len()
            ));
        }
        let mut urls = BTreeSet::new();
        for (index, jwt) in config.jwt.iter().enumerate() {
            let told = |error| format!("jwt[{index}].{error}");
            jwt.check().map_err(told)?;
            for url in [Some(&jwt.issuer.url), jwt.issuer.discovery_url.as_ref()] {
                if url.is_some_and(|url| !urls.insert(url)) {
                    return Err(told(format!("issuer.url: Duplicate value: {url:?}")));
                }
            }
            if jwt.issuer.url == own_issuer {
                let why = "URL must not overlap with disallowed issuers";
                return Err(told(format!(
                    "issuer.url: Invalid value: {own_issuer:?}: {why}"
                )));
            }
        }
        if let Some(anonymous) = &config.anonymous {
            if !anonymous.enabled && !anonymous.conditions.is_empty() {
                return Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".to_owned());
            }
            if let Some(bad) = anonymous
                .conditions
                .iter()
                .find(|c| !c.path.starts_with('/'))
            {
                return Err(format!(
                    "anonymous.conditions.path: Invalid value: {:?}: a path begins with /",
                    bad.path
                ));
            }
        }
        Ok(config)
    }
}

impl Jwt {
    fn check(&self) -> Result<(), String> {
        self.issuer.check().map_err(|e| format!("issuer.{e}"))?;
        for (index, rule) in self.claim_validation_rules.iter().enumerate() {
            let told = |why: &str| Err(format!("claimValidationRules[{index}]: {why}"));
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (true, true) => return told("Required value: claim or expression is required"),
                (false, false) => {
                    return told("Invalid value: claim and expression can't both be set");
                }
                (false, true) if !rule.message.is_empty() => {
                    return told("message: Invalid value: message can't be set when claim is set");
                }
                (true, false) if !rule.required_value.is_empty() => {
                    return told(
                        "requiredValue: Invalid value: requiredValue can't be set when expression is set",
                    );
                }
                _ => {}
            }
        }
        let mappings = &self.claim_mappings;
        mappings.username.check("username", true)?;
        mappings.groups.check("groups", false)?;
        if !mappings.uid.claim.is_empty() && !mappings.uid.expression.is_empty() {
            return Err(
                "claimMappings.uid: Invalid value: claim and expression can't both be set"
                    .to_owned(),
            );
        }
        let mut keys = BTreeSet::new();
        for (index, extra) in mappings.extra.iter().enumerate() {
            let told = |why| {
                Err(format!(
                    "claimMappings.extra[{index}].key: {why}: {:?}",
                    extra.key
                ))
            };
            let domain = extra.key.split_once('/').map(|(domain, _)| domain);
            let reserved =
                |of: &str| domain.is_some_and(|d| d == of || d.ends_with(&format!(".{of}")));
            if domain.is_none_or(str::is_empty) || extra.key != extra.key.to_lowercase() {
                return told("Invalid value, must be a lower-case path below a domain");
            }
            if reserved("k8s.io") || reserved("kubernetes.io") {
                return told(
                    "Invalid value, k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                );
            }
            if !keys.insert(&extra.key) {
                return told("Duplicate value");
            }
        }
        Expressions::compile(self).map(|_| ())
    }
}

impl Prefixed {
    fn check(&self, name: &str, required: bool) -> Result<(), String> {
        let told = |why: &str| Err(format!("claimMappings.{name}: {why}"));
        match (!self.claim.is_empty(), &self.prefix) {
            (true, _) if !self.expression.is_empty() => {
                told("Invalid value: claim and expression can't both be set")
            }
            (false, Some(_)) if !self.expression.is_empty() => {
                told("prefix: Invalid value: prefix can't be set when expression is set")
            }
            (false, None) if !self.expression.is_empty() => Ok(()),
            (false, _) if required => told("Required value: claim or expression is required"),
            (true, None) => told(
                "prefix: Required value: prefix is required when claim is set. It can be set to an empty string to \
                 disable prefixing",
            ),
            (false, Some(prefix)) if !prefix.is_empty() => {
                told("prefix: Invalid value: non-empty prefix requires a claim")
            }
            _ => Ok(()),
        }
    }
}

impl Issuer {
    fn check(&self) -> Result<(), String> {
        check_url(&self.url).map_err(|e| format!("url: {e}"))?;
        if let Some(url) = &self.discovery_url {
            check_url(url).map_err(|e| format!("discoveryURL: {e}"))?;
            if url.trim_end_matches('/') == self.url.trim_end_matches('/') {
                return Err(
                    "discoveryURL: Invalid value: discoveryURL must be different from URL"
                        .to_owned(),
                );
            }
        }
        let policy = self.audience_match_policy.as_deref().unwrap_or("");
        match (self.audiences.as_slice(), policy) {
            ([], _) => Err(
                "audiences: Required value: at least one jwt[0].issuer.audiences is required"
                    .to_owned(),
            ),
            (all, _) if all.iter().any(String::is_empty) => {
                Err("audiences: Required value: audience can't be empty".to_owned())
            }
            ([_], "" | "MatchAny") | ([_, _, ..], "MatchAny") => Ok(()),
            _ => Err(format!(
                "audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be MatchAny for multiple audiences"
            )),
        }?;
        match self.egress_selector_type.as_deref().unwrap_or("") {
            "" => Ok(()),
            other => Err(format!(
                "egressSelectorType: {other:?} is not supported: there is no egress selection"
            )),
        }
    }
}

fn check_url(text: &str) -> Result<(), String> {
    let invalid = |why: &str| Err(format!("Invalid value: {text:?}: {why}"));
    let Ok(uri) = text.parse::<http::Uri>() else {
        return invalid("URL cannot be read");
    };
    if uri.scheme_str() != Some("https") {
        return invalid("URL scheme must be https");
    }
    if uri
        .authority()
        .is_none_or(|authority| authority.as_str().contains('@'))
    {
        return invalid("URL must not contain a username or password");
    }
    if text.contains('?') {
        return invalid("URL must not contain a query");
    }
    if text.contains('#') {
        return invalid("URL must not contain a fragment");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";

    fn parse(rest: &str) -> Result<AuthenticationConfiguration, String> {
        AuthenticationConfiguration::parse(&format!("{HEAD}{rest}"), "https://own.example")
    }

    #[test]
    fn issuers_and_mappings_are_read() {
        let config = parse(
            r#"
jwt:
- issuer: {url: "https://a.example", audiences: [one, two], audienceMatchPolicy: MatchAny}
  claimValidationRules: [{claim: hd, requiredValue: example.com}]
  claimMappings: {username: {claim: sub, prefix: "a:"}, groups: {claim: groups, prefix: ""}, uid: {claim: oid}}
anonymous: {enabled: true, conditions: [{path: /livez}]}
"#,
        );
        let config = config.expect("valid");
        assert_eq!(
            config.jwt[0].claim_mappings.username.prefix.as_deref(),
            Some("a:")
        );
        assert!(parse("").expect("valid").jwt.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let jwt =
            |issuer: &str, rest: &str| parse(&format!("jwt: [{{issuer: {{{issuer}}}, {rest}}}]"));
        let good = r#"url: "https://a.example", audiences: [a]"#;
        let mapped = r#"claimMappings: {username: {claim: sub, prefix: ""}}"#;
        assert!(jwt(good, mapped).is_ok());
        for (issuer, rest) in [
            (r#"url: "http://a.example", audiences: [a]"#, mapped),
            (r#"url: "https://u:p@a.example", audiences: [a]"#, mapped),
            (r#"url: "https://a.example?x=y", audiences: [a]"#, mapped),
            (r#"url: "https://own.example", audiences: [a]"#, mapped),
            (r#"url: "https://a.example""#, mapped),
            (r#"url: "https://a.example", audiences: [a, b]"#, mapped),
            (good, "claimMappings: {username: {claim: sub}}"),
            (good, r#"claimMappings: {username: {prefix: ""}}"#),
            (
                good,
                "claimMappings: {username: {expression: 'claims.sub +'}}",
            ),
            (
                good,
                "claimMappings: {username: {expression: claims.email}}",
            ),
            (good, "claimMappings: {username: {expression: '1 + 1'}}"),
            (
                good,
                "claimMappings: {username: {expression: claims.sub, prefix: a}}",
            ),
            (
                good,
                r#"claimMappings: {username: {claim: sub, prefix: "", expression: claims.sub}}"#,
            ),
            (
                good,
                r#"claimMappings: {username: {claim: sub, prefix: ""}, extra: [{key: a, valueExpression: claims.a}]}"#,
            ),
            (
                good,
                r#"claimMappings: {username: {claim: sub, prefix: ""}}, userValidationRules: [{expression: user.typo}]"#,
            ),
            (
                good,
                r#"claimMappings: {username: {claim: sub, prefix: ""}}, typo: 1"#,
            ),
        ] {
            assert!(jwt(issuer, rest).is_err(), "{issuer} {rest}");
        }
        let twice =
            format!("jwt: [{{issuer: {{{good}}}, {mapped}}}, {{issuer: {{{good}}}, {mapped}}}]");
        assert!(
            parse(&twice)
                .expect_err("refused")
                .contains("Duplicate value")
        );
        assert!(parse("anonymous: {enabled: false, conditions: [{path: /a}]}").is_err());
    }
}
