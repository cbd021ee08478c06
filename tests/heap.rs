//! Memory of the hypervisor's own: what a VM takes of the heap is there before it is made, or the VM is refused and nothing is
//! left of it; what comes later takes nothing, or may be refused it.

#![allow(
    unsafe_code,
    reason = "an allocator is, and a disk reads the memory it is lent by addresses"
)]

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/disk.rs"]
mod disk;

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Arc;

use common::*;
use counting::{Counting, counted, judged, live};
use disk::FakeDisk;
use plinth::addr::{PAGE_SIZE, PhysAddr};
use plinth::device::serial::{ScriptedLine, SerialLine};
use plinth::firmware::entropy::Entropy;
use plinth::host::alarm::Alarm;
use plinth::host::allotment::{Allotment, Reader};
use plinth::host::share::Share;
use plinth::host::{Devices, HostDisk};
use plinth::hypervisor::{HeapAccess, HeapReport, Hypervisor, Progress, Refusal, Stock};
use plinth::machine::fake::{Scripted, World};
use plinth::machine::{CpuId, Machine};
use plinth::manifest::{
    self, CardConfig, ConsolePort, DiskConfig, DiskContents, DiskName, DiskPart, HostDiskConfig,
    Keys, MachineConfig, Manifest, NetworkConfig, VmConfig, VsockConfig, WhenIdle,
};
use plinth::memory::elastic::UNIT;
use plinth::memory::{Block, Dirty, FramePool, Ram, SharedPool, Store};
use plinth::net::{MacAddr, PortConfig};
use plinth::sched::VmId;
use plinth::time::Ticks;
use plinth::vcpu::VcpuId;
use plinth::vgic::GicVersion::{self, V2, V3};
use plinth::vgic::IntId;
use plinth::vm::create::CreateError;
use plinth::vm::loading::BootError;
use proptest::prelude::*;

#[global_allocator]
static HEAP: Counting = Counting;

/// What the machine that is used here has.
const MEMORY: u64 = 96 << 20;

thread_local! {
    /// How much is free, as the hypervisor is told.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    /// What it asked for last.
    static ASKED: Cell<u64> = const { Cell::new(0) };
    /// The most that it ever asked for.
    static MOST_ASKED: Cell<u64> = const { Cell::new(0) };
    /// How many allocations there were that may fail, and which of them does.
    static MAY_FAIL: Cell<u64> = const { Cell::new(0) };
    static FAILS: Cell<u64> = const { Cell::new(u64::MAX) };
}

fn reserve(_: &mut FramePool, bytes: u64) -> bool {
    ASKED.set(bytes);
    MOST_ASKED.set(MOST_ASKED.get().max(bytes));
    bytes <= LEFT.get()
}

/// What a VM is to have.
#[derive(Clone, Debug)]
struct Shape {
    gic: GicVersion,
    vcpus: u8,
    units: u64,
    disks: u8,
    host_disks: u8,
    cards: u8,
    ports: u8,
    agent: bool,
    keys: bool,
    socket: bool,
    group: bool,
    balloon: bool,
    gzip: bool,
    /// How many VMs there are already.
    others: usize,
    /// Memory is in pieces.
    pieces: bool,
}

const LARGEST: Shape = Shape {
    gic: V2,
    vcpus: 8,
    units: 16,
    disks: 4,
    host_disks: 4,
    cards: 8,
    ports: 8,
    agent: true,
    keys: true,
    socket: true,
    group: true,
    balloon: true,
    gzip: true,
    others: 1,
    pieces: true,
};

const SMALLEST: Shape = Shape {
    vcpus: 1,
    disks: 0,
    host_disks: 0,
    cards: 0,
    ports: 0,
    agent: false,
    keys: false,
    socket: false,
    group: false,
    balloon: false,
    gzip: false,
    pieces: false,
    ..LARGEST
};

