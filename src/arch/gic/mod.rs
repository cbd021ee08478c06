//! The physical GIC as this CPU uses it: interrupts to EL2, and the list registers of the loaded vCPU.
//! (GICv2: IHI 0048B; GICv3: IHI 0069H.)
//!
//! Priority drop and deactivation are apart (`EOImode` = 1), so that an interrupt handed to a guest stays
//! active until the guest itself deactivates it through its list register.

mod lists;
mod v3;

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::MPIDR_EL1;
use spin::Once;
use tock_registers::interfaces::Readable;

use self::v3::ICH_HCR;
use super::regs::{
    ICC_DIR_EL1, ICC_EOIR1_EL1, ICC_IAR1_EL1, ICC_SGI1R_EL1, ICH_HCR_EL2, ICH_VMCR_EL2,
    read_ich_ap0r, read_ich_ap1r, write_ich_ap0r, write_ich_ap1r, write_ich_lr,
};
use crate::addr::{PhysAddr, Region};
use crate::machine::CpuId;
use crate::platform::WiredInterrupt;
use crate::platform::board;
use crate::platform::driver::gicv2::gicc::{Acknowledged, CpuInterface};
use crate::platform::driver::gicv2::gich::VirtualInterface;
use crate::platform::driver::gicv2::{self, Interfaces};
use crate::platform::driver::gicv3::{self, redistributor::Redistributor};
use crate::platform::driver::mmio::Mmio;
use crate::platform::driver::{DriverError, gic::Lines};
use crate::vcpu::GicCpuContext;
use crate::vgic::{IntId, MAX_LIST_REGISTERS};

/// The software generated interrupt by which CPUs call each other.
pub const KICK: IntId = IntId(0);

/// `GICD_IIDR` of QEMU's GICv2, which names no product. It does not look at its inputs again when a
/// list register with `HW` deactivates an interrupt.
const QEMU_GICV2_IIDR: u32 = 0x43b;

/// The priority of kicks and deadlines: above the drivers' default, and one that a non-secure caller has.
const URGENT: u8 = 0x80;

/// The priority of what comes as FIQ: nothing is before it.
const FIRST: u8 = 0;

/// `GICH_HCR.En`.
const GICH_HCR_EN: u32 = 1;

/// How each CPU is addressed: GICv2's interface mask, or its affinity.
static ADDRESSES: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// GICv2's, for whoever has no [`Gic`] at hand.
static DISTRIBUTOR: Once<gicv2::Distributor> = Once::new();

/// The interrupts that are VMs' own devices', a bit for each.
static ASSIGNED: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

fn assigned_bit(intid: IntId) -> Option<(&'static AtomicU64, u64)> {
    Some((ASSIGNED.get(usize::from(intid.0) / 64)?, 1 << (intid.0 % 64)))
}

/// Whether an interrupt is that of a VM's own device.
pub fn is_assigned(intid: IntId) -> bool {
    assigned_bit(intid).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

/// Interrupt the CPU that this runs on, which may be in the middle of anything: of registers only one is written.
pub fn kick_this(cpu: CpuId) {
    let address = ADDRESSES[cpu.index()].load(Ordering::Acquire);
    match DISTRIBUTOR.get() {
        Some(distributor) => _ = distributor.send_sgi(KICK, Interfaces((address & 0xff) as u8)),
        None => {
            ICC_SGI1R_EL1.set(v3::sgi1r(KICK, address));
            barrier::isb(barrier::SY);
        }
    }
}

/// An acknowledged physical interrupt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Physical {
    /// Another CPU's call; finished.
    Kick,
    /// The list registers want attention; finished.
    Maintenance,
    /// Anything else; active.
    Other(IntId),
}

#[derive(Debug)]
enum Hardware {
    V2 { distributor: gicv2::Distributor, interface: CpuInterface, virt: VirtualInterface },
    V3 { distributor: gicv3::Distributor, redistributor: Redistributor, features: v3::Features },
}

