//! Thirty-two interrupts, one bit each in a word for each of their properties.

use super::again::{PRIVATE, Slot};
use super::list::{ListRegister, MAX_LIST_REGISTERS};
use super::{GicVersion, INTERRUPTS};
use crate::vcpu::MAX_VCPUS;

/// How many banks a vCPU sees: its private one, then the shared ones.
pub(super) const BANKS: usize = INTERRUPTS as usize / 32;

/// What all interrupts have.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Bank {
    /// `ISENABLER`.
    pub enabled: u32,
    /// Pending until somebody takes it: an edge, an SGI, a write to `ISPENDR`, or the hand-over of a
    /// linked physical interrupt.
    pub latch: u32,
    /// The input's level. Not used for linked interrupts: there the hardware watches the input.
    pub line: u32,
    /// `ICFGR`: edge-triggered.
    pub edge: u32,
    /// `IGROUPR`: group 1.
    pub group: u32,
    /// `ISACTIVER`; for those held, as last folded.
    pub active: u32,

    /// In a list register.
    pub held: u32,
    /// Of those held: the latch went with it, and comes back if the guest has not taken it.
    pub carried: u32,
    /// Of those held: the fold is to forget that it is pending.
    pub drop_pending: u32,
    /// Of those held: the fold is to forget that it is active.
    pub drop_active: u32,
    /// Of those held: the fold is to find it active.
    pub add_active: u32,
    /// Found newly active by the last fold: the guest ends the latest one first.
    pub fresh: u32,

    /// Stands for the physical interrupt in `physical`.
    pub linked: u32,
    /// The physical interrupt is active on the guest's behalf, and not in a list register that
    /// deactivates it with the virtual one.
    pub forwarded: u32,

    /// `IPRIORITYR`.
    pub priority: [u8; 32],
    /// Of those active: what their priority was when they became so, which is what their end drops. A list register with another
    /// one would stay active at that end (IHI 0069, "Priority drop").
    pub running: [u8; 32],
    pub physical: [u16; 32],
}

impl Bank {
    /// Pending, as far as this model knows (IHI 0048, "GICD_ISPENDRn": for a level-sensitive
    /// interrupt the OR of the latch and the input).
    pub const fn pending(&self) -> u32 {
        self.latch | self.level()
    }

    /// Level-sensitive, with the input high.
    pub const fn level(&self) -> u32 {
        self.line & !self.edge & !self.linked
    }

    /// Active, in no list register: the guest's end of it is only counted.
    pub const fn evicted(&self) -> u32 {
        self.active & !self.held
    }

    /// Those whose physical interrupt is kept active for nothing.
    pub const fn released(&self) -> u32 {
        self.forwarded & !(self.linked & (self.held | self.latch | self.active))
    }

    pub fn keep_wiring(&mut self, old: &Self) {
        self.line = old.line;
        self.linked = old.linked;
        self.forwarded = old.forwarded;
        self.physical = old.physical;
    }

    fn is_sound(&self) -> bool {
        self.held | self.carried | self.drop_pending | self.drop_active | self.add_active == 0
            && self
                .priority
                .iter()
                .chain(&self.running)
                .all(|priority| priority & !PRIORITY_BITS == 0)
    }
}

/// The priority bits that exist: five, as many as the hardware's list registers have to have.
pub(super) const PRIORITY_BITS: u8 = 0xf8;

/// One vCPU's SGIs and PPIs, and what its list registers hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Private {
    pub bank: Bank,
    /// GICv2: which vCPUs' SGI n is pending; the latch is set where any is.
    pub sources: [u8; 16],
    /// GICv2: whose SGI n is active.
    pub active_source: [u8; 16],
    /// `GICR_WAKER.ProcessorSleep`. An interrupt for a sleeping vCPU is its wake request, so this
    /// keeps nothing back.
    pub asleep: bool,
    pub interface: Interface,
}

impl Private {
    pub fn new(version: GicVersion) -> Self {
        // SGIs are edge-triggered and start enabled (as KVM has it; the manuals leave it open).
        let bank =
            Bank { edge: 0xffff, enabled: 0xffff, group: reset_group(version), ..Bank::default() };
        Self { bank, ..Self::default() }
    }

