//! What takes several steps to be worth anything: timers at their extremes, waits, translation tables and virtqueues that
//! lie, CPUs that start and stop.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::exception::survive;
use guests::gic::{self, CTLR};
use guests::machine::{GicAt, machine};
use guests::mmio::{read64, write8, write32, write64};
use guests::sysreg::cpu;
use guests::timer::{self, ENABLE, Timer};
use guests::virtio::{Device, register, status};
use guests::{MAX_CPUS, instruction, mrs, msr, uart};

use super::random::Random;
use crate::survey::nowhere;

/// The timers with values at which arithmetic may go wrong; both are off afterwards.
pub fn timers(random: &mut Random) -> u64 {
    for _ in 0..4 {
        let timer = random.one_of(&[Timer::Virtual, Timer::Physical]);
        let count = timer.count();
        let value = random.one_of(&[
            0,
            1,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            u64::MAX >> 1,
            1 << 63,
            u64::MAX,
            count,
            count + 64,
            count.wrapping_sub(1),
            count.wrapping_add(1 << 31),
            count.wrapping_sub(1 << 31),
            count.wrapping_add(1 << 63),
        ]);
        timer.set_cval(value);
        timer.set_ctl(random.below(8));
        if random.once_in(2) {
            timer.set_tval(value as i32);
        }
        timer.ctl();
        timer.tval();
    }
    for timer in [Timer::Virtual, Timer::Physical] {
        timer.set_ctl(0);
    }
    4 * 5
}

/// `WFI`, `WFE` and an event of its own, with a timer that ends each.
pub fn waits(random: &mut Random) -> u64 {
    const SLEEP: u64 = 2000;
    gic::init();
    forget_active();
    heal();
    let timer = Timer::Virtual;
    for _ in 0..4 {
        timer.set_cval(timer.count() + SLEEP);
        timer.set_ctl(ENABLE);
        gic::enable(timer.intid());
        match random.below(3) {
            0 => instruction!("wfi"),
            1 => instruction!("wfe"),
            _ => {
                instruction!("sevl");
                instruction!("wfe");
            }
        }
        timer.set_ctl(0);
    }
    4 * 4
}

/// Nothing is active on this CPU whose priority would keep the timer's interrupt from it, and that one is in the group that is
/// taken.
fn forget_active() {
    match machine().gic {
        GicAt::V2 { distributor, cpu_interface } => {
            // GICC_APRn and GICC_NSAPRn, GICD_IGROUPR0.
            (0..8).for_each(|n| write32(cpu_interface + 0xd0 + 4 * n, 0));
            write32(distributor + 0x80, 0);
        }
        GicAt::V3 { .. } => {
            msr!("S3_0_C12_C8_4", 0); // ICC_AP0R0_EL1
            msr!("S3_0_C12_C9_0", 0); // ICC_AP1R0_EL1
        }
    }
}

