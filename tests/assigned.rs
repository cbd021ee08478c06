//! Whole-hypervisor scenarios: a guest has a device of the board for its own.

use crate::common::*;
use plinth::addr::{PhysAddr, Region};
use plinth::exit::Width;
use plinth::hypervisor::Refusal;
use plinth::machine::fake::{Op, Seen};
use plinth::platform::board::{AssignError, Assigned, AssignedDevice};
use plinth::platform::{Trigger, WiredInterrupt};
use plinth::sched::VmId;
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vgic::IntId;
use plinth::vm::{Status, Stop};

const ONE: VmId = VmId(0);
/// Where nothing is in a guest machine.
const REGISTERS: u64 = 0x0b00_0000;
const INTID: u16 = 100;

fn device(at: u64, intid: u16) -> AssignedDevice {
    AssignedDevice {
        path: "/device".into(),
        name: "device".into(),
        registers: vec![Region::new(PhysAddr::new(at), 0x1000).unwrap()],
        interrupts: vec![WiredInterrupt { intid: IntId(intid), trigger: Trigger::Level }],
        clock: None,
        clocks: 0,
        properties: vec![("compatible".into(), b"test,device\0".to_vec())],
    }
}

/// Two guests, of which the first gets this.
fn room(gic: GicVersion, cpus: u8, assigned: Assigned) -> Room {
    let host = plinth::vm::create::Host { assigned: vec![assigned].into(), ..host(gic, cpus) };
    let guests = [guest("owner", 1), guest("other", 1)];
    let room = Room::on(host, 4, &bundle(&guests), 3 * RAM, Box::new(|_, _| {}));
    let (base, handler) = vectors();
    let enable = Op::Store(gicd(0x100 + 4 * u64::from(INTID / 32)), Width::Word, 1 << (INTID % 32));
    let route = Op::Store(gicd(0x800 + u64::from(INTID)), Width::Byte, 1);
    let group = Op::Store(gicd(0x80 + 4 * u64::from(INTID / 32)), Width::Word, 0xffff_ffff);
    let body = match gic {
        V2 => [route, enable, Op::Mark(1), Op::Branch(LOOP)],
        V3 => [group, enable, Op::Mark(1), Op::Branch(LOOP)],
    };
    if room.hypervisor.vm(ONE).is_some() {
        room.program(0, base, &handler).program(0, ENTRY, &after_prologue(gic, 0, &body)).program(
            0,
            LOOP,
            &wait_loop(),
        );
    }
    room.program(1, ENTRY, &[Op::Work(300), Op::Branch(ENTRY)]);
    room
}

fn seen(room: &Room, what: Seen) -> usize {
    room.world.record().iter().filter(|event| event.seen == what).count()
}

#[test]
fn its_interrupt_reaches_the_guest_and_the_guests_end_is_the_physical_one() {
    for (gic, cpus) in BOTH.into_iter().flat_map(|gic| [(gic, 1), (gic, 2)]) {
        let mut room = room(gic, cpus, Ok(vec![device(REGISTERS, INTID)]));
        room.run(200);
        assert_eq!((room.marks(0, 0), seen(&room, Seen::Opened(IntId(INTID), true))), (vec![1], 1));
        for times in 1..4 {
            // It does not matter which CPU it comes to.
            let cpu = plinth::machine::CpuId(times % cpus);
            room.world.interrupt(cpu, IntId(INTID));
            room.run(200);
            assert_eq!(room.took(0, 0), vec![INTID; times.into()], "{gic:?} on {cpus} CPUs");
            assert_eq!(seen(&room, Seen::Deactivated(IntId(INTID))), times.into());
        }
        assert!(room.took(1, 0).is_empty());
    }
}

/// Its line is high again as soon as the guest has ended its interrupt, for ever, and its handler works for a while.
#[test]
fn a_storm_of_its_interrupts_takes_no_more_than_its_guests_share() {
    for (gic, work) in BOTH.into_iter().flat_map(|gic| [(gic, 1), (gic, 50)]) {
        let mut room = room(gic, 1, Ok(vec![device(REGISTERS, INTID)]));
        let (base, _) = vectors();
        let handler = [Op::Acknowledge, Op::Work(work), Op::EndOfInterrupt, Op::Eret];
        room.program(0, base, &handler);
        room.program(1, ENTRY, &[Op::Work(100), Op::Mark(2), Op::Branch(ENTRY)]);
        room.run(50);
        let (began, marks, mut raised) = (room.world.now().0, room.marks(1, 0).len(), 0);
        for _ in 0..2000 {
            // One that is active does not come again.
            if seen(&room, Seen::Deactivated(IntId(INTID))) == raised {
                room.world.interrupt(plinth::machine::CpuId(0), IntId(INTID));
                raised += 1;
            }
            room.run(1);
        }
        let time = room.world.now().0 - began;
        let worked = 100 * (room.marks(1, 0).len() - marks) as u64;
        let taken = room.took(0, 0).len();
        assert!(taken > 100, "{taken} interrupts");
        assert!(worked * 10 >= time * 4, "{worked} of {time}, {taken} interrupts on {gic:?}");
    }
}

