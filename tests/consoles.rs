//! Whole-hypervisor scenarios: a virtio console goes on by itself, and does nothing while its VM is paused.

use crate::common::*;
use plinth::exit::Width;
use plinth::machine::fake::{INTID, IRQ_VECTOR, Op};
use plinth::machine::{CpuId, Machine};
use plinth::manifest::Keys;
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::GicVersion;
use plinth::vm::{Status, layout};

const ONE: VmId = VmId(0);
/// Where the rings of the console's two queues are in the kernel's image, and the buffers.
const RECEIVE: u64 = ENTRY + 0x2000;
const TRANSMIT: u64 = ENTRY + 0x2800;
const DATA: u64 = ENTRY + 0x4000;
/// How many chains are sent, of how many bytes: more than one exit sees to.
const CHAINS: u16 = 64;
const SIZE: u32 = 1024;
/// Where is received, behind them.
const RECEIVED: u64 = DATA + CHAINS as u64 * SIZE as u64;

/// What the guest sends.
fn text() -> Vec<u8> {
    (0..u32::from(CHAINS) * SIZE).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect()
}

/// A kernel with the rings of a console's driver, as it leaves them before it notifies.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; 0x4000];
    let mut put = |at: u64, new: &[u8]| {
        let at = usize::try_from(at - ENTRY).unwrap();
        bytes[at..at + new.len()].copy_from_slice(new);
    };
    for number in 0..CHAINS {
        let at = DATA + u64::from(number) * u64::from(SIZE);
        let descriptor = [&at.to_le_bytes()[..], &SIZE.to_le_bytes(), &[0; 4]].concat();
        put(TRANSMIT + 16 * u64::from(number), &descriptor);
        put(TRANSMIT + 0x404 + 2 * u64::from(number), &number.to_le_bytes());
    }
    put(TRANSMIT + 0x402, &CHAINS.to_le_bytes());
    // One to be received into.
    put(RECEIVE, &[&RECEIVED.to_le_bytes()[..], &64u32.to_le_bytes(), &[2, 0, 0, 0]].concat());
    put(RECEIVE + 0x402, &[1, 0]);
    bytes.extend(text());
    bytes
}

/// A guest that sends all that by its console, and marks each interrupt of that.
fn sending(gic: GicVersion, cpus: u8) -> Room {
    let slot = layout::VIRTIO.base.raw();
    let set = |offset, value| Op::Store(slot + offset, Width::Word, value);
    let mut ops = prologue(gic, 0);
    // The slot's interrupt is SPI 16.
    ops.extend([
        Op::Store(gicd(0x104), Width::Word, 1 << 16),
        Op::Store(gicd(0x830), Width::Word, 0x0101_0101),
    ]);
    ops.extend([set(0x070, 3), set(0x024, 1), set(0x020, 1), set(0x070, 11)]);
    for (queue, at) in [(0, RECEIVE), (1, TRANSMIT)] {
        ops.extend([set(0x030, queue), set(0x038, 64), set(0x080, at), set(0x090, at + 0x400)]);
        ops.extend([set(0x0a0, at + 0x600), set(0x044, 1)]);
    }
    ops.extend([set(0x070, 15), set(0x050, 0), set(0x050, 1), Op::Branch(LOOP)]);
    let base = VECTORS + IRQ_VECTOR;
    let handler = [
        Op::Acknowledge,
        Op::BranchUnless(INTID, 48, base + 20),
        Op::Mark(1),
        set(0x064, 1),
        Op::EndOfInterrupt,
        Op::Eret,
    ];
    let one = Guest {
        kernel: elf(ENTRY, &kernel(), RECEIVED + 64 - ENTRY),
        keys: Keys::Virtio,
        memory: RAM + (64 << 10),
        ..guest("one", 1)
    };
    let room = Room::new(gic, cpus, &[one, guest("two", 1)]);
    room.program(0, ENTRY, &ops).program(0, base, &handler);
    room.program(0, LOOP, &[Op::Work(20), Op::Branch(LOOP)]);
    room.program(1, ENTRY, &[Op::Mark(8), Op::Work(20), Op::Branch(ENTRY)]);
    room
}

