//! A set of vCPUs that have to look at their interrupts again.

use crate::vcpu::VcpuId;
use core::ops::BitOr;

/// The vCPUs whose set of deliverable interrupts may have changed: each must [`sync`] before its
/// guest goes on, so one that runs elsewhere has to be kicked, and one that waits has to be woken.
///
/// [`sync`]: super::Vgic::sync
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[must_use = "a vCPU that is not told keeps running without its interrupt"]
pub struct Notify(u8);

impl Notify {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Whether there is nobody to tell.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `vcpu` is among them.
    pub const fn contains(self, vcpu: VcpuId) -> bool {
        vcpu.0 < 8 && self.0 & (1 << vcpu.0) != 0
    }

    /// All but `vcpu`.
    pub const fn without(self, vcpu: VcpuId) -> Self {
        if vcpu.0 < 8 { Self(self.0 & !(1 << vcpu.0)) } else { self }
    }

    /// Only `vcpu`.
    pub const fn only(vcpu: VcpuId) -> Self {
        if vcpu.0 < 8 { Self(1 << vcpu.0) } else { Self::NONE }
    }

    /// Each of them, from the lowest.
    #[inline(always)]
    pub fn iter(self) -> impl Iterator<Item = VcpuId> {
        super::bits(self.0.into()).filter_map(|index| u8::try_from(index).ok().map(VcpuId))
    }

    /// The vCPU with the index `v`.
    #[inline]
    pub(super) const fn bit(v: usize) -> Self {
        Self(1 << v)
    }

    /// The first `count` vCPUs.
    pub(super) const fn first(count: usize) -> Self {
        Self(u8::MAX >> (8 - count))
    }

    #[inline]
    pub(super) const fn has(self, v: usize) -> bool {
        self.0 & (1 << v) != 0
    }

    #[inline]
    pub(super) const fn but(self, v: usize) -> Self {
        Self(self.0 & !(1 << v))
    }
}

impl BitOr for Notify {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
