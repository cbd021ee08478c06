//! Does EL2's way to copy bytes, and to fill them, (`boot/copy.S`) concern exactly them, at every alignment? It is machine
//! instructions, so nothing runs it on the PC.

#![no_std]
#![no_main]

use core::arch::global_asm;

use guests::fp;
use guests::report::Report;

guests::payload!(main);

global_asm!(include_str!("../../../boot/copy.S"));

unsafe extern "C" {
    fn plinth_copy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    fn plinth_fill(to: *mut u8, byte: i32, count: usize) -> *mut u8;
}

/// What is around the bytes that are copied, on either side, and must stay.
const AROUND: usize = 32;
const ALIGNMENTS: usize = 16;
/// More than four turns of its loop; from [`VECTORS`] on vector registers are used.
const LONGEST: usize = 330;
/// And more than four turns of that one, in steps that are no multiple of anything.
const VECTORS: usize = 256;
const STEP: usize = 13;
const LONGEST_BY_VECTORS: usize = 800;
const ROOM: usize = AROUND + ALIGNMENTS + LONGEST_BY_VECTORS + AROUND;

#[repr(align(64))]
struct Bytes([u8; ROOM]);

fn main(report: &mut Report) {
    fp::enable();
    let mut from = Bytes([0; ROOM]);
    for (index, byte) in from.0.iter_mut().enumerate() {
        *byte = (index * 7 + index / 251 + 1) as u8;
    }
    let mut wrong = 0;
    let mut returned = 0;
    let mut all = 0;
    for count in (0..=LONGEST).chain((VECTORS..=LONGEST_BY_VECTORS).step_by(STEP)) {
        for (from_at, to_at) in alignments() {
            all += 1;
            let mut to = Bytes([0xee; ROOM]);
            let source = &from.0[AROUND + from_at..][..count];
            let start = AROUND + to_at;
            let target = &mut to.0[start..];
            // SAFETY: there is room for the longest behind the last alignment, at both ends.
            let end = unsafe { plinth_copy(target.as_mut_ptr(), source.as_ptr(), count) };
            returned += u64::from(end == target.as_mut_ptr());
            let stays = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0xee);
            let right = to.0[start..][..count] == *source
                && stays(&to.0[..start])
                && stays(&to.0[start + count..]);
            wrong += u64::from(!right);
        }
    }
    report.equal("copies that are not as they should be", wrong, 0);
    report.equal("copies that return where they went", returned, all);
    report.holds("vector registers are as before", keeps_registers(&from), ());
    fills(report);
}

/// Whether a copy by vector registers leaves all of them as they were.
fn keeps_registers(from: &Bytes) -> bool {
    let mut to = Bytes([0; ROOM]);
    let before = fp::Registers::pattern(0, 0);
    before.load();
    // SAFETY: there is room for so much.
    unsafe { plinth_copy(to.0.as_mut_ptr(), from.0.as_ptr(), LONGEST_BY_VECTORS) };
    fp::Registers::store() == before
}

fn fills(report: &mut Report) {
    let mut wrong = 0;
    for count in 0..=LONGEST {
        for start in AROUND..AROUND + ALIGNMENTS {
            let mut to = Bytes([0xee; ROOM]);
            let target = to.0[start..].as_mut_ptr();
            // SAFETY: there is room for the longest behind the last alignment. Only the lowest byte counts.
            let end = unsafe { plinth_fill(target, 0x1a5, count) };
            let all = |bytes: &[u8], value| bytes.iter().all(|byte| *byte == value);
            let right = end == target
                && all(&to.0[..start], 0xee)
                && all(&to.0[start..][..count], 0xa5)
                && all(&to.0[start + count..], 0xee);
            wrong += u64::from(!right);
        }
    }
    report.equal("fills that are not as they should be", wrong, 0);
}

/// Every pair of alignments.
fn alignments() -> impl Iterator<Item = (usize, usize)> {
    (0..ALIGNMENTS).flat_map(|from| (0..ALIGNMENTS).map(move |to| (from, to)))
}
