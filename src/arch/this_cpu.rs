//! The CPU this code runs on, as a [`Machine`].

use aarch64_cpu::asm;
use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTVOFF_EL2, ESR_EL2, FAR_EL2, HCR_EL2, HPFAR_EL2, VMPIDR_EL2, VTCR_EL2, VTTBR_EL2,
};
use tock_registers::interfaces::{Readable, Writeable};

use super::gic::{Gic, Physical};
use super::maintenance::Upkeep;
use super::regs::ISR_EL1;
use super::{el1, maintenance, percpu, timer, traps, watchdog, world};
use crate::addr::Ipa;
use crate::exit::Exit;
use crate::machine::{CpuId, El1Register, Interrupt, Machine, NoAddress, Space};
use crate::platform::WiredInterrupt;
use crate::platform::board::Board;
use crate::time::Ticks;
use crate::vcpu::{El1Context, ExceptionEntry, FpRegs, GuestRegs, Vcpu};
use crate::vgic::IntId;

/// `ISR_EL1.A`: an SError is pending.
const ISR_A: u64 = 1 << 8;

/// This CPU.
pub struct ThisCpu {
    id: CpuId,
    gic: Gic,
    upkeep: Upkeep,
    timers: Timers,
    /// Breakpoint and watchpoint registers hold the loaded vCPU's values.
    debug_loaded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Timers {
    hypervisor: IntId,
    virt: IntId,
    watchdog: IntId,
}

impl ThisCpu {
    /// Take charge of the CPU this runs on: its control registers, its part of the GIC, its timers.
    pub fn new(id: CpuId, board: &Board) -> Self {
        let timers = Timers {
            hypervisor: board.timer.hypervisor.intid,
            virt: board.timer.virt.intid,
            watchdog: board.timer.physical.intid,
        };
        VTCR_EL2.set(super::supply::vtcr());
        VTTBR_EL2.set(super::start::empty_stage2());
        barrier::isb(barrier::SY); // the empty stage 2 is in place before it is turned on
        HCR_EL2.set(traps::HCR_PARKED);
        barrier::isb(barrier::SY);
        el1::unlock_debug();
        el1::clear_debug();
        let mut gic = Gic::start(id, &board.gic);
        gic.enable_urgent(timers.hypervisor);
        gic.enable(timers.virt);
        Self { id, gic, upkeep: Upkeep, timers, debug_loaded: false }
    }

    /// What an acknowledged interrupt is, which is neither a kick, nor maintenance, nor the virtual timer's.
    #[inline(never)]
    fn finish_other(&mut self, intid: IntId) -> Interrupt {
        if intid == self.timers.hypervisor {
            timer::set_deadline(None);
            self.gic.finish(intid);
            return Interrupt::Deadline;
        }
        if super::gic::is_assigned(intid) {
            self.gic.drop_priority(intid);
            return Interrupt::Assigned(intid);
        }
        if intid == self.timers.watchdog {
            // It was acknowledged before it was taken as FIQ, which it will be next time.
            watchdog::put_off();
        }
        // A level stays asserted until the device is served, and is taken again if it was not.
        self.gic.finish(intid);
        Interrupt::Device(intid)
    }

    /// Have this CPU look at itself each `interval`. Returns false where that cannot be: FIQs are the Secure world's.
    pub fn watch_itself(&mut self, interval: Ticks) -> bool {
        let can = self.gic.enable_fiq(self.timers.watchdog);
        if can {
            watchdog::begin(interval);
        }
        can
    }

    /// Route a device's interrupt to this CPU and enable it.
    pub fn listen_to(&mut self, interrupt: IntId) {
        self.gic.route_here(interrupt);
        self.gic.enable(interrupt);
    }
}

impl Machine for ThisCpu {
    type Lrs = Gic;
    type Upkeep = Upkeep;

    fn id(&self) -> CpuId {
        self.id
    }

    fn now(&self) -> Ticks {
        timer::now()
    }

    fn affinity(&self) -> u64 {
        super::start::this_mpidr()
    }

    fn stamp(&self) -> Ticks {
        timer::stamp()
    }

    fn load(&mut self, vcpu: &Vcpu, space: &Space) {
        // EL1's registers go in while stage 2 still leads nowhere: what the CPU fetches speculatively
        // through half a context must not stay in the TLB under a guest's VMID, nor reach memory
        // (Cortex-A72 erratum 1319367).
        VMPIDR_EL2.set(space.mpidr);
        CNTVOFF_EL2.set(space.counter_offset);
        el1::load(&vcpu.el1);
        el1::load_fp(&vcpu.fp);
        self.write_debug(vcpu);
        self.gic.load(&vcpu.gic);
        barrier::isb(barrier::SY); // EL1 is consistent before stage 2 opens
        VTCR_EL2.set(space.vtcr);
        VTTBR_EL2.set(space.vttbr);
        HCR_EL2.set(traps::hcr_guest(space.trap_wait, vcpu.watch_caches));
        barrier::isb(barrier::SY); // before the invalidation, which goes by VTTBR_EL2's VMID
        if space.stale_tlb {
            maintenance::invalidate_this_vm_here();
        }
    }