fn shapes() -> impl Strategy<Value = Shape> {
    let counts = (1u8..=8, 2u64..=16, 0u8..=4, 0u8..=4, 0u8..=8, 0u8..=8, 1usize..=40);
    let flags = (any::<[bool; 8]>(), prop::sample::select(vec![V2, V3]));
    (counts, flags).prop_map(|(counts, (flags, gic))| {
        let (vcpus, units, disks, host_disks, cards, ports, others) = counts;
        let [agent, keys, socket, group, balloon, gzip, pieces, few] = flags;
        let others = if few { 1 } else { others };
        Shape {
            gic,
            vcpus,
            units,
            disks,
            host_disks,
            cards,
            ports,
            agent,
            keys,
            socket,
            group,
            balloon,
            gzip,
            others,
            pieces,
        }
    })
}

/// A gzip file with a flat image in one stored block (RFC 1951, 1952).
fn gzip() -> Vec<u8> {
    let contents = [0x5a; 1000];
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    let size = u16::try_from(contents.len()).unwrap();
    file.extend(size.to_le_bytes());
    file.extend((!size).to_le_bytes());
    file.extend(contents);
    file.extend(crc32fast::hash(&contents).to_le_bytes());
    file.extend(u32::from(size).to_le_bytes());
    file
}

impl Shape {
    fn guests(&self) -> Vec<Guest> {
        let disk = |number, contents| DiskConfig {
            contents,
            space: None,
            read_only: false,
            serial: format!("disk{number}"),
        };
        let part = |number| {
            let part = DiskPart::Range(u64::from(number) << 12, Some(1 << 12));
            DiskContents::Host(HostDiskConfig { disk: DiskName::Number(0), part })
        };
        let port = |number: u8, to: &str| ConsolePort { name: format!("p{number}"), to: to.into() };
        let card = |number| {
            let port = PortConfig::new(MacAddr([2, 0, 0, 0, 0, number]));
            CardConfig { network: 0, port }
        };
        let group = self.group.then(|| "group".to_owned());
        let socket = |cid| VsockConfig { group: group.clone(), ..VsockConfig::new(cid) };
        let one = Guest {
            memory: self.units * UNIT,
            kernel: if self.gzip { gzip() } else { guest("", 1).kernel },
            disks: (0..self.disks)
                .map(|number| disk(number, DiskContents::Empty(UNIT)))
                .chain((0..self.host_disks).map(|number| disk(number, part(number))))
                .collect(),
            nets: (0..self.cards).map(card).collect(),
            ports: (0..self.ports).map(|number| port(number, "other-0")).collect(),
            agent: self.agent,
            keys: if self.keys { Keys::Virtio } else { Keys::Uart },
            vsock: self.socket.then(|| socket(3)),
            balloon: self.balloon.then_some(UNIT),
            ..guest("one", self.vcpus)
        };
        let others = (0..self.others).map(|number| Guest {
            ports: match number {
                0 => (0..self.ports).map(|number| port(number, "one")).collect(),
                _ => Vec::new(),
            },
            vsock: (self.socket && number == 0).then(|| socket(4)),
            ..guest(&format!("other-{number}"), 8)
        });
        [one].into_iter().chain(others).collect()
    }
}

/// `bytes` of memory, and what keeps its free pieces apart.
fn memory(bytes: u64, pieces: bool) -> (FramePool, Vec<Block<Dirty>>) {
    let mut pool = FramePool::new();
    let factor = if pieces { 2 } else { 1 };
    pool.add(Ram::from_heap(factor * bytes, UNIT).unwrap(), &[]);
    let mut kept = Vec::new();
    if pieces {
        // Of every two units one is free, and some pages of others.
        let units: Vec<_> =
            (0..bytes / UNIT * 2).map(|_| pool.allocate_block(9).unwrap()).collect();
        let mut units = units.into_iter();
        while let (Some(free), Some(keep)) = (units.next(), units.next()) {
            pool.free_block(free);
            kept.push(keep);
        }
    }
    (pool, kept)
}

/// A disk of the machine's, of which each VM has a part.
fn allot(vms: &[VmConfig]) -> Allotment {
    let mut devices = Devices::new(32);
    let disk = FakeDisk::new(1 << 10) as Arc<dyn HostDisk>;
    devices.add_disk(PhysAddr::new(0xa00_0000), IntId(48), Ok(disk));
    let mut pool = pool(1 << 16);
    let frame = Store::take(&mut pool, 4096).unwrap();
    let reader = Reader { frame: &frame, wait: &mut |_| false };
    let alarm: &'static Alarm = Box::leak(Box::default());
    let share = |disk| Share::new(disk, || Ticks(0), Ticks(100), alarm);
    let allotment = Allotment::new(vms, &devices, reader, share);
    frame.release(&mut pool);
    allotment
}

