//! Lines of the log that a guest can have written as often as it likes: few are, however long it goes on.

mod common;

use std::cell::Cell;
use std::sync::Once;

use common::*;
use plinth::addr::Ipa;
use plinth::exit::{Exit, FaultSource, StageTwoFault, Width};
use plinth::machine::fake::{Op, SYNC_VECTOR, Seen};
use plinth::manifest::{DiskConfig, DiskContents, OnCrash};
use plinth::sched::VmId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Status, Stop, layout};

/// Ticks of a second.
const SECOND: u64 = HZ as u64;
/// Lines of a crash: why, its registers, that it begins again and when.
const LINES_OF_A_CRASH: u64 = 16;

thread_local! {
    static LINES: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread has logged.
struct Counting;

impl log::Log for Counting {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        assert!(!format!("{}", record.args()).contains('\n'), "lines are counted");
        LINES.set(LINES.get() + 1);
    }

    fn flush(&self) {}
}

/// Steps until so many seconds have gone by. Returns how many lines were logged.
fn run_for(room: &mut Room, seconds: u64) -> u64 {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| log::set_logger(&Counting).unwrap());
    log::set_max_level(log::LevelFilter::Info);
    let (before, end) = (LINES.get(), room.world.now().0 + seconds * SECOND);
    for _ in 0..1_000_000 {
        if room.world.now().0 >= end {
            return LINES.get() - before;
        }
        room.run(1);
    }
    panic!("time stands still")
}

fn starts(room: &Room) -> Vec<u64> {
    let marked = room.world.record();
    marked.iter().filter(|e| e.seen == Seen::Marked(1)).map(|e| e.at.0 / (SECOND / 10)).collect()
}

/// A guest that crashes as soon as it runs, beside one that waits.
fn crashing(work: u64) -> Room {
    let guests = [Guest { on_crash: OnCrash::Restart, ..guest("one", 1) }, guest("two", 1)];
    let room = Room::new(V3, 1, &guests);
    let crash = Op::Exit(Exit::NotOffered);
    room.program(0, ENTRY, &[Op::Mark(1), Op::Work(work), crash]);
    room.program(1, ENTRY, &[Op::Branch(LOOP)]).program(1, LOOP, &wait_loop());
    room
}

#[test]
fn a_guest_that_crashes_time_and_again_waits_twice_as_long_each_time() {
    let mut room = crashing(0);
    let lines = run_for(&mut room, 600);
    let starts = starts(&room);
    let gaps: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0] + 5) / 10).collect();
    assert_eq!(gaps[..9], [0, 1, 2, 4, 8, 16, 32, 64, 64], "{starts:?}");
    assert!(gaps[9..].iter().all(|gap| *gap == 64), "{gaps:?}");
    assert!(
        lines <= LINES_OF_A_CRASH * starts.len() as u64 + 4,
        "{lines} in {} starts",
        starts.len()
    );
    assert_eq!(room.vm(1).status(), Status::Running);
}

#[test]
fn one_that_ran_for_more_than_a_minute_begins_at_once() {
    let mut room = crashing(70 * SECOND);
    run_for(&mut room, 500);
    let gaps: Vec<_> = starts(&room).windows(2).map(|pair| (pair[1] - pair[0] + 5) / 10).collect();
    assert!(gaps.len() > 5 && gaps.iter().all(|gap| (70..72).contains(gap)), "{gaps:?}");
}

#[test]
fn who_is_restarted_by_hand_does_not_wait_for_what_it_did_before() {
    let mut room = crashing(0);
    run_for(&mut room, 70);
    let before = starts(&room).len();
    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, VmId(0), Stop::Restart)).unwrap();
    run_for(&mut room, 10);
    // At once, and one, one, two and four seconds later.
    assert_eq!(starts(&room).len(), before + 5);
}

#[test]
fn accesses_that_cannot_be_emulated_are_told_a_few_times() {
    let mut room = Room::new(V3, 1, &[guest("one", 1)]);
    let far = layout::UART.base.raw();
    let source = FaultSource::Data { write: true };
    let fault = StageTwoFault { ipa: Some(Ipa::new(far)), far: Some(far), source, walk: false };
    room.program(0, ENTRY, &[Op::SetVector(VECTORS), Op::Exit(Exit::Fault(fault))]);
    let again = [Op::Mark(1), Op::Work(SECOND / 100), Op::Branch(ENTRY + 4)];
    room.program(0, VECTORS + SYNC_VECTOR, &again);
    let lines = run_for(&mut room, 10);
    assert!(starts(&room).len() > 500, "it went on: {}", starts(&room).len());
    // What it was, and ten lines of registers, eight times.
    assert!((1..=88).contains(&lines), "{lines}");
}

#[test]
fn a_device_that_its_driver_breaks_is_told_of_a_few_times() {
    let disk = DiskConfig {
        contents: DiskContents::Empty(1 << 20),
        space: None,
        read_only: false,
        serial: "disk".into(),
    };
    let guests = [Guest { disks: vec![disk], ..guest("one", 1) }];
    let manifest = bundle(&guests);
    let mut room = Room::of(V3, 1, 4, &manifest, 2 * RAM + (2 << 20), Box::new(|_, _| {}));
    let set = |offset: u64, value: u64| Op::Store(0x0a00_0000 + offset, Width::Word, value);
    // A queue that is nowhere: "Device Initialization", and the driver notifies.
    let broken = [
        Op::Mark(1),
        set(0x070, 0),
        set(0x070, 3),
        set(0x024, 1),
        set(0x020, 1),
        set(0x070, 11),
        set(0x030, 0),
        set(0x038, 8),
        set(0x080, 0),
        set(0x044, 1),
        Op::Load(0x0a00_0070, Width::Word, 5),
        Op::BranchUnless(5, 75, LOOP), // DEVICE_NEEDS_RESET, and what was set
        Op::Work(SECOND / 100),
        Op::Branch(ENTRY),
    ];
    room.program(0, ENTRY, &broken).program(0, LOOP, &wait_loop());
    let lines = run_for(&mut room, 10);
    assert!(starts(&room).len() > 500, "it went on: {}", starts(&room).len());
    assert!((1..=6).contains(&lines), "{lines}");
}
