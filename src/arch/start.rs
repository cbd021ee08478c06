//! The boot story: from the first line of Rust to the first guest instruction.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MPIDR_EL1, VBAR_EL2};
use spin::Once;
use tock_registers::interfaces::{Readable, Writeable};

use super::maintenance;
use super::mmu::{AddressSpace, Use};
use super::power::{self, Verdict};
use super::this_cpu::ThisCpu;
use super::{
    boot, errata, gic, heap, id_registers, monitor, percpu, provoke, smp, timer, traps, world,
};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::console::settings::HEAP_SHARE;
use crate::console::{self, GuestLine, Settings};
use crate::cpu::{Cpu, Step};
use crate::device::serial::SerialLine;
use crate::firmware::entropy::Entropy;
use crate::hypervisor::{Hypervisor, INTERRUPT_KINDS, Stock};
use crate::machine::{CpuId, Machine};
use crate::manifest::{self, Manifest, View};
use crate::memory::{FramePool, Geometry, PaRange, Ram};
use crate::monitor::command::Target;
use crate::platform::board::{self, Assigned, Board, BoardUart, Conduit, Gic};
use crate::platform::driver::mmio::Mmio;
use crate::platform::driver::uart::Uart;
use crate::time::Frequency;
use crate::vgic::{GicVersion, IntId};
use crate::vm::create::Host;
use crate::vm::idregs::IdFacts;

/// The heap before the memory map is known: the board's facts and EL2's own tables fit.
const FIRST_HEAP: usize = 512 * 1024;
/// What the heap gets once memory is known: as much again as the guests' usual scrollback.
const SECOND_HEAP: u64 = 2 * HEAP_SHARE as u64;
/// As large as the largest concatenated root tables: it may stand in for any VM's.
const EMPTY_ROOT: usize = 64 * 1024;

#[repr(C, align(4096))]
struct FirstHeap([u8; FIRST_HEAP]);
static mut FIRST: FirstHeap = FirstHeap([0; FIRST_HEAP]);

static BOARD: Once<Board> = Once::new();
static HYPERVISOR: Once<Hypervisor> = Once::new();
/// The first VMs have been created.
static STARTED: AtomicBool = AtomicBool::new(false);
/// `VTTBR_EL2` of a stage 2 that maps nothing, under VMID 0.
static EMPTY_STAGE2: AtomicU64 = AtomicU64::new(0);

/// `VTCR_EL2` of every stage 2 on this machine.
pub fn vtcr() -> u64 {
    geometry().vtcr().get()
}

/// The shape of every stage 2 on this machine.
fn geometry() -> Geometry {
    let range = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange);
    Geometry::for_machine(PaRange::from_field(range))
}

/// What `VTTBR_EL2` holds while no vCPU is loaded.
pub fn empty_stage2() -> u64 {
    EMPTY_STAGE2.load(Ordering::Relaxed)
}

/// The first line of Rust on the boot CPU: early map on, on the boot stack. `tree` is what the loader
/// left in `x0`.
#[unsafe(no_mangle)]
extern "C" fn plinth_main(tree: u64) -> ! {
    VBAR_EL2.set(world::vectors());
    percpu::install_boot(boot::stack());
    traps::init();
    first_heap();

    let (board, tree) = read_board(tree);
    errata::apply(board);
    start_console(board);
    log::info!("{} on {}, {} CPUs", env!("CARGO_PKG_VERSION"), board.model, board.cpus.len());
    power_from_tree(board.psci, board.watchdog);
    smp::summon(board, this_mpidr());
    let mut frames = frame_pool(board, tree);
    let stacks = map_everything(board, tree, &mut frames);
    maintenance::invalidate_all_guests();

    let Some(frequency) = timer::frequency() else { fail("CNTFRQ_EL0 is 0: firmware must set it") };
    console::set_clock(timer::now, frequency);
    let mut machine = ThisCpu::new(CpuId(0), board);
    let cpus = smp::start_others(board, this_mpidr(), stacks, frequency);
    log::info!("{cpus} CPUs at EL2, {} MiB free", frames.free_bytes() >> 20);

    let stock = stock(board, tree, frames, cpus, frequency);
    let machine_config = stock.machine();
    let view = machine_config.view;
    let hypervisor = HYPERVISOR.call_once(|| Hypervisor::new(stock));
    console::set_names(hypervisor.configs().map(|(_, config)| config.name.clone()).collect());
    match (hypervisor.create_all(&mut machine), hypervisor.alive()) {
        (0, _) => log::info!("no guest starts by itself: the monitor can start them"),
        (_, 0) => fail("no guest could be started"),
        _ => {}
    }
    if let Some(uart) = board.uart.interrupt {
        machine.listen_to(uart.intid);
        console::listen();
    }
    if view == View::Focus {
        let _ = console::select(Some(&Target::Focus));
    }
    console::tell_keys();
    hypervisor.start_all(&mut machine);
    STARTED.store(true, Ordering::Release);
    for cpu in 1..cpus {
        machine.kick(CpuId(cpu)); // it waits for this
    }
    run(machine)
}

