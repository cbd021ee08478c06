//! Choosing what goes into the list registers, and writing it there.
//!
//! Active interrupts come first, then pending ones, each by priority; what the guest has just taken
//! stays whatever its priority, as its end comes next. One register always goes to the
//! best pending interrupt: were all of them taken by active ones, a guest with nested handlers could
//! not be interrupted any more. The active interrupt that has to make room is the one of the lowest
//! priority, whose end comes last; the hardware counts it (`EOICount`).

use super::again::slots_of;
use super::list::{Link, ListRegister, ListRegisters, LrState, MAX_LIST_REGISTERS};
use super::{BANKS, GicVersion, IntId, Place, Vgic, bits};

/// In place of a priority: there is no interrupt.
const NOBODY: u16 = u16::MAX;

/// The best few interrupts offered, by priority and then INTID.
struct Best {
    /// Priority, and INTID.
    places: [(u16, u16); MAX_LIST_REGISTERS],
    count: usize,
    room: usize,
    /// Not all that were offered found room.
    more: bool,
}

impl Best {
    fn of(room: usize) -> Self {
        let room = room.min(MAX_LIST_REGISTERS);
        Self { places: [(NOBODY, 0); MAX_LIST_REGISTERS], count: 0, room, more: false }
    }

    /// To be offered in the order of INTIDs: of equals the first one stays ahead.
    #[inline]
    fn offer(&mut self, priority: u8, place: Place) {
        let worst = self.places.get(self.room.wrapping_sub(1));
        if worst.is_none_or(|worst| worst.0 <= priority.into()) {
            // Mostly, where there are many.
            self.more = true;
        } else {
            self.insert(false, priority, place);
        }
    }

    /// Before all that have been offered so far.
    fn offer_first(&mut self, place: Place) {
        self.insert(true, 0, place);
    }

    fn insert(&mut self, mut is_before: bool, priority: u8, place: Place) {
        let mut new = (priority.into(), place.intid().0);
        for kept in self.places.iter_mut().take(self.room) {
            is_before |= kept.0 > new.0;
            if is_before {
                core::mem::swap(kept, &mut new);
            }
        }
        // The one that has no place any more.
        let is_full = new.0 != NOBODY;
        self.more |= is_full;
        self.count += usize::from(!is_full);
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = Place> {
        self.places.iter().take(self.count).filter_map(|kept| Place::of(IntId(kept.1)))
    }
}

impl Vgic {
    /// Writes what `v` is to have into the list registers, which have just been folded.
    pub(super) fn refill(&mut self, v: usize, lrs: &mut impl ListRegisters) {
        let count = lrs.count().clamp(1, MAX_LIST_REGISTERS);
        let (mut pending_in, mut any_pending, mut any_evicted) = ([0; BANKS], 0, 0);
        for (bank, pending) in pending_in.iter_mut().enumerate() {
            *pending = self.pending_for(v, bank);
            any_pending |= *pending;
            any_evicted |= self.evicted_of(v, bank);
        }
        let mut active = Best::of(count - usize::from(any_pending != 0));
        if any_evicted != 0 {
            self.offer_active(v, &mut active);
        }
        let mut pending = Best::of(count - active.count);
        for (bank, pending_here) in pending_in.iter().enumerate() {
            for index in bits(*pending_here) {
                let priority = self.bank(v, bank).priority[index];
                pending.offer(priority, Place { bank, index });
            }
        }
        let mut wanted = [None; MAX_LIST_REGISTERS];
        let mut attention = active.more || pending.more;
        let forgets_levels = lrs.forgets_levels();
        for (want, place) in wanted.iter_mut().zip(active.iter().chain(pending.iter())) {
            let (lr, heeded) = self.take(v, place, forgets_levels);
            attention |= heeded;
            *want = Some(lr);
        }
        let wanted = wanted.get(..active.count + pending.count).unwrap_or_default();
        self.place(v, wanted, count, lrs);
        let interface = &mut self.private[v].interface;
        if active.more {
            // What was counted so far is none of those that lose their register now.
            let _ = lrs.take_eoi_count();
        }
        interface.set_maintenance(pending.more, active.more, lrs);
        interface.attention = attention;
        interface.live = attention || !wanted.is_empty();
        self.release_physical(v, lrs);
    }

    /// Offers what is active on `v`.
    fn offer_active(&self, v: usize, active: &mut Best) {
        for bank in 0..BANKS {
            let fresh = self.bank(v, bank).fresh;
            for index in bits(self.evicted_of(v, bank)) {
                let place = Place { bank, index };
                if fresh & place.bit() == 0 {
                    active.offer(self.bank(v, bank).running[index], place);
                } else {
                    // Of several taken since, the later ones have the higher INTIDs, unless their
                    // priorities differ; and then the priority drop tells them apart.
                    active.offer_first(place);
                }
            }
        }
    }

