//! Physical memory, by value.
//!
//! EL2 maps RAM one to one, so a physical address is also a pointer value; on the PC the "physical"
//! memory is a piece of the heap whose provenance was exposed, and the same code serves both.
//!
//! A guest may change its RAM at any time, and a table walker reads descriptors at any time. Hence no
//! reference to such memory ever exists: every access is volatile or atomic, and by value, or copies bytes in a way that the
//! compiler does not know (`copy::bytes`). What was copied is looked at, and not where it was copied from.
//!
//! # The unsafe contract
//!
//! It stands in one place, [`Ram::new`]. The frame pool is filled with [`Ram`] only, every address
//! that `memory` hands to the functions below lies in frames of that pool, and the functions cannot
//! be named outside `memory`.

#![allow(unsafe_code)]

use alloc::alloc::{Layout, alloc_zeroed};
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::SpinMutex;

use super::maintenance::Maintenance;
use crate::addr::{PhysAddr, Region};
use crate::{copy, ghost};

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "an address is a pointer value");

/// Memory given to the frame pool for good.
#[derive(Debug)]
pub struct Ram(Region<PhysAddr>);

impl Ram {
    /// Takes `region` as RAM.
    ///
    /// # Safety
    ///
    /// From now on, and on every CPU that runs hypervisor code, `region` is mapped one to one,
    /// readable, writable, Normal Write-Back Inner Shareable; and no Rust object, no code, no table
    /// and no device's buffer lies in it other than those put there through the pool's frames.
    pub const unsafe fn new(region: Region<PhysAddr>) -> Self {
        Self(region)
    }

    /// `size` zeroed bytes of the heap, aligned to `alignment` and never given back: RAM for a machine
    /// that runs on the PC. `None` when there is no such memory or `alignment` is no power of two.
    pub fn from_heap(size: u64, alignment: u64) -> Option<Self> {
        /// Keeps the memory reachable, so that leak checkers see that it is kept on purpose.
        static KEPT: SpinMutex<Vec<Kept>> = SpinMutex::new(Vec::new());
        struct Kept(#[expect(dead_code, reason = "only for reachability")] *mut u8);
        // SAFETY: the pointer is never used again.
        unsafe impl Send for Kept {}

        let layout =
            Layout::from_size_align(usize::try_from(size).ok()?, usize::try_from(alignment).ok()?)
                .ok()?;
        if size == 0 {
            return None;
        }
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return None;
        }
        KEPT.lock().push(Kept(start));
        let ram = Region::new(PhysAddr::new(start.expose_provenance() as u64), size)?;
        ghost::add(ram);
        Some(Self(ram))
    }

    /// RAM that does not exist, for tests of arithmetic that never touch it.
    #[cfg(test)]
    pub(super) fn imaginary(start: u64, size: u64) -> Self {
        Self(Region::new(PhysAddr::new(start), size).unwrap())
    }

    /// Where it lies.
    pub const fn region(&self) -> Region<PhysAddr> {
        self.0
    }
}

/// An integer that is read or written with one access: `u8` to `u64`. Guests are little-endian, as
/// the hypervisor is.
pub trait Word: Copy + Sized + private::Sealed {
    /// How many bytes.
    const SIZE: u64;
    /// The low bytes of `value`.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
}

mod private {
    pub trait Sealed {}
}

