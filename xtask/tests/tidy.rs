//! What the project holds its sources to.

use std::path::{Path, PathBuf};

/// Lines of a file before one asks what wants to be its own file; tests do not count.
const LINES_MAX: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the project")
}

fn sources(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory)
        .expect("a readable folder")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir()
            && !matches!(
                name.to_str(),
                Some("target" | ".git" | ".cache" | "node_modules")
            )
        {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    sources(root(), &mut paths);
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(path).expect("UTF-8")))
        .collect()
}

#[test]
fn files_have_one_subject_and_a_header() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let production = text
            .split("#[cfg(test)]")
            .next()
            .unwrap_or("")
            .lines()
            .count();
        if production > LINES_MAX {
            wrong.push(format!("{} has {production} lines", path.display()));
        }
        if path.file_name().is_some_and(|n| n == "mod.rs") {
            wrong.push(format!("{}: name it after its folder", path.display()));
        }
        let is_tests = path.file_name().is_some_and(|n| n == "tests.rs");
        if !is_tests && !text.starts_with("//!") {
            wrong.push(format!("{} does not say what it is for", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_is_reached() {
    let files = all();
    let mut orphans = Vec::new();
    for (path, _) in &files {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
        let is_root = matches!(stem, "lib" | "main" | "build")
            || path.parent().is_some_and(|p| {
                p.ends_with("bin")
                    || p.ends_with("tests")
                    || p.ends_with("app")
                    || p.ends_with("examples")
            });
        if is_root {
            continue;
        }
        let folder = path.parent().expect("a folder");
        let declared = |candidate: PathBuf| {
            files
                .iter()
                .any(|(p, text)| *p == candidate && text.contains(&format!("mod {stem};")))
        };
        let above = folder.with_extension("rs");
        let roots = ["lib.rs", "main.rs"].map(|name| folder.join(name));
        if !declared(above) && !roots.into_iter().any(declared) {
            orphans.push(path.display().to_string());
        }
    }
    assert!(
        orphans.is_empty(),
        "no module declares\n{}",
        orphans.join("\n")
    );
}

#[test]
fn arrows_point_down() {
    // What a crate must not depend on, whatever else it may.
    let forbidden = [
        (
            "apiserver/kinds",
            &["tokio", "hyper", "corral-storage", "corral-server"][..],
        ),
        (
            "apiserver/storage",
            &["corral-kinds", "corral-server", "kube"],
        ),
        (
            "apiserver/server",
            &["corral-controllers", "corral-scheduler", "corral-nodelet"],
        ),
        (
            "controllers/builtin",
            &["corral-server", "corral-storage", "corral-kinds"],
        ),
        (
            "controllers/scheduler",
            &["corral-server", "corral-storage", "corral-kinds"],
        ),
        (
            "nodelet",
            &[
                "corral-server",
                "corral-storage",
                "corral-kinds",
                "libcontainer",
            ],
        ),
        ("nodelet/shim", &["tokio", "kube"]),
    ];
    for (folder, names) in forbidden {
        let manifest =
            std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or("");
        for name in names {
            let used = dependencies
                .lines()
                .any(|line| line.split(['.', ' ', '=']).next() == Some(name));
            assert!(!used, "{folder} must not depend on {name}");
        }
    }
}
