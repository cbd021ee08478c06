//! Whole-hypervisor scenarios: a guest maintains its caches by set and way, and what becomes of memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::*;
use plinth::exit::Exit;
use plinth::machine::fake::{IRQ_VECTOR, Op, Seen};
use plinth::machine::{El1Register, Machine};
use plinth::memory::Operation;
use plinth::sched::VmId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::sysreg::{SysReg, names};

const SET_WAY: [SysReg; 3] = [names::DC_ISW, names::DC_CSW, names::DC_CISW];
const PAGE: u64 = 4096;
/// What is cleaned at most before interrupts are looked at again.
const STEP: u64 = 256 << 10;
/// `SCTLR_EL1.M` and `C`.
const CACHED: u64 = 1 << 2 | 1;
/// What begins in a device tree's slot and ends behind a kernel: no multiple of a step.
const SIZE: u64 = RAM + 3 * PAGE;

/// How often each page was cleaned and invalidated.
type Cleaned = BTreeMap<u64, u32>;

/// What CPU 0 was asked to clean and invalidate since the last time.
fn cleaned(room: &mut Room) -> Cleaned {
    let mut pages = Cleaned::new();
    for operation in room.cpus[0].machine().upkeep().take() {
        if let Operation::CleanInvalidateToPoc(region) = operation {
            let (first, last) = (region.start().raw() / PAGE, region.last().raw() / PAGE);
            (first..=last).for_each(|page| *pages.entry(page).or_default() += 1);
        }
    }
    pages
}

fn has_marked(room: &Room, mark: u64) -> bool {
    room.world.record().iter().any(|event| event.seen == Seen::Marked(mark))
}

/// Leaves a mark, and the CPU at once: what is cleaned is told apart by CPUs' steps.
fn mark(mark: u64) -> [Op; 2] {
    [Op::Mark(mark), Op::Exit(Exit::Wfe)]
}

/// Two guests. The first waits; the second goes through what it is given.
struct Pair {
    room: Room,
    /// Which pages are whose RAM.
    idle: Vec<u64>,
    own: Vec<u64>,
}

impl Pair {
    fn new(ops: &[Op]) -> Self {
        let idle = guest("idle", 1);
        let busy = Guest { autostart: false, memory: SIZE, ..guest("busy", 1) };
        let mut room = Room::of(V3, 1, 4, &bundle(&[idle, busy]), 4 * RAM, Box::new(|_, _| {}));
        room.program(0, ENTRY, &[Op::Branch(LOOP)]).program(0, LOOP, &wait_loop());
        // RAM is zeroed and cleaned before its guest starts.
        cleaned(&mut room);
        assert!(room.run(1000), "it waits");
        let idle: Vec<_> = cleaned(&mut room).into_keys().collect();
        room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, VmId(1))).unwrap();
        cleaned(&mut room);
        let vmid = vmid(&room.vm(1));
        room.world.program(vmid, ENTRY, &after_prologue(V3, 0, &[Op::Mark(0)]));
        let begin = ENTRY + 4 * 5;
        room.world.program(vmid, begin, &[Op::Branch(begin)]);
        while !has_marked(&room, 0) {
            room.step(0);
        }
        let own: Vec<_> = cleaned(&mut room).into_keys().collect();
        room.world.program(vmid, begin, ops);
        assert_eq!((idle.len() as u64 * PAGE, own.len() as u64 * PAGE), (RAM, SIZE));
        assert!(idle.iter().all(|page| !own.contains(page)));
        Self { room, idle, own }
    }

    /// Steps until the guest comes by this mark. What was cleaned meanwhile.
    fn until(&mut self, mark: u64) -> Cleaned {
        let (mut all, room) = (Cleaned::new(), &mut self.room);
        for _ in 0..10_000 {
            if has_marked(room, mark) {
                assert!(self.idle.iter().all(|page| !all.contains_key(page)), "another's memory");
                return all;
            }
            let before = room.world.now().0;
            room.step(0);
            let (some, ticks) = (cleaned(room), room.world.now().0 - before);
            // An instruction takes a tick, and so does an attempt at one.
            let pages: u64 = some.values().map(|times| u64::from(*times)).sum();
            assert!(pages * PAGE <= STEP * ticks, "{pages} pages in {ticks} ticks");
            some.into_iter().for_each(|(page, times)| *all.entry(page).or_default() += times);
        }
        panic!("it does not come there")
    }

    /// Steps until then, and all of the guest's RAM has been cleaned so often.
    fn cleans(&mut self, times: u32, mark: u64) {
        let cleaned = self.until(mark);
        let all: Cleaned = self.own.iter().map(|page| (*page, times)).collect();
        let (some, of) = (cleaned.len(), self.own.len());
        let how_often: BTreeSet<_> = cleaned.values().collect();
        let none = times == 0 && some == 0;
        assert!(none || cleaned == all, "{mark}: {some} pages of {of}, {how_often:?} times");
    }

    /// When its writes to translation registers were trapped, and no more.
    fn trapping(&self) -> Vec<bool> {
        let of = |seen| if let Seen::Trapping(on) = seen { Some(on) } else { None };
        self.room.world.record().iter().filter_map(|event| of(event.seen)).collect()
    }
}