    /// Writes the registers that are not as wanted. An interrupt stays in the register it is in.
    fn place(
        &mut self,
        v: usize,
        wanted: &[Option<ListRegister>],
        count: usize,
        lrs: &mut impl ListRegisters,
    ) {
        let interface = &mut self.private[v].interface;
        let Some(slots) = interface.slots.get_mut(..count) else { return };
        // First out, then in: an interrupt is in two registers at no time.
        let mut placed = 0_u32;
        for (index, slot) in slots.iter_mut().enumerate() {
            let Some(held) = *slot else { continue };
            let same = |want: &Option<ListRegister>| want.is_some_and(|it| it.intid == held.intid);
            let at = wanted.iter().position(same);
            let next = at.and_then(|at| wanted.get(at).copied().flatten());
            placed |= at.map_or(0, |at| 1 << at);
            if *slot != next {
                lrs.write(index, next);
                *slot = next;
            } else if let Some(lr) = next {
                lrs.keep(index, lr);
            }
        }
        let rest = wanted.iter().enumerate().filter(|(at, _)| placed >> at & 1 == 0);
        let empty = slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_none());
        for ((_, want), (index, slot)) in rest.zip(empty) {
            lrs.write(index, *want);
            *slot = *want;
        }
        interface.slot_of = slots_of(slots);
    }

    /// Takes an interrupt out of the model, into the form of a list register. And whether a fold has to follow its end.
    fn take(&mut self, v: usize, place: Place, forgets_levels: bool) -> (ListRegister, bool) {
        let bit = place.bit();
        let bank = self.bank(v, place.bank);
        let routed = place.bank.checked_sub(1).is_none_or(|s| self.shared[s].routed[v] & bit != 0);
        let wanted = bank.pending() & bank.enabled & self.group_enabled(bank) & bit != 0;
        let level = bank.level() & bit != 0;
        let active = bank.active & bit != 0;
        let (linked, forwarded) = (bank.linked & bit != 0, bank.forwarded & bit != 0);
        let priorities = if active { &bank.running } else { &bank.priority };
        let (priority, group1) = (priorities[place.index], bank.group & bit != 0);
        let physical = IntId(bank.physical[place.index]);
        let mut pending = wanted && routed;

        let ends_physically = linked && forwarded && !(active && pending);
        let link = if ends_physically && forgets_levels {
            // `Vgic::end_at_once` does what the hardware does elsewhere.
            Link::Software { eoi_maintenance: true, source: 0 }
        } else if ends_physically {
            Link::Hardware { physical }
        } else if self.version == GicVersion::V2 && place.is_sgi() {
            let (source, more) = self.take_source(v, place.index, active, &mut pending);
            Link::Software { eoi_maintenance: wanted && more, source }
        } else {
            // At the end of this one there is more to do: the input may still be high, the interrupt
            // may go to another vCPU next, or the physical one has to be deactivated.
            let more = wanted && (level || !routed) || linked && forwarded;
            Link::Software { eoi_maintenance: more, source: 0 }
        };
        let bank = self.bank_mut(v, place.bank);
        bank.held |= bit;
        if pending && bank.latch & bit != 0 {
            bank.carried |= bit;
            bank.latch &= !bit;
        }
        if matches!(link, Link::Hardware { .. }) {
            bank.forwarded &= !bit;
        }
        if self.version == GicVersion::V2
            && place.is_sgi()
            && self.private[v].sources[place.index] != 0
        {
            self.private[v].bank.latch |= bit;
        }
        if let Some(shared) = place.bank.checked_sub(1) {
            self.shared[shared].owned[v] |= bit;
        }
        let state = match (pending, active) {
            (true, true) => LrState::PendingActive,
            (false, true) => LrState::Active,
            (_, false) => LrState::Pending,
        };
        let asks = matches!(link, Link::Software { eoi_maintenance: true, .. });
        let lr = ListRegister { intid: place.intid(), state, priority, group1, link };
        (lr, asks && !ends_physically)
    }

    /// The source a GICv2 SGI goes into its list register with, and whether others wait. The register
    /// has room for one: while the SGI is active, only the same source's can be pending in it too.
    fn take_source(
        &mut self,
        v: usize,
        sgi: usize,
        active: bool,
        pending: &mut bool,
    ) -> (u8, bool) {
        let private = &mut self.private[v];
        let waiting = &mut private.sources[sgi];
        let source = match active {
            true => private.active_source[sgi] & 7,
            false => u8::try_from(waiting.trailing_zeros()).unwrap_or(0) & 7,
        };
        *pending = *pending && *waiting & 1 << source != 0;
        if *pending {
            *waiting &= !(1 << source);
        }
        (source, *waiting != 0)
    }
}
