//! Completion indexes: which are done, which are being worked on, which are free. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use corral_api::k8s::api::core::v1::Pod;

/// The annotation and label with a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// A set of indexes; written as `0,2-4,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(pub BTreeSet<i32>);

impl Indexes {
    /// Reads what the status holds; parts that cannot be read are left out.
    pub fn parse(text: &str) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.extend(first..=last);
            }
        }
        Self(indexes)
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => ranges.push((*index, *index)),
            }
        }
        let texts = ranges.into_iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&texts.collect::<Vec<_>>().join(","))
    }
}

pub fn of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// Active pods that have no index, one that is done or out of range, or one that another pod has.
pub fn surplus(active: &[Arc<Pod>], done: &Indexes, completions: i32) -> Vec<Arc<Pod>> {
    let mut seen = BTreeSet::new();
    let unwanted = |pod: &&Arc<Pod>| match of(pod) {
        Some(index) if (0..completions).contains(&index) && !done.0.contains(&index) => {
            !seen.insert(index)
        }
        _ => true,
    };
    active.iter().filter(unwanted).cloned().collect()
}

/// The indexes that are neither done nor held by one of the pods that have not ended, smallest first.
pub fn free(pods: &[Arc<Pod>], done: &Indexes, completions: i32) -> Vec<i32> {
    let running = pods.iter().filter(|pod| !crate::pods::is_terminal(pod));
    let held: BTreeSet<_> = running.filter_map(|pod| of(pod)).collect();
    (0..completions)
        .filter(|index| !done.0.contains(index) && !held.contains(index))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn indexes_survive_a_trip_through_text(indexes in prop::collection::btree_set(0..200, 0..60)) {
            let indexes = Indexes(indexes);
            prop_assert_eq!(Indexes::parse(&indexes.to_string()), indexes);
        }
    }

    #[test]
    fn ranges_are_written_as_kubernetes_writes_them() {
        assert_eq!(Indexes([0, 2, 3, 5, 6, 7].into()).to_string(), "0,2,3,5-7");
    }
}
