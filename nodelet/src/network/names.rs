//! What everything that a cluster makes on this machine is called. Clusters differ by their id, so they never meet.

use sha2::{Digest, Sha256};

/// How many characters of the id fit beside a prefix into an interface's name of at most 15.
const ID_MAX: usize = 12;

/// The names of one cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    id: String,
}

impl Names {
    /// The names for a cluster id; other characters than letters and digits are left out.
    pub fn new(cluster_id: &str) -> Self {
        Self {
            id: cluster_id
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(ID_MAX)
                .collect(),
        }
    }

    /// The bridge that pods are connected to.
    pub fn bridge(&self) -> String {
        format!("cb-{}", self.id)
    }

    /// The device that leads to nodes behind a router.
    pub fn vxlan(&self) -> String {
        format!("cv-{}", self.id)
    }

    /// The nftables table.
    pub fn table(&self) -> String {
        format!("corral-{}", self.id)
    }

    /// The node's end of a pod's link; the same for the same pod.
    pub fn pod_link(&self, pod_uid: &str) -> String {
        let hash = Sha256::new()
            .chain_update(&self.id)
            .chain_update(pod_uid)
            .finalize();
        format!("ce{}", hex(&hash[..6]))
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit() {
        let names = Names::new("0123456789abcdef");
        for name in [names.bridge(), names.vxlan(), names.pod_link("some-uid")] {
            assert!(name.len() <= 15, "{name}");
        }
        assert_ne!(Names::new("a").pod_link("u"), Names::new("b").pod_link("u"));
    }
}
