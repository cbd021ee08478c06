//! Does each CPU have a structure of its own that tells how much time was stolen from it (DEN0057), and
//! that it may read and not change?

#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::exception::{DATA_ABORT, INSTRUCTION_ABORT, survive};
use guests::mmio::{read32, read64, write8, write64};
use guests::mmu::{self, Memory};
use guests::psci::{
    Conduit, NOT_SUPPORTED, PV_TIME_FEATURES, PV_TIME_ST, SMCCC_VERSION, call, call_by, low,
};
use guests::report::Report;
use guests::timer::{self, Timer};
use guests::{gic, instruction, interrupt, machine::machine, mrs, msr, println, smp};

guests::payload!(main);

const ARCH_FEATURES: u32 = 0x8000_0001;

fn main(report: &mut Report) {
    let smccc = low(call(SMCCC_VERSION, [0; 3]));
    let offered =
        smccc >= 0x1_0001 && low(call(ARCH_FEATURES, [PV_TIME_FEATURES.into(), 0, 0])) >= 0;
    if !offered {
        report.skip("stolen time", "not there");
        // A payload has to answer something: without the call there must be none.
        let answer = low(call(PV_TIME_ST, [0; 3]));
        report.equal("PV_TIME_ST is not supported then", answer, NOT_SUPPORTED);
        return;
    }
    let features = |function: u32| call(PV_TIME_FEATURES, [function.into(), 0, 0]);
    report.equal("PV_TIME_FEATURES tells of itself", features(PV_TIME_FEATURES), 0);
    report.equal("and of PV_TIME_ST", features(PV_TIME_ST), 0);
    report.equal("and of nothing else", features(0xc500_0022), NOT_SUPPORTED);
    let by_smc = call_by(Conduit::Smc, PV_TIME_ST, [0; 3]);
    let own = structure(0);
    report.equal("SMC tells the same as HVC", by_smc as u64, own);

    report.holds("the structure is aligned, and outside the tree's memory", is_place(own), own);
    gic::init();
    interrupt::take();
    smp::start_all();
    for cpu in 1..machine().cpus().len() {
        let other = smp::call(cpu, structure, 0);
        let apart = other.is_some_and(|other| is_place(other) && other.abs_diff(own) >= 64);
        report.holds("another CPU has one of its own", apart, (cpu, other));
    }

    // As DEN0057 wants it mapped.
    let at = mmu::alias(own, Memory::WriteBack);
    report.equal("revision and attributes are 0", (read32(at), read32(at + 4)), (0, 0));
    let first = read64(at + 8);
    let began = Timer::Virtual.count();
    timer::spin(20_000);
    let passed = (Timer::Virtual.count() - began) * 1_000 / (timer::frequency() / 1_000_000);
    let later = read64(at + 8);
    println!("stolen: {first} ns, and {later} ns {passed} ns later");
    report.holds("the stolen time does not go back", later >= first, (first, later));
    report.holds("and is not more than passed", later - first <= passed, (first, later, passed));

    let wide = survive(|| write64(at + 8, u64::MAX)).1;
    report.equal("a write to it is refused", wide.map(|caught| caught.class()), Some(DATA_ABORT));
    let far = wide.map(|caught| caught.far);
    report.equal("with the address of the write", far, Some(at + 8));
    let narrow = survive(|| write8(at, 1)).1;
    let external = narrow.map(|caught| caught.esr & 0x3f);
    report.equal("as an external abort", external, Some(0b01_0000));
    report.equal("and changes nothing", (read64(at), read64(at + 8) < u64::MAX), (0, true));
    walks(report, own & !0xfff);
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static UPPER: Table = Table([const { AtomicU64::new(0) }; 512]);

/// The upper half of the address space has its tables in the page, at the first level and at the second: its first entry is 0, so
/// that nothing is mapped there, and the walk ends as in memory.
fn walks(report: &mut Report, page: u64) {
    const EPD1: u64 = 1 << 23;
    const UPPER_HALF: u64 = 0xffff_ff80_0000_0000;
    UPPER.0[0].store(page | 3, Ordering::Relaxed);
    let before = mrs!("tcr_el1");
    // T1SZ = 25, TG1 = 4 KiB, as the lower half.
    msr!("tcr_el1", before & !EPD1 | 25 << 16 | 0xb500_0000);
    for (level, root) in [(1, page), (2, &raw const UPPER as u64)] {
        msr!("ttbr1_el1", root);
        instruction!("dsb ishst");
        instruction!("tlbi vmalle1");
        instruction!("dsb ish");
        instruction!("isb");
        let found = [
            survive(|| read64(UPPER_HALF)).1,
            survive(|| write64(UPPER_HALF, 0)).1,
            survive(|| {
                // SAFETY: nothing is mapped there; the vectors return.
                unsafe { asm!("blr {}", in(reg) UPPER_HALF, clobber_abi("C"), options(nostack)) };
                0
            })
            .1,
        ];
        let found = found.map(|caught| caught.map(|caught| (caught.class(), caught.esr & 0x3f)));
        let status = 0b000100 | level;
        let wanted = [DATA_ABORT, DATA_ABORT, INSTRUCTION_ABORT].map(|class| Some((class, status)));
        report.equal("tables in it are walked, and are not written", found, wanted);
    }
    msr!("ttbr1_el1", 0);
    msr!("tcr_el1", before);
    instruction!("tlbi vmalle1");
    instruction!("dsb ish");
    instruction!("isb");
}

/// Where the calling CPU's structure is.
fn structure(_: u64) -> u64 {
    call(PV_TIME_ST, [0; 3]) as u64
}

fn is_place(address: u64) -> bool {
    let ram = machine().ram..machine().ram + machine().ram_size;
    address.is_multiple_of(64) && address < 1 << 40 && !ram.contains(&address)
}
