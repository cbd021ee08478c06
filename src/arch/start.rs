//! The boot story: from the first line of Rust to the first guest instruction.

use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::asm;
use aarch64_cpu::registers::MPIDR_EL1;
use spin::Once;
use tock_registers::interfaces::Readable;

use super::maintenance;
use super::mmu::{AddressSpace, Use};
use super::power::{self, Verdict};
use super::this_cpu::ThisCpu;
use super::{
    boot, errata, heap, host, id_registers, mitigation, monitor, percpu, provoke, smp, supply,
    timer, traps, watchdog,
};
use crate::addr::{PAGE_SIZE, PhysAddr, Region};
use crate::console::{self, Settings};
use crate::cpu::{Cpu, Step};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::watchdog::{GRACE, LOOKS};
use crate::machine::{CpuId, Machine};
use crate::manifest::View;
use crate::memory::{FramePool, Ram};
use crate::monitor::command::Target;
use crate::platform::board::{self, Board, BoardUart, Conduit, Gic};
use crate::platform::driver::mmio::Mmio;
use crate::platform::driver::uart::Uart;
use crate::time::{Frequency, Ticks};
use crate::vgic::IntId;
use crate::vm::dump;

/// The heap before the memory map is known: the board's facts and EL2's own tables fit.
const FIRST_HEAP: usize = 512 * 1024;

#[repr(C, align(4096))]
struct FirstHeap(MaybeUninit<[u8; FIRST_HEAP]>);
/// Not a part of `.bss`, which is filled with zeros.
#[unsafe(link_section = ".uninit")]
static mut FIRST: FirstHeap = FirstHeap(MaybeUninit::uninit());

static BOARD: Once<Board> = Once::new();
static HYPERVISOR: Once<Hypervisor> = Once::new();
/// The first VMs have been created.
static STARTED: AtomicBool = AtomicBool::new(false);
/// `VTTBR_EL2` of a stage 2 that maps nothing, under VMID 0.
static EMPTY_STAGE2: AtomicU64 = AtomicU64::new(0);

/// The hypervisor, once it is made.
pub fn hypervisor() -> Option<&'static Hypervisor> {
    HYPERVISOR.get()
}

/// What `VTTBR_EL2` holds while no vCPU is loaded.
pub fn empty_stage2() -> u64 {
    EMPTY_STAGE2.load(Ordering::Relaxed)
}

