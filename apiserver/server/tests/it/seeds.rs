//! What the fuzz targets begin with, and what they have found, given to the same functions without a fuzzer.

use std::path::Path;

#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

/// Gives a target all its seeds; the message of a failure names the last one.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let seeds = std::fs::read_dir(folder.join(target)).expect("seeds");
    let mut paths: Vec<_> = seeds.map(|seed| seed.expect("a seed").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there are no seeds of {target}");
    for path in paths {
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a seed"));
    }
}

#[test]
fn bodies_in_json_are_read() {
    replay("json", targets::json);
}

#[test]
fn bodies_in_yaml_are_read() {
    replay("yaml", targets::yaml);
}

#[test]
fn bodies_in_protobuf_are_read() {
    replay("protobuf", targets::protobuf);
}

#[test]
fn patches_are_applied() {
    replay("patches", targets::patches);
}

#[test]
fn selectors_are_read() {
    replay("selectors", targets::selectors);
}

#[test]
fn expressions_are_evaluated() {
    replay("cel", targets::cel);
}

#[test]
fn configurations_are_applied() {
    replay("apply", targets::apply);
}
