//! The allocator under a whole program.

use std::alloc::System;
use std::collections::VecDeque;
use std::hint::black_box;

use corral_heap::{PERIOD, Profile, Sampled, profile};

#[global_allocator]
static ALLOCATOR: Sampled<System> = Sampled(System);

/// Enough samples that their number says something.
const BYTES: usize = 100 * PERIOD;

#[inline(never)]
fn hold_many_small() -> Vec<Vec<u8>> {
    (0..BYTES / 1024).map(|n| vec![n as u8; 1024]).collect()
}

#[inline(never)]
fn hold_few_large() -> Vec<Vec<u8>> {
    (0..BYTES / (4 * PERIOD))
        .map(|n| vec![n as u8; 4 * PERIOD])
        .collect()
}

/// Live and allocated bytes, and live objects, of the stacks through a function.
fn through(profile: &Profile, function: &str) -> [f64; 3] {
    let mut sum = [0.0; 3];
    for site in &profile.sites {
        let mut is_through = false;
        for address in &site.stack {
            backtrace::resolve(*address as *mut _, |symbol| {
                let name = symbol.name().map(|name| name.to_string());
                is_through |= name.is_some_and(|name| name.contains(function));
            });
        }
        if is_through {
            sum[0] += site.live_bytes;
            sum[1] += site.alloc_bytes;
            sum[2] += site.live_objects;
        }
    }
    sum
}

#[track_caller]
fn assert_about(found: f64, expected: usize) {
    // A hundred samples spread by a tenth; this is five times that.
    let expected = expected as f64;
    assert!(
        (found - expected).abs() < expected / 2.0,
        "{found} is not about {expected}"
    );
}

#[test]
fn what_is_held_is_estimated_with_who_holds_it() {
    let small = hold_many_small();
    let large = hold_few_large();
    let held = profile().expect("samples");
    let [live, all, objects] = through(&held, "hold_many_small");
    assert_about(live, BYTES);
    assert_about(all, BYTES);
    assert_about(objects, BYTES / 1024);
    let [live, ..] = through(&held, "hold_few_large");
    assert_about(live, BYTES);
    drop((small, large));
    let freed = profile().expect("samples");
    for function in ["hold_many_small", "hold_few_large"] {
        let [live, all, _] = through(&freed, function);
        assert_about(all, BYTES);
        assert!(
            live.abs() < 1.0,
            "{live} bytes of {function} are held by nobody"
        );
    }
}

#[test]
fn memory_is_what_was_written_however_it_grows_and_wherever_it_is_freed() {
    let threads: Vec<_> = (0..4)
        .map(|seed: u64| {
            std::thread::spawn(move || {
                let mut random = seed + 1;
                let mut held: VecDeque<(u8, Vec<u8>)> = VecDeque::new();
                for step in 0..3_000_u64 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(step | 1);
                    let size = (random >> 40) as usize % (1 << (8 + random % 13));
                    let byte = (random >> 32) as u8;
                    let mut memory = match step % 3 {
                        0 => vec![0; size],
                        _ => Vec::new(),
                    };
                    assert!(memory.iter().all(|zero| *zero == 0));
                    memory.clear();
                    memory.resize(size / 2, byte);
                    memory.resize(size, byte);
                    memory.shrink_to_fit();
                    held.push_back((byte, black_box(memory)));
                    if held.len() > 64 {
                        let (byte, memory) = held.pop_front().expect("some");
                        assert!(memory.iter().all(|other| *other == byte));
                    }
                }
                held
            })
        })
        .collect();
    for thread in threads {
        let held = thread.join().expect("no panic");
        for (byte, memory) in held {
            assert!(memory.iter().all(|other| *other == byte));
        }
    }
}
