//! Steps that begin with a firmware at EL3 which has workarounds against speculation and counts their calls
//! (`guests/src/firmware/secure.rs`): the hypervisor calls what is offered whenever a guest is left, tells its guests so, and
//! they keep their registers. QEMU does not speculate, so that a call, or a loop, is made is all that can be seen.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::session::Session;
use super::{Bench, Step};
use crate::board::{Board, Hardware};
use crate::bundle::Bundle;
use crate::qemu::{self, Boot, Machine, Virtio};
use crate::rpi4::Tree;
use crate::{build, paths};

const SECONDS: u64 = 120;

/// Where the firmware finds the Image and its device tree, and where the bundle is.
const IMAGE: u64 = 0x4020_0000;
const TREE: u64 = 0x4700_0000;
const BUNDLE: u64 = 0x4800_0000;
/// Where in the firmware it says what is offered, and whether there are asynchronous aborts.
const OFFERED: usize = 8;
const ABORTS: usize = 16;

/// Payloads that see what happens to their registers and their interrupts.
const GUESTS: [&str; 6] = ["hello", "timers", "gic", "fp", "wfi", "badpsci"];

/// A firmware, and what comes of it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    gic: &'static str,
    /// Bit n - 1: it has workaround n.
    offered: u8,
    /// What guests are answered for workarounds 1 to 3, and how much each exit adds to the firmware's counter.
    told: &'static str,
    /// What the log says.
    log: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "none",
        gic: "2",
        offered: 0,
        told: "-1 -1 -1 0",
        log: "Spectre-v2, Spectre-BHB, store bypass NOT MITIGATED: \
              the firmware has no SMCCC_ARCH_WORKAROUND_1, _2, _3",
    },
    Case {
        name: "1",
        gic: "2",
        offered: 0b001,
        told: "0 -1 -1 1",
        log: "Spectre-v2, Spectre-BHB by firmware, store bypass NOT MITIGATED",
    },
    Case {
        name: "1-2-3",
        gic: "2",
        offered: 0b111,
        told: "0 -2 0 65536",
        log: "Spectre-v2, Spectre-BHB by firmware, store bypass off",
    },
    Case {
        name: "1-2-3",
        gic: "3",
        offered: 0b111,
        told: "0 -2 0 65536",
        log: "Spectre-v2, Spectre-BHB by firmware, store bypass off",
    },
];

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for case in CASES {
        steps.push(Step::new(
            format!("run/workarounds-{}-gicv{}", case.name, case.gic),
            move |bench| called(bench, &case).into(),
        ));
    }
    for gic in ["2", "3"] {
        steps.push(Step::new(format!("run/workarounds-guests-gicv{gic}"), move |bench| {
            guests(bench, gic).into()
        }));
        steps.push(Step::new(format!("run/workarounds-branches-gicv{gic}"), move |bench| {
            branches(bench, gic).into()
        }));
    }
    steps
}

/// One guest looks at what each way out of it costs of the firmware's calls.
fn called(bench: &Bench, case: &Case) -> Result<()> {
    let cmdline = format!("cmdline = {:?}\n", case.told);
    let manifest = manifest(bench, &["workarounds"], &cmdline)?;
    let text = run(bench, &manifest, case.gic, case.offered)?;
    passed(&text, 1)?;
    if !text.contains(case.log) {
        bail!("the log does not say `{}`\n\n{text}", case.log);
    }
    if !text.contains("Cortex-A72 r0p3: errata 1319367 ") {
        bail!("the log does not say which errata are seen to\n\n{text}");
    }
    // Once for each CPU, when there is something to call.
    let calls = if case.offered & 0b010 == 0 { 0 } else { 2 };
    let wanted = format!("FIRMWARE: calls of workaround 2: {calls}");
    if !text.contains(&wanted) {
        bail!("not `{wanted}`\n\n{text}");
    }
    Ok(())
}

/// Guests go on as ever though the firmware leaves rubbish in registers at each exit.
fn guests(bench: &Bench, gic: &str) -> Result<()> {
    let manifest = manifest(bench, &GUESTS, "")?;
    passed(&run(bench, &manifest, gic, 0b111)?, GUESTS.len())
}

/// The same on a CPU where branches are taken at each exit.
fn branches(bench: &Bench, gic: &str) -> Result<()> {
    bench.machine()?;
    let manifest = manifest(bench, &GUESTS, "")?;
    let path = manifest.to_string_lossy();
    let args = [&path, "--cpu", "neoverse-n1", "--gic", gic, "--smp", "2"];
    let text = ended(Session::start(bench, &args, SECONDS)?)?;
    passed(&text, GUESTS.len())?;
    if !text.contains("Neoverse-N1 r4p1: Spectre-v2 not affected, Spectre-BHB by 24 branches") {
        bail!("the log does not say that branches are taken\n\n{text}");
    }
    Ok(())
}