#[test]
fn set_and_way_cleans_all_of_the_guests_memory_once_and_nobody_elses() {
    for operation in SET_WAY {
        // Each set and way of a cache of 128 KiB, as a kernel does that has its caches off.
        let lines = (0..1024).flat_map(|set| [0, 1].map(|way| way << 31 | set << 6));
        let mut ops: Vec<_> = lines.map(|line| Op::Msr(operation, line)).collect();
        ops.splice(1..1, mark(1));
        ops.extend(mark(2));
        let mut pair = Pair::new(&ops);
        pair.cleans(1, 1); // before the first is done
        pair.cleans(0, 2); // and no more for the others
        assert_eq!(pair.trapping(), [true], "{operation}");
    }
}

#[test]
fn caches_that_go_on_or_off_are_cleaned_and_it_begins_anew() {
    let set_way = || vec![Op::Msr(names::DC_CISW, 0)];
    let sctlr = |value| vec![Op::Msr(names::SCTLR_EL1, value)];
    let parts = [
        set_way(),
        mark(1).into(),
        // Others are written through, and are no reason to clean; nor is the MMU alone.
        vec![Op::Msr(names::TTBR0_EL1, 0x4000_0000), Op::Msr(names::MAIR_EL1, 0xff)],
        sctlr(1),
        mark(2).into(),
        sctlr(CACHED),
        mark(3).into(),
        set_way(), // with caches on, before they go off
        sctlr(0),
        mark(4).into(),
        set_way(),
        set_way(),
        mark(5).into(),
        sctlr(CACHED),
        mark(6).into(),
        vec![Op::Work(1 << 40)],
    ];
    let mut pair = Pair::new(&parts.concat());
    pair.cleans(1, 1);
    pair.cleans(0, 2);
    let written = [El1Register::Ttbr0, El1Register::Mair, El1Register::Sctlr];
    let el1 = |pair: &mut Pair| {
        let machine = pair.room.cpus[0].machine();
        written.map(|register| machine.read_el1(register))
    };
    assert_eq!(el1(&mut pair), [0x4000_0000, 0xff, 1]);
    pair.cleans(1, 3); // what was written past the caches is not hidden by old lines
    assert_eq!(el1(&mut pair), [0x4000_0000, 0xff, CACHED]);
    assert_eq!(pair.trapping(), [true, false]);
    pair.cleans(2, 4); // by set and way, and as they went off
    pair.cleans(0, 5); // which was watched, and still is
    pair.cleans(1, 6);
    assert_eq!(pair.trapping(), [true, false, true, false]);
}

/// A handler that interrupts it half way and does the same has all of memory cleaned, not what was left.
#[test]
fn one_that_is_interrupted_has_not_been_done_for_its_handler() {
    let mut ops = vec![Op::SetVirtualTimer(1, 4), Op::Msr(names::DC_CISW, 0)];
    ops.extend(mark(3));
    ops.push(Op::Work(1 << 40));
    let mut pair = Pair::new(&ops);
    let mut handler = vec![Op::Acknowledge, Op::SetVirtualTimer(0, 0)];
    handler.extend(mark(1));
    handler.push(Op::Msr(names::DC_CISW, 0));
    handler.extend(mark(2));
    handler.extend([Op::EndOfInterrupt, Op::Eret]);
    let vmid = vmid(&pair.room.vm(1));
    pair.room.world.program(vmid, VECTORS + IRQ_VECTOR, &handler);
    let some: u32 = pair.until(1).values().sum();
    assert!(some > 0 && u64::from(some) * PAGE < SIZE, "half way: {some} pages");
    pair.cleans(1, 2);
    pair.cleans(0, 3);
    assert_eq!(pair.trapping(), [true]);
}
