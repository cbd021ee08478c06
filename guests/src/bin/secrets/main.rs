//! Does a machine begin with nothing of others in its registers and its memory, and do its registers stay its own whatever
//! else its CPUs do? What is kept from it is refused.
//!
//! Worth most with several machines at once, with more vCPUs than CPUs. Its command line may say `seed=N`, another for each
//! machine, and what it is to do: `hide` fills its memory and its registers, and never ends; `look` looks at them as they
//! were, and ends.

#![no_std]
#![no_main]

mod memory;
mod refused;
mod registers;

use core::sync::atomic::{AtomicU64, Ordering};

use guests::gic;
use guests::mmio::{read32, read64, write64};
use guests::report::Report;
use guests::smp::{self, number};
use guests::sysreg::{cpu, mask_interrupts};
use guests::timer::{Timer, microseconds, wait_until};
use guests::{MAX_CPUS, machine, mrs, msr, println, psci};
use registers::{Meanwhile, State};

guests::payload!(main);

const ROUNDS: u64 = 100;
/// Longer than any hypervisor's time slice should be, in microseconds.
const LONG: u64 = 6_000;
const MAGIC: u64 = 0x5365_6372_6574_7300;
/// What a CPU is started with whose registers are looked at.
const CONTEXT: u64 = 0x1234_5678_9abc_def0;

/// Another one for each machine.
static SEED: AtomicU64 = AtomicU64::new(0);

/// The first register of each CPU that was not its own: got, wanted, and the name's address and length.
static WRONG: [[AtomicU64; 4]; MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 4] }; MAX_CPUS];

fn main(report: &mut Report) {
    mask_interrupts();
    let tree = machine::tree();
    let words = tree.chosen().bootargs().unwrap_or_default();
    let says = |what: &str| words.split(' ').any(|word| word == what);
    let seed = words.split(' ').find_map(|word| word.strip_prefix("seed=")?.parse().ok());
    SEED.store(seed.unwrap_or(1), Ordering::Relaxed);

    let mark = machine::machine().ram + machine::machine().ram_size - 0x1000;
    let again = read64(mark) == MAGIC;
    println!("{}", if again { "after a reset" } else { "a new machine" });
    if !again {
        report.equal("all memory is zero", memory::not_zero(), None);
    }
    is_reset(report, "the registers of the boot CPU", machine::machine().x0);
    devices_are_reset(report);
    refused::ask(report);
    if again || says("look") {
        return;
    }
    if says("hide") {
        memory::fill();
        println!("secrets: hidden");
        registers::leave_dirty(&State::pattern(SEED.load(Ordering::Relaxed)), 0);
    }
    keep(report);
    one_starts_again(report);
    write64(mark, MAGIC);
    // SAFETY: cleans a line of RAM, past the caches, where a reset leaves it.
    unsafe { core::arch::asm!("dc civac, {}", "dsb sy", in(reg) mark) };
    msr!("oslar_el1", 0);
    msr!("dbgclaimset_el1", 0xff);
    gic::set_mask(0x50);
    registers::leave_dirty(&pattern(0x7fff), psci::SYSTEM_RESET);
    report.equal("SYSTEM_RESET does not return", true, false);
}

/// Another for each machine, CPU and round.
fn pattern(round: u64) -> State {
    State::pattern(SEED.load(Ordering::Relaxed) << 24 | (cpu() as u64) << 16 | round)
}

/// This CPU's registers were at its first instruction what they are at reset.
fn is_reset(report: &mut Report, question: &str, x0: u64) {
    let found = registers::at_entry();
    let different = found.differs(&registers::at_reset(x0), &registers::all_bits());
    report.equal(question, different, None);
}

/// What is no register of the CPU's own, before any of it is set up.
fn devices_are_reset(report: &mut Report) {
    report.equal("the OS lock is locked", mrs!("oslsr_el1"), 0xa);
    report.equal("no claim tag is set", mrs!("dbgclaimclr_el1"), 0);
    let on = |register| read32(gic::distributor() + register);
    report.equal("the distributor is off", on(gic::CTLR) & 3, 0);
    let spis = (4..gic::lines() as u64 / 8).step_by(4);
    let left = |register| spis.clone().any(|word| on(register + word) != 0);
    let left = [gic::ISENABLER, gic::ISPENDR, gic::ISACTIVER].map(left);
    report.equal("no SPI is enabled, pending or active", left, [false; 3]);
    match machine::machine().gic {
        machine::GicAt::V2 { cpu_interface, .. } => {
            let found = [0x0, 0x4, 0xd0].map(|register| read32(cpu_interface + register));
            report.equal("the CPU interface is off and clear", found, [0; 3]);
        }
        machine::GicAt::V3 { .. } => {
            let found = [
                mrs!("icc_igrpen0_el1"),
                mrs!("icc_igrpen1_el1"),
                mrs!("icc_pmr_el1"),
                mrs!("icc_ctlr_el1") & 3,
                mrs!("icc_ap1r0_el1"),
            ];
            report.equal("the CPU interface is off and clear", found, [0; 5]);
        }
    }
}

