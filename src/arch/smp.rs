//! The other CPUs: turned on one after the other, each with a stack of its own.
//!
//! By PSCI, or by a spin table: then all are let go at once, early, while the words they look at are mapped,
//! and wait in our own code until it is their turn.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::asm;

use super::maintenance::Upkeep;
use super::this_cpu::ThisCpu;
use super::{boot, errata, id_registers, mitigation, mmu, percpu, power, timer, traps};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::machine::CpuId;
use crate::memory::Maintenance;
use crate::platform::board::{Board, BoardCpu, EnableMethod};
use crate::time::Frequency;

/// The size of a secondary CPU's stacks, their guard pages included.
pub const STACKS: u64 = 128 * 1024;

/// A secondary CPU's stacks. From the lowest address: a guard page, the emergency stack, a guard page, and the stack that it
/// normally runs on.
#[derive(Clone, Copy, Debug)]
pub struct Stacks(Region<PhysAddr>);

impl Stacks {
    /// In memory of the size [`STACKS`].
    pub const fn new(memory: Region<PhysAddr>) -> Self {
        Self(memory)
    }

    const fn bottom(self) -> u64 {
        self.0.start().raw()
    }

    const fn emergency_top(self) -> u64 {
        self.bottom() + PAGE_SIZE + percpu::EMERGENCY_STACK as u64
    }

    /// What is not to be mapped.
    pub const fn guards(self) -> [PhysAddr; 2] {
        [PhysAddr::new(self.bottom()), PhysAddr::new(self.emergency_top())]
    }

    /// The guard page and the end of the stack that it normally runs on.
    const fn usual(self) -> (u64, u64) {
        (self.emergency_top(), self.0.last().raw() + 1)
    }
}

/// The [`SecondaryBoot`] of the CPU whose turn it is to leave the pen, as its address. The entry code reads
/// it with the MMU off.
pub static NEXT: AtomicU64 = AtomicU64::new(0);

/// How long a CPU may take from `CPU_ON` to its first sign of life.
const PATIENCE_MICROS: u64 = 1_000_000;

/// What a secondary CPU reads with its MMU off. The entry code knows the offsets.
#[repr(C)]
#[derive(Debug)]
pub struct SecondaryBoot {
    /// `MAIR_EL2`.
    pub mair: u64,
    /// `TCR_EL2`.
    pub tcr: u64,
    /// `TTBR0_EL2`.
    pub ttbr0: u64,
    stack_top: u64,
    /// The affinity fields of its `MPIDR_EL1`.
    pub mpidr: u64,
    stack_bottom: u64,
    emergency_top: u64,
    id: CpuId,
    board: &'static Board,
    state: AtomicU8,
}

/// The boot CPU waits for it.
const AWAITED: u8 = 0;
/// It has arrived in time, and owns its number.
const ARRIVED: u8 = 1;
/// It runs.
const READY: u8 = 2;
/// It came too late: its number may be another's.
const GIVEN_UP: u8 = 3;

/// Turn on every CPU of the board but this one. Returns how many run in the end, this one included;
/// they have the numbers from 0 on. A CPU that does not come is left out.
pub fn start_others(
    board: &'static Board,
    this: u64,
    stacks: impl IntoIterator<Item = Stacks>,
    frequency: Frequency,
) -> u8 {
    let mut running = 1;
    let others = board.cpus.iter().filter(|cpu| cpu.mpidr != this);
    for (cpu, stacks) in others.zip(stacks) {
        if running == u8::MAX {
            log::warn!("more than {running} CPUs: the others stay off");
            break;
        }
        match start(board, cpu, CpuId(running), stacks, frequency) {
            Ok(()) => running += 1,
            Err(reason) => log::error!("CPU {:#x} does not come up: {reason}", cpu.mpidr),
        }
    }
    running
}

fn start(
    board: &'static Board,
    cpu: &BoardCpu,
    id: CpuId,
    stacks: Stacks,
    frequency: Frequency,
) -> Result<(), &'static str> {
    let (mair, tcr, ttbr0) = mmu::registers();
    let (stack_bottom, stack_top) = stacks.usual();
    // Never freed: a CPU that comes too late must find it.
    let boot: &'static SecondaryBoot = Box::leak(Box::new(SecondaryBoot {
        mair,
        tcr,
        ttbr0,
        stack_top,
        mpidr: cpu.mpidr,
        stack_bottom,
        emergency_top: stacks.emergency_top(),
        id,
        board,
        state: AtomicU8::new(AWAITED),
    }));
    let address = PhysAddr::new(&raw const *boot as u64);
    if let Some(region) = Region::new(address, size_of::<SecondaryBoot>() as u64) {
        // Read with the MMU off, past the caches.
        Upkeep.clean_to_poc(region);
    }
    match cpu.enable {
        EnableMethod::Psci => {
            power::cpu_on(cpu.mpidr, boot::secondary_entry().raw(), address.raw())?;
        }
        EnableMethod::SpinTable { .. } => call(address),
        EnableMethod::None => return Err("the device tree names no way to enable it"),
    }
    let begin = timer::now();
    while boot.state.load(Ordering::Acquire) != READY {
        let late = timer::now().since(begin) > frequency.micros(PATIENCE_MICROS);
        // Who has arrived has the number, and is waited for.
        if late && change(&boot.state, AWAITED, GIVEN_UP) {
            return Err("it gave no sign of life");
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// Let the CPUs that spin tables hold come into our own code, before the final map: it does not have the
/// words that they look at.
pub fn summon(board: &Board, this: u64) {
    for cpu in board.cpus.iter().filter(|cpu| cpu.mpidr != this) {
        let EnableMethod::SpinTable { release_addr } = cpu.enable else { continue };
        boot::early_map_memory(release_addr);
        let word = release_addr.raw() as *mut u64;
        // SAFETY: the tree says that this word is for the address where the CPU is to go on. It lies in
        // memory that is nobody else's, and was just mapped.
        unsafe { word.write_volatile(boot::pen().raw().to_le()) };
        make_visible(release_addr, size_of::<u64>() as u64);
    }
    asm::sev();
}

/// It is the turn of the CPU whose description is at `boot`.
fn call(boot: PhysAddr) {
    NEXT.store(boot.raw(), Ordering::Release);
    make_visible(PhysAddr::new(NEXT.as_ptr() as u64), size_of::<AtomicU64>() as u64);
    asm::sev();
}

/// Whoever has its caches off sees what was written, and finds no stale line later.
fn make_visible(start: PhysAddr, size: u64) {
    if let Some(region) = Region::new(start, size) {
        Upkeep.clean_invalidate_to_poc(region);
    }
}

fn change(state: &AtomicU8, from: u8, to: u8) -> bool {
    state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// The first line of Rust on a secondary CPU: MMU on, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn plinth_secondary_main(boot: &'static SecondaryBoot) -> ! {
    mitigation::begin();
    mmu::enforce_wxn();
    if !change(&boot.state, AWAITED, ARRIVED) {
        loop {
            asm::wfi();
        }
    }
    percpu::install(boot.id, (boot.stack_bottom, boot.stack_top), boot.emergency_top);
    traps::init();
    mitigation::apply(boot.id, boot.board, errata::apply(boot.board));
    id_registers::note(boot.id);
    let machine = ThisCpu::new(boot.id, boot.board);
    boot.state.store(READY, Ordering::Release);
    super::start::run(machine)
}