fn go_on(room: &mut Room, rounds: usize) {
    for _ in 0..rounds {
        for cpu in room.awake() {
            room.step(cpu);
        }
    }
}

#[test]
fn the_device_of_a_vm_that_is_paused_does_nothing_and_goes_on_where_it_was() {
    for (gic, cpus) in [(GicVersion::V2, 1), (GicVersion::V3, 1), (GicVersion::V3, 2)] {
        let mut room = sending(gic, cpus);
        let mut output = Vec::new();
        for _ in 0..2000 {
            go_on(&mut room, 1);
            output.extend(room.lines[0].take_output());
            if !output.is_empty() {
                break;
            }
        }
        assert!(
            (1..text().len()).contains(&output.len()),
            "{} bytes, of all {}",
            output.len(),
            text().len()
        );
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, ONE)).unwrap();
        for _ in 0..20 {
            go_on(&mut room, 1);
            output.extend(room.lines[0].take_output());
        }
        assert_eq!(room.vm(0).status(), Status::Paused);
        assert!(output.len() < text().len(), "not all of it came through meanwhile");
        let (marks, others) = (room.marks(0, 0).len(), room.marks(1, 0).len());
        // Time passes, and somebody types.
        room.lines[0].type_in(b"typed");
        let now = room.world.now().0;
        room.world.advance(Ticks(now + u64::from(HZ)));
        go_on(&mut room, 100);
        assert_eq!(room.lines[0].take_output(), b"");
        assert_eq!(room.marks(0, 0).len(), marks);
        assert!(room.marks(1, 0).len() > others, "the other one runs");
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, ONE)).unwrap();
        for _ in 0..400 {
            go_on(&mut room, 1);
            output.extend(room.lines[0].take_output());
        }
        assert!(output == text(), "{} bytes of {}", output.len(), text().len());
        assert!(room.marks(0, 0).len() > marks, "and it is interrupted");
        assert!(room.injected(0, 0).is_empty());
    }
}

/// The bell makes one step of the work that there is. The rest is the timer's of the CPU that keeps the VM's time: whoever
/// answers has to set it, or to call that CPU.
#[test]
fn what_an_answered_bell_leaves_due_is_seen_to() {
    for (gic, cpus) in [(GicVersion::V2, 1), (GicVersion::V3, 1), (GicVersion::V3, 2)] {
        for answers in 0..cpus {
            let mut room = sending(gic, cpus);
            // It has begun, and waits to be typed to and for its line to have room.
            room.lines[0].set_room(Some(100));
            go_on(&mut room, 400);
            assert_eq!(room.lines[0].take_output().len(), 100);
            let vm = room.vm(0);
            assert_eq!(vm.device_deadline(), None, "it waits");
            room.lines[0].set_room(None);
            room.lines[0].type_in(b"typed");
            let leaves = room.ask(answers.into(), |hypervisor, machine| {
                let vm = hypervisor.vm(ONE).unwrap();
                let notify = vm.serial_input(machine.now());
                hypervisor.notify(machine, &vm, notify);
                (0..cpus).map(CpuId).for_each(|cpu| hypervisor.heed_calls(cpu));
                hypervisor.answer_doorbells(machine, None)
            });
            assert!(vm.device_deadline().is_some(), "there is more");
            let keeper = vm.timekeeper().unwrap();
            if keeper == CpuId(answers) {
                assert!(leaves, "{gic:?}, CPU {answers} of {cpus} sets its timer");
            } else {
                assert!(room.hypervisor.is_called(keeper), "{keeper:?} sets its timer");
            }
            let mut output = Vec::new();
            for _ in 0..400 {
                go_on(&mut room, 1);
                output.extend(room.lines[0].take_output());
            }
            assert!(output == text()[100..], "{} bytes more", output.len());
        }
    }
}
