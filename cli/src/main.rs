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
            eprintln!("corral: {error:#}");
            ExitCode::FAILURE
        }
    }
}
