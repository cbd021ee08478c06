//! Whole-hypervisor scenarios: VMs are held, made to stop, begun again, taken apart and built anew while
//! others run.

use std::cell::RefCell;

use crate::common::*;
use plinth::cpu::Step;
use plinth::exit::{Exit, Width};
use plinth::host::allotment::Allotment;
use plinth::hypervisor::{Hypervisor, Refusal};
use plinth::machine::fake::{Op, Scripted, Seen, World};
use plinth::machine::{CpuId, Machine};
use plinth::manifest::{MachineConfig, OnCrash, OnReboot, WhenIdle};
use plinth::memory::{Uncached, Vmids};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vcpu::{Vcpu, VcpuId};
use plinth::vgic::GicVersion::{V2, V3};
use plinth::vgic::IntId;
use plinth::vm::{Next, Sequel, Status, Stop};
use proptest::prelude::*;

const ONE: VmId = VmId(0);
const TWO: VmId = VmId(1);

/// Step the CPUs that are awake until none is; time stands.
fn settle(room: &mut Room) {
    for _ in 0..2000 {
        let Some(cpu) = room.awake().first().copied() else { return };
        room.step(cpu);
    }
    panic!("it never calms down");
}

/// Give every CPU that is awake a few steps.
fn go_on(room: &mut Room, rounds: usize) {
    for _ in 0..rounds {
        for cpu in room.awake() {
            room.step(cpu);
        }
    }
}

fn moment(room: &Room, seen: Seen) -> Option<Ticks> {
    room.world.record().iter().find(|event| event.seen == seen).map(|event| event.at)
}

/// When a guest takes the interrupt of a timer that it sets to 5000 ticks, and meanwhile is held for
/// `held` ticks, after it set it.
fn timer_fires(gic: plinth::vgic::GicVersion, cpus: u8, held: u64) -> u64 {
    let mut room = Room::new(gic, cpus, &[guest("one", 1), guest("two", 1)]);
    let (base, handler) = vectors();
    let timer = [Op::SetVirtualTimer(1, 5000), Op::Mark(1), Op::Branch(LOOP)];
    for vm in 0..2 {
        room.program(vm, base, &handler).program(vm, LOOP, &wait_loop());
    }
    room.program(0, ENTRY, &after_prologue(gic, 0, &timer)).program(1, ENTRY, &wait_loop());
    settle(&mut room);
    let set = moment(&room, Seen::Marked(1)).expect("it has set its timer");
    if held > 0 {
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, ONE)).expect("it runs");
        settle(&mut room);
        assert_eq!(room.vm(0).status(), Status::Paused);
        let wake = room.world.now().0 + held;
        room.world.advance(Ticks(wake));
        settle(&mut room);
        assert!(room.took(0, 0).is_empty(), "no time passes for it");
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, ONE)).expect("it is held");
    }
    room.run(2000);
    let fired = room.world.record();
    let fired = fired.iter().find(|event| matches!(event.seen, Seen::Took(id) if id.0 == 27));
    fired.expect("the timer fires").at.0 - set.0
}

#[test]
fn the_time_of_a_vm_that_is_held_stands_still() {
    for (gic, cpus) in [(V2, 1), (V3, 1), (V3, 2)] {
        let plain = timer_fires(gic, cpus, 0);
        for held in [1_000, 100_000] {
            let longer = timer_fires(gic, cpus, held) - plain;
            assert!((held - 20..held + 200).contains(&longer), "{longer} for {held}");
        }
    }
}

