//! Programs of guests, put together.

use plinth::exit::Width;
use plinth::machine::fake::{INTID, IRQ_VECTOR, Op};

use crate::common::{VECTORS, psci};

/// Instructions from an address on.
pub struct Code {
    start: u64,
    ops: Vec<Op>,
}

impl Code {
    pub fn at(start: u64) -> Self {
        Self { start, ops: Vec::new() }
    }

    fn here(&self) -> u64 {
        self.start + 4 * self.ops.len() as u64
    }

    pub fn then(mut self, ops: &[Op]) -> Self {
        self.ops.extend_from_slice(ops);
        self
    }

    /// Waits for interrupts until the handler has put `value` into a register.
    pub fn wait_for(self, register: u8, value: u64) -> Self {
        let here = self.here();
        self.then(&[
            Op::Mask,
            Op::BranchUnless(register, value, here + 16),
            Op::Unmask,
            Op::Branch(here + 28),
            Op::Wfi,
            Op::Unmask,
            Op::Branch(here),
        ])
    }

    /// `PSCI` calls until one has succeeded.
    pub fn until_done(self, call: Op) -> Self {
        let here = self.here();
        self.then(&[call, Op::BranchUnless(0, 0, here)])
    }

    /// `ops`, if a register has this value.
    pub fn if_is(self, register: u8, value: u64, ops: &[Op]) -> Self {
        let behind = self.here() + 4 + 4 * ops.len() as u64;
        self.then(&[Op::BranchUnless(register, value, behind)]).then(ops)
    }

    pub fn parts(&self) -> (u64, &[Op]) {
        (self.start, &self.ops)
    }
}

/// What is done at an interrupt of which number, as [`INTID`] shows it.
pub fn handler(cases: &[(u64, Op)]) -> Code {
    let spurious = Code::at(VECTORS + IRQ_VECTOR).then(&[Op::Acknowledge]);
    let handler = spurious.if_is(INTID, 1023, &[Op::Eret]);
    let handler = cases
        .iter()
        .fold(handler, |code, (intid, op)| code.if_is(INTID, *intid, std::slice::from_ref(op)));
    handler.then(&[Op::EndOfInterrupt, Op::Eret])
}

pub fn store(at: u64, value: u64) -> Op {
    Op::Store(at, Width::Word, value)
}

/// It is done, and turns itself off.
pub fn done() -> [Op; 2] {
    [Op::Mark(DONE), psci(crate::common::CPU_OFF)]
}

/// The mark of who is done.
pub const DONE: u64 = 999;
