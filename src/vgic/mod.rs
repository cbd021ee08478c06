//! The interrupt controller a guest sees: one model behind a GICv2 (IHI 0048B) and a GICv3 (IHI
//! 0069H) register view, delivered by hardware list registers.
//!
//! Pure: a register write or an input changes this model and returns the vCPUs that may have
//! something new to take ([`Notify`]); [`Vgic::sync`] then moves it into the list registers of the
//! CPU that runs such a vCPU. State is words of one bit per interrupt, so that a look for something
//! to deliver is a handful of ANDs.
//!
//! An interrupt is in one of two places. While no list register holds it, this model is all there
//! is to know. While one does (`held`), the hardware is ahead of the model until [`Vgic::fold`]
//! reads it back, and what others want of it meanwhile waits in three words of wishes.
//!
//! Not modelled: LPIs and the ITS, message-based SPIs, extended ranges, the Security Extensions (a
//! guest sees one security state), 1 of N delivery (an SPI with several targets goes to the lowest).
//!
//! Locks: none inside; the VM's lock around its [`Vgic`] serialises every call.

mod again;
mod bank;
mod bank_registers;
mod deliver;
mod distributor;
pub mod fake;
mod fields;
mod input;
mod list;
mod notify;
mod redistributor;
mod refill;
mod report;
mod sgi;
#[cfg(test)]
mod tests;

use crate::exit::Width;
use crate::vcpu::{MAX_VCPUS, VcpuId};
use bank::{BANKS, Bank, Private, Shared, bits};
pub use list::{Link, ListRegister, ListRegisters, LrState, MAX_LIST_REGISTERS};
pub use notify::Notify;
pub use report::Line;
pub use sgi::{GICD_SGIR_OFFSET, SgiRegister};

/// An interrupt's number, INTID (IHI 0048 and IHI 0069, "Interrupt IDs"): 0 to 15 SGI, 16 to 31 PPI,
/// 32 to 1019 SPI, 1020 to 1023 special.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize,
)]
pub struct IntId(pub u16);

impl IntId {
    /// The shared peripheral interrupt that a device tree calls `<0 number ..>`.
    #[inline]
    pub const fn spi(number: u16) -> Self {
        Self(32 + number)
    }

    /// The private peripheral interrupt that a device tree calls `<1 number ..>`.
    pub const fn ppi(number: u16) -> Self {
        Self(16 + number)
    }

    /// Whether this is a software generated interrupt.
    pub const fn is_sgi(self) -> bool {
        self.0 < 16
    }
}

/// Which register view a guest sees; always that of the machine it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum GicVersion {
    /// GICv2, IHI 0048B.
    V2,
    /// GICv3, IHI 0069H.
    V3,
}

/// How many interrupts a guest has: `GICD_TYPER.ITLinesNumber` is one less than a 32nd of it.
pub const INTERRUPTS: u16 = 256;

/// Which of the interrupt controller's register frames an access is to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame {
    /// `GICD_*`, of both versions.
    Distributor,
    /// `GICR_*` of that vCPU, GICv3 only: `RD_base` from offset 0, `SGI_base` from 0x1_0000.
    Redistributor(VcpuId),
}

/// One VM's interrupt controller. vCPU n has the affinity 0.0.0.n.
///
/// To take a snapshot, [`unload`](Self::unload) every vCPU first: what the list registers hold is
/// not in here.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[repr(align(8))] // beside a lock as well, so that it is copied by words
pub struct Vgic {
    version: GicVersion,
    vcpus: u8,
    /// `GICD_CTLR.EnableGrp0`.
    group0: bool,
    /// `GICD_CTLR.EnableGrp1`.
    group1: bool,
    /// The vCPUs whose list registers no longer say what this model wants delivered.
    dirty: Notify,
    /// The vCPUs whose list registers hold what somebody else asked about.
    stale: Notify,
    private: [Private; MAX_VCPUS],
    shared: [Shared; BANKS - 1],
}

impl Vgic {
    /// The controller of a VM with `vcpus` vCPUs (1 to [`MAX_VCPUS`], else the nearest of the two),
    /// as it is after reset.
    pub fn new(version: GicVersion, vcpus: usize) -> Self {
        let vcpus = vcpus.clamp(1, MAX_VCPUS);
        Self {
            version,
            vcpus: u8::try_from(vcpus).unwrap_or(1),
            group0: false,
            group1: false,
            dirty: Notify::first(vcpus),
            stale: Notify::NONE,
            private: core::array::from_fn(|_| Private::new(version)),
            shared: core::array::from_fn(|_| Shared::new(version, vcpus)),
        }
    }

