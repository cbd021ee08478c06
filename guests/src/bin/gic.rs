//! Does the interrupt controller deliver by priority, mask, state and target as its architecture
//! says (GICv2: IHI 0048B, GICv3: IHI 0069H), with more pending than there are list registers?

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guests::gic::{self, v2, v3};
use guests::machine::machine;
use guests::mmio::{read8, read32, write8, write32};
use guests::report::Report;
use guests::sysreg::{self, cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{self, wait_until};
use guests::{interrupt, mrs, println, smp, uart};

guests::payload!(main);

/// SPIs of the board's holes: past the virtio slots nothing is wired.
const FIRST: u32 = 80;
const UART: u32 = 33;

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    println!("{} lines", gic::lines());
    if gic::lines() < FIRST + 8 {
        report.equal("there are SPIs to play with", gic::lines(), FIRST + 8);
        return;
    }
    registers(report);
    states(report);
    order(report);
    many(report);
    masks(report);
    edges(report);
    uart_level(report);
    preemption(report);
    split_end(report);
    retarget(report);
}

/// Lets interrupts in until `wanted` have come and then nothing for a while; the INTIDs taken, in order.
fn deliver(wanted: usize) -> impl Iterator<Item = u32> {
    interrupt::forget();
    let seen = || interrupt::taken_in_order().count();
    unmask_interrupts();
    // Another CPU may still have it in hand, and be kept from going on by other guests.
    wait_until(2000, || seen() >= wanted);
    let mut before = usize::MAX;
    while before != seen() {
        before = seen();
        timer::spin(3000);
    }
    mask_interrupts();
    interrupt::taken_in_order()
}

/// Whether exactly `want` is delivered, in this order.
fn delivers(report: &mut Report, question: &str, want: &[u32]) {
    let holds = deliver(want.len()).eq(want.iter().copied());
    if !holds {
        for intid in interrupt::taken_in_order() {
            println!("took {intid}");
        }
    }
    report.holds(question, holds, ("see above, want", want));
}

/// An SPI enabled, edge-triggered, of this priority.
fn prepare(intid: u32, priority: u8) {
    gic::disable(intid);
    gic::clear_pending(intid);
    gic::set_edge(intid, true);
    gic::set_priority(intid, priority);
    gic::route(intid, sysreg::affinity());
    gic::enable(intid);
}

fn registers(report: &mut Report) {
    let gicd = gic::distributor();
    let priorities = gicd + gic::IPRIORITYR + u64::from(FIRST);
    write32(priorities, 0x1020_3040);
    let bytes: [u8; 4] = core::array::from_fn(|i| read8(priorities + i as u64));
    report.equal("IPRIORITYR reads by bytes", bytes, [0x40, 0x30, 0x20, 0x10]);
    write8(priorities + 2, 0xc0);
    report.equal("a byte write leaves its neighbours", read32(priorities), 0x10c0_3040);

    let typer = read32(gicd + gic::TYPER);
    write32(gicd + gic::TYPER, !typer);
    report.equal("GICD_TYPER is read-only", read32(gicd + gic::TYPER), typer);
    // One word below the implementation-defined ones, one between the named groups.
    for offset in [0x0c, 0x30, 0xe00 - 4] {
        if offset == 0x30 && gic::is_v3() {
            continue; // implementation defined there
        }
        write32(gicd + offset, u32::MAX);
        report.equal("a reserved register is RAZ/WI", read32(gicd + offset), 0);
    }
    if gic::lines() < 992 {
        let beyond = gicd + gic::IPRIORITYR + u64::from(gic::lines());
        write32(beyond, u32::MAX);
        report.equal("priorities beyond ITLinesNumber are RAZ/WI", read32(beyond), 0);
        let beyond = gicd + gic::ISENABLER + u64::from(gic::lines() / 8);
        write32(beyond, u32::MAX);
        report.equal("enables beyond ITLinesNumber are RAZ/WI", read32(beyond), 0);
    }
    let pidr2 = if gic::is_v3() { 0xffe8 } else { 0xfe8 };
    let architecture = (read32(gicd + pidr2) >> 4) & 0xf;
    report.equal("GICD_PIDR2 tells the version", architecture, if gic::is_v3() { 3 } else { 2 });
    if gic::is_v3() {
        report.equal("ICC_SRE_EL1.SRE is on", mrs!("icc_sre_el1") & 1, 1);
        report.equal("SGIs in the distributor are RAZ", read32(gicd + gic::ISENABLER), 0);
    } else {
        let own = read8(gicd + v2::ITARGETSR);
        // RAZ where there is but one CPU (IHI 0048B, "uniprocessor implementation").
        let told = own == 1 << cpu() || own == 0 && machine().cpus().len() == 1;
        report.holds("ITARGETSR0 tells the own CPU", told, own);
    }
    let intid = FIRST;
    gic::enable(intid);
    let on =
        (gic::is_enabled(intid), read32(gicd + gic::ICENABLER + u64::from(intid / 32 * 4)) != 0);
    gic::disable(intid);
    report.equal(
        "ISENABLER and ICENABLER read alike",
        (on, gic::is_enabled(intid)),
        ((true, true), false),
    );
    write32(gicd + gic::ISENABLER + u64::from(intid / 32 * 4), 0);
    report.equal("writing 0 to ISENABLER enables nothing", gic::is_enabled(intid), false);
}