fn written(guests: &[Guest]) -> Manifest<'static> {
    let sources: Vec<_> = guests.iter().map(|it| it.map(String::as_str, Vec::as_slice)).collect();
    let network = NetworkConfig { name: "net", uplink: false };
    let machine = MachineConfig { when_idle: WhenIdle::Wait, ..MachineConfig::default() };
    let bytes = manifest::write(&machine, &[network], &sources).unwrap();
    manifest::read(Box::leak(bytes.into_boxed_slice())).unwrap()
}

/// A machine with one CPU on which nothing has been made yet.
struct Bench {
    hypervisor: Hypervisor,
    machine: Scripted,
    pool: Arc<SharedPool>,
    _kept: Vec<Block<Dirty>>,
}

const ONE: VmId = VmId(0);

impl Bench {
    fn new(shape: &Shape) -> Self {
        let others = u64::try_from(shape.others).unwrap();
        Self::with_memory(shape, MEMORY + others * (RAM + PAGE_SIZE * 16))
    }

    /// The same with so much memory, in bytes.
    fn with_memory(shape: &Shape, bytes: u64) -> Self {
        let manifest = written(&shape.guests());
        let allotment = allot(manifest.vms());
        let line: Arc<dyn SerialLine> = Arc::new(ScriptedLine::default());
        let (frames, kept) = memory(bytes, shape.pieces);
        let entropy = Entropy::from_seed(&[7; 64]);
        let heap = HeapAccess { reserve, report: HeapReport::default };
        let make_line = Box::new(move |_, _: &str| line.clone());
        let stock = Stock::new(host(shape.gic, 1), manifest, frames, entropy, make_line);
        let pool = stock.pool().clone();
        let hypervisor = Hypervisor::new(stock.on_machine(bytes, heap).with_disks(allotment));
        let world = World::new(1, Box::new(|_, _| {}));
        LEFT.set(u64::MAX);
        Self { hypervisor, machine: Scripted::new(CpuId(0), world, 4), pool, _kept: kept }
    }

    fn create(&mut self, id: VmId) -> Result<(), Refusal> {
        let vm = self.hypervisor.create(&mut self.machine, id)?;
        self.hypervisor.start(&mut self.machine, &vm, VcpuId(0));
        Ok(())
    }

    /// Loads a VM to the end. Returns whether it could be.
    fn load(&mut self, id: VmId) -> bool {
        let vm = self.hypervisor.vm(id).unwrap();
        loop {
            // The fake's own record.
            self.machine.upkeep().take();
            match self.hypervisor.load_step(&mut self.machine, &vm) {
                Ok(Progress::More) => {}
                Ok(Progress::All) => return true,
                Ok(Progress::NoFrames) => panic!("it never gave any up"),
                Err(_) => return false,
            }
        }
    }

    fn destroy(&mut self, id: VmId) {
        self.hypervisor.destroy(&mut self.machine, id).unwrap();
        self.reap();
    }

    fn reap(&mut self) {
        while self.hypervisor.reap(&mut self.machine) {}
        self.machine.upkeep().take();
    }

    fn free(&self) -> u64 {
        self.hypervisor.memory().free
    }
}

/// What a step of loading may take, which is free beside what a VM takes while another one is loaded.
const STEP: u64 = 64 << 10;

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap()
}

/// Whether no more is allocated than there was, but for some nodes of the pool's lists, which are where its blocks are.
fn as_much(before: i64) -> bool {
    live() - before < 2 << 10
}