    /// Back to the state after reset. Input lines keep their level and links stay: they are wiring.
    ///
    /// Every vCPU has to be unloaded before. A physical interrupt that was kept active for the guest
    /// is deactivated by the next [`sync`](Self::sync), so that nothing stays dead for its successor.
    pub fn reset(&mut self) {
        let old = core::mem::replace(self, Self::new(self.version, self.vcpus.into()));
        for (new, old) in self.private.iter_mut().zip(&old.private) {
            new.bank.keep_wiring(&old.bank);
        }
        for (new, old) in self.shared.iter_mut().zip(&old.shared) {
            new.bank.keep_wiring(&old.bank);
        }
    }

    /// Which register view this is.
    pub const fn version(&self) -> GicVersion {
        self.version
    }

    /// How many vCPUs there are.
    pub const fn vcpus(&self) -> u8 {
        self.vcpus
    }

    /// Whether this state can be that of an unloaded controller: to be asked of a restored snapshot
    /// before it is used.
    pub fn is_sound(&self) -> bool {
        let vcpus = usize::from(self.vcpus);
        (1..=MAX_VCPUS).contains(&vcpus)
            && self.private.iter().all(Private::is_sound)
            && self.shared.iter().all(|spis| spis.is_sound(self.version, vcpus))
    }

    /// Whether the register at `offset` of `frame` is about what is pending or active, which list registers know
    /// better than this model until they are folded.
    pub const fn is_live(frame: Frame, offset: u64) -> bool {
        let offset = match frame {
            Frame::Distributor => offset,
            Frame::Redistributor(_) => offset.wrapping_sub(redistributor::SGI_BASE),
        };
        matches!(offset, 0x200..0x400 | 0xf10..0xf30)
    }

    /// What `caller` reads at `offset` of `frame`. Zero where there is no register, and for a width
    /// the register cannot be read by.
    ///
    /// The caller's list registers have to be folded first, where that [matters](Self::is_live). What other vCPUs' hold is as it was when
    /// they were last folded; [`take_stale`](Self::take_stale) names them.
    pub fn read(&mut self, caller: VcpuId, frame: Frame, offset: u64, width: Width) -> u64 {
        let Some(v) = self.index(caller) else { return 0 };
        if !offset.is_multiple_of(width.bytes()) {
            return 0;
        }
        let value = match frame {
            Frame::Distributor => self.read_distributor(v, offset, width),
            Frame::Redistributor(of) => match (self.version, self.index(of)) {
                (GicVersion::V3, Some(w)) => self.read_redistributor(v, w, offset, width),
                _ => 0,
            },
        };
        value & width.mask()
    }

