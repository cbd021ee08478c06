//! What Plinth adds to the boot of Debian's kernel: the instructions from its first one to those of its
//! init, on QEMU's board and as a guest on the same board.
//!
//! Both boot the same kernel and the same initramfs at the same addresses, with the same device tree and
//! random seeds: the tree is the one that Plinth gives its guest, read out of the guest's memory. Init is a
//! program of a few instructions: it executes a marker and powers off. Idle time is no instructions.

use std::time::Duration;

use anyhow::{Context, Result};
use plinth::manifest::MachineConfig;

use super::bare::{self, movz_movk};
use super::count::{ByClass, Counts, Moment};
use super::counted::{Counter, hardware};
use super::elf;
use crate::bundle::Bundle;
use crate::guest::Payload;
use crate::{debian, initramfs};

/// The marker that init executes.
const INIT: u8 = 0x70;
/// Where init is loaded; Linux maps nothing below it.
const INIT_BASE: u64 = 0x40_0000;

const GUEST_MEMORY: u64 = 256 << 20;
const MACHINE_MEMORY: u64 = 1 << 30;

/// Enough for a boot on a slow machine that does other things too.
const LIMIT: Duration = Duration::from_secs(600);

/// A boot on both machines.
pub struct Comparison {
    /// Straight on the board.
    pub bare: ByClass,
    /// On Plinth, its own instructions included.
    pub plinth: ByClass,
    /// All that was counted of the boot on Plinth.
    pub counts: Counts,
}

impl Comparison {
    /// How many instructions more it takes on Plinth, for each million.
    pub fn millionths_more(&self) -> u64 {
        let (plinth, bare) = (self.plinth.total(), self.bare.total());
        plinth.saturating_sub(bare).saturating_mul(1_000_000) / bare.max(1)
    }
}

/// Boots Debian's kernel on both machines, with a GIC of this version.
pub fn compare(counter: &Counter, gic: u8) -> Result<Comparison> {
    let guest = guest()?;
    let bundle = Bundle::pack(&MachineConfig::default(), std::slice::from_ref(&guest))?;
    let machine = hardware(gic, 1, MACHINE_MEMORY);
    let run = counter.plinth(&machine, &bundle, LIMIT).context("Debian on Plinth")?;
    let first = run.counts.first_guest.context("Debian never started on Plinth")?;
    let plinth = init(&run.counts, &run.console).context("Debian on Plinth")?.all - first.all;

    let tree = run.tree.context("the guest's device tree was not found in its memory")?;
    let image = bare::image(&guest, &tree)?;
    let bare = counter.bare(&hardware(gic, 1, GUEST_MEMORY), &image, &[], LIMIT);
    let bare = bare.context("Debian without Plinth")?;
    let mut bare = init(&bare.counts, &bare.console).context("Debian without Plinth")?.all;
    bare.el1 -= bare::STUB_INSTRUCTIONS;
    Ok(Comparison { bare, plinth, counts: run.counts })
}

/// When init executed its marker.
fn init(counts: &Counts, console: &str) -> Result<Moment> {
    counts.mark(INIT).with_context(|| format!("its init never ran\n{console}"))
}

/// Debian's kernel with an init that only says that it runs.
fn guest() -> Result<Payload> {
    let kernel = debian::guest()?.kernel;
    let kernel =
        std::fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    // A panic ends the run instead of waiting for its time limit.
    // Each byte that it prints is an exit, which says more of the console than of the boot.
    let cmdline = "console=ttyAMA0 panic=-1 quiet".to_owned();
    Ok(Payload {
        memory: GUEST_MEMORY,
        initrd: Some(initramfs::with_init(&init_program())),
        cmdline,
        ..Payload::new("debian".to_owned(), kernel)
    })
}

/// `hint #0x70`, then `reboot(2)` with what powers off (Linux, `include/uapi/linux/reboot.h`).
fn init_program() -> Vec<u8> {
    const MAGIC: u64 = 0xfee1_dead;
    const MAGIC2: u64 = 0x2812_1969;
    const POWER_OFF: u64 = 0x4321_fedc;
    const REBOOT: u64 = 142;
    let mut code = vec![0xd503_201f | u32::from(INIT) << 5];
    for (register, value) in [(0, MAGIC), (1, MAGIC2), (2, POWER_OFF), (8, REBOOT)] {
        code.extend(movz_movk(register, value));
    }
    code.push(0xd400_0001); // svc #0
    code.push(0x1400_0000); // b .
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    elf::write(INIT_BASE, &[(INIT_BASE, &bytes)])
}

#[cfg(test)]
mod tests {
    use super::{Comparison, init_program};
    use crate::bench::count::{ByClass, Counts};

    #[test]
    fn what_is_more_counts_the_hypervisor_and_what_the_guest_does_in_another_way() {
        let bare = ByClass { el0: 10, el1: 990, ..ByClass::default() };
        let plinth = ByClass { guest_el0: 10, guest_el1: 1000, el2: 40, ..ByClass::default() };
        let comparison = Comparison { bare, plinth, counts: Counts::default() };
        assert_eq!(comparison.millionths_more(), 50_000);
    }

    #[test]
    fn init_begins_with_its_marker() {
        let file = init_program();
        let code = crate::build::flatten(&file).expect("a good file");
        assert_eq!(code.first_chunk(), Some(&0xd503_2e1fu32.to_le_bytes()));
    }
}
