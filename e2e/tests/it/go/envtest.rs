//! controller-runtime's envtest, unmodified, with Corral's stand-ins.

use std::path::PathBuf;
use std::process::Command;

use corral_e2e::machines::succeed;
use corral_e2e::{corral, root};

/// The Go that `scripts/clients` builds with.
pub fn go() -> Command {
    let output = Command::new(root().join("scripts/go-toolchain")).output();
    let output = output.expect("a script of the project");
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let mut command = Command::new(folder.join("go"));
    command.current_dir(root().join("e2e/go"));
    command
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly");
    command
}

#[test]
fn tests_of_an_operator_run_against_it() {
    let assets = tempfile::tempdir().expect("a directory");
    succeed(
        Command::new(corral())
            .args(["envtest", "--dir"])
            .arg(assets.path()),
    );
    let mut tests = go();
    tests.args(["test", "-count=1", "-v", "./envtest"]);
    succeed(tests.env("KUBEBUILDER_ASSETS", assets.path()));
}
