//! Steps that boot the hypervisor with a device tree that is wrong, which QEMU would mend: so the tree, the Image and the bundle are
//! put into memory, and three instructions stand for the boot loader. Each is to boot, or to end with words about the tree; where
//! the tree has no console that works, in silence, but it is to end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::command;
use super::many::{Guest, manifest};
use super::{Bench, Step};
use crate::board::{Board, Hardware};
use crate::bundle::Bundle;
use crate::qemu::{self, Boot, Machine, Virtio};
use crate::rpi4::Tree;
use crate::{build, paths};

/// A machine that does not end is killed.
const SECONDS: u64 = 60;

/// How many machines run at once.
const AT_ONCE: usize = 2;

const MEMORY: u64 = 512 << 20;
const IMAGE: u64 = 0x4020_0000;
const LOADER: u64 = 0x4400_0000;
const TREE: u64 = 0x4700_0000;
const BUNDLE: u64 = 0x4800_0000;

/// What comes of a tree.
enum End {
    /// The guest runs.
    Boots,
    /// The guest runs, and this is said.
    BootsAnd(&'static str),
    /// This is said, and the machine is turned off.
    Says(&'static str),
    /// This is said, and the machine is not turned off: nobody knows how.
    Stays(&'static str),
    /// There is nowhere to say anything: it is turned off.
    Silent,
}

use End::{Boots, BootsAnd, Says, Silent, Stays};

const FAILED: &str = "plinth: power off (failed: ";

/// What is done to the tree.
enum Change {
    /// To its nodes.
    Nodes(fn(&mut Tree) -> Result<()>),
    /// To its bytes; they stand before others that are no part of it.
    Bytes(fn(&mut Vec<u8>)),
}

use Change::{Bytes, Nodes};

struct Case {
    name: &'static str,
    change: Change,
    end: End,
}

const INTC: &str = "/intc@8000000";
const UART: &str = "/pl011@9000000";
const RAM: &str = "/memory@40000000";

const fn case(name: &'static str, change: Change, end: End) -> Case {
    Case { name, change, end }
}

const CASES: &[Case] = &[
    case("unchanged", Nodes(|_| Ok(())), Boots),
    case("no-interrupt-controller", Nodes(|tree| tree.remove(INTC)), Says("has no GICv2 or GICv3")),
    case(
        "registers-that-no-cpu-reaches",
        Nodes(|tree| tree.set(INTC, "reg", reg(&[(1 << 60, 0x1_0000), (0x80a_0000, 0xf6_0000)]))),
        Says("/intc@8000000 in the device tree has a wrong \"reg\""),
    ),
    case(
        "too-few-redistributors",
        Nodes(|tree| tree.set(INTC, "reg", reg(&[(0x800_0000, 0x1_0000), (0x80a_0000, 0x1_0000)]))),
        Says("redistributor"),
    ),
    case(
        "registers-in-memory",
        Nodes(|tree| {
            tree.set(INTC, "reg", reg(&[(0x5000_0000, 0x1_0000), (0x80a_0000, 0xf6_0000)]))
        }),
        Says("memory where the registers of the interrupt controller are"),
    ),
    case("no-cpus", Nodes(|tree| tree.remove("/cpus")), Says("has no cpus")),
    case(
        "cpus-without-a-cpu",
        Nodes(|tree| {
            tree.remove("/cpus/cpu@0")?;
            tree.remove("/cpus/cpu@1")
        }),
        Says("has no cpu"),
    ),
    case(
        "one-cpu-twice",
        Nodes(|tree| tree.set("/cpus/cpu@1", "reg", 0u32)),
        Says("/cpus/cpu@1 in the device tree has a wrong \"reg\""),
    ),
    case("not-the-cpu-that-boots", Nodes(|tree| tree.remove("/cpus/cpu@0")), Boots),
    case("300-cpus", Nodes(|tree| cpus(tree, 300)), BootsAnd("CPU 0x101 does not come up")),
    case("4000-cpus", Nodes(|tree| cpus(tree, 4000)), Says("no memory for as much as this")),
    case("no-memory", Nodes(|tree| tree.remove(RAM)), Says("has no memory")),
    case(
        "memory-without-a-byte",
        Nodes(|tree| tree.set(RAM, "reg", reg(&[(0x4000_0000, 0)]))),
        Says("has no memory"),
    ),
    case("memory-that-overlaps", Nodes(overlapping), Boots),
    case(
        "memory-that-is-not-the-images",
        Nodes(|tree| tree.set(RAM, "reg", reg(&[(0x4800_0000, 0x1000_0000)]))),
        Boots,
    ),
    case(
        "memory-of-two-pages",
        Nodes(|tree| {
            tree.remove("/chosen")?;
            tree.set(RAM, "reg", reg(&[(0x5000_0000, 0x2000)]))
        }),
        Says("no memory for stacks"),
    ),
    case(
        "memory-that-no-cpu-reaches",
        Nodes(|tree| memory(tree, 1 << 60, 1 << 40)),
        Says("/memory@1000000000000000 in the device tree has a wrong \"reg\""),
    ),
    case(
        "memory-that-this-cpu-does-not-reach",
        Nodes(|tree| memory(tree, 1 << 45, 1 << 30)),
        Boots,
    ),
    case(
        "memory-to-the-end-of-addresses",
        Nodes(|tree| memory(tree, 1 << 63, 1 << 63)),
        Says("in the device tree has a wrong \"reg\""),
    ),
    case(
        "memory-where-devices-are",
        Nodes(|tree| tree.set(RAM, "reg", reg(&[(0, 0x6000_0000)]))),
        Says("memory where the registers of the console are"),
    ),
    case(
        "all-memory-reserved",
        Nodes(|tree| {
            tree.set("/reserved-memory", "#address-cells", 2u32)?;
            tree.set("/reserved-memory", "#size-cells", 2u32)?;
            tree.set("/reserved-memory", "ranges", Vec::<u8>::new())?;
            tree.set("/reserved-memory/all@0", "reg", reg(&[(0, 1 << 48)]))
        }),
        Says("no memory for stacks"),
    ),
    case("no-timer", Nodes(|tree| tree.remove("/timer")), Says("has no generic timer")),
    case(
        "timer-without-interrupts",
        Nodes(|tree| tree.set("/timer", "interrupts", vec![0u8; 12])),
        Says("/timer in the device tree has a wrong \"interrupts\""),
    ),
    case(
        "psci-by-no-instruction",
        Nodes(|tree| tree.set("/psci", "method", "carrier pigeon")),
        Stays("/psci in the device tree has a wrong \"method\""),
    ),
    case("no-psci", Nodes(|tree| tree.remove("/psci")), Stays("has no psci")),
    case("no-bundle", Nodes(|tree| tree.remove("/chosen")), Says("there is no bundle")),
    case(
        "bundle-that-ends-before-it-begins",
        Nodes(|tree| tree.set("/chosen", "linux,initrd-end", 1u32)),
        Says("/chosen in the device tree has a wrong \"linux,initrd-end\""),
    ),
    case(
        "bundle-that-no-cpu-reaches",
        Nodes(|tree| {
            tree.set("/chosen", "linux,initrd-start", 1u64 << 60)?;
            tree.set("/chosen", "linux,initrd-end", (1u64 << 60) + 0x1000)
        }),
        Says("/chosen in the device tree has a wrong"),
    ),
    case(
        "bundle-outside-memory",
        Nodes(|tree| {
            tree.set("/chosen", "linux,initrd-start", 0x8_0000_0000u64)?;
            tree.set("/chosen", "linux,initrd-end", 0x8_0000_1000u64)
        }),
        Says("the bundle where it has no memory"),
    ),
    case("numbers-of-no-cells", Nodes(|tree| tree.set("/", "#address-cells", 0u32)), Silent),
    case("phandles-in-a-circle", Nodes(circle), Boots),
    case(
        "interrupts-that-lead-elsewhere",
        Nodes(|tree| tree.set(UART, "interrupt-parent", 0x7777u32)),
        Says("/pl011@9000000 in the device tree has a wrong \"interrupt-parent\""),
    ),
    case("no-uart", Nodes(|tree| tree.remove(UART)), Silent),
    case("uart-without-registers", Nodes(|tree| tree.set(UART, "reg", Vec::<u8>::new())), Silent),
    case("5000-nodes", Nodes(|tree| nodes(tree, 5000)), Says("too many nodes")),
    case(
        "1-mib-of-nodes",
        Nodes(|tree| nodes(tree, 40_000)),
        Says("no memory for as much as this"),
    ),
    case(
        "1-mib-of-a-property",
        Nodes(|tree| tree.set("/chosen", "rng-seed", vec![7u8; 1 << 20])),
        Says("no memory for as much as this"),
    ),
    case(
        "200-kib-of-a-property",
        Nodes(|tree| tree.set("/chosen", "rng-seed", vec![7u8; 200 << 10])),
        Boots,
    ),
    case(
        "200-kib-of-arguments",
        Nodes(|tree| tree.set("/chosen", "bootargs", "a ".repeat(100 << 10).as_str())),
        Says("/chosen in the device tree has a wrong \"bootargs\""),
    ),
    case(
        "10000-pieces-of-memory",
        Nodes(|tree| tree.set(RAM, "reg", reg(&[(0x4000_0000, MEMORY); 10_000]))),
        Says("/memory@40000000 in the device tree has a wrong \"reg\""),
    ),
    case("4000-nodes", Nodes(|tree| nodes(tree, 3900)), Says("no memory for as much as this")),
    case(
        "nodes-40-deep",
        Nodes(|tree| tree.set(&"/down".repeat(40), "reg", 1u32)),
        Says("too many nodes"),
    ),
    case(
        "shorter-than-it-says",
        Bytes(|blob| {
            let size = u32::try_from(blob.len() / 2).unwrap_or_default();
            blob[4..8].copy_from_slice(&size.to_be_bytes());
        }),
        Says("it ends too early"),
    ),
    case(
        "names-cut-off",
        Bytes(|blob| {
            let end = blob.len() - 32;
            blob[end..].fill(0xff);
        }),
        Says("not a name"),
    ),
    case(
        "a-token-of-none",
        Bytes(|blob| {
            let end = blob.windows(4).rposition(|word| word == [0, 0, 0, 9]).unwrap_or_default();
            blob[end - 4..end].fill(0x55);
        }),
        Says("an unknown token"),
    ),
];

pub fn steps() -> Vec<Step> {
    vec![Step::new("run/broken-device-trees", |bench| all(bench).into())]
}

/// The value of a `reg` of two cells each.
fn reg(regions: &[(u64, u64)]) -> Vec<u8> {
    regions
        .iter()
        .flat_map(|(start, size)| [start.to_be_bytes(), size.to_be_bytes()])
        .flatten()
        .collect()
}

fn memory(tree: &mut Tree, start: u64, size: u64) -> Result<()> {
    let path = format!("/memory@{start:x}");
    tree.set(&path, "device_type", "memory")?;
    tree.set(&path, "reg", reg(&[(start, size)]))
}

/// The same memory in several nodes, and in several entries.
fn overlapping(tree: &mut Tree) -> Result<()> {
    memory(tree, 0x4800_0000, 0x1000_0000)?;
    memory(tree, 0x4fff_f000, 0x2000)?;
    tree.set(RAM, "reg", reg(&[(0x4000_0000, MEMORY), (0x4000_0000, MEMORY), (0x4100_0000, 1)]))
}

fn cpus(tree: &mut Tree, count: u32) -> Result<()> {
    for cpu in 2..count {
        let path = format!("/cpus/cpu@{cpu:x}");
        tree.set(&path, "device_type", "cpu")?;
        tree.set(&path, "enable-method", "psci")?;
        tree.set(&path, "reg", cpu)?;
    }
    Ok(())
}

fn nodes(tree: &mut Tree, count: u32) -> Result<()> {
    (0..count).try_for_each(|node| tree.set(&format!("/g{}/n{node}", node / 200), "a", 1u32))
}

/// Clocks and interrupt parents that lead to themselves and to each other, and handles that two have.
fn circle(tree: &mut Tree) -> Result<()> {
    tree.set("/a", "phandle", 0x101u32)?;
    tree.set("/a", "interrupt-parent", 0x102u32)?;
    tree.set("/a", "clocks", 0x102u32)?;
    tree.set("/b", "phandle", 0x102u32)?;
    tree.set("/b", "interrupt-parent", 0x101u32)?;
    tree.set("/b", "clocks", 0x101u32)?;
    tree.set("/c", "phandle", 0x102u32)?;
    tree.set("/a/d", "interrupts", vec![0u8; 12])?;
    tree.set(UART, "phandle", 0x103u32)?;
    tree.set(UART, "clocks", 0x103u32)
}

fn hardware() -> Hardware {
    let cpu = "cortex-a72".to_owned();
    Hardware { board: Board::QemuVirt, gic: 3, cpu, smp: 2, memory: MEMORY }
}

fn machine<'a>(
    hardware: &'a Hardware,
    files: &'a [(PathBuf, u64)],
    extra: &'a [String],
) -> Machine<'a> {
    Machine {
        hardware,
        el2: true,
        icount: false,
        boot: Boot::Loaded(files),
        serial: 0,
        other_serial: None,
        virtio: Virtio::default(),
        extra,
    }
}

/// What all of the machines have.
struct Files {
    image: PathBuf,
    loader: PathBuf,
    bundle: PathBuf,
    /// Its tree, as it should be.
    tree: Tree,
}

impl Files {
    fn new(bench: &Bench, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            paths::write_if_changed(&path, bytes).map(|()| path)
        };
        let guest = Guest { name: "hello".to_owned(), payload: "hello", more: "memory = \"16M\"" };
        let bundle = Bundle::load(&manifest(bench, "trees.toml", &[guest])?)?;
        let size = u64::try_from(bundle.bytes().len())?;
        let dump = folder.join("board.dtb");
        let hardware = hardware();
        let extra = ["-machine".to_owned(), format!("dumpdtb={}", qemu::value(&dump))];
        let mut dumping =
            qemu::command(&qemu::need(Board::QemuVirt)?, &machine(&hardware, &[], &extra));
        command::succeed(&mut dumping, SECONDS)?;
        let mut tree = Tree::read(&std::fs::read(dump).context("QEMU left no device tree")?)?;
        tree.set("/chosen", "linux,initrd-start", BUNDLE)?;
        tree.set("/chosen", "linux,initrd-end", BUNDLE + size)?;
        Ok(Self {
            image: build::hypervisor()?.raw,
            loader: put("loader.bin", &loader())?,
            bundle: put("bundle", bundle.bytes())?,
            tree,
        })
    }
}

