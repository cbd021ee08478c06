//! Does EL2's way to copy bytes, and to fill them, (`boot/copy.S`) concern exactly them, at every alignment? It is machine
//! instructions, so nothing runs it on the PC.

#![no_std]
#![no_main]

use core::arch::global_asm;

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
/// More than four turns of its loop.
const LONGEST: usize = 330;
const ROOM: usize = AROUND + ALIGNMENTS + LONGEST + AROUND;

#[repr(align(64))]
struct Bytes([u8; ROOM]);

fn main(report: &mut Report) {
    let mut from = Bytes([0; ROOM]);
    for (index, byte) in from.0.iter_mut().enumerate() {
        *byte = (index * 7 + index / 251 + 1) as u8;
    }
    let mut wrong = 0;
    let mut returned = 0;
    for count in 0..=LONGEST {
        for (from_at, to_at) in alignments() {
            let mut to = Bytes([0xee; ROOM]);
            let source = &from.0[AROUND + from_at..][..count];
            let start = AROUND + to_at;
            let target = &mut to.0[start..];
            // SAFETY: there is room for the longest behind the last alignment, at both ends.
            let end = unsafe { plinth_copy(target.as_mut_ptr(), source.as_ptr(), count) };
            returned += u64::from(end == target.as_mut_ptr());
            let stays = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0xee);
            let right = to.0[start..][..count].iter().eq(source)
                && stays(&to.0[..start])
                && stays(&to.0[start + count..]);
            wrong += u64::from(!right);
        }
    }
    let all = (LONGEST as u64 + 1) * (ALIGNMENTS * ALIGNMENTS) as u64;
    report.equal("copies that are not as they should be", wrong, 0);
    report.equal("copies that return where they went", returned, all);
    fills(report);
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
