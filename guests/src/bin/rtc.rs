//! Is the real-time clock a PL031 (DDI 0224) that counts seconds and can wake?

#![no_std]
#![no_main]

use guests::machine::machine;
use guests::mmio::{read32, write32};
use guests::report::Report;
use guests::timer::{self, frequency, wait_until};
use guests::{gic, interrupt, println, sysreg};

guests::payload!(main);

const DR: u64 = 0x0;
const MR: u64 = 0x4;
const LR: u64 = 0x8;
const CR: u64 = 0xc;
const IMSC: u64 = 0x10;
const RIS: u64 = 0x14;
const MIS: u64 = 0x18;
const ICR: u64 = 0x1c;
const PERIPH_ID0: u64 = 0xfe0;
const INTID: u32 = 34;

fn main(report: &mut Report) {
    let Some(rtc) = machine().rtc else {
        report.equal("the device tree has a PL031", machine().rtc, Some(0x901_0000));
        return;
    };
    let id: [u32; 8] = core::array::from_fn(|n| read32(rtc + PERIPH_ID0 + 4 * n as u64));
    report.equal("the identification is a PL031's", &id[..2], &[0x31, 0x10]);
    report.equal("RTCPCellID is PrimeCell's", &id[4..], &[0x0d, 0xf0, 0x05, 0xb1]);
    report.equal("RTCCR says it runs", read32(rtc + CR) & 1, 1);

    let start = read32(rtc + DR);
    println!("RTCDR {start}");
    let ticked = wait_until(3000, || read32(rtc + DR) != start);
    report.holds("RTCDR counts", ticked, start);
    let (first, at) = (read32(rtc + DR), timer::now());
    wait_until(3000, || read32(rtc + DR) != first);
    let second = (timer::now() - at) * 1000 / frequency();
    report.holds(
        "one of its seconds is one of the counter's",
        (700..=1600).contains(&second),
        second,
    );

    gic::init();
    interrupt::take();
    interrupt::on(INTID, |_| write32(machine().rtc.unwrap_or(0) + ICR, 1));
    gic::enable(INTID);
    write32(rtc + ICR, 1);
    report.equal("RTCICR clears the interrupt", (read32(rtc + RIS), read32(rtc + MIS)), (0, 0));
    write32(rtc + IMSC, 1);
    write32(rtc + MR, read32(rtc + DR) + 1);
    sysreg::unmask_interrupts();
    let woken = wait_until(3500, || interrupt::count(sysreg::cpu(), INTID) == 1);
    sysreg::mask_interrupts();
    write32(rtc + IMSC, 0);
    report.holds("the match register interrupts, once", woken, read32(rtc + RIS));

    let now = read32(rtc + DR);
    write32(rtc + LR, 0x1234_5678);
    let set = read32(rtc + DR);
    write32(rtc + LR, now);
    report.holds("RTCLR sets the clock", (0x1234_5678..0x1234_567a).contains(&set), set);
    let back = read32(rtc + DR);
    report.holds("and sets it back", (now..now + 2).contains(&back), (now, back));
}
