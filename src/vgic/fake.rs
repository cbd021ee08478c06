//! The hardware of one CPU, for tests: list registers, and the virtual CPU interface a guest has with
//! them (IHI 0048, "The GIC virtual CPU interface"; IHI 0069, "Virtual interrupt handling").
//!
//! Takes nothing that the manuals call UNPREDICTABLE: a wrong list register is our own bug, and
//! panics here.

use super::list::{Link, ListRegister, ListRegisters, LrState, MAX_LIST_REGISTERS};
use super::{IntId, Notify, Vgic};
use crate::vcpu::VcpuId;
use alloc::vec::Vec;

/// The priority when nothing is active (`GICC_RPR`, `ICC_RPR_EL1`).
pub const IDLE_PRIORITY: u8 = 0xff;

/// A CPU's list registers and virtual CPU interface. Both groups are enabled, no priority is masked.
#[derive(Clone, Debug)]
pub struct CpuInterface {
    lrs: [Option<ListRegister>; MAX_LIST_REGISTERS],
    /// What was last written to each.
    written: [Option<ListRegister>; MAX_LIST_REGISTERS],
    count: usize,
    /// Invalid list registers whose `EOI` bit is still set (`EISR`).
    ended: u16,
    eoi_count: u32,
    no_pending: bool,
    entry_not_present: bool,
    /// See [`ListRegisters::forgets_levels`].
    pub forgets_levels: bool,
    /// `EOImode`: an EOI only drops the priority.
    pub eoi_mode: bool,
    /// An EOI deactivates an interrupt only if the priority that it drops is that interrupt's list register's. GICv3 is like that
    /// (IHI 0069, "Priority drop").
    pub ends_by_priority: bool,
    /// Active priorities (`APR`), the running one last.
    active: Vec<u8>,
    /// Every physical deactivation so far, by the guest or the hypervisor.
    pub deactivated: Vec<IntId>,
    /// How often a list register was written.
    pub writes: usize,
}

impl CpuInterface {
    /// A CPU with `count` list registers.
    pub fn new(count: usize) -> Self {
        Self {
            lrs: [None; MAX_LIST_REGISTERS],
            written: [None; MAX_LIST_REGISTERS],
            count: count.clamp(1, MAX_LIST_REGISTERS),
            ended: 0,
            eoi_count: 0,
            no_pending: false,
            entry_not_present: false,
            forgets_levels: false,
            eoi_mode: false,
            ends_by_priority: false,
            active: Vec::new(),
            deactivated: Vec::new(),
            writes: 0,
        }
    }

