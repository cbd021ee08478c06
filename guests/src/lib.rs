//! The runtime of the payloads: what stands between an EL1 entry and a question worth asking.
//!
//! Every payload is one bin of this package. It runs on QEMU's `virt` board, bare or under a
//! hypervisor, prints `PASS <question>` or `FAIL <question>: ..` on the PL011, ends with
//! `GUEST-TEST: ok` or `GUEST-TEST: FAILED`, and switches the machine off.
//!
//! | module | what it is |
//! |---|---|
//! | [`entry`] | arm64 Image header, first instructions, relocation, stacks |
//! | [`mmu`] | the identity map of stage 1, and aliases into it |
//! | [`exception`] | vectors, and surviving an expected exception |
//! | [`machine`] | what the device tree says |
//! | [`uart`] | PL011 registers and `println!` |
//! | [`report`] | PASS, FAIL and the end |
//! | [`gic`] | GICv2 and GICv3, picked by the device tree |
//! | [`interrupt`] | counting, logging and completing interrupts |
//! | [`timer`] | the counter and the two EL1 timers |
//! | [`psci`] | SMCCC and PSCI calls |
//! | [`smp`] | starting other CPUs and giving them work |
//! | [`code`](mod@code) | running one instruction chosen at run time |
//! | [`user`] | running code at EL0, in AArch32 too |
//! | [`virtio`] | virtio devices, raw |
//! | [`sysreg`], [`mmio`] | single registers |

#![no_std]

pub mod code;
pub mod entry;
pub mod exception;
pub mod fp;
pub mod gic;
pub mod interrupt;
pub mod machine;
pub mod mmio;
pub mod mmu;
pub mod psci;
pub mod report;
pub mod smp;
pub mod sysreg;
pub mod timer;
pub mod uart;
pub mod user;
pub mod virtio;

/// The most CPUs a payload uses; each has a stack and a column in every table.
pub const MAX_CPUS: usize = 16;

/// Names the payload's main function: `fn(&mut Report)`, called on the boot CPU with the MMU on,
/// the tree read and interrupts masked.
#[macro_export]
macro_rules! payload {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn guest_main(report: &mut $crate::report::Report) {
            $main(report);
        }
    };
}

unsafe extern "Rust" {
    fn guest_main(report: &mut report::Report);
}

/// Where the entry code goes on, on its stack and with the MMU on.
pub(crate) extern "C" fn boot(x0: u64, daif: u64, sctlr: u64) -> ! {
    entry::remember(daif, sctlr);
    // The console first: what is wrong with the tree is told on it.
    uart::enable(machine::console(x0));
    machine::read_tree(x0);
    let mut report = report::Report::new();
    // SAFETY: `payload!` defines it with this signature, a bin without it does not link.
    unsafe { guest_main(&mut report) };
    report.finish()
}

#[panic_handler]
fn panic(why: &core::panic::PanicInfo<'_>) -> ! {
    uart::break_lock();
    println!("FAIL panic: {why}");
    println!("GUEST-TEST: FAILED");
    psci::system_off()
}