/// This CPU's part of the GIC.
#[derive(Debug)]
pub struct Gic {
    hardware: Hardware,
    maintenance: IntId,
    /// See [`forgets_levels`](crate::vgic::ListRegisters::forgets_levels).
    forgets_levels: bool,
    /// What [`set_maintenance`](crate::vgic::ListRegisters::set_maintenance) asked for last.
    asked: (bool, bool),
    /// What [`write`](crate::vgic::ListRegisters::write) wrote last, as the hardware has it.
    written: [u64; MAX_LIST_REGISTERS],
}

/// The affinity fields of this CPU.
fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

#[inline]
fn registers(region: &Region<PhysAddr>) -> Mmio {
    // SAFETY: the board's tree says the region holds these registers, `start` has mapped it as Device,
    // and it stays mapped. Every CPU uses the same registers as the architecture provides for.
    unsafe { Mmio::new(*region) }
}

impl Gic {
    /// Set the GIC up as far as it is this CPU's; CPU 0 sets up the distributor first of all.
    pub fn start(id: CpuId, board: &board::Gic) -> Self {
        match Self::try_start(id, board) {
            Ok(gic) => gic,
            Err(error) => panic!("the GIC on CPU {}: {error}", id.0),
        }
    }

    fn try_start(id: CpuId, board: &board::Gic) -> Result<Self, DriverError> {
        let mut forgets_levels = false;
        let (hardware, maintenance, address) = match board {
            board::Gic::V2 { gicd, gicc, gich, maintenance, .. } => {
                let distributor = gicv2::Distributor::new(registers(gicd))?;
                if id == CpuId(0) {
                    distributor.init();
                }
                distributor.init_cpu();
                forgets_levels = distributor.iidr() == QEMU_GICV2_IIDR;
                let interface = CpuInterface::new(registers(gicc))?;
                interface.init(distributor.has_groups());
                DISTRIBUTOR.call_once(|| distributor);
                let virt = VirtualInterface::new(registers(gich))?;
                virt.init();
                let address = u64::from(distributor.this_interface().0);
                (Hardware::V2 { distributor, interface, virt }, maintenance, address)
            }
            board::Gic::V3 { gicd, redistributors, stride, maintenance } => {
                let distributor = gicv3::Distributor::new(registers(gicd))?;
                if id == CpuId(0) {
                    distributor.init(affinity())?;
                }
                let regions: alloc::vec::Vec<Mmio> = redistributors.iter().map(registers).collect();
                let redistributor = Redistributor::find(&regions, *stride, affinity())?;
                redistributor.init()?;
                let features = v3::start_interface();
                let hardware = Hardware::V3 { distributor, redistributor, features };
                (hardware, maintenance, affinity())
            }
        };
        ADDRESSES[id.index()].store(address, Ordering::Release);
        let mut gic = Self {
            hardware,
            maintenance: maintenance.intid,
            forgets_levels,
            asked: (false, false),
            written: [0; MAX_LIST_REGISTERS],
        };
        gic.enable_urgent(KICK);
        gic.enable(maintenance.intid);
        Ok(gic)
    }

    fn lines(&self, intid: IntId) -> &Lines {
        match &self.hardware {
            Hardware::V2 { distributor, .. } => distributor.lines(),
            Hardware::V3 { redistributor, .. } if intid.0 < 32 => redistributor.lines(),
            Hardware::V3 { distributor, .. } => distributor.lines(),
        }
    }

    /// Waits until what was disabled is so: GICv3 says when.
    fn wait(&self, intid: IntId) -> Result<(), DriverError> {
        match &self.hardware {
            Hardware::V2 { .. } => Ok(()),
            Hardware::V3 { redistributor, .. } if intid.0 < 32 => redistributor.wait(),
            Hardware::V3 { distributor, .. } => distributor.wait(),
        }
    }

    /// Let an interrupt through to this CPU.
    pub fn enable(&mut self, intid: IntId) {
        if let Err(error) = self.lines(intid).enable(intid) {
            log::error!("interrupt {}: {error}", intid.0);
        }
    }

