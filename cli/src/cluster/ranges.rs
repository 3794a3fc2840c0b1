//! Which addresses a cluster on this machine uses, when nobody says.
//!
//! Several clusters may live side by side, so that each takes ranges of its own. Choices are noted under
//! [`NOTES`], one file a cluster, while holding a lock; a note whose data directory is gone no longer counts.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use corral_nodelet::network::range::Range;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Where choices are noted.
const NOTES: &str = "/run/corral/ranges";
/// Second bytes of 10.x.0.0/16 that are tried for pods and Services, those of common use first.
const CANDIDATES: [(u8, u8); 64] = candidates();

const fn candidates() -> [(u8, u8); 64] {
    let mut out = [(244, 96); 64];
    let mut index = 1;
    while index < 64 {
        // Pods in 10.112–10.174, Services in 10.176–10.238.
        #[allow(clippy::cast_possible_truncation)]
        let step = index as u8;
        out[index] = (111 + step, 175 + step);
        index += 1;
    }
    out
}

/// The ranges of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// All pods.
    pub pods: Range,
    /// Services.
    pub services: Range,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    data_dir: PathBuf,
    pods: String,
    services: String,
}

fn sixteen(second: u8) -> Range {
    Range::new(Ipv4Addr::new(10, second, 0, 0), 16)
}

/// The ranges of the cluster in a data directory: those that it has, else free ones.
pub fn choose(
    data_dir: &Path,
    cluster_id: &str,
    pods: Option<Range>,
    services: Option<Range>,
) -> anyhow::Result<Ranges> {
    let kept = data_dir.join("network.json");
    if let Ok(text) = std::fs::read(&kept) {
        let note: Note =
            serde_json::from_slice(&text).with_context(|| kept.display().to_string())?;
        let found = Ranges {
            pods: note.pods.parse()?,
            services: note.services.parse()?,
        };
        let differs =
            pods.is_some_and(|p| p != found.pods) || services.is_some_and(|s| s != found.services);
        anyhow::ensure!(
            !differs,
            "this cluster uses {} for pods and {} for Services, which cannot be changed; leave the flags out",
            found.pods,
            found.services
        );
        note_down(cluster_id, data_dir, found)?;
        return Ok(found);
    }
    let _lock = lock()?;
    let taken = taken(cluster_id)?;
    let free = |range: &Range| taken.iter().all(|other| !other.overlaps(range));
    let chosen = CANDIDATES
        .iter()
        .map(|(p, s)| Ranges { pods: pods.unwrap_or(sixteen(*p)), services: services.unwrap_or(sixteen(*s)) })
        .find(|ranges| {
            (pods.is_some() || free(&ranges.pods)) && (services.is_some() || free(&ranges.services))
        })
        .context("no addresses are free for pods and Services; name some with --pod-range and --service-range")?;
    let note = write_note(cluster_id, data_dir, chosen)?;
    std::fs::write(&kept, note).with_context(|| format!("cannot write {}", kept.display()))?;
    Ok(chosen)
}

fn lock() -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(NOTES).with_context(|| format!("cannot make {NOTES}"))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(Path::new(NOTES).join(".lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

fn note_down(cluster_id: &str, data_dir: &Path, ranges: Ranges) -> anyhow::Result<()> {
    let _lock = lock()?;
    write_note(cluster_id, data_dir, ranges).map(|_| ())
}

fn write_note(cluster_id: &str, data_dir: &Path, ranges: Ranges) -> anyhow::Result<String> {
    let note = Note {
        data_dir: data_dir.canonicalize()?,
        pods: ranges.pods.to_string(),
        services: ranges.services.to_string(),
    };
    let text = serde_json::to_string(&note)?;
    std::fs::write(Path::new(NOTES).join(cluster_id), &text)?;
    Ok(text)
}

/// What others use: noted clusters, and every network that this machine has a route to.
fn taken(own: &str) -> anyhow::Result<Vec<Range>> {
    let mut taken = routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default());
    for entry in std::fs::read_dir(NOTES)?.flatten() {
        let Ok(note) = std::fs::read(entry.path())
            .map_err(drop)
            .and_then(|t| serde_json::from_slice::<Note>(&t).map_err(drop))
        else {
            continue;
        };
        if !note.data_dir.exists() {
            let _ = std::fs::remove_file(entry.path());
        } else if entry.file_name() != own {
            taken.extend(
                [&note.pods, &note.services]
                    .into_iter()
                    .filter_map(|text| text.parse::<Range>().ok()),
            );
        }
    }
    Ok(taken)
}

/// The networks of a routing table as the kernel prints it; the default route is none.
fn routes(table: &str) -> Vec<Range> {
    let number = |text: Option<&&str>| {
        text.and_then(|t| u32::from_str_radix(t, 16).ok())
            .map(u32::swap_bytes)
    };
    let mut out = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let (Some(base), Some(mask)) = (number(fields.get(1)), number(fields.get(7)))
            && mask != 0
        {
            let prefix = u8::try_from(mask.leading_ones()).unwrap_or(32);
            out.push(Range::new(Ipv4Addr::from(base), prefix));
        }
    }
    out
}

/// Forgets the choice of a cluster that is taken down.
pub fn forget(cluster_id: &str) {
    // A note that is not there is as good.
    let _ = std::fs::remove_file(Path::new(NOTES).join(cluster_id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_routes_are_read() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n\
                     eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(
            routes(table),
            [Range::new(Ipv4Addr::new(192, 168, 2, 0), 24)]
        );
    }

    #[test]
    fn candidates_do_not_overlap() {
        let mut seen = std::collections::HashSet::new();
        for (pods, services) in CANDIDATES {
            assert!(
                seen.insert(pods) && seen.insert(services),
                "{pods} {services}"
            );
        }
    }
}
