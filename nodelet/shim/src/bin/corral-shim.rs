//! The shim as a program of its own; `corral shim` is the same entry point inside the one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    corral_shim::main(std::env::args_os().skip(1))
}
