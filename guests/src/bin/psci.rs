//! Does the firmware interface answer as PSCI (DEN0022), SMCCC (DEN0028) and, where there is one, the
//! TRNG interface (DEN0098) say?

#![no_std]
#![no_main]

use guests::exception::survive;
use guests::psci::{
    self, AFFINITY_INFO, ALREADY_ON, CPU_OFF, CPU_ON, CPU_SUSPEND, Conduit, FEATURES,
    INVALID_ADDRESS, INVALID_PARAMETERS, MIGRATE_INFO_TYPE, NOT_SUPPORTED, SMCCC_VERSION,
    SYSTEM_OFF, SYSTEM_RESET, TRNG_RND64, TRNG_VERSION, VERSION, call, call_by, low,
};
use guests::report::Report;
use guests::timer::{Timer, microseconds};
use guests::{gic, interrupt, println, smp, sysreg};

guests::payload!(main);

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    conduit(report, Conduit::Hvc);
    if survive(|| call_by(Conduit::Smc, VERSION, [0; 3])).1.is_some() {
        report.skip("all of that by SMC", "this machine has none");
    } else {
        conduit(report, Conduit::Smc);
    }
    suspend(report);
    trng(report);
    bad_targets(report);
}

fn conduit(report: &mut Report, conduit: Conduit) {
    println!("by {conduit:?}");
    let ask = |function: u32, argument: u64| low(call_by(conduit, function, [argument, 0, 0]));
    let version = ask(VERSION, 0);
    report.holds("PSCI_VERSION is 1.x", version >> 16 == 1, version);
    report.equal("MIGRATE_INFO_TYPE is 2, not needed", ask(MIGRATE_INFO_TYPE, 0), 2);
    for function in
        [CPU_SUSPEND, CPU_OFF, CPU_ON, AFFINITY_INFO, SYSTEM_OFF, SYSTEM_RESET, FEATURES]
    {
        let answer = ask(FEATURES, u64::from(function));
        report.holds("PSCI_FEATURES knows what must be there", answer >= 0, (function, answer));
    }
    for function in [0x8400_001f, 0xc400_001f, 0x8000_7fff, 0, 0xffff_ffff] {
        let answer = ask(FEATURES, function);
        report.equal("PSCI_FEATURES of an unknown function", answer, NOT_SUPPORTED);
    }
    for function in [0x8400_001f, 0xc400_001f, 0x8000_7fff, 0xc300_1234, 0xbf00_ff7e, 0x7fff_0000] {
        report.equal("an unknown function is NOT_SUPPORTED", ask(function, 0), NOT_SUPPORTED);
    }
    // x0 = -1 in all 64 bits, as SMCCC wants it for SMC64 callers.
    let whole = call_by(conduit, 0xc400_001f, [0; 3]);
    report.equal("NOT_SUPPORTED fills all of x0", whole, NOT_SUPPORTED);

    for function in [VERSION, 0xc400_001f, AFFINITY_INFO, TRNG_VERSION] {
        let mut x: [u64; 18] = core::array::from_fn(|n| 0x1111_2222_0000_0000 + n as u64);
        x[0] = u64::from(function);
        let after = psci::call_registers(conduit, x);
        report.equal("x4 to x17 are preserved over a call", &after[4..], &x[4..]);
    }
    let wide = u64::from(VERSION) | 0xabcd << 32;
    let mut x = [0; 18];
    x[0] = wide;
    let answer = low(psci::call_registers(conduit, x)[0] as i64);
    // QEMU compares all of x0, and SMCCC 1.3 has the upper half ignored.
    report.holds("bits above the function id", [version, NOT_SUPPORTED].contains(&answer), answer);

    let smccc = ask(SMCCC_VERSION, 0);
    if smccc == NOT_SUPPORTED {
        report.skip("SMCCC_VERSION", "not there");
    } else {
        report.holds("SMCCC_VERSION is 1.1 or newer", (0x1_0001..0x2_0000).contains(&smccc), smccc);
        let features = ask(FEATURES, u64::from(SMCCC_VERSION));
        report.equal("PSCI_FEATURES tells of SMCCC_VERSION", features, 0);
        let answer = ask(0x8000_0001, u64::from(SMCCC_VERSION));
        report.equal("SMCCC_ARCH_FEATURES of SMCCC_VERSION", answer, 0);
        let answer = ask(0x8000_0001, 0x8000_7ffe);
        report.equal("SMCCC_ARCH_FEATURES of the unknown", answer, NOT_SUPPORTED);
    }
    let own = sysreg::affinity();
    report.equal(
        "AFFINITY_INFO of this CPU is ON",
        low(call_by(conduit, AFFINITY_INFO, [own, 0, 0])),
        0,
    );
}

