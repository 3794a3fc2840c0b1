//! The `corral` command: every role of the system, and verbs for people without kubectl.
//!
//! The first thing it looks at is whether it was started as the shim of a pod, because that must happen before any
//! thread exists. Everything else is [`args`].

use std::process::ExitCode;

mod args;
mod client;
mod cluster;
mod envtest;
mod footprint;
mod kubeconfig;
mod logging;
mod verbs;

#[global_allocator]
static ALLOCATOR: corral_heap::Sampled<mimalloc::MiMalloc> =
    corral_heap::Sampled(mimalloc::MiMalloc);

/// What this process is.
enum Role {
    /// Somebody else, whose name it was started under.
    StandIn(envtest::StandIn),
    /// Itself.
    Command(args::Command),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|argument| argument == "shim") {
        return corral_shim::main(arguments);
    }
    let name = std::env::args_os().next();
    let role = match envtest::StandIn::parse(name.as_deref()) {
        Some(stand_in) => Role::StandIn(stand_in),
        None => Role::Command(args::parse()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("corral: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let running = async move {
        match role {
            Role::StandIn(stand_in) => stand_in.run().await.map(|()| ExitCode::SUCCESS),
            Role::Command(command) => args::run(command).await,
        }
    };
    match runtime.block_on(running) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("corral: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. Many of other crates tell theirs themselves; once is enough.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.ends_with(&cause) {
            continue;
        }
        if !told.is_empty() {
            told.push_str(": ");
        }
        told.push_str(&cause);
    }
    told
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::told;

    #[test]
    fn a_cause_that_was_told_already_is_not_told_again() {
        let error = anyhow!("not found")
            .context("cannot read a: not found")
            .context("no kubeconfig");
        assert_eq!(told(&error), "no kubeconfig: cannot read a: not found");
        let error = anyhow!("refused").context("cannot connect");
        assert_eq!(told(&error), "cannot connect: refused");
    }
}