fn states(report: &mut Report) {
    let intid = FIRST + 1;
    prepare(intid, 0x80);
    gic::disable(intid);
    gic::set_pending(intid);
    report.equal("ISPENDR makes pending, enabled or not", gic::is_pending(intid), true);
    delivers(report, "a disabled interrupt is not delivered", &[]);
    gic::enable(intid);
    delivers(report, "it is once enabled", &[intid]);
    report.equal("taking it ends pending", gic::is_pending(intid), false);
    report.equal("ending it ends active", gic::is_active(intid), false);

    gic::set_pending(intid);
    gic::clear_pending(intid);
    report.equal("ICPENDR takes pending back", gic::is_pending(intid), false);
    delivers(report, "what was taken back is not delivered", &[]);

    gic::set_pending(intid);
    gic::disable(intid);
    delivers(report, "what is disabled while pending is not delivered", &[]);
    report.equal("and stays pending", gic::is_pending(intid), true);
    gic::enable(intid);
    delivers(report, "and is delivered once enabled again", &[intid]);

    gic::set_active(intid);
    gic::set_pending(intid);
    let state = (gic::is_active(intid), gic::is_pending(intid));
    report.equal("ISACTIVER makes active and pending", state, (true, true));
    delivers(report, "an active interrupt is not delivered again", &[]);
    gic::clear_active(intid);
    report.equal("ICACTIVER ends active", gic::is_active(intid), false);
    delivers(report, "and what is pending is delivered then", &[intid]);

    let nothing = gic::acknowledge();
    report.equal(
        "with nothing pending the acknowledge is 1023",
        gic::intid(nothing),
        gic::SPURIOUS,
    );
    gic::end(nothing);
    gic::end(FIRST + 2);
    gic::set_pending(intid);
    delivers(report, "ending what is not active harms nothing", &[intid]);

    let before = gic::running_priority();
    gic::set_pending(intid);
    settle_in();
    let acknowledged = gic::acknowledge();
    let state = (gic::intid(acknowledged), gic::is_active(intid), gic::is_pending(intid));
    report.equal("the acknowledge turns pending into active", state, (intid, true, false));
    report.equal("the running priority is that of the active one", gic::running_priority(), 0x80);
    gic::set_pending(intid);
    let state = (gic::is_active(intid), gic::is_pending(intid));
    report.equal("an edge while active makes active and pending", state, (true, true));
    gic::end(acknowledged);
    report.equal("the end brings the running priority back", gic::running_priority(), before);
    delivers(report, "and the edge is delivered after the end", &[intid]);
    gic::disable(intid);
}

/// Gives what was made pending a moment to reach the CPU interface.
fn settle_in() {
    timer::spin(200);
}

fn order(report: &mut Report) {
    let by_urgency: [u32; 6] = [FIRST + 4, FIRST, FIRST + 5, FIRST + 2, FIRST + 1, FIRST + 3];
    for (i, &intid) in by_urgency.iter().enumerate() {
        prepare(intid, 0x20 + 0x20 * i as u8);
    }
    for intid in FIRST..FIRST + 6 {
        gic::set_pending(intid);
    }
    delivers(report, "the most urgent is delivered first", &by_urgency);

    for intid in FIRST..FIRST + 6 {
        gic::set_pending(intid);
    }
    gic::set_priority(by_urgency[5], 0x10);
    gic::settle();
    let mut want = by_urgency;
    want.rotate_right(1);
    delivers(report, "a priority changed while pending counts", &want);
}

/// How many SPIs `many` uses.
const MANY: usize = 48;

