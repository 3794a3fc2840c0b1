//! The command line.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{cluster, envtest, verbs};

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
    /// Start the controllers alone, for any Kubernetes API server.
    Controllers(Box<cluster::controllers::ControllersArgs>),
    /// Start the scheduler alone, for any Kubernetes API server.
    Scheduler(Box<cluster::scheduler::SchedulerArgs>),
    Envtest(envtest::EnvtestArgs),
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
    let mut matches = Cli::command().get_matches();
    let flags = flags(&matches);
    let cli = Cli::from_arg_matches_mut(&mut matches);
    let mut command = cli.unwrap_or_else(|error| error.exit()).command;
    match &mut command {
        Command::Up(args) => args.control_plane.serving.flags = flags,
        Command::Server(args) => args.control_plane.serving.flags = flags,
        _ => {}
    }
    command
}

/// All flags of the command that is meant, with their values, given or not. None of them is a secret: those are in files.
fn flags(matches: &ArgMatches) -> BTreeMap<String, String> {
    let cli = Cli::command();
    let found = matches.subcommand().and_then(|(name, matches)| {
        let command = cli.find_subcommand(name)?;
        Some((command, matches))
    });
    let Some((command, matches)) = found else {
        return BTreeMap::new();
    };
    let long = command.get_arguments().filter_map(|argument| {
        let name = argument.get_long()?;
        let values = matches.try_get_raw(argument.get_id().as_str()).ok()?;
        let values = values.into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some((name.to_owned(), values.join(",")))
    });
    long.collect()
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
        Command::Controllers(args) => cluster::controllers::run(*args).await?,
        Command::Scheduler(args) => cluster::scheduler::run(*args).await?,
        Command::Envtest(args) => envtest::run(&args)?,
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

    #[test]
    fn the_flags_of_a_server_are_told_with_their_values() {
        let given = [
            "corral",
            "server",
            "--no-controllers",
            "--tls-san=a",
            "--tls-san=b",
        ];
        let flags = flags(&Cli::command().get_matches_from(given));
        let of = |name: &str| flags.get(name).map(String::as_str);
        assert_eq!(of("no-controllers"), Some("true"));
        assert_eq!(of("no-scheduler"), Some("false"));
        assert_eq!(of("tls-san"), Some("a,b"));
        assert_eq!(of("max-requests-inflight"), Some("400"));
        assert_eq!(of("service-range"), Some(""));
    }
}