    /// Let one of the hypervisor's own interrupts through, before all that a guest can provoke.
    pub fn enable_urgent(&mut self, intid: IntId) {
        if let Err(error) = self.lines(intid).set_priority(intid, URGENT) {
            log::error!("interrupt {}: {error}", intid.0);
        }
        self.enable(intid);
    }

    /// Let one of this CPU's private interrupts through as FIQ, before all others and whatever is in hand. Returns false where it
    /// cannot be: group 0 is the Secure world's.
    pub fn enable_fiq(&mut self, intid: IntId) -> bool {
        let lines = self.lines(intid);
        let done = match &self.hardware {
            Hardware::V2 { distributor, .. } if distributor.has_groups() => Ok(()),
            Hardware::V3 { distributor, features, .. }
                if features.group_0 && lines.has_groups() =>
            {
                v3::enable_group_0();
                distributor.enable_group_0()
            }
            _ => return false,
        };
        let done = done
            .and_then(|()| lines.set_group_0(intid))
            .and_then(|()| lines.set_priority(intid, FIRST))
            .and_then(|()| lines.enable(intid));
        if let Err(error) = done {
            log::error!("interrupt {}: {error}", intid.0);
        }
        done.is_ok()
    }

    /// Have a shared interrupt go to this CPU.
    pub fn route_here(&mut self, intid: IntId) {
        let routed = match &self.hardware {
            Hardware::V2 { distributor, .. } => {
                distributor.set_target(intid, distributor.this_interface())
            }
            Hardware::V3 { distributor, .. } => distributor.set_route(intid, affinity()),
        };
        if let Err(error) = routed {
            log::error!("interrupt {}: {error}", intid.0);
        }
    }

    /// Let the interrupt of a VM's own device through to this CPU.
    pub fn open(&mut self, interrupt: WiredInterrupt) {
        let WiredInterrupt { intid, trigger } = interrupt;
        if let Err(error) = self.lines(intid).set_trigger(intid, trigger) {
            log::error!("interrupt {}: {error}", intid.0);
        }
        if let Some((word, bit)) = assigned_bit(intid) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        self.route_here(intid);
        self.enable(intid);
    }