/// The distributor forwards again, all in one group, and other CPUs' timers wake them, whatever somebody has written there.
pub fn heal() {
    let on = if gic::is_v3() { gic::v3::DISTRIBUTOR_ON } else { 1 };
    write32(gic::distributor() + CTLR, on);
    // What is pending in a group that is not taken would have the place of what is.
    let group = if gic::is_v3() { u32::MAX } else { 0 };
    for intid in (32..gic::lines()).step_by(32) {
        write32(gic::distributor() + 0x80 + u64::from(intid / 8), group);
    }
    let GicAt::V3 { redistributors, .. } = machine().gic else { return };
    let intid = Timer::Virtual.intid();
    for frame in 0..machine().cpus().len() as u64 {
        let at = redistributors + 0x2_0000 * frame + 0x1_0000;
        write32(at + 0x80, u32::MAX);
        write8(at + gic::IPRIORITYR + u64::from(intid), 0xa0);
        write32(at + gic::ISENABLER, 1 << intid);
    }
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

/// Three levels for each CPU.
static TABLES: [[Table; 3]; MAX_CPUS] =
    [const { [const { Table([const { AtomicU64::new(0) }; 512]) }; 3] }; MAX_CPUS];

const EPD1: u64 = 1 << 23;
const UPPER_HALF: u64 = 0xffff_ff80_0000_0000;

/// The upper half of the address space by tables that loop and lie.
pub fn tables(random: &mut Random, scratch: u64) -> u64 {
    let own = &TABLES[cpu()];
    let places = own.each_ref().map(|table| table as *const Table as u64);
    let mut root = places[0];
    for table in own {
        for entry in &table.0[..8] {
            let to = match random.below(8) {
                0..4 => random.one_of(&places),
                4 => uart::BASE,
                5 => gic::distributor(),
                6 => nowhere().nth(random.below(14) as usize).unwrap_or(0),
                _ => scratch,
            };
            // A table, a page, a block, which is none of the payload's; what else there is.
            let kind = random.one_of(&[3, 3, 3, 1, 2, 0]);
            let to = if kind == 1 { to & 0x3fff_ffff | 1 << 39 } else { to };
            let attributes = random.next() & 0xfff0_0000_0000_0ffc;
            entry.store(to & !0xfff | attributes | kind, Ordering::Relaxed);
        }
    }
    if random.once_in(4) {
        root = nowhere().nth(random.below(14) as usize).unwrap_or(0) & !0xfff;
    }
    let before = mrs!("tcr_el1");
    msr!("tcr_el1", before & !EPD1 | 25 << 16 | 0xb500_0000);
    msr!("ttbr1_el1", root);
    refresh();
    for _ in 0..8 {
        let at = UPPER_HALF | random.below(8) << 30 | random.below(8) << 21 | random.below(8) << 12;
        let at = at + random.below(512) * 8;
        // No stores: what the walk finds in scratch memory may be a page of the payload's.
        let way = random.below(3);
        survive(|| {
            // SAFETY: nothing is changed but `PAR_EL1` and caches, nothing read is looked at, and an exception is skipped.
            unsafe {
                match way {
                    0 => asm!("at s1e1w, {}", in(reg) at, options(nostack)),
                    1 => asm!("dc civac, {}", in(reg) at, options(nostack)),
                    _ => asm!("ldr {0}, [{0}]", inout(reg) at => _, options(nostack)),
                }
            }
        });
    }
    msr!("ttbr1_el1", 0);
    msr!("tcr_el1", before);
    refresh();
    8
}

fn refresh() {
    instruction!("dsb ishst");
    instruction!("tlbi vmalle1");
    instruction!("dsb ish");
    instruction!("isb");
}

/// A device is told of queues in which nothing is true.
pub fn virtqueues(random: &mut Random, scratch: u64) -> u64 {
    let count = Device::all().count() as u64;
    if count == 0 {
        return 0;
    }
    let device = Device::all().nth(random.below(count) as usize).expect("one of them");
    // Descriptors, or rings: addresses in scratch memory or where nothing is, and numbers that fit or do not.
    for _ in 0..64 {
        let at = scratch + 8 * random.below(0x400);
        let number = match random.below(4) {
            0 => random.value(scratch),
            1 => scratch + random.below(0x2000),
            2 => random.below(0x300) | random.below(8) << 32 | random.below(16) << 48,
            _ => random.next() & 0x0007_000f_0000_0fff,
        };
        write64(at, number);
    }
    if random.once_in(2) {
        device.write(register::STATUS, 0);
        let mut features = u64::from(device.read(register::DEVICE_FEATURES));
        device.write(register::DEVICE_FEATURES_SEL, 1);
        features |= u64::from(device.read(register::DEVICE_FEATURES)) << 32;
        device.write(register::DEVICE_FEATURES_SEL, 0);
        features &= random.next() | random.next() | 1 << 32;
        device.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for half in 0..2 {
            device.write(register::DRIVER_FEATURES_SEL, half);
            device.write(register::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        device.write(register::STATUS, 11);
        for queue in 0..4 {
            device.write(register::QUEUE_SEL, queue);
            device.write(register::QUEUE_NUM, 1 << random.below(9));
            for area in
                [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW]
            {
                let at = if random.once_in(16) {
                    random.value(scratch)
                } else {
                    scratch + 16 * random.below(0x80)
                };
                device.write(area, at as u32);
                device.write(area + 4, (at >> 32) as u32);
            }
            device.write(register::QUEUE_READY, 1);
        }
        device.write(register::STATUS, 15);
    }
    for _ in 0..8 {
        match random.below(8) {
            0 => device.write(register::INTERRUPT_ACK, random.word()),
            1 => device.write(register::QUEUE_READY, random.below(2) as u32),
            2 => write64(scratch + 8 * random.below(0x400), random.value(scratch)),
            3 => device.write(register::QUEUE_RESET, 1),
            _ => device.write(register::QUEUE_NOTIFY, random.below(5) as u32),
        }
    }
    read64(scratch);
    64
}

/// The registers that printing needs, as they were.
pub fn restore() {
    for timer in [Timer::Virtual, Timer::Physical] {
        timer.set_ctl(0);
    }
    write32(uart::LCR_H, uart::LCR_8N1_FIFO);
    write32(uart::CR, uart::CR_ON);
    write32(uart::IMSC, 0);
    for device in Device::all() {
        device.write(register::STATUS, 0);
    }
    gic::init();
    timer::spin(10);
}
