//! The heap: `buddy_system_allocator`'s, behind this project's one kind of lock. When it runs short it takes
//! more of the memory for guests, and keeps it.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use buddy_system_allocator::Heap;
use spin::Once;
use spin::mutex::TicketMutex;

use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::hypervisor::HeapReport;
use crate::memory::FramePool;

/// It takes more when less than this is free, in bytes: whoever gets it more may need some himself, and whoever
/// holds what there is to get goes on with this.
const LOW: usize = 64 << 10;
/// The least it takes, in bytes.
const GRAIN: u64 = 128 << 10;
/// Whoever has much reserved asks for nothing larger than this at a time, in bytes.
const BLOCK: u64 = 256 << 10;

/// Who gives the heap an aligned block of so many bytes or more; `None` if nobody can at the moment.
type Source = fn(u64) -> Option<Region<PhysAddr>>;

static SOURCE: Once<Source> = Once::new();

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

/// From now on it takes more from `source`: frames that were allocated for this, are mapped, and are never
/// given back.
pub fn grow_from(source: Source) {
    SOURCE.call_once(|| source);
}

/// Let at least `bytes` be free, with frames of `pool` where they are not, and such that they can be had whatever
/// is asked for one after the other. Returns whether they are.
pub fn reserve(pool: &mut FramePool, bytes: u64) -> bool {
    let wanted = bytes.saturating_add(LOW as u64);
    // One free block of a power of two has room for powers of two as long as their sum fits; little ones that come to
    // as much have no room for a large one.
    let block = wanted.next_power_of_two().min(BLOCK);
    while report().free < wanted || !has_block(block) {
        let Some(block) = keep(pool, block.max(GRAIN)) else { return false };
        // SAFETY: the frames were allocated for this; all memory is mapped.
        unsafe { add(block) };
    }
    true
}

/// Whether a block of so many bytes, a power of two, is free in one piece.
fn has_block(bytes: u64) -> bool {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    let Ok(layout) = Layout::from_size_align(size, 1) else { return false };
    let mut heap = HEAP.lock();
    let block = heap.alloc(layout);
    // SAFETY: it was allocated just now, and nobody has it.
    block.map(|block| unsafe { heap.dealloc(block, layout) }).is_ok()
}

/// Frames that are never given back: one aligned block of at least `bytes`.
pub fn keep(frames: &mut FramePool, bytes: u64) -> Option<Region<PhysAddr>> {
    let order = u8::try_from(bytes.div_ceil(PAGE_SIZE).next_power_of_two().ilog2()).ok()?;
    frames.allocate_block(order).map(|block| block.region())
}

/// One more block of at least `bytes`.
#[cold]
fn grow(bytes: u64) -> bool {
    let Some(block) = SOURCE.get().and_then(|source| source(bytes.max(GRAIN))) else {
        return false;
    };
    // SAFETY: the source's promise.
    unsafe { add(block) };
    true
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
        let mut heap = HEAP.lock();
        let block = heap.alloc(layout);
        let free = heap.stats_total_bytes().saturating_sub(heap.stats_alloc_actual());
        drop(heap);
        let block = match block {
            Ok(block) if free >= LOW => return block.as_ptr(),
            Ok(block) => {
                grow(GRAIN);
                Ok(block)
            }
            Err(()) if grow(layout.size().max(layout.align()) as u64) => HEAP.lock().alloc(layout),
            Err(()) => Err(()),
        };
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller gives back what `alloc` returned for this layout.
            unsafe { HEAP.lock().dealloc(block, layout) };
        }
    }
}
