//! A VM is stopped, begins again and is taken apart while its disk has its memory and a device interrupts it; another VM
//! gets that memory.

use std::sync::Arc;

use plinth::host::share::Share;
use plinth::hypervisor::{Hypervisor, Refusal};
use plinth::machine::Machine;
use plinth::machine::fake::{Op, Scripted};
use plinth::manifest::{DiskPart, MachineConfig, WhenIdle};
use plinth::sched::VmId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Status, Stop};

use crate::asking::{allot, ask, asking, on_host};
use crate::code::{Code, handler, store};
use crate::common::{
    ENTRY, Guest, LOOP, RAM, Room, SYSTEM_OFF, SYSTEM_RESET, bundle_for, elf, gicd, guest,
    prologue, psci, wait_loop,
};
use crate::disk::{FakeDisk, Inner};
use crate::ram;
use crate::stage::{Actor, choose, explore, interrupt, room, run_with};

const SCHEDULES: usize = 100;
const ONE: VmId = VmId(0);
const NEXT: VmId = VmId(1);
/// Where the one who comes after begins: where the one before it has nothing.
const LATER: u64 = ENTRY + 0x8000;
/// What the disk has, and nothing else.
const WRITTEN: u8 = 0xd5;
/// One VM and its tables, and no second one.
const MEMORY: u64 = RAM + (64 << 10);
/// The block device's interrupt.
const DISK: u64 = 48;

/// The disk does what it was asked for some time after, and interrupts a CPU.
fn answers(actor: &Actor, disk: &FakeDisk, share: &Arc<Share>, cpus: u64) {
    // It may be asked once more each time its guest begins again.
    for _ in 0..4 {
        let mut waited = 0;
        while disk.waiting() == 0 {
            waited += 1;
            if waited == 60 {
                return;
            }
            actor.wait(50);
        }
        actor.wait(choose(300));
        disk.perform(0, Ok(()));
        let share = share.clone();
        interrupt(actor.world(), choose(cpus), move |_, _| share.attend());
    }
}

/// Bytes come for the one VM, whether it is there or not.
fn types(actor: &Actor, line: &plinth::device::serial::ScriptedLine, cpus: u64) {
    for _ in 0..3 {
        actor.wait(choose(400));
        line.type_in(b"x");
        interrupt(actor.world(), choose(cpus), |hypervisor, machine| {
            let Some(vm) = hypervisor.vm(ONE) else { return };
            let notify = vm.serial_input(machine.now());
            hypervisor.notify(machine, &vm, notify);
        });
    }
}

/// Asks on some CPU, which answers as soon as it comes to it.
fn on_some_cpu(actor: &Actor, cpus: u64, ask: impl FnOnce(&Hypervisor, &mut Scripted) + 'static) {
    interrupt(actor.world(), choose(cpus), ask);
}

/// The VM is made to begin again, perhaps, and is taken apart; then the next one is to start.
fn monitor(actor: &Actor, hypervisor: &'static Hypervisor, cpus: u64) {
    for stop in [Stop::Restart, Stop::Forced] {
        actor.wait(choose(400));
        if choose(2) == 0 {
            on_some_cpu(actor, cpus, move |hypervisor, machine| {
                let _ = hypervisor.stop(machine, ONE, stop);
            });
        }
    }
    actor.wait(choose(400));
    // Two who want it gone at once.
    for _ in 0..2 {
        on_some_cpu(actor, cpus, |hypervisor, machine| match hypervisor.destroy(machine, ONE) {
            Ok(()) | Err(Refusal::NotCreated) => {}
            Err(other) => panic!("{other}"),
        });
    }
    actor.wait_until(50, "the next VM starts", || {
        on_some_cpu(actor, cpus, |hypervisor, machine| match hypervisor.start_vm(machine, NEXT) {
            // The memory is not there yet; or it was, when this was asked before.
            Ok(()) | Err(Refusal::Create(_) | Refusal::Running | Refusal::Stopping) => {}
            Err(other) => panic!("{other}"),
        });
        hypervisor.vm(NEXT).is_some()
    });
}

fn guests() -> [Guest; 2] {
    let one = asking("one", on_host(0, DiskPart::Whole));
    let kernel = elf(LATER, &[0x5a; 64], 0x2000);
    [one, Guest { kernel, autostart: false, ..guest("next", 1) }]
}

/// Programs for both, whatever VMIDs they get.
fn program(room: &Room) {
    let waits = Code::at(ENTRY)
        .then(&prologue(V3, 0))
        .then(&[store(gicd(0x104), 1 << (DISK - 32) | 2), store(gicd(0x820), 0x0101_0101)])
        .then(&ask());
    let one = match choose(3) {
        0 => waits.then(&[Op::Branch(LOOP)]),
        1 => waits.then(&[Op::Work(choose(300)), psci(SYSTEM_RESET)]),
        // It resets its disk.
        _ => waits.then(&[store(crate::asking::SLOT + 0x070, 0), Op::Branch(LOOP)]),
    };
    let slot = crate::asking::SLOT;
    let handler = handler(&[
        (DISK, store(slot + 0x064, 1)),
        (33, Op::Load(0x0900_0000, plinth::exit::Width::Byte, 5)),
    ]);
    let next = Code::at(LATER).then(&[Op::Mark(1), Op::Work(500), psci(SYSTEM_OFF)]);
    // Each attempt to build it takes the next one.
    for vmid in 0..=u8::MAX {
        for code in [&one, &handler, &next] {
            room.world.program(vmid, code.parts().0, code.parts().1);
        }
        room.world.program(vmid, LOOP, &wait_loop());
    }
}

#[test]
fn nothing_of_a_vm_that_has_gone_is_touched_and_all_of_it_comes_back() {
    let machine = MachineConfig { when_idle: WhenIdle::Wait, ..MachineConfig::default() };
    let bundle = bundle_for(&machine, &guests());
    explore(SCHEDULES, move || {
        let cpus = 2;
        let disk = FakeDisk::of(Inner { data: vec![WRITTEN; 64 * 512], ..Inner::default() });
        let disks = allot(std::slice::from_ref(&disk), bundle.vms());
        let share = disks.shares()[0].1.clone();
        let mut room = room(V3, cpus, &bundle, MEMORY, disks);
        program(&room);
        let (line, hypervisor, cpus) = (room.lines[0].clone(), room.hypervisor, cpus.into());
        let answering = disk.clone();
        run_with(
            &mut room,
            vec![
                Box::new(move |actor| answers(actor, &answering, &share, cpus)),
                Box::new(move |actor| types(actor, &line, cpus)),
                Box::new(move |actor| monitor(actor, hypervisor, cpus)),
            ],
        );
        assert!(room.hypervisor.vm(ONE).is_none() && disk.waiting() == 0);
        let vm = room.hypervisor.vm(NEXT).expect("it was started");
        assert_eq!(vm.status(), Status::Stopped(Stop::Off));
        drop(vm);
        // It has the frames that the other one had, and had them erased.
        assert_eq!(
            ram::rows_of(WRITTEN),
            0,
            "the disk has written to what is not its guest's any more"
        );
        room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, NEXT)).unwrap();
        for cpu in (0..room.cpus.len()).cycle().take(8) {
            room.step(cpu);
        }
        assert_eq!(room.hypervisor.memory().free, MEMORY, "all is back");
    });
}
