//! Do the virtual and the physical timer of EL1 behave as the Arm ARM's "Operation of the CompareValue
//! and TimerValue views" says, and does each of their interrupts arrive once?

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guests::report::Report;
use guests::sysreg::{cpu, mask_interrupts, unmask_interrupts};
use guests::timer::{ENABLE, IMASK, ISTATUS, Timer, frequency, microseconds, wait_until};
use guests::{gic, instruction, interrupt, println, timer};

guests::payload!(main);

fn main(report: &mut Report) {
    gic::init();
    interrupt::take();
    counter(report, Timer::Virtual);
    counter(report, Timer::Physical);
    for timer in [Timer::Virtual, Timer::Physical] {
        println!("{timer:?} timer, INTID {}", timer.intid());
        timer.stop();
        gic::enable(timer.intid());
        values(report, timer);
        level(report, timer);
        unmask_interrupts();
        delivery(report, timer);
        thousand(report, timer);
        sleep(report, timer);
        mask_interrupts();
        timer.stop();
        gic::disable(timer.intid());
    }
}

fn counter(report: &mut Report, timer: Timer) {
    let hz = frequency();
    report.holds(
        "CNTFRQ_EL0 is from 1 MHz to 1 GHz",
        (1_000_000..=1_000_000_000).contains(&hz),
        hz,
    );
    let mut last = timer.count();
    let mut backwards = 0;
    for _ in 0..20_000 {
        let now = timer.count();
        backwards += u32::from(now < last);
        last = now;
    }
    report.equal("the counter never goes backwards", backwards, 0);
    let start = timer.count();
    let advanced = wait_until(1000, || timer.count() > start + microseconds(1000));
    report.holds("the counter advances", advanced, timer.count());
}

/// What CVAL and TVAL mean to each other and to ISTATUS; the interrupt is masked.
fn values(report: &mut Report, timer: Timer) {
    let status = |cval: u64| {
        timer.set_cval(cval);
        timer.set_ctl(ENABLE | IMASK);
        let fired = timer.fired();
        timer.stop();
        fired
    };
    report.equal("CVAL 0 has passed", status(0), true);
    report.equal("CVAL of now has passed", status(timer.count()), true);
    report.equal("CVAL 2^63-1 is to come", status(u64::MAX >> 1), false);
    report.equal("CVAL 2^63 is to come: the compare is unsigned", status(1 << 63), false);
    report.equal("CVAL 2^64-1 is to come", status(u64::MAX), false);
    report.equal("CVAL reads as written", timer.cval(), u64::MAX);

    let status = |tval: i32| {
        timer.set_tval(tval);
        timer.set_ctl(ENABLE | IMASK);
        let fired = timer.fired();
        timer.stop();
        fired
    };
    report.equal("TVAL 0 has passed", status(0), true);
    report.equal("TVAL -1 has passed", status(-1), true);
    report.equal("TVAL 0x7fffffff is to come", status(i32::MAX), false);
    timer.set_cval(0);
    timer.set_tval(i32::MIN);
    // In the machine's first 34 s at 62.5 MHz the sum lies below 0 and wraps to the far future.
    let early = timer.count() < 1 << 31;
    let distance = timer.cval().wrapping_sub(timer.count()) as i64;
    let near = (-(1 << 31) - (frequency() as i64)..=-(1 << 31)).contains(&distance);
    report.holds("TVAL 0x80000000 is 2^31 ticks ago", near, (distance, early));
    timer.set_tval(1_000_000_000);
    let ahead = timer.cval().wrapping_sub(timer.count()) as i64;
    report.holds("TVAL sets CVAL to now + TVAL", (1..=1_000_000_000).contains(&ahead), ahead);
    timer.set_cval(timer.count() + 1_000_000_000);
    let left = timer.tval();
    report.holds("TVAL reads as CVAL - now", (1..=1_000_000_000).contains(&left), left);
    timer.set_ctl(ENABLE | IMASK);
    timer.set_tval(-1000);
    timer::spin(100);
    let past = timer.tval();
    report.holds("TVAL goes on below 0", past < -1000, past);

    timer.set_ctl(!0);
    report.equal(
        "CTL has ENABLE, IMASK and a read-only ISTATUS",
        timer.ctl(),
        ENABLE | IMASK | ISTATUS,
    );
    timer.set_ctl(!ENABLE);
    report.equal("IMASK stays with ENABLE off", timer.ctl() & (ENABLE | IMASK), IMASK);
    timer.stop();
}

