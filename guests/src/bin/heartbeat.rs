//! A small control program that minds its own business: it sleeps until its timer fires, prints a
//! line, and sleeps again. A `q` typed on its console ends it.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, Ordering};

use guests::mmio::{read32, write32};
use guests::report::Report;
use guests::timer::{Timer, frequency};
use guests::{gic, instruction, interrupt, println, sysreg, uart};

guests::payload!(main);

const UART_INTID: u32 = 33;
/// Seconds between two lines.
const PERIOD: u64 = 2;

static BEAT: AtomicBool = AtomicBool::new(false);
static QUIT: AtomicBool = AtomicBool::new(false);

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(Timer::Virtual.intid(), |_| {
        Timer::Virtual.stop();
        BEAT.store(true, Ordering::Release);
    });
    interrupt::on(UART_INTID, |_| typed());
    gic::enable(Timer::Virtual.intid());
    gic::enable(UART_INTID);
    // FIFOs off: a single byte is enough for an interrupt.
    write32(uart::LCR_H, uart::LCR_8N1_FIFO & !0x10);
    write32(uart::IMSC, uart::INT_RX);

    println!("heartbeat: a line every {PERIOD} s; type q to stop");
    let mut beats = 0u64;
    let mut next = Timer::Virtual.count();
    while !QUIT.load(Ordering::Acquire) {
        beats += 1;
        println!("heartbeat {beats}");
        // From the last deadline, not from now: the beat does not drift.
        next += PERIOD * frequency();
        Timer::Virtual.set_cval(next);
        Timer::Virtual.set_ctl(1);
        sleep();
    }
    write32(uart::IMSC, 0);
    Timer::Virtual.stop();
    report.pass("a q on the console ends it");
}

/// Waits for the next beat, or for the end.
fn sleep() {
    // Masked between the look and the WFI, which ends all the same: no wake-up is lost.
    sysreg::mask_interrupts();
    while !BEAT.swap(false, Ordering::AcqRel) && !QUIT.load(Ordering::Acquire) {
        instruction!("wfi");
        sysreg::unmask_interrupts();
        instruction!("isb");
        sysreg::mask_interrupts();
    }
}

/// Takes what has been typed.
fn typed() {
    while read32(uart::FR) & uart::FR_RXFE == 0 {
        if read32(uart::DR) & 0xff == u32::from(b'q') {
            QUIT.store(true, Ordering::Release);
        }
    }
    write32(uart::ICR, uart::INT_RX);
}
