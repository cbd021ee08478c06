//! What the payload `sysregs` finds on Plinth is what `registers/*.txt` say, which were reviewed: a register that the CPU gives away
//! because nobody has it trap is one too many there, one whose value is the CPU's own has another, and so has one of which a guest can
//! change more bits. What is found of writes is also what the table of decisions says (`decided`).

mod decided;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::paths;
use decided::Decided;

/// Compares with what was reviewed, and writes with what was decided.
pub fn compare(gic: &str, text: &str) -> Result<()> {
    let (reads, writes) = if gic == "2" {
        (include_str!("registers/gicv2.txt"), include_str!("registers/writes-gicv2.txt"))
    } else {
        (include_str!("registers/gicv3.txt"), include_str!("registers/writes-gicv3.txt"))
    };
    let told = |prefix| text.lines().filter_map(move |line| line.trim_end().strip_prefix(prefix));
    let found: Vec<_> = told("register: ").map(str::to_owned).collect();
    let reads = reviewed(&format!("registers-gicv{gic}.txt"), reads, &found);
    let decided = decided::table(gic);
    let found: Vec<_> = told("write: ").collect();
    let same_everywhere: Vec<_> = found.iter().map(|line| outcome(line, &decided)).collect();
    let writes = reviewed(&format!("writes-gicv{gic}.txt"), writes, &same_everywhere);
    let wrong = [reads, writes, decided::agree(&decided, &found)];
    let wrong: Vec<_> =
        wrong.into_iter().filter_map(Result::err).map(|why| why.to_string()).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The lines are those of the list, after its heading; all of them are written to `file`.
fn reviewed(file: &str, list: &str, lines: &[String]) -> Result<()> {
    let known: BTreeSet<_> = list.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
    let found: BTreeSet<_> = lines.iter().map(String::as_str).collect();
    let path = paths::work().join(file);
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

/// Which bits of a register change is told where Plinth keeps it. The CPU's own are as another version of QEMU models them: of those, only
/// whether there are any.
fn outcome(line: &str, decided: &BTreeMap<String, Decided>) -> String {
    match line.split_once(" changes ") {
        Some((register, _)) if decided.get(register).is_some_and(|is| is.here()) => line.into(),
        Some((register, "0x0")) => format!("{register} ignores"),
        Some((register, _)) => format!("{register} changes"),
        None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outcome_that_differs_is_noticed() {
        let list = "heading\n\nEL1 a changes 0x3\nEL1 b unread\n";
        let check = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
            reviewed("test-of-registers.txt", list, &lines).is_ok()
        };
        assert!(check(&["EL1 a changes 0x3", "EL1 b unread"]));
        assert!(!check(&["EL1 a changes 0x7", "EL1 b unread"]));
        assert!(!check(&["EL1 a changes 0x3"]));
        assert!(!check(&["EL1 a changes 0x3", "EL1 b unread", "EL0 b unread"]));
    }

    #[test]
    fn bits_are_told_of_what_plinth_keeps() {
        let decided = decided::table("3");
        for (line, told) in [
            ("EL1 s2_0_c0_c2_2 changes 0xb001", "EL1 s2_0_c0_c2_2 changes 0xb001"),
            ("EL1 s3_0_c13_c0_4 changes 0xf0", "EL1 s3_0_c13_c0_4 changes"),
            ("EL1 s3_0_c2_c0_2 changes 0xf0", "EL1 s3_0_c2_c0_2 changes"),
            ("EL1 s3_0_c5_c1_0 changes 0x0", "EL1 s3_0_c5_c1_0 ignores"),
        ] {
            assert_eq!(outcome(line, &decided), told);
        }
    }
}
