//! Does each CPU have a structure of its own that tells how much time was stolen from it (DEN0057), and
//! that it may read and not change?

#![no_std]
#![no_main]

use guests::exception::{DATA_ABORT, survive};
use guests::mmio::{read32, read64, write8, write64};
use guests::mmu::{self, Memory};
use guests::psci::{
    Conduit, NOT_SUPPORTED, PV_TIME_FEATURES, PV_TIME_ST, SMCCC_VERSION, call, call_by, low,
};
use guests::report::Report;
use guests::timer::{self, Timer};
use guests::{gic, interrupt, machine::machine, println, smp};

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
}

/// Where the calling CPU's structure is.
fn structure(_: u64) -> u64 {
    call(PV_TIME_ST, [0; 3]) as u64
}

fn is_place(address: u64) -> bool {
    let ram = machine().ram..machine().ram + machine().ram_size;
    address.is_multiple_of(64) && address < 1 << 40 && !ram.contains(&address)
}