/// Entered at EL1: say so on the tree's UART, and stop.
#[unsafe(no_mangle)]
extern "C" fn plinth_below_el2(tree: u64) -> ! {
    first_heap();
    let start = PhysAddr::new(tree);
    let Some((blob, _)) = tree_blob(start) else { park() };
    if let Ok(uart) = Board::read_uart(blob) {
        use_uart(&uart, "");
        log::error!("entered below EL2: start the machine with virtualisation on");
    }
    give_up(blob, "not at EL2")
}

/// Run guests on this CPU until all have stopped.
pub fn run(machine: ThisCpu) -> ! {
    let hypervisor = loop {
        match HYPERVISOR.get().filter(|_| STARTED.load(Ordering::Acquire)) {
            Some(hypervisor) => break hypervisor,
            // The boot CPU kicks when it is there: WFI ends with a pending interrupt, taken or not.
            None => asm::wfi(),
        }
    };
    if let Some(board) = BOARD.get() {
        provoke::on_request(&board.chosen.bootargs, machine.id());
    }
    let mut cpu = Cpu::new(machine, hypervisor, |hypervisor, machine, _| {
        monitor::attend(hypervisor, machine);
    })
    .with_background(monitor::deadline, monitor::attend);
    while cpu.step() != Step::Finished {}
    if cpu.machine().id() == CpuId(0) {
        if hypervisor.all_refused() {
            fail("no guest could be started");
        }
        log::info!("every guest has stopped");
        monitor::finish(hypervisor, cpu.machine());
    }
    loop {
        asm::wfi();
    }
}

fn first_heap() {
    let first = PhysAddr::new(&raw mut FIRST as u64);
    if let Some(region) = Region::new(first, FIRST_HEAP as u64) {
        // SAFETY: nobody else names this memory, and this is called once.
        unsafe { heap::add(region) };
    }
}

/// Say why the machine cannot be used, and power it off.
fn fail(reason: &'static str) -> ! {
    log::error!("{reason}");
    power::off(Verdict::Failed(reason))
}

