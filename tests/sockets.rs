//! Whole-hypervisor scenarios: a guest with a stream to another's socket device stops, begins again, is paused or goes.

use crate::common::*;
use plinth::exit::Width;
use plinth::hypervisor::Hypervisor;
use plinth::machine::fake::{INTID, IRQ_VECTOR, Op, Scripted};
use plinth::manifest::VsockConfig;
use plinth::sched::VmId;
use plinth::vgic::GicVersion;
use plinth::virtio::vsock::packet::{PacketHeader, STREAM, op};
use plinth::vm::{Status, Stop, layout};

const ADA: VmId = VmId(0);
const BOB: VmId = VmId(1);
/// Where the rings are in the kernel's image: that by which is received, and two by which is sent.
const RECEIVE: u64 = ENTRY + 0x2000;
const TRANSMIT: u64 = ENTRY + 0x2800;
const AGAIN: u64 = ENTRY + 0x3000;
const PACKETS: u64 = ENTRY + 0x3800;
const BUFFERS: u64 = ENTRY + 0x4000;
const UARTDR: u64 = 0x0900_0000;
/// What both sides send beside what connects them.
const WORD: &[u8] = b"hello";

fn packet(from_ada: bool, op: u16, payload: &[u8]) -> Vec<u8> {
    let header = PacketHeader {
        src_cid: if from_ada { 3 } else { 4 },
        dst_cid: if from_ada { 4 } else { 3 },
        src_port: if from_ada { 10 } else { 20 },
        dst_port: if from_ada { 20 } else { 10 },
        len: u32::try_from(payload.len()).unwrap(),
        kind: STREAM,
        op,
        buf_alloc: 4096,
        ..PacketHeader::default()
    };
    [&header.bytes()[..], payload].concat()
}

/// A kernel with the rings of a socket device's driver: room for what comes, and these packets to be sent.
fn kernel(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 0x6000];
    let mut put = |at: u64, new: &[u8]| {
        let at = usize::try_from(at - ENTRY).unwrap();
        bytes[at..at + new.len()].copy_from_slice(new);
    };
    let mut chain = |ring: u64, number: u16, at: u64, size: usize, flags: u16| {
        let size = u32::try_from(size).unwrap();
        let descriptor =
            [&at.to_le_bytes()[..], &size.to_le_bytes(), &flags.to_le_bytes()].concat();
        put(ring + 16 * u64::from(number), &descriptor);
        put(ring + 0x404 + 2 * u64::from(number), &number.to_le_bytes());
        put(ring + 0x402, &(number + 1).to_le_bytes());
    };
    for number in 0..32 {
        chain(RECEIVE, number, BUFFERS + 0x100 * u64::from(number), 0x100, 2);
    }
    for (number, packet) in (0..).zip(packets) {
        let at = PACKETS + 0x100 * u64::from(number);
        chain(TRANSMIT, number, at, packet.len(), 0);
        chain(AGAIN, number, at, packet.len(), 0);
    }
    for (number, packet) in (0..).zip(packets) {
        put(PACKETS + 0x100 * number, packet);
    }
    // Of what was sent nobody wants to hear.
    put(TRANSMIT + 0x400, &[1]);
    put(AGAIN + 0x400, &[1]);
    bytes
}

fn with_socket(name: &str, cid: u32, packets: &[Vec<u8>]) -> Guest {
    let vsock = Some(VsockConfig { group: Some("test".into()), ..VsockConfig::new(cid) });
    Guest { kernel: elf(ENTRY, &kernel(packets), 0xd000), vsock, ..guest(name, 1) }
}