#[test]
fn a_vm_that_is_held_while_it_spins_goes_on_where_it_was() {
    for cpus in [1, 2, 3] {
        let mut room = Room::new(V3, cpus, &[guest("one", 2), guest("two", 1)]);
        let spin = [Op::Mark(7), Op::Work(100), Op::Branch(SECOND)];
        room.program(0, ENTRY, &[cpu_on(1, SECOND), Op::Branch(SECOND)])
            .program(0, SECOND, &spin)
            .program(1, ENTRY, &[Op::Mark(8), Op::Work(100), Op::Branch(ENTRY)]);
        go_on(&mut room, 50);
        room.ask(0, |hypervisor, machine| hypervisor.pause(machine, ONE)).unwrap();
        go_on(&mut room, 20);
        let (before, others) = (room.marks(0, 0).len() + room.marks(0, 1).len(), room.marks(1, 0));
        go_on(&mut room, 50);
        assert_eq!(room.marks(0, 0).len() + room.marks(0, 1).len(), before);
        assert!(room.marks(1, 0).len() > others.len(), "the other one has the CPUs");
        room.ask(0, |hypervisor, machine| hypervisor.resume(machine, ONE)).unwrap();
        go_on(&mut room, 50);
        assert!(room.marks(0, 0).len() + room.marks(0, 1).len() > before);
        assert!(room.injected(0, 0).is_empty());
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let mut room = Room::new(V3, 1, &[guest("one", 1), guest("two", 1)]);
    room.program(0, ENTRY, &[Op::Work(10), Op::Branch(ENTRY)]).program(1, ENTRY, &wait_loop());
    go_on(&mut room, 5);
    room.ask(0, |hypervisor, machine| {
        assert!(matches!(hypervisor.resume(machine, ONE), Err(Refusal::NotPaused)));
        assert!(matches!(hypervisor.start_vm(machine, ONE), Err(Refusal::Running)));
        assert!(matches!(hypervisor.start_vm(machine, VmId(9)), Err(Refusal::NoSuchVm)));
        hypervisor.pause(machine, ONE).unwrap();
        assert!(matches!(hypervisor.pause(machine, ONE), Err(Refusal::Paused)));
        hypervisor.stop(machine, ONE, Stop::Forced).unwrap();
    });
    go_on(&mut room, 10);
    assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Forced));
    room.ask(0, |hypervisor, machine| {
        assert!(matches!(hypervisor.stop(machine, ONE, Stop::Forced), Err(Refusal::Stopped)));
        assert!(matches!(hypervisor.pause(machine, ONE), Err(Refusal::Stopped)));
        hypervisor.destroy(machine, ONE).unwrap();
        assert!(matches!(hypervisor.destroy(machine, ONE), Err(Refusal::NotCreated)));
        assert!(matches!(hypervisor.pause(machine, ONE), Err(Refusal::NotCreated)));
    });
}

#[test]
fn a_vm_that_was_stopped_begins_again() {
    for cpus in [1, 2] {
        let mut room = Room::new(V3, cpus, &[guest("one", 1), guest("two", 1)]);
        room.program(0, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]).program(1, ENTRY, &wait_loop());
        settle(&mut room);
        for times in 2..4 {
            assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Off));
            room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE)).unwrap();
            room.run(2000);
            assert_eq!(room.marks(0, 0).len(), times);
            assert_eq!(room.vm(0).resets(), 0, "a start is no reset");
        }
    }
}

