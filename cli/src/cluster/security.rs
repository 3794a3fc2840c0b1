//! Who may do what, and what is recorded of it: flags named as kube-apiserver names them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use corral_server::audit::AuditConfig;
use corral_server::audit::log::{LogConfig, SIZE_MEGABYTES};
use corral_server::audit::webhook::{Throttle, WebhookConfig};
use corral_server::authn::request_header::RequestHeader;
use corral_server::authn::tokens;
use corral_server::authn::webhook::WebhookConfig as TokenWebhook;
use corral_server::authn::{AuthnConfig, Reload};
use corral_server::authz::AuthzConfig;
use corral_server::authz::config::{
    AuthorizerConfig, ConnectionInfo, FailurePolicy, Mode, WebhookConfig as AuthorizationWebhook,
};
use corral_server::duration;
use corral_server::given::Given;

/// Bytes of a megabyte, as the audit log counts.
const MEGABYTE: u64 = 1024 * 1024;
/// How long a service that decides has for an answer, where it is named by flags.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// What becomes of requests whose events cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AuditLogMode {
    Blocking,
    BlockingStrict,
}

/// What is recorded of requests.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// The policy that says what is recorded of which requests.
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Write a line of JSON for each audit event into this file; `-` is standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Whether a request is refused whose first audit event cannot be written into the log (`blocking-strict`), or goes on
    /// and the event is counted as lost (`blocking`).
    #[arg(long, default_value = "blocking", value_name = "MODE")]
    audit_log_mode: AuditLogMode,
    /// Days that old audit logs are kept (0: whatever their age).
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    audit_log_maxage: u64,
    /// Old audit logs that are kept (0: all that are young enough).
    #[arg(long, default_value_t = 0, value_name = "N")]
    audit_log_maxbackup: usize,
    /// Megabytes of the audit log before the next file is begun (0: 100).
    #[arg(long, default_value_t = 0, value_name = "MB")]
    audit_log_maxsize: u64,
    /// Compress old audit logs.
    #[arg(long)]
    audit_log_compress: bool,
    /// Send audit events to the service of this kubeconfig file, in batches.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_webhook_config_file: Option<PathBuf>,
    /// Audit events that wait for the service; those beyond are lost.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    audit_webhook_batch_buffer_size: usize,
    /// Audit events of one batch.
    #[arg(long, default_value_t = 400, value_name = "N")]
    audit_webhook_batch_max_size: usize,
    /// How long the first event of a batch waits for others.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration::parse)]
    audit_webhook_batch_max_wait: Duration,
    /// Whether batches are sent at a bounded rate.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches for each second.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    audit_webhook_batch_throttle_qps: f64,
    /// Batches that may be sent at once when there were few before.
    #[arg(long, default_value_t = 15, value_name = "N")]
    audit_webhook_batch_throttle_burst: usize,
    /// The pause before a batch that failed is sent again; later ones are longer.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration::parse)]
    audit_webhook_initial_backoff: Duration,
}