    pub fn is_sound(&self) -> bool {
        let latched = |(n, sources): (usize, &u8)| *sources == 0 || self.bank.latch & (1 << n) != 0;
        self.bank.is_sound()
            && self.interface == Interface::default()
            && self.bank.edge == 0xffff
            && self.active_source.iter().all(|&source| usize::from(source) < MAX_VCPUS)
            && self.sources.iter().enumerate().all(latched)
    }
}

/// A vCPU's list registers, as this model left them.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Interface {
    pub slots: [Option<ListRegister>; MAX_LIST_REGISTERS],
    /// The guest may have changed them since: they have to be folded.
    pub live: bool,
    /// Something in them may need attention without anybody saying so.
    pub attention: bool,
    /// Which of them holds each interrupt of the private bank that can be given again as it was.
    pub slot_of: [Slot; PRIVATE],
    /// What of the private bank has fired since the last sync, where that is all that has happened.
    pub fired: u32,
    /// The list registers whose SPIs have come again since, where that is all that has happened.
    pub again: u32,
    /// This fold has found something newly active.
    pub renewed: bool,
    pub no_pending: bool,
    pub entry_not_present: bool,
}

/// Thirty-two SPIs.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Shared {
    pub bank: Bank,
    /// For each vCPU, the interrupts that go to it. A summary of the two below.
    pub routed: [u32; MAX_VCPUS],
    /// For each vCPU, those that are in its list registers or active there.
    pub owned: [u32; MAX_VCPUS],
    /// `GICD_ITARGETSR`, GICv2.
    pub targets: [u8; 32],
    /// `GICD_IROUTER`, GICv3: Aff2, Aff1 and Aff0.
    pub affinity: [u32; 32],
}

impl Shared {
    pub fn new(version: GicVersion, vcpus: usize) -> Self {
        let bank = Bank { group: reset_group(version), ..Bank::default() };
        let mut spis = Self {
            bank,
            routed: [0; MAX_VCPUS],
            owned: [0; MAX_VCPUS],
            // As KVM has it: SPIs go to the boot vCPU until somebody says otherwise.
            targets: [1; 32],
            affinity: [0; 32],
        };
        // All of them alike.
        spis.route(version, vcpus, 0);
        spis.routed = spis.routed.map(|to| if to == 0 { 0 } else { u32::MAX });
        spis
    }

    /// Brings the summary up to date with the routing registers of interrupt `index`.
    pub fn route(&mut self, version: GicVersion, vcpus: usize, index: usize) {
        let to = match version {
            GicVersion::V2 => self.targets[index].trailing_zeros(),
            GicVersion::V3 => self.affinity[index],
        };
        for (v, routed) in self.routed.iter_mut().enumerate() {
            let here = v < vcpus && usize::try_from(to) == Ok(v);
            *routed = *routed & !(1 << index) | u32::from(here) << index;
        }
    }

    pub fn is_sound(&self, version: GicVersion, vcpus: usize) -> bool {
        let mut again = self.clone();
        for index in 0..32 {
            again.route(version, vcpus, index);
        }
        let owned = self.owned.iter().fold(0, |all, owned| all | owned);
        let once = self.owned.iter().map(|owned| owned.count_ones()).sum::<u32>();
        self.bank.is_sound()
            && again.routed == self.routed
            && owned == self.bank.active
            && once == owned.count_ones()
            && self.owned.iter().skip(vcpus).all(|&owned| owned == 0)
    }
}

/// GICv3 starts with everything in group 1, the only one its usual guests enable (as KVM has it).
const fn reset_group(version: GicVersion) -> u32 {
    match version {
        GicVersion::V2 => 0,
        GicVersion::V3 => u32::MAX,
    }
}

/// The numbers of the bits set in `word`, from the lowest.
#[inline(always)]
pub(super) fn bits(mut word: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = (word != 0).then_some(word.trailing_zeros())?;
        word &= word - 1;
        usize::try_from(lowest).ok()
    })
}
