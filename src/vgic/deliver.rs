//! Reading the list registers back, and when to fill them again.

use super::list::{Link, ListRegister, ListRegisters, MAX_LIST_REGISTERS};
use super::{GicVersion, Notify, Place, Vgic, bank::Interface, bits};
use crate::vcpu::VcpuId;

impl Vgic {
    /// Brings model and list registers together before `vcpu`'s guest runs (on): what the guest did
    /// is folded into the model, and what is now to be delivered moved into the registers. Returns at
    /// once when nobody changed anything. To be called on the CPU that runs `vcpu`, before each entry.
    ///
    /// Returned are other vCPUs that have something to take because of it.
    pub fn sync(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> Notify {
        let Some(v) = self.index(vcpu) else { return Notify::NONE };
        if self.sync_at_once(vcpu, lrs) {
            return Notify::NONE;
        }
        let notify = self.fold(vcpu, lrs);
        self.refill(v, lrs);
        self.dirty = self.dirty.but(v);
        let interface = &mut self.private[v].interface;
        (interface.fired, interface.again) = (0, 0);
        notify
    }

    /// Reads the list registers back into the model, which from here on knows all there is to know
    /// about `vcpu`: before its guest's access to a GIC register is emulated, and before
    /// [`has_pending`](Self::has_pending) is asked. A [`sync`](Self::sync) has to follow before the
    /// guest goes on, or an [`unload`](Self::unload).
    pub fn fold(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> Notify {
        let Some(v) = self.index(vcpu) else { return Notify::NONE };
        if !self.private[v].interface.live {
            return Notify::NONE;
        }
        self.private[v].interface.live = false;
        self.dirty = self.dirty | Notify::bit(v);
        // Before the held ones return to the model: those have a list register.
        let mut notify = self.end_evicted(v, lrs.take_eoi_count());
        self.private[v].interface.renewed = false;
        for index in 0..lrs.count().min(MAX_LIST_REGISTERS) {
            let Some(was) = self.private[v].interface.slots[index] else { continue };
            let now = lrs.read(index);
            if now.is_none() && matches!(was.link, Link::Software { eoi_maintenance: true, .. }) {
                lrs.write(index, None); // else its EOI bit keeps asking
            }
            self.private[v].interface.slots[index] = now;
            notify = notify | self.put_back(v, was, now);
        }
        self.mark(notify.but(v))
    }

    /// After the fold of a `vcpu` that has nothing to take and does not run on: sees to it that its list registers ask
    /// for nothing. What else a [`sync`](Self::sync) would do is done before the guest goes on.
    pub fn rest(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> Notify {
        let Some(v) = self.index(vcpu) else { return Notify::NONE };
        let interface = &self.private[v].interface;
        let asks = interface.no_pending || interface.entry_not_present;
        if asks || interface.slots.iter().take(lrs.count()).any(Option::is_some) {
            return self.sync(vcpu, lrs);
        }
        self.release_physical(v, lrs);
        Notify::NONE
    }

    /// Folds, and leaves the list registers empty: `vcpu` leaves this CPU. The next
    /// [`sync`](Self::sync) fills those of whichever CPU it runs on then.
    pub fn unload(&mut self, vcpu: VcpuId, lrs: &mut impl ListRegisters) -> Notify {
        let Some(v) = self.index(vcpu) else { return Notify::NONE };
        let notify = self.fold(vcpu, lrs);
        let interface = &mut self.private[v].interface;
        for (index, slot) in interface.slots.iter_mut().enumerate().take(lrs.count()) {
            if slot.take().is_some() {
                lrs.write(index, None);
            }
        }
        interface.set_maintenance(false, false, lrs);
        interface.slot_of = Default::default();
        (interface.attention, interface.renewed) = (false, false);
        (interface.fired, interface.again) = (0, 0);
        self.release_physical(v, lrs);
        self.dirty = self.dirty | Notify::bit(v);
        notify
    }

    /// Whether `vcpu` has something to take: enabled, pending and not active. It ends a WFI whatever
    /// the guest's masks say (Arm ARM, "Wait for Interrupt"). Call after its fold.
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        self.index(vcpu)
            .is_some_and(|v| (0..super::BANKS).any(|bank| self.pending_for(v, bank) != 0))
    }

    /// What `v` could be given of a bank: enabled, pending, routed to it, and neither active nor in a
    /// list register anywhere.
    #[inline(always)]
    pub(super) fn pending_for(&self, v: usize, bank: usize) -> u32 {
        let words = self.bank(v, bank);
        // Hardly ever anything.
        let pending = words.pending();
        if pending == 0 {
            return 0;
        }
        let free = pending & words.enabled & !words.active & !words.held;
        let here = match bank.checked_sub(1) {
            None => free,
            Some(shared) => free & self.shared[shared].routed[v],
        };
        here & self.group_enabled(words)
    }

    /// What is active on `v` and in no list register.
    #[inline(always)]
    pub(super) fn evicted_of(&self, v: usize, bank: usize) -> u32 {
        let evicted = self.bank(v, bank).evicted();
        if evicted == 0 {
            return 0;
        }
        match bank.checked_sub(1) {
            None => evicted,
            Some(shared) => evicted & self.shared[shared].owned[v],
        }
    }

    /// The guest deactivated `count` interrupts that had no list register. It does so from the
    /// highest priority (IHI 0069, "Priority drop"), the hardware does not say which.
    fn end_evicted(&mut self, v: usize, count: u32) -> Notify {
        let mut notify = Notify::NONE;
        for _ in 0..count {
            let highest = (0..super::BANKS)
                .flat_map(|bank| {
                    bits(self.evicted_of(v, bank)).map(move |index| Place { bank, index })
                })
                .min_by_key(|place| self.bank(v, place.bank).running[place.index]);
            let Some(place) = highest else { break };
            self.bank_mut(v, place.bank).active &= !place.bit();
            notify = notify | self.let_go(v, place);
        }
        notify
    }

    /// What was in a list register as `was` is there now as `now`: the model takes it back.
    fn put_back(&mut self, v: usize, was: ListRegister, now: Option<ListRegister>) -> Notify {
        let Some(place) = Place::of(was.intid) else { return Notify::NONE };
        let bit = place.bit();
        let two = self.version == GicVersion::V2;
        let bank = self.bank_mut(v, place.bank);
        let active = now.is_some_and(|lr| lr.state.is_active());
        let active = active && bank.drop_active & bit == 0 || bank.add_active & bit != 0;
        let pending = now.is_some_and(|lr| lr.state.is_pending());
        let untaken = pending && bank.drop_pending & bit == 0 && bank.carried & bit != 0;
        for word in [
            &mut bank.held,
            &mut bank.carried,
            &mut bank.drop_pending,
            &mut bank.drop_active,
            &mut bank.add_active,
            &mut bank.active,
        ] {
            *word &= !bit;
        }
        if untaken {
            bank.latch |= bit;
        }
        if active {
            bank.active |= bit;
            let taken = now.filter(|lr| lr.state.is_active()).map(|lr| lr.priority);
            bank.running[place.index] = taken.unwrap_or(bank.priority[place.index]);
        }
        if active && !was.state.is_active() {
            self.mark_fresh(v, place);
        }
        let bank = self.bank_mut(v, place.bank);
        match was.link {
            // An empty one has been deactivated physically with the virtual interrupt.
            Link::Hardware { .. } if now.is_some() => bank.forwarded |= bit,
            Link::Software { source, .. } if two && place.is_sgi() => {
                let private = &mut self.private[v];
                if untaken {
                    private.sources[place.index] |= 1 << (source & 7);
                }
                private.active_source[place.index] = source;
            }
            _ => {}
        }
        self.let_go(v, place)
    }

    /// The guest has taken this one since the last fold; what it took before that is not the latest any
    /// more.
    fn mark_fresh(&mut self, v: usize, place: Place) {
        if !core::mem::replace(&mut self.private[v].interface.renewed, true) {
            self.private[v].bank.fresh = 0;
            for shared in &mut self.shared {
                shared.bank.fresh &= !shared.owned[v];
            }
        }
        self.bank_mut(v, place.bank).fresh |= place.bit();
    }

    /// An SPI has left `v`'s list registers, or been deactivated there: it may be for somebody else.
    fn let_go(&mut self, v: usize, place: Place) -> Notify {
        let Some(shared) = place.bank.checked_sub(1) else { return Notify::NONE };
        let spis = &mut self.shared[shared];
        let bit = place.bit();
        if spis.bank.active & bit != 0 {
            return Notify::NONE;
        }
        spis.owned[v] &= !bit;
        let waits = spis.bank.pending() & spis.bank.enabled & !spis.routed[v] & bit;
        self.concerned(v, place.bank, waits).but(v)
    }

    /// Deactivates the physical interrupts that no guest will deactivate any more.
    pub(super) fn release_physical(&mut self, v: usize, lrs: &mut impl ListRegisters) {
        let shared = self.shared.iter_mut().map(|spis| &mut spis.bank);
        let banks = core::iter::once(&mut self.private[v].bank).chain(shared);
        for words in banks.filter(|words| words.forwarded != 0) {
            let released = words.released();
            words.forwarded &= !released;
            for index in bits(released) {
                lrs.deactivate(super::IntId(words.physical[index]));
            }
        }
    }
}

impl Interface {
    /// Remembers and sets the reasons for a maintenance interrupt.
    pub(super) fn set_maintenance(
        &mut self,
        no_pending: bool,
        entry_not_present: bool,
        lrs: &mut impl ListRegisters,
    ) {
        if (no_pending, entry_not_present) != (self.no_pending, self.entry_not_present) {
            (self.no_pending, self.entry_not_present) = (no_pending, entry_not_present);
            lrs.set_maintenance(no_pending, entry_not_present);
        }
    }
}
