//! Lines of the log that a guest can have written as often as it likes: few are, however long it goes on.

mod common;
#[path = "common/logged.rs"]
mod logged;

use common::*;
use plinth::addr::Ipa;
use plinth::console::Work;
use plinth::exit::{Exit, FaultSource, StageTwoFault, Width};
use plinth::hypervisor::{HeapReport, Hypervisor};
use plinth::machine::fake::{Op, SYNC_VECTOR, Seen};
use plinth::manifest::{DiskConfig, DiskContents, OnCrash, Rights, VsockConfig};
use plinth::monitor::asking::{Asking, Begun};
use plinth::monitor::present::Present;
use plinth::monitor::rights;
use plinth::monitor::task::{Task, Waited};

use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::GicVersion::V3;
use plinth::virtio::vsock::connections::{HOST, PORT};
use plinth::virtio::vsock::packet::{PacketHeader, STREAM, op};
use plinth::vm::{Status, Stop, layout};

/// Ticks of a second.
const SECOND: u64 = HZ as u64;
/// Lines of a crash: why, its registers, that it begins again and when.
const LINES_OF_A_CRASH: u64 = 16;

/// Steps until so many seconds have gone by. Returns how many lines were logged.
fn run_for(room: &mut Room, seconds: u64) -> u64 {
    let end = room.world.now().0 + seconds * SECOND;
    logged::during(|| {
        for _ in 0..1_000_000 {
            if room.world.now().0 >= end {
                return;
            }
            room.run(1);
        }
        panic!("time stands still")
    })
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

#[test]
fn a_guest_that_resets_itself_has_a_line_a_second() {
    let mut room = Room::new(V3, 1, &[guest("one", 1), guest("two", 1)]);
    room.program(0, ENTRY, &[Op::Mark(1), psci(SYSTEM_RESET)]);
    room.program(1, ENTRY, &[Op::Branch(LOOP)]).program(1, LOOP, &wait_loop());
    let lines = run_for(&mut room, 30);
    let starts = starts(&room).len() as u64;
    assert!((29..=32).contains(&starts), "{starts}");
    assert!(lines <= starts, "{lines} in {starts} starts");
}

/// An agent that says whatever it likes, asked or not.
#[test]
fn what_an_agent_says_is_in_no_line_of_the_log() {
    let mut room = Room::new(V3, 1, &[Guest { agent: true, ..guest("one", 1) }]);
    room.program(0, ENTRY, &[Op::Branch(ENTRY)]);
    room.run(200);
    let end = &room.ports[0][0].end;
    let long = vec![b'x'; 4096];
    let said: [&[u8]; 8] = [
        b"{\"id\":1,\"ok\":{\"kernel\":\"\\u001b[2J\\n\"}}\n",
        b"{\"id\":4294967295,\"ok\":{}}\n",
        b"{\"id\":2,\"error\":\"no\\nno\"}\n",
        b"{\"id\":3}\n",
        b"\xff\xfe\x00\n",
        b"\n\n\n\n\n\n",
        b"{\"id\":",
        &long,
    ];
    let command = || Task::Console(Work::Command("agent one info".into()));
    let (mut asking, mut asked, mut answered) = (Asking::new(), 0, 0);
    let lines = logged::during(|| {
        for (turn, said) in (0..20_000u64).zip(said.iter().cycle()) {
            // It opens its port, and closes it again.
            end.set_open(turn % 97 != 0);
            let now = Ticks(turn * SECOND / 10);
            asked += u32::from(begin(&mut asking, room.hypervisor, now, command()) == Begun::Waits);
            end.send(said);
            answered += u32::from(asking.look(room.hypervisor, now).is_some());
            end.receive(&mut [0; 256]);
        }
    });
    assert!(asked > 100 && answered > 100, "{asked} asked, {answered} answered");
    assert_eq!(lines, 0);
}

/// The packets of a socket device's driver that wants to be answered by the monitor, and of one that talks nonsense.
fn packets() -> Vec<Vec<u8>> {
    let packet = |kind, op, src_port, dst: (u64, u32), payload: &[u8]| {
        let (dst_cid, dst_port) = dst;
        let len = u32::try_from(payload.len()).unwrap();
        let from = PacketHeader { src_cid: 3, src_port, dst_cid, dst_port, ..Default::default() };
        let header = PacketHeader { len, kind, op, buf_alloc: 1 << 20, ..from };
        [&header.bytes()[..], payload].concat()
    };
    let monitor = (HOST, PORT);
    let mut packets = vec![
        packet(STREAM, op::REQUEST, 10, monitor, b""),
        packet(STREAM, op::REQUEST, 10, monitor, b""),
        packet(STREAM, op::RW, 99, monitor, b"of a connection that is not there"),
        packet(STREAM, op::REQUEST, 11, (HOST, 77), b""),
        packet(STREAM, op::REQUEST, 12, (4, 20), b""),
        packet(STREAM, op::REQUEST, 12, (99, 20), b""),
        packet(7, op::REQUEST, 13, monitor, b""),
    ];
    // And to the monitor, which it may only read.
    let lines: [&[u8]; 3] = [
        b"vm list\nvm stop --force two\nno such command\n{\"id\"}\n",
        b"quit\npoweroff\n\x1b[2J\n{\"id\":1,\"command\":\"log error\"}\n",
        b"\xff\xfe\x00\n\n\n",
    ];
    packets.extend((0..12).map(|op| packet(STREAM, op, 14, (4, 20), b"x")));
    // Shorter than its own header, and one that says that it has more than it has.
    packets.push(vec![3; 20]);
    let more = PacketHeader {
        src_cid: 3,
        dst_cid: 2,
        len: 1 << 30,
        kind: STREAM,
        op: op::RW,
        ..Default::default()
    };
    packets.push(more.bytes().to_vec());
    packets.push(packet(STREAM, op::REQUEST, 20, monitor, b""));
    packets.extend(lines.map(|line| packet(STREAM, op::RW, 20, monitor, line)));
    packets
}

#[test]
fn what_a_guest_sends_by_its_sockets_is_in_no_line_of_the_log() {
    const RECEIVE: u64 = ENTRY + 0x2000;
    const TRANSMIT: u64 = ENTRY + 0x2800;
    const PACKETS: u64 = ENTRY + 0x3000;
    const BUFFERS: u64 = ENTRY + 0x5000;
    let packets = packets();
    let mut image = vec![0; 0x7000];
    let mut put = |at: u64, new: &[u8]| {
        let at = usize::try_from(at - ENTRY).unwrap();
        image[at..at + new.len()].copy_from_slice(new);
    };
    let mut chain = |ring: u64, number: u16, at: u64, size: usize, flags: u16| {
        let size = u32::try_from(size).unwrap();
        let descriptor = [&at.to_le_bytes()[..], &size.to_le_bytes(), &flags.to_le_bytes()];
        put(ring + 16 * u64::from(number), &descriptor.concat());
        put(ring + 0x404 + 2 * u64::from(number), &number.to_le_bytes());
        put(ring + 0x402, &(number + 1).to_le_bytes());
    };
    for number in 0..32 {
        chain(RECEIVE, number, BUFFERS + 0x100 * u64::from(number), 0x100, 2);
    }
    for (number, packet) in (0..).zip(&packets) {
        chain(TRANSMIT, number, PACKETS + 0x100 * u64::from(number), packet.len(), 0);
    }
    for (number, packet) in (0..).zip(&packets) {
        put(PACKETS + 0x100 * number, packet);
    }
    let vsock = |cid, monitor| {
        Some(VsockConfig { monitor, group: Some("test".into()), ..VsockConfig::new(cid) })
    };
    let kernel = elf(ENTRY, &image, 0xa000);
    let one = Guest { kernel, vsock: vsock(3, Rights::Read), ..guest("one", 1) };
    let two = Guest { vsock: vsock(4, Rights::None), ..guest("two", 1) };
    let mut room = Room::new(V3, 1, &[one, two]);
    let slot = layout::VIRTIO.base.raw();
    let set = |offset, value| Op::Store(slot + offset, Width::Word, value);
    let queue = |number, at| {
        let place = [set(0x030, number), set(0x038, 64), set(0x080, at), set(0x090, at + 0x400)];
        [&place[..], &[set(0x0a0, at + 0x600), set(0x044, 1)]].concat()
    };
    // All of it, and from the beginning: "Device Initialization".
    let mut ops = vec![Op::Mark(1), set(0x070, 0), set(0x070, 3), set(0x024, 1), set(0x020, 1)];
    ops.push(set(0x070, 11));
    ops.extend([queue(0, RECEIVE), queue(1, TRANSMIT)].concat());
    ops.extend([set(0x070, 15), set(0x050, 0), set(0x050, 1)]);
    ops.extend([Op::Work(SECOND / 100), Op::Branch(ENTRY)]);
    room.program(0, ENTRY, &ops);
    room.program(1, ENTRY, &[Op::Branch(LOOP)]).program(1, LOOP, &wait_loop());
    run_for(&mut room, 1);
    let mut answered = 0;
    let lines = logged::during(|| {
        for _ in 0..300 {
            room.run(4);
            while let Some(line) = room.hypervisor.take_line() {
                let answer = room.ask(0, |hypervisor, machine| {
                    let heap = || HeapReport { total: 0, free: 0 };
                    let control =
                        &mut Present { hypervisor, machine, heap, waited: Waited::Nothing };
                    rights::answer(&line.text, line.rights, control)
                });
                room.vm(0).answer_line(line.connection, answer);
                answered += 1;
            }
        }
    });
    assert!(starts(&room).len() > 100 && answered > 100, "{answered} lines were answered");
    assert_eq!(room.vm(1).status(), Status::Running);
    // That it breaks the rules is told a few times.
    assert!(lines <= 4, "{lines}");
}

/// Has a task begun with, as what it is.
fn begin(asking: &mut Asking, hypervisor: &Hypervisor, now: Ticks, task: Task) -> Begun {
    let command = task.command();
    asking.begin(hypervisor, now, task, command.as_ref())
}
