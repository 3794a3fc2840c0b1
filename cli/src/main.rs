//! The `corral` command: every role of the system, and verbs for people without kubectl.
//!
//! The first thing it looks at is whether it was started as the shim of a pod, because that must happen before any
//! thread exists. Everything else is [`args`].

use std::process::ExitCode;

mod args;
mod client;
mod cluster;
mod kubeconfig;
mod logging;
mod verbs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|argument| argument == "shim") {
        return corral_shim::main(arguments);
    }
    let command = args::parse();
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
    match runtime.block_on(args::run(command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("corral: {error:#}");
            ExitCode::FAILURE
        }
    }
}
