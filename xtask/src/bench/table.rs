//! How figures are shown.

use super::measure::{Figures, Spread};
use super::rows::ROWS;

/// Prints the figures of one machine: beside the targets, the baseline, and another hypervisor's.
pub fn print(gic: u8, figures: &Figures, other: Option<&Figures>, kept: Option<&Figures>) {
    println!(
        "\nGICv{gic}, instructions{:38}min  median     max     target   before{}",
        "",
        heading(other)
    );
    for row in ROWS {
        let Some(Spread { min, median, max }) = figures.get(row.name) else { continue };
        let target = row.target(gic, figures).map_or_else(String::new, |target| {
            format!("{target}{}", if *median > target { "!" } else { " " })
        });
        let before = kept.and_then(|kept| kept.get(row.name));
        let before = before.map_or_else(String::new, |spread| spread.median.to_string());
        let theirs = other.map_or_else(String::new, |other| compared(other.get(row.name), *median));
        println!("{:53}{min:>8}{median:>8}{max:>8}{target:>11}{before:>9}{theirs}", row.title);
    }
}

fn heading(other: Option<&Figures>) -> &'static str {
    if other.is_some() { "     Xen   ratio" } else { "" }
}

/// The other's median, and how many times ours it is.
#[expect(clippy::cast_precision_loss, reason = "figures have fewer than 53 bits")]
fn compared(theirs: Option<&Spread>, ours: u64) -> String {
    match theirs {
        Some(theirs) => {
            let ratio = theirs.median as f64 / ours.max(1) as f64;
            format!("{:>8}{ratio:>8.2}", theirs.median)
        }
        None => format!("{:>8}{:>8}", "-", "-"),
    }
}
