//! The file that the plugin writes: lines of text, each a word that says what it tells of, and
//! `key=value` pairs. Numbers are decimal, or hexadecimal after `0x`.
//!
//! ```text
//! plinth-count version=1
//! first-guest vcpu=0 all=0,0,0,0,2874131,0 own=0,0,0,0,2874131,0
//! first-el0 vcpu=0 all=… own=…
//! mark number=0x70 vcpu=0 all=… own=… exits=31
//! stretch vcpu=0 length=2130 start=0x40015400 end=0x40015084 vector=0x400 class=0x16 detail=0x84000008
//! entry vector=0x480 class=0x0 detail=0x0 count=31 instructions=40112 longest=1911
//! reason vector=0x480 class=0x0 detail=0x0 count=31 usual=1911 longest=1911
//! vcpu number=0 own=…
//! end all=… dropped=0
//! ```
//!
//! - `all` and `own`: how many instructions were executed before that moment, by all vCPUs and by this
//!   one: at EL0 and EL1 with nothing below, at EL0 and EL1 of a guest (`HCR_EL2.VM` = 1), at EL2, at EL3.
//!   An instruction that takes an exception counts.
//! - `first-guest`: a guest's first instruction is about to be executed. `first-el0`: the first at EL0.
//! - `mark`: a marker, `HINT #number`, is about to be executed; `exits`: how many exceptions have brought a vCPU to EL2
//!   since `first-guest`.
//! - `stretch`: one of the longest stretches at EL2 of a vCPU (see [`crate::stretch`]) that began after
//!   `first-guest`; the first of a vCPU is its longest.
//! - `entry`: all stretches that began in the same way, the boot's again apart. `vector` is the offset of the
//!   vector, 0x800 after a `WFI` at EL2. Of a synchronous exception, `class` is `ESR_EL2.EC`, and `detail`
//!   for an abort its page's IPA with `ESR_EL2.WnR` in bit 0, for `HVC` and `SMC` the low half of `x0`, for
//!   a system register the ISS without `Rt`.
//! - `reason`: the same without details, and the length that one of ten thousand exceeds.
//! - `end` is there when the machine came to its end, and tells how many markers there was no room for.

use std::io::{self, Write};

use crate::stretch::Stretches;

/// How many classes of instructions there are.
pub const CLASSES: usize = 6;

/// Numbers of instructions by class.
pub type ByClass = [u64; CLASSES];

/// The instructions executed so far.
pub struct Now {
    /// By all vCPUs.
    pub all: ByClass,
    /// By one.
    pub own: ByClass,
}

/// A report on its way into a file.
pub struct Report<W: Write> {
    to: W,
    /// How many more markers it takes.
    room: u64,
    dropped: u64,
}

impl<W: Write> Report<W> {
    /// A report with room for so many markers.
    pub fn new(mut to: W, room: u64) -> io::Result<Self> {
        writeln!(to, "plinth-count version=1")?;
        Ok(Self { to, room, dropped: 0 })
    }

    /// `first-guest` or `first-el0`.
    pub fn first(&mut self, what: &str, vcpu: u32, now: &Now) -> io::Result<()> {
        let Now { all, own } = now;
        writeln!(self.to, "first-{what} vcpu={vcpu} all={} own={}", list(all), list(own))?;
        self.to.flush()
    }

    /// A marker.
    pub fn mark(&mut self, number: u8, vcpu: u32, now: &Now, exits: u64) -> io::Result<()> {
        let Some(room) = self.room.checked_sub(1) else {
            self.dropped += 1;
            return Ok(());
        };
        self.room = room;
        let (all, own) = (list(&now.all), list(&now.own));
        writeln!(self.to, "mark number={number:#x} vcpu={vcpu} all={all} own={own} exits={exits}")
    }

    /// All that is told at the end; `vcpus` has what each executed.
    pub fn end(&mut self, stretches: &Stretches, vcpus: &[ByClass]) -> io::Result<()> {
        for (vcpu, stretch) in stretches.longest() {
            let entry = stretch.entry;
            writeln!(
                self.to,
                "stretch vcpu={vcpu} length={} start={:#x} end={:#x} vector={:#x} class={:#x} \
                 detail={:#x}",
                stretch.length, stretch.start, stretch.end, entry.vector, entry.class, entry.detail
            )?;
        }
        for (entry, tally) in &stretches.tallies {
            writeln!(
                self.to,
                "entry vector={:#x} class={:#x} detail={:#x} count={} instructions={} longest={}",
                entry.vector,
                entry.class,
                entry.detail,
                tally.count,
                tally.instructions,
                tally.longest
            )?;
        }
        for (vector, class, [count, usual, longest]) in stretches.reasons() {
            writeln!(
                self.to,
                "reason vector={vector:#x} class={class:#x} detail=0x0 count={count} \
                 usual={usual} longest={longest}"
            )?;
        }
        let mut all = ByClass::default();
        for (vcpu, own) in vcpus.iter().enumerate() {
            writeln!(self.to, "vcpu number={vcpu} own={}", list(own))?;
            all.iter_mut().zip(own).for_each(|(sum, count)| *sum += count);
        }
        writeln!(self.to, "end all={} dropped={}", list(&all), self.dropped)?;
        self.to.flush()
    }
}

fn list(counts: &ByClass) -> String {
    counts.map(|count| count.to_string()).join(",")
}
