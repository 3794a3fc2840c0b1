//! The samples, and the stacks that asked for them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::PERIOD;

/// Frames of a stack that are kept; futures within futures are deep.
const FRAMES_MAX: usize = 96;
/// Stacks that are told apart; more are counted as one without frames. At half a kilobyte each, a few megabytes.
const SITES_MAX: usize = 8192;
/// Samples at a time: at [`PERIOD`], those of 128 GiB.
const SAMPLES_MAX: usize = 64 * 1024;

/// What a stack has asked for, as estimated from its samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Site {
    /// Return addresses, the innermost first; none for what is not told apart.
    pub stack: Vec<usize>,
    /// Allocations since the start.
    pub alloc_objects: f64,
    /// Their bytes.
    pub alloc_bytes: f64,
    /// Those that are not freed.
    pub live_objects: f64,
    /// Their bytes.
    pub live_bytes: f64,
}

/// What the process has allocated, by who asked for it.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// By stack, in no order.
    pub sites: Vec<Site>,
}

struct Sample {
    site: usize,
    size: usize,
    align: usize,
}

#[derive(Default)]
struct State {
    sites: Vec<Site>,
    by_stack: HashMap<Box<[usize]>, usize>,
    samples: HashMap<usize, Sample>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many allocations of a size one sample of it stands for.
fn weight(size: usize) -> f64 {
    let chance = 1.0 - (-(size as f64) / PERIOD as f64).exp();
    1.0 / chance
}

/// Keeps a sample; `false` if there are too many.
pub(crate) fn add(memory: usize, size: usize, align: usize) -> bool {
    let mut frames = [0; FRAMES_MAX];
    let mut n_frames = 0;
    // SAFETY: the unwinder may be used by any number of threads at once; the lock of its safe form is for looking names up,
    // on another system.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            frames[n_frames] = frame.ip() as usize;
            n_frames += 1;
            n_frames < FRAMES_MAX
        });
    }
    let stack = &frames[..n_frames];
    let mut state = state();
    let state = state.get_or_insert_default();
    if state.samples.len() >= SAMPLES_MAX {
        return false;
    }
    let site = match state.by_stack.get(stack) {
        Some(site) => *site,
        None => state.new_site(stack),
    };
    let weight = weight(size);
    let counted = &mut state.sites[site];
    counted.alloc_objects += weight;
    counted.alloc_bytes += weight * size as f64;
    counted.live_objects += weight;
    counted.live_bytes += weight * size as f64;
    let sample = Sample { site, size, align };
    state.samples.insert(memory, sample);
    true
}

impl State {
    fn new_site(&mut self, stack: &[usize]) -> usize {
        let stack = match self.sites.len() {
            0..SITES_MAX => stack,
            _ => &[],
        };
        if let Some(site) = self.by_stack.get(stack) {
            return *site;
        }
        let site = Site {
            stack: stack.to_vec(),
            ..Site::default()
        };
        self.sites.push(site);
        let number = self.sites.len() - 1;
        self.by_stack.insert(stack.into(), number);
        number
    }
}

/// Whether there is a sample at this address.
pub(crate) fn holds(memory: usize) -> bool {
    let state = state();
    state
        .as_ref()
        .is_some_and(|state| state.samples.contains_key(&memory))
}

/// The alignment of a sample, if there is one at this address; it is one no more.
pub(crate) fn remove(memory: usize) -> Option<usize> {
    let mut state = state();
    let state = state.as_mut()?;
    let Sample { site, size, align } = state.samples.remove(&memory)?;
    let weight = weight(size);
    let counted = &mut state.sites[site];
    counted.live_objects -= weight;
    counted.live_bytes -= weight * size as f64;
    Some(align)
}

/// What the process has allocated; nothing if its allocator is not [`crate::Sampled`].
pub fn profile() -> Option<Profile> {
    // The copy is made outside of the lock as far as it can be: whoever frees a sample waits for it.
    crate::busy(|| {
        let sites = state().as_ref()?.sites.clone();
        Some(Profile { sites })
    })?
}