impl AuditArgs {
    /// The configuration that the flags mean.
    pub fn config(&self) -> anyhow::Result<AuditConfig> {
        let Self {
            audit_policy_file,
            audit_log_path,
            audit_log_mode,
            audit_log_maxage,
            audit_log_maxbackup,
            audit_log_maxsize,
            audit_log_compress,
            audit_webhook_config_file,
            audit_webhook_batch_buffer_size,
            audit_webhook_batch_max_size,
            audit_webhook_batch_max_wait,
            audit_webhook_batch_throttle_enable,
            audit_webhook_batch_throttle_qps,
            audit_webhook_batch_throttle_burst,
            audit_webhook_initial_backoff,
        } = self.clone();
        ensure!(
            audit_policy_file.is_none()
                || audit_log_path.is_some()
                || audit_webhook_config_file.is_some(),
            "--audit-policy-file records nothing without --audit-log-path or --audit-webhook-config-file"
        );
        ensure!(
            audit_webhook_batch_max_size > 0
                && audit_webhook_batch_max_size <= audit_webhook_batch_buffer_size,
            "--audit-webhook-batch-max-size must be at least 1 and at most --audit-webhook-batch-buffer-size"
        );
        ensure!(
            audit_webhook_batch_throttle_qps > 0.0 && audit_webhook_batch_throttle_burst > 0,
            "--audit-webhook-batch-throttle-qps and --audit-webhook-batch-throttle-burst must be greater than 0"
        );
        let log = audit_log_path.map(|path| LogConfig {
            path,
            size_max: match audit_log_maxsize {
                0 => SIZE_MEGABYTES,
                megabytes => megabytes,
            }
            .saturating_mul(MEGABYTE),
            backups_max: Some(audit_log_maxbackup).filter(|max| *max > 0),
            age_max: Some(audit_log_maxage)
                .filter(|days| *days > 0)
                .map(|days| Duration::from_secs(days.saturating_mul(DAY))),
            compress: audit_log_compress,
            strict: audit_log_mode == AuditLogMode::BlockingStrict,
        });
        let webhook = audit_webhook_config_file.map(|kubeconfig| WebhookConfig {
            kubeconfig,
            buffer_events_max: audit_webhook_batch_buffer_size,
            batch_events_max: audit_webhook_batch_max_size,
            batch_wait_max: audit_webhook_batch_max_wait,
            throttle: audit_webhook_batch_throttle_enable.then_some(Throttle {
                qps: audit_webhook_batch_throttle_qps,
                burst: audit_webhook_batch_throttle_burst,
            }),
            initial_backoff: audit_webhook_initial_backoff,
        });
        Ok(AuditConfig {
            policy: audit_policy_file,
            log,
            webhook,
        })
    }
}

/// Who is believed, besides the cluster's own certificates and tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthenticationArgs {
    /// Tokens, one on each line: `token,user,uid,"group1,group2"`.
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// An AuthenticationConfiguration: issuers of tokens, and paths that are open. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    authentication_config: Option<PathBuf>,
    /// Ask the service of this kubeconfig file about tokens.
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long the service's answers are kept.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration::parse)]
    authentication_token_webhook_cache_ttl: Duration,
    /// The version of the TokenReview that the service is sent.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], value_name = "VERSION")]
    authentication_token_webhook_version: String,
    /// Believe proxies whose certificates this CA has signed when they name users by headers.
    #[arg(long, value_name = "FILE", requires = "requestheader_username_headers")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Names of the proxies' certificates (default: all that the CA has signed).
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAMES",
        requires = "requestheader_client_ca_file"
    )]
    requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name, such as X-Remote-User; the first that is there counts.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HEADERS",
        requires = "requestheader_client_ca_file"
    )]
    requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid, such as X-Remote-Uid.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HEADERS",
        requires = "requestheader_client_ca_file"
    )]
    requestheader_uid_headers: Vec<String>,
    /// Headers with groups, such as X-Remote-Group; all count.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HEADERS",
        requires = "requestheader_client_ca_file"
    )]
    requestheader_group_headers: Vec<String>,
    /// Beginnings of headers with more about the user, such as X-Remote-Extra-.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "PREFIXES",
        requires = "requestheader_client_ca_file"
    )]
    requestheader_extra_headers_prefix: Vec<String>,
    /// Whether requests without a name are served, as user system:anonymous (default: true, or as the
    /// AuthenticationConfiguration says).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
}

impl AuthenticationArgs {
    /// The configuration that the flags mean.
    pub fn config(&self) -> AuthnConfig {
        let Self {
            token_auth_file,
            authentication_config,
            authentication_token_webhook_config_file,
            authentication_token_webhook_cache_ttl,
            authentication_token_webhook_version,
            requestheader_client_ca_file,
            requestheader_allowed_names,
            requestheader_username_headers,
            requestheader_uid_headers,
            requestheader_group_headers,
            requestheader_extra_headers_prefix,
            anonymous_auth,
        } = self.clone();
        let webhook = authentication_token_webhook_config_file.map(|kubeconfig| TokenWebhook {
            kubeconfig,
            version: authentication_token_webhook_version,
            cache_life: authentication_token_webhook_cache_ttl,
        });
        let header = RequestHeader {
            allowed_names: requestheader_allowed_names,
            username_headers: requestheader_username_headers,
            uid_headers: requestheader_uid_headers,
            group_headers: requestheader_group_headers,
            extra_header_prefixes: requestheader_extra_headers_prefix,
        };
        AuthnConfig {
            token_file: token_auth_file,
            configuration: authentication_config,
            webhook,
            request_header: requestheader_client_ca_file.map(|ca| (ca, header)),
            anonymous: anonymous_auth,
            ..AuthnConfig::default()
        }
    }
}