/// Makes all VMs, the one of this shape last, and loads that.
fn takes_what_was_reserved(shape: &Shape) {
    let mut bench = Bench::new(shape);
    for id in (0..bench.hypervisor.vm_count()).rev() {
        let id = VmId(u16::try_from(id).unwrap());
        let (made, taken) = counted(|| bench.create(id));
        made.unwrap();
        let reserved = signed(ASKED.get() - STEP);
        assert!(taken.most <= reserved, "{taken:?} of {reserved}: {id:?} of {shape:?}");
    }
    let vm = bench.hypervisor.vm(ONE).unwrap();
    loop {
        bench.machine.upkeep().take();
        let (step, taken) = counted(|| bench.hypervisor.load_step(&mut bench.machine, &vm));
        let free = if taken.most > signed(STEP / 4) { ASKED.replace(0) } else { STEP };
        assert!(taken.most <= signed(free), "{taken:?} of {free}: {shape:?}");
        if step.unwrap() == Progress::All {
            break;
        }
    }
}

#[test]
fn the_largest_vms_take_what_was_reserved_for_them() {
    for gic in BOTH {
        takes_what_was_reserved(&Shape { gic, ..LARGEST });
        takes_what_was_reserved(&Shape { gic, others: 127, pieces: false, ..LARGEST });
        takes_what_was_reserved(&Shape { gic, ..SMALLEST });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_vm_takes_what_was_reserved_for_it(shape in shapes()) {
        takes_what_was_reserved(&shape);
    }
}

/// Memory of which every other page is somebody else's: the list of a VM's blocks is as long as it has pages.
#[test]
fn more_is_reserved_where_memory_is_in_pages() {
    let shape = Shape { pieces: false, units: 4, ..SMALLEST };
    let mut bench = Bench::new(&shape);
    let mut pool = bench.pool.lock();
    let pages: Vec<_> = std::iter::from_fn(|| pool.frames.allocate_block(0)).collect();
    let mut kept = Vec::new();
    for page in pages {
        if page.region().start().is_aligned(2 * PAGE_SIZE) {
            pool.frames.free_block(page);
        } else {
            kept.push(page);
        }
    }
    drop(pool);
    MOST_ASKED.set(0);
    let (made, taken) = counted(|| bench.create(ONE));
    made.unwrap();
    let reserved = signed(MOST_ASKED.get() - STEP);
    assert!(taken.most <= reserved, "{taken:?} of {reserved}");
    bench.destroy(ONE);
    // With no more than was asked for at first it is refused.
    let (free, heap) = (bench.free(), live());
    bench.create(ONE).unwrap();
    bench.destroy(ONE);
    LEFT.set(MOST_ASKED.get() - 1);
    let refused = bench.create(ONE).unwrap_err().to_string();
    assert!(refused.contains("in too many pieces"), "{refused}");
    assert_eq!(bench.free(), free);
    assert!(as_much(heap), "{} bytes more", live() - heap);
}

#[test]
fn with_less_heap_a_vm_is_refused_and_with_enough_it_is_made() {
    let mut bench = Bench::new(&LARGEST);
    bench.create(ONE).unwrap();
    let asked = ASKED.get();
    bench.destroy(ONE);
    let (free, heap) = (bench.free(), live());
    for left in (0..asked).step_by(usize::try_from(asked / 50).unwrap()).chain([asked - 1]) {
        LEFT.set(left);
        let (refused, taken) = counted(|| bench.create(ONE));
        let Err(Refusal::Create(CreateError::Boot(BootError::Heap))) = refused else {
            panic!("{left} of {asked}: {refused:?}")
        };
        assert_eq!((bench.free(), bench.hypervisor.alive()), (free, 0));
        assert!(taken.count == 0 && bench.hypervisor.vm(ONE).is_none(), "{taken:?}");
    }
    LEFT.set(asked);
    bench.create(ONE).unwrap();
    // There is none when it is to be loaded.
    LEFT.set(STEP - 1);
    assert!(!bench.load(ONE));
    bench.reap();
    assert!(bench.hypervisor.vm(ONE).is_none());
    assert_eq!(bench.free(), free);
    assert!(as_much(heap), "{} bytes more", live() - heap);
    LEFT.set(asked);
    bench.create(ONE).unwrap();
    assert!(bench.load(ONE));
}

#[test]
fn a_vm_gets_the_memory_of_one_that_is_being_taken_apart() {
    let shape = Shape { others: 1, ..SMALLEST };
    let has_room = |mib: &u64| Bench::with_memory(&shape, mib << 20).create(ONE).is_ok();
    let mib = (1..200).find(has_room).unwrap();
    for steps in 0..8 {
        let mut bench = Bench::with_memory(&shape, mib << 20);
        bench.create(ONE).unwrap();
        let refused = bench.create(VmId(1)).unwrap_err();
        assert!(matches!(refused, Refusal::Create(_)), "there is room for one: {refused}");
        bench.hypervisor.destroy(&mut bench.machine, ONE).unwrap();
        // An interrupt waits, so that is left off after each step.
        bench.machine.kick(CpuId(0));
        for _ in 0..steps {
            bench.hypervisor.reap(&mut bench.machine);
        }
        let made = bench.create(VmId(1));
        assert!(made.is_ok(), "after {steps} steps: {made:?}");
        assert!(!bench.hypervisor.reap(&mut bench.machine), "nothing is left");
    }
}

#[test]
fn vms_that_are_built_in_turns_each_have_what_was_reserved_for_them() {
    const OTHER: VmId = VmId(1);
    let mut bench = Bench::new(&Shape { others: 1, ..SMALLEST });
    let step = |bench: &mut Bench, id| {
        let Bench { hypervisor, machine, .. } = bench;
        hypervisor.create_step(machine, id).map(|vm| vm.is_some())
    };
    let free = bench.free();
    assert!(!step(&mut bench, ONE).unwrap());
    let one = ASKED.get();
    assert!(!step(&mut bench, OTHER).unwrap());
    let both = ASKED.get();
    assert!(both > one);
    for id in [ONE, OTHER] {
        bench.create(id).unwrap();
    }
    [ONE, OTHER].into_iter().for_each(|id| bench.destroy(id));
    let heap = live();
    // While the first is not whole, what it was promised is not for the second.
    assert!(!step(&mut bench, ONE).unwrap());
    LEFT.set(both - 1);
    assert!(matches!(
        step(&mut bench, OTHER),
        Err(Refusal::Create(CreateError::Boot(BootError::Heap)))
    ));
    assert!(bench.hypervisor.vm(ONE).is_none(), "it is not there yet");
    LEFT.set(both);
    let mut whole = [false; 2];
    for turn in 0..200 {
        let (id, whole) = ([ONE, OTHER][turn % 2], &mut whole[turn % 2]);
        *whole = *whole || step(&mut bench, id).unwrap();
    }
    assert_eq!((whole, bench.hypervisor.alive()), ([true; 2], 2));
    assert!(matches!(step(&mut bench, ONE), Err(Refusal::Running)));
    // Not started yet.
    [ONE, OTHER].into_iter().for_each(|id| bench.destroy(id));
    assert_eq!(bench.free(), free);
    assert!(as_much(heap), "{} bytes more", live() - heap);
}

/// Whether an allocation succeeds: one of those does not whose callers can do without, as they say by `try_reserve`.
fn all_but_one() -> bool {
    if std::thread::panicking() || !Backtrace::force_capture().to_string().contains("try_reserve") {
        return true;
    }
    let number = MAY_FAIL.get();
    MAY_FAIL.set(number + 1);
    number != FAILS.get()
}

/// Does something for which allocation `number` fails of those that may. Returns what came of it, and whether there was one.
fn failing<T>(number: u64, what: impl FnOnce() -> T) -> (T, bool) {
    MAY_FAIL.set(0);
    FAILS.set(number);
    let done = judged(all_but_one, what);
    (done, MAY_FAIL.get() > number)
}

#[test]
fn each_allocation_that_may_fail_fails_and_nothing_is_left() {
    let shape = Shape { disks: 1, host_disks: 1, cards: 1, ports: 1, ..LARGEST };
    let mut bench = Bench::new(&shape);
    bench.create(ONE).unwrap();
    bench.load(ONE);
    bench.destroy(ONE);
    let (free, heap) = (bench.free(), live());
    let (mut refused, mut number, mut goes_on) = (0, 0, true);
    while goes_on {
        let made;
        (made, goes_on) = failing(number, || bench.create(ONE));
        match made {
            Ok(()) => bench.destroy(ONE),
            Err(why) => {
                assert!(!why.to_string().is_empty());
                refused += 1;
            }
        }
        assert_eq!((bench.free(), bench.hypervisor.alive()), (free, 0), "{number}");
        assert!(as_much(heap), "{number}: {} bytes more", live() - heap);
        number += 1;
    }
    assert!(refused > 3 && number > refused, "{refused} of {number}");
    let (mut refused, mut number, mut goes_on) = (0, 0, true);
    while goes_on {
        bench.create(ONE).unwrap();
        let loaded;
        (loaded, goes_on) = failing(number, || bench.load(ONE));
        if loaded {
            bench.destroy(ONE);
        } else {
            bench.reap();
            refused += 1;
        }
        assert_eq!((bench.free(), bench.hypervisor.alive()), (free, 0), "{number}");
        assert!(as_much(heap), "{number}: {} bytes more", live() - heap);
        number += 1;
    }
    assert!(refused > 2, "{refused} of {number}");
    bench.create(ONE).unwrap();
    assert!(bench.load(ONE));
}

#[test]
fn a_vm_with_everything_that_runs_out_of_frames_anywhere_gives_everything_back() {
    let shape = Shape { pieces: false, ..LARGEST };
    let mut bench = Bench::new(&shape);
    let all = bench.free();
    bench.create(ONE).unwrap();
    let needed = all - bench.free();
    let mut made = 0;
    for pages in 0..40 {
        let mut bench = Bench::with_memory(&shape, needed + (4 << 12) - (pages << 12));
        let free = bench.free();
        if bench.create(ONE).is_ok() {
            made += 1;
            continue;
        }
        bench.machine.upkeep().take();
        let heap = live();
        for _ in 0..16 {
            assert!(bench.create(ONE).is_err());
            bench.machine.upkeep().take();
            assert_eq!((bench.free(), bench.hypervisor.alive()), (free, 0), "{pages}");
        }
        assert!(as_much(heap), "{pages}: {} bytes more", live() - heap);
    }
    assert!((1..40).contains(&made), "{made}");
}

/// A log that lines are put together for, and that nobody reads.
struct Nowhere;

impl std::fmt::Write for Nowhere {
    fn write_str(&mut self, _: &str) -> std::fmt::Result {
        Ok(())
    }
}

impl log::Log for Nowhere {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let _ = std::fmt::write(&mut Nowhere, *record.args());
    }

    fn flush(&self) {}
}

