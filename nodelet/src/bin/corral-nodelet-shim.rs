//! The shim entry point as a program, for running an agent outside the one binary (this crate's tests do).

use std::process::ExitCode;

fn main() -> ExitCode {
    corral_shim::main(std::env::args_os().skip(1))
}
