//! Whole-hypervisor scenarios: a guest's life from the bundle to its end.

use crate::common::*;
use plinth::cpu::Step;
use plinth::exit::{Exit, Width};
use plinth::firmware::smccc::{Mitigation, Mitigations};
use plinth::machine::CpuId;
use plinth::machine::fake::{IRQ_VECTOR, Op, SYNC_VECTOR};
use plinth::manifest::MAX_MEMORY;
use plinth::memory::{Recorder, Vmids};
use plinth::sched::VmId;
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vgic::IntId;
use plinth::vm::create::Host;
use plinth::vm::layout;
use plinth::vm::sysreg::names;
use plinth::vm::tally::Reason;
use plinth::vm::{Status, Stop};

const UARTDR: u64 = 0x0900_0000;

/// `ops` on the boot vCPU of a room with one VM.
fn room(gic: GicVersion, cpus: u8, vcpus: u8, ops: &[Op]) -> Room {
    let room = Room::new(gic, cpus, &[guest("one", vcpus)]);
    let (base, handler) = vectors();
    room.program(0, base, &handler).program(0, ENTRY, ops).program(0, LOOP, &wait_loop());
    room
}

fn finished(room: &mut Room) -> bool {
    (0..room.cpus.len()).all(|cpu| room.finished[cpu] || room.step(cpu) == Step::Finished)
}

#[test]
fn a_guest_boots_at_its_entry_with_the_device_tree_in_x0() {
    let dtb = layout::RAM_BASE.raw();
    let ops = [
        Op::BranchUnless(0, dtb, THIRD),
        Op::BranchUnless(1, 0, THIRD),
        Op::Mark(1),
        psci(SYSTEM_OFF),
    ];
    for gic in BOTH {
        let mut room = room(gic, 1, 1, &ops);
        assert!(room.run(100));
        assert_eq!(room.loaded(0, 0), [ENTRY]);
        assert_eq!(room.marks(0, 0), [1]);
        assert!(finished(&mut room));
    }
}

#[test]
fn a_flat_binary_boots_512_kib_into_ram() {
    let mut flat = guest("flat", 1);
    flat.kernel = vec![0x1f; 300];
    flat.memory = 4 << 20;
    let mut room = Room::new(V3, 1, &[flat]);
    room.program(0, 0x4008_0000, &[Op::Mark(1), psci(SYSTEM_OFF)]);
    assert!(room.run(100));
    assert_eq!(room.marks(0, 0), [1]);
}

#[test]
fn what_a_guest_prints_comes_out_of_its_own_line() {
    let print = |text: &str| -> Vec<Op> {
        let chars = text.bytes().map(|byte| Op::Store(UARTDR, Width::Byte, byte.into()));
        let enable = [Op::Store(UARTDR + 0x30, Width::Word, 0x301)]; // UARTCR: UARTEN, TXE, RXE
        enable.into_iter().chain(chars).chain([psci(SYSTEM_OFF)]).collect()
    };
    let mut room = Room::new(V3, 1, &[guest("one", 1), guest("two", 1)]);
    room.program(0, ENTRY, &print("hello")).program(1, ENTRY, &print("world"));
    assert!(room.run(1000));
    assert_eq!(room.lines[0].take_output(), b"hello");
    assert_eq!(room.lines[1].take_output(), b"world");
    assert!(finished(&mut room));
}

#[test]
fn typed_bytes_wake_a_waiting_guest_by_the_uarts_interrupt() {
    for gic in BOTH {
        let mut ops = prologue(gic, 0);
        ops.extend([
            Op::Store(gicd(0x104), Width::Word, 2), // GICD_ISENABLER1: SPI 1
            Op::Store(gicd(0x820), Width::Word, 0x0101_0101), // GICD_ITARGETSR8
            Op::Store(UARTDR + 0x30, Width::Word, 0x301), // UARTCR
            Op::Store(UARTDR + 0x38, Width::Word, 1 << 4 | 1 << 6), // UARTIMSC: RXIM, RTIM
            Op::Branch(LOOP),
        ]);
        let mut room = room(gic, 2, 1, &ops);
        let handler = [
            Op::Acknowledge,
            Op::Load(UARTDR, Width::Byte, 5),
            Op::EndOfInterrupt,
            psci(SYSTEM_OFF),
        ];
        room.program(0, VECTORS + IRQ_VECTOR, &handler);
        room.run(50);
        assert!(room.took(0, 0).is_empty());
        room.lines[0].type_in(b"x");
        room.world.interrupt(CpuId(1), IntId(33));
        assert!(room.run(100));
        assert_eq!(room.took(0, 0), [33], "{gic:?}");
        assert!(finished(&mut room));
    }
}