/// Ada asks Bob, who answers and says a word. When something is typed to her she asks again. Each marks the interrupts of the
/// device.
fn talking(gic: GicVersion, cpus: u8) -> Room {
    let ada = [packet(true, op::REQUEST, b"")];
    let bob = [packet(false, op::RESPONSE, b""), packet(false, op::RW, WORD)];
    let guests = [with_socket("ada", 3, &ada), with_socket("bob", 4, &bob), guest("eve", 1)];
    let room = Room::new(gic, cpus, &guests);
    let slot = layout::VIRTIO.base.raw();
    let set = |offset, value| Op::Store(slot + offset, Width::Word, value);
    let queue = |queue, at| {
        let place = [set(0x030, queue), set(0x044, 0), set(0x038, 64), set(0x080, at)];
        [&place[..], &[set(0x090, at + 0x400), set(0x0a0, at + 0x600), set(0x044, 1)]].concat()
    };
    let mut driver = prologue(gic, 0);
    // The slot's interrupt is SPI 16.
    driver.extend([
        Op::Store(gicd(0x104), Width::Word, 1 << 16),
        Op::Store(gicd(0x830), Width::Word, 0x0101_0101),
    ]);
    driver.extend([set(0x070, 3), set(0x024, 1), set(0x020, 1), set(0x070, 11)]);
    driver.extend([queue(0, RECEIVE), queue(1, TRANSMIT)].concat());
    driver.extend([set(0x070, 15), set(0x050, 0)]);
    let base = VECTORS + IRQ_VECTOR;
    let handler = |notify: u64| {
        [
            Op::Acknowledge,
            Op::BranchUnless(INTID, 48, base + 24),
            Op::Mark(1),
            set(0x064, 1),
            set(0x050, notify),
            Op::EndOfInterrupt,
            Op::Eret,
        ]
    };
    // Ada gives Bob time to be ready, and then waits to be typed to.
    let asks = [Op::Work(20_000), set(0x050, 1), Op::Store(UARTDR + 0x30, Width::Word, 0x301)];
    let waits =
        [Op::Work(20), Op::Load(UARTDR, Width::Byte, 5), Op::BranchUnless(5, b'a'.into(), LOOP)];
    let again = [queue(1, AGAIN), vec![set(0x050, 1), Op::Branch(LOOP)]].concat();
    room.program(0, ENTRY, &[&driver[..], &asks, &[Op::Branch(LOOP)]].concat())
        .program(0, LOOP, &[&waits[..], &again].concat())
        .program(0, base, &handler(0));
    // Bob answers when he is asked.
    room.program(1, ENTRY, &[&driver[..], &[Op::Branch(LOOP)]].concat())
        .program(1, LOOP, &[Op::Work(20), Op::Branch(LOOP)])
        .program(1, base, &handler(1));
    room.program(2, ENTRY, &[Op::Mark(8), Op::Work(20), Op::Branch(ENTRY)]);
    room
}

/// How many streams each has an end of.
fn ends(room: &Room) -> [usize; 2] {
    [0, 1].map(|vm| {
        let group = room.sockets[vm].as_ref().unwrap().group.as_ref().unwrap();
        let (group, me) = group.lock();
        group.streams.count(me)
    })
}

fn interrupts(room: &Room, vm: u8) -> usize {
    room.marks(vm, 0).len()
}

fn go_on_until(room: &mut Room, what: &str, is_so: impl Fn(&Room) -> bool) {
    for _ in 0..4000 {
        if is_so(room) {
            return;
        }
        for cpu in room.awake() {
            room.step(cpu);
        }
    }
    panic!("not within 4000 rounds: {what}");
}

fn go_on(room: &mut Room, rounds: usize) {
    for _ in 0..rounds {
        for cpu in room.awake() {
            room.step(cpu);
        }
    }
}

/// Connected, and the word has come.
fn connected(gic: GicVersion, cpus: u8) -> Room {
    let mut room = talking(gic, cpus);
    go_on_until(&mut room, "they are connected", |room| ends(room) == [1, 1]);
    go_on_until(&mut room, "the word has come", |room| interrupts(room, 0) > 0);
    go_on(&mut room, 200);
    assert_eq!(ends(&room), [1, 1]);
    room
}

const MACHINES: [(GicVersion, u8); 3] =
    [(GicVersion::V2, 1), (GicVersion::V3, 1), (GicVersion::V3, 2)];

/// `act` ends Bob's life: Ada is told.
fn ends_for_ada(act: impl Fn(&Hypervisor, &mut Scripted)) {
    for (gic, cpus) in MACHINES {
        for cpu in 0..cpus {
            let mut room = connected(gic, cpus);
            let before = interrupts(&room, 0);
            room.ask(cpu.into(), |hypervisor, machine| act(hypervisor, machine));
            go_on_until(&mut room, "Ada has taken it in", |room| {
                ends(room) == [0, 0] && interrupts(room, 0) > before
            });
            let others = interrupts(&room, 2);
            go_on(&mut room, 200);
            assert!(interrupts(&room, 2) > others, "the third goes on");
        }
    }
}

