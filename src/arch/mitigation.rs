//! What this CPU and its firmware say of speculation, and what was [decided](crate::mitigation) put into effect.

use alloc::vec::Vec;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MIDR_EL1, VBAR_EL2};
use smccc::arch::SMCCC_ARCH_WORKAROUND_2;
use spin::mutex::TicketMutex;
use tock_registers::interfaces::{Readable, Writeable};

use super::id_registers::raw;
use super::{percpu, world};
use crate::firmware::smccc::Mitigations;
use crate::machine::CpuId;
use crate::mitigation::{self, Answer, Decision, Entry, Firmware, Registers, State};
use crate::platform::board::{Board, Conduit};
use crate::vm::sysreg::names;

/// What was decided for each CPU that runs, in the order in which they came.
static DECIDED: TicketMutex<Vec<(CpuId, Decision)>> = TicketMutex::new(Vec::new());

/// Exceptions can be taken from here on.
pub fn begin() {
    VBAR_EL2.set(world::vectors(Entry::Nothing).0);
}

/// Decide for this CPU, before it runs a guest. `stores_in_order`: no load of it passes an older store as it is.
pub fn apply(cpu: CpuId, board: &Board, stores_in_order: bool) {
    // By HVC there is nobody below EL2 to be called.
    let firmware = match board.psci {
        Some(Conduit::Smc) => Firmware::ask(call),
        Some(Conduit::Hvc) | None => Firmware::default(),
    };
    let decision = mitigation::decide(&registers(), &firmware, stores_in_order);
    if decision.store_bypass == State::Off && firmware.workaround_2 == Answer::Callable {
        call(SMCCC_ARCH_WORKAROUND_2, 1);
    }
    let (vectors, entry) = world::vectors(decision.entry);
    // SAFETY: the block is this CPU's own and lives for ever; only the vectors read it, and none of those that do is in
    // use yet.
    unsafe { (*percpu::current()).entry = entry };
    VBAR_EL2.set(vectors);
    barrier::isb(barrier::SY);
    DECIDED.lock().push((cpu, decision));
}

/// Say in the log what was decided, and which errata are seen to.
pub fn report() {
    for line in mitigation::lines(&DECIDED.lock()) {
        let level = if line.is_open() { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{line}");
    }
    mitigation::errata(&DECIDED.lock()).iter().for_each(|line| log::info!("{line}"));
}

/// What guests are told, when all CPUs have come that will.
pub fn for_guests() -> Mitigations {
    let decisions: Vec<_> = DECIDED.lock().iter().map(|(_, decision)| *decision).collect();
    mitigation::for_guests(&decisions)
}

fn registers() -> Registers {
    Registers {
        midr: MIDR_EL1.get(),
        pfr0: raw(names::ID_AA64PFR0_EL1),
        pfr1: raw(names::ID_AA64PFR1_EL1),
        isar2: raw(names::ID_AA64ISAR2_EL1),
        mmfr1: raw(names::ID_AA64MMFR1_EL1),
    }
}

/// w0 of what the firmware returns.
fn call(function: u32, argument: u32) -> i32 {
    smccc::smc32(function, [argument, 0, 0, 0, 0, 0, 0])[0].cast_signed()
}
