//! Does the firmware interface survive any function with any arguments? All ids of the standard
//! services but those that end, reset or suspend, and many of the other owners'.

#![no_std]
#![no_main]

use guests::exception::survive;
use guests::psci::{self, Conduit, VERSION, call_registers, ends, low};
use guests::report::Report;
use guests::timer::Timer;
use guests::{gic, instruction, println};

guests::payload!(main);

const JUNK: [u64; 6] = [0, 1, 0x4020_0001, 1 << 31, 1 << 63, u64::MAX];

fn main(report: &mut Report) {
    // Should a call be taken for a suspend, the machine wakes.
    gic::init();
    gic::enable(Timer::Virtual.intid());
    let version = psci::call(VERSION, [0; 3]);
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        if conduit == Conduit::Smc
            && survive(|| psci::call_by(conduit, VERSION, [0; 3])).1.is_some()
        {
            report.skip("calls by SMC", "this machine has none");
            continue;
        }
        let mut calls = 0u32;
        let mut kept = true;
        let ids = (0..64u32)
            .flat_map(|owner| [0x8000_0000, 0xc000_0000, 0].map(|kind| kind | owner << 24))
            .flat_map(|base| [0, 1, 3, 5, 0xff01, 0xff03, 0xffff].map(|number| base | number));
        let standard = (0..0x60).flat_map(|number| [0x8400_0000 | number, 0xc400_0000 | number]);
        for function in ids.chain(standard).filter(|&function| !ends(function)) {
            for junk in JUNK {
                Timer::Virtual.arm(0);
                let mut x = [junk; 18];
                x[0] = u64::from(function);
                // CPU_ON of a CPU that exists would start it somewhere.
                x[1] |= 1 << 31;
                let (after, caught) = survive(|| call_registers(conduit, x));
                kept &= caught.is_some() || after[4..] == x[4..];
                calls += 1;
            }
        }
        println!("{calls} calls by {conduit:?}");
        report.equal("x4 to x17 are preserved by every call", kept, true);
    }
    Timer::Virtual.stop();
    let mut answered = 0;
    for _ in 0..0x1_0000 {
        answered += u32::from(psci::call(0x8400_001f, [0; 3]) == psci::NOT_SUPPORTED);
    }
    report.equal("65536 unknown functions are answered alike", answered, 0x1_0000);
    instruction!("isb");
    report.equal("PSCI still answers", low(psci::call(VERSION, [0; 3])), low(version));
}
