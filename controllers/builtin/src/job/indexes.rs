//! Completion indexes: which are done, which are being worked on, which are free. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use corral_api::k8s::api::core::v1::Pod;

/// The annotation and label with a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The annotations with how often an index has failed before, and how often that did not count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often an index has failed before a pod of it was made; kept on the pod, for Jobs with a limit per index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    pub counted: u32,
    pub ignored: u32,
}

impl Failures {
    /// What a pod carries.
    pub fn of(pod: &Pod) -> Self {
        let read = |name: &str| {
            let text = pod.metadata.annotations.as_ref()?.get(name)?;
            text.parse().ok()
        };
        Self {
            counted: read(FAILURES).unwrap_or(0),
            ignored: read(IGNORED_FAILURES).unwrap_or(0),
        }
    }

    /// Writes them on a new pod.
    pub fn note(self, pod: &mut Pod) {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES.into(), self.counted.to_string());
        if self.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.into(), self.ignored.to_string());
        }
    }

    pub fn total(self) -> u32 {
        self.counted.saturating_add(self.ignored)
    }
}

/// A set of indexes; written as `0,2-4,7`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(pub BTreeSet<i32>);

/// Reads indexes as ranges; parts that cannot be read are left out.
pub fn ranges(text: &str) -> Vec<RangeInclusive<i32>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

impl Indexes {
    /// Reads what the status holds, as far as it is below `completions`; the API keeps it from being longer than what
    /// the pods of a Job can come to.
    pub fn parse(text: &str, completions: i32) -> Self {
        let all = ranges(text).into_iter().flatten();
        Self(all.take_while(|index| *index < completions).collect())
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

/// The first few indexes that are neither spent nor held by one of the pods that have not ended.
pub fn free(pods: &[Arc<Pod>], spent: &BTreeSet<i32>, completions: i32, max: usize) -> Vec<i32> {
    let running = pods.iter().filter(|pod| !crate::pods::is_terminal(pod));
    let held: BTreeSet<_> = running.filter_map(|pod| of(pod)).collect();
    (0..completions)
        .filter(|index| !spent.contains(index) && !held.contains(index))
        .take(max)
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
            prop_assert_eq!(Indexes::parse(&indexes.to_string(), i32::MAX), indexes);
        }
    }

    #[test]
    fn ranges_are_written_as_kubernetes_writes_them() {
        assert_eq!(Indexes([0, 2, 3, 5, 6, 7].into()).to_string(), "0,2,3,5-7");
    }
}