#[test]
fn a_vm_that_is_created_and_not_yet_started_can_be_destroyed() {
    let guests = [Guest { autostart: false, ..guest("one", 2) }, guest("two", 1)];
    let mut room =
        Room::of(V3, 2, 4, &bundle(&guests), 2 * (RAM + (128 << 10)), Box::new(|_, _| {}));
    room.program(1, ENTRY, &wait_loop());
    settle(&mut room);
    let free = room.hypervisor.memory().free;
    room.ask(0, |hypervisor, machine| hypervisor.create(machine, ONE).map(drop)).unwrap();
    room.ask(1, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
    go_on(&mut room, 12);
    assert!(room.hypervisor.vm(ONE).is_none());
    assert_eq!((room.hypervisor.memory().free, room.hypervisor.alive()), (free, 1));
}

#[test]
fn a_thousand_lives_leave_the_memory_they_found() {
    for (cpus, lives) in [(1, 50), (3, 1000)] {
        let lives = if cfg!(miri) { 3 } else { lives };
        let mut room = Room::new(V2, cpus, &[guest("one", 2), guest("two", 1)]);
        room.program(1, ENTRY, &[Op::Work(60), Op::Mark(1), Op::Branch(ENTRY)]);
        let destroy = |room: &mut Room| {
            room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
            // The CPUs have to let go of it.
            go_on(room, 12);
        };
        destroy(&mut room);
        assert!(room.hypervisor.vm(ONE).is_none());
        let free = room.hypervisor.memory().free;
        for life in 0..lives {
            room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE)).unwrap();
            assert!(room.hypervisor.memory().free < free);
            let vmid = vmid(&room.vm(0));
            let second = [Op::Work(40), Op::Branch(SECOND)];
            room.world.program(vmid, ENTRY, &[cpu_on(1, SECOND), Op::Branch(SECOND)]);
            room.world.program(vmid, SECOND, &second);
            go_on(&mut room, life % 5);
            destroy(&mut room);
            assert_eq!(room.hypervisor.memory().free, free, "life {life}");
        }
        let marks = room.marks(1, 0).len();
        go_on(&mut room, 20);
        assert!(room.marks(1, 0).len() > marks, "the other one goes on");
    }
}

thread_local! {
    /// What was free at each interrupt, and whether the VM could not be created again because it was still there.
    static MEANWHILE: RefCell<Vec<(u64, bool)>> = const { RefCell::new(Vec::new()) };
}

fn look_meanwhile(hypervisor: &Hypervisor, machine: &mut Scripted, _: IntId) {
    if hypervisor.vm(ONE).is_none() {
        let free = hypervisor.memory().free;
        let is_there = matches!(hypervisor.create(machine, ONE), Err(Refusal::Stopping));
        MEANWHILE.with_borrow_mut(|seen| seen.push((free, is_there)));
    }
}

#[test]
fn interrupts_are_taken_while_a_vm_is_taken_apart() {
    let bundle = bundle(&[guest("one", 2), guest("two", 1)]);
    let memory = 2 * RAM + (1 << 20);
    let (disks, nothing) = (Allotment::default(), Box::new(|_, _| {}));
    let mut room =
        Room::in_frames(host(V3, 1), 4, &bundle, pool(memory), disks, nothing, look_meanwhile);
    room.program(0, ENTRY, &wait_loop()).program(1, ENTRY, &wait_loop());
    go_on(&mut room, 200);
    let before = room.hypervisor.memory().free;
    let size = room.vm(0).memory_size() + room.vm(0).table_size();
    room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, ONE)).unwrap();
    (0..200).for_each(|_| room.world.interrupt(CpuId(0), IntId(100)));
    go_on(&mut room, 100);
    let whole = before + size;
    let seen = MEANWHILE.take();
    let mut free: Vec<u64> = seen.iter().map(|(free, _)| *free).collect();
    assert!(free.is_sorted());
    free.dedup();
    assert!(free.len() >= 3 && free[0] == before, "{free:?}: at once");
    assert_eq!(free.last(), Some(&whole));
    // Whoever finds a part of it there does not get another one of that name.
    assert!(seen.iter().all(|(free, is_there)| *is_there == (*free < whole)), "{seen:?}");
    assert!(room.hypervisor.vm(ONE).is_some());
}

