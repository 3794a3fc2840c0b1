//! The list of known differences: `NAME<tab>KIND`, a line each, sorted.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compare::Difference;

/// Writes the list.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, found: &BTreeMap<String, Difference>) -> std::io::Result<()> {
    let lines = found
        .iter()
        .map(|(name, difference)| format!("{name}\t{}\n", difference.kind));
    std::fs::write(path, lines.collect::<String>())
}

/// Reads the list.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    Ok(lines
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect())
}