#[test]
fn cpu_on_starts_a_vcpu_on_another_cpu_by_a_kick() {
    let mut room = room(V3, 2, 2, &[cpu_on(1, SECOND), Op::Branch(LOOP)]);
    room.program(0, SECOND, &[Op::BranchUnless(0, 0x77, THIRD), Op::Mark(7), Op::Branch(LOOP)]);
    room.run(100);
    assert_eq!(room.kicks(), [(0, 1)]);
    assert_eq!(room.loaded(0, 1), [SECOND]);
    assert_eq!(room.marks(0, 1), [7]);
}

#[test]
fn cpu_on_starts_a_vcpu_on_the_same_cpu_without_a_kick() {
    let mut room = room(V3, 1, 2, &[cpu_on(1, SECOND), Op::Branch(LOOP)]);
    room.program(0, SECOND, &[Op::Mark(7), Op::Branch(LOOP)]);
    room.run(100);
    assert_eq!(room.marks(0, 1), [7]);
    assert!(room.kicks().is_empty());
}

#[test]
fn more_vcpus_than_cpus_all_make_progress() {
    let on = (1..8).map(|vcpu| cpu_on(vcpu, SECOND)).chain([Op::Branch(SECOND)]);
    let mut room = room(V3, 2, 8, &on.collect::<Vec<_>>());
    room.program(0, SECOND, &[Op::Work(50), Op::Mark(1), Op::Branch(SECOND)]);
    room.run(4000);
    let counts: Vec<_> = (0..8).map(|vcpu| room.marks(0, vcpu).len()).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 10 && most - least <= least / 5, "{counts:?}");
}

#[test]
fn a_spinning_guest_does_not_starve_its_neighbour() {
    let mut room = Room::new(V3, 1, &[guest("spins", 1), guest("works", 1)]);
    room.program(0, ENTRY, &[Op::Branch(ENTRY)]);
    room.program(1, ENTRY, &[Op::Work(100), Op::Mark(1), Op::Branch(ENTRY)]);
    room.run(4000);
    let now = room.world.now().0;
    let worked = room.marks(1, 0).len() as u64 * 100;
    assert!(worked * 10 > now * 4 && worked * 10 < now * 6, "{worked} of {now}");
}

#[test]
fn three_spinning_guests_share_two_cpus_equally() {
    let mut room = Room::new(V3, 2, &[guest("one", 1), guest("two", 1), guest("three", 1)]);
    for vm in 0..3 {
        room.program(vm, ENTRY, &[Op::Work(50), Op::Mark(1), Op::Branch(ENTRY)]);
    }
    room.run(6000);
    let counts: Vec<_> = (0..3).map(|vm| room.marks(vm, 0).len()).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 100 && most - least <= least / 8, "{counts:?}");
    let record = room.world.record();
    let cpus = |vm: u8| {
        let vcpu = Some((vmid(&room.vm(vm.into())), plinth::vcpu::VcpuId(0)));
        let marks = record.iter().filter(|event| event.vcpu == vcpu);
        marks.map(|event| event.cpu).collect::<std::collections::HashSet<_>>().len()
    };
    assert!((0..3).any(|vm| cpus(vm) == 2), "one of them has to change CPUs");
}

#[test]
fn system_off_of_the_last_guest_finishes_every_cpu() {
    for gic in BOTH {
        let mut room = Room::new(gic, 3, &[guest("one", 3), guest("two", 1)]);
        room.program(
            0,
            ENTRY,
            &[cpu_on(1, SECOND), cpu_on(2, SECOND), Op::Work(999), psci(SYSTEM_OFF)],
        );
        room.program(0, SECOND, &[Op::Branch(SECOND)]);
        room.program(1, ENTRY, &[psci(SYSTEM_OFF)]);
        assert!(room.run(2000));
        assert!(room.finished[0], "the CPU that ends the run has to wake up");
        assert!(finished(&mut room));
    }
}

#[test]
fn cpu_off_of_the_last_vcpu_stops_the_vm() {
    let mut room = room(V3, 2, 2, &[cpu_on(1, SECOND), psci(CPU_OFF)]);
    room.program(0, SECOND, &[Op::Work(300), psci(CPU_OFF)]);
    assert!(room.run(200));
    assert!(room.vm(0).has_stopped());
    assert!(finished(&mut room));
}

