//! The whole hypervisor over scripted CPUs: VMs whose disks are parts of a machine's disk come and go, and nothing that such a
//! disk still reads or writes is anybody else's meanwhile.

use std::sync::Arc;

use crate::asking::*;
use crate::common::*;
use crate::disk::{FakeDisk, Inner};
use plinth::addr::{Ipa, PhysAddr};
use plinth::exit::Width;
use plinth::host::allotment::NoPart;
use plinth::host::devices::Unusable;
use plinth::host::gpt::{Damage, NotFound};
use plinth::host::share::Share;
use plinth::host::{Devices, IoError, Missing};
use plinth::hypervisor::Refusal;
use plinth::machine::fake::Op;
use plinth::manifest::{DiskConfig, DiskName, DiskPart, VmConfig};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vgic::{GicVersion, IntId};
use plinth::vm::{Status, Stop};

const V3: GicVersion = GicVersion::V3;

struct Stage {
    room: Room,
    disk: Arc<FakeDisk>,
    share: Arc<Share>,
}

impl Stage {
    /// One guest that has a part of a disk, and asks for something before it does `ops`; and one that waits.
    fn new(ops: &[Op]) -> Self {
        let guests = [asking("one", on_host(0, DiskPart::Whole)), guest("idle", 1)];
        let manifest = bundle(&guests);
        let disk = FakeDisk::new(64);
        let disks = allot(std::slice::from_ref(&disk), manifest.vms());
        let share = disks.shares()[0].1.clone();
        let memory = 2 * RAM + (512 << 10);
        let room = Room::with_disks(host(V3, 1), 4, &manifest, memory, disks, Box::new(|_, _| {}));
        let all = [&ask()[..], ops].concat();
        room.program(0, ENTRY, &all).program(0, LOOP, &wait_loop());
        room.program(1, ENTRY, &wait_loop()).program(1, LOOP, &wait_loop());
        Self { room, disk, share }
    }

    /// Runs until the disk has the request.
    fn run_to_disk(&mut self) {
        for _ in 0..400 {
            if self.disk.waiting() > 0 {
                return;
            }
            self.room.run(10);
        }
        panic!("the guest does not ask");
    }

    fn answer(&mut self, result: Result<(), IoError>) {
        self.disk.perform(0, result);
        self.share.attend();
    }
}

#[test]
fn a_vcpu_that_resets_its_disk_goes_on_when_that_has_let_go_of_its_memory() {
    let mut stage = Stage::new(&[
        Op::Mark(1),
        Op::Store(SLOT + 0x070, Width::Word, 0),
        Op::Mark(2),
        psci(SYSTEM_OFF),
    ]);
    stage.run_to_disk();
    stage.room.run(500);
    assert_eq!(stage.room.marks(0, 0), [1]);
    assert!(stage.room.vm(0).is_held_up());
    stage.answer(Ok(()));
    stage.room.run(500);
    assert_eq!(stage.room.marks(0, 0), [1, 2]);
    assert_eq!(stage.room.vm(0).status(), Status::Stopped(Stop::Off));
}

#[test]
fn a_vm_that_is_reset_is_loaded_when_the_disk_has_let_go_of_its_memory() {
    let mut stage = Stage::new(&[Op::Mark(1), psci(SYSTEM_RESET)]);
    stage.run_to_disk();
    stage.room.run(2000);
    assert_eq!((stage.room.marks(0, 0), stage.room.vm(0).resets()), (vec![1], 1));
    assert!(stage.room.vm(0).is_loading() && stage.room.vm(0).is_held_up());
    assert_eq!(stage.disk.waiting(), 1);
    // It does as it was told before: now it fails, which is told to nobody.
    stage.answer(Err(IoError::Device));
    assert!(!stage.room.vm(0).is_held_up());
    stage.run_to_disk();
    // It asks again, and may have reset itself again.
    assert!(stage.room.vm(0).resets() >= 1);
}

#[test]
fn what_a_vm_had_is_given_back_when_the_disk_has_let_go_of_it() {
    for silent in [false, true] {
        let mut stage = Stage::new(&[Op::Branch(LOOP)]);
        stage.run_to_disk();
        let before = stage.room.hypervisor.memory().free;
        stage.room.ask(0, |hypervisor, machine| hypervisor.destroy(machine, VmId(0))).unwrap();
        stage.room.run(500);
        assert!(stage.room.hypervisor.vm(VmId(0)).is_none());
        assert_eq!(stage.room.hypervisor.memory().free, before, "its frames stay");
        // Nobody takes its place while it is there.
        let again = stage.room.ask(0, |hypervisor, machine| hypervisor.create(machine, VmId(0)));
        assert!(matches!(again.map(drop), Err(Refusal::Stopping)));
        if silent {
            stage.share.look(Ticks(100));
            assert!(stage.disk.lock().dead);
        } else {
            stage.answer(Ok(()));
        }
        stage.room.ask(0, |_, _| ());
        stage.room.run(500);
        let free = stage.room.hypervisor.memory().free;
        assert!(free >= before + RAM, "{free} after {before}");
        let again = stage.room.ask(0, |hypervisor, machine| hypervisor.create(machine, VmId(0)));
        assert!(again.is_ok());
    }
}

