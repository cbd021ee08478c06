//! Each CPU's look at itself, by the one interrupt that EL2 does not mask.
//!
//! The physical timer of EL1, which no guest reaches (`CNTHCTL_EL2`), comes as FIQ ([`enable_fiq`](super::gic::Gic::enable_fiq)). It is
//! taken wherever EL2 runs Rust; where `ELR_EL2` and `SPSR_EL2` have something that is still needed, at the entry into a guest and
//! on the way out, it is masked. What it finds out is what other CPUs would ([`watchdog`](crate::hypervisor::watchdog)), for a CPU
//! that has no others, or whose others hang as well. Nothing that it interrupts can tell: it has a stack of its own, takes no lock,
//! and stores to what nobody else uses.

use core::arch::asm;

use super::crash::{self, CrashFrame};
use super::{gic, percpu, start, timer};
use crate::hypervisor::watchdog::{Finding, Hang, LOOKS, Watch};
use crate::time::Ticks;

/// `PSTATE.F`, as `SPSR_EL2` has it.
const FIQ_MASKED: u64 = 1 << 6;

/// What a CPU needs for looking at itself.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    watch: Watch,
    interval: Ticks,
}

impl Own {
    /// A look each `interval`.
    pub fn new(interval: Ticks) -> Self {
        Self { watch: Watch::new(LOOKS), interval }
    }
}

/// Look at this CPU from now on, each `interval`. Its timer's interrupt comes as FIQ.
pub fn begin(interval: Ticks) {
    // SAFETY: the block is this CPU's own and lives for ever, and the FIQ, who uses this, is masked until the last instruction.
    unsafe {
        (*percpu::current()).own = Some(Own::new(interval));
        timer::set_watchdog(Some(timer::now().saturating_add(interval)));
        asm!("msr DAIFClr, #1", options(nostack));
    }
}

/// Look an interval from now.
pub fn put_off() {
    // SAFETY: the block is this CPU's own and lives for ever; what is copied only changes in `begin`.
    let interval = unsafe { (*percpu::current()).own.map(|own| own.interval) };
    timer::set_watchdog(interval.map(|interval| timer::now().saturating_add(interval)));
}

/// Look at this CPU no more.
pub fn end() {
    timer::set_watchdog(None);
}

/// An FIQ has interrupted EL2, which goes on as it was afterwards.
#[unsafe(no_mangle)]
extern "C" fn plinth_fiq(frame: &mut CrashFrame) {
    let block = percpu::current();
    // SAFETY: the block is this CPU's own and lives for ever; nobody uses this part of it but the FIQ, which is masked here.
    let (cpu, own) = unsafe { ((*block).cpu, &mut (*block).own) };
    let Some(own) = own.as_mut().filter(|_| timer::watchdog_has_fired()) else {
        // Somebody else's, whoever that is. It is let be, and EL2 goes on, until a guest is left the next time.
        frame.mask(FIQ_MASKED);
        return;
    };
    timer::set_watchdog(Some(timer::now().saturating_add(own.interval)));
    let Some(hypervisor) = start::hypervisor() else { return };
    let clock = hypervisor.clock(cpu);
    match own.watch.look(clock.signs()) {
        Finding::Lives => {}
        Finding::Ask => gic::kick_this(cpu),
        Finding::Hangs => {
            let hang = Hang::of(clock, cpu, cpu, own.watch.patience(own.interval));
            crash::hangs(hypervisor, hang, frame)
        }
    }
}
