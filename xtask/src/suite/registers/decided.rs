//! What a guest finds of its writes agrees with what Plinth decides of those that trap, as reviewed in `golden.txt`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

/// The table of decisions.
const GOLDEN: &str = include_str!("../../../../src/vm/sysreg/trap/golden.txt");

/// Registers that QEMU's Cortex-A72 has not: no write of them comes to Plinth.
const LACKING: &[&str] = &[
    "EL1 s2_0_c1_c4_4", // DBGPRCR_EL1
    "EL1 s2_3_c0_c4_0", // DBGDTR_EL0
    "EL0 s2_3_c0_c4_0",
];

/// What is decided of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decided {
    /// It is UNDEFINED.
    Undefined,
    /// It has no effect.
    Ignored,
    /// It is done by Plinth.
    Done,
    /// It is done by the CPU, or by Plinth as the CPU would while it watches whether caches are on.
    Watched,
}

impl Decided {
    /// Whether it is Plinth's answer in all cases.
    pub fn here(self) -> bool {
        self != Self::Watched
    }
}

/// What is decided for a guest with this GIC, by level and register as the payload names them.
pub fn table(gic: &str) -> BTreeMap<String, Decided> {
    let rows =
        |begin: &'static str| GOLDEN.lines().filter_map(move |line| row(line.strip_prefix(begin)?));
    let mut table: BTreeMap<_, _> = rows("").collect();
    if gic == "2" {
        // In the order of a patch, but what is gone is what was there.
        for (register, _) in rows("- ") {
            table.remove(&register);
        }
        table.extend(rows("+ "));
    }
    table
}

/// `level register [name] read write`, of a register that `MSR` can name.
fn row(line: &str) -> Option<(String, Decided)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (level, register, write) = match words[..] {
        [level @ ("EL0" | "EL1"), register, .., _, write] if words.len() >= 4 => {
            (level, register, write)
        }
        _ => return None,
    };
    if register.starts_with("S1_") {
        return None;
    }
    let decided = match write {
        "-" => Decided::Undefined,
        "Ignore" => Decided::Ignored,
        _ if write.starts_with("VmControl(") => Decided::Watched,
        _ => Decided::Done,
    };
    Some((format!("{level} {}", register.to_lowercase()), decided))
}

/// Each write that traps has the outcome that was decided for it, and those of debug registers all trap.
pub fn agree(decided: &BTreeMap<String, Decided>, lines: &[&str]) -> Result<()> {
    let found = lines.iter().filter_map(|line| {
        let (level, rest) = line.split_once(' ')?;
        let (register, outcome) = rest.split_once(' ')?;
        Some((format!("{level} {register}"), outcome))
    });
    let found: BTreeMap<_, _> = found.collect();
    let debug = found.keys().filter(|register| register.contains(" s2_"));
    let all: BTreeSet<_> = decided.keys().chain(debug).collect();
    let otherwise = all.into_iter().filter_map(|register| {
        let is = found.get(register).copied();
        let want = decided.get(register).copied().unwrap_or(Decided::Undefined);
        let agrees = match (want, is) {
            (_, None) => want == Decided::Undefined || LACKING.contains(&register.as_str()),
            (Decided::Undefined, Some(_)) | (_, Some("trapped")) => false,
            (Decided::Ignored, Some(outcome)) => matches!(outcome, "changes 0x0" | "unread"),
            (Decided::Done, Some(outcome)) => !matches!(outcome, "changes 0x0" | "shows 0x0"),
            (Decided::Watched, Some(_)) => true,
        };
        (!agrees).then(|| format!("{register}: {want:?}, found {}", is.unwrap_or("UNDEFINED")))
    });
    let otherwise: Vec<_> = otherwise.collect();
    ensure!(otherwise.is_empty(), "writes have not the effect that was decided: {otherwise:#?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_for_each_gic() {
        let [two, three] = ["2", "3"].map(table);
        // As many rows as there are, but for three of op0 1.
        let first = |line: &&str| line.starts_with("EL");
        assert_eq!(three.len(), GOLDEN.lines().filter(first).count() - 3);
        assert_eq!(two.len(), three.len() - 4);
        let at = |register: &str| (two.get(register).copied(), three.get(register).copied());
        let both = |decided| (Some(decided), Some(decided));
        assert_eq!(at("EL1 s3_0_c12_c12_5"), (None, Some(Decided::Ignored)));
        assert_eq!(at("EL1 s3_0_c0_c4_0"), both(Decided::Undefined));
        assert_eq!(at("EL1 s3_0_c0_c3_3"), both(Decided::Undefined));
        assert_eq!(at("EL0 s3_3_c14_c2_1"), both(Decided::Done));
        assert_eq!(at("EL1 s3_0_c2_c0_0"), both(Decided::Watched));
    }

    #[test]
    fn what_was_not_decided_is_noticed() {
        let decided: BTreeMap<_, _> = [
            ("EL1 s3_0_c0_c4_0", Decided::Undefined),
            ("EL1 s3_0_c1_c0_1", Decided::Ignored),
            ("EL1 s2_0_c0_c2_2", Decided::Done),
        ]
        .map(|(register, is)| (register.to_owned(), is))
        .into();
        let (ignored, done) = ("EL1 s3_0_c1_c0_1 changes 0x0", "EL1 s2_0_c0_c2_2 changes 0x1");
        assert!(agree(&decided, &[ignored, done]).is_ok());
        for wrong in [
            &[ignored, done, "EL1 s3_0_c0_c4_0 changes 0x0"][..],
            &[ignored, done, "EL1 s2_0_c0_c9_4 changes 0x1"],
            &[ignored],
            &["EL1 s3_0_c1_c0_1 changes 0x40", done],
            &[ignored, "EL1 s2_0_c0_c2_2 changes 0x0"],
            &[ignored, "EL1 s2_0_c0_c2_2 trapped"],
        ] {
            assert!(agree(&decided, wrong).is_err(), "{wrong:?}");
        }
    }
}