/// The affinity fields of the `MPIDR_EL1` of the CPU this runs on.
pub fn this_mpidr() -> u64 {
    // Aff3 and Aff2..Aff0 (Arm ARM, "MPIDR_EL1").
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Read the board's tree. Without one there is no UART to say so on.
fn read_board(address: u64) -> (&'static Board, Region<PhysAddr>) {
    let start = PhysAddr::new(address);
    let Some((blob, tree)) = tree_blob(start) else { park() };
    match Board::read(blob, start) {
        Ok(board) => (BOARD.call_once(|| board), tree),
        Err(error) => {
            if let Ok(uart) = Board::read_uart(blob) {
                use_uart(&uart, "");
                log::error!("the board's device tree: {error}");
            }
            give_up(blob, "the board's device tree")
        }
    }
}

/// The tree at `start`, if there is one.
fn tree_blob(start: PhysAddr) -> Option<(&'static [u8], Region<PhysAddr>)> {
    if start.raw() == 0 || !start.is_aligned(8) {
        return None;
    }
    // SAFETY: the early map covers the header; a loader that leaves no tree leaves no better address.
    let header = unsafe { &*(start.raw() as *const [u8; board::HEADER_SIZE]) };
    let size = board::total_size(header).ok()?;
    if size > 2 << 20 {
        return None;
    }
    // SAFETY: the early map covers 2 MiB from `start`, and nobody writes to the tree.
    let blob = unsafe { core::slice::from_raw_parts(start.raw() as *const u8, size) };
    Some((blob, Region::new(start, size as u64)?))
}

/// Use what there is to turn CPUs on and the machine off, before the final map exists.
fn power_from_tree(psci: Option<Conduit>, watchdog: Option<Region<PhysAddr>>) {
    if let Some(registers) = watchdog {
        boot::early_map_device(registers.start());
    }
    power::init(psci, watchdog);
}

/// Power off with nothing read of the tree yet. It says how to call the firmware.
fn give_up(blob: &[u8], reason: &'static str) -> ! {
    if let Ok((psci, watchdog)) = Board::read_power(blob) {
        power_from_tree(psci, watchdog);
    }
    power::off(Verdict::Failed(reason))
}

fn park() -> ! {
    loop {
        asm::wfi();
    }
}

fn start_console(board: &Board) {
    use_uart(&board.uart, &board.chosen.bootargs);
}

/// Log on `uart`, which the early map makes reachable.
fn use_uart(uart: &BoardUart, bootargs: &str) {
    let words = bootargs.split_ascii_whitespace();
    let level =
        words.filter_map(|word| word.strip_prefix("log=")).find_map(|text| text.parse().ok());
    boot::early_map_device(uart.registers.start());
    // SAFETY: the tree says the UART is there; it is mapped as a device by the early map, and by the
    // final one after it.
    let registers = unsafe { Mmio::new(uart.registers) };
    if let Ok(driver) = Uart::new(uart.kind, registers) {
        driver.init(uart.clock);
        console::init(driver, Settings::from_bootargs(bootargs), level.unwrap_or_default());
    }
}

/// All memory that nobody has.
fn frame_pool(board: &Board, tree: Region<PhysAddr>) -> FramePool {
    let taken: Vec<_> = [Some(boot::image()), Some(tree), board.chosen.initrd]
        .into_iter()
        .flatten()
        .map(|region| region.grow_to(PAGE_SIZE))
        .collect();
    let mut frames = FramePool::default();
    for region in board.usable_memory(&taken) {
        // SAFETY: the tree says this is memory, nobody has it, and `map_everything` maps it for good
        // before it is touched.
        frames.add(unsafe { Ram::new(region) }, &[]);
    }
    frames
}

/// The final map: the image by its parts, memory, devices; stacks with guard pages. Returns the stacks
/// of the other CPUs.
fn map_everything(
    board: &Board,
    tree: Region<PhysAddr>,
    frames: &mut FramePool,
) -> Vec<Region<PhysAddr>> {
    let mut space = AddressSpace::default();
    for region in board.usable_memory(&[]) {
        space.map(region, Use::Data);
    }
    if let Some(bundle) = board.chosen.initrd {
        space.map(bundle, Use::Constants);
    }
    space.map(tree, Use::Constants);
    space.map(boot::code(), Use::Code);
    space.map(boot::constants(), Use::Constants);
    space.map(boot::data(), Use::Data);
    space.unmap_page(boot::stack_guard());
    space.map(board.uart.registers, Use::Device);
    for registers in board.rtc.iter().chain(&board.watchdog) {
        space.map(*registers, Use::Device);
    }
    match &board.gic {
        Gic::V2 { gicd, gicc, gich, gicv, .. } => {
            for registers in [gicd, gicc, gich, gicv] {
                space.map(*registers, Use::Device);
            }
        }
        Gic::V3 { gicd, redistributors, .. } => {
            space.map(*gicd, Use::Device);
            for region in redistributors {
                space.map(*region, Use::Device);
            }
        }
    }
    let mut stacks = Vec::new();
    for _ in 1..board.cpus.len() {
        let Some(stack) = keep(frames, smp::STACK) else { fail("no memory for stacks") };
        space.unmap_page(stack.start());
        stacks.push(stack);
    }
    let more = keep(frames, SECOND_HEAP);
    let empty = keep(frames, EMPTY_ROOT as u64);
    // SAFETY: image, stacks, memory and the devices in use are mapped above.
    unsafe { space.activate() };
    if let Some(more) = more {
        // SAFETY: the frames were allocated for this and are mapped.
        unsafe { heap::add(more) };
    }
    let Some(root) = empty else { fail("no memory for the empty stage 2") };
    // SAFETY: the frames were allocated for this and are mapped.
    unsafe { core::ptr::write_bytes(root.start().raw() as *mut [u8; EMPTY_ROOT], 0, 1) };
    EMPTY_STAGE2.store(root.start().raw(), Ordering::Relaxed);
    stacks
}

/// Frames that are never given back: one aligned block of at least `bytes`.
fn keep(frames: &mut FramePool, bytes: u64) -> Option<Region<PhysAddr>> {
    let order = u8::try_from(bytes.div_ceil(PAGE_SIZE).next_power_of_two().ilog2()).ok()?;
    frames.allocate_block(order).map(|block| block.region())
}

/// Make room on the heap for the scrollback of so many guests. Where there is not enough, they have less.
fn with_scrollback(settings: Settings, guests: usize, frames: &mut FramePool) -> Settings {
    let mut added = 0;
    for _ in 0..settings.more_blocks(guests, frames.free_bytes()) {
        let Some(block) = keep(frames, settings.block() as u64) else { break };
        // SAFETY: the frames were allocated for this; all memory is mapped.
        unsafe { heap::add(block) };
        added += 1;
    }
    let Some(less) = settings.shared(guests, added) else { return settings };
    log::warn!(
        "console: {guests} guests have {} KiB of scrollback each, not {}: memory is short",
        less.scrollback >> 10,
        settings.scrollback >> 10
    );
    less
}

/// What the guests of the bundle are made from.
fn stock(
    board: &Board,
    tree: Region<PhysAddr>,
    mut frames: FramePool,
    cpus: u8,
    frequency: Frequency,
) -> Stock {
    let Some(region) = board.chosen.initrd else {
        fail("there is no bundle: pass one as the initrd")
    };
    // SAFETY: the loader put the bundle there, it is mapped read-only, and no frame of it is handed out.
    let bundle: &'static [u8] = unsafe {
        core::slice::from_raw_parts(
            region.start().raw() as *const u8,
            usize::try_from(region.size()).unwrap_or(0),
        )
    };
    let manifest = match manifest::read(bundle) {
        Ok(manifest) => manifest,
        Err(error) => {
            log::error!("the bundle: {error}");
            fail("the bundle cannot be used")
        }
    };
    let settings = Settings::for_machine(manifest.machine(), &board.chosen.bootargs);
    console::set_settings(with_scrollback(settings, manifest.vms().len(), &mut frames));
    let (gic_version, gicv) = match &board.gic {
        Gic::V2 { gicv, .. } => (GicVersion::V2, Some(gicv.start())),
        Gic::V3 { .. } => (GicVersion::V3, None),
    };
    let geometry = geometry();
    let host = Host {
        gic_version,
        gicv,
        geometry,
        cpus,
        frequency,
        virtual_timer: board.timer.virt.intid,
        interrupts: own_interrupts(board),
        epoch: epoch(board),
        assigned: assigned(board, tree, &manifest),
        id_registers: id_registers::for_guests(&IdFacts {
            ipa_bits: u8::try_from(geometry.ipa_bits()).unwrap_or(u8::MAX),
            gicv3: gic_version == GicVersion::V3,
        }),
    };
    let line = |id, name: &str| -> Arc<dyn SerialLine> { Arc::new(GuestLine::new(id, name)) };
    Stock::new(host, manifest, frames, seed(board), Box::new(line))
}