    /// Let it through no more, and forget what of it is under way.
    pub fn close(&mut self, intid: IntId) {
        let lines = self.lines(intid);
        let done = lines
            .disable(intid)
            .and_then(|()| self.wait(intid))
            .and_then(|()| lines.clear_pending(intid))
            .and_then(|()| lines.clear_active(intid));
        if let Err(error) = done {
            log::error!("interrupt {}: {error}", intid.0);
        }
        let _ = lines.is_active(intid);
        barrier::dsb(barrier::SY);
        if let Some((word, bit)) = assigned_bit(intid) {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Set or clear the physical active state of one of this CPU's private interrupts.
    pub fn set_active(&mut self, intid: IntId, active: bool) {
        let lines = self.lines(intid);
        let done = if active { lines.set_active(intid) } else { lines.clear_active(intid) };
        debug_assert!(done.is_ok());
        // A write may be acknowledged early; the answer to a read says that it has arrived.
        let _ = lines.is_active(intid);
        barrier::dsb(barrier::SY);
    }

    /// Take the most urgent pending interrupt.
    #[inline(always)]
    pub fn acknowledge(&mut self) -> Option<Physical> {
        let taken = match &self.hardware {
            Hardware::V2 { interface, .. } => interface.acknowledge()?,
            Hardware::V3 { .. } => {
                let intid = u16::try_from(ICC_IAR1_EL1.get()).ok().filter(|intid| *intid < 1020)?;
                // The read's effect, before anything it allows (IHI 0069, "Observability of the effects of accesses to the GIC
                // registers").
                barrier::dsb(barrier::SY);
                barrier::isb(barrier::SY);
                Acknowledged { intid: IntId(intid), source: 0 }
            }
        };
        if taken.intid == KICK {
            self.finish_taken(taken);
            Some(Physical::Kick)
        } else if taken.intid == self.maintenance {
            self.finish_taken(taken);
            Some(Physical::Maintenance)
        } else {
            Some(Physical::Other(taken.intid))
        }
    }

    /// Let interrupts of the same priority through again; this one stays active.
    #[inline(always)]
    pub fn drop_priority(&mut self, intid: IntId) {
        match &self.hardware {
            Hardware::V2 { interface, .. } => {
                interface.drop_priority(Acknowledged { intid, source: 0 });
            }
            Hardware::V3 { .. } => ICC_EOIR1_EL1.set(intid.0.into()),
        }
    }

    /// Done with an interrupt: priority drop and deactivation.
    #[inline]
    pub fn finish(&mut self, intid: IntId) {
        self.finish_taken(Acknowledged { intid, source: 0 });
    }

    #[inline]
    fn finish_taken(&mut self, taken: Acknowledged) {
        match &self.hardware {
            Hardware::V2 { interface, .. } => {
                interface.drop_priority(taken);
                interface.deactivate(taken);
            }
            Hardware::V3 { .. } => {
                ICC_EOIR1_EL1.set(taken.intid.0.into());
                barrier::isb(barrier::SY); // else the two may take effect in any order
                ICC_DIR_EL1.set(taken.intid.0.into());
            }
        }
    }

    /// Interrupt another CPU.
    pub fn kick(&mut self, cpu: CpuId) {
        let address = ADDRESSES[cpu.index()].load(Ordering::Acquire);
        barrier::dsb(barrier::ISHST); // what the other is to find, before it looks
        match &self.hardware {
            Hardware::V2 { distributor, .. } => {
                let interfaces = Interfaces((address & 0xff) as u8);
                let sent = distributor.send_sgi(KICK, interfaces);
                debug_assert!(sent.is_ok());
            }
            Hardware::V3 { .. } => {
                ICC_SGI1R_EL1.set(v3::sgi1r(KICK, address));
                barrier::isb(barrier::SY);
            }
        }
    }

    /// Put a vCPU's CPU interface into the hardware, its list registers empty.
    pub fn load(&mut self, context: &GicCpuContext) {
        self.asked = (false, false);
        match &self.hardware {
            Hardware::V2 { virt, .. } => {
                for index in 0..virt.count() {
                    virt.set_lr(index, 0);
                }
                virt.set_vmcr(context.vmcr);
                virt.set_apr(context.ap0[0]);
                virt.set_hcr(GICH_HCR_EN);
            }
            Hardware::V3 { features, .. } => {
                for index in 0..features.list_registers {
                    write_ich_lr(index, 0);
                }
                ICH_VMCR_EL2.set(context.vmcr.into());
                for index in 0..features.active_priorities {
                    write_ich_ap0r(index, context.ap0[index].into());
                    write_ich_ap1r(index, context.ap1[index].into());
                }
                ICH_HCR_EL2.set(ICH_HCR::En::SET.value);
            }
        }
    }

    /// Take a vCPU's CPU interface out of the hardware. The list registers stay until they are folded.
    pub fn save(&mut self, context: &mut GicCpuContext) {
        match &self.hardware {
            Hardware::V2 { virt, .. } => {
                context.vmcr = virt.vmcr();
                context.ap0[0] = virt.apr();
            }
            Hardware::V3 { features, .. } => {
                context.vmcr = low_word(ICH_VMCR_EL2.get());
                for index in 0..features.active_priorities {
                    context.ap0[index] = low_word(read_ich_ap0r(index));
                    context.ap1[index] = low_word(read_ich_ap1r(index));
                }
            }
        }
    }

    /// Turn the virtual CPU interface off: its vCPU is leaving. List registers and `EOICount` stay until
    /// they are folded.
    pub fn park(&mut self) {
        match &self.hardware {
            Hardware::V2 { virt, .. } => virt.set_hcr(virt.hcr().get() & !GICH_HCR_EN),
            Hardware::V3 { .. } => {
                ICH_HCR_EL2.set(ICH_HCR_EL2.get() & !ICH_HCR::En::SET.value);
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "registers of 32 bits")]
const fn low_word(value: u64) -> u32 {
    value as u32
}