    /// What the list registers hold.
    pub fn held(&self) -> impl Iterator<Item = ListRegister> + '_ {
        self.lrs.iter().flatten().copied()
    }

    /// What [`repeat`](ListRegisters::repeat) would give.
    pub fn written(&self) -> &[Option<ListRegister>] {
        &self.written
    }

    /// The list register that holds `intid`.
    pub fn holding(&self, intid: IntId) -> Option<ListRegister> {
        self.held().find(|lr| lr.intid == intid)
    }

    /// The priority of what the guest is handling (`RPR`).
    pub fn running_priority(&self) -> u8 {
        self.active.last().copied().unwrap_or(IDLE_PRIORITY)
    }

    /// Whether the guest has a virtual interrupt to take, if it does not mask it.
    pub fn signalled(&self) -> bool {
        self.best().is_some()
    }

    fn best(&self) -> Option<usize> {
        let pending = |lr: &ListRegister| lr.state == LrState::Pending;
        (0..self.count)
            .filter_map(|n| self.lrs[n].filter(pending).map(|lr| (lr.priority, lr.intid, n)))
            .min()
            .filter(|best| best.0 < self.running_priority())
            .map(|best| best.2)
    }

    /// The guest reads `IAR`: the interrupt and, of a GICv2 SGI, its source. `None` is 1023.
    pub fn acknowledge(&mut self) -> Option<(IntId, u8)> {
        let best = self.best()?;
        let lr = self.lrs[best].as_mut()?;
        lr.state = LrState::Active;
        self.active.push(lr.priority);
        Some((lr.intid, source(lr)))
    }

    /// The guest writes `EOIR`: the running priority drops, and without [`eoi_mode`](Self::eoi_mode)
    /// the interrupt is deactivated.
    pub fn end(&mut self, intid: IntId, source: u8) {
        let dropped = self.active.pop();
        let held = self.holding(intid).filter(|lr| self.ends_by_priority && lr.state.is_active());
        let is_own = held.is_none_or(|lr| Some(lr.priority) == dropped);
        if !self.eoi_mode && is_own {
            self.end_activity(intid, source);
        }
    }

    /// The guest writes `DIR`. Without [`eoi_mode`](Self::eoi_mode) nothing happens.
    pub fn deactivate_interrupt(&mut self, intid: IntId, source: u8) {
        if self.eoi_mode {
            self.end_activity(intid, source);
        }
    }

    fn end_activity(&mut self, intid: IntId, from: u8) {
        let same = |lr: &ListRegister| lr.intid == intid && source(lr) == from;
        let Some(n) = (0..self.count).find(|&n| self.lrs[n].as_ref().is_some_and(same)) else {
            self.eoi_count += 1;
            return;
        };
        let Some(lr) = self.lrs[n].as_mut() else { return };
        match lr.state {
            LrState::Pending => {}
            LrState::PendingActive => lr.state = LrState::Pending,
            LrState::Active => {
                match lr.link {
                    Link::Hardware { physical } => self.deactivated.push(physical),
                    Link::Software { eoi_maintenance: true, .. } => self.ended |= 1 << n,
                    Link::Software { .. } => {}
                }
                self.lrs[n] = None;
            }
        }
    }

    /// Whether the maintenance interrupt is asserted (`MISR` is not zero).
    pub fn maintenance(&self) -> bool {
        let pending = |lr: ListRegister| lr.state == LrState::Pending;
        self.ended != 0
            || self.no_pending && !self.held().any(pending)
            || self.entry_not_present && self.eoi_count != 0
    }

    /// As a CPU does: syncs `vcpu` until no maintenance interrupt is asserted.
    ///
    /// # Panics
    ///
    /// When it does not go away: on hardware the guest would never run again.
    pub fn settle(&mut self, vgic: &mut Vgic, vcpu: VcpuId) -> Notify {
        if self.maintenance() {
            vgic.end_at_once(vcpu, self);
        }
        let notify = vgic.sync(vcpu, self);
        assert!(!self.maintenance(), "a maintenance interrupt has to be over after a sync");
        notify
    }
}

fn source(lr: &ListRegister) -> u8 {
    match lr.link {
        Link::Software { source, .. } => source,
        Link::Hardware { .. } => 0,
    }
}

impl ListRegisters for CpuInterface {
    fn count(&self) -> usize {
        self.count
    }

    fn read(&self, index: usize) -> Option<ListRegister> {
        self.lrs[index]
    }

    fn write(&mut self, index: usize, lr: Option<ListRegister>) {
        assert!(index < self.count, "there is no list register {index}");
        if let Some(lr) = lr {
            let twice = (0..self.count)
                .any(|n| n != index && self.lrs[n].is_some_and(|other| other.intid == lr.intid));
            assert!(!twice, "{:?} is in two list registers", lr.intid);
            if let Link::Hardware { .. } = lr.link {
                assert!(lr.state != LrState::PendingActive, "HW with pending and active");
                assert!(!lr.intid.is_sgi(), "HW for an SGI");
                assert!(!self.forgets_levels, "HW where it is not to be used");
            }
        }
        self.ended &= !(1 << index);
        self.lrs[index] = lr;
        self.written[index] = lr;
        self.writes += 1;
    }

    fn keep(&mut self, index: usize, lr: ListRegister) {
        assert_eq!(self.lrs[index], Some(lr), "it does not hold that");
        self.written[index] = Some(lr);
    }

    fn repeat(&mut self, index: usize) {
        self.write(index, self.written[index]);
    }

    fn clear(&mut self, index: usize) {
        let written = self.written[index];
        self.write(index, None);
        self.written[index] = written;
    }

    fn ended(&self) -> u32 {
        self.ended.into()
    }

    fn forgets_levels(&self) -> bool {
        self.forgets_levels
    }

    fn take_eoi_count(&mut self) -> u32 {
        core::mem::take(&mut self.eoi_count)
    }

    fn set_maintenance(&mut self, no_pending: bool, entry_not_present: bool) {
        self.no_pending = no_pending;
        self.entry_not_present = entry_not_present;
    }

    fn deactivate(&mut self, physical: IntId) {
        self.deactivated.push(physical);
    }
}