/// CPU_SUSPEND to standby returns once an interrupt is pending, taken or not.
fn suspend(report: &mut Report) {
    let timer = Timer::Virtual;
    gic::enable(timer.intid());
    for us in [0, 50, 5000] {
        let start = timer.count();
        timer.arm(microseconds(us));
        let answer = low(call(CPU_SUSPEND, [0, 0, 0]));
        let slept = timer.count() - start;
        report.equal("CPU_SUSPEND to standby returns SUCCESS", answer, 0);
        report.holds("and not before the interrupt", timer.fired(), (us, slept));
        timer.stop();
    }
}

fn trng(report: &mut Report) {
    let version = low(call(TRNG_VERSION, [0; 3]));
    if version == NOT_SUPPORTED {
        report.skip("TRNG", "not there");
        return;
    }
    report.holds("TRNG_VERSION is 1.0 or newer", version >= 0x1_0000, version);
    let draw = |bits: u64| {
        let mut x = [0; 18];
        x[0] = u64::from(TRNG_RND64);
        x[1] = bits;
        let after = psci::call_registers(Conduit::Hvc, x);
        (after[0] as i64, after[1], after[2], after[3])
    };
    const NO_ENTROPY: i64 = -3;
    let (first, second) = (draw(192), draw(192));
    if first.0 == NO_ENTROPY {
        report.skip("TRNG_RND64 gives 192 bits", "no entropy");
    } else {
        report.equal("TRNG_RND64 gives 192 bits", (first.0, second.0), (0, 0));
        report.holds("two draws differ in every word", first.1 != second.1, first);
        report.holds("and in the others", first.2 != second.2 && first.3 != second.3, first);
        let few = draw(8);
        let clear = few.1 == 0 && few.2 == 0 && few.3 & !0xff == 0;
        report.holds("bits beyond those asked for are 0", few.0 == 0 && clear, few);
    }
    for bits in [0, 193, u64::MAX] {
        report.equal("TRNG_RND64 refuses a wrong size", draw(bits).0, INVALID_PARAMETERS);
    }
}

fn bad_targets(report: &mut Report) {
    let entry = guests::entry::secondary_entry as *const () as u64;
    for target in [0xff, 0xff00, 0xff_0000, 0xff_0000_0000, 0x8000_0000, 1 << 40, 1 << 63, u64::MAX]
    {
        let answer = low(psci::cpu_on(target, entry, 0));
        report.equal(
            "CPU_ON of a CPU that is not there",
            (target, answer),
            (target, INVALID_PARAMETERS),
        );
    }
    for target in [0xff, 0xff00, u64::MAX] {
        let answer = low(psci::affinity_info(target));
        report.equal("AFFINITY_INFO of a CPU that is not there", answer, INVALID_PARAMETERS);
    }
    let answer = low(call(AFFINITY_INFO, [sysreg::affinity(), 9, 0]));
    report.holds(
        "AFFINITY_INFO of an affinity level 9",
        [INVALID_PARAMETERS, 0].contains(&answer),
        answer,
    );
    let answer = low(psci::cpu_on(sysreg::affinity(), entry, 0));
    report.equal("CPU_ON of this CPU is ALREADY_ON", answer, ALREADY_ON);
    // Last: a firmware that takes the address loses the CPU.
    let bad = [0, 0x900_0000, entry + 2, 0x3fff_fffc, 1 << 47, u64::MAX - 3];
    let mut spare = smp::others();
    let mut target = spare.next();
    for address in bad {
        let Some(affinity) = target else {
            report.skip("CPU_ON refuses addresses outside RAM", "no other CPU");
            return;
        };
        let answer = low(psci::cpu_on(affinity, address, 0));
        if answer == 0 {
            report.skip("CPU_ON refuses addresses outside RAM", "accepted, and one CPU less");
            target = spare.next();
        } else {
            // QEMU answers a misaligned one with INVALID_PARAMETERS.
            let refused =
                answer == INVALID_ADDRESS || answer == INVALID_PARAMETERS && address % 4 != 0;
            let what = "CPU_ON refuses addresses outside RAM and misaligned ones";
            report.holds(what, refused, (address, answer));
        }
    }
}
