//! Stretches: what a vCPU executes at EL2 from the moment it comes there until it leaves.
//!
//! A stretch begins with the first instruction at EL2 after an exception or a wait, and ends with an
//! `ERET` or a `WFI`, which counts. Long work at EL2 is done in pieces, between which it looks whether an
//! interrupt is pending (`ISR_EL1`): with that look one stretch ends, and behind it begins the next. Where
//! EL2 runs with interrupts masked, the longest stretch is the longest time that none is taken. An `ERET` that an interrupt follows at once does divide two
//! stretches: interrupts were taken in between. One that stays at EL2 does, too.

use std::collections::BTreeMap;

/// How many of the longest stretches are kept for each vCPU; of such that are the same in all, one.
pub const KEPT: usize = 5;

/// What brought a vCPU to EL2.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Entry {
    /// The offset of the exception's vector, [`Entry::WAKE`] or [`Entry::LOOK`].
    pub vector: u32,
    /// `ESR_EL2.EC` of a synchronous exception.
    pub class: u8,
    /// What it was about, see [`crate::report`].
    pub detail: u64,
}

impl Entry {
    /// In place of a vector: it went on after a `WFI` of its own.
    pub const WAKE: u32 = 0x800;
    /// In place of a vector: it went on after a look for interrupts.
    pub const LOOK: u32 = 0x880;
}

/// All stretches of one kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The instructions of all of them.
    pub instructions: u64,
    /// The instructions of the longest.
    pub longest: u64,
}

/// One stretch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stretch {
    /// How many instructions.
    pub length: u64,
    /// What began it.
    pub entry: Entry,
    /// The address of its first instruction.
    pub start: u64,
    /// The address of its last.
    pub end: u64,
}

/// The stretches of all vCPUs.
#[derive(Debug, Default)]
pub struct Stretches {
    vcpus: Vec<Vcpu>,
    /// How many exceptions brought a vCPU to EL2.
    pub exits: u64,
    /// By what began them.
    pub tallies: BTreeMap<Entry, Tally>,
    /// By vector and class alone: how many there were of each length.
    pub lengths: BTreeMap<(u32, u8), BTreeMap<u64, u64>>,
}

#[derive(Debug, Default)]
struct Vcpu {
    open: Option<Open>,
    /// The last stretch ended with a `WFI`.
    waits: bool,
    /// The longest, in falling order.
    longest: Vec<Stretch>,
}

#[derive(Debug)]
struct Open {
    entry: Entry,
    start: u64,
    /// How many instructions had been executed at EL2 before.
    before: u64,
}

impl Stretches {
    /// Whether the vCPU's last stretch ended with a `WFI`.
    pub fn waits(&mut self, vcpu: usize) -> bool {
        self.vcpu(vcpu).waits
    }

    /// A stretch begins at `start`, after `before` instructions at EL2.
    pub fn begin(&mut self, vcpu: usize, entry: Entry, start: u64, before: u64) {
        self.exits += u64::from(entry.vector < Entry::WAKE);
        self.vcpu(vcpu).open = Some(Open { entry, start, before });
    }

    /// A stretch ends with the instruction at `end`, a `WFI` or not, after `before` instructions at
    /// EL2. One whose beginning was not told is not kept.
    pub fn end(&mut self, vcpu: usize, end: u64, before: u64, wait: bool) {
        let vcpu = self.vcpu(vcpu);
        vcpu.waits = wait;
        let Some(open) = vcpu.open.take() else { return };
        let Open { entry, start, before: first } = open;
        let length = before - first + 1;
        let stretch = Stretch { length, entry, start, end };
        if !vcpu.longest.contains(&stretch) {
            let at = vcpu.longest.partition_point(|other| other.length >= length);
            vcpu.longest.insert(at, stretch);
            vcpu.longest.truncate(KEPT);
        }
        let tally = self.tallies.entry(entry).or_default();
        tally.count += 1;
        tally.instructions += length;
        tally.longest = tally.longest.max(length);
        let lengths = self.lengths.entry((entry.vector, entry.class)).or_default();
        *lengths.entry(length).or_default() += 1;
    }

    /// The instruction at `at`, before which `before` were executed at EL2, looks whether an interrupt is
    /// pending.
    pub fn look(&mut self, vcpu: usize, at: u64, before: u64) {
        if self.vcpu(vcpu).open.is_some() {
            self.end(vcpu, at, before, false);
            let entry = Entry { vector: Entry::LOOK, class: 0, detail: 0 };
            self.begin(vcpu, entry, at + 4, before + 1);
        }
    }

    /// Of all that began by a vector and with a class: how many there were, the length that one in ten thousand exceeds, and the
    /// longest.
    pub fn reasons(&self) -> impl Iterator<Item = (u32, u8, [u64; 3])> {
        self.lengths.iter().map(|(&(vector, class), lengths)| {
            let count: u64 = lengths.values().sum();
            let mut longer = count;
            let usual = lengths.iter().find(|(_, of)| {
                longer -= **of;
                longer <= count / 10_000
            });
            let longest = lengths.keys().next_back();
            let length = |of: Option<&u64>| of.copied().unwrap_or(0);
            (vector, class, [count, length(usual.map(|(length, _)| length)), length(longest)])
        })
    }

    /// The longest stretches with their vCPUs, each vCPU's in falling order.
    pub fn longest(&self) -> impl Iterator<Item = (usize, &Stretch)> {
        self.vcpus
            .iter()
            .enumerate()
            .flat_map(|(vcpu, of)| of.longest.iter().map(move |stretch| (vcpu, stretch)))
    }

    fn vcpu(&mut self, vcpu: usize) -> &mut Vcpu {
        if self.vcpus.len() <= vcpu {
            self.vcpus.resize_with(vcpu + 1, Vcpu::default);
        }
        &mut self.vcpus[vcpu]
    }
}
