//! Who holds how much memory: an allocator around another that samples what is asked of it.
//!
//! One allocation in [`PERIOD`] bytes, by chance, is remembered with the stack that asked for it, as the runtime of Go
//! does it; from those the whole is estimated. What is sampled lies at the beginning of a page, so that to free anything
//! else costs no more than a look at its address.

#![allow(unsafe_code)] // an allocator is unsafe to write; this crate is nothing else

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

mod sites;

pub use sites::{Profile, Site, profile};

/// One sample in so many bytes. To look at a stack takes some twenty microseconds, and a request allocates a few hundred
/// kilobytes: this is a hundredth of its time, and a heap of a hundred megabytes still has fifty samples.
pub const PERIOD: usize = 2 * 1024 * 1024;
/// Sampled memory is aligned to this, and hardly anything else that is smaller than a page is.
const PAGE: usize = 4096;

thread_local! {
    /// Bytes until the thread's next sample.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    /// State of the thread's random numbers; zero until its first sample.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// Whether the thread is keeping a sample right now: what that allocates is not sampled.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// An allocator that samples what another one does.
pub struct Sampled<A>(pub A);

impl<A: GlobalAlloc> Sampled<A> {
    /// Memory for a sample; none if it is not worth one or cannot be had.
    #[cold]
    fn sample(&self, layout: Layout, zeroed: bool) -> Option<*mut u8> {
        let is_first = draw();
        if is_first {
            return None;
        }
        let paged = layout.align_to(PAGE).ok()?;
        // SAFETY: the layout is the caller's, whose size is not zero, with a larger alignment.
        let memory = unsafe {
            match zeroed {
                true => self.0.alloc_zeroed(paged),
                false => self.0.alloc(paged),
            }
        };
        if memory.is_null() {
            return None;
        }
        let kept = busy(|| sites::add(memory as usize, layout.size(), paged.align()));
        if kept == Some(true) {
            return Some(memory);
        }
        // SAFETY: it was allocated just now with this layout, and nobody has it.
        unsafe { self.0.dealloc(memory, paged) };
        None
    }
}

/// Looks at the samples, which may allocate: none of that is sampled, and none of it is looked up, so that their lock is
/// taken once. Nothing while that is being done already.
fn busy<T>(work: impl FnOnce() -> T) -> Option<T> {
    let is_free = BUSY.try_with(|busy| !busy.replace(true));
    if !is_free.unwrap_or(false) {
        return None;
    }
    let done = work();
    let _ = BUSY.try_with(|busy| busy.set(false));
    Some(done)
}

/// Whether an allocation of this size is sampled.
fn is_due(size: usize) -> bool {
    LEFT.try_with(|left| match left.get().checked_sub(size) {
        Some(rest) => {
            left.set(rest);
            false
        }
        None => true,
    })
    // A thread that is ending has no place to count any more.
    .unwrap_or(false)
}

/// Draws after how many bytes the next sample comes; `true` if the thread has not drawn before, and had none due.
fn draw() -> bool {
    let drawn = RANDOM.try_with(|random| {
        let seen = random.get();
        // Addresses of threads differ, and are never zero.
        let mut state = match seen {
            0 => ptr::from_ref(random) as u64,
            seen => seen,
        };
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        random.set(state);
        // Between 0 and 1, both left out. Exponential distances make every byte as likely as any other.
        let chance = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let distance = -chance.ln() * PERIOD as f64;
        let _ = LEFT.try_with(|left| left.set(distance as usize));
        seen == 0
    });
    drawn.unwrap_or(true)
}

/// The layout of a sample, if this is one; it is one no more.
fn forget(memory: *mut u8, layout: Layout) -> Option<Layout> {
    if !(memory as usize).is_multiple_of(PAGE) {
        return None;
    }
    let align = busy(|| sites::remove(memory as usize))??;
    layout.align_to(align).ok()
}

// SAFETY: every call goes to the inner allocator, with the layout that the memory was allocated with: a sample's own is
// kept beside it.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Sampled<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_due(layout.size())
            && let Some(memory) = self.sample(layout, false)
        {
            return memory;
        }
        // SAFETY: as the caller promises.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_due(layout.size())
            && let Some(memory) = self.sample(layout, true)
        {
            return memory;
        }
        // SAFETY: as the caller promises.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let layout = forget(memory, layout).unwrap_or(layout);
        // SAFETY: as the caller promises; a sample has the layout that it was given.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_sample = (memory as usize).is_multiple_of(PAGE)
            && busy(|| sites::holds(memory as usize)).unwrap_or(false);
        if !is_sample && !is_due(size.saturating_sub(layout.size())) {
            // SAFETY: as the caller promises.
            return unsafe { self.0.realloc(memory, layout, size) };
        }
        // What is a sample, or may become one, moves.
        // SAFETY: the caller promises that the size does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the new memory is the caller's alone and large enough for what is copied; the old one is given back with
        // the layout that the caller knows it by.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(memory, moved, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}
