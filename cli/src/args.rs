//! The command line.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{cluster, verbs};

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
    Up(Box<cluster::up::UpArgs>),
    /// Stop the cluster of a data directory: its process, its pods and its network.
    Down(cluster::down::DownArgs),
    /// Start the control plane alone: API server, controllers and scheduler.
    Server(Box<cluster::server::ServerArgs>),
    /// Start a node that joins a control plane.
    Agent(Box<cluster::agent::AgentArgs>),
    /// Manage the tokens by which nodes join.
    #[command(subcommand)]
    Token(cluster::token::TokenCommand),
    /// Work on a store that no server uses: move it to etcd, or back.
    #[command(subcommand)]
    Store(cluster::store::StoreCommand),
    /// Show objects.
    Get(verbs::get::GetArgs),
    /// Show everything about objects.
    Describe(verbs::describe::DescribeArgs),
    /// Make objects as manifests describe them.
    Apply(verbs::apply::ApplyArgs),
    /// Delete objects.
    Delete(verbs::delete::DeleteArgs),
    /// Show what containers say.
    Logs(verbs::logs::LogsArgs),
    /// Run a command in a container.
    Exec(verbs::exec::ExecArgs),
    /// Wait until something holds of objects.
    Wait(verbs::wait::WaitArgs),
    /// Show what happened.
    Events(verbs::events::EventsArgs),
    /// Manage the images of the node on this machine.
    #[command(subcommand)]
    Image(verbs::image::ImageCommand),
    /// Print what makes a shell complete this command's words.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
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
        Command::Up(args) => cluster::up::run(*args).await?,
        Command::Down(args) => cluster::down::run(args).await?,
        Command::Server(args) => cluster::server::run(*args).await?,
        Command::Agent(args) => cluster::agent::run(*args).await?,
        Command::Token(command) => cluster::token::run(command).await?,
        Command::Store(command) => cluster::store::run(command).await?,
        Command::Get(args) => verbs::get::run(args).await?,
        Command::Describe(args) => verbs::describe::run(args).await?,
        Command::Apply(args) => verbs::apply::run(args).await?,
        Command::Delete(args) => verbs::delete::run(args).await?,
        Command::Logs(args) => verbs::logs::run(args).await?,
        Command::Exec(args) => return verbs::exec::run(args).await,
        Command::Wait(args) => verbs::wait::run(args).await?,
        Command::Events(args) => verbs::events::run(args).await?,
        Command::Image(command) => verbs::image::run(command).await?,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "corral", &mut text);
            verbs::print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
