//! Whole-hypervisor scenarios: what comes to a guest's devices from outside.

use crate::common::*;
use plinth::exit::Width;
use plinth::hypervisor::Refusal;
use plinth::machine::fake::{INTID, IRQ_VECTOR, Op, Seen};
use plinth::sched::VmId;
use plinth::vgic::GicVersion;
use plinth::vm::{Stop, layout};

const ONE: VmId = VmId(0);
/// 100 ms in ticks.
const HOLD: u64 = HZ as u64 / 10;
/// Read when the pin is high, and when it is low.
const DOWN: u64 = 1 << 3;
const UP: u64 = 0;

fn gpio(offset: u64) -> u64 {
    layout::GPIO.base.raw() + offset
}

/// A guest that waits for both edges of its power button, and marks each: 1 when it is down, 2 when up.
fn watching(gic: GicVersion, cpus: u8) -> Room {
    let mut ops = prologue(gic, 0);
    ops.extend([
        Op::Store(gicd(0x104), Width::Word, 1 << 7), // GICD_ISENABLER1: SPI 7
        Op::Store(gicd(0x824), Width::Word, 0x0101_0101), // GICD_ITARGETSR9
        Op::Store(gpio(0x408), Width::Word, DOWN),   // GPIOIBE
        Op::Store(gpio(0x410), Width::Word, DOWN),   // GPIOIE
        Op::Branch(LOOP),
    ]);
    let base = VECTORS + IRQ_VECTOR;
    let handler = [
        Op::Acknowledge,
        Op::BranchUnless(INTID, 39, base + 40),
        Op::Store(gpio(0x41c), Width::Word, DOWN), // GPIOIC
        Op::Load(gpio(0x3fc), Width::Word, 5),     // GPIODATA
        Op::BranchUnless(5, DOWN, base + 28),
        Op::Mark(1),
        Op::Branch(base + 36),
        Op::BranchUnless(5, UP, base + 36),
        Op::Mark(2),
        Op::EndOfInterrupt,
        Op::Eret,
    ];
    let room = Room::new(gic, cpus, &[guest("one", 1), guest("two", 1)]);
    room.program(0, ENTRY, &ops).program(0, base, &handler).program(0, LOOP, &wait_loop());
    room.program(1, ENTRY, &wait_loop()).program(1, LOOP, &wait_loop());
    room
}

fn press(room: &mut Room, cpu: usize) -> Result<(), Refusal> {
    room.ask(cpu, |hypervisor, machine| hypervisor.press_power_button(machine, ONE))
}

/// When a mark was passed.
fn moments(room: &Room, mark: u64) -> Vec<u64> {
    let record = room.world.record();
    record.iter().filter(|event| event.seen == Seen::Marked(mark)).map(|e| e.at.0).collect()
}

#[test]
fn the_power_button_interrupts_the_guest_and_comes_up_after_100_ms() {
    for gic in BOTH {
        for (cpus, asks) in [(1, 0), (2, 0), (2, 1)] {
            let mut room = watching(gic, cpus);
            room.run(100);
            assert!(room.marks(0, 0).is_empty());
            let pressed = room.world.now().0;
            press(&mut room, asks).unwrap();
            assert!(room.run(500), "all calms down");
            assert_eq!(room.took(0, 0), [39, 39], "{gic:?}, asked on CPU {asks} of {cpus}");
            assert_eq!(room.marks(0, 0), [1, 2]);
            let (down, up) = (moments(&room, 1)[0] - pressed, moments(&room, 2)[0] - pressed);
            assert!(down < 200, "{down}");
            assert!((HOLD..HOLD + 200).contains(&up), "{up}");
        }
    }
}

#[test]
fn a_held_vm_holds_its_button_down_until_its_own_time_says_otherwise() {
    let mut room = watching(GicVersion::V3, 1);
    room.run(100);
    press(&mut room, 0).unwrap();
    for _ in 0..30 {
        room.step(0);
    }
    assert_eq!(room.marks(0, 0), [1]);
    room.ask(0, |hypervisor, machine| hypervisor.pause(machine, ONE)).unwrap();
    room.step(0); // it lets go
    let paused = room.world.now().0;
    assert!(matches!(press(&mut room, 0), Err(Refusal::Held)));
    room.world.advance(plinth::time::Ticks(paused + 20 * HOLD));
    room.run(100);
    assert_eq!(room.marks(0, 0), [1]);
    let resumed = room.world.now().0;
    room.ask(0, |hypervisor, machine| hypervisor.resume(machine, ONE)).unwrap();
    assert!(room.run(500));
    assert_eq!(room.marks(0, 0), [1, 2]);
    let down = moments(&room, 2)[0] - moments(&room, 1)[0] - (resumed - paused);
    assert!((HOLD - 200..HOLD + 200).contains(&down), "{down}");
}

#[test]
fn the_button_of_a_vm_that_does_not_run_cannot_be_pressed() {
    let mut room = watching(GicVersion::V3, 1);
    room.run(100);
    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, ONE, Stop::Forced)).unwrap();
    room.run(100);
    assert!(matches!(press(&mut room, 0), Err(Refusal::Stopped)));
    room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
    room.run(100);
    assert!(matches!(press(&mut room, 0), Err(Refusal::NotCreated)));
}

#[test]
fn a_reset_lets_go_of_the_button() {
    let mut room = watching(GicVersion::V3, 1);
    room.run(100);
    press(&mut room, 0).unwrap();
    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, ONE, Stop::Restart)).unwrap();
    assert!(room.run(800));
    // Whether or not the press was seen before the reset, its end is never seen after it.
    assert!(moments(&room, 2).is_empty());
    press(&mut room, 0).unwrap();
    assert!(room.run(500));
    assert_eq!(moments(&room, 2).len(), 1);
}
