//! Asks the peer anew, or compares with its kept answers.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use corral_oracle::target::Target;
use corral_oracle::{compare, corpus, open, record};

#[derive(Debug, Parser)]
#[command(name = "corral-oracle", about = "Compares API servers")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the corpus, ask kube-apiserver, and keep its answers.
    Record {
        /// An administrator's kubeconfig of an empty server.
        #[arg(long, value_name = "FILE")]
        peer: PathBuf,
    },
    /// Show one request with both answers.
    Show {
        /// Its name. A sequence is asked from its beginning.
        name: String,
    },
    /// Ask Corral's server the kept requests and show what differs.
    Compare {
        /// Only requests whose names hold this.
        #[arg(long, value_name = "TEXT", default_value = "")]
        only: String,
        /// How many differences are shown.
        #[arg(long, value_name = "N", default_value_t = 40)]
        show: usize,
        /// Write the list of known differences anew.
        #[arg(long)]
        write_open: bool,
    },
}

fn pretty(value: &impl serde::Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().verb {
        Verb::Record { peer } => {
            let peer = Target::peer(&peer).await?;
            let requests = corpus::generate(&peer).await?;
            println!("{} requests", requests.len());
            let pairs = peer.ask_all(&requests).await?;
            record::write(&record::answers(), &pairs)?;
            println!("the answers are kept in {}", record::answers().display());
        }
        Verb::Show { name } => {
            let kept = record::read(&record::answers())?;
            let wanted = kept.iter().find(|pair| pair.request.name == name);
            let wanted = wanted.with_context(|| format!("no request is called {name}"))?;
            let before = kept.iter().filter(|pair| pair.request.ordered);
            let mut requests: Vec<_> = before
                .map(|pair| pair.request.clone())
                .take_while(|request| request.name != name)
                .collect();
            requests.push(wanted.request.clone());
            let mut answers = Target::ours().await?.ask_all(&requests).await?;
            let ours = answers.pop().context("an answer")?;
            println!("request {}", pretty(&wanted.request)?);
            println!("theirs {}", pretty(&wanted.answer)?);
            println!("ours {}", pretty(&ours.answer)?);
        }
        Verb::Compare {
            only,
            show,
            write_open,
        } => {
            let kept = record::read(&record::answers())?;
            let requests: Vec<_> = kept.iter().map(|pair| pair.request.clone()).collect();
            let answers = Target::ours().await?.ask_all(&requests).await?;
            let found = compare::differences(&kept, &answers);
            if write_open {
                open::write(&record::open(), &found)?;
            }
            let chosen = found.iter().filter(|(name, _)| name.contains(&only));
            for (name, difference) in chosen.take(show) {
                println!("{name}\n     {difference}");
            }
            println!("{} of {} requests differ", found.len(), kept.len());
        }
    }
    Ok(())
}