    /// `caller` writes `value` at `offset` of `frame`. Ignored where there is no such register, and
    /// for a width the register cannot be written by. The caller's list registers have to be folded
    /// first, where that [matters](Self::is_live).
    pub fn write(
        &mut self,
        caller: VcpuId,
        frame: Frame,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Notify {
        let Some(v) = self.index(caller) else { return Notify::NONE };
        if !offset.is_multiple_of(width.bytes()) {
            return Notify::NONE;
        }
        let value = value & width.mask();
        if (frame, offset, width) == (Frame::Distributor, GICD_SGIR_OFFSET, Width::Word) {
            return self.send_sgir(caller, value);
        }
        let notify = match frame {
            Frame::Distributor => self.write_distributor(v, offset, width, value),
            Frame::Redistributor(of) => match (self.version, self.index(of)) {
                (GicVersion::V3, Some(w)) => self.write_redistributor(w, offset, width, value),
                _ => Notify::NONE,
            },
        };
        self.mark(notify)
    }

    /// Whether `vcpu`'s list registers no longer say what this model wants: it has to sync before it
    /// runs on. A withdrawal is no [`Notify`], so whoever runs `vcpu` asks after each change.
    #[inline]
    pub fn wants_sync(&self, vcpu: VcpuId) -> bool {
        let fired = |v: usize| {
            let interface = &self.private[v].interface;
            interface.fired | interface.again != 0
        };
        self.dirty.contains(vcpu) || self.index(vcpu).is_some_and(fired)
    }

    /// The vCPUs whose list registers hold interrupts whose pending or active state was read since
    /// the last call. A guest that polls `GICD_ISACTIVER` gets its answer sooner if they are made to
    /// sync now; they do at their next exit anyway.
    pub fn take_stale(&mut self) -> Notify {
        core::mem::take(&mut self.stale)
    }

    /// Whether `intid` is pending for `vcpu`: call after its fold.
    pub fn is_pending(&self, vcpu: VcpuId, intid: IntId) -> bool {
        self.any(vcpu, intid, |bank| bank.pending())
    }

    /// Whether `intid` is active for `vcpu`: call after its fold.
    pub fn is_active(&self, vcpu: VcpuId, intid: IntId) -> bool {
        self.any(vcpu, intid, |bank| bank.active)
    }

    /// Whether the physical interrupt behind `intid` is kept active until the guest is done with it:
    /// call after its fold. The physical active state of a PPI belongs to one CPU, so whoever moves
    /// `vcpu` takes it away there and puts it back here.
    #[inline]
    pub fn holds_physical(&self, vcpu: VcpuId, intid: IntId) -> bool {
        self.any(vcpu, intid, |bank| bank.forwarded)
    }

    #[inline]
    fn any(&self, vcpu: VcpuId, intid: IntId, word: impl Fn(&Bank) -> u32) -> bool {
        match (self.index(vcpu), Place::of(intid)) {
            (Some(v), Some(place)) => word(self.bank(v, place.bank)) & place.bit() != 0,
            _ => false,
        }
    }

    /// The index of an existing vCPU.
    fn index(&self, vcpu: VcpuId) -> Option<usize> {
        (vcpu.0 < self.vcpus).then_some(usize::from(vcpu.0))
    }

    #[inline(always)]
    fn bank(&self, v: usize, bank: usize) -> &Bank {
        match bank.checked_sub(1) {
            None => &self.private[v].bank,
            Some(shared) => &self.shared[shared].bank,
        }
    }

    #[inline]
    fn bank_mut(&mut self, v: usize, bank: usize) -> &mut Bank {
        match bank.checked_sub(1) {
            None => &mut self.private[v].bank,
            Some(shared) => &mut self.shared[shared].bank,
        }
    }

    /// The interrupts of a bank whose group is enabled.
    #[inline(always)]
    fn group_enabled(&self, bank: &Bank) -> u32 {
        let group0 = if self.group0 { !bank.group } else { 0 };
        let group1 = if self.group1 { bank.group } else { 0 };
        group0 | group1
    }

    /// The vCPUs that have to do with the interrupts `which`: they own them, or are to get them.
    fn concerned(&self, v: usize, bank: usize, which: u32) -> Notify {
        if which == 0 {
            return Notify::NONE;
        }
        match bank.checked_sub(1) {
            None => Notify::bit(v),
            Some(shared) => {
                let spis = &self.shared[shared];
                (0..usize::from(self.vcpus))
                    .filter(|&w| (spis.routed[w] | spis.owned[w]) & which != 0)
                    .fold(Notify::NONE, |all, w| all | Notify::bit(w))
            }
        }
    }

    /// The vCPUs that own the interrupts `which`: hold them in a list register, or have them active.
    fn owners(&self, v: usize, bank: usize, which: u32) -> Notify {
        if which == 0 {
            return Notify::NONE;
        }
        match bank.checked_sub(1) {
            None => Notify::bit(v),
            Some(shared) => (0..usize::from(self.vcpus))
                .filter(|&w| self.shared[shared].owned[w] & which != 0)
                .fold(Notify::NONE, |all, w| all | Notify::bit(w)),
        }
    }

    /// Remembers who has to sync.
    fn mark(&mut self, notify: Notify) -> Notify {
        self.dirty = self.dirty | notify;
        notify
    }
}

/// Where an interrupt's state is: the bit `index` of each word of bank `bank`.
#[derive(Clone, Copy)]
struct Place {
    bank: usize,
    index: usize,
}

impl Place {
    /// `None` for an INTID no guest has.
    fn of(intid: IntId) -> Option<Self> {
        (intid.0 < INTERRUPTS)
            .then_some(Self { bank: usize::from(intid.0 / 32), index: usize::from(intid.0 % 32) })
    }

    #[inline]
    const fn bit(self) -> u32 {
        1 << self.index
    }

    /// Whether this is an SGI, and so has sources on GICv2.
    const fn is_sgi(self) -> bool {
        self.bank == 0 && self.index < 16
    }

    #[inline]
    fn intid(self) -> IntId {
        IntId(u16::try_from(self.bank * 32 + self.index).unwrap_or(INTERRUPTS))
    }
}
