//! The heap: `buddy_system_allocator`'s, behind this project's one kind of lock.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use buddy_system_allocator::Heap;
use spin::mutex::TicketMutex;

use crate::addr::{PhysAddr, Region};
use crate::hypervisor::HeapReport;

static HEAP: TicketMutex<Heap<32>> = TicketMutex::new(Heap::empty());

/// The one heap, by a type of no size: some hundred calls have nothing to pass.
struct TheHeap;

#[global_allocator]
static ALLOCATOR: TheHeap = TheHeap;

/// Give the heap more memory.
///
/// # Safety
/// `region` is mapped, writable memory that nobody else has, for good.
pub unsafe fn add(region: Region<PhysAddr>) {
    let start = (region.start().raw() as *mut u8).addr();
    let last = (region.last().raw() as *mut u8).addr();
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().add_to_heap(start, last + 1) };
}

/// How much there is, and how much of it is free.
pub fn report() -> HeapReport {
    let heap = HEAP.lock();
    let (total, used) = (heap.stats_total_bytes() as u64, heap.stats_alloc_actual() as u64);
    HeapReport { total, free: total.saturating_sub(used) }
}

// SAFETY: the buddy allocator hands out blocks of the layout's size and alignment, each once until it
// is given back; the lock serialises the calls.
unsafe impl GlobalAlloc for TheHeap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back what `alloc` returned for this layout.
            unsafe { HEAP.lock().dealloc(block, layout) };
        }
    }
}
