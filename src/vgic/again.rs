//! The same interrupt again, quickly.
//!
//! After its first time an interrupt has a list register, and keeps it in this model until the next fold, also when
//! the guest is long done with it. So when nothing has happened to a vCPU but that such an interrupt fired, and its
//! register is empty, all there is to do is to write into that register once more what was in it. That leaves the
//! model as a fold and a refill would: whatever the register's contents depend on (enables, groups, priority, links)
//! makes the vCPU's registers *dirty* when it changes, and then this way is closed.

use super::list::{Link, ListRegister, ListRegisters, LrState};
use super::{GicVersion, IntId, Notify, Place, Vgic, bits};
use crate::vcpu::VcpuId;

/// How many interrupts this is about: those of the private bank.
pub(super) const PRIVATE: usize = 32;

/// The number of a list register, plus one; 0 is none.
pub(super) type Slot = u8;

impl Vgic {
    /// The physical interrupt behind the linked interrupt `intid` has been acknowledged and is active on the guest's
    /// behalf. Gives it to the loaded `vcpu` at once, if that had it last and that is all there is to do; false when
    /// [`set_level`](Self::set_level) or [`raise`](Self::raise) is to be told.
    #[inline(always)]
    pub fn refire(&mut self, vcpu: VcpuId, intid: IntId, lrs: &mut impl ListRegisters) -> bool {
        let v = usize::from(vcpu.0);
        let Some(private) = self.private.get(v) else { return false };
        let interface = &private.interface;
        let index = match interface.slot_of.get(usize::from(intid.0)) {
            Some(slot) => usize::from(*slot).checked_sub(1),
            None => interface.slots.iter().position(|slot| is_again(slot, intid)),
        };
        let Some(index) = index else { return false };
        let quiet = !self.dirty.has(v) && !interface.attention && interface.fired == 0;
        if !quiet || !lrs.is_empty(index) {
            return false;
        }
        // Pending, and in a list register that deactivates the physical one: as it is held already.
        if lrs.forgets_levels()
            && let Some(place) = Place::of(intid)
        {
            let bank = self.bank_mut(v, place.bank);
            bank.forwarded |= bank.linked & place.bit();
        }
        lrs.repeat(index);
        true
    }

