//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cluster;

/// Turns a room of Linux machines into one computer, with the Kubernetes API.
#[derive(Debug, Parser)]
#[command(name = "corral", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine: API server, controllers, scheduler and node.
    Up(cluster::up::UpArgs),
    /// Stop the cluster of a data directory: its processes, its pods and its network.
    Down(cluster::down::DownArgs),
    /// Start the control plane alone: API server, controllers and scheduler.
    Server(cluster::server::ServerArgs),
    /// Start a node that joins a control plane.
    Agent(cluster::agent::AgentArgs),
    /// Manage the tokens by which nodes join.
    #[command(subcommand)]
    Token(cluster::token::TokenCommand),
}

/// Reads the command line; prints help or an error and ends the process where that is what was asked.
pub fn parse() -> Command {
    Cli::parse().command
}

/// Carries a command out.
///
/// # Errors
/// What went wrong, for people.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => cluster::up::run(args).await?,
        Command::Down(args) => cluster::down::run(args).await?,
        Command::Server(args) => cluster::server::run(args).await?,
        Command::Agent(args) => cluster::agent::run(args).await?,
        Command::Token(command) => cluster::token::run(command).await?,
    }
    Ok(ExitCode::SUCCESS)
}
