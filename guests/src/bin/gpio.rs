//! Is the GPIO a PL061 (DDI 0190) whose outputs are masked by the address, and whose interrupts can be
//! masked and cleared? Does the device tree have a power button on it?

#![no_std]
#![no_main]

use guests::machine::{machine, tree};
use guests::mmio::{read8, read32, write8, write32};
use guests::report::Report;
use guests::timer;
use guests::{gic, interrupt, sysreg};

guests::payload!(main);

const DATA: u64 = 0x3fc;
const DIR: u64 = 0x400;
const IS: u64 = 0x404;
const IBE: u64 = 0x408;
const IEV: u64 = 0x40c;
const IE: u64 = 0x410;
const RIS: u64 = 0x414;
const MIS: u64 = 0x418;
const IC: u64 = 0x41c;
const AFSEL: u64 = 0x420;
const PERIPH_ID0: u64 = 0xfe0;
const INTID: u32 = 39;
/// The power button's pin.
const BUTTON: u32 = 1 << 3;

fn main(report: &mut Report) {
    let Some(gpio) = machine().gpio else {
        report.equal("the device tree has a PL061", machine().gpio, Some(0x903_0000));
        return;
    };
    let id: [u32; 8] = core::array::from_fn(|n| read32(gpio + PERIPH_ID0 + 4 * n as u64));
    report.equal("the identification is a PL061's", id, [0x61, 0x10, 4, 0, 0x0d, 0xf0, 5, 0xb1]);
    for (name, offset) in [
        ("GPIODIR is 0 out of reset", DIR),
        ("GPIOIS is 0 out of reset", IS),
        ("GPIOIBE is 0 out of reset", IBE),
        ("GPIOIEV is 0 out of reset", IEV),
        ("GPIOIE is 0 out of reset", IE),
        ("GPIOMIS is 0 out of reset", MIS),
        ("GPIOAFSEL is 0 out of reset", AFSEL),
        ("nobody presses the button", BUTTON as u64 * 4),
    ] {
        report.equal(name, read32(gpio + offset), 0);
    }
    outputs(report, gpio);
    for (name, offset) in [
        ("GPIODIR keeps 8 bits", DIR),
        ("GPIOIBE keeps 8 bits", IBE),
        ("GPIOIEV keeps 8 bits", IEV),
        ("GPIOIE keeps 8 bits", IE),
    ] {
        write32(gpio + offset, 0xffff_ffa5);
        let kept = read32(gpio + offset);
        write32(gpio + offset, 0);
        report.equal(name, (kept, read32(gpio + offset)), (0xa5, 0));
    }
    key(report);
    interrupts(report, gpio);
}

/// All pins but the button's as outputs, written and read through masks.
fn outputs(report: &mut Report, gpio: u64) {
    let data = |mask: u32| gpio + u64::from(mask) * 4;
    write32(gpio + DIR, 0xf7);
    write32(gpio + DATA, 0xff);
    report.equal("outputs read what was written to them", read32(gpio + DATA) & 0xf7, 0xf7);
    report.equal("an input does not", read32(data(BUTTON)), 0);
    write32(data(0x0f), 0);
    report.equal("a write leaves what its address masks out", read32(gpio + DATA), 0xf0);
    write32(data(0x81), 0x7f);
    report.equal("and takes what it does not", read32(gpio + DATA), 0x71);
    report.equal("a read has what its address lets through", read32(data(0x30)), 0x30);
    write32(data(0), 0xff);
    report.equal("a mask of 0 reads 0 and writes nothing", read32(data(0)), 0);
    report.equal("and so it is", read32(gpio + DATA), 0x71);
    write8(data(0xff), 0x0a | 0xf0);
    report.equal("a byte is enough", read8(data(0xff)) & 0xf7, 0xf2);
    write32(gpio + DATA, 0);
    write32(gpio + DIR, 0);
    report.equal("inputs that nobody drives are low", read32(gpio + DATA), 0);
}

/// The button's pin is low, so a low level is what it can interrupt with.
fn interrupts(report: &mut Report, gpio: u64) {
    gic::init();
    interrupt::take();
    interrupt::on(INTID, |_| write32(machine().gpio.unwrap_or(0) + IE, 0));
    gic::enable(INTID);
    write32(gpio + IE, 0);
    write32(gpio + IC, 0xff);
    write32(gpio + IEV, 0xff); // high levels and rising edges: there are none
    write32(gpio + IS, BUTTON);
    write32(gpio + IC, 0xff);
    report.equal("a low pin is no high level", read32(gpio + RIS) & BUTTON, 0);
    sysreg::unmask_interrupts();
    write32(gpio + IEV, !BUTTON & 0xff);
    report.equal("it is a low level", read32(gpio + RIS) & BUTTON, BUTTON);
    report.equal("that is masked", read32(gpio + MIS), 0);
    timer::spin(2000);
    let count = || interrupt::count(sysreg::cpu(), INTID);
    report.equal("and does not interrupt", count(), 0);
    write32(gpio + IE, BUTTON);
    let came = timer::wait_until(1000, || count() == 1);
    report.holds("unmasked it does", came, (count(), read32(gpio + RIS)));
    report.equal("the handler has masked it again", read32(gpio + MIS), 0);
    timer::spin(2000);
    report.equal("once", count(), 1);
    sysreg::mask_interrupts();
    write32(gpio + IEV, 0xff);
    write32(gpio + IC, 0xff);
    report.equal("it ends with its cause, cleared", read32(gpio + RIS) & BUTTON, 0);
    write32(gpio + IS, 0);
    write32(gpio + IC, 0xff);
    write32(gpio + IEV, 0);
    report.equal("and leaves nothing behind", read32(gpio + RIS) & BUTTON, 0);
}

/// What the device tree says of the button.
fn key(report: &mut Report) {
    let tree = tree();
    let key = tree.find_node("/gpio-keys/poweroff");
    let code = key.and_then(|key| key.property("linux,code")?.as_usize());
    report.equal("the tree has a power button", code, Some(116));
    let cells = |cell: usize| {
        let gpios = key.and_then(|key| key.property("gpios"))?;
        gpios.value.as_chunks::<4>().0.get(cell).map(|bytes| u32::from_be_bytes(*bytes))
    };
    let gpio = tree.find_compatible(&["arm,pl061"]);
    let phandle = gpio.and_then(|gpio| gpio.property("phandle")?.as_usize());
    report.equal("on a pin of this GPIO", cells(0).map(|cell| cell as usize), phandle);
    report.equal("which is 3, active high", (cells(1), cells(2)), (Some(3), Some(0)));
}
