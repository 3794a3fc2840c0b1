//! Stands in for `kube-apiserver` and `etcd` where tests of operators start them: controller-runtime's envtest and its like
//! look for two binaries of these names in a folder, and find this one.
//!
//! ```text
//!   corral envtest --dir D ─▶ D/kube-apiserver, D/etcd (links to corral)
//!   D/etcd …           says that it is well, and where the store is
//!   D/kube-apiserver … asks that etcd, and opens the store itself; a real etcd it uses as one
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

pub mod apiserver;
pub mod etcd;

/// The names under which this binary is another one.
const NAMES: [&str; 2] = ["kube-apiserver", "etcd"];

/// Make a folder that tests of operators find a control plane in (KUBEBUILDER_ASSETS).
#[derive(Debug, Args)]
pub struct EnvtestArgs {
    /// The folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Makes the folder.
///
/// # Errors
/// When it cannot be made, or holds something else under one of the names.
pub fn run(args: &EnvtestArgs) -> anyhow::Result<()> {
    let EnvtestArgs { dir } = args;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = std::path::absolute(dir)?;
    let binary = std::env::current_exe().context("cannot find out where corral is")?;
    for name in NAMES {
        link(&dir.join(name), &binary)?;
    }
    crate::verbs::print(&format!("export KUBEBUILDER_ASSETS='{}'\n", dir.display()));
    Ok(())
}

/// Makes a link, or sets right one that was made before. What somebody else has put there stays.
fn link(path: &Path, target: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => std::fs::remove_file(path)?,
        Ok(_) => bail!(
            "{} is there already, and is no link of ours",
            path.display()
        ),
        Err(_) => {}
    }
    std::os::unix::fs::symlink(target, path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// What this process is to be, by the name that it was started under.
pub enum StandIn {
    /// `kube-apiserver`.
    ApiServer(Box<apiserver::ApiServerArgs>),
    /// `etcd`.
    Etcd(etcd::EtcdArgs),
}

impl StandIn {
    /// Reads the command line if the name is one of those.
    pub fn parse(name: Option<&OsStr>) -> Option<Self> {
        use clap::Parser;
        let name = Path::new(name?).file_name()?;
        match name.to_str()? {
            "kube-apiserver" => Some(Self::ApiServer(Box::new(apiserver::ApiServerArgs::parse()))),
            "etcd" => Some(Self::Etcd(etcd::EtcdArgs::parse())),
            _ => None,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::ApiServer(args) => apiserver::run(*args).await,
            Self::Etcd(args) => etcd::run(args).await,
        }
    }
}
