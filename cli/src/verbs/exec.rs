//! `corral exec`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use corral_api::k8s::api::core::v1::Pod;
use kube::api::{AttachParams, TerminalSize};
use nix::sys::termios::{self, SetArg};
use tokio::signal::unix::{SignalKind, signal};

use super::Scope;
use super::logs::pod_of;

/// Run a command in a container.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    scope: Scope,
    /// A pod, or TYPE/NAME of what owns pods.
    #[arg(value_name = "POD | TYPE/NAME")]
    what: String,
    /// The container (default: the only one, or the one that the pod names).
    #[arg(long, short = 'c', value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give it a terminal.
    #[arg(long, short = 't')]
    tty: bool,
    /// The command and its arguments, after --.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A terminal in raw mode until this is dropped.
struct Raw(termios::Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Carries the command out; the command's exit code is ours.
pub async fn run(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let (api, namespace) = args.scope.open().await?;
    let pod = pod_of(&api, &namespace, &args.what).await?;
    let name = pod["metadata"]["name"]
        .as_str()
        .context("a pod without a name")?
        .to_owned();
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client(), &namespace);
    let mut params = AttachParams::default()
        .stdin(args.stdin)
        .stdout(true)
        .stderr(!args.tty)
        .tty(args.tty);
    if let Some(container) = &args.container {
        params = params.container(container);
    }
    let mut process = pods.exec(&name, &args.command, &params).await?;
    let raw = if args.tty { Raw::enter() } else { None };
    let mut copies = tokio::task::JoinSet::new();
    if let Some(mut from) = process.stdout() {
        copies.spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::stdout()).await });
    }
    if let Some(mut from) = process.stderr() {
        copies.spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::stderr()).await });
    }
    if let Some(mut to) = process.stdin() {
        // Reading the terminal cannot be cancelled; the process ends without waiting for it.
        tokio::spawn(async move { tokio::io::copy(&mut tokio::io::stdin(), &mut to).await });
    }
    if let Some(mut sizes) = process.terminal_size() {
        let mut changes = signal(SignalKind::window_change())?;
        tokio::spawn(async move {
            use futures::SinkExt;
            loop {
                if let Some((width, height)) = terminal_size()
                    && sizes.send(TerminalSize { height, width }).await.is_err()
                {
                    return;
                }
                if changes.recv().await.is_none() {
                    return;
                }
            }
        });
    }
    let status = process.take_status();
    while copies.join_next().await.is_some() {}
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    Ok(exit_code(status.as_ref()))
}

fn exit_code(
    status: Option<&corral_api::k8s::apimachinery::pkg::apis::meta::v1::Status>,
) -> ExitCode {
    let Some(status) = status else {
        return ExitCode::FAILURE;
    };
    if status.status.as_deref() == Some("Success") {
        return ExitCode::SUCCESS;
    }
    let causes = status.details.as_ref().and_then(|d| d.causes.as_ref());
    let code = causes
        .into_iter()
        .flatten()
        .find(|c| c.reason.as_deref() == Some("ExitCode"));
    let code = code
        .and_then(|c| c.message.as_deref())
        .and_then(|m| m.parse::<u8>().ok());
    if code.is_none() {
        eprintln!(
            "corral: {}",
            status.message.as_deref().unwrap_or("the command failed")
        );
    }
    ExitCode::from(code.unwrap_or(1))
}

/// Columns and rows of our terminal, as `stty` tells them.
fn terminal_size() -> Option<(u16, u16)> {
    let output = std::process::Command::new("stty")
        .arg("size")
        .stdin(std::process::Stdio::inherit())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (rows, columns) = text.trim().split_once(' ')?;
    Some((columns.parse().ok()?, rows.parse().ok()?))
}
