//! The memory that a driver shares with its device.
//!
//! It comes from the heap, where a physical address is a pointer's value: at EL2 all memory is mapped one to one, and on the
//! PC the fake devices of the tests live in the same process. A device has to be coherent with the caches: no
//! cache is ever cleaned here.
#![allow(unsafe_code)]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// How the `virtio-drivers` crate gets its memory here.
#[derive(Debug)]
pub enum Heap {}

fn layout(pages: usize) -> Option<Layout> {
    let size = pages.checked_mul(PAGE_SIZE).filter(|size| *size > 0)?;
    Layout::from_size_align(size, PAGE_SIZE).ok()
}

// SAFETY: `dma_alloc` returns zeroed pages of the heap, or the address 0, which the crate takes for "none"; nothing is done
// to a buffer to share it, as devices see memory by the same addresses and through the same caches.
unsafe impl Hal for Heap {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the size is not zero.
        let start = layout(pages).and_then(|it| NonNull::new(unsafe { alloc_zeroed(it) }));
        match start {
            Some(start) => (start.as_ptr().expose_provenance() as PhysAddr, start),
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, start: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = layout(pages) {
            // SAFETY: by this function's contract `dma_alloc` returned it for so many pages.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        // Only the PCI transport asks, which nobody makes.
        NonNull::dangling()
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Pages of device memory. They go back when the last buffer in them is dropped.
struct Pages<H: Hal> {
    address: PhysAddr,
    start: NonNull<u8>,
    count: usize,
    hal: PhantomData<fn() -> H>,
}

// SAFETY: nobody has the memory but the buffers in it, each its own part, and they are as good on any CPU.
unsafe impl<H: Hal> Send for Pages<H> {}
// SAFETY: as above; there is nothing to call.
unsafe impl<H: Hal> Sync for Pages<H> {}

impl<H: Hal> Drop for Pages<H> {
    fn drop(&mut self) {
        // SAFETY: from `dma_alloc`, once, and no buffer is left in them.
        unsafe { H::dma_dealloc(self.address, self.start, self.count) };
    }
}

/// Some bytes that can be lent to a device. To have it is to own them: who lends it to a device has to give it away, to a
/// [`Ring`](super::ring::Ring).
pub struct Buffer<H: Hal> {
    start: NonNull<u8>,
    size: usize,
    pages: Arc<Pages<H>>,
}

// SAFETY: it owns its bytes, which are as good on any CPU.
unsafe impl<H: Hal> Send for Buffer<H> {}
// SAFETY: a shared one only lends its bytes to be read.
unsafe impl<H: Hal> Sync for Buffer<H> {}

impl<H: Hal> fmt::Debug for Buffer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.size, self.start)
    }
}

impl<H: Hal> Buffer<H> {
    /// `count` buffers of `size` bytes each, all zero; `None` where there is no memory. A size that divides a page
    /// has no buffer cross one.
    pub fn several(count: usize, size: usize) -> Option<impl Iterator<Item = Self>> {
        let pages = count.checked_mul(size)?.div_ceil(PAGE_SIZE);
        if pages == 0 {
            return None;
        }
        let (address, start) = H::dma_alloc(pages, BufferDirection::Both);
        if address == 0 {
            return None;
        }
        let pages = Arc::new(Pages { address, start, count: pages, hal: PhantomData });
        Some((0..count).map(move |index| {
            // SAFETY: `count` times `size` bytes lie within the pages.
            let start = unsafe { pages.start.add(index * size) };
            Self { start, size, pages: pages.clone() }
        }))
    }

    /// How many bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        debug_assert!(Arc::strong_count(&self.pages) > 0);
        // SAFETY: the bytes lie in the pages, which live as long as this; nobody else has them while this is not lent.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and this one is borrowed for itself.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    /// Where it lies.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}
