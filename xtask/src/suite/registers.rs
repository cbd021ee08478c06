//! What the payload `sysregs` finds on Plinth is what `registers/gicv2.txt` and `gicv3.txt` say, which were reviewed: a register that
//! the CPU gives away because nobody has it trap is one too many there, and one whose value is the CPU's own has another.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::paths;

/// How a register's line begins.
const PREFIX: &str = "register: ";

/// Compares with what was reviewed.
pub fn compare(gic: &str, text: &str) -> Result<()> {
    let known = if gic == "2" {
        include_str!("registers/gicv2.txt")
    } else {
        include_str!("registers/gicv3.txt")
    };
    let known: BTreeSet<_> = known.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
    let lines = text.lines().filter_map(|line| line.trim_end().strip_prefix(PREFIX));
    let lines: Vec<_> = lines.collect();
    let found: BTreeSet<_> = lines.iter().copied().collect();
    let path = paths::work().join(format!("registers-gicv{gic}.txt"));
    paths::write_if_changed(&path, (lines.join("\n") + "\n").as_bytes())?;
    let more: Vec<_> = found.difference(&known).collect();
    let less: Vec<_> = known.difference(&found).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "registers are not as reviewed: too many {more:#?}, missing {less:#?}; all of them are in {}",
        path.display()
    );
    Ok(())
}
