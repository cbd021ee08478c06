//! The verdict: a line for each question, and one at the end.

use core::fmt::Debug;

use crate::{println, psci};

/// Counts answers; [`Report::finish`] says how it went.
pub struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { passed: 0, failed: 0 }
    }

    /// Whether `got` is `want`.
    pub fn equal<T: PartialEq + Debug>(&mut self, question: &str, got: T, want: T) -> bool {
        let passed = got == want;
        if passed {
            self.pass(question);
        } else {
            self.failed += 1;
            println!("FAIL {question}: got {got:x?}, want {want:x?}");
        }
        passed
    }

    /// Whether `holds`; `got` is what to print where it does not.
    pub fn holds(&mut self, question: &str, holds: bool, got: impl Debug) -> bool {
        if holds {
            self.pass(question);
        } else {
            self.failed += 1;
            println!("FAIL {question}: got {got:x?}, want otherwise");
        }
        holds
    }

    /// The question was answered as it should.
    pub fn pass(&mut self, question: &str) {
        self.passed += 1;
        println!("PASS {question}");
    }

    /// The machine lacks what the question needs; that is no failure.
    pub fn skip(&mut self, question: &str, why: &str) {
        println!("SKIP {question}: {why}");
    }

    /// The last line, and off. A payload without one answer has failed.
    pub fn finish(&mut self) -> ! {
        if self.failed == 0 && self.passed > 0 {
            println!("GUEST-TEST: ok");
        } else {
            println!("GUEST-TEST: FAILED");
        }
        psci::system_off()
    }
}
