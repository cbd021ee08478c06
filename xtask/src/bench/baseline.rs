//! The figures that the project holds itself to: a file that is committed, and changed on purpose alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::measure::{Figures, Spread};
use super::rows::ROWS;
use crate::paths;

/// How much more than the baseline a figure may be, in percent of it.
const TOLERANCE: u64 = 3;

/// The figures for each version of the GIC.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Baseline {
    #[serde(flatten)]
    machines: BTreeMap<String, Figures>,
}

fn key(gic: u8) -> String {
    format!("gicv{gic}")
}

impl Baseline {
    /// Where it is kept.
    pub fn path() -> PathBuf {
        paths::root().join("xtask/baseline.toml")
    }

    /// The one that is committed; empty where there is none.
    pub fn read() -> Result<Self> {
        let path = Self::path();
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(why) => Err(why).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes it the one that is kept.
    pub fn write(&self) -> Result<()> {
        let mut text = String::from(
            "# What `cargo xtask bench` measured: instructions, the least, the middle one and the most.\n\
             # `cargo xtask bench --update-baseline` writes this file; a figure that grows by more than 3 % fails.\n",
        );
        for (machine, figures) in &self.machines {
            text += &format!("\n[{machine}]\n");
            for (name, Spread { min, median, max }) in figures {
                text += &format!("{name} = {{ min = {min}, median = {median}, max = {max} }}\n");
            }
        }
        paths::write_if_changed(&Self::path(), text.as_bytes())
    }

    /// The figures for a GIC of this version.
    pub fn of(&self, gic: u8) -> Option<&Figures> {
        self.machines.get(&key(gic))
    }

    /// Puts them there.
    pub fn set(&mut self, gic: u8, figures: Figures) {
        self.machines.insert(key(gic), figures);
    }

    /// The figures that are larger than these, or are missing, a line each.
    pub fn grown(&self, gic: u8, measured: &Figures) -> Vec<String> {
        let held = |name: &str| ROWS.iter().any(|row| row.name == name && !row.told);
        let kept = self.of(gic).into_iter().flatten().filter(|(name, _)| held(name));
        kept.filter_map(|(name, kept)| {
            let machine = key(gic);
            let Some(now) = measured.get(name) else {
                return Some(format!(
                    "{machine}, {name}: was {}, is not measured any more",
                    kept.median
                ));
            };
            // Not the most: once in many runs the serial line's interrupt, which comes when the PC has taken what
            // was sent, falls among the samples.
            let figures = [("least", kept.min, now.min), ("median", kept.median, now.median)];
            let worse = figures.into_iter().find(|(_, kept, now)| is_more(*kept, *now))?;
            let (which, kept, now) = worse;
            Some(format!("{machine}, {name}: the {which} was {kept} instructions, is {now}"))
        })
        .collect()
    }
}

/// Whether a figure has grown by more than is tolerated.
fn is_more(kept: u64, now: u64) -> bool {
    now.saturating_mul(100) > kept.saturating_mul(100 + TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::{Baseline, is_more};
    use crate::bench::measure::{Figures, Spread};

    fn figures(median: u64, max: u64) -> Figures {
        [("eoi".to_owned(), Spread { min: 90, median, max })].into()
    }

    #[test]
    fn three_percent_more_is_tolerated_and_no_more_than_that() {
        assert!(!is_more(100, 103) && is_more(100, 104) && is_more(10, 11) && !is_more(10, 9));
    }

    #[test]
    fn what_has_grown_is_named_with_both_figures() {
        let mut kept = Baseline::default();
        kept.set(2, figures(100, 200));
        assert!(kept.grown(2, &figures(100, 206)).is_empty());
        assert!(kept.grown(3, &figures(999, 999)).is_empty());
        let told = kept.grown(2, &figures(110, 300));
        assert_eq!(told, ["gicv2, eoi: the median was 100 instructions, is 110"]);
        assert!(kept.grown(2, &figures(100, 300)).is_empty());
    }

    #[test]
    fn a_row_that_is_gone_is_told() {
        let mut kept = Baseline::default();
        kept.set(3, figures(100, 200));
        assert_eq!(
            kept.grown(3, &Figures::new()),
            ["gicv3, eoi: was 100, is not measured any more"]
        );
    }
}