/// Each is loaded to its first instruction and taken apart again. There are more of them than VMIDs.
#[test]
#[cfg_attr(miri, ignore = "takes long there")]
fn a_thousand_lives_leave_frames_and_heap_as_they_were() {
    let devices = Shape {
        disks: 1,
        host_disks: 1,
        cards: 1,
        ports: 1,
        socket: true,
        group: true,
        ..SMALLEST
    };
    let mut bench = Bench::new(&Shape { vcpus: 2, units: 2, gzip: true, ..devices });
    let mut first = None;
    for life in 0..1000 {
        bench.create(ONE).unwrap();
        assert!(bench.load(ONE));
        bench.destroy(ONE);
        let now = (bench.free(), live());
        // What is kept from one to the next is made in the first.
        if life > 0 {
            assert_eq!(
                *first.get_or_insert(now),
                now,
                "life {life}: bytes of memory that are free, bytes of the heap that are not"
            );
        }
    }
}

#[test]
fn crashes_and_resets_take_no_heap_and_an_end_little() {
    log::set_logger(&Nowhere).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let mut bench = Bench::new(&LARGEST);
    bench.create(ONE).unwrap();
    assert!(bench.load(ONE));
    let vm = bench.hypervisor.vm(ONE).unwrap();
    let ((), reported) = counted(|| vm.report_serror(VcpuId(0)));
    assert_eq!(reported.count, 0);
    let (_, reset) = counted(|| vm.reboot(Ticks(0)));
    assert_eq!(reset.count, 0);
    drop(vm);
    bench.machine.upkeep().take();
    let ((), ended) = counted(|| bench.destroy(ONE));
    assert!(ended.most < 16 << 10, "{ended:?}");
}
