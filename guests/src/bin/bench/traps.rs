//! What traps: calls, registers, emulated devices, faults.

use guests::{gic, machine, psci, sysreg};

use crate::sample::row;
use crate::{timed, vectors};

/// A function of the vendor's range that nobody has.
const UNKNOWN_CALL: u64 = 0xc600_ff42;

/// An address in which the board has nothing.
const HOLE: u64 = 0x2000_0000;

/// `GICD_IIDR`.
const GICD_IIDR: u64 = 0x8;

/// Measures all of them; `slot` is a virtio-mmio slot without a device.
pub fn measure(slot: Option<u64>) {
    row("nothing", || timed!("nop"));
    calls();
    row("trapped-register", || timed!("mrs {x}, id_aa64pfr0_el1", x = out(reg) _));
    let load = |address: u64| timed!("ldr {x:w}, [{a}]", x = out(reg) _, a = in(reg) address);
    let distributor = gic::distributor();
    row("gicd-iidr-read", || load(distributor + GICD_IIDR));
    row("gicd-isenabler-read", || load(distributor + gic::ISENABLER + 4));
    row("gicd-isenabler-write", || store(distributor + gic::ISENABLER + 4, 0));
    if let Some(uart) = machine::machine().uart {
        row("uart-fr-read", || load(uart + 0x18));
    }
    if let Some(slot) = slot {
        row("empty-virtio-slot-read", || load(slot));
    }
    faults();
}

fn store(address: u64, value: u32) -> u64 {
    timed!("str {x:w}, [{a}]", x = in(reg) value, a = in(reg) address)
}

/// A call to the firmware, by `hvc` or `smc`.
macro_rules! call {
    ($conduit:literal, $function:expr) => {
        timed!($conduit, inout("x0") $function => _, out("x1") _, out("x2") _, out("x3") _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _)
    };
}

fn calls() {
    let version = u64::from(psci::VERSION);
    row("hvc-psci-version", || call!("hvc #0", version));
    row("hvc-unknown", || call!("hvc #0", UNKNOWN_CALL));
    row("smc-psci-version", || call!("smc #0", version));
}

/// From a load where there is nothing to the first instruction of the guest's vector.
fn faults() {
    vectors::install();
    vectors::skip(HOLE);
    // Some machines read ones where there is nothing.
    if vectors::count_of(sysreg::cpu()) > 0 {
        row("stage-2-fault", || {
            let before = vectors::now();
            vectors::skip(HOLE);
            vectors::stamps().taken.wrapping_sub(before)
        });
    }
    vectors::remove();
}
