//! VMIDs: the tags that keep one VM's TLB entries from another (Arm ARM, "VMID").
//!
//! Eight bits, which every CPU has. Zero belongs to no VM: it is loaded while none runs.

/// A VM's tag. [`Stage2`](super::Stage2) owns it for the VM's life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vmid(u8);

impl Vmid {
    /// The value for `VTTBR_EL2.VMID`; never zero.
    pub const fn raw(self) -> u8 {
        self.0
    }
}

/// Which VMIDs are taken.
#[derive(Debug)]
pub struct Vmids {
    taken: [bool; 256],
    last: u8,
}

impl Vmids {
    /// All 255 free.
    pub const fn new() -> Self {
        Self { taken: [false; 256], last: 0 }
    }

    /// One that no VM has; each comes up again as late as possible. `None` when 255 VMs exist.
    ///
    /// TLBs may still hold entries of its last owner: [`Stage2::new`](super::Stage2::new) has them
    /// invalidated before the VMID is of use to anybody.
    pub(in crate::memory) fn allocate(&mut self) -> Option<Vmid> {
        for step in (1..=u8::MAX).chain([0]) {
            let candidate = self.last.wrapping_add(step);
            let taken = &mut self.taken[usize::from(candidate)];
            if candidate != 0 && !*taken {
                *taken = true;
                self.last = candidate;
                return Some(Vmid(candidate));
            }
        }
        None
    }

    /// Gives a VMID back, once no CPU has it in `VTTBR_EL2`.
    pub(in crate::memory) fn release(&mut self, vmid: Vmid) {
        let was_taken = core::mem::take(&mut self.taken[usize::from(vmid.0)]);
        assert!(was_taken, "VMID {} was released twice", vmid.0);
    }
}

impl Default for Vmids {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_255_and_zero_is_none_of_them() {
        let mut vmids = Vmids::new();
        let all: BTreeSet<u8> = core::iter::from_fn(|| vmids.allocate()).map(Vmid::raw).collect();
        assert_eq!(all, (1..=255).collect());
    }

    #[test]
    fn a_released_vmid_comes_up_again_after_all_others() {
        let mut vmids = Vmids::new();
        let first = vmids.allocate().unwrap();
        vmids.release(first);
        let next: Vec<u8> = (0..255).map(|_| vmids.allocate().unwrap().raw()).collect();
        assert_eq!(next.last(), Some(&first.raw()));
        assert_eq!(vmids.allocate(), None);
    }

    #[test]
    fn the_only_free_vmid_is_found_wherever_the_search_stands() {
        let mut vmids = Vmids::new();
        let all: Vec<Vmid> = core::iter::from_fn(|| vmids.allocate()).collect();
        for vmid in all {
            vmids.release(vmid);
            assert_eq!(vmids.allocate(), Some(vmid));
        }
    }
}
