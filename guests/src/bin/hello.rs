//! Does the machine start a guest as the boot protocol says, and is it the machine of the tree?

#![no_std]
#![no_main]

use guests::machine::{self, GicAt, machine};
use guests::report::Report;
use guests::{entry, instruction, mmu, mrs, println, psci, sysreg, uart};

guests::payload!(main);

fn main(report: &mut Report) {
    println!("hello");
    let facts = machine();
    println!("{facts:x?}");
    println!("command line: {:?}", machine::tree().chosen().bootargs());

    report.equal("CurrentEL is 1", mrs!("currentel") >> 2, 1);
    let mpidr = mrs!("mpidr_el1");
    report.equal("MPIDR_EL1 bit 31 is RES1, MT and U are 0", mpidr & 0xc100_0000, 0x8000_0000);
    report.equal("the boot CPU is the first of the tree", sysreg::affinity(), facts.cpus()[0]);
    let state = entry::state(sysreg::cpu());
    report.holds("interrupts are masked at entry", state.masked, state);
    report.holds("MMU and data cache are off at entry", state.mmu_off, state);

    if facts.x0 == 0 {
        report.skip("x0 holds the device tree", "started as an ELF file without one");
    } else {
        report.equal("the device tree in x0 is aligned to 8", facts.x0 % 8, 0);
        report.holds(
            "the device tree is at most 2 MiB",
            facts.tree_size <= 2 << 20,
            facts.tree_size,
        );
    }
    let tree_end = facts.tree + facts.tree_size;
    let ram_end = facts.ram + facts.ram_size;
    report.holds(
        "the device tree lies in RAM",
        facts.tree >= facts.ram && tree_end <= ram_end,
        (facts.tree, tree_end),
    );
    report.equal("RAM starts where the board has it", facts.ram, 0x4000_0000);
    report.equal("the UART is where the board has it", facts.uart, Some(uart::BASE));
    report.equal("the RTC is where the board has it", facts.rtc, Some(0x901_0000));
    report.holds(
        "the GIC is where the board has it",
        matches!(
            facts.gic,
            GicAt::V2 { distributor: 0x800_0000, cpu_interface: 0x801_0000 }
                | GicAt::V3 { distributor: 0x800_0000, redistributors: 0x80a_0000 }
        ),
        facts.gic,
    );
    let system_registers = (mrs!("id_aa64pfr0_el1") >> 24) & 0xf;
    match facts.gic {
        // Real CPUs with both interfaces say 1 beside a GICv2 as well.
        GicAt::V2 { .. } => println!("ID_AA64PFR0_EL1.GIC: {system_registers}, with a GICv2"),
        GicAt::V3 { .. } => {
            report.holds("ID_AA64PFR0_EL1.GIC tells of GICv3", system_registers != 0, 0);
        }
    }
    report.holds("the tree calls PSCI by HVC", facts.psci_by_hvc, false);
    report.holds("PSCI is 1.0 or newer", psci::call(psci::VERSION, [0; 3]) >= 0x1_0000, 0);
    memory(report, ram_end.min(0x1_0000_0000));
}

/// Every MiB from the image's end to RAM's, and the very last words.
fn memory(report: &mut Report, ram_end: u64) {
    let facts = machine();
    let start = (linked_end() + 0xf_ffff) & !0xf_ffff;
    let tree = facts.tree..facts.tree + facts.tree_size;
    let words =
        || (start..ram_end).step_by(0x10_0000).chain([ram_end - 8]).filter(|at| !tree.contains(at));
    let mut not_zero = 0;
    for at in words() {
        not_zero += u64::from(load(at) != 0);
        store(at, !at);
    }
    instruction!("dsb sy");
    let wrong = words().find(|&at| load(at) != !at);
    println!("RAM {start:#x} to {ram_end:#x}: {not_zero} words were not zero");
    report.equal("RAM holds what is stored, to its end", wrong, None);
    let last = mmu::alias(ram_end - 8, mmu::Memory::NonCacheable);
    store(ram_end - 8, 0x5a);
    // SAFETY: cleans a line of RAM that nobody else uses.
    unsafe { core::arch::asm!("dc civac, {}", "dsb sy", in(reg) ram_end - 8) };
    report.equal("RAM is the same past the caches", load(last), 0x5a);
}

fn linked_end() -> u64 {
    unsafe extern "C" {
        static __image_end: u8;
    }
    &raw const __image_end as u64
}

fn load(at: u64) -> u64 {
    guests::mmio::read64(at)
}

fn store(at: u64, value: u64) {
    guests::mmio::write64(at, value);
}