fn many(report: &mut Report) {
    let count = MANY.min((gic::lines() - FIRST) as usize);
    report.holds("there are 40 SPIs to have pending at once", count >= 40, count);
    let intids = || FIRST..FIRST + count as u32;
    let priority = |intid: u32| 0x10 + 0x10 * ((intid * 7) % 12) as u8;
    for round in 0..3 {
        for intid in intids() {
            prepare(intid, priority(intid));
            gic::set_edge(intid, round != 1);
        }
        for intid in intids() {
            gic::set_pending(intid);
        }
        let taken = deliver(count).count();
        let once =
            intids().all(|intid| interrupt::taken_in_order().filter(|&i| i == intid).count() == 1);
        let urgencies = || interrupt::taken_in_order().map(priority);
        let ordered = urgencies().zip(urgencies().skip(1)).all(|(first, next)| first <= next);
        let what = ["edge-triggered", "level-sensitive", "edge-triggered, again"][round];
        println!("{taken} taken of {count} {what}");
        report.equal("all of many pending are taken once", (once, taken), (true, count));
        report.holds("all of many pending are taken by priority", ordered, taken);
    }
    for intid in intids() {
        gic::disable(intid);
    }
}

fn masks(report: &mut Report) {
    let (urgent, lazy) = (FIRST + 2, FIRST + 3);
    prepare(urgent, 0x40);
    prepare(lazy, 0xa0);
    gic::set_mask(0x80);
    gic::set_pending(lazy);
    gic::set_pending(urgent);
    delivers(report, "the priority mask lets only the more urgent through", &[urgent]);
    report.equal("what it holds back stays pending", gic::is_pending(lazy), true);
    gic::set_mask(0xa0);
    delivers(report, "a priority equal to the mask is held back", &[]);
    gic::set_mask(0xf0);
    delivers(report, "raising the mask lets it through", &[lazy]);
    gic::set_forwarding(false);
    gic::settle();
    gic::set_pending(urgent);
    delivers(report, "nothing is delivered with the distributor off", &[]);
    gic::set_forwarding(true);
    gic::settle();
    delivers(report, "and it is once it is on", &[urgent]);
    gic::disable(urgent);
    gic::disable(lazy);
}

fn edges(report: &mut Report) {
    let intid = FIRST + 6;
    prepare(intid, 0x80);
    gic::set_pending(intid);
    gic::set_pending(intid);
    delivers(report, "two edges before the acknowledge are one interrupt", &[intid]);
    static AGAIN: AtomicU32 = AtomicU32::new(0);
    AGAIN.store(2, Ordering::Relaxed);
    interrupt::on(intid, |acknowledged| {
        if AGAIN.load(Ordering::Relaxed) > 0 {
            AGAIN.fetch_sub(1, Ordering::Relaxed);
            gic::set_pending(gic::intid(acknowledged));
        }
    });
    gic::set_pending(intid);
    delivers(report, "an edge within the handler is another interrupt", &[intid; 3]);
    interrupt::off(intid);
    gic::disable(intid);
}

/// The PL011's transmit interrupt stays up until it is cleared or masked.
fn uart_level(report: &mut Report) {
    static TIMES: AtomicU32 = AtomicU32::new(0);
    prepare(UART, 0x80);
    gic::set_edge(UART, false);
    interrupt::on(UART, |_| {
        if TIMES.fetch_add(1, Ordering::Relaxed) == 2 {
            write32(uart::IMSC, 0);
        }
    });
    write32(uart::IMSC, uart::INT_TX);
    uart::put(b'\n');
    let up = wait_until(1000, || read32(uart::MIS) & uart::INT_TX != 0);
    report.holds("the UART raises its transmit interrupt", up, read32(uart::RIS));
    report.equal("and is pending at the GIC", gic::is_pending(UART), true);
    delivers(report, "a level is taken again until its device is quiet", &[UART; 3]);
    report.equal("and is not pending any more", gic::is_pending(UART), false);
    interrupt::off(UART);
    gic::disable(UART);
}

fn preemption(report: &mut Report) {
    const OUTER: u32 = FIRST + 10;
    const INNER: u32 = FIRST + 11;
    const LAZY: u32 = FIRST + 12;
    static WITHIN: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
    prepare(OUTER, 0x80);
    prepare(INNER, 0x20);
    prepare(LAZY, 0xc0);
    interrupt::on(OUTER, |_| {
        let before = (interrupt::count(cpu(), INNER), interrupt::count(cpu(), LAZY));
        gic::set_pending(LAZY);
        gic::set_pending(INNER);
        unmask_interrupts();
        let _ = wait_until(1000, || interrupt::count(cpu(), INNER) != before.0);
        timer::spin(2000);
        mask_interrupts();
        WITHIN[0].store(interrupt::count(cpu(), INNER) - before.0, Ordering::Relaxed);
        WITHIN[1].store(interrupt::count(cpu(), LAZY) - before.1, Ordering::Relaxed);
    });
    gic::set_pending(OUTER);
    delivers(report, "each of three nested interrupts is taken once", &[OUTER, INNER, LAZY]);
    let within = [WITHIN[0].load(Ordering::Relaxed), WITHIN[1].load(Ordering::Relaxed)];
    report.equal("the more urgent preempts, the less urgent waits", within, [1, 0]);
    interrupt::off(OUTER);
    for intid in [OUTER, INNER, LAZY] {
        gic::disable(intid);
    }
}

