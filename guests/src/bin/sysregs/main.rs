//! Which system registers does the machine have? `MRS` of all 32768 encodings, at EL1 and at EL0, each of which gives a value, or
//! is UNDEFINED, or at EL0 an exception of EL1's own. All but the UNDEFINED are told, with values of those that do not change: whoever
//! runs it compares. Then the same for `MSR` (`writes`).

#![no_std]
#![no_main]

use guests::report::Report;
use guests::user::{self, A64, User};
use guests::{code, exception, fp, instruction, mrs, msr, println};

mod writes;

guests::payload!(main);

/// `SVC #0`.
const SVC: u32 = 0xd400_0001;
/// Its exception class.
const SVC_CLASS: u64 = 0x15;

/// Fields of an encoding: op0, op1, CRn, CRm, op2.
type Fields = (u32, u32, u32, u32, u32);

/// The assembler's name of an encoding.
macro_rules! name {
    ($op0:expr, $op1:expr, $crn:expr, $crm:expr, $op2:expr) => {
        format_args!("s{}_{}_c{}_c{}_{}", $op0, $op1, $crn, $crm, $op2)
    };
}
use name;

fn encodings() -> impl Iterator<Item = Fields> {
    (0..0x8000u32).map(|at| (2 + (at >> 14), at >> 11 & 7, at >> 7 & 15, at >> 3 & 15, at & 7))
}

fn main(report: &mut Report) {
    fp::enable();
    user::prepare();
    // EL0 may do what EL1 can let it do.
    msr!("cntkctl_el1", 0x303);
    // UCT, DZE, UMA.
    msr!("sctlr_el1", mrs!("sctlr_el1") | 1 << 15 | 1 << 14 | 1 << 9);
    instruction!("isb");
    let mut told = 0;
    let mut strange = None;
    for fields in encodings() {
        let (op0, op1, crn, crm, op2) = fields;
        let instruction = code::mrs(op0, op1, crn, crm, op2);
        let (value, caught) = code::run(instruction, 0, 0);
        match caught {
            None => tell("EL1", fields, Some(value)),
            Some(caught) if caught.esr == 1 << 25 => continue,
            Some(caught) => strange = Some((fields, caught.esr)),
        }
        told += 1;
    }
    report.equal("each read at EL1 gives a value, or is UNDEFINED", strange, None);
    report.holds("some give a value", told > 0, told);
    let code = user::code();
    for fields in encodings() {
        let (op0, op1, crn, crm, op2) = fields;
        user::write32([code::mrs(op0, op1, crn, crm, op2), SVC].into_iter());
        let mut at = User { pc: code, spsr: A64, ..User::default() };
        user::run(&mut at);
        match at.class() {
            exception::UNKNOWN if at.pc == code => {}
            SVC_CLASS => tell("EL0", fields, Some(at.r[0])),
            _ if at.pc == code => tell("EL0", fields, None),
            _ => strange = Some((fields, at.esr)),
        }
    }
    report.equal("each read at EL0 goes on, or is an exception at the instruction", strange, None);
    writes::at_el1(report);
    writes::at_el0(report);
}

/// One that is not UNDEFINED: with its value, if that is always the same; `None`, if EL1 is asked.
fn tell(level: &str, (op0, op1, crn, crm, op2): Fields, value: Option<u64>) {
    let name = name!(op0, op1, crn, crm, op2);
    // Identification, ACTLR_EL1, and what there is of debug registers.
    let constant = op0 == 2 || crn == 0 || (op1, crn, crm, op2) == (0, 1, 0, 1);
    match value {
        None => println!("register: {level} {name} trapped"),
        Some(value) if constant => println!("register: {level} {name} {value:#x}"),
        Some(_) => println!("register: {level} {name}"),
    }
}