/// The first line of Rust on the boot CPU: early map on, on the boot stack. `tree` is what the loader
/// left in `x0`.
#[unsafe(no_mangle)]
extern "C" fn plinth_main(tree: u64) -> ! {
    percpu::install_boot(boot::stack());
    mitigation::begin();
    traps::init();
    first_heap();

    let (board, tree) = read_board(tree);
    mitigation::apply(CpuId(0), board, errata::apply(board));
    id_registers::note(CpuId(0));
    start_console(board);
    log::info!("{} on {}, {} CPUs", env!("CARGO_PKG_VERSION"), board.model, board.cpus.len());
    power_from_tree(board.psci, board.watchdog);
    smp::summon(board, this_mpidr());
    let mut frames = frame_pool(board);
    let stacks = map_everything(board, &mut frames);
    maintenance::invalidate_all_guests();

    let Some(frequency) = timer::frequency() else { fail("CNTFRQ_EL0 is 0: firmware must set it") };
    console::set_clock(timer::now, frequency);
    let mut machine = ThisCpu::new(CpuId(0), board);
    let cpus = smp::start_others(board, this_mpidr(), stacks, frequency);
    log::info!("{cpus} CPUs at EL2");
    mitigation::report();

    if board.chosen.bootargs.split_ascii_whitespace().any(|word| word == host::ARGUMENT) {
        host::find(&mut machine, &mut frames, &tree);
    }
    let stock = supply::stock(board, &tree, &mut machine, frames, cpus, frequency);
    drop(tree);
    let machine_config = stock.machine();
    let view = machine_config.view;
    let hypervisor = HYPERVISOR.call_once(|| Hypervisor::new(stock));
    heap::grow_from(more_heap);
    console::set_names(hypervisor.configs().map(|(_, config)| config.name.clone()).collect());
    match (hypervisor.create_all(&mut machine), hypervisor.alive()) {
        (0, _) => log::info!("no guest starts by itself: the monitor can start them"),
        (_, 0) => fail("no guest could be started"),
        _ => {}
    }
    let memory = hypervisor.memory();
    log::info!("{} KiB of memory kept, {} MiB free", memory.kept >> 10, memory.free >> 20);
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

/// Frames for the heap, which are never given back.
fn more_heap(bytes: u64) -> Option<Region<PhysAddr>> {
    HYPERVISOR.get()?.keep(bytes)
}

/// A device of the board that is Plinth's own has interrupted.
fn device_interrupt(hypervisor: &Hypervisor, machine: &mut ThisCpu, interrupt: IntId) {
    if !host::attend(interrupt) {
        monitor::attend(hypervisor, machine);
    }
}

/// When something is to be done that no guest waits for.
fn background_due(hypervisor: &Hypervisor) -> Option<Ticks> {
    if dump::is_waiting() {
        return Some(Ticks(0));
    }
    // This is asked at each access to a device: numbers are compared, not cases.
    let never = |due: Option<Ticks>| due.map_or(u64::MAX, |due| due.0);
    let due = never(monitor::deadline(hypervisor)).min(never(host::deadline()));
    (due != u64::MAX).then_some(Ticks(due))
}

/// Do what is due.
fn background_work(hypervisor: &Hypervisor, machine: &mut ThisCpu) {
    if dump::go_on() {
        return;
    }
    host::check_disks();
    monitor::attend(hypervisor, machine);
}

/// Run guests on this CPU until all have stopped.
pub fn run(mut machine: ThisCpu) -> ! {
    let hypervisor = loop {
        match HYPERVISOR.get().filter(|_| STARTED.load(Ordering::Acquire)) {
            Some(hypervisor) => break hypervisor,
            // The boot CPU kicks when it is there: WFI ends with a pending interrupt, taken or not.
            None => asm::wfi(),
        }
    };
    let bootargs = BOARD.get().map_or("", |board| &board.chosen.bootargs);
    let interval = watchdog_interval(bootargs, hypervisor.frequency());
    let watches_itself = interval.is_some_and(|interval| machine.watch_itself(interval));
    let mut cpu = Cpu::new(machine, hypervisor, device_interrupt)
        .with_background(background_due, background_work);
    if let Some(interval) = interval {
        let looks = if watches_itself { LOOKS + GRACE } else { LOOKS };
        cpu = cpu.with_watchdog(interval, looks, super::crash::another_hangs);
        if hypervisor.cpus() == 1 && !watches_itself {
            log::warn!("no watchdog: there is one CPU, and FIQs are the Secure world's");
        }
    }
    if let Some(board) = BOARD.get() {
        if provoke::hangs_late(board, cpu.machine().id()) {
            (0..1000).for_each(|_| _ = cpu.step());
        }
        provoke::on_request(board, cpu.machine().id());
    }
    while cpu.step() != Step::Finished {}
    watchdog::end();
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

/// The time between two looks of the watchdog, by the boot argument `watchdog=SECONDS`: the time after which a CPU that gives no
/// sign of life is said to hang.
fn watchdog_interval(bootargs: &str, frequency: Frequency) -> Option<Ticks> {
    const SECONDS: u64 = 10;
    let words = bootargs.split_ascii_whitespace();
    let given = words.filter_map(|word| word.strip_prefix("watchdog=")).next();
    let seconds = match given {
        Some("off") => return None,
        Some(text) => text.parse().ok().filter(|seconds| (1..=3600).contains(seconds)),
        None => None,
    };
    let micros = seconds.unwrap_or(SECONDS) * 1_000_000;
    Some(frequency.micros(micros / u64::from(LOOKS)))
}

fn first_heap() {
    let first = PhysAddr::new(&raw mut FIRST as u64);
    if let Some(region) = Region::new(first, FIRST_HEAP as u64) {
        // SAFETY: nobody else names this memory, and this is called once.
        unsafe { heap::add(region) };
    }
}

/// Say why the machine cannot be used, and power it off.
pub fn fail(reason: &'static str) -> ! {
    log::error!("{reason}");
    power::off(Verdict::Failed(reason))
}

/// The affinity fields of the `MPIDR_EL1` of the CPU this runs on.
pub fn this_mpidr() -> u64 {
    // Aff3 and Aff2..Aff0 (Arm ARM, "MPIDR_EL1").
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Read the board's tree. Without one there is no UART to say so on. The tree's copy is as good as the tree,
/// whose place is memory like any other then.
fn read_board(address: u64) -> (&'static Board, Vec<u8>) {
    let start = PhysAddr::new(address);
    let Some((blob, tree)) = tree_blob(start) else { park() };
    match Board::read(blob, start) {
        Ok(mut board) => {
            board.release(tree);
            (BOARD.call_once(|| board), blob.to_vec())
        }
        Err(error) => {
            let blob = surroundings(start);
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
    // The room that some loaders leave behind the tree is memory like any other.
    let blob = board::extent(blob).ok().and_then(|used| blob.get(..used)).unwrap_or(blob);
    Some((blob, Region::new(start, blob.len() as u64)?))
}

/// All of the early map from `start` on: one thing that may be wrong with a tree is where it says that it ends.
fn surroundings(start: PhysAddr) -> &'static [u8] {
    // SAFETY: the early map covers 2 MiB from `start`, and nobody writes there.
    unsafe { core::slice::from_raw_parts(start.raw() as *const u8, 2 << 20) }
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
fn frame_pool(board: &Board) -> FramePool {
    let taken: Vec<_> = [Some(boot::image()), board.chosen.initrd]
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

/// The registers of the devices in use, as whole 2 MiB blocks where that covers no memory: one entry each, and nobody but
/// their drivers goes there.
fn device_blocks(board: &Board) -> impl Iterator<Item = Region<PhysAddr>> + '_ {
    let gic = match &board.gic {
        Gic::V2 { gicd, gicc, gich, gicv, .. } => alloc::vec![*gicd, *gicc, *gich, *gicv],
        Gic::V3 { gicd, redistributors, .. } => [&[*gicd], &redistributors[..]].concat(),
    };
    let others = [Some(board.uart.registers), board.rtc, board.watchdog];
    gic.into_iter().chain(others.into_iter().flatten()).map(|registers| {
        let block = registers.grow_to(2 << 20);
        let has_memory = board.memory.iter().any(|memory| memory.overlaps(&block));
        if has_memory { registers } else { block }
    })
}

/// The final map: the image by its parts, memory, devices; stacks with guard pages. Returns the stacks
/// of the other CPUs.
fn map_everything(board: &Board, frames: &mut FramePool) -> Vec<smp::Stacks> {
    let mut space = AddressSpace::default();
    for region in board.usable_memory(&[boot::image()]) {
        space.map(region, Use::Data);
    }
    if let Some(bundle) = board.chosen.initrd {
        space.map(bundle, Use::Constants);
    }
    space.map(boot::code(), Use::Code);
    space.map(boot::constants(), Use::Constants);
    space.map(boot::data(), Use::Data);
    space.unmap_page(boot::stack_guard());
    space.unmap_page(percpu::boot_emergency_guard());
    for registers in device_blocks(board) {
        space.map(registers, Use::Device);
    }
    let mut stacks = Vec::new();
    for _ in 1..board.cpus.len() {
        let Some(stack) = heap::keep(frames, smp::STACKS) else { fail("no memory for stacks") };
        let stack = smp::Stacks::new(stack);
        stack.guards().into_iter().for_each(|guard| space.unmap_page(guard));
        stacks.push(stack);
    }
    // It may stand in for any VM's.
    let empty = heap::keep(frames, supply::geometry().root_size());
    // SAFETY: image, stacks, memory and the devices in use are mapped above.
    unsafe { space.activate() };
    let Some(root) = empty else { fail("no memory for the empty stage 2") };
    let size = usize::try_from(root.size()).unwrap_or(0);
    // SAFETY: the frames were allocated for this and are mapped.
    unsafe { core::ptr::write_bytes(root.start().raw() as *mut u8, 0, size) };
    EMPTY_STAGE2.store(root.start().raw(), Ordering::Relaxed);
    stacks
}