#[test]
fn what_follows_a_crash_or_a_reset_is_as_the_manifest_says() {
    let crash = [Op::Mark(1), Op::Exit(Exit::NotOffered)];
    let reset = [Op::Mark(1), psci(SYSTEM_RESET)];
    let life = |ops: &[Op], on_crash, on_reboot| {
        let mut room =
            Room::new(V3, 1, &[Guest { on_crash, on_reboot, ..guest("one", 1) }, guest("two", 1)]);
        room.program(0, ENTRY, ops).program(1, ENTRY, &wait_loop());
        let free = room.hypervisor.memory().free;
        for _ in 0..30 {
            go_on(&mut room, 20);
            let next = room.cpus[0].machine().next_event();
            room.world.advance(next.unwrap_or_default());
        }
        let status = room.hypervisor.vm(ONE).map(|vm| vm.status());
        (status, room.marks(0, 0).len() > 2, room.hypervisor.memory().free > free)
    };
    let (restart, stop) = (OnReboot::Restart, OnReboot::Stop);
    let stopped = |how| Some(Status::Stopped(how));
    assert_eq!(life(&crash, OnCrash::Preserve, restart), (stopped(Stop::Crashed), false, false));
    assert_eq!(life(&crash, OnCrash::Destroy, restart), (None, false, true));
    let (status, again, _) = life(&crash, OnCrash::Restart, stop);
    assert!(status == Some(Status::Running) && again);
    assert_eq!(life(&reset, OnCrash::Restart, stop), (stopped(Stop::Reset), false, false));
    assert_eq!(life(&reset, OnCrash::Preserve, OnReboot::Destroy), (None, false, true));
    let (status, again, _) = life(&reset, OnCrash::Preserve, restart);
    assert!(status == Some(Status::Running) && again);
}

#[test]
fn the_monitor_can_start_what_does_not_start_by_itself_and_go_on_when_all_have_stopped() {
    let machine = MachineConfig { when_idle: WhenIdle::Wait, ..MachineConfig::default() };
    let guests = [Guest { autostart: false, ..guest("one", 1) }];
    let bundle = bundle_for(&machine, &guests);
    let mut room = Room::of(V3, 1, 4, &bundle, 2 * RAM, Box::new(|_, _| {}));
    assert!(room.hypervisor.vm(ONE).is_none() && room.hypervisor.alive() == 0);
    for times in 1..4 {
        room.ask(0, |hypervisor, machine| hypervisor.start_vm(machine, ONE)).unwrap();
        let vmid = vmid(&room.vm(0));
        room.world.program(vmid, ENTRY, &[Op::Mark(times), psci(SYSTEM_OFF)]);
        room.run(200);
        assert_eq!(room.vm(0).status(), Status::Stopped(Stop::Off));
        assert!(!room.hypervisor.has_finished());
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Pause,
    Resume,
    Stop,
    Restart,
    Destroy,
    Start,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        Just(Deed::Pause),
        Just(Deed::Resume),
        Just(Deed::Stop),
        Just(Deed::Restart),
        Just(Deed::Destroy),
        Just(Deed::Start)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 48 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is asked of a VM, on whichever CPU, in whatever order the CPUs take their steps: nothing
    /// panics, its neighbour goes on, and when it has been destroyed all is back.
    #[test]
    fn no_order_of_deeds_loses_anything(
        deeds in prop::collection::vec((deed(), 0usize..3, prop::collection::vec(0usize..3, 0..12)), 1..25),
        cpus in 1u8..4, two: bool,
    ) {
        let gic = if two { V2 } else { V3 };
        let mut room = Room::new(gic, cpus, &[guest("one", 2), guest("two", 1)]);
        let program = |room: &Room| {
            let Some(vm) = room.hypervisor.vm(ONE) else { return };
            let vmid = vmid(&vm);
            let first = [cpu_on(1, SECOND), Op::Work(90), Op::Wfi, psci(SYSTEM_RESET)];
            room.world.program(vmid, ENTRY, &after_prologue(gic, 0, &first));
            room.world.program(vmid, SECOND, &[Op::Work(50), Op::Wfe, Op::Branch(SECOND)]);
        };
        program(&room);
        room.program(1, ENTRY, &[Op::Work(60), Op::Mark(1), Op::Branch(ENTRY)]);
        for (deed, cpu, order) in deeds {
            let cpu = cpu % usize::from(cpus);
            let _ = room.ask(cpu, |hypervisor, machine| match deed {
                Deed::Pause => hypervisor.pause(machine, ONE),
                Deed::Resume => hypervisor.resume(machine, ONE),
                Deed::Stop => hypervisor.stop(machine, ONE, Stop::Forced),
                Deed::Restart => hypervisor.stop(machine, ONE, Stop::Restart),
                Deed::Destroy => hypervisor.destroy(machine, ONE),
                Deed::Start => hypervisor.start_vm(machine, ONE),
            });
            program(&room);
            for cpu in order {
                let awake = room.awake();
                if let Some(cpu) = awake.get(cpu % awake.len().max(1)) {
                    prop_assert!(room.step(*cpu) != Step::Finished);
                }
            }
        }
        let _ = room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, ONE));
        go_on(&mut room, 30);
        prop_assert!(room.hypervisor.vm(ONE).is_none());
        prop_assert_eq!(room.hypervisor.alive(), 1);
        let marks = room.marks(1, 0).len();
        go_on(&mut room, 30);
        prop_assert!(room.marks(1, 0).len() > marks, "the neighbour goes on");
        // All that is left is the neighbour's.
        let _ = room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, TWO));
        go_on(&mut room, 30);
        let whole = 2 * (RAM + (128 << 10));
        prop_assert_eq!(room.hypervisor.memory().free, whole);
    }
}

