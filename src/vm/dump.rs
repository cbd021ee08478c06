//! Registers that are said in the log, a line at a time: all at once would keep interrupts waiting.
//!
//! [`say`] only notes them. Whoever has background work says a line by [`go_on`] as long as it [`is_waiting`].

use core::fmt::{self, Display};
// Not `crate::sync`'s: in models, each machine would have to have a list of its own.
use core::sync::atomic::{AtomicBool, Ordering};

use crate::vcpu::GuestRegs;
use log::Level;
use spin::mutex::TicketMutex;

/// How many registers stand on a line.
const COLUMNS: usize = 3;
/// How many vCPUs' registers wait at most.
const ROOM: usize = 4;

/// A line: so many registers. A guest can have its crash reported when the heap is short, so nothing is put together
/// there.
struct Line([Option<(Name, u64)>; COLUMNS]);

#[derive(Clone, Copy)]
enum Name {
    General(usize),
    Other(&'static str),
}

/// Some registers of EL1's, with their names.
type System = [(&'static str, u64); 12];

static WAITING: TicketMutex<Waiting> = TicketMutex::new(Waiting::new());
static IS_WAITING: AtomicBool = AtomicBool::new(false);

struct Waiting {
    /// The first of them is under way.
    dumps: [Option<Dump>; ROOM],
    /// The line of the first that is next.
    line: usize,
}

#[derive(Clone)]
struct Dump {
    level: Level,
    regs: GuestRegs,
    system: Option<System>,
}

/// The program counter, `PSTATE` and the general registers are to be said, and those of `system`. Where too many
/// others wait, one line says that.
pub fn say(level: Level, regs: &GuestRegs, system: Option<System>) {
    let dump = Dump { level, regs: regs.clone(), system };
    let has_room = WAITING.lock().put(dump);
    if !has_room {
        log::log!(level, "  pc {:#x}: those of others are still being said", regs.pc);
    }
}

/// Whether there is a line to say.
#[inline]
pub fn is_waiting() -> bool {
    IS_WAITING.load(Ordering::Relaxed)
}

/// Say one line, if there is one. Returns whether there was.
pub fn go_on() -> bool {
    let next = WAITING.lock().next();
    if let Some((level, line)) = &next {
        log::log!(*level, "{line}");
    }
    next.is_some()
}

impl Waiting {
    const fn new() -> Self {
        Self { dumps: [const { None }; ROOM], line: 0 }
    }

    /// False when there is no room.
    fn put(&mut self, dump: Dump) -> bool {
        let free = self.dumps.iter_mut().find(|dump| dump.is_none());
        IS_WAITING.store(true, Ordering::Relaxed);
        free.map(|place| *place = Some(dump)).is_some()
    }

    fn next(&mut self) -> Option<(Level, Line)> {
        loop {
            let Some(dump) = self.dumps.first().and_then(Option::as_ref) else {
                IS_WAITING.store(false, Ordering::Relaxed);
                return None;
            };
            if let Some(line) = dump.line(self.line) {
                self.line += 1;
                return Some((dump.level, line));
            }
            self.line = 0;
            self.dumps.rotate_left(1);
            if let Some(last) = self.dumps.last_mut() {
                *last = None;
            }
        }
    }
}

impl Dump {
    /// The program counter and `PSTATE`, then the general registers, then EL1's.
    fn line(&self, number: usize) -> Option<Line> {
        let Some(number) = number.checked_sub(1) else {
            return Line::of([("pc", self.regs.pc), ("pstate", self.regs.pstate)].into_iter());
        };
        let general = self.regs.x.len().div_ceil(COLUMNS);
        match number.checked_sub(general) {
            None => {
                let all = self.regs.x.iter().enumerate().skip(number * COLUMNS);
                Line::with(all.map(|(register, value)| (Name::General(register), *value)))
            }
            Some(number) => Line::of(self.system?.into_iter().skip(number * COLUMNS)),
        }
    }
}

impl Line {
    fn of(registers: impl Iterator<Item = (&'static str, u64)>) -> Option<Self> {
        Self::with(registers.map(|(name, value)| (Name::Other(name), value)))
    }

    /// The first of `registers`, unless there is none.
    fn with(registers: impl Iterator<Item = (Name, u64)>) -> Option<Self> {
        let mut cells = [None; COLUMNS];
        cells.iter_mut().zip(registers).for_each(|(cell, register)| *cell = Some(register));
        cells.first()?.is_some().then_some(Self(cells))
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().flatten().try_for_each(|(name, value)| match name {
            Name::General(number) => write!(f, "  x{number:<5} {value:#018x}"),
            Name::Other(name) => write!(f, "  {:<6} {value:#018x}", name.trim_end_matches("_el1")),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    use super::*;

    fn dump(pc: u64, system: bool) -> Dump {
        let mut regs = GuestRegs { pc, ..GuestRegs::default() };
        regs.x = core::array::from_fn(|index| index as u64);
        Dump { level: Level::Error, regs, system: system.then_some([("far_el1", 0xfa); 12]) }
    }

    fn all(waiting: &mut Waiting) -> Vec<String> {
        core::iter::from_fn(|| waiting.next()).map(|(_, line)| line.to_string()).collect()
    }

    #[test]
    fn each_register_is_said_once_in_its_order() {
        let mut waiting = Waiting::new();
        assert!(waiting.put(dump(0x40, true)) && waiting.put(dump(0x80, false)));
        let lines = all(&mut waiting);
        assert_eq!(lines.len(), 1 + 11 + 4 + 1 + 11);
        assert_eq!(lines[0], "  pc     0x0000000000000040  pstate 0x0000000000000000");
        let words: Vec<&str> = lines[1..12].iter().flat_map(|it| it.split_whitespace()).collect();
        let names: Vec<String> = (0..31).map(|n| alloc::format!("x{n}")).collect();
        assert_eq!(words.iter().step_by(2).copied().collect::<Vec<_>>(), names);
        assert_eq!(words[61], "0x000000000000001e");
        assert_eq!(lines[12..16].concat().matches("far    0x00000000000000fa").count(), 12);
        assert!(lines[16].contains("0x0000000000000080"));
        assert!(all(&mut waiting).is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_has_been_said() {
        let mut waiting = Waiting::new();
        assert!((0..ROOM).all(|pc| waiting.put(dump(pc as u64, false))));
        assert!(!waiting.put(dump(9, false)));
        (0..13).for_each(|_| assert!(waiting.next().is_some()));
        assert!(waiting.put(dump(9, false)));
        let lines = all(&mut waiting);
        let pcs: Vec<&str> = lines
            .iter()
            .filter(|it| it.contains("pc"))
            .filter_map(|it| it.split_whitespace().nth(1))
            .collect();
        assert_eq!(pcs, ["0x0000000000000002", "0x0000000000000003", "0x0000000000000009"]);
    }
}