    /// Where the hardware does not do it ([`ListRegisters::forgets_levels`]): the guest of the loaded `vcpu` has ended
    /// linked interrupts, and the physical ones are deactivated. False when no more is known than that there is a
    /// maintenance interrupt, and a [`sync`](Self::sync) has to follow.
    #[inline(always)]
    pub fn end_at_once(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> bool {
        let v = usize::from(vcpu.0);
        let attention = self.private.get(v).is_none_or(|private| private.interface.attention);
        // Where nothing else wants attention, linked interrupts alone have asked for it.
        let ended = if attention || self.dirty.has(v) { 0 } else { lrs.ended() };
        for index in bits(ended) {
            let slot = self.private[v].interface.slots.get(index).copied().flatten();
            let Some(place) = slot.and_then(|lr| Place::of(lr.intid)) else { return self.look(v) };
            lrs.clear(index);
            let bank = self.bank_mut(v, place.bank);
            bank.forwarded &= !place.bit();
            lrs.deactivate(IntId(bank.physical[place.index]));
        }
        ended != 0 || self.look(v)
    }

    /// All of `v`'s list registers have to be folded. Always false.
    fn look(&mut self, v: usize) -> bool {
        self.dirty = self.dirty | Notify::bit(v);
        false
    }

    /// Does what [`sync`](Self::sync) does for the loaded `vcpu`, if nothing has happened but that some of its
    /// interrupts fired again. Otherwise false, and a [`sync`](Self::sync) has to follow.
    #[inline(always)]
    pub fn sync_at_once(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> bool {
        let v = usize::from(vcpu.0);
        let attention = self.private.get(v).is_none_or(|private| private.interface.attention);
        if attention || self.dirty.has(v) {
            return false;
        }
        // What was given already is folded with the rest.
        self.give_again(v, lrs) || self.look(v)
    }

    /// Interrupts of `v`'s own bank have become pending. Where all is looked at anyway, as for a vCPU that is not loaded,
    /// that need not be remembered.
    #[inline(always)]
    pub(super) fn fire(&mut self, v: usize, which: u32) {
        if !self.dirty.has(v) {
            self.private[v].interface.fired |= which;
        }
    }

    /// An SPI has become pending for `whom`. Whether that is one vCPU, which has had it last and to which nothing else has
    /// happened; that is remembered then.
    #[inline(always)]
    pub(super) fn comes_again(&mut self, whom: Notify, place: Place) -> bool {
        let mut all = whom.iter();
        let (Some(vcpu), None) = (all.next(), all.next()) else { return false };
        let v = usize::from(vcpu.0);
        let Some(private) = self.private.get_mut(v).filter(|_| place.bank != 0) else {
            return false;
        };
        let interface = &mut private.interface;
        if self.dirty.has(v) || interface.attention {
            return false;
        }
        let slot = interface.slots.iter().position(|slot| is_plain(slot, place.intid()));
        interface.again |= slot.map_or(0, |slot| 1 << slot);
        slot.is_some()
    }

    /// Give `v` what has fired, if no more is to be done than that. Otherwise a fold and a refill have to follow.
    #[inline(always)]
    pub(super) fn give_again(&mut self, v: usize, lrs: &mut impl ListRegisters) -> bool {
        let fired = core::mem::take(&mut self.private[v].interface.fired);
        for index in bits(fired) {
            if !self.give_one_again(v, index, lrs) {
                return false;
            }
        }
        let again = core::mem::take(&mut self.private[v].interface.again);
        for index in bits(again) {
            if !self.give_spi_again(v, index, lrs) {
                return false;
            }
        }
        true
    }

    /// The SPI in a list register, which is pending once more.
    #[inline(always)]
    fn give_spi_again(&mut self, v: usize, slot: usize, lrs: &mut impl ListRegisters) -> bool {
        let lr = self.private[v].interface.slots.get(slot).copied().flatten();
        let Some(place) = lr.and_then(|lr| Place::of(lr.intid)) else { return false };
        let bank = self.bank_mut(v, place.bank);
        if bank.latch & place.bit() == 0 {
            // Taken back since.
            return true;
        }
        if !lrs.is_empty(slot) {
            return false;
        }
        // It goes along in the register, as it did the last time.
        bank.latch &= !place.bit();
        lrs.repeat(slot);
        true
    }

    #[inline(always)]
    fn give_one_again(&mut self, v: usize, index: usize, lrs: &mut impl ListRegisters) -> bool {
        let bit = Place { bank: 0, index }.bit();
        let two = self.version == GicVersion::V2;
        let private = &mut self.private[v];
        let slot = private.interface.slot_of.get(index).copied().unwrap_or(0);
        let Some(slot) = usize::from(slot).checked_sub(1) else { return false };
        if private.bank.latch & bit == 0 {
            // Taken back since.
            return true;
        }
        if two && let Some(waiting) = private.sources.get_mut(index) {
            let source = match private.interface.slots.get(slot) {
                Some(Some(ListRegister { link: Link::Software { source, .. }, .. })) => *source,
                _ => return false,
            };
            if *waiting != 1 << (source & 7) || !lrs.is_empty(slot) {
                return false;
            }
            *waiting = 0;
        } else if !lrs.is_empty(slot) {
            return false;
        }
        private.bank.latch &= !bit;
        if !lrs.forgets_levels() {
            private.bank.forwarded &= !bit;
        }
        lrs.repeat(slot);
        true
    }
}

/// Whether this list register has given the linked SPI `intid` and can do so again.
fn is_again(slot: &Option<ListRegister>, intid: IntId) -> bool {
    slot.is_some_and(|lr| {
        let linked =
            matches!(lr.link, Link::Hardware { .. } | Link::Software { eoi_maintenance: true, .. });
        lr.intid == intid && lr.state == LrState::Pending && linked
    })
}

/// Whether this list register has given the SPI `intid`, is asked nothing at its end, and can give it again as it was.
#[inline]
fn is_plain(slot: &Option<ListRegister>, intid: IntId) -> bool {
    slot.is_some_and(|lr| {
        let plain = matches!(lr.link, Link::Software { eoi_maintenance: false, .. });
        lr.intid == intid && lr.state == LrState::Pending && plain
    })
}

/// Where each private interrupt is that can be given again as it was: pending, and its end asks for nothing.
pub(super) fn slots_of(slots: &[Option<ListRegister>]) -> [Slot; PRIVATE] {
    let mut slot_of = [0; PRIVATE];
    for (slot, lr) in (1..).zip(slots) {
        let Some(lr) = lr else { continue };
        let plain = match lr.link {
            Link::Hardware { .. } => true,
            // A PPI's asks for nothing but the deactivation of the physical one, if nothing asks for attention.
            Link::Software { eoi_maintenance, .. } => eoi_maintenance != lr.intid.is_sgi(),
        };
        if let Some(own) = slot_of.get_mut(usize::from(lr.intid.0))
            && plain
            && lr.state == LrState::Pending
        {
            *own = slot;
        }
    }
    slot_of
}
