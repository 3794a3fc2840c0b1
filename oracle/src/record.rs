//! The peer's answers as a file: a line of JSON for each pair, compressed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::case::Pair;

/// How hard it is compressed: it is written seldom and read by every test run.
const LEVEL: i32 = 19;
/// Answers that resemble each other may be this far apart (2 to this power bytes).
const WINDOW_LOG: u32 = 26;

/// Where the data of the oracle is.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// The file of answers.
pub fn answers() -> PathBuf {
    folder().join("answers.jsonl.zst")
}

/// The list of known differences.
pub fn open() -> PathBuf {
    folder().join("open.txt")
}

/// Writes the pairs.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, pairs: &[Pair]) -> anyhow::Result<()> {
    let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(WINDOW_LOG)?;
    // A request that the peer does not answer says nothing.
    for pair in pairs.iter().filter(|pair| pair.answer.code != 0) {
        serde_json::to_writer(&mut encoder, pair)?;
        encoder.write_all(b"\n")?;
    }
    encoder.finish()?;
    Ok(())
}

/// Reads the pairs.
///
/// # Errors
/// When the file is not there or is not what [`write`] writes.
pub fn read(path: &Path) -> anyhow::Result<Vec<Pair>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(WINDOW_LOG)?;
    BufReader::new(decoder)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}