#[test]
fn a_request_of_a_paused_vm_comes_back_and_the_guest_sees_it_when_it_goes_on() {
    let wait = ENTRY + 4 * 12;
    let mut stage = Stage::new(&[
        Op::Load(SLOT + 0x060, Width::Word, 5),
        Op::BranchUnless(5, 1, wait),
        Op::Mark(7),
        Op::Branch(LOOP),
    ]);
    stage.run_to_disk();
    stage.room.ask(0, |hypervisor, machine| hypervisor.pause(machine, VmId(0))).unwrap();
    stage.room.run(100);
    stage.answer(Ok(()));
    stage.room.ask(0, |_, _| ());
    stage.room.run(100);
    assert_eq!(stage.room.marks(0, 0), []);
    assert!(!stage.room.vm(0).has_lent_memory());
    stage.room.ask(0, |hypervisor, machine| hypervisor.resume(machine, VmId(0))).unwrap();
    stage.room.run(100);
    assert_eq!(stage.room.marks(0, 0), [7]);
}

#[test]
fn a_vm_whose_part_is_not_there_is_refused_with_the_reason_and_the_others_run() {
    let guests = [
        asking("none", on_host(1, DiskPart::Whole)),
        asking("one", on_host(0, DiskPart::Whole)),
        asking("two", on(DiskName::Serial("fake".into()), DiskPart::Range(512, None))),
    ];
    let manifest = bundle(&guests);
    let disk = FakeDisk::of(Inner {
        data: vec![0; 4096],
        serial: "fake",
        prompt: true,
        ..Inner::default()
    });
    let disks = allot(&[disk], manifest.vms());
    let memory = 3 * RAM + (512 << 10);
    let mut room = Room::with_disks(host(V3, 1), 4, &manifest, memory, disks, Box::new(|_, _| {}));
    for (vm, told) in [
        (0, "disk 1: this machine has no virtio disk 1: it has 1"),
        (2, "disk 1: disk 1 of one has some of it, and not both are read-only"),
    ] {
        let refused = room.ask(0, |hypervisor, machine| hypervisor.create(machine, VmId(vm)));
        let Err(Refusal::Create(error)) = refused.map(drop) else { panic!("it was created") };
        assert_eq!(error.to_string(), told);
    }
    let vm = room.vm(1);
    assert_eq!(vm.device_name(Ipa::new(SLOT)), "virtio-blk d (4 KiB of a host disk)");
}

/// A disk of 64 sectors with these partitions.
fn partitioned(partitions: &[(u32, &str, u64, u64)]) -> Vec<u8> {
    let mut disk = vec![0; 64 * 512];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    let mut entries = vec![0; 4 * 128];
    for (number, name, first, last) in partitions {
        let entry = &mut entries[(*number as usize - 1) * 128..][..128];
        entry[..16].fill(0xaf);
        entry[16..32].fill(0x11);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (unit, to) in name.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
            to.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let mut header = [0; 92];
    let mut set = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"EFI PART\0\0\x01\0");
    set(12, &92u32.to_le_bytes());
    for (word, at) in [1u64, 63, 3, 60].into_iter().zip((24..).step_by(8)) {
        set(at, &word.to_le_bytes());
    }
    set(72, &2u64.to_le_bytes());
    set(80, &4u32.to_le_bytes());
    set(84, &128u32.to_le_bytes());
    set(88, &crc32fast::hash(&entries).to_le_bytes());
    let sum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    put(512, &header);
    put(1024, &entries);
    disk
}

