//! What the device tree says about this machine.
//!
//! A raw Image gets the tree's address in x0. QEMU starts an ELF file without one and leaves the tree
//! at the start of RAM, which is where we look then.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use fdt::Fdt;

use crate::MAX_CPUS;
use crate::uart::Console;

/// Where the board's RAM starts.
const RAM_BASE: u64 = 0x4000_0000;

/// The interrupt controller and its registers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GicAt {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// GICD.
        distributor: u64,
        /// GICC.
        cpu_interface: u64,
    },
    /// GICv3: distributor and the first redistributor.
    V3 {
        /// GICD.
        distributor: u64,
        /// GICR.
        redistributors: u64,
    },
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    /// What was in x0 at entry.
    pub x0: u64,
    /// Where the tree is.
    pub tree: u64,
    /// The tree's own size.
    pub tree_size: u64,
    affinities: [u64; MAX_CPUS],
    cpus: usize,
    /// The first byte of RAM.
    pub ram: u64,
    /// How much RAM follows.
    pub ram_size: u64,
    /// The interrupt controller.
    pub gic: GicAt,
    /// The PL011's address, or that of its subset as Xen has it.
    pub uart: Option<u64>,
    /// The PL031's address.
    pub rtc: Option<u64>,
    /// The PL061's address.
    pub gpio: Option<u64>,
    /// Whether `/psci` says `hvc`.
    pub psci_by_hvc: bool,
}

impl Machine {
    /// The affinity of each CPU of the tree, in its order.
    pub fn cpus(&self) -> &[u64] {
        &self.affinities[..self.cpus]
    }
}

struct Once(UnsafeCell<Option<Machine>>, AtomicBool);

// SAFETY: written once by the boot CPU before any other is started, read-only afterwards.
unsafe impl Sync for Once {}

static MACHINE: Once = Once(UnsafeCell::new(None), AtomicBool::new(false));

/// This machine, as read at boot.
pub fn machine() -> &'static Machine {
    assert!(MACHINE.1.load(Ordering::Acquire), "no device tree read yet");
    // SAFETY: the flag says that the one write has been made.
    unsafe { (*MACHINE.0.get()).as_ref().expect("written before the flag") }
}

/// The device tree itself.
pub fn tree() -> Fdt<'static> {
    // SAFETY: `read_tree` found a tree there, and nothing of ours lies over it.
    unsafe { Fdt::from_ptr(machine().tree as *const u8) }.expect("it was one at boot")
}

/// What the command line has behind `name=`, if that is a number.
pub fn number(name: &str) -> Option<u64> {
    let tree = tree();
    let mut words = tree.chosen().bootargs().unwrap_or_default().split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
}

/// The tree, and where it is.
fn find_tree(x0: u64) -> (u64, Option<Fdt<'static>>) {
    let at = if x0 == 0 { RAM_BASE } else { x0 };
    // SAFETY: the address is in RAM by the boot protocol; `from_ptr` looks for the magic first.
    (at, unsafe { Fdt::from_ptr(at as *const u8) }.ok())
}

/// Range number `index` of the registers of the first node that is one of these.
fn registers(tree: &Fdt<'_>, compatible: &[&str], index: usize) -> Option<u64> {
    let node = tree.find_compatible(compatible)?;
    Some(node.reg()?.nth(index)?.starting_address as u64)
}

/// The console of the tree, if there is a tree and one in it.
pub(crate) fn console(x0: u64) -> Option<Console> {
    let tree = find_tree(x0).1?;
    let pl011 = registers(&tree, &["arm,pl011"], 0).map(Console::Pl011);
    pl011.or_else(|| registers(&tree, &["arm,sbsa-uart"], 0).map(Console::Generic))
}

pub(crate) fn read_tree(x0: u64) {
    let (at, tree) = find_tree(x0);
    let tree = tree.expect("a device tree in x0 or at RAM's start");
    let mut affinities = [0; MAX_CPUS];
    let mut cpus = 0;
    for cpu in tree.cpus().take(MAX_CPUS) {
        affinities[cpus] = cpu.ids().first() as u64;
        cpus += 1;
    }
    let ram = tree.memory().regions().next().expect("a memory region");
    let registers = |compatible: &[&str], index| registers(&tree, compatible, index);
    const V2: &[&str] = &["arm,cortex-a15-gic", "arm,gic-400"];
    const V3: &[&str] = &["arm,gic-v3"];
    let gic = match (registers(V2, 0), registers(V2, 1), registers(V3, 0), registers(V3, 1)) {
        (Some(distributor), Some(cpu_interface), _, _) => GicAt::V2 { distributor, cpu_interface },
        (_, _, Some(distributor), Some(redistributors)) => {
            GicAt::V3 { distributor, redistributors }
        }
        _ => panic!("neither a GICv2 nor a GICv3 in the device tree"),
    };
    let method = tree.find_node("/psci").and_then(|node| node.property("method")?.as_str());
    let machine = Machine {
        x0,
        tree: at,
        tree_size: tree.total_size() as u64,
        affinities,
        cpus,
        ram: ram.starting_address as u64,
        ram_size: ram.size.expect("a size of the memory region") as u64,
        gic,
        uart: registers(&["arm,pl011", "arm,sbsa-uart"], 0),
        rtc: registers(&["arm,pl031"], 0),
        gpio: registers(&["arm,pl061"], 0),
        psci_by_hvc: method == Some("hvc"),
    };
    // SAFETY: only the boot CPU runs, and nothing has been handed out before the flag is set.
    unsafe { *MACHINE.0.get() = Some(machine) };
    MACHINE.1.store(true, Ordering::Release);
}