macro_rules! word {
    ($($int:ty)*) => {$(
        impl private::Sealed for $int {}
        impl Word for $int {
            const SIZE: u64 = size_of::<$int>() as u64;
            #[allow(clippy::cast_possible_truncation, reason = "the low bytes are asked for")]
            fn from_u64(value: u64) -> Self {
                value as $int
            }
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}

word!(u8 u16 u32 u64);

/// The pointer to `at`.
fn pointer<T>(at: PhysAddr) -> *mut T {
    #[allow(clippy::cast_possible_truncation, reason = "asserted above to have the same size")]
    let address = at.raw() as usize;
    let pointer: *mut T = ptr::with_exposed_provenance_mut(address);
    debug_assert!(pointer.is_aligned(), "{at} is misaligned for its access");
    pointer
}

/// Reads the integer at `at`, which is a multiple of its size, in one access.
pub(super) fn read<T: Word>(at: PhysAddr) -> T {
    // SAFETY: `at` lies in a frame of the pool (module page), which is mapped and aligned; other
    // writers are guests, hence volatile and by value.
    unsafe { pointer::<T>(at).read_volatile() }
}

/// Writes the integer at `at`, which is a multiple of its size, in one access.
pub(super) fn write<T: Word>(at: PhysAddr, value: T) {
    // SAFETY: as for `read`, and no Rust reference to a frame of the pool exists.
    unsafe { pointer::<T>(at).write_volatile(value) }
}

/// Reads the descriptor at `at`, a multiple of 8.
pub(super) fn load_descriptor(at: PhysAddr) -> u64 {
    // SAFETY: as for `read`; tables are only ever accessed atomically while a walker may see them,
    // and the reference ends with this expression.
    unsafe { AtomicU64::from_ptr(pointer(at)) }.load(Ordering::Relaxed)
}

/// Writes the descriptor at `at`, a multiple of 8. Walkers see it after `publish_descriptors`.
pub(super) fn store_descriptor(at: PhysAddr, value: u64) {
    // SAFETY: as for `load_descriptor`.
    unsafe { AtomicU64::from_ptr(pointer(at)) }.store(value, Ordering::Relaxed);
}

/// Copies the bytes from `at` on into `into`.
pub(super) fn read_into(at: PhysAddr, into: &mut [u8]) {
    // SAFETY: as for `read`; what is written is exclusively ours.
    unsafe { copy::bytes(pointer(at), into.as_mut_ptr(), into.len()) }
}

/// Copies `from` to the bytes from `at` on.
pub(super) fn write_from(at: PhysAddr, from: &[u8]) {
    // SAFETY: as for `write`; what is read does not change meanwhile.
    unsafe { copy::bytes(from.as_ptr(), pointer(at), from.len()) }
}

/// Copies `size` bytes. Where the two overlap, each byte becomes any of those that were copied.
pub(super) fn copy(from: PhysAddr, to: PhysAddr, size: u64) {
    #[allow(clippy::cast_possible_truncation, reason = "asserted above to have the same size")]
    // SAFETY: as for `read` and `write`.
    unsafe {
        copy::bytes(pointer(from), pointer(to), size as usize)
    }
}

/// Zeroes `region`.
pub(super) fn zero(region: Region<PhysAddr>) {
    const LINE: u64 = 64;
    let Some(lines) = region.shrink_to(LINE) else {
        return zero_bytes(region);
    };
    for edge in region.without(&lines).into_iter().flatten() {
        zero_bytes(edge);
    }
    #[cfg(miri)]
    let lines = zero_most(lines);
    let mut line: *mut u128 = pointer(lines.start());
    for _ in 0..lines.size() / LINE {
        // SAFETY: as for `write`; the four stores (of register pairs on AArch64) stay inside this
        // 64-byte line of `lines`, and the pointer ends at most one past the region.
        unsafe {
            line.write_volatile(0);
            line.add(1).write_volatile(0);
            line.add(2).write_volatile(0);
            line.add(3).write_volatile(0);
            line = line.wrapping_add(4);
        }
    }
}

/// Zeroes all but the first few lines of a large region at once, as Miri takes microseconds for each store of however many bytes.
/// Returns what is left.
#[cfg(miri)]
fn zero_most(lines: Region<PhysAddr>) -> Region<PhysAddr> {
    let (front, most) = lines.split_front(512);
    if let Some(most) = most {
        // SAFETY: as for `write`.
        unsafe {
            pointer::<u8>(most.start()).write_bytes(0, usize::try_from(most.size()).unwrap_or(0))
        };
    }
    front
}

fn zero_bytes(region: Region<PhysAddr>) {
    for at in region.start().raw()..=region.last().raw() {
        write(PhysAddr::new(at), 0u8);
    }
}

/// Zeroes `region`, and cleans the zeroes to the Point of Coherency. No line of it stays in a cache.
pub(super) fn erase(region: Region<PhysAddr>, cpu: &impl Maintenance) {
    cpu.erase(&Erasable(region));
}

/// Memory of the frame pool whose owner wants it zeroed. Nobody can make one but this module, so whoever is
/// handed one may write to all of it.
#[derive(Debug)]
pub struct Erasable(Region<PhysAddr>);

impl Erasable {
    /// Where it lies.
    pub const fn region(&self) -> Region<PhysAddr> {
        self.0
    }

    /// Zeroes it with stores.
    pub fn zero(&self) {
        zero(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> PhysAddr {
        Ram::from_heap(4096, 4096).unwrap().region().start()
    }

    #[test]
    fn copies_arrive_whole_at_every_alignment_and_length_and_touch_nothing_else() {
        let base = ram();
        for start in (0..17).step_by(crate::testing::pick(1, 3)) {
            for len in (0..27).chain(60..140).step_by(crate::testing::pick(1, 7)) {
                zero(Region::new(base, 192).unwrap());
                let at = base.checked_add(start as u64).unwrap();
                let bytes: Vec<u8> = (1..=len).collect();
                write_from(at, &bytes);
                let mut all = [0; 192];
                read_into(base, &mut all);
                let end = start + bytes.len();
                assert_eq!(all[start..end], bytes);
                assert!(all[..start].iter().chain(&all[end..]).all(|&b| b == 0));
                let mut again = vec![0; bytes.len()];
                read_into(at, &mut again);
                assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn zeroing_any_region_zeroes_exactly_that_region() {
        let base = ram();
        for (start, size) in [(0, 1), (3, 60), (60, 8), (64, 64), (1, 255), (63, 130), (0, 320)] {
            write_from(base, &[0xa5; 320]);
            zero(Region::new(base.checked_add(start).unwrap(), size).unwrap());
            let mut all = [0; 320];
            read_into(base, &mut all);
            for (at, &byte) in (0..).zip(&all) {
                let inside = (start..start + size).contains(&at);
                assert_eq!(byte, if inside { 0 } else { 0xa5 }, "byte {at}");
            }
        }
    }

    #[test]
    fn an_integer_is_little_endian_in_memory() {
        let base = ram();
        write(base, 0x1122_3344_5566_7788_u64);
        assert_eq!(read::<u8>(base), 0x88);
        assert_eq!(read::<u16>(PhysAddr::new(base.raw() + 2)), 0x5566);
        assert_eq!(read::<u32>(PhysAddr::new(base.raw() + 4)), 0x1122_3344);
        store_descriptor(base, 7);
        assert_eq!((load_descriptor(base), read::<u64>(base)), (7, 7));
    }

    #[test]
    fn heap_ram_is_refused_without_size_or_sane_alignment() {
        assert!(Ram::from_heap(0, 4096).is_none());
        assert!(Ram::from_heap(4096, 3).is_none());
    }
}
