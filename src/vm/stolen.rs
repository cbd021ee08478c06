//! The page in which a VM's vCPUs read how much time was stolen from them (DEN0057A, "Stolen time").
//!
//! It is the hypervisor's own memory; a guest sees it at [`layout::STOLEN_TIME`] and may only read it. A
//! guest maps it as Normal Write-Back, as the document demands, so nothing is cleaned after a write.

use alloc::boxed::Box;

use super::{Vm, layout};
use crate::addr::Ipa;
use crate::firmware::pvtime::{STOLEN_TIME, STRUCTURE_SIZE};
use crate::memory::GuestMemory;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::{Frequency, Ticks};
use crate::vcpu::VcpuId;

/// What is known of one vCPU's stolen time.
#[derive(Default)]
struct Stolen {
    /// The scheduler's total, when it was last told.
    seen: AtomicU64,
    /// Ticks since the VM's last reset.
    total: AtomicU64,
}

/// Each vCPU's stolen time, as the scheduler counts it and as the guest reads it.
pub(super) struct StolenTime {
    page: GuestMemory,
    frequency: Frequency,
    vcpus: Box<[Stolen]>,
}

impl StolenTime {
    /// Nothing has been stolen from `vcpus` vCPUs. `page` is zeroed and lies at
    /// [`layout::STOLEN_TIME`].
    pub(super) fn new(page: GuestMemory, frequency: Frequency, vcpus: u8) -> Self {
        Self { page, frequency, vcpus: (0..vcpus).map(|_| Stolen::default()).collect() }
    }

    /// The page, to be given back.
    pub(super) fn into_page(self) -> GuestMemory {
        self.page
    }

    /// The scheduler's total for `vcpu` is `stolen` now.
    fn publish(&self, vcpu: VcpuId, stolen: Ticks) {
        let Some(own) = self.vcpus.get(vcpu.index()) else { return };
        let seen = Ticks(own.seen.swap(stolen.0, Ordering::Relaxed));
        let more = stolen.since(seen).0;
        if more > 0 {
            let total = own.total.fetch_add(more, Ordering::Relaxed).saturating_add(more);
            self.write(vcpu, self.frequency.to_nanos(Ticks(total)));
        }
    }

    /// The VM begins again: nothing has been stolen from it.
    pub(super) fn reset(&self) {
        for (index, own) in (0..).zip(&self.vcpus) {
            own.total.store(0, Ordering::Relaxed);
            self.write(VcpuId(index), 0);
        }
    }

    #[inline]
    fn write(&self, vcpu: VcpuId, nanoseconds: u64) {
        // Aligned, hence one store: the guest never sees half of it.
        let written = self.page.write(field(vcpu), nanoseconds);
        debug_assert_eq!(written, Ok(()), "a page is enough for all vCPUs");
    }

    fn read(&self, vcpu: VcpuId) -> u64 {
        self.page.read(field(vcpu)).unwrap_or(0)
    }
}

/// Where a vCPU reads its stolen time.
const fn field(vcpu: VcpuId) -> Ipa {
    let offset = STRUCTURE_SIZE * vcpu.0 as u64 + STOLEN_TIME;
    Ipa::new(layout::STOLEN_TIME.base.raw() + offset)
}

impl Vm {
    /// Tell `vcpu` how much time was stolen from it: `stolen` is the scheduler's total of the time that
    /// it could have run and did not, which never decreases. The guest reads what has come since its last
    /// reset.
    pub fn publish_stolen(&self, vcpu: VcpuId, stolen: Ticks) {
        self.stolen.publish(vcpu, stolen);
    }

    /// The stolen time that `vcpu` reads, in nanoseconds.
    pub fn stolen_nanos(&self, vcpu: VcpuId) -> u64 {
        self.stolen.read(vcpu)
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use super::*;
    use crate::memory::{FramePool, Ram, Recorder};
    use crate::vcpu::MAX_VCPUS;

    const PAGE: u64 = 0x090a_0000;

    fn stolen_time(hertz: u32) -> StolenTime {
        let mut pool = FramePool::new();
        pool.add(Ram::from_heap(4096, 4096).unwrap(), &[]);
        let frames = pool.allocate(4096).unwrap().scrub().clean(&Recorder::default());
        let mut page = GuestMemory::new();
        page.add(layout::STOLEN_TIME.base, frames).unwrap();
        let vcpus = u8::try_from(MAX_VCPUS).unwrap();
        StolenTime::new(page, Frequency(NonZeroU32::new(hertz).unwrap()), vcpus)
    }

    /// What a vCPU reads.
    fn nanos(stolen: &StolenTime, vcpu: u64) -> u64 {
        stolen.page.read(Ipa::new(PAGE + 64 * vcpu + 8)).unwrap()
    }

    #[test]
    fn each_vcpu_reads_its_own_nanoseconds() {
        let stolen = stolen_time(62_500_000);
        for vcpu in 0..8 {
            assert_eq!(nanos(&stolen, vcpu.into()), 0);
            stolen.publish(VcpuId(vcpu), Ticks(u64::from(vcpu) * 62_500_000));
        }
        for vcpu in 0..8 {
            assert_eq!(nanos(&stolen, vcpu), vcpu * 1_000_000_000);
        }
        stolen.publish(VcpuId(2), Ticks(125_000_001));
        assert_eq!(nanos(&stolen, 2), 2_000_000_016);
    }

    #[test]
    fn revision_and_attributes_are_zero() {
        let stolen = stolen_time(1);
        stolen.publish(VcpuId(0), Ticks(u64::MAX));
        assert_eq!(stolen.page.read::<u64>(Ipa::new(PAGE)), Ok(0));
    }

    #[test]
    fn after_a_reset_only_what_is_stolen_from_then_on_counts() {
        let stolen = stolen_time(1_000_000_000);
        stolen.publish(VcpuId(1), Ticks(500));
        stolen.reset();
        assert_eq!(nanos(&stolen, 1), 0);
        stolen.publish(VcpuId(1), Ticks(500));
        assert_eq!(nanos(&stolen, 1), 0);
        stolen.publish(VcpuId(1), Ticks(530));
        assert_eq!(nanos(&stolen, 1), 30);
    }

    #[test]
    fn the_time_never_goes_back_whatever_the_scheduler_says() {
        let stolen = stolen_time(1_000_000_000);
        for (total, read) in [(900, 900), (100, 900), (150, 950)] {
            stolen.publish(VcpuId(0), Ticks(total));
            assert_eq!(nanos(&stolen, 0), read);
        }
    }

    #[test]
    fn centuries_do_not_overflow_and_no_such_vcpu_changes_nothing() {
        let stolen = stolen_time(1);
        stolen.publish(VcpuId(0), Ticks(u64::MAX));
        assert_eq!(nanos(&stolen, 0), u64::MAX);
        stolen.publish(VcpuId(200), Ticks(7));
        let stolen = stolen_time(u32::MAX);
        stolen.publish(VcpuId(0), Ticks(u64::MAX));
        assert_eq!(nanos(&stolen, 0), 4_294_967_297_000_000_000);
    }
}
