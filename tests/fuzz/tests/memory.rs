//! No input makes a parser reserve more than a small multiple of the bytes that have come, whatever it announces.
//!
//! A test binary of its own, with one test: the allocator counts for the whole process.

use peak_alloc::PeakAlloc;
use tanist_fuzz::{TARGETS, Target, run};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that a target may take for an input of `length` bytes; the check itself keeps a few copies.
fn allowed(target: &Target, length: usize) -> Option<usize> {
    // The smallest thing with a memory of its own is an empty text: one byte of input, 24 bytes of memory, three times
    // that while a list of them grows.
    let by_input = (64 << 10) + 256 * length;
    match target.name {
        // Buffers of fixed size, and what is reserved at once for a large packet.
        "frames" => Some(by_input + (2 << 20)),
        "config" | "handshake" | "hard_state" | "http" | "pages" | "params" | "preamble" | "text"
        | "wire" => Some(by_input),
        _ => None,
    }
}

/// The most bytes that were in use at once during `work`, above those from before.
fn taken(work: impl FnOnce()) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.peak_usage();
    work();
    MEMORY.peak_usage().saturating_sub(before)
}

#[test]
fn no_target_reserves_much_more_than_has_come() {
    assert!(taken(|| drop(std::hint::black_box(vec![0u8; 1 << 20]))) >= 1 << 20, "nothing is measured");
    let mut measured = 0;
    for target in TARGETS.iter().filter(|target| allowed(target, 0).is_some()) {
        let mutations = u64::from(target.iterations / 4);
        run::with(target, 7, mutations, |input| {
            let taken = taken(|| (target.run)(input));
            let allowed = allowed(target, input.len()).unwrap_or(0);
            assert!(taken <= allowed, "{taken} bytes for {} bytes of input, allowed {allowed}", input.len());
        });
        measured += 1;
    }
    assert!(measured >= 10, "{measured} targets measured");
}
