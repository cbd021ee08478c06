//! Is the UART a PL011 (DDI 0183): flags, line control, interrupts, loopback, identification?

#![no_std]
#![no_main]

use guests::mmio::{read8, read16, read32, write32};
use guests::report::Report;
use guests::timer::wait_until;
use guests::uart::{
    CR, CR_LBE, CR_ON, DR, FBRD, FR, FR_BUSY, FR_RXFE, FR_TXFE, FR_TXFF, IBRD, ICR, IFLS, IMSC,
    INT_RX, INT_TX, LCR_8N1_FIFO, LCR_H, MIS, PERIPH_ID0, RIS,
};
use guests::{gic, interrupt, println, sysreg, uart};

guests::payload!(main);

const INTID: u32 = 33;

fn main(report: &mut Report) {
    let id: [u32; 8] = core::array::from_fn(|n| read32(PERIPH_ID0 + 4 * n as u64));
    report.equal("the identification is a PL011's", id[..2] == [0x11, 0x10], true);
    report.equal("UARTPeriphID2.Designer is Arm's, ID3 is 0", (id[2] & 0xf, id[3]), (4, 0));
    report.equal("UARTPCellID is PrimeCell's", &id[4..], &[0x0d, 0xf0, 0x05, 0xb1]);

    polling(report);
    line_control(report);
    interrupts(report);
    loopback(report);
    delivery(report);
    write32(CR, CR_ON);
    println!("the last line comes out");
}

fn drained() -> bool {
    wait_until(2000, || read32(FR) & (FR_BUSY | FR_TXFE) == FR_TXFE)
}

fn polling(report: &mut Report) {
    for byte in b"abcdefghijklmnopqrstuvwxyz 0123456789 more than a FIFO's 32 bytes, polled\r\n" {
        uart::put(*byte);
    }
    let drained = drained();
    let flags = read32(FR);
    report.holds("the transmitter drains: TXFE, not TXFF, not BUSY", drained, flags);
    report.equal("TXFF is clear then", flags & FR_TXFF, 0);
    report.equal("nothing was received: RXFE", flags & FR_RXFE, FR_RXFE);
    let narrow = (u32::from(read8(FR)), u32::from(read16(FR)));
    report.equal("UARTFR reads the same by byte and halfword", narrow, (flags & 0xff, flags));
}

fn line_control(report: &mut Report) {
    let before = [read32(IBRD), read32(FBRD), read32(IFLS)];
    write32(IBRD, 13);
    write32(FBRD, 1);
    write32(LCR_H, LCR_8N1_FIFO | 0x0e);
    report.equal("UARTIBRD and FBRD read as written", (read32(IBRD), read32(FBRD)), (13, 1));
    report.equal("UARTLCR_H reads as written", read32(LCR_H), LCR_8N1_FIFO | 0x0e);
    write32(IFLS, 0x09);
    report.equal("UARTIFLS reads as written", read32(IFLS), 0x09);
    for (register, value) in [IBRD, FBRD, IFLS].into_iter().zip(before) {
        write32(register, value);
    }
    write32(LCR_H, LCR_8N1_FIFO);
    write32(IMSC, u32::MAX);
    let all = read32(IMSC);
    write32(IMSC, 0);
    report.equal("UARTIMSC has its 11 bits", all & 0x7ff, 0x7ff);
    report.equal("and none with 0 written", read32(IMSC), 0);
}

fn interrupts(report: &mut Report) {
    let _ = drained();
    write32(ICR, 0x7ff);
    report.equal("UARTICR clears the transmit interrupt", read32(RIS) & INT_TX, 0);
    uart::put(b'\n');
    let raised = wait_until(1000, || read32(RIS) & INT_TX != 0);
    let (raw, masked) = (read32(RIS) & INT_TX, read32(MIS));
    report.equal("sending raises it in UARTRIS", (raised, raw), (true, INT_TX));
    report.equal("UARTMIS is 0 while UARTIMSC is", masked, 0);
    write32(IMSC, INT_TX);
    let masked = read32(MIS);
    write32(IMSC, 0);
    report.equal("UARTMIS is UARTRIS under UARTIMSC", masked, INT_TX);
    write32(ICR, INT_TX);
    report.equal("UARTICR clears it again", read32(RIS) & INT_TX, 0);
}

/// Nothing is printed while the transmitter feeds the receiver.
fn loopback(report: &mut Report) {
    let _ = drained();
    write32(CR, CR_ON | CR_LBE);
    while read32(FR) & FR_RXFE == 0 {
        read32(DR);
    }
    let mut received = [0; 8];
    let mut all = true;
    for (n, slot) in received.iter_mut().enumerate() {
        uart::put(b'A' + n as u8);
        all &= wait_until(1000, || read32(FR) & FR_RXFE == 0);
        *slot = read32(DR);
    }
    let mut many = 0;
    for byte in 0..16 {
        uart::put(0xf0 + byte);
    }
    let filled = wait_until(1000, || read32(RIS) & INT_RX != 0);
    let level = read32(RIS);
    while read32(FR) & FR_RXFE == 0 && many < 100 {
        all &= read32(DR) & 0xff == 0xf0 + many;
        many += 1;
    }
    let after = read32(RIS) & INT_RX;
    write32(CR, CR_ON);
    if !all && received.iter().all(|&byte| byte == 0) {
        report.skip("loopback", "this UART has none");
        return;
    }
    let sent: [u32; 8] = core::array::from_fn(|n| u32::from(b'A') + n as u32);
    report.equal("loopback receives what is sent", (all, received), (true, sent));
    report.equal("16 bytes at once come back in order", many, 16);
    report.holds("half a FIFO raises the receive interrupt", filled, level);
    report.equal("which falls as the FIFO is read", after, 0);
}

/// The receive interrupt through the GIC, by loopback.
fn delivery(report: &mut Report) {
    gic::init();
    interrupt::take();
    interrupt::on(INTID, |_| {
        while read32(FR) & FR_RXFE == 0 {
            read32(DR);
        }
        write32(ICR, 0x7ff);
    });
    gic::enable(INTID);
    let taken = || interrupt::count(sysreg::cpu(), INTID);
    let before = taken();
    let _ = drained();
    write32(CR, CR_ON | CR_LBE);
    // One byte at a time: FIFOs off, each byte is an interrupt.
    write32(LCR_H, LCR_8N1_FIFO & !0x10);
    write32(ICR, 0x7ff);
    write32(IMSC, INT_RX);
    sysreg::unmask_interrupts();
    let mut all = true;
    for sent in 1..=10 {
        uart::put(b'x');
        all &= wait_until(1000, || taken() - before >= sent);
    }
    sysreg::mask_interrupts();
    write32(IMSC, 0);
    write32(LCR_H, LCR_8N1_FIFO);
    write32(CR, CR_ON);
    gic::disable(INTID);
    report.equal("each received byte interrupts once", (all, taken() - before), (true, 10));
}
