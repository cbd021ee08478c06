//! `cargo xtask bench`: what Plinth costs, in instructions.
//!
//! Under QEMU's `-icount shift=0` each instruction takes a nanosecond, and the machine's counter is set to count
//! nanoseconds: so a guest that reads its virtual counter counts instructions, its own and the hypervisor's, and the
//! same run gives the same figures to the digit.
//!
//! | module | what it is |
//! |---|---|
//! | [`rows`] | what is measured, and what each figure is to be at most |
//! | [`measure`] | the machines and guests that give the figures |
//! | [`scale`] | many guests: time among them, memory for each, their coming and going |
//! | [`virtio`] | disks and networks, beside QEMU's own devices |
//! | [`baseline`] | the figures that the project holds itself to |
//! | [`table`] | how they are shown |
//! | [`xen`] | the same guest under Debian's Xen |
//! | [`count`], [`counted`] | instructions by exception level, counted by a plugin of QEMU's from outside |
//! | [`mod@debian`], [`bare`] | Debian's boot with and without Plinth |
//! | [`on_board`] | the guests of [`virtio`] without Plinth |

mod bare;
pub mod baseline;
pub mod count;
pub mod counted;
pub mod debian;
mod elf;
pub mod measure;
mod on_board;
pub mod rows;
pub mod scale;
pub mod table;
pub mod virtio;
pub mod xen;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cli::{Against, BenchOptions};
use baseline::Baseline;
use measure::Figures;

/// The versions of the GIC that figures are for.
pub const GICS: [u8; 2] = [2, 3];

/// Measures and shows; an error when a figure has grown.
pub fn run(options: &BenchOptions) -> Result<ExitCode> {
    let kept = Baseline::read()?;
    if options.virtio {
        for gic in GICS {
            table::print(
                gic,
                &virtio::figures(&counted::Counter::new()?, gic)?,
                None,
                kept.of(gic),
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut grown = Vec::new();
    let mut measured = Baseline::default();
    for gic in GICS {
        let figures = measure::plinth(gic)?;
        let other = match options.against {
            Some(Against::Xen) => Some(measure::xen(gic)?),
            None => None,
        };
        table::print(gic, &figures, other.as_ref(), kept.of(gic));
        grown.extend(kept.grown(gic, &figures));
        measured.set(gic, figures);
    }
    if options.update_baseline {
        measured.write()?;
        println!("the baseline is now what was measured: {}", Baseline::path().display());
        return Ok(ExitCode::SUCCESS);
    }
    if !grown.is_empty() {
        bail!("{}", grown.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the figures of one version are no larger than the baseline's; what is, in words.
pub fn check(gic: u8) -> Result<Figures> {
    let figures = measure::plinth(gic)?;
    let grown = Baseline::read()?.grown(gic, &figures);
    if !grown.is_empty() {
        bail!("{}", grown.join("\n"));
    }
    Ok(figures)
}
