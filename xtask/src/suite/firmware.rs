//! Steps that enter the hypervisor through a firmware that leaves rubbish in whatever is unknown at
//! reset (`guests/src/firmware/dirty.rs`): its guests must not notice.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::session::Session;
use super::{Bench, Step};
use crate::{build, paths};

const SECONDS: u64 = 120;

/// Payloads that see what is left over: in timers, interrupts, debug and system registers.
const GUESTS: [&str; 5] = ["hello", "timers", "gic", "context", "wfi"];

/// Where the firmware enters what lies behind it.
const NEXT: usize = 2 << 20;

/// Memory behind the image that its header asks for is full of this.
const RUBBISH: u8 = 0xa5;

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for cpu in ["cortex-a72", "max"] {
        for gic in ["2", "3"] {
            steps.push(Step::new(format!("run/dirty-firmware-{cpu}-gicv{gic}"), move |bench| {
                boots(bench, cpu, gic).into()
            }));
        }
    }
    steps
}

/// The firmware with the hypervisor behind it, as one arm64 Image.
fn image(bench: &Bench) -> Result<PathBuf> {
    let hypervisor = std::fs::read(build::hypervisor()?.raw)?;
    let mut image = build::flatten(&std::fs::read(bench.payloads()?.join("dirty"))?)?;
    if image.len() > NEXT {
        bail!("the firmware has {} bytes, with room for {NEXT}", image.len());
    }
    let size = hypervisor.get(16..24).and_then(|bytes| bytes.try_into().ok());
    let size = size.map(u64::from_le_bytes).context("the hypervisor has no header")?;
    image.resize(NEXT, RUBBISH);
    image.extend(hypervisor);
    image.resize(NEXT + usize::try_from(size)?, RUBBISH);
    let whole = u64::try_from(image.len())?.to_le_bytes();
    image.get_mut(16..24).context("the firmware has no header")?.copy_from_slice(&whole);
    let path = paths::work().join("dirty.img");
    paths::write_if_changed(&path, &image)?;
    Ok(path)
}

fn boots(bench: &Bench, cpu: &str, gic: &str) -> Result<()> {
    bench.machine()?;
    let image = image(bench)?;
    let payloads = bench.payloads()?;
    let mut manifest = String::new();
    for name in GUESTS {
        let kernel = payloads.join(name);
        manifest += &format!(
            "[[vm]]\nname = \"{name}\"\nkernel = {:?}\nmemory = \"64M\"\nvcpus = 2\n\n",
            kernel.to_string_lossy()
        );
    }
    let path = paths::work().join("dirty.toml");
    paths::write_if_changed(&path, manifest.as_bytes())?;
    let (manifest, image) = (path.to_string_lossy(), image.to_string_lossy());
    let args = [&manifest, "--cpu", cpu, "--gic", gic, "--smp", "2", "--", "-kernel", &image];
    let mut session = Session::start(bench, &args, SECONDS)?;
    session.end_with(0, SECONDS + 10)?;
    let text = session.text();
    let passed = text.matches("GUEST-TEST: ok").count();
    if passed != GUESTS.len() {
        bail!("{passed} of {} guests passed\n\n{text}", GUESTS.len());
    }
    Ok(())
}