#[test]
fn a_vcpu_that_was_turned_off_can_be_turned_on_again() {
    let affinity = 0xc400_0004;
    let wait = [
        cpu_on(1, SECOND),
        Op::Hvc([affinity, 1, 0, 0]),
        Op::BranchUnless(0, 1, ENTRY + 4), // until it is off
        cpu_on(1, THIRD),
        Op::BranchUnless(0, 0, LOOP),
        Op::Branch(LOOP),
    ];
    for cpus in [1, 2] {
        let mut room = room(V3, cpus, 2, &wait);
        room.program(0, SECOND, &[Op::Mov(5, 99), Op::Mark(1), psci(CPU_OFF)]);
        room.program(0, THIRD, &[Op::BranchUnless(5, 0, LOOP), Op::Mark(2), Op::Branch(LOOP)]);
        room.run(500);
        assert_eq!(room.marks(0, 1), [1, 2], "on {cpus} CPUs");
    }
}

#[test]
fn a_guest_that_crashes_stops_and_the_other_goes_on() {
    let crashes = [
        Op::Exit(Exit::SError { esr: 0xbe00_0000 }),
        Op::Exit(Exit::Unexpected { esr: 0x1234_5678 }),
        // Its vectors are nowhere: an exception in its own vector.
        Op::Exit(Exit::NotOffered),
    ];
    for crash in crashes {
        let mut room = Room::new(V3, 2, &[guest("crashes", 3), guest("goes-on", 1)]);
        room.program(0, ENTRY, &[cpu_on(1, SECOND), cpu_on(2, SECOND), Op::Work(200), crash]);
        room.program(0, SECOND, &[Op::Branch(SECOND)]);
        room.program(1, ENTRY, &[Op::Work(5000), Op::Mark(1), psci(SYSTEM_OFF)]);
        assert!(room.run(3000));
        assert_eq!(room.marks(1, 0), [1]);
        assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Crashed));
        assert!(finished(&mut room));
    }
}

#[test]
fn an_abort_that_is_outstanding_when_its_vcpu_leaves_the_cpu_stops_the_vm_it_belongs_to() {
    let mut room = Room::new(V3, 1, &[guest("aborts", 1), guest("goes-on", 1)]);
    room.program(0, ENTRY, &[Op::Abort, Op::Branch(ENTRY + 4)]);
    room.program(1, ENTRY, &[Op::Work(5000), Op::Mark(1), psci(SYSTEM_OFF)]);
    assert!(room.run(3000));
    assert!(room.vm(0).has_stopped());
    assert_eq!(room.marks(1, 0), [1]);
}

#[test]
fn an_access_to_nothing_is_an_external_abort_at_the_instruction() {
    let mut room = room(V3, 1, 1, &[Op::SetVector(VECTORS), Op::Load(0x100, Width::Word, 4)]);
    room.program(0, VECTORS + SYNC_VECTOR, &[Op::Mark(9), psci(SYSTEM_OFF)]);
    assert!(room.run(100));
    assert_eq!(room.injected(0, 0), [0x25 << 26 | 1 << 25 | 0b01_0000]);
    assert_eq!(room.marks(0, 0), [9]);
}

#[test]
fn an_smc_is_stepped_over_and_answered_as_an_hvc() {
    let version = 0x8400_0000;
    let mut room = room(
        V3,
        1,
        1,
        &[
            Op::Smc([version, 0, 0, 0]),
            Op::BranchUnless(0, 0x1_0001, LOOP),
            Op::Hvc([version, 0, 0, 0]),
            Op::BranchUnless(0, 0x1_0001, LOOP),
            Op::Mark(1),
            psci(SYSTEM_OFF),
        ],
    );
    assert!(room.run(100));
    assert_eq!(room.marks(0, 0), [1]);
}

#[test]
fn a_guest_learns_what_the_machine_has_against_speculation() {
    let host = Host {
        mitigations: Mitigations {
            branch_target: Mitigation::Firmware,
            store_bypass_not_needed: true,
            branch_history: Mitigation::Unknown,
        },
        ..host(V3, 1)
    };
    let features = 0x8000_0001;
    let asked = [(0x8000_8000, 0), (0x8000_7fff, -2i64 as u64), (0x8000_3fff, u64::MAX)];
    let mut ops = Vec::new();
    for (workaround, answer) in asked {
        ops.push(Op::Hvc([features, workaround, 0, 0]));
        ops.push(Op::BranchUnless(0, answer, LOOP));
    }
    for (workaround, answer) in [(0x8000_8000, 0), (0x8000_3fff, u64::MAX)] {
        ops.push(Op::Smc([workaround, 0, 0, 0]));
        ops.push(Op::BranchUnless(0, answer, LOOP));
    }
    ops.extend([Op::Mark(1), psci(SYSTEM_OFF)]);
    let mut room = Room::on(host, 4, &bundle(&[guest("one", 1)]), 3 * RAM, Box::new(|_, _| {}));
    room.program(0, ENTRY, &ops).program(0, LOOP, &wait_loop());
    assert!(room.run(100));
    assert_eq!(room.marks(0, 0), [1]);
}

