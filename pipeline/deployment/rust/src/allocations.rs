//! A count of the program's allocations, which shows that an update makes none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count. onnxruntime allocates by its own, which is not counted.
pub struct CountingAllocator;

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: what the caller ensures is that of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Return how many allocations there were so far, in a program with this allocator.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}
