//! Does a UART of the board's that is this guest's own work like one? `uart=BASE,INTID` (hexadecimal, decimal) on
//! the command line says where it is. What comes in there raises its interrupt and goes back in capitals; a `.`
//! ends it.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use guests::mmio::{read32, write32};
use guests::report::Report;
use guests::sysreg::{mask_interrupts, unmask_interrupts};
use guests::{gic, instruction, interrupt, machine, println, uart};

guests::payload!(main);

/// Receive and receive timeout.
const INPUT: u32 = uart::INT_RX | 1 << 6;

static BASE: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
static ENDED: AtomicBool = AtomicBool::new(false);

fn main(report: &mut Report) {
    let tree = machine::tree();
    let words = tree.chosen().bootargs().unwrap_or_default();
    let Some((base, intid)) = words.split_whitespace().find_map(place) else {
        println!("owner: no uart= on the command line, nothing is mine");
        return report.pass("it is told what is its own");
    };
    BASE.store(base, Ordering::Relaxed);
    report.equal("it has the ID of a PL011", read32(at(uart::PERIPH_ID0)) & 0xff, 0x11);
    gic::init();
    interrupt::take();
    interrupt::on(intid, |_| typed());
    gic::set_edge(intid, false);
    gic::enable(intid);
    write32(at(uart::CR), 0);
    write32(at(uart::LCR_H), uart::LCR_8N1_FIFO);
    write32(at(uart::CR), uart::CR_ON);
    write32(at(uart::IMSC), INPUT);
    for byte in b"owner: ready\r\n" {
        put(*byte);
    }
    println!("owner: the UART at {base:#x} is mine");
    while !ENDED.load(Ordering::Acquire) {
        mask_interrupts();
        if !ENDED.load(Ordering::Acquire) {
            instruction!("wfi");
        }
        unmask_interrupts();
    }
    write32(at(uart::IMSC), 0);
    let taken = TAKEN.load(Ordering::Relaxed);
    report.holds("what comes in raises its interrupt", taken > 0, taken);
    report.equal("and it is not active any more", gic::is_active(intid), false);
}

/// `uart=BASE,INTID`.
fn place(word: &str) -> Option<(u64, u32)> {
    let (base, intid) = word.strip_prefix("uart=")?.split_once(',')?;
    Some((u64::from_str_radix(base, 16).ok()?, intid.parse().ok()?))
}

/// A register of it, named as the console's.
fn at(register: u64) -> u64 {
    BASE.load(Ordering::Relaxed) + (register - uart::BASE)
}

fn put(byte: u8) {
    while read32(at(uart::FR)) & uart::FR_TXFF != 0 {}
    write32(at(uart::DR), byte.into());
}

fn typed() {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    while read32(at(uart::FR)) & uart::FR_RXFE == 0 {
        let byte = read32(at(uart::DR)).to_le_bytes()[0];
        put(byte.to_ascii_uppercase());
        if byte == b'.' {
            ENDED.store(true, Ordering::Release);
        }
    }
}
