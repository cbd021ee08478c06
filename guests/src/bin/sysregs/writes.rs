//! Which registers can be written, and which of their bits? `MSR` of all 32768 encodings, at EL1 and at EL0: first with the value that
//! was just read, or 0 where there is none, and if that is not refused, with each bit the other way, after which the register is what
//! it was. All but the UNDEFINED are told.
//!
//! Between a write and what undoes it there is no load, store, branch or exception: everything is masked, and nothing interrupts anyway.
//! So most registers can hold anything for two instructions. Those that cannot are in `CARE`.

use guests::report::Report;
use guests::user::{self, A64, User};
use guests::{code, exception, mrs, println};

use super::{Fields, SVC, SVC_CLASS, encodings, name};

/// `ISB`.
const ISB: u32 = 0xd503_3fdf;

/// `SCTLR_EL1`.
const SCTLR: Fields = (3, 0, 1, 0, 0);
/// `SCTLR_EL1.M`.
const MMU: u64 = 1;

const OSLAR: Fields = (2, 0, 1, 0, 4);
const OSLSR: Fields = (2, 0, 1, 1, 4);
const CLAIM_SET: Fields = (2, 0, 7, 8, 6);
const CLAIM_CLEAR: Fields = (2, 0, 7, 9, 6);

/// What a register wants beyond a write and its undoing.
#[derive(Clone, Copy)]
enum Care {
    /// The next instruction would not be found, or not with these attributes: it is tried with the MMU off. `SCTLR_EL1.M` is
    /// not tried (that it can be written is why the payload runs).
    MmuOff,
    /// It does not read as what was written: after a write of that to that, which bits of another register does it change?
    Shown { first: (Fields, u64), by: Fields },
    /// The value is that of the counter: no bit of it stays, whatever is written. `guests/timers` is about those.
    Moves,
}

/// Which of them want that.
const CARE: &[(Fields, Care)] = &[
    (SCTLR, Care::MmuOff),
    ((3, 0, 2, 0, 0), Care::MmuOff),  // TTBR0_EL1
    ((3, 0, 2, 0, 1), Care::MmuOff),  // TTBR1_EL1
    ((3, 0, 2, 0, 2), Care::MmuOff),  // TCR_EL1
    ((3, 0, 10, 2, 0), Care::MmuOff), // MAIR_EL1
    ((3, 0, 10, 3, 0), Care::MmuOff), // AMAIR_EL1
    ((3, 0, 13, 0, 1), Care::MmuOff), // CONTEXTIDR_EL1
    (OSLAR, Care::Shown { first: (OSLAR, 0), by: OSLSR }),
    (CLAIM_SET, Care::Shown { first: (CLAIM_CLEAR, 0xff), by: CLAIM_CLEAR }),
    (CLAIM_CLEAR, Care::Shown { first: (CLAIM_SET, 0xff), by: CLAIM_CLEAR }),
    ((3, 3, 14, 2, 0), Care::Moves), // CNTP_TVAL_EL0
    ((3, 3, 14, 3, 0), Care::Moves), // CNTV_TVAL_EL0
];

/// What came of a write that was not UNDEFINED.
enum Effect {
    /// These bits of the register change.
    Changes(u64),
    /// These of the other one that shows it.
    Shows(u64),
    /// There is nothing to read.
    Unread,
    /// See [`Care::Moves`].
    Moves,
    /// EL1 is asked.
    Trapped,
}

pub fn at_el1(report: &mut Report) {
    let mut strange = None;
    let mut changed = 0;
    for fields in encodings() {
        let stub = code::write(&[mrs_to(fields, 0), msr_from(fields, 0)]);
        let (old, caught) = code::call(0, 0);
        let exceptions = if caught.is_some() { exception::count() } else { 0 };
        match (caught, exceptions) {
            // Both are UNDEFINED, or the write is.
            (Some(caught), 1 | 2) if caught.esr == 1 << 25 && caught.elr == stub + 4 => continue,
            // The read is.
            (Some(caught), 1) if caught.esr == 1 << 25 && caught.elr == stub => {
                let effect = match care(fields) {
                    Some(Care::Shown { first, by }) => Effect::Shows(shown(fields, first, by)),
                    _ => Effect::Unread,
                };
                tell("EL1", fields, effect);
            }
            (Some(caught), _) => strange = Some((fields, caught.esr, caught.elr - stub)),
            (None, _) => {
                let effect = accepted(fields, old);
                changed += u32::from(matches!(effect, Effect::Changes(1..)));
                tell("EL1", fields, effect);
            }
        }
    }
    report.equal("each write at EL1 is done, or is UNDEFINED", strange, None);
    report.holds("some change a register", changed > 0, changed);
}