/// The devices of the board that each guest has for its own.
fn assigned(board: &Board, tree: Region<PhysAddr>, manifest: &Manifest<'_>) -> Box<[Assigned]> {
    let wishes: Vec<_> = manifest.vms().iter().map(|vm| vm.assign.as_slice()).collect();
    if wishes.iter().all(|wish| wish.is_empty()) {
        return Box::default();
    }
    let granted = tree_blob(tree.start()).map(|(blob, _)| board.assign(blob, &wishes));
    granted.and_then(Result::ok).unwrap_or_default().into()
}

/// The hypervisor's own interrupts, as [`Host::interrupts`] has them.
fn own_interrupts(board: &Board) -> [(IntId, &'static str); INTERRUPT_KINDS] {
    let (Gic::V2 { maintenance, .. } | Gic::V3 { maintenance, .. }) = &board.gic;
    let uart = board.uart.interrupt.map_or(IntId(0), |interrupt| interrupt.intid);
    [
        (gic::KICK, "kick"),
        (board.timer.hypervisor.intid, "deadline"),
        (board.timer.virt.intid, "virtual timer"),
        (maintenance.intid, "maintenance"),
        (uart, "uart"),
    ]
}

/// Seconds since 1970, as the board's clock has it; 0 without one.
fn epoch(board: &Board) -> u32 {
    board.rtc.map_or(0, |rtc| {
        // SAFETY: the tree says a PL031 is there, it is mapped as a device, and RTCDR is its first
        // register (DDI 0224).
        unsafe { (rtc.start().raw() as *const u32).read_volatile() }
    })
}

/// A generator seeded from what the firmware gives, stirred with the counter.
fn seed(board: &Board) -> Option<Entropy> {
    let mut bytes = board.chosen.rng_seed.clone();
    if let Some(seed) = board.chosen.kaslr_seed {
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    if bytes.is_empty() {
        log::warn!("the board's tree has no rng-seed: guests get no entropy");
        return None;
    }
    bytes.extend_from_slice(&timer::now().0.to_le_bytes());
    Entropy::from_seed(&bytes)
}
