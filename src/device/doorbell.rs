//! Doorbells: how what happens outside a guest makes somebody look at one of its devices.
//!
//! A network card gets a packet from another VM's, a disk's request is done. Whoever causes that rings; the CPU that
//! it runs on answers before its guest goes on, with no device locked.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::sched::VmId;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many VMs share a word of [`Doorbells::groups`].
const GROUP: usize = 64;

/// The doorbells of all VMs' devices.
#[derive(Debug, Default)]
pub struct Doorbells {
    /// For each VM, a bit for each of its virtio slots whose bell was rung.
    vms: Box<[AtomicU32]>,
    /// A bit for each VM of which one was; set last, taken first.
    groups: Box<[AtomicU64]>,
}

impl Doorbells {
    /// Those of `vms` VMs.
    pub fn new(vms: usize) -> Self {
        Self {
            vms: (0..vms).map(|_| AtomicU32::new(0)).collect(),
            groups: (0..vms.div_ceil(GROUP)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether some bell was rung and nobody has answered it.
    #[inline(always)]
    pub fn is_rung(&self) -> bool {
        self.groups.iter().any(|group| group.load(Ordering::Relaxed) != 0)
    }

    /// Who is to be looked at: VMs, and a bit for each of their slots. Each is told once.
    pub fn answer(&self, mut look: impl FnMut(VmId, u32)) {
        for (group, first) in self.groups.iter().zip((0..).step_by(GROUP)) {
            let mut vms = group.swap(0, Ordering::Acquire);
            while vms != 0 {
                let index = first + vms.trailing_zeros() as usize;
                vms &= vms - 1;
                let slots = self.vms.get(index).map_or(0, |vm| vm.swap(0, Ordering::AcqRel));
                if let Ok(id) = u16::try_from(index) {
                    look(VmId(id), slots);
                }
            }
        }
    }

    fn ring(&self, vm: VmId, slot: u32) {
        let index = vm.index();
        let (Some(slots), Some(group)) = (self.vms.get(index), self.groups.get(index / GROUP))
        else {
            return;
        };
        slots.fetch_or(slot, Ordering::Release);
        group.fetch_or(1 << (index % GROUP), Ordering::Release);
    }
}

/// One device's bell.
#[derive(Clone, Debug)]
pub struct Doorbell {
    bells: Arc<Doorbells>,
    vm: VmId,
    slot: u32,
}

impl Doorbell {
    /// The bell of what is in virtio slot `slot`, below 32, of `vm`.
    pub fn new(bells: Arc<Doorbells>, vm: VmId, slot: u16) -> Self {
        Self { bells, vm, slot: 1u32.checked_shl(slot.into()).unwrap_or(0) }
    }

    /// Somebody is to look at the device.
    pub fn ring(&self) {
        self.bells.ring(self.vm, self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn answered(bells: &Doorbells) -> Vec<(u16, u32)> {
        let mut all = Vec::new();
        bells.answer(|vm, slots| all.push((vm.0, slots)));
        all
    }

    #[test]
    fn every_bell_that_was_rung_is_answered_once() {
        let bells = Arc::new(Doorbells::new(128));
        let bell = |vm, slot| Doorbell::new(bells.clone(), VmId(vm), slot);
        assert!(!bells.is_rung());
        for (vm, slot) in [(127, 31), (0, 0), (64, 2), (64, 1), (64, 2)] {
            bell(vm, slot).ring();
            assert!(bells.is_rung());
        }
        assert_eq!(answered(&bells), [(0, 1), (64, 6), (127, 1 << 31)]);
        assert!(!bells.is_rung());
        assert_eq!(answered(&bells), vec![]);
    }

    #[test]
    fn a_bell_of_nobody_disturbs_nobody() {
        let bells = Arc::new(Doorbells::new(2));
        Doorbell::new(bells.clone(), VmId(2), 0).ring();
        assert!(!bells.is_rung());
        Doorbell::new(bells.clone(), VmId(1), 32).ring();
        assert_eq!(answered(&bells), [(1, 0)]);
    }
}