#[test]
fn it_is_closed_while_the_guest_is_off_and_opened_again_when_it_begins_again() {
    let mut room = room(V3, 2, Ok(vec![device(REGISTERS, INTID)]));
    room.run(200);
    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, ONE, Stop::Restart)).unwrap();
    room.run(300);
    assert_eq!(seen(&room, Seen::Opened(IntId(INTID), false)), 1);
    assert_eq!(seen(&room, Seen::Opened(IntId(INTID), true)), 2);
    room.ask(1, |hypervisor, machine| hypervisor.stop(machine, ONE, Stop::Forced)).unwrap();
    room.run(300);
    assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Forced));
    assert_eq!(seen(&room, Seen::Opened(IntId(INTID), false)), 2);
    room.ask(1, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
    room.run(100);
    assert!(room.hypervisor.vm(ONE).is_none());
}

/// How a guest is made to lose what it has of its interrupt.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is taken apart, and built anew.
    Destroyed,
    Restarted,
    /// It does so itself, in its handler.
    Resets,
    /// The same, and then it is started again.
    TurnsItselfOff,
}

/// Steps each CPU a few times.
fn go_on(room: &mut Room, rounds: usize) {
    for _ in 0..rounds {
        for cpu in room.awake() {
            room.step(cpu);
        }
    }
}

/// Its interrupt is active, or on its way, and its guest never ends it: the one that comes after gets the next.
#[test]
fn who_has_the_device_next_gets_its_interrupt_whatever_became_of_the_last_one() {
    let all = [End::Destroyed, End::Restarted, End::Resets, End::TurnsItselfOff];
    for (gic, cpus, end) in
        BOTH.into_iter().zip([1, 2]).flat_map(|(gic, cpus)| all.map(|end| (gic, cpus, end)))
    {
        // It was taken by the guest; it waits in a list register of one that masks it; it waits for one that is held.
        for state in ["active", "pending", "held"] {
            let mut room = room(gic, cpus, Ok(vec![device(REGISTERS, INTID)]));
            let (base, handler) = vectors();
            let by_itself = match end {
                End::Resets => psci(SYSTEM_RESET),
                End::TurnsItselfOff => psci(SYSTEM_OFF),
                End::Destroyed | End::Restarted => Op::Work(1 << 40),
            };
            if state != "active" && matches!(end, End::Resets | End::TurnsItselfOff) {
                continue;
            }
            room.program(0, base, &[Op::Acknowledge, Op::Mark(2), by_itself]);
            if state == "pending" {
                room.program(0, LOOP, &[Op::Mask, Op::Work(10), Op::Branch(LOOP)]);
            }
            go_on(&mut room, 60);
            assert_eq!(room.marks(0, 0), [1]);
            if state == "held" {
                room.ask(0, |hypervisor, machine| hypervisor.pause(machine, ONE)).unwrap();
            }
            room.world.interrupt(plinth::machine::CpuId(cpus - 1), IntId(INTID));
            go_on(&mut room, 20);
            assert_eq!(room.took(0, 0).len(), usize::from(state == "active"), "{state}");
            match end {
                End::Destroyed => {
                    room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
                    go_on(&mut room, 30);
                    assert!(room.hypervisor.vm(ONE).is_none());
                    room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE)).unwrap();
                }
                End::Restarted => {
                    let stop = Stop::Restart;
                    room.ask(0, |hypervisor, machine| hypervisor.stop(machine, ONE, stop)).unwrap();
                }
                End::Resets => {}
                End::TurnsItselfOff => {
                    assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Off));
                    room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE)).unwrap();
                }
            }
            // The next one ends what it takes. It may have another VMID.
            let next = vmid(&room.vm(0));
            let enable = |op: u64| Op::Store(gicd(op + 4 * u64::from(INTID / 32)), Width::Word, !0);
            let route = Op::Store(gicd(0x800 + u64::from(INTID)), Width::Byte, 1);
            let body = match gic {
                V2 => [route, enable(0x100), Op::Mark(1), Op::Branch(LOOP)],
                V3 => [enable(0x80), enable(0x100), Op::Mark(1), Op::Branch(LOOP)],
            };
            room.world.program(next, base, &handler);
            room.world.program(next, ENTRY, &after_prologue(gic, 0, &body));
            room.world.program(next, LOOP, &wait_loop());
            let (before, ended) =
                (seen(&room, Seen::Took(IntId(INTID))), Seen::Deactivated(IntId(INTID)));
            let begins = |room: &Room| seen(room, Seen::Marked(1)) == 2;
            for _ in 0..4000 {
                if begins(&room) {
                    break;
                }
                go_on(&mut room, 1);
            }
            assert!(begins(&room), "{end:?} of one that was {state}");
            assert_eq!(
                seen(&room, Seen::Took(IntId(INTID))),
                before,
                "nothing is left of the last"
            );
            for times in 1..3 {
                let had = seen(&room, ended);
                room.world.interrupt(plinth::machine::CpuId(0), IntId(INTID));
                go_on(&mut room, 100);
                let what = format!("{end:?} of one that was {state}, {gic:?}");
                assert_eq!(seen(&room, Seen::Took(IntId(INTID))), before + times, "{what}");
                assert_eq!(seen(&room, ended), had + 1, "{what}");
            }
        }
    }
}