fn split_end(report: &mut Report) {
    let (intid, next) = (FIRST + 13, FIRST + 14);
    prepare(intid, 0x80);
    prepare(next, 0x80);
    let idle = gic::running_priority();
    gic::split_end(true);
    gic::set_pending(intid);
    settle_in();
    let first = gic::acknowledge();
    gic::end(first);
    report.equal("with EOImode 1 the end drops the priority", gic::running_priority(), idle);
    report.equal("and leaves the interrupt active", gic::is_active(intid), true);
    gic::set_pending(intid);
    gic::set_pending(next);
    settle_in();
    let second = gic::acknowledge();
    report.equal("another is taken, not the active one", gic::intid(second), next);
    gic::end(second);
    gic::deactivate(first);
    report.equal("DIR deactivates, out of order", gic::is_active(intid), false);
    gic::deactivate(second);
    settle_in();
    let third = gic::acknowledge();
    report.equal("and what is pending is taken then", gic::intid(third), intid);
    gic::end(third);
    gic::deactivate(third);
    for odd in [gic::SPURIOUS, FIRST + 15, 1019] {
        gic::deactivate(odd);
    }
    // More active than any machine has list registers for.
    let many = FIRST..FIRST + 8;
    for intid in many.clone() {
        prepare(intid, 0x80);
        gic::set_pending(intid);
    }
    settle_in();
    let mut taken = [gic::SPURIOUS; 8];
    for slot in &mut taken {
        wait_until(100, || {
            *slot = gic::acknowledge();
            gic::intid(*slot) < gic::SPECIAL
        });
        gic::end(*slot);
    }
    let active = many.clone().filter(|&intid| gic::is_active(intid)).count();
    report.equal("eight interrupts are active at once", active, 8);
    for slot in taken {
        gic::deactivate(slot);
    }
    let active = many.clone().filter(|&intid| gic::is_active(intid)).count();
    report.equal("and all of them are deactivated", active, 0);
    gic::split_end(false);
    for intid in many {
        gic::disable(intid);
    }
    gic::disable(intid);
    gic::disable(next);
}

fn retarget(report: &mut Report) {
    let Some(other) = smp::others().next() else {
        report.skip("SPIs are delivered to the CPU they are routed to", "one CPU");
        return;
    };
    smp::start_all();
    let intid = FIRST + 16;
    prepare(intid, 0x80);
    let there = smp::number(other);
    let counts = || (interrupt::count(cpu(), intid), interrupt::count(there, intid));
    let before = counts();
    gic::route(intid, other);
    for round in 1..=10 {
        gic::set_pending(intid);
        wait_until(2000, || counts().1 - before.1 == round);
    }
    delivers(report, "an SPI routed to another CPU is not delivered here", &[]);
    report.equal("it is delivered there", (counts().0 - before.0, counts().1 - before.1), (0, 10));
    gic::route(intid, sysreg::affinity());
    gic::set_pending(intid);
    delivers(report, "and here again once routed back", &[intid]);

    let gicd = gic::distributor();
    if gic::is_v3() {
        let router = gicd + v3::IROUTER + u64::from(intid) * 8;
        gic::route(intid, other);
        report.equal("IROUTER reads as written", guests::mmio::read64(router), other);
        guests::mmio::write64(router, 0xff_00ff_ffff);
        gic::set_pending(intid);
        delivers(report, "an SPI routed to no CPU is not delivered here", &[]);
        gic::route(intid, sysreg::affinity());
        delivers(report, "and is once routed here", &[intid]);
    } else {
        let both = 1 << (other & 7) | 1 << cpu();
        let absent = if machine().cpus().len() < 8 { 0x80 } else { 0 };
        write8(gicd + v2::ITARGETSR + u64::from(intid), both | absent);
        let read = read8(gicd + v2::ITARGETSR + u64::from(intid));
        report.equal("ITARGETSR reads as written, absent CPUs aside", read & !absent, both);
        let before = counts();
        gic::set_pending(intid);
        wait_until(2000, || counts().1 != before.1);
        let here = deliver(0).count() as u32;
        let all = here + counts().1 - before.1;
        // Once by the 1-N model; QEMU has each CPU take an edge that software set.
        report.holds(
            "an SPI for two CPUs is taken, by each at most once",
            (1..=2).contains(&all),
            all,
        );
        write8(gicd + v2::ITARGETSR + u64::from(intid), 0);
        gic::set_pending(intid);
        delivers(report, "an SPI for no CPU is not delivered", &[]);
        gic::route(intid, sysreg::affinity());
        gic::set_pending(intid);
        delivers(report, "and is once it is for this one", &[intid]);
    }
}