#[test]
fn parts_are_found_by_number_name_and_range_and_nobody_has_anothers() {
    let data = partitioned(&[(1, "root", 10, 19), (3, "häuser", 20, 29)]);
    let disk = FakeDisk::of(Inner { data, prompt: true, ..Inner::default() });
    let whole = vec![0; 4096];
    let other = FakeDisk::of(Inner {
        data: whole,
        serial: "other",
        read_only: true,
        prompt: true,
        ..Inner::default()
    });
    let read_only = |disk: DiskConfig<Vec<u8>, String>| DiskConfig { read_only: true, ..disk };
    let named = |name: &str| on_host(0, DiskPart::Named(name.into()));
    let serial = |text: &str| DiskName::Serial(text.into());
    let wishes = [
        (named("root"), Ok((10, 10))),
        (on_host(0, DiskPart::Partition(3)), Ok((20, 10))),
        (named("häuser"), Err("disk 1 of vm1 has some of it, and not both are read-only")),
        (named("swap"), Err("the disk has no such partition")),
        (on_host(0, DiskPart::Partition(2)), Err("the disk has no such partition")),
        (on_host(0, DiskPart::Partition(9)), Err("the disk has no such partition")),
        (on_host(0, DiskPart::Range(30 * 512, Some(512))), Ok((30, 1))),
        (read_only(on_host(0, DiskPart::Range(31 * 512, None))), Ok((31, 33))),
        (read_only(on_host(0, DiskPart::Range(40 * 512, Some(1024)))), Ok((40, 2))),
        (
            on_host(0, DiskPart::Range(63 * 512, Some(512))),
            Err("disk 1 of vm7 has some of it, and not both are read-only"),
        ),
        (
            on_host(0, DiskPart::Range(63 * 512, Some(1024))),
            Err("it ends 32 KiB from the start of the disk, which has 32 KiB"),
        ),
        (
            read_only(on_host(0, DiskPart::Range(64 * 512, None))),
            Err("it ends 32 KiB from the start of the disk, which has 32 KiB"),
        ),
        (
            on(serial("other"), DiskPart::Whole),
            Err("the disk can only be read, so it has to be `read_only = true`"),
        ),
        (read_only(on(serial("other"), DiskPart::Whole)), Ok((0, 8))),
        (
            read_only(on(serial("othe"), DiskPart::Whole)),
            Err("none of the machine's 2 virtio disks has the serial othe"),
        ),
        (
            read_only(on_host(1, DiskPart::Partition(1))),
            Err("the disk has no partition table: it has no GPT header"),
        ),
        (on_host(2, DiskPart::Whole), Err("this machine has no virtio disk 2: it has 2")),
    ];
    let guests: Vec<_> = wishes
        .iter()
        .zip(0..)
        .map(|((disk, _), number)| Guest {
            disks: vec![disk.clone()],
            ..guest(&format!("vm{number}"), 1)
        })
        .collect();
    // Written by hand: the manifest would refuse some of it.
    let vms: Vec<VmConfig> = guests.iter().map(described).collect();
    let allotment = allot(&[disk, other], &vms);
    for (number, (wish, found)) in (0..).zip(wishes) {
        let part = allotment.part(VmId(number), 0);
        let told = part.map(|place| (place.first, place.sectors)).map_err(|why| why.to_string());
        assert_eq!(told, found.map_err(str::to_owned), "{wish:?}");
    }
    assert_eq!(allotment.shares().len(), 2);
}

/// A VM with the disks of this guest.
fn described(guest: &Guest) -> VmConfig {
    let payload = bundle(&[crate::common::guest("any", 1)]).vms()[0].kernel;
    guest.map(String::clone, |_| payload)
}

#[test]
fn a_disk_that_cannot_be_read_or_does_not_answer_is_told_as_that() {
    let vms =
        [described(&Guest { disks: vec![on_host(0, DiskPart::Partition(1))], ..guest("one", 1) })];
    let silent = FakeDisk::new(64);
    assert_eq!(
        allot(std::slice::from_ref(&silent), &vms).part(VmId(0), 0).err(),
        Some(NoPart::Silent)
    );
    assert!(silent.lock().dead, "it may still have been about to write");
    let refused = allot(&[silent], &vms).part(VmId(0), 0).unwrap_err();
    assert_eq!(refused.to_string(), "the disk cannot be read: the disk is out of order");
    let empty = FakeDisk::of(Inner { data: vec![0; 4096], prompt: true, ..Inner::default() });
    let no_table = NotFound::NoTable(Damage::NoHeader);
    assert_eq!(allot(&[empty], &vms).part(VmId(0), 0).err(), Some(NoPart::Partition(no_table)));
    // A machine without any, and one whose disk is of no use.
    let told = allot_on(&Devices::new(0), &vms).part(VmId(0), 0).unwrap_err().to_string();
    assert_eq!(told, "this machine has no virtio disk: its device tree has no place for one");
    let mut devices = Devices::new(32);
    devices.add_disk(PhysAddr::new(0), IntId(48), Err(Unusable::NotCoherent));
    let why = allot_on(&devices, &vms).part(VmId(0), 0).unwrap_err();
    assert!(matches!(why, NoPart::Missing(Missing::Unusable { why: Unusable::NotCoherent, .. })));
}