/// `x0` is where the tree is, and the Image is entered.
fn loader() -> Vec<u8> {
    /// `MOVZ` of a register, of bits 16 to 31.
    fn movz(register: u32, value: u64) -> u32 {
        0xd2a0_0000 | u32::try_from(value >> 16).unwrap_or_default() << 5 | register
    }
    /// `BR X1`.
    const BR: u32 = 0xd61f_0020;
    [movz(0, TREE), movz(1, IMAGE), BR].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn all(bench: &Bench) -> Result<()> {
    bench.machine()?;
    let folder = paths::work().join("trees");
    let files = Files::new(bench, &folder)?;
    let one = |case: &Case| {
        let ended = end(case, &files, &folder);
        ended.err().map(|why| format!("{}: {why:#}", case.name))
    };
    let share = CASES.len().div_ceil(AT_ONCE);
    let wrong: Vec<_> = thread::scope(|scope| {
        let some = |cases: &'static [Case]| scope.spawn(|| cases.iter().filter_map(one).collect());
        let threads: Vec<_> = CASES.chunks(share).map(some).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, Vec<String>>| thread.join();
        threads.into_iter().flat_map(|thread| ended(thread).unwrap_or_default()).collect()
    });
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

fn end(case: &Case, files: &Files, folder: &Path) -> Result<()> {
    let mut tree = files.tree.clone();
    let blob = match case.change {
        Nodes(change) => {
            change(&mut tree)?;
            tree.bytes()
        }
        Bytes(change) => {
            let mut blob = tree.bytes();
            change(&mut blob);
            blob.resize(blob.len() + 0x1000, 0xff);
            blob
        }
    };
    let path = folder.join(format!("{}.dtb", case.name));
    paths::write_if_changed(&path, &blob)?;
    let loaded = [(files.image.clone(), IMAGE), (path, TREE), (files.bundle.clone(), BUNDLE)];
    let loader = format!(
        "loader,file={},addr={LOADER:#x},cpu-num=0,force-raw=on",
        qemu::value(&files.loader)
    );
    let extra = ["-device".to_owned(), loader];
    let hardware = hardware();
    let machine = machine(&hardware, &loaded, &extra);
    let command = qemu::command(&qemu::need(Board::QemuVirt)?, &machine);
    let output = folder.join(format!("{}.log", case.name));
    let ended = run(command, &output, matches!(case.end, Stays(_)))?;
    let output = std::fs::read_to_string(&output)?;
    ensure!(ended, "the machine does not end\n{output}");
    for bad in ["panicked", "exception at EL2"] {
        ensure!(!output.contains(bad), "{bad}\n{output}");
    }
    let boots = output.contains("GUEST-TEST: ok") && output.contains("plinth: power off (ok)");
    let failed = output.contains(FAILED);
    let (well, wanted) = match case.end {
        Boots => (boots, ""),
        BootsAnd(what) => (boots, what),
        Says(what) | Stays(what) => (failed, what),
        Silent => (output.is_empty(), ""),
    };
    if !well || !output.contains(wanted) {
        bail!("not what is wanted, `{wanted}`\n{output}");
    }
    Ok(())
}

/// Whether the machine ends by itself; where it `stays` on, it has its last line said.
fn run(mut command: Command, output: &Path, stays: bool) -> Result<bool> {
    let file = File::create(output).context("cannot keep output")?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().context("cannot start QEMU")?;
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    let said = || std::fs::read_to_string(output).is_ok_and(|text| text.contains(FAILED));
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(!stays);
        }
        if stays && said() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(stays)
}