/// The tokens of ServiceAccounts.
#[derive(Debug, Clone, Args)]
pub struct ServiceAccountArgs {
    /// Who issues tokens of ServiceAccounts; may be repeated: the first signs them, and those of all are believed.
    #[arg(long, value_name = "URL", default_value = tokens::ISSUER)]
    service_account_issuer: Vec<String>,
    /// Keys by which tokens of ServiceAccounts are checked besides the one that signs them: public or private ones, RSA or on
    /// the curves P-256 and P-384, or certificates; may be repeated.
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// The key that signs tokens of ServiceAccounts (default: one of the cluster's own).
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Whom tokens for the API name (default: the issuers).
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCES")]
    api_audiences: Vec<String>,
    /// Whether tokens that pods get are good for a year, for programs that do not read them again; what pods are told is an
    /// hour.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "BOOL")]
    service_account_extend_token_expiration: bool,
}

impl ServiceAccountArgs {
    /// What the flags give.
    pub fn given(&self) -> Given {
        let Self {
            service_account_issuer,
            service_account_key_file,
            service_account_signing_key_file,
            api_audiences,
            service_account_extend_token_expiration,
        } = self.clone();
        Given {
            signing_key: service_account_signing_key_file,
            checking_keys: service_account_key_file,
            issuers: service_account_issuer,
            audiences: api_audiences,
            extend_expiration: service_account_extend_token_expiration,
        }
    }
}

/// Who decides what users may.
#[derive(Debug, Clone, Args)]
pub struct AuthorizationArgs {
    /// An AuthorizationConfiguration: who decides, in which order. It is read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    authorization_config: Option<PathBuf>,
    /// Who decides, in this order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny (default: Node,RBAC).
    #[arg(long, value_delimiter = ',', value_name = "MODES", value_parser = Mode::parse)]
    authorization_mode: Vec<Mode>,
    /// Ask the service of this kubeconfig file, in mode Webhook.
    #[arg(long, value_name = "FILE", requires = "authorization_mode")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// How long the service's yes is kept.
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration::parse)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long the service's no is kept.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration::parse)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
    /// The version of the SubjectAccessReview that the service is sent.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], value_name = "VERSION")]
    authorization_webhook_version: String,
}

impl AuthorizationArgs {
    /// The configuration that the flags mean.
    pub fn config(&self) -> anyhow::Result<AuthzConfig> {
        let Self {
            authorization_config,
            authorization_mode,
            authorization_webhook_config_file,
            authorization_webhook_cache_authorized_ttl,
            authorization_webhook_cache_unauthorized_ttl,
            authorization_webhook_version,
        } = self.clone();
        if let Some(path) = authorization_config {
            return Ok(AuthzConfig::File(path, Reload::default()));
        }
        if authorization_mode.is_empty() {
            return Ok(AuthzConfig::Standard);
        }
        let asks = authorization_mode.contains(&Mode::Webhook);
        ensure!(
            asks == authorization_webhook_config_file.is_some(),
            "--authorization-mode=Webhook and --authorization-webhook-config-file need each other"
        );
        let webhook = authorization_webhook_config_file
            .map(std::path::absolute)
            .transpose()?;
        let webhook = webhook.map(|path| AuthorizationWebhook {
            authorized_life: authorization_webhook_cache_authorized_ttl,
            cache_authorized_requests: !authorization_webhook_cache_authorized_ttl.is_zero(),
            unauthorized_life: authorization_webhook_cache_unauthorized_ttl,
            cache_unauthorized_requests: !authorization_webhook_cache_unauthorized_ttl.is_zero(),
            timeout: WEBHOOK_TIMEOUT,
            subject_access_review_version: authorization_webhook_version,
            match_condition_subject_access_review_version: String::new(),
            failure_policy: FailurePolicy::NoOpinion,
            connection_info: ConnectionInfo::of_file(path),
            match_conditions: Vec::new(),
        });
        let authorizers = authorization_mode.into_iter().map(|mode| AuthorizerConfig {
            webhook: webhook.clone().filter(|_| mode == Mode::Webhook),
            ..AuthorizerConfig::of_mode(mode)
        });
        Ok(AuthzConfig::Given(authorizers.collect()))
    }
}
