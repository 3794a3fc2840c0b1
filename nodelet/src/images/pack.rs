//! A one-layer OCI image of a static program.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::Error;
use super::reference::Reference;
use super::store::digest;

/// This machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes an OCI archive with `program` as `/<its name>` and entrypoint, called `name`.
pub fn pack(program: &Path, name: &Reference, out: impl Write) -> Result<(), Error> {
    let bytes = std::fs::read(program).map_err(Error::io(format!("read {}", program.display())))?;
    let file = program
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("program");
    let layer = layer(file, &bytes)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{file}")], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "corral image pack"}],
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({
        "io.containerd.image.name": name.to_string(),
        "org.opencontainers.image.ref.name": name.tag.clone().unwrap_or_else(|| "latest".into()),
    });
    let index = json!({"schemaVersion": 2, "manifests": [entry]})
        .to_string()
        .into_bytes();
    let mut archive = tar::Builder::new(out);
    let write = |archive: &mut tar::Builder<_>, path: &str, bytes: &[u8]| {
        append(archive, path, bytes, 0o644).map_err(Error::io("write the image"))
    };
    write(
        &mut archive,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    for blob in [&layer, &config, &manifest] {
        write(
            &mut archive,
            &format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]),
            blob,
        )?;
    }
    write(&mut archive, "index.json", &index)?;
    archive.finish().map_err(Error::io("write the image"))
}

fn layer(file: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, file, bytes, 0o755).map_err(Error::io("make the layer"))?;
    archive.into_inner().map_err(Error::io("make the layer"))
}

/// Times and owners are zero, so that packing the same program twice gives the same image.
fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    // The same program makes the same image, whenever it is packed.
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, path, bytes)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}
