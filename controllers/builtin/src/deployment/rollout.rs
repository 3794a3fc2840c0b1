//! One step of a rollout: which sets get how many replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use corral_api::int_or_string::{IntOrString, Rounding, scaled};
use corral_api::k8s::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use corral_runtime::key::uid_of;

use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use super::{Set, spec_replicas, status};

/// Old sets kept for the way back.
const HISTORY_LIMIT_DEFAULT: i32 = 10;

/// The sets of a Deployment while a step is being worked out.
pub struct Rollout<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    /// The set of the present template.
    pub new: Option<Set>,
    /// All other sets, oldest first.
    pub old: Vec<Set>,
    pub create: Option<ReplicaSet>,
    pub delete: Vec<Arc<ReplicaSet>>,
}

fn quarter() -> IntOrString {
    IntOrString::String("25%".into())
}

fn is_rolling(spec: &DeploymentSpec) -> bool {
    let strategy = spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref());
    strategy != Some("Recreate")
}

/// Surge and unavailability in pods. Both zero would stand still, so then one pod may be missing.
fn fenceposts(spec: &DeploymentSpec) -> (i32, i32) {
    let rolling = spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.clone())
        .unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let surge = scaled(
        &rolling.max_surge.unwrap_or_else(quarter),
        replicas,
        Rounding::Up,
    )
    .unwrap_or(0);
    let missing = rolling.max_unavailable.unwrap_or_else(quarter);
    let missing = scaled(&missing, replicas, Rounding::Down).unwrap_or(0);
    if surge == 0 && missing == 0 {
        (0, 1)
    } else {
        (surge, missing)
    }
}

/// Pods beyond the wanted number that a rolling update may make.
pub fn max_surge(spec: &DeploymentSpec) -> i32 {
    if is_rolling(spec) {
        fenceposts(spec).0
    } else {
        0
    }
}

/// Pods that may be missing during a rolling update.
pub fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    let replicas = spec.replicas.unwrap_or(1);
    if is_rolling(spec) && replicas > 0 {
        fenceposts(spec).1.min(replicas)
    } else {
        0
    }
}

