//! `corral store`: what is done to a store while no server uses it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use corral_storage::Storage;
use corral_storage::embedded::{self, EmbeddedConfig, EmbeddedMetrics, EmbeddedStore};
use corral_storage::etcd::{EtcdStore, PRESENCE_LIFE};
use corral_storage::migrate::{self, KEYS, Moved, Stage};
use corral_storage::prefixed::PrefixedStore;
use tokio::time::{Instant, sleep};

use super::control_plane::{private_store, store_directory};
use super::etcd::EtcdArgs;

/// How often etcd is asked whether the servers that used it are gone.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// How long a server that has ended may still seem to live: its lease, and the time in which etcd sees that it is over.
const GONE_MAX: Duration = Duration::from_secs(PRESENCE_LIFE.as_secs() + 5);

/// Work on a store that no server uses.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Move every object from the embedded store to etcd, or back, with its resourceVersion.
    #[command(after_long_help = MIGRATE_HELP)]
    Migrate(MigrateArgs),
}

const MIGRATE_HELP: &str = "\
Stop all servers first: a store that is in use is refused. The target must be empty: an etcd that is new (revisions \
can be kept in no other), or a data directory without a store in which anything was written. The source stays as it \
is, but for objects of its first two revisions, which no etcd can have: on the way there they are written once more.

Values are carried as they are stored. Encrypted ones need the same keys afterwards, so the data directory's \
pki folder, or the file of --encryption-provider-config, belongs to the move. History is not carried: watches and \
paged lists from before get 410 Gone and begin anew, those that know the newest revision go on.

A migration that was interrupted leaves an etcd that servers refuse; begin again with a new one. An interrupted one \
to the embedded store leaves nothing.

Examples:
  corral store migrate --to etcd --data-dir /var/lib/corral --etcd-endpoints https://10.0.0.1:2379 \\
    --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key
  corral store migrate --to embedded --data-dir /var/lib/corral --etcd-endpoints http://127.0.0.1:2379";

/// Which way.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// From the embedded store to etcd.
    Etcd,
    /// From etcd to the embedded store.
    Embedded,
}

/// Move all objects to another store.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where the objects go.
    #[arg(long, value_enum)]
    to: Target,
    /// The data directory whose embedded store it is.
    #[arg(long, default_value = "/var/lib/corral", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// Carries out a command about stores.
pub async fn run(command: StoreCommand) -> anyhow::Result<()> {
    let StoreCommand::Migrate(args) = command;
    let MigrateArgs { to, data_dir, etcd } = args;
    let config = etcd.config()?;
    let mut config = config.context("name etcd by --etcd-endpoints")?;
    // It would count as a write of somebody else.
    config.compacts = false;
    let prefix = etcd.prefix()?;
    let endpoints = config.endpoints.join(",");
    let etcd = EtcdStore::connect(config).await;
    let etcd = etcd.with_context(|| format!("etcd at {endpoints} cannot be reached"))?;
    let mut progress = Progress::new();
    let directory = store_directory(&data_dir);
    let (moved, from, target) = match to {
        Target::Etcd => {
            let moved = to_etcd(directory.clone(), &etcd, &prefix, &mut progress).await;
            (moved, directory.display().to_string(), endpoints)
        }
        Target::Embedded => {
            wait_until_unused(&etcd, &prefix).await?;
            private_store(&data_dir)?;
            let moved = to_embedded(directory.clone(), &etcd, &prefix, &mut progress).await;
            (moved, endpoints, directory.display().to_string())
        }
    };
    progress.end();
    let Moved { entries, revision } = moved?;
    println!("moved {entries} objects at revision {revision} from {from} to {target}");
    Ok(())
}

async fn to_etcd(
    directory: PathBuf,
    etcd: &Arc<EtcdStore>,
    prefix: &str,
    progress: &mut Progress,
) -> anyhow::Result<Moved> {
    ensure!(
        embedded::is_there(&directory),
        "there is no embedded store in {}; name its data directory by --data-dir",
        directory.display()
    );
    let source = open(directory).await?;
    let told = &mut |stage, done, of| progress.tell(stage, done, of);
    let reached = migrate::to_etcd(&*source, etcd, prefix, told).await?;
    let moved = migrate::verify(&*source, &*named(etcd, prefix), reached, told).await;
    moved.context("the new store is not what it should be, do not use it")
}

async fn to_embedded(
    directory: PathBuf,
    etcd: &Arc<EtcdStore>,
    prefix: &str,
    progress: &mut Progress,
) -> anyhow::Result<Moved> {
    let told = &mut |stage, done, of| progress.tell(stage, done, of);
    let reached = migrate::to_embedded(etcd, prefix, &directory, told).await?;
    let target = open(directory).await?;
    let moved = migrate::verify(&*named(etcd, prefix), &*target, reached, told).await;
    moved.context("the new store is not what it should be, do not use it")
}

async fn open(directory: PathBuf) -> anyhow::Result<Arc<dyn Storage>> {
    let config = EmbeddedConfig::new(directory);
    let opened = move || EmbeddedStore::open(config, EmbeddedMetrics::default());
    Ok(tokio::task::spawn_blocking(opened).await??)
}

/// The store, with keys as the embedded one has them.
fn named(etcd: &Arc<EtcdStore>, prefix: &str) -> Arc<dyn Storage> {
    match prefix {
        KEYS => etcd.clone(),
        prefix => PrefixedStore::new(etcd.clone(), KEYS, prefix),
    }
}

/// Waits as long as servers that have ended may seem to live.
async fn wait_until_unused(etcd: &EtcdStore, prefix: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_MAX;
    let mut told = false;
    loop {
        let present = etcd.present(prefix).await?;
        if present.is_empty() {
            return Ok(());
        }
        let present: Vec<&str> = present.iter().map(|key| key.as_str()).collect();
        let present = present.join(", ");
        if Instant::now() >= deadline {
            bail!("servers use this etcd ({present}); stop them first");
        }
        if !told {
            eprintln!("waiting for the servers of this etcd to be gone ({present})");
            told = true;
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// One line on the terminal that says how far it is; nothing where nobody looks.
struct Progress {
    shown: bool,
    on_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            shown: false,
            on_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn tell(&mut self, stage: Stage, done: u64, of: u64) {
        if !self.on_terminal {
            return;
        }
        let what = match stage {
            Stage::Reading => "reading",
            Stage::Writing => "writing",
            Stage::Verifying => "comparing",
        };
        let of = match of {
            0 => String::new(),
            of => format!(" of {of}"),
        };
        // What is only to be looked at may get lost.
        let _ = write!(std::io::stderr(), "\r\x1b[K{what}: {done}{of}");
        self.shown = true;
    }

    fn end(&mut self) {
        if self.shown {
            let _ = writeln!(std::io::stderr());
        }
    }
}
