//! The versions of Kubernetes whose language is spoken.

/// A minor version of Kubernetes, which decides which parts of the library there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u16,
    minor: u16,
}

impl Version {
    /// The newest that is known: everything is there.
    pub const NEWEST: Self = Self::new(1, 36);
    /// What an expression that is new to the API may use, so that a server one version older can still read it.
    pub const COMPATIBLE: Self = Self::new(1, 35);

    /// A version such as 1.36.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }
}

impl Default for Version {
    fn default() -> Self {
        Self::NEWEST
    }
}