/// A VM's second vCPU goes on while the first one is taken off, as long as its CPU has not looked: what it writes to the other's
/// redistributor stays there.
#[test]
fn a_redistributor_is_there_and_the_same_until_the_last_vcpu_is_off() {
    const PRIORITIES: u64 = 0x414;
    let (mut frames, mut vmids) = (pool(2 * RAM), Vmids::new());
    let manifest = bundle(&[guest("one", 2)]);
    let host = host(V3, 2);
    let (vm, _) = create(&manifest, 0, 0, &host, &mut frames, &mut vmids, &Uncached).unwrap();
    let (me, world) = (VcpuId(1), World::new(2, Box::new(|_, _| {})));
    let mut machine = Scripted::new(CpuId(1), world.clone(), 4);
    let mut vcpu = Vcpu::at_reset(ENTRY, 0);
    machine.load(&vcpu, &vm.space(me, CpuId(1), false));
    let mut does = |op: Op| {
        world.program(vmid(&vm), ENTRY, &[op]);
        vcpu.regs.pc = ENTRY;
        let exit = loop {
            let exit = machine.run(&mut vcpu.regs);
            if exit != Exit::Irq {
                break exit;
            }
        };
        if vm.answer(&mut machine, me, &mut vcpu, exit).is_none() {
            assert_eq!(vm.handle(&mut machine, me, &mut vcpu, exit).next, Next::Resume);
        }
        assert_eq!(vcpu.regs.pc, ENTRY + 4, "it is there");
        vcpu.regs.x[5]
    };
    let frame = isenabler0(V3, 0) - 0x100;
    let mut last = 0;
    let mut is_kept = |value: u64| {
        for offset in [PRIORITIES, 0x100] {
            let kept = does(Op::Load(frame + offset, Width::Word, 5));
            let sgis = if offset == PRIORITIES { 0 } else { 0xffff };
            assert_eq!(kept, last | sgis, "{offset:#x} before {value:#x}");
        }
        does(Op::Store(frame + 0x180, Width::Word, last));
        for offset in [PRIORITIES, 0x100] {
            does(Op::Store(frame + offset, Width::Word, value));
        }
        last = value;
    };
    assert!(vm.vcpu_started() && vm.vcpu_started());
    is_kept(0x8010_0000);
    vm.doom();
    is_kept(0x4020_0000);
    assert_eq!(vm.begin_stop(Stop::Forced), Some(true));
    is_kept(0x2040_0000);
    assert_eq!(vm.vcpu_retired(VcpuId(0)), None);
    is_kept(0x1080_0000);
    is_kept(0x0810_0000);
    assert_eq!(vm.vcpu_retired(me), Some(Sequel::Destroy));
}
