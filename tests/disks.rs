//! Whole-hypervisor scenarios: disks come with a VM, are made ready before its first instruction, and go with it.

use crate::common::*;
use plinth::addr::Ipa;
use plinth::exit::Width;
use plinth::hypervisor::Refusal;
use plinth::machine::fake::Op;
use plinth::manifest::{DiskConfig, DiskContents};
use plinth::sched::VmId;
use plinth::vgic::GicVersion::V3;
use plinth::vm::{Status, Stop};

/// An image of a disk of three chunks, of which the first and the last are stored as they are.
fn image() -> Vec<u8> {
    let mut image = b"PLDISK\0\x01".to_vec();
    image.extend((3u64 << 16).to_le_bytes());
    image.extend(65536u32.to_le_bytes());
    image.extend(2u32.to_le_bytes());
    for (number, offset) in [(0u32, 56u64), (2, 56 + 65536)] {
        image.extend(number.to_le_bytes());
        image.extend(65536u32.to_le_bytes());
        image.extend(offset.to_le_bytes());
    }
    image.resize(56 + 2 * 65536, 0x77);
    image
}

fn disk(contents: DiskContents<Vec<u8>>, space: Option<u64>) -> DiskConfig<Vec<u8>, String> {
    DiskConfig { contents, space, read_only: false, serial: "disk".into() }
}

fn with_disks(name: &str, disks: Vec<DiskConfig<Vec<u8>, String>>) -> Guest {
    Guest { disks, ..guest(name, 1) }
}

/// What is free, and what the VMs have, are all there is.
fn adds_up(room: &Room) {
    let memory = room.hypervisor.memory();
    let of_vm =
        |vm: std::sync::Arc<plinth::vm::Vm>| vm.memory_size() + vm.disk_size() + vm.table_size();
    let taken: u64 = room.hypervisor.vms().map(of_vm).sum();
    assert_eq!(memory.free, memory.total - taken);
}

#[test]
fn disks_are_there_at_the_first_instruction_and_their_memory_comes_back() {
    let empty = || disk(DiskContents::Empty(1 << 20), Some(64 << 10));
    let with_image = || disk(DiskContents::Image(image()), Some(8192));
    let guests = [
        with_disks("one", vec![with_image(), empty()]),
        with_disks("two", vec![with_image()]),
        guest("idle", 1),
    ];
    let memory = 3 * RAM + (2 << 20);
    let mut room = Room::of(V3, 1, 4, &bundle(&guests), memory, Box::new(|_, _| {}));
    room.program(2, ENTRY, &wait_loop()).program(2, LOOP, &wait_loop());
    let slot = 0x0a00_0000;
    for vm in 0..2 {
        // DeviceID, and the low word of the capacity.
        let ops = [
            Op::Load(slot + 0x008, Width::Word, 5),
            Op::BranchUnless(5, 2, LOOP),
            Op::Load(slot + 0x100, Width::Word, 5),
            Op::BranchUnless(5, 384, LOOP),
            Op::Mark(1),
            psci(SYSTEM_OFF),
        ];
        room.program(vm, ENTRY, &ops).program(vm, LOOP, &wait_loop());
    }
    adds_up(&room);
    room.run(4000);
    for vm in 0..2 {
        assert_eq!(room.marks(vm, 0), [1]);
        let of_room = room.vm(vm.into());
        assert_eq!(of_room.status(), Status::Stopped(Stop::Off));
        assert_eq!(of_room.device_name(Ipa::new(slot)), "virtio-blk disk (192 KiB)");
    }
    assert!(room.vm(0).disk_size() > room.vm(1).disk_size() + (2 << 16));
    adds_up(&room);
    // The last to have the image gives it back.
    for vm in [1, 0] {
        room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, VmId(vm))).unwrap();
        room.run(100);
        assert!(room.hypervisor.vm(VmId(vm)).is_none());
    }
    adds_up(&room);
}

#[test]
fn a_vm_whose_image_turns_out_to_be_damaged_is_refused_and_the_others_run() {
    let mut damaged = image();
    damaged[24 + 16] = 9; // chunk 2 claims to be another, behind the disk's end
    let bad = with_disks("bad", vec![disk(DiskContents::Image(damaged), None)]);
    let memory = 2 * RAM + (2 << 20);
    let guests = [bad, with_disks("good", vec![disk(DiskContents::Image(image()), None)])];
    let mut room = Room::of(V3, 1, 4, &bundle(&guests), memory, Box::new(|_, _| {}));
    room.program(1, ENTRY, &[Op::Mark(1), psci(SYSTEM_OFF)]);
    room.run(4000);
    assert!(room.hypervisor.vm(VmId(0)).is_none(), "nothing is left of it");
    assert_eq!(room.marks(1, 0), [1]);
    adds_up(&room);
}

#[test]
fn a_vm_whose_disks_do_not_fit_is_refused_with_the_reason_and_leaves_nothing_behind() {
    let mut short = image();
    short[8] = 1; // no whole sectors
    for (contents, why) in [
        (DiskContents::Empty(1 << 30), "not enough memory: disk 2"),
        (DiskContents::Image(short), "disk 2: its disk has 196609 bytes"),
    ] {
        let disks = vec![disk(DiskContents::Image(image()), None), disk(contents, None)];
        let guests = [guest("good", 1), Guest { autostart: false, ..with_disks("bad", disks) }];
        let memory = 3 * RAM + (1 << 20);
        let mut room = Room::of(V3, 1, 4, &bundle(&guests), memory, Box::new(|_, _| {}));
        let free = room.hypervisor.memory().free;
        let refused = room.ask(0, |hypervisor, machine| hypervisor.create(machine, VmId(1)));
        let Err(Refusal::Create(error)) = refused.map(drop) else { panic!("it was created") };
        let told = error.to_string();
        let wanted = why.trim_start_matches("not enough memory: ");
        assert!(told.contains(wanted), "{told}");
        assert_eq!(room.hypervisor.memory().free, free);
    }
}
