//! Do devices of the board's that are this guest's own work as such?
//!
//! `uart=BASE,INTID` (hexadecimal, decimal) on the command line says where a PL011 is. What comes in there raises
//! its interrupt and goes back in capitals; a `.` ends it. `gpio=BASE` says where the pins of a Raspberry Pi are:
//! one of them goes up and down. `spi=BASE i2c=BASE` say where its buses are: their dividers keep what they are given.

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

/// GPIO registers (Broadcom, "BCM2711 ARM Peripherals", "General Purpose I/O").
const GPFSEL0: u64 = 0x00;
const GPSET0: u64 = 0x1c;
const GPCLR0: u64 = 0x28;
const GPLEV0: u64 = 0x34;
/// Clock dividers of SPI and BSC (the same document, "SPI", "BSC").
const SPI_CLK: u64 = 0x08;
const BSC_DIV: u64 = 0x14;
/// What `BSC_DIV` is from reset on.
const BSC_DIV_RESET: u32 = 0x5dc;
/// A pin of the header that nothing on the board uses.
const PIN: u32 = 5;
/// `GPFSEL`: the pin is an output.
const OUTPUT: u32 = 1;

static BASE: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
static ENDED: AtomicBool = AtomicBool::new(false);

fn main(report: &mut Report) {
    let tree = machine::tree();
    let words = tree.chosen().bootargs().unwrap_or_default();
    let base = |key| words.split_whitespace().find_map(|word| block(word, key));
    if let Some(pins) = base("gpio=") {
        return blink(report, pins);
    }
    if let (Some(spi), Some(i2c)) = (base("spi="), base("i2c=")) {
        return divide(report, spi, i2c);
    }
    let Some((base, intid)) = words.split_whitespace().find_map(place) else {
        println!("owner: no device on the command line, nothing is mine");
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

/// The base in `gpio=BASE` and the like.
fn block(word: &str, key: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix(key)?, 16).ok()
}

/// Sets the buses' clocks.
fn divide(report: &mut Report, spi: u64, i2c: u64) {
    report.equal("BSC has its reset value", read32(i2c + BSC_DIV), BSC_DIV_RESET);
    for (name, register) in [("SPI", spi + SPI_CLK), ("BSC", i2c + BSC_DIV)] {
        for divider in [0x200, 0x3e8] {
            write32(register, divider);
            report.equal(name, read32(register), divider);
        }
    }
    println!("owner: the buses at {spi:#x} and {i2c:#x} are mine");
}

/// Makes a pin an output, and looks at it while it goes up and down.
fn blink(report: &mut Report, base: u64) {
    let shift = 3 * PIN;
    let function = read32(base + GPFSEL0) & !(7 << shift) | OUTPUT << shift;
    write32(base + GPFSEL0, function);
    report.equal("a pin becomes an output", read32(base + GPFSEL0), function);
    for (register, level) in [(GPSET0, 1), (GPCLR0, 0), (GPSET0, 1)] {
        write32(base + register, 1 << PIN);
        report.equal("it goes up and down", read32(base + GPLEV0) >> PIN & 1, level);
    }
    println!("owner: the pins at {base:#x} are mine");
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
