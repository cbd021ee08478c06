//! A block of generated code, and the registers it runs with, at EL1 or EL0.
//!
//! | register | what it holds |
//! |---|---|
//! | `x0` to `x7` | addresses to access, which only write-back changes |
//! | `x8` to `x15` | values, which anything may change |
//! | `x16` to `x19` | what is added to addresses |
//! | `x21` | where a call's arguments are |
//! | `x30` | the end of the block, for what leads astray |
//!
//! Each instruction may be answered with an exception, and the next one follows. The block ends with an `SVC` that the
//! vectors know, so it need not find back by itself.

use core::arch::{asm, global_asm};

use guests::exception::{self, LEAVE, survive};
use guests::mmu::{USER_DEVICES, USER_RAM};
use guests::sysreg::cpu;

/// How many instructions a block has at most; how many exceptions they may have is less than `exception` bears.
pub const MOST: usize = 40;

/// Where a block is written: a page for each CPU, as an emulator that finds one of them written to forgets what it made of the
/// whole page.
#[repr(C, align(4096))]
struct Code([[u32; 1024]; guests::MAX_CPUS]);

static mut CODE: Code = Code([[0; 1024]; guests::MAX_CPUS]);

/// This CPU's.
fn code() -> *mut u32 {
    // SAFETY: each CPU writes its own page; none is referred to.
    unsafe { (&raw mut CODE.0[cpu()]).cast() }
}

global_asm!(
    r#"
    .global storm_enter
storm_enter:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    mov     x30, x3
    ldp     x2, x3, [x0, #16]
    ldp     x0, x1, [x0]
    isb
    eret

    .global storm_left
storm_left:
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret
"#
);

unsafe extern "C" {
    fn storm_enter(registers: *const [u64; 22], code: u64, state: u64, end: u64);
    fn storm_left();
}

/// A block that is being made.
pub struct Block {
    code: [u32; MOST],
    length: usize,
    /// `x0` to `x21` before it.
    pub registers: [u64; 22],
    /// It runs at EL0.
    pub user: bool,
    /// It is interrupted by whatever is pending.
    pub unmasked: bool,
}

impl Block {
    /// Without instructions.
    pub const fn new() -> Self {
        Self { code: [0; MOST], length: 0, registers: [0; 22], user: false, unmasked: false }
    }

    /// Appends an instruction, if there is room.
    pub fn push(&mut self, instruction: u32) {
        if self.length < MOST {
            self.code[self.length] = instruction;
            self.length += 1;
        }
    }

    /// How many instructions there are room for.
    pub fn room(&self) -> usize {
        MOST - self.length
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Writes its instructions to where they run.
    pub fn write(&self) {
        let code = code();
        let leave = 0xd400_0001 | u32::from(LEAVE) << 5;
        let all = self.code[..self.length].iter().copied().chain([leave]);
        for (at, word) in all.enumerate() {
            // SAFETY: `MOST` and one more fit.
            unsafe { code.add(at).write_volatile(word) };
        }
        for line in 0..4u64 {
            // SAFETY: maintenance of the payload's own memory.
            unsafe {
                asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb",
                    in(reg) code as u64 + 64 * line, options(nostack));
            }
        }
    }

    /// Runs it, once it is written. Returns how many of its instructions were answered with an exception.
    pub fn run(&self) -> u32 {
        let code = code();
        let level = if self.user { 0 } else { 0b0101 };
        let masks = if self.unmasked { 0x200 } else { 0x3c0 };
        let at = if self.user { user(code as u64) } else { code as u64 };
        exception::leave_to(storm_left as *const () as u64);
        let end = at + 4 * self.length as u64;
        let enter = || {
            // SAFETY: the block changes nothing that compiled code relies on: what may be stored to leads to devices, to
            // scratch memory or nowhere, and what the registers of EL1 hold that it may change is nothing the payload needs.
            unsafe { storm_enter(&self.registers, at, level | masks, end) }
        };
        survive(enter);
        exception::leave_to(0);
        exception::count()
    }
}

/// Where EL0 finds what EL1 has at this address.
pub fn user(address: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    match address / GIB {
        0 => USER_DEVICES + address,
        1 => USER_RAM + address - GIB,
        _ => address,
    }
}