/// The interrupt is a level: pending while the condition holds, CPU masked.
fn level(report: &mut Report, timer: Timer) {
    let intid = timer.intid();
    let taken = || interrupt::count(cpu(), intid);
    interrupt::on(intid, move |_| {});
    let before = taken();
    report.equal("nothing is pending with the timer off", gic::is_pending(intid), false);
    timer.arm(microseconds(100));
    let pending = wait_until(1000, || gic::is_pending(intid));
    report.holds("a timer that fired is pending", pending, timer.ctl());
    timer.set_ctl(ENABLE | IMASK);
    let gone = wait_until(100, || !gic::is_pending(intid));
    report.holds("IMASK takes the level away", gone, timer.ctl());
    timer.set_ctl(ENABLE);
    let back = wait_until(100, || gic::is_pending(intid));
    report.holds("clearing IMASK brings it back", back, timer.ctl());
    timer.set_cval(u64::MAX);
    let gone = wait_until(100, || !gic::is_pending(intid));
    report.holds("re-arming for the future takes it away", gone, timer.ctl());
    timer.stop();
    unmask_interrupts();
    timer::spin(5000);
    mask_interrupts();
    report.equal("none of that is delivered once it is gone", taken(), before);
}

static LEFT: AtomicU32 = AtomicU32::new(0);

/// Re-arms the timer in the past until [`LEFT`] has run out.
fn rearm(timer: Timer) {
    if LEFT.fetch_sub(1, Ordering::Relaxed) > 1 {
        timer.set_cval(timer.count().saturating_sub(1));
    } else {
        timer.stop();
    }
}

fn once(timer: Timer) {
    timer.set_ctl(ENABLE | IMASK);
}

/// The same functions as plain ones, which is what [`interrupt::on`] takes.
fn on(timer: Timer, rearming: bool) {
    interrupt::on(
        timer.intid(),
        match (timer, rearming) {
            (Timer::Virtual, false) => |_| once(Timer::Virtual),
            (Timer::Physical, false) => |_| once(Timer::Physical),
            (Timer::Virtual, true) => |_| rearm(Timer::Virtual),
            (Timer::Physical, true) => |_| rearm(Timer::Physical),
        },
    );
}

fn delivery(report: &mut Report, timer: Timer) {
    let intid = timer.intid();
    let taken = || interrupt::count(cpu(), intid);
    on(timer, false);

    let before = taken();
    let due = timer.count() + microseconds(2000);
    timer.set_cval(due);
    timer.set_ctl(ENABLE);
    let arrived = wait_until(2000, || taken() != before);
    let at = timer.count();
    report.holds("the timer fires, and not early", arrived && at >= due, (at, due));
    timer::spin(2000);
    report.equal("a masked level does not fire again", taken() - before, 1);
    timer.stop();

    let before = taken();
    for _ in 0..10 {
        timer.arm(microseconds(30_000));
        timer.stop();
        // Where somebody else had the machine for all that time, once more.
        if timer.count() < timer.cval() {
            break;
        }
    }
    let before = before.max(taken());
    timer::spin(40_000);
    report.equal("a timer stopped before its time does not fire", taken(), before);

    timer.set_cval(0);
    timer.set_ctl(ENABLE | IMASK);
    timer::spin(2000);
    report.equal("a masked timer does not fire", taken(), before);
    timer.stop();

    gic::disable(intid);
    timer.set_ctl(ENABLE);
    timer::spin(2000);
    report.equal("a timer disabled at the GIC does not fire", taken(), before);
    gic::enable(intid);
    let arrived = wait_until(1000, || taken() == before + 1);
    report.holds("and does once it is enabled there", arrived, taken() - before);
    timer.stop();

    on(timer, true);
    LEFT.store(10, Ordering::Relaxed);
    let before = taken();
    timer.set_tval(0);
    timer.set_ctl(ENABLE);
    let arrived = wait_until(2000, || taken() - before >= 10);
    timer::spin(2000);
    report.equal(
        "re-arming in the past fires again each time",
        (arrived, taken() - before),
        (true, 10),
    );
    timer.stop();
}

fn thousand(report: &mut Report, timer: Timer) {
    let taken = || interrupt::count(cpu(), timer.intid());
    on(timer, false);
    let before = taken();
    let gone = interrupt::spurious(cpu());
    let mut lost = 0;
    for round in 1..=1000u32 {
        timer.arm(microseconds(u64::from(round % 50)));
        lost += u32::from(!wait_until(1000, || taken() - before >= round));
        if lost > 3 {
            break;
        }
    }
    timer.stop();
    report.equal("1000 timer interrupts are taken once each", (taken() - before, lost), (1000, 0));
    println!("{} spurious acknowledges meanwhile", interrupt::spurious(cpu()) - gone);
}

fn sleep(report: &mut Report, timer: Timer) {
    let taken = || interrupt::count(cpu(), timer.intid());
    let before = taken();
    let start = timer.count();
    timer.arm(microseconds(20_000));
    // The interrupt is taken within the loop or ends the WFI: masked, it cannot slip in between.
    mask_interrupts();
    let mut sleeps = 0u32;
    while taken() == before && sleeps < 1_000_000 {
        instruction!("wfi");
        unmask_interrupts();
        instruction!("isb");
        mask_interrupts();
        sleeps += 1;
    }
    unmask_interrupts();
    let slept = timer.count() - start;
    timer.stop();
    report.holds("WFI sleeps until the timer", slept >= microseconds(20_000), (slept, sleeps));
    println!("asleep for {} us in {sleeps} WFI", slept * 1_000_000 / frequency());
}