#[test]
fn who_sleeps_is_told_of_a_vm_that_powers_itself_off_though_its_cpu_has_nothing_else_to_do() {
    for (gic, cpus) in MACHINES {
        let mut room = talking(gic, cpus);
        room.program(0, LOOP, &wait_loop());
        room.program(1, LOOP, &[Op::Work(60_000), psci(SYSTEM_OFF)]);
        room.program(2, ENTRY, &[psci(SYSTEM_OFF)]);
        room.run(8000);
        assert_eq!(room.vm(1).status(), Status::Stopped(Stop::Off));
        assert_eq!(room.vm(0).status(), Status::Running);
        // When they were connected, and now.
        assert_eq!((ends(&room), interrupts(&room, 0)), ([0, 0], 2), "{gic:?}, {cpus} CPUs");
    }
}

#[test]
fn who_is_connected_to_a_vm_that_is_stopped_is_told() {
    ends_for_ada(|hypervisor, machine| hypervisor.stop(machine, BOB, Stop::Forced).unwrap());
}

#[test]
fn who_is_connected_to_a_vm_that_is_destroyed_is_told_and_its_places_go_with_it() {
    ends_for_ada(|hypervisor, machine| hypervisor.destroy(machine, BOB).unwrap());
    for (gic, cpus) in MACHINES {
        let mut room = connected(gic, cpus);
        room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, BOB)).unwrap();
        go_on_until(&mut room, "it is gone", |room| room.hypervisor.vm(BOB).is_none());
        // Nobody is there to be asked.
        room.lines[0].type_in(b"a");
        let before = interrupts(&room, 0);
        go_on_until(&mut room, "she is refused", |room| interrupts(room, 0) > before);
        assert_eq!(ends(&room), [0, 0]);
        // One of the same name comes, and is connected to as the first was.
        room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, BOB)).unwrap();
    }
}

#[test]
fn a_vm_that_begins_again_is_connected_to_again() {
    for (gic, cpus) in MACHINES {
        let mut room = connected(gic, cpus);
        let [ada, bob] = [0, 1].map(|vm| interrupts(&room, vm));
        room.ask(0, |hypervisor, machine| hypervisor.stop(machine, BOB, Stop::Restart)).unwrap();
        go_on_until(&mut room, "Ada is told", |room| {
            ends(room) == [0, 0] && interrupts(room, 0) > ada
        });
        go_on(&mut room, 1000);
        room.lines[0].type_in(b"a");
        go_on_until(&mut room, "they are connected again", |room| ends(room) == [1, 1]);
        go_on(&mut room, 200);
        assert!(interrupts(&room, 1) > bob);
        assert_eq!(ends(&room), [1, 1]);
    }
}

#[test]
fn who_is_connected_to_a_vm_that_is_paused_waits_for_it() {
    for (gic, cpus) in MACHINES {
        let mut room = talking(gic, cpus);
        // He is ready.
        go_on_until(&mut room, "Eve runs", |room| interrupts(room, 2) > 50);
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, BOB)).unwrap();
        go_on_until(&mut room, "Ada has asked", |room| ends(room) == [1, 1]);
        go_on(&mut room, 200);
        assert_eq!(room.vm(1).status(), Status::Paused);
        assert_eq!((ends(&room), interrupts(&room, 0)), ([1, 1], 0));
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, BOB)).unwrap();
        go_on_until(&mut room, "Ada is answered", |room| interrupts(room, 0) > 0);
        // She goes while Bob is paused: he hears of it later.
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, BOB)).unwrap();
        let before = interrupts(&room, 1);
        room.ask(0, |hypervisor, machine| hypervisor.stop(machine, ADA, Stop::Forced)).unwrap();
        go_on(&mut room, 200);
        assert_eq!(interrupts(&room, 1), before);
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, BOB)).unwrap();
        go_on_until(&mut room, "Bob is told", |room| interrupts(room, 1) > before);
        assert_eq!(ends(&room), [0, 0]);
    }
}
