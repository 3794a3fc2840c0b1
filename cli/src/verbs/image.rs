//! `corral image`: the images of the node on this machine.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use corral_nodelet::images::reference::Reference;
use corral_nodelet::images::store::Store;
use corral_nodelet::images::{archive, pack};

use super::print;
use super::table::align;

/// Manage the images of the node on this machine.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image of one static program.
    Pack(PackArgs),
    /// Take images out of an OCI or Docker archive, or an OCI layout folder.
    Import(ImportArgs),
    /// List images.
    Ls(LsArgs),
    /// Remove names of images.
    Rm(RmArgs),
}

/// Where the node's images are.
#[derive(Debug, Args)]
pub struct Place {
    /// The data directory of `corral up` or `corral agent`.
    #[arg(long, default_value = "/var/lib/corral", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Place {
    fn open(&self) -> anyhow::Result<Store> {
        let directory = self.data_dir.join("node").join("images");
        Store::attach(&directory)
            .with_context(|| format!("cannot use the image store {}", directory.display()))
    }
}

/// Make an image of one static program.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// The program; statically linked, because there is nothing else in the image.
    program: PathBuf,
    /// The image's name.
    #[arg(long, short = 't', required = true, value_name = "NAME:TAG")]
    tag: String,
    /// Write an OCI archive instead of adding the image to the node's store.
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Take images out of archives.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// OCI or Docker archives, or OCI layout folders.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The image's name, if the archive tells none.
    #[arg(long, short = 't', value_name = "NAME:TAG")]
    tag: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// List images.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    place: Place,
}

/// Remove names of images.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The names.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Carries the command out.
pub async fn run(command: ImageCommand) -> anyhow::Result<()> {
    // Unpacking is work for a thread of its own.
    tokio::task::spawn_blocking(move || match command {
        ImageCommand::Pack(args) => pack_program(&args),
        ImageCommand::Import(args) => import(&args),
        ImageCommand::Ls(args) => list(&args),
        ImageCommand::Rm(args) => remove(&args),
    })
    .await?
}

fn pack_program(args: &PackArgs) -> anyhow::Result<()> {
    let name = Reference::parse(&args.tag)?;
    if let Some(output) = &args.output {
        let file = std::fs::File::create(output)
            .with_context(|| format!("cannot write {}", output.display()))?;
        pack::pack(&args.program, &name, std::io::BufWriter::new(file))?;
        print(&format!("{}\n", output.display()));
        return Ok(());
    }
    let store = args.place.open()?;
    let archive = store.temporary();
    let packed = std::fs::File::create(&archive)
        .map_err(anyhow::Error::from)
        .and_then(|file| {
            Ok(pack::pack(
                &args.program,
                &name,
                std::io::BufWriter::new(file),
            )?)
        })
        .and_then(|()| import_one(&store, &archive, Some(&name)));
    let _ = std::fs::remove_file(&archive);
    packed
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let store = args.place.open()?;
    let name = args.tag.as_deref().map(Reference::parse).transpose()?;
    for file in &args.files {
        import_one(&store, file, name.as_ref()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn import_one(store: &Store, file: &Path, name: Option<&Reference>) -> anyhow::Result<()> {
    for image in archive::import(store, file, name)? {
        print(&format!("{}\n", image.name));
    }
    Ok(())
}

fn list(args: &LsArgs) -> anyhow::Result<()> {
    let mut rows = vec![["NAME", "ID", "SIZE"].map(str::to_owned).to_vec()];
    for image in args.place.open()?.list() {
        let id: String = image
            .id
            .trim_start_matches("sha256:")
            .chars()
            .take(12)
            .collect();
        let size = format!("{:.1} MiB", image.size as f64 / f64::from(1 << 20));
        rows.extend(
            image
                .names
                .iter()
                .map(|name| vec![name.clone(), id.clone(), size.clone()]),
        );
    }
    print(&align(&rows));
    Ok(())
}

fn remove(args: &RmArgs) -> anyhow::Result<()> {
    let store = args.place.open()?;
    for name in &args.names {
        let reference = Reference::parse(name)?;
        anyhow::ensure!(
            store.remove(&reference)?,
            "no image {name}; corral image ls shows what there is"
        );
        print(&format!("{reference} removed\n"));
    }
    Ok(())
}
