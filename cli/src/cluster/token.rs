//! `corral token`: the tokens by which nodes join.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use corral_api::k8s::ByteString;
use corral_api::k8s::api::core::v1::Secret;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, PostParams};

use super::join;
use crate::client;

/// Manage the tokens by which nodes join.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it.
    Create(CreateArgs),
}

/// Make a token and print it.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    client: client::ClientArgs,
    /// Hours that the token is good for.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=8760), value_name = "HOURS")]
    hours: u16,
    /// Write the token to this file, which only its owner may read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The alphabet of tokens.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn random(length: usize) -> String {
    // Rejecting what lies beyond the last whole multiple keeps every character as likely as every other.
    let limit = 256 - 256 % ALPHABET.len();
    let bytes = std::iter::repeat_with(rand::random::<u8>).filter(|b| usize::from(*b) < limit);
    bytes
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .take(length)
        .collect()
}

/// Carries the command out.
pub async fn run(command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create(CreateArgs { client, hours, out }) = command;
    let (id, secret) = (random(6), random(16));
    let expires = Timestamp::now() + SignedDuration::from_hours(i64::from(hours));
    let data = [
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("expiration", corral_api::time::format_seconds(expires)),
        ("usage-bootstrap-authentication", "true".to_owned()),
        (
            "description",
            "lets a node join, made by corral token create".to_owned(),
        ),
    ];
    let mut object = Secret::default();
    object.metadata.name = Some(format!("bootstrap-token-{id}"));
    object.type_ = Some("bootstrap.kubernetes.io/token".to_owned());
    object.data = Some(
        data.into_iter()
            .map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes())))
            .collect(),
    );
    let config = client.config().await?;
    let ca = config
        .root_cert
        .as_ref()
        .and_then(|chain| chain.first())
        .map(|der| join::ca_hash(der));
    let ca = ca.context(
        "the kubeconfig names no certificate authority, by which nodes would know the server",
    )?;
    let secrets: Api<Secret> = Api::namespaced(kube::Client::try_from(config)?, "kube-system");
    secrets.create(&PostParams::default(), &object).await?;
    let token = format!("{id}.{secret}@sha256:{ca}");
    match out {
        Some(path) => corral_server::pki::write_private(&path, &token)?,
        None => println!("{token}"),
    }
    Ok(())
}