fn manifest(bench: &Bench, guests: &[&str], more: &str) -> Result<PathBuf> {
    let payloads = bench.payloads()?;
    let mut manifest = String::new();
    for name in guests {
        let kernel = payloads.join(name);
        manifest += &format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {:?}\nmemory = \"64M\"\nvcpus = 2\n{more}\n",
            kernel.to_string_lossy()
        );
    }
    let path = paths::work().join("workarounds.toml");
    paths::write_if_changed(&path, manifest.as_bytes())?;
    Ok(path)
}

/// The machine ends when its guests do.
fn run(bench: &Bench, manifest: &Path, gic: &str, offered: u8) -> Result<String> {
    bench.machine()?;
    let image = build::hypervisor()?.raw;
    let begin =
        begin(bench, manifest, gic, &Firmware { offered, aborts: false, arguments: "" }, image)?;
    let path = manifest.to_string_lossy();
    let args = [&*path, "--gic", gic, "--smp", "2", "--"];
    let args: Vec<_> = args.into_iter().chain(begin.iter().map(String::as_str)).collect();
    ended(Session::start(bench, &args, SECONDS)?)
}

/// What the firmware does.
pub struct Firmware {
    /// Bit n - 1: it has workaround n.
    pub offered: u8,
    /// It hands asynchronous aborts down.
    pub aborts: bool,
    /// The hypervisor's boot arguments.
    pub arguments: &'static str,
}

/// QEMU's options, so that a machine with two CPUs begins with the firmware, which has the hypervisor's `image`, its tree and its
/// bundle in memory.
pub fn begin(
    bench: &Bench,
    manifest: &Path,
    gic: &str,
    how: &Firmware,
    image: PathBuf,
) -> Result<Vec<String>> {
    let folder = paths::work();
    let mut firmware = build::flatten(&std::fs::read(bench.payloads()?.join("secure"))?)?;
    for (at, value) in [(OFFERED, how.offered), (ABORTS, how.aborts.into())] {
        *firmware.get_mut(at).context("the firmware is empty")? = value;
    }
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        paths::write_if_changed(&path, bytes).map(|()| path)
    };
    let firmware = put("secure.bin", &firmware)?;
    let bundle = Bundle::load(manifest)?;
    let path = folder.join("secure-board.dtb");
    let tree = tree(gic, &path, how.arguments, bundle.bytes().len())?;
    let files = [
        (image, IMAGE),
        (put("secure.dtb", &tree)?, TREE),
        (put("secure.bundle", bundle.bytes())?, BUNDLE),
    ];
    let mut options = vec!["-machine".to_owned(), "secure=on".to_owned()];
    options.extend(["-bios".to_owned(), firmware.to_string_lossy().into_owned()]);
    options.extend(files.iter().flat_map(|(path, address)| qemu::loader(path, *address)));
    Ok(options)
}

/// The device tree that QEMU gives to what it boots itself, with the bundle.
fn tree(gic: &str, path: &Path, arguments: &str, bundle: usize) -> Result<Vec<u8>> {
    let hardware = Hardware {
        board: Board::QemuVirt,
        gic: gic.parse()?,
        cpu: "cortex-a72".to_owned(),
        smp: 2,
        memory: 2 << 30,
    };
    let extra = ["-machine".to_owned(), format!("secure=on,dumpdtb={}", qemu::value(path))];
    let machine = Machine {
        hardware: &hardware,
        el2: true,
        icount: false,
        boot: Boot::Loaded(&[]),
        serial: 0,
        other_serial: None,
        virtio: Virtio::default(),
        extra: &extra,
    };
    let said = qemu::command(&qemu::need(Board::QemuVirt)?, &machine).output()?;
    if !said.status.success() {
        bail!("QEMU gave no device tree: {}", String::from_utf8_lossy(&said.stderr));
    }
    let mut tree = Tree::read(&std::fs::read(path).context("QEMU left no device tree")?)?;
    let end = BUNDLE + u64::try_from(bundle)?;
    // It has none where the machine begins at EL3: that is the firmware's.
    tree.set("/psci", "compatible", "arm,psci-1.0")?;
    tree.set("/psci", "method", "smc")?;
    for cpu in 0..hardware.smp {
        tree.set(&format!("/cpus/cpu@{cpu}"), "enable-method", "psci")?;
    }
    tree.set("/chosen", "bootargs", arguments)?;
    tree.set("/chosen", "linux,initrd-start", u32::try_from(BUNDLE)?)?;
    tree.set("/chosen", "linux,initrd-end", u32::try_from(end)?)?;
    Ok(tree.bytes())
}

fn ended(mut session: Session) -> Result<String> {
    session.end_with(0, SECONDS + 10)?;
    Ok(session.text())
}

fn passed(text: &str, guests: usize) -> Result<()> {
    let passed = text.matches("GUEST-TEST: ok").count();
    if passed != guests {
        bail!("{passed} of {guests} guests passed\n\n{text}");
    }
    Ok(())
}
