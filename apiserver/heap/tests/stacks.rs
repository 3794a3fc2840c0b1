//! More stacks than are told apart, over an allocator that puts all that is large at the beginning of a page, as samples are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use corral_heap::{PERIOD, Sampled, profile};

/// Puts what is as large as a page at the beginning of one.
struct Paged;

fn paged(layout: Layout) -> Layout {
    match layout.size() {
        0..4096 => layout,
        _ => layout.align_to(4096).unwrap_or(layout),
    }
}

// SAFETY: every call goes to the system's allocator with the same layout for the same memory; growing is left to the trait,
// which allocates, copies and frees.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Paged {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises, with a larger alignment.
        unsafe { System.alloc(paged(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as it was allocated.
        unsafe { System.dealloc(memory, paged(layout)) }
    }
}

#[global_allocator]
static ALLOCATOR: Sampled<Paged> = Sampled(Paged);

/// Allocates by a way of its own for each number: every bit is a turn.
fn by_way(number: u32, turns: u32) -> Vec<u8> {
    #[inline(never)]
    fn left(number: u32, turns: u32) -> Vec<u8> {
        black_box(by_way(number, turns))
    }
    #[inline(never)]
    fn right(number: u32, turns: u32) -> Vec<u8> {
        black_box(by_way(number, turns))
    }
    match turns {
        0 => Vec::with_capacity(4 * PERIOD),
        turns if number & 1 == 0 => left(number >> 1, turns - 1),
        turns => right(number >> 1, turns - 1),
    }
}

#[test]
fn any_number_of_stacks_is_told_apart_or_counted_together() {
    const TURNS: u32 = 14;
    let threads: Vec<_> = (0..2)
        .map(|_| std::thread::spawn(|| (0..1 << TURNS).for_each(|n| drop(by_way(n, TURNS)))))
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let profile = profile().expect("samples");
    let together = profile.sites.iter().find(|site| site.stack.is_empty());
    assert!(together.is_some_and(|site| site.alloc_objects > 1.0));
    assert!(profile.sites.len() > 1 << (TURNS - 2));
}
