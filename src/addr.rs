//! Addresses with types, and regions of them: the one place for range arithmetic.
//!
//! A [`PhysAddr`] is what this machine's bus sees, an [`Ipa`] is what a guest takes for one (Arm ARM,
//! "intermediate physical address"). Only stage 2 turns the one into the other. EL2 maps memory one
//! to one, so a hypervisor pointer and a [`PhysAddr`] have the same value.

use core::fmt;

/// The translation granule, and the size of a frame: 4 KiB.
pub const PAGE_SIZE: u64 = 4096;

/// What [`Region`] needs of an address type.
pub trait Addr: Copy + Ord + fmt::Debug {
    /// The address with the value `raw`.
    fn new(raw: u64) -> Self;
    /// The plain value.
    fn raw(self) -> u64;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub struct $name(u64);

        impl $name {
            /// The address with the value `raw`.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The plain value.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The first byte of the 4 KiB page that holds this address.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The byte within its 4 KiB page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address `bytes` further on; `None` past the end of the 64-bit space.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// How many bytes this address lies past `base`; `None` below it.
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// Whether the address is a multiple of `alignment`, a power of two.
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & (alignment - 1) == 0
            }

            /// The next multiple of `alignment`, a power of two; `None` past the end of the space.
            pub const fn align_up(self, alignment: u64) -> Option<Self> {
                match self.0.checked_add(alignment - 1) {
                    Some(raw) => Some(Self(raw & !(alignment - 1))),
                    None => None,
                }
            }

            /// The multiple of `alignment`, a power of two, at or below this address.
            pub const fn align_down(self, alignment: u64) -> Self {
                Self(self.0 & !(alignment - 1))
            }
        }

        impl Addr for $name {
            fn new(raw: u64) -> Self {
                Self(raw)
            }

            fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An address on this machine's bus (Arm ARM, "physical address"). EL2 maps memory one to one.
    PhysAddr
}

address! {
    /// An address a guest takes for a physical one (Arm ARM, "intermediate physical address").
    Ipa
}

/// A run of bytes that is not empty and does not wrap. The end is kept inclusive, so that a region
/// may touch the top of the address space.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Region<A> {
    start: A,
    last: A,
}

impl<A: Addr> Region<A> {
    /// The `size` bytes from `start`; `None` when empty or past the end of the address space.
    pub fn new(start: A, size: u64) -> Option<Self> {
        let last = start.raw().checked_add(size.checked_sub(1)?)?;
        Some(Self { start, last: A::new(last) })
    }

    /// The bytes from `start` up to but not including `end`; `None` when that is none.
    pub fn between(start: A, end: A) -> Option<Self> {
        Self::new(start, end.raw().checked_sub(start.raw())?)
    }

    /// The first byte.
    pub const fn start(&self) -> A {
        self.start
    }

    /// The last byte (inclusive).
    pub const fn last(&self) -> A {
        self.last
    }

    /// The first byte after the region; `None` where the region touches the top of the space.
    pub fn end(&self) -> Option<A> {
        self.last.raw().checked_add(1).map(A::new)
    }

    /// How many bytes; saturates for the one region of 2^64.
    pub fn size(&self) -> u64 {
        (self.last.raw() - self.start.raw()).saturating_add(1)
    }

    /// Whether `addr` lies inside.
    pub fn contains(&self, addr: A) -> bool {
        self.start <= addr && addr <= self.last
    }

    /// Whether all of `other` lies inside.
    pub fn contains_region(&self, other: &Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Whether all of the `size` bytes from `addr` lie inside; true for no bytes at `addr` inside.
    pub fn contains_bytes(&self, addr: A, size: u64) -> bool {
        match Self::new(addr, size.max(1)) {
            Some(bytes) => self.contains_region(&bytes),
            None => false,
        }
    }

    /// Whether the two share a byte.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// The bytes in both.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let last = self.last.min(other.last);
        (start <= last).then_some(Self { start, last })
    }

    /// The first `size` bytes, one at least and not more than there are, and the rest.
    #[must_use]
    pub fn split_front(&self, size: u64) -> (Self, Option<Self>) {
        let front = Self::new(self.start, size.clamp(1, self.size())).unwrap_or(*self);
        let [_, rest] = self.without(&front);
        (front, rest)
    }

    /// What is left of this region without `hole`: the part below it and the part above it.
    pub fn without(&self, hole: &Self) -> [Option<Self>; 2] {
        if !self.overlaps(hole) {
            return [Some(*self), None];
        }
        let below = (self.start < hole.start)
            .then(|| Self { start: self.start, last: A::new(hole.start.raw() - 1) });
        let above = (hole.last < self.last)
            .then(|| Self { start: A::new(hole.last.raw() + 1), last: self.last });
        [below, above]
    }

    /// The largest region of whole `alignment`-sized, aligned units inside; `alignment` is a power of
    /// two. `None` when no whole unit fits.
    pub fn shrink_to(&self, alignment: u64) -> Option<Self> {
        let mask = alignment - 1;
        let start = self.start.raw().checked_add(mask)? & !mask;
        // The last byte of a whole unit has all the low bits set.
        let last = if self.last.raw() & mask == mask {
            self.last.raw()
        } else {
            (self.last.raw() & !mask).checked_sub(1)?
        };
        (start <= last).then(|| Self { start: A::new(start), last: A::new(last) })
    }

    /// The smallest region of whole `alignment`-sized, aligned units around this one.
    pub fn grow_to(&self, alignment: u64) -> Self {
        let mask = alignment - 1;
        Self { start: A::new(self.start.raw() & !mask), last: A::new(self.last.raw() | mask) }
    }
}

impl<A: Addr> fmt::Debug for Region<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..={:?}", self.start, self.last)
    }
}

impl<A: Addr> fmt::Display for Region<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..={:?}", self.start, self.last)
    }
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, size: u64) -> Region<Ipa> {
        Region::new(Ipa::new(start), size).unwrap()
    }

    #[test]
    fn a_region_may_touch_the_top_of_the_space_but_not_wrap() {
        let top = region(u64::MAX - 0xf, 0x10);
        assert_eq!(top.last(), Ipa::new(u64::MAX));
        assert_eq!(top.end(), None);
        assert!(Region::new(Ipa::new(u64::MAX), 2).is_none());
        assert!(Region::new(Ipa::new(0), 0).is_none());
    }

    #[test]
    fn bytes_that_wrap_are_contained_nowhere() {
        assert!(!region(0, 0x1000).contains_bytes(Ipa::new(u64::MAX), 8));
        assert!(region(0, 0x1000).contains_bytes(Ipa::new(0xff8), 8));
        assert!(!region(0, 0x1000).contains_bytes(Ipa::new(0xff9), 8));
    }
}