    fn unload(&mut self, vcpu: &mut Vcpu) -> bool {
        VTTBR_EL2.set(super::start::empty_stage2());
        barrier::isb(barrier::SY); // stage 2 leads nowhere from here on
        el1::save(&mut vcpu.el1);
        el1::save_fp(&mut vcpu.fp);
        timer::stop_virtual();
        self.gic.save(&mut vcpu.gic);
        self.gic.park();
        let serror = world::take_serror();
        HCR_EL2.set(traps::HCR_PARKED);
        if self.debug_loaded {
            el1::clear_debug();
            self.debug_loaded = false;
        }
        serror
    }

    #[inline(always)]
    fn run(&mut self, regs: &mut GuestRegs) -> Exit {
        if world::enter(regs) { Exit::Irq } else { decode() }
    }

    #[cold]
    fn last_exit(&self) -> Exit {
        decode()
    }

    fn vector_base(&self) -> (u64, u64) {
        (el1::vbar(), el1::read(El1Register::Sctlr))
    }

    fn set_exception(&mut self, entry: &ExceptionEntry) {
        el1::set_exception(entry);
    }

    fn read_el1(&self, register: El1Register) -> u64 {
        el1::read(register)
    }

    fn copy_el1(&self) -> El1Context {
        let mut context = El1Context::default();
        el1::save(&mut context);
        context
    }

    fn translate(&self, address: u64) -> Result<Ipa, NoAddress> {
        el1::translate(address)
    }

    fn copy_fp(&self) -> FpRegs {
        let mut fp = FpRegs::default();
        el1::save_fp(&mut fp);
        fp
    }

    fn write_fp(&mut self, fp: &FpRegs) {
        el1::load_fp(fp);
    }

    fn write_el1(&mut self, register: El1Register, value: u64) {
        el1::write(register, value);
    }

    fn write_debug(&mut self, vcpu: &Vcpu) {
        el1::set_mdscr(vcpu.debug.mdscr_in_effect());
        if vcpu.debug.in_use() || self.debug_loaded {
            el1::load_debug(&vcpu.debug);
            self.debug_loaded = true;
        }
    }

    fn trap_vm_registers(&mut self, on: bool) {
        let hcr = HCR_EL2.get();
        HCR_EL2.set(if on { hcr | traps::HCR_TVM } else { hcr & !traps::HCR_TVM });
    }

    fn list_registers(&mut self) -> &mut Gic {
        &mut self.gic
    }

    fn virtual_timer_asserted(&self) -> bool {
        timer::virtual_asserted()
    }

    fn set_virtual_timer_active(&mut self, active: bool) {
        self.gic.set_active(self.timers.virt, active);
    }

    fn interrupt_pending(&mut self) -> bool {
        // Also with PSTATE.I set (Arm ARM, "ISR_EL1, Interrupt Status Register").
        ISR_EL1.get() != 0
    }

    #[inline(always)]
    fn acknowledge(&mut self) -> Option<Interrupt> {
        let taken = self.gic.acknowledge()?;
        match taken {
            Physical::Other(intid) if intid == self.timers.virt => {
                self.gic.drop_priority(intid);
                Some(Interrupt::VirtualTimer)
            }
            Physical::Kick => Some(Interrupt::Kick),
            Physical::Maintenance => Some(Interrupt::Maintenance),
            Physical::Other(intid) => Some(self.finish_other(intid)),
        }
    }

    fn open_interrupt(&mut self, interrupt: WiredInterrupt) {
        self.gic.open(interrupt);
    }

    fn close_interrupt(&mut self, intid: IntId) {
        self.gic.close(intid);
    }

    fn set_deadline(&mut self, at: Option<Ticks>) {
        timer::set_deadline(at);
    }

    fn idle(&mut self) -> bool {
        barrier::dsb(barrier::SY); // nothing of ours is outstanding while the CPU sleeps
        if ISR_EL1.get() & ISR_A != 0 {
            return false;
        }
        asm::wfi();
        true
    }

    fn kick(&mut self, cpu: CpuId) {
        self.gic.kick(cpu);
    }

    fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }
}

/// The exit that the syndrome registers tell of.
#[inline(always)]
fn decode() -> Exit {
    Exit::decode(ESR_EL2.get(), || (FAR_EL2.get(), HPFAR_EL2.get()))
}

/// Which CPU this is, for code that has no [`ThisCpu`] at hand.
pub fn id() -> CpuId {
    // SAFETY: the block is this CPU's own and lives for ever.
    unsafe { (*percpu::current()).cpu }
}
