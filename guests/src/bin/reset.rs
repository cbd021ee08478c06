//! Does SYSTEM_RESET start the same machine again? Prints `boot` each time, and what has survived.
//!
//! It resets until it finds a mark of an earlier boot: a counter in RAM, which bare QEMU keeps and a
//! hypervisor that scrubs memory does not, or in the PL031's match register, which has a battery on
//! QEMU. Where neither survives it resets for ever, and whoever runs it counts the `boot` lines; a
//! `q` typed on the console is a third way to end it.

#![no_std]
#![no_main]

use guests::machine::machine;
use guests::mmio::{read32, read64, write32, write64};
use guests::report::Report;
use guests::timer::{self, Timer};
use guests::{entry, msr, println, psci, smp, sysreg, uart};

guests::payload!(main);

const MAGIC: u64 = 0x5265_7365_7400_0000;
const RTC_MAGIC: u32 = 0x5253_5400;
const BOOTS: u64 = 3;

fn main(report: &mut Report) {
    println!("boot");
    // RAM's last page is nobody's: no loader puts anything there on this board.
    let mark = machine().ram + machine().ram_size - 0x1000;
    let ram = read64(mark);
    let in_ram = if ram & !0xff == MAGIC { ram & 0xff } else { 0 };
    let match_register = machine().rtc.map(|rtc| rtc + 4);
    let rtc = match_register.map_or(0, read32);
    let in_rtc = if rtc & !0xff == RTC_MAGIC { u64::from(rtc & 0xff) } else { 0 };
    println!("earlier boots by RAM: {in_ram}, by the RTC: {in_rtc}");
    let quit = timer::wait_until(100, || {
        read32(uart::FR) & uart::FR_RXFE == 0 && read32(uart::DR) & 0xff == u32::from(b'q')
    });

    // What a reset CPU must not remember of what the last boot left behind.
    report.equal(
        "the timers are off",
        (Timer::Virtual.ctl() & 1, Timer::Physical.ctl() & 1),
        (0, 0),
    );
    let off = smp::others().all(|cpu| psci::affinity_info(cpu) == psci::AFFINITY_OFF);
    report.holds("the other CPUs are off", off, ());
    let state = entry::state(sysreg::cpu());
    report.holds("interrupts are masked and the MMU is off", state.masked && state.mmu_off, state);
    report.equal("no interrupt is enabled in the UART", uart::mask_at_entry(), 0);
    let before = in_ram.max(in_rtc);
    if before + 1 >= BOOTS || quit {
        if let Some(register) = match_register {
            write32(register, 0);
        }
        report.holds("SYSTEM_RESET boots the machine again", before > 0 || quit, before);
        return;
    }
    write64(mark, MAGIC | (before + 1));
    // Past the caches, where a reset leaves it.
    // SAFETY: cleans a line of RAM.
    unsafe { core::arch::asm!("dc civac, {}", "dsb sy", in(reg) mark) };
    if let Some(register) = match_register {
        write32(register, RTC_MAGIC | (before + 1) as u32);
    }
    for other in smp::others() {
        smp::start(other, |_| timer::spin(60_000_000), 0);
    }
    Timer::Virtual.arm(timer::microseconds(1));
    write32(uart::IMSC, uart::INT_TX);
    msr!("tpidr_el1", u64::MAX);
    timer::spin(1000);
    psci::call(psci::SYSTEM_RESET, [0; 3]);
    report.equal("SYSTEM_RESET does not return", true, false);
}