impl Rollout<'_> {
    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    /// Every set, the new one last.
    pub fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(|set| set.replicas).sum()
    }

    fn max_total(&self) -> i32 {
        if self.wanted() > 0 {
            self.wanted() + max_surge(self.spec)
        } else {
            0
        }
    }

    /// Plans the step; returns the revision that the Deployment shall carry if it differs from what it has.
    pub fn step(&mut self, running: &BTreeMap<String, usize>) -> Option<String> {
        let paused = self.spec.paused.unwrap_or(false);
        let revision = match &mut self.new {
            Some(new) => {
                if !paused {
                    new.min_ready_seconds = self.spec.min_ready_seconds;
                }
                Some(revision::stamp(self.deployment, new, &self.old))
            }
            None => None,
        };
        if paused || self.is_scaling() {
            self.scale();
            if paused {
                self.clean_up();
            }
        } else if is_rolling(self.spec) {
            self.roll();
        } else {
            self.recreate(running);
        }
        self.remember_size();
        let created = self
            .create
            .as_ref()
            .map(revision::of)
            .map(|revision| revision.to_string());
        let present = self
            .deployment
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(revision::REVISION));
        revision
            .or(created)
            .filter(|revision| Some(revision) != present)
    }

    /// Whether the Deployment was resized since its sets were last given their share.
    fn is_scaling(&self) -> bool {
        self.all()
            .filter(|set| spec_replicas(&set.set) > 0)
            .any(|set| {
                let known = number_annotation(&set.set, DESIRED_REPLICAS);
                known.is_some_and(|known| known != self.wanted())
            })
    }

    fn remember_size(&mut self) {
        let sizes = revision::size_annotations(self.wanted(), self.max_total());
        for set in self.old.iter_mut().chain(&mut self.new) {
            if set.replicas > 0 {
                set.annotations.extend(sizes.clone());
            }
        }
    }

    /// Gives the sets their share of a new size, in proportion to what they have.
    fn scale(&mut self) {
        let (wanted, max_total) = (self.wanted(), self.max_total());
        let saturated = self.new.as_ref().is_some_and(|new| {
            new.replicas == wanted
                && number_annotation(&new.set, DESIRED_REPLICAS) == Some(wanted)
                && new.available() == wanted
        });
        let mut active: Vec<&mut Set> = self
            .old
            .iter_mut()
            .chain(&mut self.new)
            .filter(|set| set.replicas > 0)
            .collect();
        if active.len() <= 1 {
            match active.pop() {
                Some(only) => only.replicas = wanted,
                // Nothing runs: the new set, or the latest of the old, gets everything.
                None => {
                    if let Some(latest) = self.new.as_mut().or(self.old.last_mut()) {
                        latest.replicas = wanted;
                    }
                }
            }
            return;
        }
        if saturated {
            self.old.iter_mut().for_each(|set| set.replicas = 0);
            return;
        }
        if !is_rolling(self.spec) {
            return;
        }
        let to_add = max_total - active.iter().map(|set| set.replicas).sum::<i32>();
        share(active, to_add, max_total);
    }

    fn ensure_new(&mut self) -> bool {
        if self.new.is_some() {
            return true;
        }
        let replicas = if is_rolling(self.spec) {
            (self.max_total() - self.total()).clamp(0, self.wanted())
        } else {
            self.wanted()
        };
        let mut set = revision::new_set(self.deployment, self.spec, &self.old, self.max_total());
        set.spec.get_or_insert_default().replicas = Some(replicas);
        self.create = Some(set);
        false
    }

    fn roll(&mut self) {
        if !self.ensure_new() || self.grow_new() {
            return;
        }
        if !self.shrink_old() && status::is_complete(self) {
            self.clean_up();
        }
    }

    fn grow_new(&mut self) -> bool {
        let (wanted, total, max_total) = (self.wanted(), self.total(), self.max_total());
        let Some(new) = &mut self.new else {
            return false;
        };
        let before = new.replicas;
        if new.replicas > wanted {
            new.replicas = wanted;
        } else if total < max_total {
            new.replicas += (max_total - total).min(wanted - new.replicas);
        }
        new.replicas != before
    }

    /// Takes from the old sets what the minimum of available pods allows: first what is not available anyway.
    fn shrink_old(&mut self) -> bool {
        let before: i32 = self.old.iter().map(|set| set.replicas).sum();
        if before == 0 {
            return false;
        }
        let min_available = self.wanted() - max_unavailable(self.spec);
        let new_missing = self
            .new
            .as_ref()
            .map_or(0, |new| new.replicas - new.available());
        let mut spare = self.total() - min_available - new_missing;
        if spare <= 0 {
            return false;
        }
        for set in &mut self.old {
            let unhealthy = (set.replicas - set.available()).clamp(0, spare.max(0));
            set.replicas -= unhealthy;
            spare -= unhealthy;
        }
        let available: i32 = self.all().map(Set::available).sum();
        let mut surplus = available - min_available;
        for set in &mut self.old {
            let taken = set.replicas.min(surplus).max(0);
            set.replicas -= taken;
            surplus -= taken;
        }
        before != self.old.iter().map(|set| set.replicas).sum::<i32>()
    }

    fn recreate(&mut self, running: &BTreeMap<String, usize>) {
        let mut scaled = false;
        for set in &mut self.old {
            scaled |= set.replicas > 0;
            set.replicas = 0;
        }
        let still = self.old.iter().any(|set| {
            running
                .get(uid_of(&set.set.metadata))
                .is_some_and(|n| *n > 0)
        });
        if scaled || still || !self.ensure_new() {
            return;
        }
        let wanted = self.wanted();
        if let Some(new) = &mut self.new {
            new.replicas = wanted;
        }
        if status::is_complete(self) {
            self.clean_up();
        }
    }

    /// Picks the oldest empty sets beyond the history limit for deletion.
    fn clean_up(&mut self) {
        let limit = self
            .spec
            .revision_history_limit
            .unwrap_or(HISTORY_LIMIT_DEFAULT);
        let limit = usize::try_from(limit).unwrap_or(0);
        let alive = |set: &&Set| set.set.metadata.deletion_timestamp.is_none();
        let mut old: Vec<&Set> = self.old.iter().filter(alive).collect();
        old.sort_by_key(|set| revision::of(&set.set));
        let surplus = old.len().saturating_sub(limit);
        let empty = |set: &&&Set| {
            let status = set.set.status.clone().unwrap_or_default();
            status.replicas == 0
                && set.replicas == 0
                && spec_replicas(&set.set) == 0
                && set.set.metadata.generation <= status.observed_generation
        };
        let picked: Vec<_> = old
            .iter()
            .take(surplus)
            .filter(empty)
            .map(|set| Arc::clone(&set.set))
            .collect();
        self.delete = picked;
        let kept = |set: &Set| !self.delete.iter().any(|gone| Arc::ptr_eq(gone, &set.set));
        self.old.retain(kept);
    }
}

fn number_annotation(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

/// Spreads `to_add` (which may be negative) over sets by size; what rounding leaves goes to the largest.
fn share(mut active: Vec<&mut Set>, to_add: i32, max_total: i32) {
    if to_add == 0 {
        return;
    }
    // Growing, newer sets come first among equals; shrinking, older ones.
    let created = |set: &Set| set.set.metadata.creation_timestamp.clone();
    active.sort_by(|a, b| {
        let by_age = if to_add > 0 {
            created(b).cmp(&created(a))
        } else {
            created(a).cmp(&created(b))
        };
        b.replicas.cmp(&a.replicas).then(by_age)
    });
    let mut added = 0;
    for set in &mut active {
        let left = to_add - added;
        let part = fraction(set, max_total);
        let part = if to_add > 0 {
            part.clamp(0, left)
        } else {
            part.clamp(left, 0)
        };
        set.replicas += part;
        added += part;
    }
    if let Some(largest) = active.first_mut() {
        largest.replicas = (largest.replicas + to_add - added).max(0);
    }
}

/// By how much a set's share changes when the whole goes from what it remembers to `max_total`.
fn fraction(set: &Set, max_total: i32) -> i32 {
    if max_total == 0 {
        return -set.replicas;
    }
    let known = number_annotation(&set.set, MAX_REPLICAS).filter(|known| *known > 0);
    let whole = f64::from(known.unwrap_or(max_total));
    let size = f64::from(set.replicas) * f64::from(max_total) / whole;
    #[allow(clippy::cast_possible_truncation)]
    let rounded = size.round() as i32;
    rounded - set.replicas
}