#[test]
fn a_guest_that_executes_nowhere_faults_for_ever_without_taking_the_cpu_from_others() {
    let mut room = Room::new(V2, 1, &[guest("lost", 1), guest("goes-on", 1)]);
    room.program(0, ENTRY, &[Op::SetVector(0x1234_0000), Op::Mrs(names::CNTPCT_EL0, 3)]);
    room.program(1, ENTRY, &[Op::Work(2000), Op::Mark(1), psci(SYSTEM_OFF)]);
    assert!(!room.run(2000));
    assert_eq!(room.marks(1, 0), [1]);
}

#[test]
fn a_guest_that_cannot_be_built_is_refused_and_gives_everything_back() {
    let mut too_big = guest("too-big", 1);
    too_big.memory = 1 << 30;
    let mut no_kernel = guest("no-kernel", 1);
    no_kernel.kernel = b"\x1f\x8b\x08\0cut short".to_vec();
    let mut big_initrd = guest("big-initrd", 1);
    big_initrd.initrd = Some(vec![7; 3 << 20]);
    let mut beyond = guest("beyond", 1);
    beyond.memory = MAX_MEMORY;
    let guests = [too_big, no_kernel, guest("good", 1), big_initrd, beyond, guest("good-too", 1)];
    let mut room = Room::of(V3, 1, 4, &bundle(&guests), 3 * RAM, Box::new(|_, _| {}));
    assert_eq!(room.hypervisor.alive(), 2);
    let before = room.hypervisor.memory().free;
    for refused in [0, 1, 3, 4] {
        let error = room.ask(0, |hypervisor, machine| hypervisor.create(machine, VmId(refused)));
        assert!(!error.err().unwrap().to_string().is_empty());
        assert_eq!(room.hypervisor.memory().free, before);
    }
    for vm in [2, 5] {
        room.program(vm, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]);
    }
    assert!(room.run(200));
    assert!(finished(&mut room));
}

/// However little memory there is, a VM is built or leaves no trace.
#[test]
fn a_vm_that_runs_out_of_frames_anywhere_gives_everything_back() {
    let manifest = bundle(&[guest("one", 1)]);
    let host = host(V2, 1);
    let cpu = Recorder::default();
    let mut built = 0;
    for pages in (0..30).step_by(if cfg!(miri) { 15 } else { 1 }) {
        let (mut frames, mut vmids) = (pool(RAM + (pages << 12)), Vmids::new());
        let free = frames.free_bytes();
        match create(&manifest, 0, 0, &host, &mut frames, &mut vmids, &cpu) {
            Ok(_) => built += 1,
            Err(_) => {
                assert_eq!(frames.free_bytes(), free);
            }
        }
    }
    assert!(built > 0 && (built < 30 || cfg!(miri)));
}

#[test]
fn a_refused_vm_keeps_no_vmid() {
    let mut too_big = guest("too-big", 1);
    too_big.memory = 1 << 30;
    let manifest = bundle(&[too_big, guest("good", 1)]);
    let (host, cpu) = (host(V3, 1), Recorder::default());
    let (mut frames, mut vmids) = (pool(2 * RAM), Vmids::new());
    for _ in 0..300 {
        assert!(create(&manifest, 0, 0, &host, &mut frames, &mut vmids, &cpu).is_err());
    }
    assert!(create(&manifest, 1, 0, &host, &mut frames, &mut vmids, &cpu).is_ok());
}

#[test]
fn exits_are_counted_by_reason() {
    let works = [Op::Hvc([0x8400_0000, 0, 0, 0]), Op::Store(UARTDR, Width::Byte, 0x41)];
    let mut ops = [works.as_slice(), &works, &works].concat();
    ops.push(psci(SYSTEM_OFF));
    let mut room = room(V3, 1, 1, &ops);
    let vm = room.vm(0);
    assert!(room.run(200));
    let exits = |reason| vm.tally(VcpuId(0)).unwrap().exits(reason);
    assert_eq!(exits(Reason::Hvc).count, 4);
    assert_eq!(exits(Reason::Mmio).count, 3);
    assert_eq!(exits(Reason::Sysreg).count, 0);
    assert!(vm.tally(VcpuId(1)).is_none());
}
