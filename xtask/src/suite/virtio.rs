//! Steps about virtio devices with drivers of our own on the other side, which try what no real one does.

use anyhow::Result;

use super::many::{Guest, all_pass, manifest_with};
use super::{Bench, Step};

pub fn steps() -> Vec<Step> {
    let step = |gic: &'static str| {
        Step::new(format!("virtio/two-with-devices-gicv{gic}"), move |bench| two(bench, gic).into())
    };
    vec![step("2"), step("3")]
}

/// Two guests break their devices, and begin them anew, each while the other does: on one switch, each with a disk.
fn two(bench: &Bench, gic: &str) -> Result<()> {
    let more = "memory = \"64M\"\nnets = [\"lan\"]\ndisks = [{ size = \"1M\" }]";
    let guests = ["ada", "bob"].map(|name| Guest { name: name.into(), payload: "virtio", more });
    let manifest = manifest_with(bench, "virtio.toml", "[[network]]\nname = \"lan\"\n\n", &guests)?;
    all_pass(bench, &manifest.to_string_lossy(), &["--gic", gic, "--smp", "2"], &guests)
}
