//! Reads manifests: files, folders, standard input; YAML with several documents, or JSON.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// Largest manifest that is read.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The objects of all files, in order.
pub fn read(files: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .take(MANIFEST_BYTES_MAX)
                .read_to_string(&mut text)?;
            objects.extend(parse(&text).context("standard input")?);
        } else if file.is_dir() {
            for path in folder(file, recursive)? {
                objects.extend(read_file(&path)?);
            }
        } else {
            objects.extend(read_file(file)?);
        }
    }
    anyhow::ensure!(!objects.is_empty(), "no objects in what -f names");
    Ok(objects)
}

fn folder(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && recursive {
            out.extend(folder(&path, true)?);
        } else if path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The objects of a text; lists are taken apart.
pub fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(_)
                if document["kind"]
                    .as_str()
                    .is_some_and(|k| k.ends_with("List"))
                    && document["items"].is_array() =>
            {
                objects.extend(document["items"].as_array().cloned().unwrap_or_default());
            }
            Value::Object(_) => objects.push(document),
            _ => anyhow::bail!("a document is not an object"),
        }
    }
    for object in &objects {
        for key in ["apiVersion", "kind"] {
            anyhow::ensure!(object[key].is_string(), "an object has no {key}");
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "---\napiVersion: v1\nkind: A\n---\n---\napiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: B}]\n";
        let kinds: Vec<String> = parse(text)
            .expect("valid")
            .iter()
            .map(|o| o["kind"].to_string())
            .collect();
        assert_eq!(kinds, ["\"A\"", "\"B\""]);
        assert!(parse("kind: A\n").is_err() && parse("- 1\n").is_err());
    }
}
