//! A guest's access to what stage 2 leaves out: its interrupt controller and its devices.

use super::Vm;
use super::layout::{GICD, GICR, GICR_STRIDE};
use crate::addr::Ipa;
use crate::exit::{Direction, MmioAccess, Width};
use crate::machine::{El1Register, Machine};
use crate::vcpu::{GuestRegs, Vcpu, VcpuId, pstate};
use crate::vgic::{Frame, GicVersion, Notify, Vgic};

impl Vm {
    /// Let the device at an access's address answer it: the vCPUs that have to look at their interrupts, and whether the
    /// device is due earlier than before. `None` when nothing is there.
    pub(super) fn mmio<M: Machine>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &mut Vcpu,
        access: &MmioAccess,
    ) -> Option<(Notify, bool)> {
        let mut access = *access;
        access.swapped = Self::is_big_endian(machine, &vcpu.regs);
        let write = access.direction == Direction::Write;
        let value = write.then(|| access.stored(vcpu.regs.read(access.gpr)));
        let Accessed { notify, loaded, sooner } =
            self.access::<M, true>(machine, me, vcpu, access.ipa, access.width, value)?;
        if !write {
            vcpu.regs.write(access.gpr, access.extend(loaded));
        }
        Some((notify, sooner))
    }

    /// A load from the interrupt controller or a device at `ipa`, or a store of `value`, in the device's byte order. `None`
    /// when nothing is there. Without `LAST`, somebody [catches up](Self::catch_up) later.
    pub(super) fn access<M: Machine, const LAST: bool>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &Vcpu,
        ipa: Ipa,
        width: Width,
        value: Option<u64>,
    ) -> Option<Accessed> {
        match self.gic_frame(ipa, width) {
            Some(place) => Some(self.gic_access::<M, LAST>(machine, me, vcpu, place, width, value)),
            None => self.device_access(machine, me, ipa, width, value),
        }
    }

    /// Whether the guest's data accesses are big-endian: `SCTLR_EL1.EE`, `SCTLR_EL1.E0E`.
    #[inline]
    pub(super) fn is_big_endian<M: Machine>(machine: &M, regs: &GuestRegs) -> bool {
        const EE: u64 = 1 << 25;
        const E0E: u64 = 1 << 24;
        let bit = if pstate::is_el0(regs.pstate) { E0E } else { EE };
        machine.read_el1(El1Register::Sctlr) & bit != 0
    }

    /// Which GIC register frame an access is to, and the offset in it.
    pub(super) fn gic_frame(&self, ipa: Ipa, width: Width) -> Option<(Frame, u64)> {
        let within = |window: super::layout::Window| {
            let offset = ipa.offset_from(window.base)?;
            let last = offset.checked_add(width.bytes() - 1)?;
            let aligned = ipa.is_aligned(width.bytes());
            (aligned && last < window.size).then_some(offset)
        };
        if let Some(offset) = within(GICD) {
            return Some((Frame::Distributor, offset));
        }
        if self.gic_version == GicVersion::V2 {
            return None;
        }
        let offset = within(GICR)?;
        let vcpu = u8::try_from(offset / GICR_STRIDE).ok()?;
        (vcpu < self.vcpu_count())
            .then_some((Frame::Redistributor(VcpuId(vcpu)), offset % GICR_STRIDE))
    }

    /// Has the list registers say what the guest has made of the interrupt controller.
    pub(super) fn catch_up<M: Machine>(&self, machine: &mut M, me: VcpuId) -> Notify {
        let mut vgic = self.vgic.lock();
        if vgic.wants_sync(me) {
            vgic.sync(me, machine.list_registers()).without(me)
        } else {
            Notify::NONE
        }
    }

    /// A load from the interrupt controller, or a store of `value`. With `LAST`, the list registers are brought up.
    pub(super) fn gic_access<M: Machine, const LAST: bool>(
        &self,
        machine: &mut M,
        me: VcpuId,
        vcpu: &Vcpu,
        (frame, offset): (Frame, u64),
        width: Width,
        value: Option<u64>,
    ) -> Accessed {
        let live = Vgic::is_live(frame, offset);
        let mut vgic = if live { self.sample_timers(machine, me, vcpu) } else { self.vgic.lock() };
        let (mut notify, mut loaded) = (Notify::NONE, 0);
        if live {
            // What is in the list registers is part of what the guest asks about.
            notify = notify | vgic.fold(me, machine.list_registers());
        }
        match value {
            None => {
                loaded = vgic.read(me, frame, offset, width);
                notify = notify | vgic.take_stale();
            }
            Some(value) => notify = notify | vgic.write(me, frame, offset, width, value),
        }
        if LAST && vgic.wants_sync(me) {
            notify = notify | vgic.sync(me, machine.list_registers());
        }
        Accessed { notify: notify.without(me), loaded, sooner: false }
    }

    /// A load from the device at `ipa`, or a store of `value`. `None` when nothing is there.
    #[inline(always)]
    pub(super) fn device_access<M: Machine>(
        &self,
        machine: &M,
        me: VcpuId,
        ipa: Ipa,
        width: Width,
        value: Option<u64>,
    ) -> Option<Accessed> {
        let now = self.virtual_now(machine.now());
        let mut notify = Notify::NONE;
        let line = |irq, level| {
            notify = notify | self.drive(me, irq, level);
        };
        let (loaded, sooner) = match value {
            None => self.bus.read(ipa, width, now, line)?,
            Some(value) => (0, self.bus.write(ipa, width, value, now, line)?),
        };
        Some(Accessed { notify, loaded, sooner })
    }
}

/// What came of an access to a device.
pub(super) struct Accessed {
    /// The vCPUs that have to look at their interrupts.
    pub notify: Notify,
    /// What was loaded.
    pub loaded: u64,
    /// The device is due earlier than before.
    pub sooner: bool,
}