/// A guest that writes whatever it likes to its interrupt controller: what is let through physically does not change, nor is
/// anything deactivated, nor does another guest's interrupt come to it.
#[test]
fn what_a_guest_enables_is_its_own_affair() {
    for gic in BOTH {
        let mut room = room(gic, 1, Ok(vec![device(REGISTERS, INTID)]));
        // Enables, pending and active states, priorities, targets, triggers: set, cleared, and all of them once more.
        let writes = |at: std::ops::Range<u64>, value: u64| {
            at.step_by(4).map(move |at| Op::Store(gicd(at), Width::Word, value))
        };
        let mut ops = vec![Op::SetVector(VECTORS), Op::Store(gicd(0), Width::Word, 3)];
        for value in [!0, 0, 0x0101_0101, !0] {
            ops.extend(writes(0x80..0xd00, value));
        }
        // In the end all are enabled, pending, and come to this vCPU.
        for (at, value) in [(0x80..0x200, !0), (0x280..0x400, !0), (0x800..0x900, 0x0101_0101)] {
            ops.extend(writes(at, value));
        }
        ops.extend(writes(0x100..0x120, !0).chain(writes(0x200..0x220, !0)));
        ops.extend([Op::Mark(4), Op::Unmask, Op::Branch(LOOP)]);
        let (base, _) = vectors();
        let (end, at) = ([Op::Acknowledge, Op::EndOfInterrupt, Op::Eret], 0x4028_0000);
        room.program(1, ENTRY, &[Op::Branch(at)]).program(1, at, &ops);
        room.program(1, base, &end).program(1, LOOP, &wait_loop());
        for _ in 0..5000 {
            if !room.marks(1, 0).is_empty() {
                break;
            }
            room.step(0);
        }
        go_on(&mut room, 300);
        assert_eq!(room.marks(1, 0), [4]);
        let changes = room.world.record().into_iter().filter_map(|event| match event.seen {
            Seen::Opened(intid, open) => Some((intid, open)),
            _ => None,
        });
        assert_eq!(changes.collect::<Vec<_>>(), [(IntId(INTID), true)], "by its owner's loading");
        // It has made them all pending itself, that one among others, and has ended them.
        assert!(room.took(1, 0).contains(&INTID));
        assert_eq!(
            seen(&room, Seen::Deactivated(IntId(INTID))),
            0,
            "which is not the physical one"
        );
        let others = room.took(1, 0).len();
        room.world.interrupt(plinth::machine::CpuId(0), IntId(INTID));
        go_on(&mut room, 100);
        assert_eq!(room.took(0, 0), [INTID]);
        assert_eq!(room.took(1, 0).len(), others);
        assert_eq!(seen(&room, Seen::Deactivated(IntId(INTID))), 1);
    }
}

#[test]
fn a_device_without_a_place_in_the_guest_machine_is_refused() {
    let ram = 0x4000_0000;
    for (at, intid, why) in [
        (0x0900_0000, INTID, "pl011"),
        (0x0800_0000, INTID, "GIC"),
        (0x090a_0000, INTID, "stolen time"),
        (ram, INTID, "RAM"),
        (ram + RAM - 0x1000, INTID, "RAM"),
        (1 << 44, INTID, "no addresses"),
        (REGISTERS, 33, "interrupt"),
        (REGISTERS, 60, "interrupt"),
        (REGISTERS, 256, "interrupt"),
    ] {
        let mut room = room(V2, 1, Ok(vec![device(at, intid)]));
        assert!(room.hypervisor.vm(ONE).is_none(), "{at:#x} {intid}");
        let refused = room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE));
        let Err(Refusal::Create(error)) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn who_cannot_have_a_device_is_refused_with_the_reason_and_the_others_run() {
    let mut room = room(V3, 1, Err(AssignError::NoSuchNode("/uart".into())));
    assert!(room.hypervisor.vm(ONE).is_none() && room.hypervisor.alive() == 1);
    let refused = room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE));
    assert!(matches!(refused, Err(Refusal::Create(error)) if error.to_string().contains("/uart")));
}
