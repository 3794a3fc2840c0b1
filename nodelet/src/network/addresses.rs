//! The addresses of a node's pods: one file per address in use, named after it, holding the pod's uid.
//!
//! The files are the truth; a restarted agent finds the same addresses taken by the same pods.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::range::Range;

/// The network's own address and the gateway come first, the broadcast address last; none is a pod's.
const FIRST: u64 = 2;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every address is in use.
    #[error("no address is left in {0}")]
    Exhausted(Range),
    /// Another pod has the address.
    #[error("{0} belongs to another pod")]
    Taken(Ipv4Addr),
    /// The directory cannot be used.
    #[error("cannot keep addresses in {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The addresses of a range. As many entries as the range has addresses, at most.
#[derive(Debug)]
pub struct Addresses {
    directory: PathBuf,
    range: Range,
    taken: BTreeMap<Ipv4Addr, String>,
    /// Where to look next: an address that was just released is given out again as late as possible.
    next: u64,
}

impl Addresses {
    /// Opens what is kept in a directory. Addresses outside the range are kept for their pods, but never given out.
    pub fn open(directory: &Path, range: Range) -> Result<Self, Error> {
        let failed = |source| Error::Io {
            path: directory.to_owned(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(address) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let uid = std::fs::read_to_string(entry.path()).map_err(failed)?;
            // A crash between making and writing the file leaves an empty one: nobody was told the address.
            if uid.is_empty() {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            } else {
                taken.insert(address, uid);
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            range,
            taken,
            next: FIRST,
        })
    }

    /// The pod's address, a new one unless it has one.
    pub fn allocate(&mut self, uid: &str) -> Result<Ipv4Addr, Error> {
        if let Some(address) = self.of(uid) {
            return Ok(address);
        }
        let usable = self.range.size().saturating_sub(FIRST + 1);
        for step in 0..usable {
            let place = FIRST + (self.next - FIRST + step) % usable;
            let Some(address) = self.range.nth(place) else {
                break;
            };
            if !self.taken.contains_key(&address) {
                self.take(address, uid)?;
                self.next = FIRST + (place + 1 - FIRST) % usable;
                return Ok(address);
            }
        }
        Err(Error::Exhausted(self.range))
    }

    /// Notes that a pod has an address already.
    pub fn adopt(&mut self, uid: &str, address: Ipv4Addr) -> Result<(), Error> {
        match self.taken.get(&address) {
            Some(owner) if owner == uid => Ok(()),
            Some(_) => Err(Error::Taken(address)),
            None => self.take(address, uid),
        }
    }

    /// Frees the addresses of a pod.
    pub fn release(&mut self, uid: &str) -> Result<Vec<Ipv4Addr>, Error> {
        let freed: Vec<_> = self
            .taken
            .iter()
            .filter(|(_, owner)| *owner == uid)
            .map(|(address, _)| *address)
            .collect();
        for address in &freed {
            let path = self.path(*address);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Io { path, source });
                }
                _ => drop(self.taken.remove(address)),
            }
        }
        Ok(freed)
    }

    /// The pod's address.
    pub fn of(&self, uid: &str) -> Option<Ipv4Addr> {
        self.taken
            .iter()
            .find(|(_, owner)| *owner == uid)
            .map(|(address, _)| *address)
    }

    fn take(&mut self, address: Ipv4Addr, uid: &str) -> Result<(), Error> {
        let path = self.path(address);
        std::fs::write(&path, uid).map_err(|source| Error::Io { path, source })?;
        self.taken.insert(address, uid.to_owned());
        Ok(())
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.directory.join(address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_two_pods_share_an_address_and_a_restart_changes_nothing(
            steps in prop::collection::vec((0..3_u8, 0..12_u8), 1..60),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let range: Range = "10.1.1.0/28".parse().expect("a range");
            let mut addresses = Addresses::open(directory.path(), range).expect("opens");
            for (step, pod) in steps {
                let uid = format!("pod-{pod}");
                let before = addresses.of(&uid);
                match step {
                    0 => drop(addresses.release(&uid).expect("releases")),
                    1 => {
                        let kept = addresses.taken.clone();
                        addresses = Addresses::open(directory.path(), range).expect("opens");
                        prop_assert_eq!(&kept, &addresses.taken);
                    }
                    _ => {
                        let address = addresses.allocate(&uid).expect("12 pods, 13 addresses");
                        prop_assert!(before.is_none_or(|before| before == address));
                        prop_assert!(range.contains(address) && address != range.gateway());
                        prop_assert!(address != range.base() && Some(address) != range.nth(15));
                    }
                }
                let owners: BTreeSet<_> = addresses.taken.values().collect();
                prop_assert_eq!(owners.len(), addresses.taken.len());
            }
        }
    }

    #[test]
    fn an_exhausted_range_is_an_error_and_a_released_address_is_used_last() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut addresses =
            Addresses::open(directory.path(), "10.1.1.0/29".parse().expect("a range"))
                .expect("opens");
        let given: Vec<_> = (0..4)
            .map(|n| addresses.allocate(&format!("p{n}")).expect("an address"))
            .collect();
        addresses.release("p0").expect("releases");
        assert_eq!(
            addresses.allocate("p5").expect("an address"),
            Ipv4Addr::new(10, 1, 1, 6)
        );
        assert_eq!(addresses.allocate("p6").expect("an address"), given[0]);
        assert!(matches!(addresses.allocate("p7"), Err(Error::Exhausted(_))));
        assert!(matches!(
            addresses.adopt("p8", given[0]),
            Err(Error::Taken(_))
        ));
    }
}
