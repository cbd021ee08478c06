//! Whole-hypervisor scenarios: the registers of vCPUs for who looks at them in the monitor.

mod common;

use common::*;
use plinth::hypervisor::HeapReport;
use plinth::machine::fake::Op;
use plinth::monitor::command::Command;
use plinth::monitor::present::Present;
use plinth::monitor::reply::VcpuDump;
use plinth::monitor::task::Waited;
use plinth::monitor::{Control, gather};
use plinth::vgic::GicVersion::V3;

/// What `vm dump NAME` shows when it is asked for on `cpu`, and the CPUs do `steps` steps before the
/// answer; `None` if it is not complete by then.
fn dump(room: &mut Room, cpu: usize, name: &str, steps: usize) -> Option<Vec<VcpuDump>> {
    let command: Command = format!("vm dump {name}").parse().unwrap();
    let wanted = room.ask(cpu, |hypervisor, machine| gather::begin(hypervisor, machine, &command));
    if let Some(vm) = wanted {
        room.run(steps);
        if !gather::is_done(room.hypervisor, vm) {
            return None;
        }
    }
    shown(room, cpu, name)
}

/// What is shown when the command is carried out.
fn shown(room: &mut Room, cpu: usize, name: &str) -> Option<Vec<VcpuDump>> {
    let heap = || HeapReport { total: 0, free: 0 };
    room.ask(cpu, |hypervisor, machine| {
        Present { hypervisor, machine, heap, waited: Waited::Nothing }.dump(name).ok()
    })
}

fn value(vcpu: &VcpuDump, name: &str) -> Option<u64> {
    vcpu.registers.iter().find(|register| register.name == name).map(|register| register.value.0)
}

/// A room whose first guest spins at [`LOOP`] with its vectors set and 7 in `x5`.
fn spinning(cpus: u8, vcpus: u8, first: &[Op]) -> Room {
    let room = Room::new(V3, cpus, &[guest("spins", vcpus)]);
    let begin = [Op::SetVector(VECTORS), Op::Mov(5, 7)];
    let ops: Vec<_> =
        first.iter().cloned().chain(begin.clone()).chain([Op::Branch(LOOP)]).collect();
    room.program(0, ENTRY, &ops).program(0, LOOP, &[Op::Branch(LOOP)]);
    room.program(0, SECOND, &begin).program(0, SECOND + 8, &[Op::Branch(LOOP)]);
    room
}

#[test]
fn a_vcpu_that_runs_shows_where_it_is_whichever_cpu_is_asked() {
    for cpu in [0, 1] {
        let mut room = spinning(2, 1, &[]);
        room.run(20);
        let vcpus = dump(&mut room, cpu, "spins", 4).expect("its CPU answers at once");
        let [vcpu] = vcpus.as_slice() else { panic!("{vcpus:?}") };
        assert_eq!(value(vcpu, "pc"), Some(LOOP), "asked on CPU {cpu}");
        assert_eq!((value(vcpu, "x5"), value(vcpu, "vbar_el1")), (Some(7), Some(VECTORS)));
    }
}

#[test]
fn all_vcpus_on_several_cpus_show_in_one_dump() {
    let mut room = spinning(2, 2, &[cpu_on(1, SECOND)]);
    room.run(40);
    let vcpus = dump(&mut room, 0, "spins", 4).expect("their CPUs answer at once");
    let at: Vec<_> = vcpus.iter().map(|vcpu| value(vcpu, "pc")).collect();
    assert_eq!(at, [Some(LOOP); 2]);
}

#[test]
fn a_vcpu_that_waits_in_its_cpu_shows_and_goes_on_waiting() {
    let mut room = Room::new(V3, 2, &[guest("waits", 1)]);
    room.program(0, ENTRY, &[Op::Mov(5, 7), Op::Branch(LOOP)]).program(0, LOOP, &wait_loop());
    room.run(50);
    let before = room.loaded(0, 0).len();
    for cpu in [0, 1] {
        let vcpus = dump(&mut room, cpu, "waits", 4).expect("its CPU answers at once");
        assert_eq!(value(&vcpus[0], "x5"), Some(7), "asked on CPU {cpu}");
    }
    assert_eq!(room.loaded(0, 0).len(), before, "its registers stay where they are");
}

#[test]
fn vcpus_that_no_cpu_has_are_shown_without_asking_any() {
    let mut room = spinning(1, 2, &[]);
    room.run(20);
    room.ask(0, |hypervisor, machine| hypervisor.pause(machine, plinth::sched::VmId(0))).unwrap();
    room.run(20);
    let kicks = room.kicks().len();
    let vcpus = dump(&mut room, 0, "spins", 0).expect("it is complete at once");
    assert_eq!((value(&vcpus[0], "pc"), vcpus[1].state.as_str()), (Some(LOOP), "off"));
    assert_eq!(room.kicks().len(), kicks + 2, "only the test's own");
}

#[test]
fn more_guests_than_cpus_are_all_shown() {
    let mut room = Room::new(V3, 2, &[guest("a", 1), guest("b", 1), guest("c", 1)]);
    for vm in 0..3 {
        room.program(vm, ENTRY, &[Op::Mov(5, vm.into()), Op::Branch(LOOP)]);
        room.program(vm, LOOP, &[Op::Work(30), Op::Branch(LOOP)]);
    }
    room.run(500);
    for turn in 0..30 {
        room.run(turn);
        for (name, x5) in [("a", 0), ("b", 1), ("c", 2)] {
            let vcpus = dump(&mut room, turn % 2, name, 8).expect("it is complete soon");
            assert_eq!(value(&vcpus[0], "x5"), Some(x5), "{name}");
        }
    }
}

#[test]
fn a_vcpu_that_no_cpu_had_when_it_was_asked_for_is_shown_after_one_has_it() {
    let mut room = Room::new(V3, 1, &[guest("a", 1), guest("b", 1)]);
    for vm in 0..2 {
        room.program(vm, ENTRY, &[Op::Mov(5, vm.into()), Op::Branch(LOOP)]);
        room.program(vm, LOOP, &[Op::Work(30), Op::Branch(LOOP)]);
    }
    room.run(500);
    for turn in 0..30 {
        room.run(7);
        for (name, x5) in [("a", 0), ("b", 1)] {
            let command: Command = format!("vm dump {name}").parse().unwrap();
            let wanted =
                room.ask(0, |hypervisor, machine| gather::begin(hypervisor, machine, &command));
            // One of the two is loaded, and gives a copy at its next exit.
            room.run(if wanted.is_some() { 8 } else { 0 });
            assert!(wanted.is_none_or(|vm| gather::is_done(room.hypervisor, vm)), "{name}");
            // Whichever it was, the other has the CPU at some of these moments.
            room.run(turn);
            let vcpus = shown(&mut room, 0, name).expect("it is there");
            assert_eq!(value(&vcpus[0], "x5"), Some(x5), "{name} after {turn} steps");
        }
    }
}

#[test]
fn nobody_waits_for_what_is_no_dump_or_no_vm() {
    let mut room = spinning(1, 1, &[]);
    room.run(20);
    for line in ["vm list", "vm dump nobody", "vm info spins"] {
        let command: Command = line.parse().unwrap();
        let wanted =
            room.ask(0, |hypervisor, machine| gather::begin(hypervisor, machine, &command));
        assert_eq!(wanted, None, "{line}");
    }
}