/// What a register of EL1 does that can be read and written, and reads as `old`.
fn accepted(fields: Fields, old: u64) -> Effect {
    match care(fields) {
        None => {
            code::write(&exchange(fields));
            Effect::Changes(changeable(old, u64::MAX, |value| code::call(value, 0).0))
        }
        Some(Care::MmuOff) => {
            let [first, second, third, fourth, fifth, sixth] = exchange(fields);
            code::write(&[
                mrs_to(SCTLR, 3),
                msr_from(SCTLR, 1),
                ISB,
                first,
                second,
                third,
                fourth,
                fifth,
                sixth,
                msr_from(SCTLR, 3),
                ISB,
            ]);
            let off = mrs!("sctlr_el1") & !MMU;
            let bits = if fields == SCTLR { !MMU } else { u64::MAX };
            Effect::Changes(changeable(old & bits, bits, |value| code::call(value, off).0))
        }
        Some(Care::Shown { first, by }) => Effect::Shows(shown(fields, first, by)),
        Some(Care::Moves) => Effect::Moves,
    }
}

/// Writes `x0` and reads what came of it into `x0`; then the register is what it was.
fn exchange(fields: Fields) -> [u32; 6] {
    let (write, undo) = (msr_from(fields, 0), msr_from(fields, 2));
    [mrs_to(fields, 2), write, ISB, mrs_to(fields, 0), undo, ISB]
}

/// Which of `bits` differ in what a write of `probe` gives, when they differ in what is written. The other bits are as in `old`, and then
/// each the other way: some fields take no value that is less than others.
fn changeable(old: u64, bits: u64, mut probe: impl FnMut(u64) -> u64) -> u64 {
    let mut changes = 0;
    for base in [old, old ^ bits] {
        let was = probe(base);
        for bit in (0..64).map(|at| 1 << at).filter(|bit| bits & bit != 0) {
            changes |= (was ^ probe(base ^ bit)) & bit;
        }
    }
    changes
}

/// Which bits of `by` change when any bit is written to a register.
fn shown(fields: Fields, (first, value): (Fields, u64), by: Fields) -> u64 {
    code::write(&[msr_from(first, 1), ISB, msr_from(fields, 0), ISB, mrs_to(by, 0)]);
    let was = code::call(0, value).0;
    (0..64).fold(0, |changes, at| changes | (was ^ code::call(1 << at, value).0))
}

pub fn at_el0(report: &mut Report) {
    /// Read, write, back to EL1.
    const WORDS: usize = 3;
    let code = user::code();
    let mut strange = None;
    let all = || encodings();
    for from in (0..all().count()).step_by(user::MOST / WORDS) {
        let some = || all().skip(from).take(user::MOST / WORDS);
        // Those that are not UNDEFINED are few: this is written again after each.
        let write = || {
            let words = |fields| [mrs_to(fields, 0), msr_from(fields, 0), SVC];
            user::write32(some().flat_map(words));
        };
        write();
        for (fields, at) in some().zip((code..).step_by(4 * WORDS)) {
            let mut user = User { pc: at, spsr: A64, ..User::default() };
            user::run(&mut user);
            let readable = user.pc != at;
            if !readable {
                user = User { pc: at + 4, spsr: A64, ..User::default() };
                user::run(&mut user);
            }
            let effect = match user.class() {
                exception::UNKNOWN if user.pc == at + 4 => continue,
                SVC_CLASS if !readable => Effect::Unread,
                SVC_CLASS => match care(fields) {
                    Some(Care::Moves) => Effect::Moves,
                    _ => {
                        let old = user.r[0];
                        user::write32(exchange(fields).into_iter().chain([SVC]));
                        Effect::Changes(changeable(old, u64::MAX, |value| {
                            let mut user = User { pc: code, spsr: A64, ..User::default() };
                            user.r[0] = value;
                            user::run(&mut user);
                            user.r[0]
                        }))
                    }
                },
                _ if user.pc == at + 4 => Effect::Trapped,
                _ => {
                    strange = Some((fields, user.esr, user.pc.wrapping_sub(at)));
                    continue;
                }
            };
            tell("EL0", fields, effect);
            write();
        }
    }
    report.equal("each write at EL0 goes on, or is an exception at the instruction", strange, None);
}

fn care(of: Fields) -> Option<Care> {
    CARE.iter().find(|(fields, _)| *fields == of).map(|(_, care)| *care)
}

fn mrs_to((op0, op1, crn, crm, op2): Fields, register: u32) -> u32 {
    code::mrs(op0, op1, crn, crm, op2) | register
}

fn msr_from((op0, op1, crn, crm, op2): Fields, register: u32) -> u32 {
    code::msr(op0, op1, crn, crm, op2) | register
}

fn tell(level: &str, (op0, op1, crn, crm, op2): Fields, effect: Effect) {
    let name = name!(op0, op1, crn, crm, op2);
    match effect {
        Effect::Changes(bits) => println!("write: {level} {name} changes {bits:#x}"),
        Effect::Shows(bits) => println!("write: {level} {name} shows {bits:#x}"),
        Effect::Unread => println!("write: {level} {name} unread"),
        Effect::Moves => println!("write: {level} {name} moves"),
        Effect::Trapped => println!("write: {level} {name} trapped"),
    }
}