/// All CPUs at once.
fn keep(report: &mut Report) {
    gic::init();
    guests::interrupt::take();
    let cpus = smp::start_all();
    for other in smp::others() {
        smp::post(number(other), keeps_registers, 0);
    }
    let mut wrong = keeps_registers(0);
    for other in smp::others() {
        let done = || registers::ROUNDS.load(Ordering::Relaxed) == ROUNDS * cpus as u64;
        wait_until(100_000, done);
        wrong += smp::finished(number(other)).unwrap_or(u64::MAX);
    }
    println!("{} rounds", registers::ROUNDS.load(Ordering::Relaxed));
    report.equal("rounds in which a register was not its CPU's own", wrong, 0);
    for wrong in &WRONG {
        let [got, want, at, length] = wrong.each_ref().map(|word| word.load(Ordering::Acquire));
        if length != 0 {
            // SAFETY: a name of the table.
            let name = unsafe { core::slice::from_raw_parts(at as *const u8, length as usize) };
            let name = core::str::from_utf8(name).unwrap_or_default();
            report.equal(name, got, want);
        }
    }
}

/// How many rounds ended with registers other than they began with.
fn keeps_registers(_: u64) -> u64 {
    mask_interrupts();
    // More urgent than any mask below.
    gic::set_priority(Timer::Physical.intid(), 0x40);
    gic::enable(Timer::Physical.intid());
    let bits = registers::bits_that_stick();
    let mut wrong = 0;
    for round in 0..ROUNDS {
        let pattern = pattern(round);
        let tags = registers::mixed(round + cpu() as u64) & 0xff;
        msr!("oslar_el1", tags & 1);
        msr!("dbgclaimclr_el1", 0xff);
        msr!("dbgclaimset_el1", tags);
        gic::set_mask(0x80 | tags as u8 & 0x70);
        let meanwhile = match round % 3 {
            0 => Meanwhile::Wait(microseconds(200)),
            1 => Meanwhile::Spin(microseconds(LONG)),
            _ => Meanwhile::Call(microseconds(LONG / 6)),
        };
        let found = registers::round(&pattern, meanwhile, &bits);
        let found = found.or_else(|| differs("OSLSR_EL1", mrs!("oslsr_el1"), 8 | (tags & 1) << 1));
        let found = found.or_else(|| differs("DBGCLAIM", mrs!("dbgclaimclr_el1"), tags));
        let found = found.or_else(|| differs("priority mask", mask(), 0x80 | tags & 0x70));
        if let Some((name, got, want)) = found {
            let all = [got, want, name.as_ptr() as u64, name.len() as u64];
            for (word, value) in WRONG[cpu()].iter().zip(all) {
                word.store(value, Ordering::Release);
            }
            wrong += 1;
        }
        registers::count_round();
    }
    gic::set_mask(0xf0);
    wrong
}

fn differs(name: &'static str, got: u64, want: u64) -> Option<(&'static str, u64, u64)> {
    (got != want).then_some((name, got, want))
}

/// The priority mask as it reads.
fn mask() -> u64 {
    match machine::machine().gic {
        machine::GicAt::V2 { cpu_interface, .. } => read32(cpu_interface + 4).into(),
        machine::GicAt::V3 { .. } => mrs!("icc_pmr_el1"),
    }
}

/// A CPU that turned itself off with its registers full is turned on again.
fn one_starts_again(report: &mut Report) {
    const QUESTION: &str = "the registers of a CPU that is turned on again";
    let Some(other) = smp::others().next() else {
        return report.skip(QUESTION, "there is one CPU");
    };
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let off = || psci::affinity_info(other) == psci::AFFINITY_OFF;
    smp::post(number(other), leave, 0);
    report.holds("a CPU turns itself off", wait_until(5000, off), ());
    let look = |_| {
        let found = registers::at_entry();
        let different = found.differs(&registers::at_reset(CONTEXT), &registers::all_bits());
        if different.is_some() {
            println!("{different:x?}");
        }
        SEEN.store(1 + u64::from(different.is_some()), Ordering::SeqCst);
    };
    report.equal("it is turned on again", smp::start(other, look, CONTEXT), 0);
    wait_until(5000, || SEEN.load(Ordering::SeqCst) != 0 && off());
    report.equal(QUESTION, SEEN.load(Ordering::SeqCst), 1);
}

fn leave(_: u64) -> u64 {
    registers::leave_dirty(&pattern(0x7ffe), psci::CPU_OFF);
    0
}
