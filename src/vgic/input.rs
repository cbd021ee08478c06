//! What comes in from devices and physical interrupts.

use super::{Bank, IntId, Notify, Place, Vgic};
use crate::vcpu::VcpuId;

impl Vgic {
    /// The input of `intid` is now `high`. `vcpu` says whose, for a PPI; an SGI has no input, and an
    /// INTID the guest does not have is ignored.
    ///
    /// Of a linked interrupt, high says that the physical interrupt was acknowledged and is active on
    /// the guest's behalf: to be said once for each time. Low takes it back if the guest has not seen
    /// it yet. A falling input makes nothing deliverable, so nobody is notified of it; the vCPU that
    /// holds the interrupt drops it at its next sync.
    pub fn set_level(&mut self, vcpu: VcpuId, intid: IntId, high: bool) -> Notify {
        let Some((v, place)) = self.input(vcpu, intid) else { return Notify::NONE };
        let bit = place.bit();
        let bank = self.bank_mut(v, place.bank);
        if bank.linked & bit != 0 {
            if high {
                return self.pulse(v, place);
            }
            if bank.edge & bit == 0 {
                bank.latch &= !bit;
                bank.drop_pending |= bank.held & bit;
                let about = bit & (bank.held | bank.forwarded);
                let withdraw = self.concerned(v, place.bank, about);
                self.dirty = self.dirty | withdraw;
            }
            return Notify::NONE;
        }
        let rises = high && bank.line & bit == 0;
        if rises {
            bank.line |= bit;
            bank.latch |= bit & bank.edge;
            // Of one that is triggered by its level, the register has to ask for its end: as it was, it may not.
            let (wanted, edge) = (bit & bank.enabled, bank.edge & bit != 0);
            let notify = self.concerned(v, place.bank, wanted);
            let again = edge && self.comes_again(notify, place);
            return if again { notify } else { self.mark(notify) };
        }
        if !high {
            bank.line &= !bit;
            // Of one that is triggered by edges, the low input takes nothing back.
            let held = bit & bank.held & !bank.edge;
            let holder = self.owners(v, place.bank, held);
            self.dirty = self.dirty | holder;
        }
        Notify::NONE
    }

    /// One edge at the input of `intid`: it becomes pending, whatever its trigger, until the guest
    /// takes it. Of a linked interrupt, the physical one is active on the guest's behalf.
    pub fn raise(&mut self, vcpu: VcpuId, intid: IntId) -> Notify {
        match self.input(vcpu, intid) {
            Some((v, place)) => self.pulse(v, place),
            None => Notify::NONE,
        }
    }

    /// Lets `intid` stand for the interrupt `physical`, or for none any more: a linked one is
    /// deactivated physically with the guest's own deactivation. To be said before its first use.
    pub fn link(&mut self, vcpu: VcpuId, intid: IntId, physical: Option<IntId>) {
        let Some((v, place)) = self.input(vcpu, intid) else { return };
        let bit = place.bit();
        let bank = self.bank_mut(v, place.bank);
        match physical {
            Some(physical) => {
                bank.linked |= bit;
                bank.physical[place.index] = physical.0;
            }
            // Its number stays: the physical interrupt may have to be deactivated yet.
            None => bank.linked &= !bit,
        }
        let concerned = self.concerned(v, place.bank, bit);
        self.dirty = self.dirty | concerned;
    }

    fn pulse(&mut self, v: usize, place: Place) -> Notify {
        let bit = place.bit();
        let bank = self.bank_mut(v, place.bank);
        bank.forwarded |= bank.linked & bit;
        if bank.latch & bit != 0 {
            return Notify::NONE;
        }
        bank.latch |= bit;
        let wanted = bit & bank.enabled;
        if place.bank == 0 && wanted != 0 {
            self.fire(v, wanted);
            return Notify::bit(v);
        }
        let notify = self.concerned(v, place.bank, wanted);
        self.mark(notify)
    }

    fn input(&self, vcpu: VcpuId, intid: IntId) -> Option<(usize, Place)> {
        let place = Place::of(intid).filter(|place| !place.is_sgi())?;
        Some((self.index(vcpu)?, place))
    }
}

impl Bank {
    /// A write of ones to `ISPENDR`.
    pub(super) fn set_pending(&mut self, which: u32) -> u32 {
        let new = which & !self.latch;
        self.latch |= which;
        new & self.enabled
    }

    /// A write of ones to `ICPENDR`: a level-sensitive input that is high stays pending.
    pub(super) fn clear_pending(&mut self, which: u32) -> u32 {
        self.latch &= !which;
        self.drop_pending |= which & self.held;
        which & (self.held | self.forwarded)
    }
}
