//! The same interrupt again, quickly.
//!
//! After its first time an interrupt has a list register, and keeps it in this model until the next fold, also when
//! the guest is long done with it. So when nothing has happened to a vCPU but that such an interrupt fired, and its
//! register is empty, all there is to do is to write into that register what was in it before. This leaves the model
//! as a fold and a refill would, but for what those find out about other registers, which stays for the next one.

use super::list::{Link, ListRegisters, LrState};
use super::{GicVersion, Place, Vgic, bits};

impl Vgic {
    /// Interrupts of `v`'s own bank have become pending, and nothing else has happened.
    pub(super) fn fire(&mut self, v: usize, which: u32) {
        self.private[v].interface.fired |= which;
    }

    /// Give `v` what has fired, if no more is to be done than that. Otherwise nobody has lost anything: a fold and a
    /// refill have to follow.
    #[inline]
    pub(super) fn give_again(&mut self, v: usize, lrs: &mut impl ListRegisters) -> bool {
        let fired = core::mem::take(&mut self.private[v].interface.fired);
        bits(fired).all(|index| self.give_one_again(v, index, lrs))
    }

    #[inline]
    fn give_one_again(&mut self, v: usize, index: usize, lrs: &mut impl ListRegisters) -> bool {
        let place = Place { bank: 0, index };
        let (bit, intid) = (place.bit(), place.intid());
        let groups = self.group_enabled(&self.private[v].bank);
        let private = &mut self.private[v];
        let bank = &mut private.bank;
        if bank.latch & bank.enabled & groups & bit == 0 {
            // Taken back since, or not to be delivered now: whoever changes that says so.
            return true;
        }
        let slots = private.interface.slots.iter().take(lrs.count()).enumerate();
        let mut own = slots.filter_map(|(slot, lr)| Some((slot, (*lr)?)));
        let Some((slot, was)) = own.find(|(_, lr)| lr.intid == intid) else { return false };
        let fits = match was.link {
            Link::Hardware { .. } => bank.linked & bank.forwarded & bit != 0,
            Link::Software { eoi_maintenance, source } => {
                let sgi_source = 1 << (source & 7);
                let waiting = private.sources.get(index).copied().unwrap_or(0);
                let one = self.version == GicVersion::V3 || waiting == sgi_source;
                !eoi_maintenance && place.is_sgi() && one
            }
        };
        let again = was.state == LrState::Pending && bank.active & bit == 0;
        if !fits || !again || !lrs.is_empty(slot) {
            return false;
        }
        bank.latch &= !bit;
        bank.carried |= bit;
        bank.forwarded &= !bit;
        if let Some(waiting) = private.sources.get_mut(index) {
            *waiting = 0;
        }
        lrs.write(slot, Some(was));
        true
    }
}
