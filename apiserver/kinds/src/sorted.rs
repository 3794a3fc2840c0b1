//! A map that is made once and then only read.
//!
//! A cluster has thousands of schemas and each has many small maps. A tree keeps room for eleven entries in each of its
//! nodes, used or not, and entries are large; here a map takes what is in it.

use std::sync::Arc;

/// Values by name, in the order of the names.
#[derive(Debug, Clone)]
pub struct Sorted<V> {
    /// Apart from the values, so that looking for one reads few lines of memory.
    names: Box<[Arc<str>]>,
    values: Box<[V]>,
}

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self {
            names: Box::default(),
            values: Box::default(),
        }
    }
}

impl<V> Sorted<V> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&V> {
        let found = self.names.binary_search_by(|own| (**own).cmp(name));
        found.ok().map(|at| &self.values[at])
    }

    /// Whether there is a value of a name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.names.iter().zip(&self.values)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Of values with one name the last counts.
impl<V> FromIterator<(Arc<str>, V)> for Sorted<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<(Arc<str>, V)> = pairs.into_iter().collect();
        if !pairs.is_sorted_by(|(a, _), (b, _)| a < b) {
            // The last comes first, and those after it go.
            pairs.reverse();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            pairs.dedup_by(|(again, _), (first, _)| again == first);
        }
        let (names, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        Self {
            names: names.into(),
            values: values.into(),
        }
    }
}

impl<V, const N: usize> From<[(Arc<str>, V); N]> for Sorted<V> {
    fn from(pairs: [(Arc<str>, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_tree_would(pairs: Vec<(String, u8)>, asked: String) {
            let pairs = pairs.into_iter().map(|(name, value)| (Arc::from(name), value));
            let pairs: Vec<(Arc<str>, u8)> = pairs.collect();
            let tree: BTreeMap<Arc<str>, u8> = pairs.iter().cloned().collect();
            let sorted: Sorted<u8> = pairs.into_iter().collect();
            prop_assert!(sorted.iter().eq(tree.iter()));
            prop_assert!(sorted.values().eq(tree.values()));
            prop_assert_eq!(sorted.is_empty(), tree.is_empty());
            for name in tree.keys().map(|name| &**name).chain([asked.as_str()]) {
                prop_assert_eq!(sorted.get(name), tree.get(name));
                prop_assert_eq!(sorted.contains_key(name), tree.contains_key(name));
            }
        }
    }
}
